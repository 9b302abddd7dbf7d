package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/exitwhen"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// serveFlags are the flags of "nbdserver serve" as they were written.
type serveFlags struct {
	listen       []string
	http         string
	control      string
	exitWhen     map[string]*[]string // by flag
	poll         int
	grace        durationOrInfinite
	timeout      durationOrInfinite
	policy       string
	report, once string
	pidfile      string
	printURI     bool
	logFormat    string
	logLevel     string
	tls          tlsFlags
	limits       limitFlags
	run          runFlags

	addresses []address // those of listen, from check on
}

// exitConditions are the flags that take a condition's argument, which is named
// in the text.
var exitConditions = []struct {
	flag, usage string
	make        func(string, exitwhen.Options) (exitwhen.Condition, error)
}{
	{"exit-when-file-created", "drain and exit when the file `PATH` exists", exitwhen.FileCreated},
	{"exit-when-file-deleted", "drain and exit when the file `PATH` doesn't exist", exitwhen.FileDeleted},
	{"exit-when-pipe-closed", "drain and exit when all writers of the inherited pipe or FIFO `FD|PATH` have closed it", exitwhen.PipeClosed},
	{"exit-when-process-exits", "drain and exit when the process `PID` has exited, or with name=NAME when there was one of that name and none is left", exitwhen.ProcessExits},
	{"exit-when-script", "drain and exit when `CMD` exits with code 88; run by /bin/sh, or without a shell if it is {\"command\":[\"/x\",\"-y\"],\"timeoutSeconds\":30}", exitwhen.Script},
	{"exit-when-idle", "drain and exit when no client has been connected for that `DURATION`", exitwhen.Idle},
	{lastClientLeaves, "drain and exit when clients have come and none has been connected for the `GRACE`, which is written behind a =", exitwhen.LastClientLeaves},
	{"exit-when-deadline", "drain and exit at that `DURATION|TIME`: so long after the start, or as 2026-01-31T18:30:00Z", exitwhen.Deadline},
}

// lastClientLeaves is the one flag of them whose argument may be left out.
const lastClientLeaves = "exit-when-last-client-leaves"

// maxPoll is the longest time between two looks, in seconds; more isn't a
// time.Duration.
const maxPoll = int(math.MaxInt64 / time.Second)

// defaultListen is where clients connect if nothing else is said.
var defaultListen = address{"tcp", "127.0.0.1:10809"}

func serveCommand() *cobra.Command {
	f := serveFlags{
		exitWhen: map[string]*[]string{},
		grace:    durationOrInfinite(nbdserver.Infinite),
		timeout:  durationOrInfinite(nbdserver.Infinite),
	}
	cmd := &cobra.Command{
		Use:   "serve [flags] VOLUME...",
		Short: "Serve volumes until an exit condition becomes true",
		Long: `Serve volumes over NBD until an exit condition becomes true or SIGTERM comes;
then drain and exit. A second SIGTERM closes everything at once.

VOLUME is [NAME=]SOURCE[,root=DIR][,access=read-only|read-write|copy-on-write]
[,scratch=DIR][,scratch-size=SIZE][,format=raw|qcow2][,tls=require]
  SOURCE  the path of a file or block device, or memory:SIZE
  NAME    what clients ask for; default: the base name of the file. The first
          volume is also the default export ""
  root    the directory that SOURCE is relative to, and never leads out of
  access  default: read-only; for memory read-write. copy-on-write: what clients
          write is dropped at the end, the file or device stays as it is; over
          memory, it is on disk
  scratch the directory for what they write; default: $TMPDIR, or /var/tmp
  scratch-size  the most of it, default: no limit
  format  what the file or device has; default: raw, never guessed
  tls     with --tls on: clients don't see the volume before they use TLS

Exit codes: 0 drained, nothing cut short; 1 usage or start-up error; 3 clients
were cut off; 4 a volume could not be flushed and closed. A condition that is
true at start: exit 0 before listening.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := refuseEmpty(cmd.Flags()); err != nil {
				return err
			}
			return serve(f, args)
		},
	}
	f.register(cmd.Flags())
	cmd.SetUsageTemplate(strings.Replace(cmd.UsageTemplate(), ".LocalFlags.FlagUsages", ".LocalFlags.FlagUsagesWrapped 120", 1))
	return cmd
}

// register adds the flags in the order in which one needs them: where to listen,
// when to end and how, who may connect, and what to see of it.
func (f *serveFlags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringArrayVar(&f.listen, "listen", nil, "`ADDRESS` where clients connect, tcp://HOST:PORT or unix:///PATH; repeatable; port 0 picks one (default "+defaultListen.String()+"; with --run a private unix socket)")
	fs.BoolVar(&f.printURI, "print-uri", false, "print the URI of each volume on standard output when the server listens")
	fs.StringVar(&f.pidfile, "pidfile", "", "`FILE` for the process id, written when the server listens")
	fs.BoolVar(&f.run.stdio, "stdio", false, "serve one client on standard input and output, as nbdkit -s; drain and exit when it leaves")
	fs.StringVar(&f.run.command, "run", "", "run `CMD` by /bin/sh with $uri, $port, $unixsocket and $exportname in its environment; drain when it ends and exit with its exit status")
	fs.BoolVar(&f.run.exitWithParent, "exit-with-parent", false, "drain and exit when the parent process has exited")
	for _, c := range exitConditions {
		f.exitWhen[c.flag] = fs.StringArray(c.flag, nil, c.usage+"; repeatable")
	}
	fs.Lookup(lastClientLeaves).NoOptDefVal = "0s"
	fs.IntVar(&f.poll, "exit-when-poll", int(exitwhen.DefaultPoll/time.Second), "`SECONDS` between two looks at what can't notify: scripts, files on network file systems")
	fs.Var(&f.grace, "drain-grace", "how long a drain serves connected clients as ever")
	fs.Var(&f.timeout, "drain-timeout", "when a drain cuts off the clients that are left")
	fs.StringVar(&f.policy, "drain-policy", "refuse", "`POLICY` between the two: refuse requests (ESHUTDOWN), or disconnect clients that have none in flight")
	fs.StringVar(&f.report, "report", "", "`FILE` for the final report as JSON")
	fs.StringVar(&f.once, "once", "", "`FILE` for a second copy of the report; if it exists at start, it is repeated in --report and nothing is served")
	f.tls.register(fs)
	f.limits.register(fs)
	fs.StringVar(&f.http, "http", "", "`HOST:PORT` for metrics, probes and status, all read-only (default off)")
	fs.StringVar(&f.control, "control", "", "`ADDRESS` for what changes something, unix:///PATH, see nbdserver ctl (default off)")
	fs.StringVar(&f.logFormat, "log-format", "console", "`FORMAT` of the log on standard error: json or console")
	fs.StringVar(&f.logLevel, "log-level", "info", "`LEVEL` from which on something is logged: debug, info, warn or error")
}

// serve checks everything that was asked for, then runs the server to its end.
// Errors name the flag or the volume that they are about.
func serve(f serveFlags, args []string) error {
	log, err := newLogger(f.logFormat, f.logLevel)
	if err != nil {
		return err
	}
	defer log.Sync() //nolint:errcheck // standard error can't always be synced
	if f.run.stdio {
		if err := silenceStdio(); err != nil {
			return err
		}
	}
	reload := newReloader(log)
	volumes, err := parseVolumes(args)
	if err != nil {
		return err
	}
	if f.run.sockets, err = inheritedSockets(); err != nil {
		return err
	}
	policy, err := f.check(volumes)
	if err != nil {
		return err
	}
	if done, err := f.repeatReport(log); done || err != nil {
		return err
	}
	clients := &exitwhen.Clients{}
	conditions, err := f.conditions(clients, log)
	if err != nil {
		return err
	}
	defer func() {
		if err := conditions.Close(); err != nil {
			log.Warn("exit conditions", zap.Error(err))
		}
	}()
	signals := notifySignals()
	if f.report != "" {
		if err := report.Clear(f.report); err != nil {
			return fmt.Errorf("--report: %w", err)
		}
	}
	if done, err := f.alreadyTrue(conditions, signals, log); done || err != nil {
		return err
	}
	// Nobody connects to a server that finds out later that it can't serve: the
	// sockets come last.
	exports, err := openVolumes(volumes)
	if err != nil {
		return err
	}
	serving := false
	defer func() {
		if !serving { // else the server closes them
			closeVolumes(exports)
		}
	}()
	srv := &nbdserver.Server{Exports: exports, DrainPolicy: policy, ConnState: follow(clients), Log: log, Version: versionString()}
	if err := f.tls.apply(srv); err != nil {
		return err
	}
	if err := f.limits.apply(srv); err != nil {
		return err
	}
	reload.add("sizes", srv.Reload)
	reload.add("certificates", func(context.Context) error { return f.tls.reload() })
	reload.add("limits", func(context.Context) error { return f.limits.file.reload() })
	listeners, err := f.openListeners()
	if err != nil {
		return err
	}
	defer listeners.close()
	if err := f.announce(listeners, exports); err != nil {
		return err
	}
	command := &captive{}
	if f.run.command != "" {
		l := listeners.nbd[0].Addr()
		if command, err = startCaptive(f.run.command, l, exports[0].Name, f.tls.uri(l, exports[0])); err != nil {
			f.removePidfile()
			return err
		}
	}
	serving = true
	return command.finish(f.serve(srv, listeners, command, conditions, signals, reload, log), signals, log)
}

// check refuses what is wrong with the command line by itself. Nothing has been
// opened, removed or decided until it is right.
func (f *serveFlags) check(volumes []volume) (*nbdserver.DrainPolicy, error) {
	if err := f.run.check(f.listen, f.printURI); err != nil {
		return nil, err
	}
	for _, s := range f.listen {
		a, err := parseAddress(s)
		if err != nil {
			return nil, fmt.Errorf("--listen: %w", err)
		}
		f.addresses = append(f.addresses, a)
	}
	if f.http != "" {
		if err := checkHostPort(f.http); err != nil {
			return nil, fmt.Errorf("--http: %w", err)
		}
	}
	if f.control != "" {
		if _, err := parseControl(f.control); err != nil {
			return nil, fmt.Errorf("--control %s: %w", f.control, err)
		}
	}
	if f.poll < 1 || f.poll > maxPoll {
		return nil, fmt.Errorf("--exit-when-poll: %d is no number of seconds: write one from 1 to %d", f.poll, maxPoll)
	}
	for _, p := range []struct {
		flag, path string
		regular    bool // it is read, or written while the server starts
	}{{"pidfile", f.pidfile, true}, {"once", f.once, true}, {"report", f.report, false}} {
		if err := checkPlace(p.path, p.regular); err != nil {
			return nil, fmt.Errorf("--%s: %w", p.flag, err)
		}
	}
	if err := f.tls.check(volumes); err != nil {
		return nil, err
	}
	if _, err := f.limits.limits(); err != nil {
		return nil, err
	}
	return f.drainPolicy()
}

// checkPlace refuses a path at which no file could be written later. An empty
// path is none.
func checkPlace(path string, regular bool) error {
	if path == "" {
		return nil
	}
	switch st, err := os.Stat(path); {
	case errors.Is(err, os.ErrNotExist):
		dir := filepath.Dir(path)
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("no file can be made in %s: %w", dir, err)
		}
		return nil
	case err != nil:
		return err
	case st.IsDir():
		return fmt.Errorf("%s is a directory: name a file in it", path)
	case regular && !st.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file: name another one", path)
	}
	return nil
}

func (f serveFlags) drainPolicy() (*nbdserver.DrainPolicy, error) {
	p := &nbdserver.DrainPolicy{Grace: time.Duration(f.grace), Timeout: time.Duration(f.timeout)}
	switch f.policy {
	case "refuse":
		p.Policy = nbdserver.Refuse
	case "disconnect":
		p.Policy = nbdserver.Disconnect
	default:
		return nil, fmt.Errorf("--drain-policy: %q is neither refuse nor disconnect", f.policy)
	}
	return p, nil
}

// conditions builds the exit conditions; on an error none stays open.
func (f serveFlags) conditions(clients *exitwhen.Clients, log *zap.Logger) (*exitwhen.Set, error) {
	o := exitwhen.Options{Poll: time.Duration(f.poll) * time.Second, Clients: clients, Log: log}
	var all []exitwhen.Condition
	for _, c := range exitConditions {
		for _, arg := range *f.exitWhen[c.flag] {
			condition, err := c.make(arg, o)
			if err != nil {
				exitwhen.NewSet(log, all...).Close()
				return nil, fmt.Errorf("--%s %s: %w", c.flag, arg, err)
			}
			all = append(all, condition)
		}
	}
	if f.run.exitWithParent {
		condition, err := exitwhen.ParentExits(o)
		if err != nil {
			exitwhen.NewSet(log, all...).Close()
			return nil, fmt.Errorf("--exit-with-parent: %w", err)
		}
		all = append(all, condition)
	}
	return exitwhen.NewSet(log, all...), nil
}

// newLogger makes the logger that writes to standard error.
func newLogger(format, level string) (*zap.Logger, error) {
	var l zapcore.Level
	if err := l.UnmarshalText([]byte(level)); err != nil || l > zapcore.ErrorLevel {
		return nil, fmt.Errorf("--log-level: %q is none of debug, info, warn, error", level)
	}
	c := zap.NewProductionConfig()
	switch format {
	case "json":
	case "console":
		c = zap.NewDevelopmentConfig()
		c.Development = false
	default:
		return nil, fmt.Errorf("--log-format: %q is neither json nor console", format)
	}
	c.Level = zap.NewAtomicLevelAt(l)
	c.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	c.DisableStacktrace = true
	c.DisableCaller = true
	c.Sampling = nil
	return c.Build()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/exitwhen"
	"github.com/nbdexport/nbdexport/nbdserver/report"
)

// openedListeners are all sockets of the process.
type openedListeners struct {
	nbd           []net.Listener
	http, control net.Listener    // nil if off
	stdioLeft     <-chan struct{} // gets a value when the client of --stdio has left
	private       string          // directory of a socket of our own, or empty
}

func (o *openedListeners) close() {
	for _, l := range append(o.nbd, o.http, o.control) {
		if l != nil {
			l.Close()
		}
	}
	if o.private != "" {
		os.RemoveAll(o.private)
	}
}

// openListeners opens all sockets or none.
func (f serveFlags) openListeners() (_ *openedListeners, err error) {
	o := &openedListeners{}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	listen := f.addresses
	switch {
	case f.run.sockets != nil:
		if o.nbd, err = listenInherited(f.run.sockets); err != nil {
			return nil, err
		}
	case f.run.stdio:
		l, err := listenStdio()
		if err != nil {
			return nil, err
		}
		o.nbd, o.stdioLeft = []net.Listener{l}, l.left
	case len(listen) == 0 && f.run.command != "":
		var a address
		if o.private, a, err = privateAddress(); err != nil {
			return nil, err
		}
		listen = []address{a}
	case len(listen) == 0:
		listen = []address{defaultListen}
	}
	for _, a := range listen {
		l, err := a.listen()
		if err != nil {
			return nil, fmt.Errorf("--listen %s: %w%s", a, err, hint(err))
		}
		o.nbd = append(o.nbd, l)
	}
	if f.http != "" {
		if o.http, err = net.Listen("tcp", f.http); err != nil {
			return nil, fmt.Errorf("--http %s: %w%s", f.http, err, hint(err))
		}
	}
	if f.control != "" {
		if o.control, err = listenControl(f.control); err != nil {
			return nil, fmt.Errorf("--control %s: %w%s", f.control, err, hint(err))
		}
	}
	return o, nil
}

// hint says what to do about the most common errors.
func hint(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return ": stop whoever listens there, or choose another one"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return ": name an address of this machine"
	}
	return ""
}

// parseControl reads the address of a control socket.
func parseControl(s string) (address, error) {
	a, err := parseAddress(s)
	if err == nil && a.network != "unix" {
		err = errors.New("what changes something is not served on the network: write unix:///PATH")
	}
	return a, err
}

// listenControl opens the control socket so that its owner alone can use it,
// from the first moment on: the umask rules what bind creates.
func listenControl(s string) (net.Listener, error) {
	a, err := parseControl(s)
	if err != nil {
		return nil, err
	}
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return a.listen()
}

// announce tells who waits for it that the sockets are open.
func (f serveFlags) announce(o *openedListeners, exports []*nbdserver.Export) error {
	if f.pidfile != "" {
		if err := os.WriteFile(f.pidfile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			return fmt.Errorf("--pidfile: %w", err)
		}
	}
	if !f.printURI {
		return nil
	}
	for _, l := range o.nbd {
		for _, e := range exports {
			if _, err := fmt.Println(f.tls.uri(l.Addr(), e)); err != nil {
				f.removePidfile()
				return fmt.Errorf("--print-uri: standard output: %w", err)
			}
		}
	}
	return nil
}

// removePidfile removes what announce has written.
func (f serveFlags) removePidfile() {
	if f.pidfile != "" {
		os.Remove(f.pidfile)
	}
}

// signalled are the signals that end the process, the first one gently.
type signalled struct {
	c    chan os.Signal
	some bool
}

// notifySignals delivers SIGTERM and SIGINT. SIGPIPE is taken too, and lost: it
// would end the process when the reader of its log goes away. Ignored it would
// be for the scripts as well.
func notifySignals() *signalled {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	s := &signalled{c: make(chan os.Signal, 2)}
	signal.Notify(s.c, syscall.SIGTERM, syscall.SIGINT)
	return s
}

// second counts a signal that was received, and tells whether one came before.
func (s *signalled) second() bool {
	some := s.some
	s.some = true
	return some
}

func signalCondition(s os.Signal) string {
	if s == syscall.SIGINT {
		return "signal=SIGINT"
	}
	return "signal=SIGTERM"
}

// serve serves until the server has ended, whatever ends it, and leaves the
// report behind.
func (f serveFlags) serve(srv *nbdserver.Server, o *openedListeners, command *captive, conditions *exitwhen.Set, signals *signalled, reload *reloader, log *zap.Logger) error {
	ctx, cancel := context.WithCancel(context.Background())
	fired, watched := watch(ctx, conditions)
	defer func() {
		cancel()
		<-watched
	}()
	go reload.follow(ctx)
	stopHTTP, stopControl := func() {}, func() {}
	if o.http != nil {
		stopHTTP = serveHTTP(o.http, readOnlyPages(srv, &f.tls), log)
	}
	if o.control != nil {
		stopControl = serveHTTP(o.control, controlPages(srv, reload), log)
	}
	for _, l := range o.nbd {
		log.Info("listening", zap.Stringer("address", l.Addr()))
		go func() {
			if err := srv.Serve(l); !errors.Is(err, nbdserver.ErrServerClosed) {
				log.Error("not listening any more", zap.Stringer("address", l.Addr()), zap.Error(err))
			}
		}()
	}
	for {
		select {
		case e := <-fired:
			srv.BeginDrain(e.Condition)
		case <-o.stdioLeft:
			srv.BeginDrain("stdio=closed")
		case <-command.ended:
			srv.BeginDrain("run=exited")
		case s := <-signals.c:
			// The first one begins a drain, or joins one that something else
			// began: after a preStop hook the kubelet sends SIGTERM too.
			if !signals.second() {
				srv.BeginDrain(signalCondition(s))
				continue
			}
			log.Warn("a second signal: closing at once", zap.Stringer("signal", s))
			srv.Close()
		case <-srv.Done():
			// Whoever reads the report may start the next server at once, with
			// the same sockets and pidfile.
			stopHTTP()
			stopControl()
			f.removePidfile()
			return f.leaveReport(srv.Report(), log)
		}
	}
}

// watch delivers the first condition that happens, if one does before ctx ends.
// It closes the second channel when it is over.
func watch(ctx context.Context, conditions *exitwhen.Set) (<-chan exitwhen.Event, <-chan struct{}) {
	fired, over := make(chan exitwhen.Event, 1), make(chan struct{})
	go func() {
		defer close(over)
		if e, err := conditions.Watch(ctx); err == nil {
			fired <- e
		}
	}()
	return fired, over
}

// alreadyTrue ends the process before it listens if a condition is true at
// start, or if a signal comes while that is found out.
func (f serveFlags) alreadyTrue(conditions *exitwhen.Set, signals *signalled, log *zap.Logger) (bool, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type result struct {
		event exitwhen.Event
		yes   bool
	}
	checked := make(chan result, 1)
	go func() {
		e, yes, _ := conditions.Check(ctx) // the error is ctx's
		checked <- result{e, yes}
	}()
	var over exitwhen.Event
	select {
	case r := <-checked:
		if !r.yes {
			return false, nil
		}
		over = r.event
	case s := <-signals.c:
		cancel()
		select { // conditions are closed next, which nobody may look at then
		case <-checked:
		case <-time.After(time.Second): // it hangs
		}
		over = exitwhen.Event{Condition: signalCondition(s), At: time.Now()}
	}
	log.Info("not serving: it is over already", zap.String("condition", over.Condition))
	return true, f.leaveReport(report.Report{
		Condition: over.Condition, StartedAt: over.At.UTC(), FinishedAt: time.Now().UTC(),
	}, log)
}

// repeatReport ends the process if its predecessor has left a final report: a
// container that is restarted after an exit code that isn't 0 must not serve
// again what has ended.
func (f serveFlags) repeatReport(log *zap.Logger) (bool, error) {
	if f.once == "" {
		return false, nil
	}
	b, err := os.ReadFile(f.once)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("--once: %w", err)
	}
	r, err := report.Parse(b)
	if err != nil {
		return false, fmt.Errorf("--once: %s is %w: remove it to serve again", f.once, err)
	}
	log.Info("not serving: it has ended already", zap.Any("report", r))
	if f.report != "" {
		if err := writeReport(r, f.report); err != nil {
			return false, fmt.Errorf("--report: %w", err)
		}
	}
	return true, nil
}

// leaveReport writes the final report and turns it into the exit code. The copy
// that outlives a restart comes first: whoever reads the other one may act on
// it at once.
func (f serveFlags) leaveReport(r report.Report, log *zap.Logger) error {
	for _, path := range []string{f.once, f.report} {
		if path == "" {
			continue
		}
		if err := writeReport(r, path); err != nil {
			log.Error("the final report could not be written", zap.String("file", path), zap.Error(err))
		}
	}
	if r.ExitCode == report.ExitClean {
		return nil
	}
	return exitCode(r.ExitCode)
}

// reportTimeout bounds the writing of a report: neither a file system that hangs
// nor a FIFO that nobody reads keeps the process from its end.
const reportTimeout = 2 * time.Second

func writeReport(r report.Report, path string) error {
	written := make(chan error, 1)
	go func() { written <- r.WriteFile(path) }()
	select {
	case err := <-written:
		return err
	case <-time.After(reportTimeout):
		return fmt.Errorf("%s takes nothing for %v: check the storage below it, or who reads it", path, reportTimeout)
	}
}

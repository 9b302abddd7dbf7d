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
	listen := f.listen
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
		var addr string
		if o.private, addr, err = privateAddress(); err != nil {
			return nil, err
		}
		listen = []string{addr}
	case len(listen) == 0:
		listen = []string{defaultListen}
	}
	for _, s := range listen {
		a, err := parseAddress(s)
		if err != nil {
			return nil, fmt.Errorf("--listen: %w", err)
		}
		l, err := a.listen()
		if err != nil {
			return nil, fmt.Errorf("--listen %s: %w%s", s, err, hint(err))
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

// hint says what to do about the most common error.
func hint(err error) string {
	if errors.Is(err, syscall.EADDRINUSE) {
		return ": stop whoever listens there, or choose another one"
	}
	return ""
}

// listenControl opens the control socket so that its owner alone can use it,
// from the first moment on: the umask rules what bind creates.
func listenControl(s string) (net.Listener, error) {
	a, err := parseAddress(s)
	if err != nil {
		return nil, err
	}
	if a.network != "unix" {
		return nil, errors.New("what changes something is not served on the network: write unix:///PATH")
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
			fmt.Println(f.tls.uri(l.Addr(), e))
		}
	}
	return nil
}

// notifySignals delivers SIGTERM and SIGINT. SIGPIPE is taken too, and lost: it
// would end the process when the reader of its log goes away. Ignored it would
// be for the scripts as well.
func notifySignals() <-chan os.Signal {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	return c
}

func signalCondition(s os.Signal) string {
	if s == syscall.SIGINT {
		return "signal=SIGINT"
	}
	return "signal=SIGTERM"
}

// serve serves until the server has ended, whatever ends it, and leaves the
// report behind.
func (f serveFlags) serve(srv *nbdserver.Server, o *openedListeners, command *captive, conditions *exitwhen.Set, signals <-chan os.Signal, reload *reloader, log *zap.Logger) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if o.http != nil {
		defer serveHTTP(o.http, readOnlyPages(srv, &f.tls), log)()
	}
	if o.control != nil {
		defer serveHTTP(o.control, controlPages(srv, reload), log)()
	}
	for _, l := range o.nbd {
		log.Info("listening", zap.Stringer("address", l.Addr()))
		go func() {
			if err := srv.Serve(l); !errors.Is(err, nbdserver.ErrServerClosed) {
				log.Error("not listening any more", zap.Stringer("address", l.Addr()), zap.Error(err))
			}
		}()
	}
	fired := watch(ctx, conditions)
	signaled := false
	for {
		select {
		case e := <-fired:
			srv.BeginDrain(e.Condition)
		case <-o.stdioLeft:
			srv.BeginDrain("stdio=closed")
		case <-command.ended:
			srv.BeginDrain("run=exited")
		case s := <-signals:
			// The first one begins a drain, or joins one that something else
			// began: after a preStop hook the kubelet sends SIGTERM too.
			if !signaled {
				signaled = true
				srv.BeginDrain(signalCondition(s))
				continue
			}
			log.Warn("a second signal: closing at once", zap.Stringer("signal", s))
			srv.Close()
		case <-reload.hangups:
			go reload.reload(ctx) //nolint:errcheck // it is in the log
		case <-srv.Done():
			if f.pidfile != "" {
				os.Remove(f.pidfile)
			}
			return f.leaveReport(srv.Report(), log)
		}
	}
}

// alreadyTrue ends the process before it listens if a condition is true at
// start, or if a signal comes while that is found out.
func (f serveFlags) alreadyTrue(conditions *exitwhen.Set, signals <-chan os.Signal, log *zap.Logger) (bool, error) {
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
	case s := <-signals:
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
		if err := r.WriteFile(f.report); err != nil {
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
		if err := r.WriteFile(path); err != nil {
			log.Error("the final report could not be written", zap.String("file", path), zap.Error(err))
		}
	}
	if r.ExitCode == report.ExitClean {
		return nil
	}
	return exitCode(r.ExitCode)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// reloadTimeout bounds one reload, so that "nbdserver ctl" and its like get an
// answer before they give up.
const reloadTimeout = 8 * time.Second

// reloader reads anew what may change while the server runs: on SIGHUP, and for
// POST /reload on the control socket.
type reloader struct {
	log     *zap.Logger
	hangups chan os.Signal
	running chan struct{} // holds the one reload at a time
	steps   []reloadStep
}

type reloadStep struct {
	what string
	do   func(context.Context) error
}

// newReloader begins to take SIGHUP, which would end the process otherwise.
func newReloader(log *zap.Logger) *reloader {
	r := &reloader{log: log, hangups: make(chan os.Signal, 1), running: make(chan struct{}, 1)}
	signal.Notify(r.hangups, syscall.SIGHUP)
	return r
}

// add adds a step before the first reload. It keeps what there is when it fails,
// and returns why.
func (r *reloader) add(what string, do func(context.Context) error) {
	r.steps = append(r.steps, reloadStep{what, do})
}

// reload does every step, also when one fails, and returns their errors.
func (r *reloader) reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	select {
	case r.running <- struct{}{}:
		defer func() { <-r.running }()
	case <-ctx.Done():
		return errors.New("another reload isn't done yet: try again")
	}
	var errs []error
	for _, s := range r.steps {
		if err := s.do(ctx); err != nil {
			r.log.Error("reload", zap.String("what", s.what), zap.Error(err))
			errs = append(errs, fmt.Errorf("%s: %w", s.what, err))
		}
	}
	if len(errs) == 0 {
		r.log.Info("reloaded")
	}
	return errors.Join(errs...)
}

// follow reloads on SIGHUP until ctx ends. Those that come while a reload is
// under way are one more, however many they are.
func (r *reloader) follow(ctx context.Context) {
	for {
		select {
		case <-r.hangups:
			_ = r.reload(ctx) // what went wrong is in the log
		case <-ctx.Done():
			return
		}
	}
}

// page answers POST /reload when the reload is done.
func (r *reloader) page(w http.ResponseWriter, req *http.Request) {
	// What has begun is done, whether or not somebody waits for the answer.
	if err := r.reload(context.WithoutCancel(req.Context())); err != nil {
		http.Error(w, oneLine(err), http.StatusInternalServerError)
	}
}

package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestAwaitAPIServer: what answers is there, even if it refuses; what doesn't, or is
// only half there, is asked again.
func TestAwaitAPIServer(t *testing.T) {
	refused := errors.New("connection refused")
	for _, c := range []struct {
		name    string
		answers []error // the last one for ever
		end     time.Duration
		took    time.Duration
		err     string
	}{
		{"at once", []error{nil}, time.Hour, 0, ""},
		{"no right", []error{apierrors.NewForbidden(schema.GroupResource{}, "", nil)}, time.Hour, 0, ""},
		{"in a while", []error{refused, apierrors.NewInternalError(refused), apierrors.NewServiceUnavailable("starting"), nil}, time.Hour, 3 * askAgain, ""},
		{"never", []error{refused}, time.Minute, time.Minute, "told to end before the API server answered: connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.end)
				defer cancel()
				began, asked := time.Now(), 0
				err := awaitAPIServer(ctx, logr.Discard(), func(context.Context) error {
					asked++
					return c.answers[min(asked, len(c.answers))-1]
				})
				if took := time.Since(began); took != c.took {
					t.Errorf("it took %v, not %v", took, c.took)
				}
				if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
			})
		})
	}
}

// TestAwaitHangs: a question that nobody answers is given up.
func TestAwaitHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, asked := time.Now(), 0
		err := awaitAPIServer(t.Context(), logr.Discard(), func(ctx context.Context) error {
			if asked++; asked > 1 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if took := time.Since(began); err != nil || took != askTimeout+askAgain {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// TestAlive: while it waits it is alive and not ready, and then the address is free.
func TestAlive(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := alive(address, func() error { return nil }); err == nil || !strings.Contains(err.Error(), "--health-probe-bind-address "+address) {
		t.Errorf("with an address that is taken: %v", err)
	}
	l.Close()
	ended := errors.New("ended")
	for range 2 {
		err = alive(address, func() error {
			for path, want := range map[string]int{"/healthz": http.StatusOK, "/readyz": http.StatusNotFound} {
				if r, err := http.Get("http://" + address + path); err != nil || r.StatusCode != want {
					t.Errorf("%s: %v, %v", path, r, err)
				}
			}
			return ended
		})
		if !errors.Is(err, ended) {
			t.Error(err)
		}
	}
	if err := alive("0", func() error { return ended }); !errors.Is(err, ended) {
		t.Error(err)
	}
}

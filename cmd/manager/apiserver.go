package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

const (
	// askTimeout is how long one question to the API server may take.
	askTimeout = 5 * time.Second
	// askAgain is how long after an answer that was none it is asked again.
	askAgain = time.Second
)

// asker makes the smallest question that there is to the API server.
func asker(config *rest.Config) (func(context.Context) error, error) {
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		return client.RESTClient().Get().AbsPath("/version").Do(ctx).Error()
	}, nil
}

// awaitAPIServer waits until the API server answers, be it with a refusal. A manager
// that ended because there is none would be started again later and later by the
// kubelet, and do nothing for minutes after the API server is back: just then there
// may be much to do.
func awaitAPIServer(ctx context.Context, log logr.Logger, ask func(context.Context) error) error {
	for first := true; ; first = false {
		one, cancel := context.WithTimeout(ctx, askTimeout)
		err := ask(one)
		cancel()
		if answered(err) {
			return nil
		}
		if first {
			log.Info("waiting for the API server", "error", err.Error())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("told to end before the API server answered: %w", err)
		case <-time.After(askAgain):
		}
	}
}

// alive answers liveness probes, and no others, for as long as it takes to wait: the
// kubelet must not take that for a hang. The address is that of the manager's own
// probes, or 0 for none.
func alive(address string, wait func() error) error {
	if address == "" || address == "0" {
		return wait()
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--health-probe-bind-address %s: %w", address, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: askTimeout}
	go srv.Serve(l)   //nolint:errcheck // it ends with Close
	defer l.Close()   // which is srv's only once it serves
	defer srv.Close() //nolint:errcheck // there is nothing to flush
	return wait()
}

// answered tells whether a request came to an API server that works.
func answered(err error) bool {
	if err == nil {
		return true
	}
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Code < http.StatusInternalServerError
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver"
)

// readOnlyPages answers what only reads: it may be reached by anybody who
// reaches the pod.
func readOnlyPages(srv *nbdserver.Server) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(srv.Collector(), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if p := srv.Phase(); p != nbdserver.Serving {
			http.Error(w, "not accepting connections: "+p.String(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /status", statusPage(srv))
	return mux
}

// controlPages answers what changes something: it is served on a socket that
// only its owner can open.
func controlPages(srv *nbdserver.Server, reload *reloader) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", statusPage(srv))
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, _ *http.Request) {
		srv.BeginDrain("control=drain")
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("POST /reload", reload.page)
	return mux
}

func statusPage(srv *nbdserver.Server) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		// The client may be gone; there is nobody else to tell.
		_ = e.Encode(srv.Status())
	}
}

// lastAnswers is how long the end of the process waits for answers that are
// under way, such as that to the very request that began the drain.
const lastAnswers = time.Second

// serveHTTP serves h on l until stop is called. The timeouts keep a client that
// stalls from holding a connection for ever.
func serveHTTP(l net.Listener, h http.Handler, log *zap.Logger) (stop func()) {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          zap.NewStdLog(log.Named("http")),
	}
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			log.Error("http", zap.Error(err))
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastAnswers)
		defer cancel()
		// Who isn't done by then is cut off by the end of the process.
		_ = s.Shutdown(ctx)
	}
}

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
func readOnlyPages(srv *nbdserver.Server, more ...prometheus.Collector) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(srv.Collector(), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reg.MustRegister(more...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		plain(w)
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if p := srv.Phase(); p != nbdserver.Serving {
			http.Error(w, "not accepting connections: "+p.String(), http.StatusServiceUnavailable)
			return
		}
		plain(w)
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /status", statusPage(func() nbdserver.Status {
		st := srv.Status()
		// Who is connected to what concerns whoever runs the server: he has the
		// control socket. No probe and no dashboard needs it.
		for i := range st.Clients {
			st.Clients[i].Peer = ""
		}
		return st
	}))
	return uncached(mux)
}

// controlPages answers what changes something: it is served on a socket that
// only its owner can open.
func controlPages(srv *nbdserver.Server, reload *reloader) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", statusPage(srv.Status))
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, _ *http.Request) {
		srv.BeginDrain("control=drain")
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("POST /reload", reload.page)
	mux.HandleFunc("POST /pause", pausePage(srv))
	mux.HandleFunc("POST /resume", resumePage(srv))
	return uncached(mux)
}

// uncached says of each answer that it holds for this moment only, and is what
// it says it is.
func uncached(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, r)
	})
}

func plain(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/plain; charset=utf-8") }

func statusPage(status func() nbdserver.Status) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		// The client may be gone; there is nobody else to tell.
		_ = e.Encode(status())
	}
}

// lastAnswers is how long the end of the process waits for answers that are
// under way, such as that to the very request that began the drain.
const lastAnswers = time.Second

// serveHTTP serves h on l until stop is called. The timeouts keep a client that
// stalls from holding a connection for ever, and the other bounds what all of them
// can take.
func serveHTTP(l net.Listener, h http.Handler, log *zap.Logger) (stop func()) {
	conns := httpConns{last: map[net.Conn]uint64{}}
	s := &http.Server{
		Handler:           h,
		ConnState:         conns.note,
		MaxHeaderBytes:    16 << 10,
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

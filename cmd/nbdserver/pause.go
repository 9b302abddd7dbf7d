package main

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver"
)

const (
	// defaultPause is how long a pause lasts if nobody resumes.
	defaultPause = time.Minute
	// answerTime is how long "nbdserver ctl" waits for an answer that comes at
	// once, and beyond the time that a pause may take.
	answerTime = 10 * time.Second
)

// pausePage answers POST /pause?timeout=SECONDS when the pause is complete, or
// won't be. If nobody waits for the answer any more, it won't be.
func pausePage(srv *nbdserver.Server) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		atMost := defaultPause
		if s := r.URL.Query().Get("timeout"); s != "" {
			seconds, err := strconv.ParseFloat(s, 64)
			if err != nil || !(seconds > 0 && seconds <= nbdserver.MaxPause.Seconds()) {
				http.Error(w, fmt.Sprintf("timeout: %q is no time for a pause: write seconds, %v at most", s, nbdserver.MaxPause.Seconds()), http.StatusBadRequest)
				return
			}
			atMost = time.Duration(seconds * float64(time.Second))
		}
		// More than other pages have. Where it can't be set, there is none.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(atMost + answerTime))
		if err := srv.Pause(r.Context(), atMost); err != nil {
			http.Error(w, oneLine(err), http.StatusInternalServerError)
		}
	}
}

// resumePage answers POST /resume. It is an error if the pause has ended before:
// what was copied in the belief that it lasted may be torn.
func resumePage(srv *nbdserver.Server) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if !srv.Resume() {
			http.Error(w, "the server wasn't paused: if it had been, the pause has ended before, and what was copied since may be torn: the log says why it ended", http.StatusConflict)
		}
	}
}

package main

import (
	"net"
	"net/http"
	"sync"
)

// maxHTTPConns is how many connections an HTTP server has at a time. A kubelet, a
// few Prometheus and some people need a fraction of it.
const maxHTTPConns = 64

// httpConns bounds the connections of an http.Server. A newcomer that is one too
// many takes the place of the connection on which nothing has happened for longest,
// as on the side of NBD: whoever connects and says nothing, however often, keeps
// nobody out, and leaves the descriptors to the clients of the volumes.
type httpConns struct {
	mu   sync.Mutex
	last map[net.Conn]uint64 // when something happened on each, by number
	now  uint64
}

// note is a ConnState of http.Server.
func (h *httpConns) note(c net.Conn, s http.ConnState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s == http.StateClosed {
		delete(h.last, c)
		return
	}
	h.now++
	h.last[c] = h.now
	if len(h.last) <= maxHTTPConns {
		return
	}
	oldest := c
	for other, at := range h.last {
		if at < h.last[oldest] {
			oldest = other
		}
	}
	delete(h.last, oldest)
	oldest.Close()
}

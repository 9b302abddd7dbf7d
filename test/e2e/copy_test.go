//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os/exec"
	"sync/atomic"
	"time"
)

// slowly is the pause of a stream that isn't over before it is let free: it would take
// two and a half minutes.
const slowly = 150 * time.Millisecond

// A stream is an nbdcopy of a whole export that runs on the machine: unlike what
// sh runs, it doesn't go through the API server. nbdcopy reads no further than
// the pipe behind it takes.
type stream struct {
	read   atomic.Int64
	goOn   chan struct{}
	result chan string
}

// stream begins to copy an export slowly, pieces of 64 KiB at a time, with a pause
// behind each.
func (n *namespace) stream(export string, pause time.Duration) *stream {
	n.Helper()
	return n.streamFrom("nbd://"+n.address(export)+":10809", pause)
}

// streamFrom is stream of a URI that works on the machine.
func (n *namespace) streamFrom(uri string, pause time.Duration) *stream {
	n.Helper()
	cmd := exec.CommandContext(n.Context(), "nbdcopy", uri, "-")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		n.Fatal(err)
	}
	s := &stream{goOn: make(chan struct{}), result: make(chan string, 1)}
	go func() {
		sum := sha256.New()
		for {
			k, err := io.CopyN(sum, out, 64<<10)
			s.read.Add(k)
			if err != nil {
				break
			}
			select {
			case <-s.goOn:
			case <-time.After(pause):
			}
		}
		if err := cmd.Wait(); err != nil {
			s.result <- err.Error() + ": " + errs.String()
			return
		}
		s.result <- hex.EncodeToString(sum.Sum(nil))
	}()
	n.eventually("the copy begins", func() bool { return s.read.Load() > 0 })
	return s
}

// address is the ClusterIP of an export.
func (n *namespace) address(export string) string {
	n.Helper()
	return n.kubectl("get", "service", n.field(export, ".status.serviceName"), "-o", "jsonpath={.spec.clusterIP}")
}

// finish lets the copy run free and compares what it has copied.
func (s *stream) finish(n *namespace, want string) {
	n.Helper()
	if got := s.sum(); got+"  -" != want {
		n.Errorf("the copy is %q, not %q", got, want)
	}
}

// sum lets the copy run free and returns its sha256, or why there is none.
func (s *stream) sum() string {
	close(s.goOn)
	return <-s.result
}

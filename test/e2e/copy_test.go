//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// slowly is the pause of a stream that isn't over before it is let free: it would take
// five minutes.
const slowly = 300 * time.Millisecond

// size is that of most exports of tests.
const size = 64 << 20

// pattern is a shell command that writes as much of something.
const pattern = "tr '\\000' '\\132' </dev/zero | head -c 67108864"

// patternSum is the sha256 of what it writes, as sha256sum prints it.
var patternSum = sync.OnceValue(func() string {
	sum := sha256.Sum256(bytes.Repeat([]byte{0o132}, size))
	return hex.EncodeToString(sum[:]) + "  -"
})

// fill writes the pattern over an export, from the client pod, and returns its sum.
func (n *namespace) fill(uri string) string {
	n.Helper()
	n.sh(pattern + " | nbdcopy --flush - '" + uri + "'")
	return patternSum()
}

// fillHere is fill from this machine.
func (n *namespace) fillHere(uri string) string {
	n.Helper()
	n.machine("sh", "-c", pattern+` | nbdcopy --flush - "$0"`, uri)
	return patternSum()
}

// here waits until an export is Ready and this machine reaches it. It returns the URI
// that works here, with the files of its clients.
func (n *namespace) here(export string) (uri string) {
	n.Helper()
	n.await(export, "Ready", "True")
	uri = "nbd://" + n.address(export) + ":10809"
	if secret := n.field(export, ".status.clientSecretName"); secret != "" {
		uri = n.atAddress(export, n.files(n.secret(secret)))
	}
	n.eventually("this machine reaches "+uri, func() bool { return exec.Command("nbdinfo", "--size", uri).Run() == nil })
	return uri
}

// A stream is an nbdcopy of a whole export that runs on the machine: unlike what
// sh runs, it doesn't go through the API server. nbdcopy reads no further than
// the pipe behind it takes.
type stream struct {
	read   atomic.Int64
	goOn   chan struct{}
	result chan string
}

// stream begins to copy what is at a URI that works on the machine, slowly: pieces of
// 64 KiB at a time, with a pause behind each.
func (n *namespace) stream(uri string, pause time.Duration) *stream {
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
	return n.read("service", n.field(export, ".status.serviceName"), "{.spec.clusterIP}")
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

package certificates

import (
	"bytes"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/nbdexport/nbdexport/nbdserver/certificates/certificatestest"
)

// TestHangingStorage has the storage not answer: one handshake waits for it for a while,
// the others not at all, and nobody looks a second time. When it answers again, what
// has changed meanwhile is used.
func TestHangingStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, dir := certificatestest.NewAuthority(t, "ca"), t.TempDir()
		ca.Write(t, dir, "server", certificatestest.Server())
		log, logs := logger()
		d := open(t, dir, Options{Log: log})
		var looks atomic.Int32
		answer := make(chan struct{})
		d.stat = func(path string, st *syscall.Stat_t) error {
			looks.Add(1)
			<-answer
			return syscall.Stat(path, st)
		}
		served := func() []byte {
			c, err := d.Config().GetConfigForClient(nil)
			if err != nil {
				t.Fatal(err)
			}
			return c.Certificates[0].Certificate[0]
		}
		start, first := time.Now(), d.loaded.leaf.Raw
		for range 3 {
			if !bytes.Equal(served(), first) {
				t.Error("another certificate is served")
			}
			if until, _ := d.NotAfter(); !until.Equal(d.loaded.leaf.NotAfter) {
				t.Errorf("valid until %v", until)
			}
		}
		if waited := time.Since(start); waited != patience || looks.Load() != 1 {
			t.Errorf("they waited %v for %d looks", waited, looks.Load())
		}
		if n := logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 1 {
			t.Errorf("%d lines in the log about it", n)
		}

		ca.Write(t, dir, "server", certificatestest.Server())
		close(answer)
		synctest.Wait()
		if bytes.Equal(served(), first) {
			t.Error("the new certificate isn't in use")
		}
	})
}

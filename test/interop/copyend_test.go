package interop

import (
	"bytes"
	"io"
	"os"
	"testing"
)

// TestCopyUnderWay: the condition happens in the middle of a copy. The copy is
// complete and right, and the server ends after it.
func TestCopyUnderWay(t *testing.T) {
	const size = 48 * mib
	image := newImage(t, "disk.img", sparse(size))
	transports(t, func(t *testing.T, transport string) {
		stop := t.TempDir() + "/stop"
		s := start(t, config{volumes: []string{image}, flags: []string{"--exit-when-file-created", stop}})
		// nbdcopy is as slow as this test reads what it writes.
		copying := command(t, "nbdcopy", "--requests=1", s.uri(transport), "-")
		copied, err := copying.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		copying.Stderr = &stderr
		if err := copying.Start(); err != nil {
			t.Fatal(err)
		}
		begin := make([]byte, mib)
		if _, err := io.ReadFull(copied, begin); err != nil {
			t.Fatal(err, stderr.String())
		}
		touch(t, stop)
		s.awaitRefusal()
		if !s.running() {
			t.Fatal("the server ended with a copy under way")
		}
		sum := hash(t, io.MultiReader(bytes.NewReader(begin), copied))
		if err := copying.Wait(); err != nil {
			t.Errorf("nbdcopy: %v\n%s", err, stderr.String())
		}
		if sum != fileHash(t, image) {
			t.Error("the copy differs from the image")
		}
		if r := s.ended(0, "file-created="+stop); r.BytesRead == 0 || r.ClientsCut != 0 {
			t.Errorf("the report is %+v", r)
		}
	})
}

// TestSlowReader: the same with a client that has one small request in flight
// at a time, and writes as well.
func TestSlowReader(t *testing.T) {
	const size = 4 * mib
	stop := t.TempDir() + "/stop"
	target := newImage(t, "target.img", []extent{{0, size, true}})
	want, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, config{
		volumes: []string{target + ",access=read-write"},
		flags:   []string{"--exit-when-file-created", stop},
	})
	c := s.connect("tcp")
	for at := uint64(0); at < size; at += 64 << 10 {
		if at == size/2 {
			touch(t, stop)
			s.awaitRefusal()
		}
		p := c.read(at, 64<<10)
		if !bytes.Equal(p, want[at:at+64<<10]) {
			t.Fatalf("wrong bytes at %d", at)
		}
		for i := range p {
			p[i] ^= 0xff
		}
		c.put(request(0, cmdWrite, at, at, 64<<10), p)
		if cookie, errno := c.reply(); cookie != at || errno != 0 {
			t.Fatalf("write at %d: cookie %d, error %d", at, cookie, errno)
		}
	}
	c.disconnect()
	if r := s.ended(0, "file-created="+stop); r.BytesRead != size || r.BytesWritten != size {
		t.Errorf("the report is %+v", r)
	}
	got, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i] != want[i]^0xff {
			t.Fatalf("the file is wrong at %d", i)
		}
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

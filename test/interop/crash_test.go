package interop

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKillUnderFUA kills the server while numbered blocks are written with FUA,
// 16 at a time. Every write that was acknowledged is in the file.
func TestKillUnderFUA(t *testing.T) {
	const (
		block  = 4096
		blocks = 1 << 16
		depth  = 16
		enough = 2000 // acknowledgements before the kill
	)
	transports(t, func(t *testing.T, transport string) {
		target := newHole(t, "target.img", blocks*block)
		s := start(t, config{volumes: []string{target + ",access=read-write"}})
		c := s.connect(transport)
		content := func(i uint64) []byte {
			return bytes.Repeat(binary.BigEndian.AppendUint64(nil, i+1), block/8)
		}
		write := func(i uint64) bool { // in an order that jumps about
			_, err := c.Write(append(request(flagFUA, cmdWrite, i, i*40503%blocks*block, block), content(i)...))
			return err == nil
		}
		var sent uint64
		for ; sent < depth; sent++ {
			if !write(sent) {
				t.Fatal("the first writes fail")
			}
		}
		var acknowledged []uint64
		replies := bufio.NewReader(c)
		for {
			var h [16]byte
			if _, err := io.ReadFull(replies, h[:]); err != nil {
				if len(acknowledged) < enough {
					t.Fatalf("the server is gone after %d writes: %v", len(acknowledged), err)
				}
				break
			}
			if binary.BigEndian.Uint32(h[4:]) != 0 {
				t.Fatalf("a write failed: %x", h)
			}
			acknowledged = append(acknowledged, binary.BigEndian.Uint64(h[8:]))
			if len(acknowledged) == enough {
				s.signal(syscall.SIGKILL)
			}
			if sent < blocks && write(sent) {
				sent++
			}
		}
		<-s.done
		f, err := os.Open(target)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got := make([]byte, block)
		for _, i := range acknowledged {
			if _, err := f.ReadAt(got, int64(i*40503%blocks*block)); err != nil || !bytes.Equal(got, content(i)) {
				t.Fatalf("write %d of %d was acknowledged and isn't in the file (%v)", i, len(acknowledged), err)
			}
		}
	})
}

// TestKillUnderFio does it with fio. Its nbd engine has no FUA, so nbdkit stands
// between and makes each write one with FUA. Each block holds its own offset.
func TestKillUnderFio(t *testing.T) {
	t.Parallel()
	const enough = 8 * mib // written before the kill
	target := newHole(t, "target.img", 1<<30)
	s := start(t, config{volumes: []string{target + ",access=read-write"}})
	dir := t.TempDir()
	job := `nbdinfo --can fua "$uri" && cd '` + dir + `' &&
		fio --name=job --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --size=1G --iodepth=16 --verify=pattern --verify_pattern=%o --do_verify=0 --write_lat_log=log --log_offset=1`
	cmd := command(t, "nbdkit", "-U", shortDir(t)+"/nbdkit.sock", "--run", job,
		"--filter=fua", "nbd", "uri="+s.uri("tcp"), "fuamode=force")
	ended := make(chan result, 1)
	go func() { ended <- do(t, cmd) }()
	eventually(t, "fio writes", func() bool {
		select {
		case r := <-ended:
			t.Fatalf("fio ended: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
		default:
		}
		return s.status().Exports[0].BytesWritten >= enough
	})
	s.signal(syscall.SIGKILL)
	select {
	case r := <-ended:
		if r.code == 0 {
			t.Error("fio didn't notice")
		}
	case <-time.After(patience):
		t.Fatal("fio doesn't end")
	}
	checkLog(t, filepath.Join(dir, "log_clat.1.log"), target, enough/4096)
}

// checkLog looks for each write that fio has logged as completed.
func checkLog(t *testing.T, log, target string, least int) {
	t.Helper()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 4096)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, line := range lines {
		fields := strings.Split(line, ", ") // time, latency, direction, size, offset
		if len(fields) < 5 {
			t.Fatalf("%s has the line %q", log, line)
		}
		offset, err := strconv.ParseInt(fields[4], 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", log, err)
		}
		want := bytes.Repeat(binary.NativeEndian.AppendUint64(nil, uint64(offset)), len(got)/8)
		if _, err := f.ReadAt(got, offset); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("the write at %d was acknowledged and isn't in the file (%v)", offset, err)
		}
	}
	// What is in nbdkit's hands when the server counts it isn't in the log yet.
	if len(lines) < least-1000 {
		t.Errorf("fio has logged only %d writes", len(lines))
	}
}

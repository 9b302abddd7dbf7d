package interop

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// enter is a connection of a fault.
func (f *faulty) enter(t *testing.T, export string, structured bool) net.Conn {
	t.Helper()
	c, err := attach(f.server, "tcp", export, structured)
	if err != nil {
		t.Fatal(err)
	}
	f.made.Add(1)
	t.Cleanup(func() { c.Close() })
	return c
}

// vanish ends a connection with FIN or with RST.
func vanish(c net.Conn, reset bool) {
	if reset {
		_ = c.(*net.TCPConn).SetLinger(0) // an error means that it is gone already
	}
	c.Close()
}

// killClients: real ones, in the middle of their writes.
func killClients(t *testing.T, f *faulty) {
	image := newImage(t, "image", []extent{{0, 64 * mib, true}})
	uri := "nbd://" + f.tcp() + "/scratch"
	killed := 0
	for i := range 8 {
		cmd := command(t, "nbdcopy", "--connections=4", image, uri)
		if i%2 == 1 {
			cmd = command(t, "fio", "--name=job", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bs=64k", "--size=64M",
				"--iodepth=16", "--time_based", "--runtime=60", "--thread", "--output="+os.DevNull)
		}
		written := f.now(t).Exports[0].BytesWritten
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, cmd.Args[0]+" writes", func() bool { return f.now(t).Exports[0].BytesWritten > written })
		time.Sleep(rand.N(100 * time.Millisecond))
		_ = cmd.Process.Kill() // a copy may have ended already
		_ = cmd.Wait()
		if cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
			killed++
		}
		f.made.Add(1)
	}
	if killed < 4 { // fio would have gone on for a minute
		t.Errorf("only %d clients were killed before they ended", killed)
	}
}

// resetConnections: anywhere in a mixture of writes and reads.
func resetConnections(t *testing.T, f *faulty) {
	var mixture []byte
	for i := range uint64(8) {
		mixture = append(mixture, request(flagFUA, cmdWrite, i, i<<16, 1<<16)...)
		mixture = append(mixture, random(i, 1<<16)...)
		mixture = append(mixture, request(0, cmdRead, i, i<<20, mib)...)
		mixture = append(mixture, request(0, cmdFlush, i, 0, 0)...)
	}
	for i := range 100 {
		c := f.enter(t, "scratch", i%2 == 0)
		if _, err := c.Write(mixture[:rand.IntN(len(mixture))]); err != nil {
			t.Fatal(err)
		}
		vanish(c, true)
	}
}

// cutRequests: at every length of their headers.
func cutRequests(t *testing.T, f *faulty) {
	for n := range 28 {
		for _, structured := range []bool{false, true} {
			for _, reset := range []bool{false, true} {
				c := f.enter(t, "scratch", structured)
				if _, err := c.Write(request(0, cmdRead, 1, 0, 512)[:n]); err != nil {
					t.Fatal(err)
				}
				vanish(c, reset)
			}
		}
	}
}

// cutWrites: a write whose payload doesn't come in full changes nothing.
func cutWrites(t *testing.T, f *faulty) {
	for _, export := range []string{"disk", "memory"} {
		want := random(7, 2*mib)
		c := f.enter(t, export, false)
		if _, err := c.Write(append(request(flagFUA, cmdWrite, 1, victim, 2*mib), want...)); err != nil {
			t.Fatal(err)
		}
		expect(t, c, 1, 0, 0)
		for _, size := range []int{4096, mib} {
			for _, n := range []int{0, 1, size / 2, size - 1} {
				for _, structured := range []bool{false, true} {
					for _, reset := range []bool{false, true} {
						c := f.enter(t, export, structured)
						cut := append(request(0, cmdWrite, 1, victim+512, uint32(size)), bytes.Repeat([]byte{0xee}, n)...)
						if _, err := c.Write(cut); err != nil {
							t.Fatal(err)
						}
						vanish(c, reset)
					}
				}
			}
		}
		vanish(c, false)
		f.onlyLoadLeft(t)
		c = f.enter(t, export, true)
		if _, err := c.Write(request(0, cmdRead, 2, victim, 2*mib)); err != nil {
			t.Fatal(err)
		}
		if got := expect(t, c, 2, victim, 2*mib); !bytes.Equal(got, want) {
			t.Errorf("%s: a part of a write was applied", export)
		}
		vanish(c, false)
	}
}

// readNothing: until much has been done for others. Then half of them read all
// that they asked for.
func readNothing(t *testing.T, f *faulty) {
	const requests = 64
	var stalled []net.Conn
	for i := range 4 {
		c := f.enter(t, "memory", i%2 == 0)
		for cookie := range uint64(requests) {
			if _, err := c.Write(request(0, cmdRead, cookie, victim, mib)); err != nil {
				t.Fatal(err)
			}
		}
		stalled = append(stalled, c)
	}
	for range 3 {
		f.load.progress(t)
	}
	for i, c := range stalled {
		if i < len(stalled)/2 {
			seen := map[uint64]bool{}
			for range requests {
				cookie, _, err := readReply(c, func(uint64) (uint64, int) { return victim, mib })
				if err != nil || seen[cookie] {
					t.Fatalf("a reply for request %d (twice: %v): %v", cookie, seen[cookie], err)
				}
				seen[cookie] = true
			}
		}
		vanish(c, i%2 == 0)
	}
}

// askFaster: requests as fast as they can be written, replies read in sips.
func askFaster(t *testing.T, f *faulty) {
	const requests = 5000
	c := f.enter(t, "memory", false)
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() {
		for i := range uint64(requests) {
			if _, err := c.Write(request(0, cmdRead, i, victim+i*16, 16)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	seen := map[uint64]bool{}
	for range requests {
		cookie, _, err := readReply(c, func(uint64) (uint64, int) { return 0, 16 })
		if err != nil || seen[cookie] {
			t.Errorf("a reply for request %d (twice: %v): %v", cookie, seen[cookie], err)
			c.Close()
			return
		}
		seen[cookie] = true
	}
	vanish(c, false)
}

// comeAndGo: connections that are closed at once, in the handshake or after it.
func comeAndGo(t *testing.T, f *faulty) {
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 250 {
				c, err := net.Dial("tcp", f.tcp())
				if err != nil {
					t.Error(err)
					return
				}
				f.made.Add(1)
				if i%3 > 0 { // an error is as good: too many may come at a time
					_ = c.SetDeadline(time.Now().Add(patience))
					_ = chooseExport(c, "scratch", i%3 == 2)
				}
				vanish(c, i%2 == 0)
			}
		})
	}
	all.Wait()
}

// stopProcess: clients that are connected, and those that come, just wait.
func stopProcess(t *testing.T, f *faulty) {
	old := f.enter(t, "memory", false)
	f.signal(syscall.SIGSTOP)
	defer f.signal(syscall.SIGCONT)
	eventually(t, "the process is stopped", func() bool {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(f.cmd.Process.Pid) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(b), ") T ")
	})
	if _, err := old.Write(request(0, cmdRead, 1, victim, mib)); err != nil {
		t.Fatal(err)
	}
	var newcomers sync.WaitGroup
	for range 10 {
		newcomers.Go(func() {
			c, err := attach(f.server, "tcp", "memory", true)
			if err != nil {
				t.Error(err)
				return
			}
			f.made.Add(1)
			c.Close()
		})
	}
	time.Sleep(500 * time.Millisecond) // the moment
	f.signal(syscall.SIGCONT)
	newcomers.Wait()
	expect(t, old, 1, victim, mib)
	vanish(old, false)
}

package file

import (
	"context"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resident returns how many pages of the first n bytes of a file are in the
// page cache.
func resident(t *testing.T, f *File, n int) int {
	t.Helper()
	m, err := unix.Mmap(f.fd, 0, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	}()
	page := unix.Getpagesize()
	pages := make([]byte, (n+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(n), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Fatal(errno)
	}
	count := 0
	for _, p := range pages {
		count += int(p & 1)
	}
	return count
}

// TestCache checks that a range of many times the kernel's read-ahead is read
// as a whole, and nothing behind it.
func TestCache(t *testing.T) {
	const size = 32 << 20
	f := open(t, image(t, t.TempDir(), size), Options{})
	t.Cleanup(func() { f.Close() })
	p := make([]byte, size)
	for i := range p {
		p[i] = 1
	}
	if err := f.WriteAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(f.fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if n := resident(t, f, size); n > 0 {
		t.Logf("%d pages stay in memory, as on tmpfs; nothing to see here", n)
		return
	}
	if err := f.Cache(t.Context(), 0, size/2); err != nil {
		t.Fatal(err)
	}
	want := size / 2 / unix.Getpagesize()
	// The disk takes its time.
	for deadline := time.Now().Add(20 * time.Second); resident(t, f, size/2) < want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d pages are in memory", resident(t, f, size/2), want)
		}
	}
	if n := resident(t, f, size); n > want+want/4 {
		t.Errorf("%d pages are in memory, and %d were asked for", n, want)
	}
	if err := f.Cache(t.Context(), 0, 1<<63); err != nil {
		t.Errorf("Cache of 2^63 bytes: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Cache(ctx, 0, size); err != context.Canceled {
		t.Errorf("Cache with a canceled context: %v", err)
	}
}

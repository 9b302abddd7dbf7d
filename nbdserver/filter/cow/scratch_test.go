package cow

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct {
		why  string
		size uint64
		opt  Options
		err  error
	}{
		{"no such file or directory", 1 << 20, Options{Dir: "/nonexistent"}, fs.ErrNotExist},
		{"not a directory", 1 << 20, Options{Dir: os.Args[0]}, unix.ENOTDIR},
		{"too small to be of use", 1 << 20, Options{Limit: blockSize - 1}, nil},
		{"more than the largest possible", MaxSize + 1, Options{}, nil},
	} {
		if tt.opt.Dir == "" {
			tt.opt.Dir = t.TempDir()
		}
		m, err := memory.New(tt.size)
		if err != nil {
			t.Fatal(err)
		}
		o, err := Open(m, tt.opt)
		if err == nil || !strings.Contains(err.Error(), tt.why) || tt.err != nil && !errors.Is(err, tt.err) {
			t.Errorf("Open(%d bytes, %+v): %v, want an error with %q", tt.size, tt.opt, err, tt.why)
		}
		if o != nil {
			o.Close()
		}
	}
}

// TestDirectory shows where the scratch is when it isn't said.
func TestDirectory(t *testing.T) {
	for _, tt := range []struct{ dir, env, want string }{
		{"/scratch", "/elsewhere", "/scratch"},
		{"", "/elsewhere", "/elsewhere"},
		{"", "", "/var/tmp"},
	} {
		t.Setenv("TMPDIR", tt.env)
		if got := (Options{Dir: tt.dir}).dir(); got != tt.want {
			t.Errorf("%+v: the scratch is in %s", tt, got)
		}
	}
}

// TestNameless: neither way leaves a name, and both make files to read and write,
// for nobody else.
func TestNameless(t *testing.T) {
	for name, makeFile := range map[string]func(string) (*os.File, error){"nameless": nameless, "unlinked": unlinked} {
		dir := t.TempDir()
		f, err := makeFile(dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
			t.Errorf("%s: the directory holds %v (%v)", name, names, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink != 0 || st.Mode != unix.S_IFREG|0o600 {
			t.Errorf("%s: %d links, mode %o (%v)", name, st.Nlink, st.Mode, err)
		}
		s := scratch{f}
		p := []byte("data")
		if err := errors.Join(s.writeAt(p, 5), s.readAt(p, 5), s.close()); err != nil || string(p) != "data" {
			t.Errorf("%s: %q, %v", name, p, err)
		}
	}
}

// TestLargeVolume uses the first and the last bytes of the files of a scratch.
func TestLargeVolume(t *testing.T) {
	const size = 2*fileSize + 100
	o := openBase(t, content(t, size), Options{})
	if len(o.scratch) != 3 {
		t.Fatalf("a scratch for %d bytes has %d files", uint64(size), len(o.scratch))
	}
	for i, off := range []uint64{0, fileSize - 100, 2*fileSize - 300, size - 100} {
		write(t, o, noise(byte(i), 100), off)
	}
	write(t, o, noise(9, 2*blockSize), fileSize-blockSize)
	for i, off := range []uint64{0, 2*fileSize - 300, size - 100} {
		if got := read(t, o, 100, off); string(got) != string(noise(byte([]int{0, 2, 3}[i]), 100)) {
			t.Errorf("what was written at %d is gone", off)
		}
	}
	if got := read(t, o, 2*blockSize, fileSize-blockSize); string(got) != string(noise(9, 2*blockSize)) {
		t.Error("what was written across two files is gone")
	}
	uses(t, o, "six places are written", 5)
	if err := o.Trim(t.Context(), 0, size); err != nil {
		t.Fatal(err)
	}
	uses(t, o, "all is trimmed", 0)
}

// TestErrorsOfTheScratch: they say what they are about, and that of the system
// is in them.
func TestErrorsOfTheScratch(t *testing.T) {
	o := open(t, content(t, 4*blockSize), Options{})
	write(t, o, []byte{1}, 0)
	o.Close()
	err := o.ReadAt(t.Context(), make([]byte, 10), 5)
	if !errors.Is(err, os.ErrClosed) || err.Error() != "read of 10 bytes at 5: scratch: file already closed" {
		t.Errorf("a read: %v", err)
	}
	if err := o.WriteAt(t.Context(), []byte{1}, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a write in place: %v", err)
	}
	before, _ := o.Scratch()
	if err := o.WriteAt(t.Context(), make([]byte, blockSize), blockSize); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a write of a new block: %v", err)
	}
	if after, _ := o.Scratch(); after != before || before != blockSize {
		t.Errorf("the scratch held %d bytes before a write that failed and %d after", before, after)
	}
	if _, err := newScratch(filepath.Join(t.TempDir(), "nowhere"), 1); err == nil || strings.Count(err.Error(), "/nowhere") != 1 {
		t.Errorf("the error of a directory that isn't there is %v", err)
	}
}

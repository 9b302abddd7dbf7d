package file

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver/backend"
)

// TestFast checks, by what the file system knows, which zeroing is fast; what
// isn't changes nothing.
func TestFast(t *testing.T) {
	const size = 4 << 20
	ctx := t.Context()
	data := bytes.Repeat([]byte{1}, size)
	for _, tt := range []struct {
		punch, zeroRange bool // known
		mayTrim          bool
		fast             bool
		allocated        bool // afterwards
	}{
		{punch: true, zeroRange: true, mayTrim: true, fast: true},
		{punch: true, zeroRange: true, fast: true, allocated: true},
		{punch: true, mayTrim: true, fast: true},
		{punch: true, allocated: true}, // to make a hole isn't what was asked for
		{zeroRange: true, mayTrim: true, fast: true, allocated: true},
		{zeroRange: true, fast: true, allocated: true},
		{mayTrim: true, allocated: true},
		{allocated: true},
	} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			f := open(t, image(t, t.TempDir(), size), Options{})
			t.Cleanup(func() { f.Close() })
			f.punch.unsupported.Store(!tt.punch)
			f.zeroRange.unsupported.Store(!tt.zeroRange)
			if err := f.WriteAt(ctx, data, 0); err != nil {
				t.Fatal(err)
			}
			flags := backend.Fast
			if tt.mayTrim {
				flags |= backend.MayTrim
			}
			want, content := backend.ErrNotFast, data
			if tt.fast {
				want, content = nil, make([]byte, size)
			}
			if err := f.WriteZeroes(ctx, 1, size-2, flags); err != want {
				t.Errorf("got %v, want %v", err, want)
			}
			got := make([]byte, size-2)
			if err := f.ReadAt(ctx, got, 1); err != nil || !bytes.Equal(got, content[:size-2]) {
				t.Errorf("the content isn't what it should be (%v)", err)
			}
			if n := blocks(t, f); n >= size != tt.allocated {
				t.Errorf("%d bytes are allocated", n)
			}
		})
	}
}

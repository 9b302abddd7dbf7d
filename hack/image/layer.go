package main

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"
)

// epoch is the time of every file and image: a real one would make each build
// different.
var epoch = time.Unix(0, 0).UTC()

// writeLayer writes the tree as a tar, sorted, all owned by root. Sorting puts
// a folder before what it holds.
func (t tree) writeLayer(w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if err := writeEntry(tw, name, t[name]); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, name string, e entry) error {
	h := &tar.Header{Name: name, Mode: int64(e.mode.Perm()), ModTime: epoch}
	switch {
	case e.mode.IsDir():
		h.Typeflag = tar.TypeDir
		h.Name += "/"
		if e.mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		return tw.WriteHeader(h)
	case e.mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		return tw.WriteHeader(h)
	}
	f, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	// A file that changes meanwhile is an error by tar's count of its bytes.
	_, err = io.Copy(tw, f)
	return err
}

package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func layerOf(t *testing.T, tr tree) ([]byte, map[string]member) {
	t.Helper()
	var b bytes.Buffer
	if err := tr.writeLayer(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), readTar(t, b.Bytes())
}

func TestLayerOfFolderAndLinks(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "sub", "empty"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub", "run"), []byte("x"), 0o750),
		os.Symlink("run", filepath.Join(dir, "sub", "link")),
		os.Symlink("/nowhere", filepath.Join(dir, "dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tr := newTree()
	for _, a := range []string{dir + ":/opt/app/", "@busybox:/bin/sh", dir + "/sub/link:/file"} {
		if err := tr.add(a); err != nil {
			t.Fatal(err)
		}
	}
	raw, got := layerOf(t, tr)

	for name, want := range map[string]struct {
		kind byte
		mode int64
		link string
	}{
		"tmp/":               {tar.TypeDir, 0o1777, ""},
		"opt/":               {tar.TypeDir, 0o755, ""},
		"opt/app/":           {tar.TypeDir, 0o755, ""},
		"opt/app/sub/empty/": {tar.TypeDir, 0o755, ""},
		"opt/app/sub/run":    {tar.TypeReg, 0o750, ""},
		"opt/app/sub/link":   {tar.TypeSymlink, 0o777, "run"},
		"opt/app/dangling":   {tar.TypeSymlink, 0o777, "/nowhere"},
		"bin/sh":             {tar.TypeSymlink, 0o777, "busybox"},
		"file":               {tar.TypeReg, 0o750, ""}, // named itself, a link is followed
	} {
		m, ok := got[name]
		if !ok {
			t.Errorf("%s is missing", name)
			continue
		}
		h := m.header
		if h.Typeflag != want.kind || h.Mode != want.mode || h.Linkname != want.link {
			t.Errorf("%s is of type %c, mode %o, links to %q", name, h.Typeflag, h.Mode, h.Linkname)
		}
		if !h.ModTime.Equal(epoch) || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s is of %v and belongs to %d:%d", name, h.ModTime, h.Uid, h.Gid)
		}
	}

	var order []string
	r := tar.NewReader(bytes.NewReader(raw))
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		order = append(order, strings.TrimSuffix(h.Name, "/"))
	}
	if !slices.IsSorted(order) {
		t.Errorf("not sorted: %v", order)
	}
}

func TestSourceThatVanishes(t *testing.T) {
	file := writeTemp(t, "f", "content", 0o644)
	tr := newTree()
	if err := tr.add(file + ":/f"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := tr.writeLayer(&bytes.Buffer{}); err == nil {
		t.Error("a layer without its file is written")
	}
}

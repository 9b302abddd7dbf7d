package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// A tree is what the image will hold, by path without the leading slash.
type tree map[string]entry

// An entry is a folder, a symbolic link (link) or a file (source, on this machine).
type entry struct {
	mode         fs.FileMode
	source, link string
}

// newTree has the folders that container runtimes mount over, and /tmp.
func newTree() tree {
	t := tree{"tmp": {mode: fs.ModeDir | fs.ModeSticky | 0o777}}
	for _, d := range []string{"dev", "etc", "proc", "run", "sys"} {
		t[d] = entry{mode: fs.ModeDir | 0o755}
	}
	return t
}

// add takes one argument of the command line.
func (t tree) add(arg string) error {
	// The last colon, for a source may hold one; a destination may not.
	i := strings.LastIndexByte(arg, ':')
	if i < 1 || !strings.HasPrefix(arg[i+1:], "/") {
		return fmt.Errorf("%q is neither SRC:/DST nor @TARGET:/DST", arg)
	}
	src, dst := arg[:i], clean(arg[i+1:])
	if target, ok := strings.CutPrefix(src, "@"); ok {
		return t.put(dst, entry{mode: fs.ModeSymlink | 0o777, link: target})
	}
	st, err := os.Stat(src)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return t.addFile(src, dst)
	}
	return t.addFolder(src, dst)
}

// addFile follows symbolic links: what is named is what is meant.
func (t tree) addFile(src, dst string) error {
	st, err := os.Stat(src)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", src)
	}
	return t.put(dst, entry{mode: st.Mode().Perm(), source: src})
}

// addFolder keeps the symbolic links beneath src.
func (t tree) addFolder(src, dst string) error {
	return filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		to := path.Join(dst, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			info, err := d.Info()
			if err != nil || to == "." {
				return err
			}
			return t.put(to, entry{mode: fs.ModeDir | info.Mode().Perm()})
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return t.put(to, entry{mode: fs.ModeSymlink | 0o777, link: target})
		default:
			return t.addFile(p, to)
		}
	})
}

// put adds an entry and the folders above it. A path may be given twice only
// with the same content: the later one would silently hide the earlier.
func (t tree) put(dst string, e entry) error {
	if dst == "." {
		return fmt.Errorf("%s: the root is not a destination for a file", e.source)
	}
	if old, ok := t[dst]; ok && old != e && !(old.mode.IsDir() && e.mode.IsDir()) {
		return fmt.Errorf("/%s is added twice", dst)
	}
	t[dst] = e
	for d := path.Dir(dst); d != "."; d = path.Dir(d) {
		old, ok := t[d]
		if !ok {
			t[d] = entry{mode: fs.ModeDir | 0o755}
		} else if !old.mode.IsDir() {
			return fmt.Errorf("/%s is beneath /%s, which is not a folder", dst, d)
		}
	}
	return nil
}

func clean(p string) string {
	if p = strings.TrimPrefix(path.Clean(p), "/"); p != "" {
		return p
	}
	return "."
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/backend"
	"github.com/nbdexport/nbdexport/nbdserver/backend/file"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
	"github.com/nbdexport/nbdexport/nbdserver/backend/qcow2"
	"github.com/nbdexport/nbdexport/nbdserver/filter/cow"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// volume is a VOLUME argument:
// [NAME=]SOURCE[,root=DIR][,access=ACCESS][,scratch=DIR][,scratch-size=SIZE][,format=FORMAT][,tls=require].
type volume struct {
	name     string
	path     string // of a file or block device, unless memory
	root     string // path is relative to it and doesn't lead out of it
	memory   bool
	size     uint64 // of the memory, in bytes
	readOnly bool
	qcow2    bool        // what is in the file is an image
	cow      bool        // copy-on-write
	scratch  cow.Options // with that
	tls      bool        // clients must use it
}

// volumeOptions are those that may stand at the end of a VOLUME argument.
var volumeOptions = []string{"access", "format", "root", "scratch", "scratch-size", "tls"}

// parseVolume reads a VOLUME argument. What stands before the first "=" is the
// name if it has no "/" in it, so that a path may hold any character; the
// options are taken off its end.
func parseVolume(arg string) (volume, error) {
	var v volume
	rest := arg
	options := map[string]string{}
	for {
		i := strings.LastIndexByte(rest, ',')
		if i < 0 {
			break
		}
		key, value, ok := strings.Cut(rest[i+1:], "=")
		if !ok || !slices.Contains(volumeOptions, key) {
			break
		}
		if _, dup := options[key]; dup {
			return v, fmt.Errorf("volume %q: %s is given twice", arg, key)
		}
		options[key] = value
		rest = rest[:i]
	}
	source := rest
	if name, s, ok := strings.Cut(rest, "="); ok && !strings.Contains(name, "/") {
		v.name, source = name, s
		if name == "" {
			return v, fmt.Errorf("volume %q: the name before the = is empty", arg)
		}
	}
	size, isMemory := strings.CutPrefix(source, "memory:")
	switch {
	case source == "":
		return v, fmt.Errorf("volume %q: the source is missing: write a path, or memory:SIZE", arg)
	case isMemory:
		if err := v.setMemory(size); err != nil {
			return v, fmt.Errorf("volume %q: %w", arg, err)
		}
	default:
		v.path, v.readOnly = source, true
	}
	if v.name == "" {
		if v.name = filepath.Base(v.path); v.memory {
			v.name = "memory"
		}
	}
	if len(v.name) > wire.MaxString || !utf8.ValidString(v.name) {
		return v, fmt.Errorf("volume %q: a name is at most %d bytes of UTF-8", arg, wire.MaxString)
	}
	return v, v.setOptions(arg, options)
}

func (v *volume) setMemory(size string) error {
	n, err := parseSize(size)
	if err != nil {
		return err
	}
	v.memory, v.size = true, n
	return nil
}

// parseSize reads a number of bytes, or of the units K, M, G, T, P: powers of
// 1024, as in nbdkit, qemu-img and truncate. Ki, Mi and so on are the same.
func parseSize(s string) (uint64, error) {
	digits := strings.TrimSuffix(s, "i")
	shift := 0
	if n := len(digits); n > 0 {
		if unit := strings.IndexByte("KMGTP", digits[n-1]); unit >= 0 {
			shift = 10 * (unit + 1)
			digits = digits[:n-1]
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n == 0 || n > math.MaxInt64>>shift || shift == 0 && digits != s {
		return 0, fmt.Errorf("%q is no size: write a number of bytes from 1 on, or one with K, M, G, T or P", s)
	}
	return n << shift, nil
}

func (v *volume) setOptions(arg string, options map[string]string) error {
	if root, ok := options["root"]; ok {
		if v.memory || root == "" {
			return fmt.Errorf("volume %q: root goes with a file, and names its directory", arg)
		}
		v.root = root
	}
	if tls, ok := options["tls"]; ok {
		if tls != "require" {
			return fmt.Errorf("volume %q: tls is require, or left out; not %q", arg, tls)
		}
		v.tls = true
	}
	switch access, ok := options["access"]; {
	case !ok:
	case access == "read-only":
		v.readOnly = true
	case access == "read-write":
		v.readOnly = false
	case access == "copy-on-write":
		v.readOnly, v.cow = false, true
	default:
		return fmt.Errorf("volume %q: access is read-only, read-write or copy-on-write, not %q", arg, access)
	}
	if err := v.setFormat(arg, options); err != nil {
		return err
	}
	return v.setScratch(arg, options)
}

// setFormat takes over the format. It is never guessed: a client that may write to a
// raw volume can put the header of an image into it.
func (v *volume) setFormat(arg string, options map[string]string) error {
	switch format, ok := options["format"]; {
	case !ok || format == "raw":
	case format != "qcow2":
		return fmt.Errorf("volume %q: format is raw or qcow2, not %q", arg, format)
	case v.memory:
		return fmt.Errorf("volume %q: memory has no format: leave format out", arg)
	case !v.readOnly && !v.cow:
		return fmt.Errorf("volume %q: a qcow2 image is only read: make access read-only or copy-on-write", arg)
	default:
		v.qcow2 = true
	}
	return nil
}

func (v *volume) setScratch(arg string, options map[string]string) error {
	dir, hasDir := options["scratch"]
	size, hasSize := options["scratch-size"]
	if (hasDir || hasSize) && !v.cow {
		return fmt.Errorf("volume %q: scratch and scratch-size go with access=copy-on-write", arg)
	}
	if hasDir && dir == "" {
		return fmt.Errorf("volume %q: scratch names a directory", arg)
	}
	v.scratch.Dir = dir
	if hasSize {
		n, err := parseSize(size)
		if err != nil {
			return fmt.Errorf("volume %q: scratch-size: %w", arg, err)
		}
		v.scratch.Limit = n
	}
	return nil
}

// parseVolumes reads all VOLUME arguments; their names must differ.
func parseVolumes(args []string) ([]volume, error) {
	if len(args) == 0 {
		return nil, errors.New("no volume is given: name a file, a block device or memory:SIZE")
	}
	var all []volume
	seen := map[string]string{}
	for _, arg := range args {
		v, err := parseVolume(arg)
		if err != nil {
			return nil, err
		}
		if other, dup := seen[v.name]; dup {
			return nil, fmt.Errorf("volume %q has the same name %q as volume %q: give one another name, NAME=SOURCE", arg, v.name, other)
		}
		seen[v.name] = arg
		all = append(all, v)
	}
	return all, nil
}

// openVolumes opens the backends of all volumes, or none.
func openVolumes(volumes []volume) ([]*nbdserver.Export, error) {
	var exports []*nbdserver.Export
	for _, v := range volumes {
		b, err := v.open()
		if err != nil {
			closeVolumes(exports)
			return nil, err // names the volume
		}
		exports = append(exports, &nbdserver.Export{Name: v.name, ReadOnly: v.readOnly, RequireTLS: v.tls, Backend: b})
	}
	return exports, nil
}

// closeVolumes closes what was opened and never served.
func closeVolumes(exports []*nbdserver.Export) {
	for _, e := range exports {
		e.Backend.Close()
	}
}

func (v volume) open() (backend.Backend, error) {
	base, err := v.openBase()
	if err != nil || !v.cow {
		return base, err
	}
	o, err := cow.Open(base, v.scratch)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("volume %q: %w", v.name, err), base.Close())
	}
	return o, nil
}

// openBase opens what a volume is, below its scratch.
func (v volume) openBase() (backend.Backend, error) {
	if v.memory {
		return memory.New(v.size)
	}
	f, err := file.Open(v.path, file.Options{Root: v.root, ReadOnly: v.readOnly || v.cow})
	if err != nil || !v.qcow2 {
		return f, err
	}
	q, err := qcow2.Open(context.Background(), f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("volume %q: %s %w", v.name, v.path, err), f.Close())
	}
	return q, nil
}

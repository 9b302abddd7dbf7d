package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// systemRoot is where the libraries of the machine are; tests have another.
const systemRoot = "/"

// addLibraries adds what the dynamic linker will look for when one of the
// tree's files is run: its interpreter, its libraries, and theirs. Libraries
// that a program opens later, by name, can't be known: add those by hand.
func (t tree) addLibraries(root string) error {
	var todo []string
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if t[name].source != "" {
			todo = append(todo, name)
		}
	}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		needs, err := needed(t[name].source)
		if err != nil {
			return err
		}
		for _, lib := range needs.libraries {
			found, err := needs.find(root, "/"+name, lib)
			if err != nil {
				return fmt.Errorf("/%s: %w", name, err)
			}
			if _, ok := t[clean(found)]; ok {
				continue
			}
			if err := t.addFile(filepath.Join(root, found), clean(found)); err != nil {
				return fmt.Errorf("/%s: %w", name, err)
			}
			todo = append(todo, clean(found))
		}
	}
	return nil
}

// dynamic is what an ELF file asks of the dynamic linker.
type dynamic struct {
	machine   elf.Machine
	class     elf.Class
	libraries []string // names, or paths with a slash: the interpreter is one
	runpath   []string
}

// needed of a file that is no ELF file, or a static one, is nothing.
func needed(file string) (dynamic, error) {
	magic := make([]byte, len(elf.ELFMAG))
	r, err := os.Open(file)
	if err != nil {
		return dynamic{}, err
	}
	defer r.Close()
	if n, _ := r.ReadAt(magic, 0); n < len(magic) || !bytes.Equal(magic, []byte(elf.ELFMAG)) {
		return dynamic{}, nil
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return dynamic{}, fmt.Errorf("%s: %w", file, err)
	}
	d := dynamic{machine: f.Machine, class: f.Class}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			interp := make([]byte, p.Filesz)
			if _, err := p.ReadAt(interp, 0); err != nil {
				return dynamic{}, fmt.Errorf("%s: %w", file, err)
			}
			d.libraries = append(d.libraries, string(bytes.TrimRight(interp, "\x00")))
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return dynamic{}, fmt.Errorf("%s: %w", file, err)
	}
	d.libraries = append(d.libraries, libraries...)
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, err := f.DynString(tag)
		if err != nil {
			return dynamic{}, fmt.Errorf("%s: %w", file, err)
		}
		for _, p := range paths {
			d.runpath = append(d.runpath, strings.Split(p, ":")...)
		}
	}
	return d, nil
}

// find says where the linker finds lib for the file of that path in the image.
// There is no ld.so.cache in the image, so what it looks into by itself must do.
func (d dynamic) find(root, file, lib string) (string, error) {
	if strings.Contains(lib, "/") {
		return lib, nil
	}
	origin := path.Dir(file)
	var dirs []string
	for _, p := range d.runpath {
		dirs = append(dirs, strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(p))
	}
	for _, dir := range append(dirs, d.systemDirs()...) {
		p := path.Join("/", dir, lib)
		f, err := elf.Open(filepath.Join(root, p))
		if err != nil {
			// A linker script may have a library's name; a short one reads as EOF.
			var format *elf.FormatError
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) || errors.As(err, &format) {
				continue
			}
			return "", err
		}
		fits := f.Machine == d.machine && f.Class == d.class
		if err := f.Close(); err != nil {
			return "", err
		}
		if fits {
			return p, nil
		}
	}
	return "", fmt.Errorf("library %s is not in the system's folders: install its package", lib)
}

// Debian's names of the architectures; elsewhere /lib64 and /lib serve.
var triplets = map[elf.Machine]string{
	elf.EM_X86_64:  "x86_64-linux-gnu",
	elf.EM_AARCH64: "aarch64-linux-gnu",
	elf.EM_ARM:     "arm-linux-gnueabihf",
	elf.EM_PPC64:   "powerpc64le-linux-gnu",
	elf.EM_RISCV:   "riscv64-linux-gnu",
	elf.EM_S390:    "s390x-linux-gnu",
}

func (d dynamic) systemDirs() []string {
	dirs := []string{"/lib64", "/usr/lib64", "/lib", "/usr/lib"}
	if t, ok := triplets[d.machine]; ok {
		dirs = append([]string{"/lib/" + t, "/usr/lib/" + t}, dirs...)
	}
	return dirs
}

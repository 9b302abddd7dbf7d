package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeELF is the least that the dynamic linker's questions need: a dynamic
// section with its strings, and an interpreter.
func fakeELF(t *testing.T, machine elf.Machine, interp, runpath string, libraries ...string) []byte {
	t.Helper()
	const headerSize, progSize, sectionSize = 64, 56, 64
	strtab := []byte{0}
	str := func(s string) uint64 {
		at := len(strtab)
		strtab = append(append(strtab, s...), 0)
		return uint64(at)
	}
	var dyn []elf.Dyn64
	for _, l := range libraries {
		dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: str(l)})
	}
	if runpath != "" {
		dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_RUNPATH), Val: str(runpath)})
	}
	dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_NULL)})

	interpAt := uint64(headerSize + progSize)
	strAt := interpAt + uint64(len(interp)) + 1
	dynAt := strAt + uint64(len(strtab))
	sectionsAt := dynAt + uint64(16*len(dyn))
	h := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1,
		Phoff: headerSize, Phentsize: progSize, Phnum: 1,
		Shoff: sectionsAt, Shentsize: sectionSize, Shnum: 3, Ehsize: headerSize, Shstrndx: 1,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	prog := elf.Prog64{Type: uint32(elf.PT_NULL), Off: interpAt, Filesz: uint64(len(interp)) + 1}
	if interp != "" {
		prog.Type = uint32(elf.PT_INTERP)
	}

	var b bytes.Buffer
	for _, v := range []any{
		h, prog, append([]byte(interp), 0), strtab, dyn,
		elf.Section64{},
		elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: strAt, Size: uint64(len(strtab))},
		elf.Section64{Type: uint32(elf.SHT_DYNAMIC), Off: dynAt, Size: uint64(16 * len(dyn)), Link: 1, Entsize: 16},
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// root makes a machine of files.
func root(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// closure is what addLibraries adds for bin/app.
func closure(t *testing.T, dir string) ([]string, error) {
	t.Helper()
	tr := tree{}
	if err := tr.add(filepath.Join(dir, "bin/app") + ":/bin/app"); err != nil {
		t.Fatal(err)
	}
	err := tr.addLibraries(dir)
	return slices.DeleteFunc(slices.Sorted(maps.Keys(tr)), func(n string) bool {
		return n == "bin/app" || tr[n].mode.IsDir()
	}), err
}

func TestLibrariesOfLibraries(t *testing.T) {
	const amd64, arm64 = elf.EM_X86_64, elf.EM_AARCH64
	got, err := closure(t, root(t, map[string][]byte{
		"bin/app":           fakeELF(t, amd64, "/lib64/ld.so.2", "/not/there:$ORIGIN/own", "liba.so.1", "libown.so"),
		"lib64/ld.so.2":     fakeELF(t, amd64, "", ""),
		"bin/own/libown.so": fakeELF(t, amd64, "", "", "libb.so.1"),
		// The first liba is another machine's, and the libraries need each other.
		"lib/x86_64-linux-gnu/liba.so.1":     fakeELF(t, arm64, "", ""),
		"usr/lib/x86_64-linux-gnu/liba.so.1": fakeELF(t, amd64, "", "", "libb.so.1"),
		"usr/lib/libb.so.1":                  fakeELF(t, amd64, "", "", "liba.so.1"),
		"usr/lib/libunused.so.1":             fakeELF(t, amd64, "", ""),
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"bin/own/libown.so", "lib64/ld.so.2", "usr/lib/libb.so.1", "usr/lib/x86_64-linux-gnu/liba.so.1"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestMissingLibrary(t *testing.T) {
	_, err := closure(t, root(t, map[string][]byte{
		"bin/app":            fakeELF(t, elf.EM_X86_64, "", "", "libgone.so.1"),
		"lib/libgone.so.1":   []byte("INPUT(-lgone)"), // a linker script is no library
		"lib64/libgone.so.2": fakeELF(t, elf.EM_X86_64, "", ""),
	}))
	if err == nil || !strings.Contains(err.Error(), "libgone.so.1") {
		t.Errorf("the error is %v", err)
	}
}

func TestNoLibraries(t *testing.T) {
	for what, b := range map[string][]byte{
		"a static program": fakeELF(t, elf.EM_X86_64, "", ""),
		"a script":         []byte("#!/bin/sh\n"),
		"an empty file":    nil,
	} {
		if got, err := closure(t, root(t, map[string][]byte{"bin/app": b})); err != nil || len(got) != 0 {
			t.Errorf("%s needs %v, %v", what, got, err)
		}
	}
	if _, err := closure(t, root(t, map[string][]byte{"bin/app": []byte("\x7fELF, but cut off")})); err == nil {
		t.Error("a broken program is taken for a static one")
	}
}

// The machine's own programs, as far as they are installed.
func TestRealPrograms(t *testing.T) {
	for file, wantAny := range map[string]bool{"/bin/busybox": false, "/usr/bin/qemu-img": true} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if _, err := os.Stat(file); err != nil {
				t.Skip(err)
			}
			needs, err := needed(file)
			if err != nil {
				t.Fatal(err)
			}
			if file == "/bin/busybox" && len(needs.libraries) > 0 {
				t.Skip("this busybox is not the static one")
			}
			tr := tree{}
			if err := tr.addFile(file, "app"); err != nil {
				t.Fatal(err)
			}
			before := len(tr)
			if err := tr.addLibraries(systemRoot); err != nil {
				t.Fatal(err)
			}
			if got := len(tr) > before; got != wantAny {
				t.Errorf("added libraries: %v, want %v: %v", got, wantAny, slices.Sorted(maps.Keys(tr)))
			}
		})
	}
}

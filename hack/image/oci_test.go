package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A member is one entry of a tar.
type member struct {
	header *tar.Header
	body   []byte
}

func readTar(t *testing.T, b []byte) map[string]member {
	t.Helper()
	members := map[string]member{}
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return members
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := members[h.Name]; ok {
			t.Errorf("%s is in the tar twice", h.Name)
		}
		members[h.Name] = member{h, body}
	}
}

func unmarshal[T any](t *testing.T, b []byte) T {
	t.Helper()
	var v T
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return v
}

// blob returns what a descriptor points to, after checking what it says.
func blob(t *testing.T, archive map[string]member, d descriptor) []byte {
	t.Helper()
	algorithm, digest, _ := strings.Cut(d.Digest, ":")
	m, ok := archive["blobs/"+algorithm+"/"+digest]
	if !ok {
		t.Fatalf("no blob %s", d.Digest)
	}
	if got := sha256.Sum256(m.body); hex.EncodeToString(got[:]) != digest {
		t.Errorf("blob %s has digest %x", d.Digest, got)
	}
	if d.Size != int64(len(m.body)) {
		t.Errorf("blob %s has %d bytes, its descriptor says %d", d.Digest, len(m.body), d.Size)
	}
	return m.body
}

// build runs the command and returns the archive's bytes.
func build(t *testing.T, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	if err := run(append([]string{"-o", out}, args...)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeTemp(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestArchiveIsAnImageLayout(t *testing.T) {
	file := writeTemp(t, "server", "#!/bin/sh\n", 0o755)
	archive := readTar(t, build(t, "-t", "localhost:5000/server:dev", "-entrypoint", "/server -v", "-user", "65532:65532",
		"-arch", "arm64", "-label", "a=b=c", "-label", "d=", file+":/server"))

	layout := unmarshal[map[string]string](t, archive["oci-layout"].body)
	if layout["imageLayoutVersion"] != "1.0.0" {
		t.Errorf("oci-layout is %v", layout)
	}
	idx := unmarshal[index](t, archive["index.json"].body)
	if idx.SchemaVersion != 2 || len(idx.Manifests) != 1 {
		t.Fatalf("index is %+v", idx)
	}
	top := idx.Manifests[0]
	if got := top.Annotations["io.containerd.image.name"]; got != "localhost:5000/server:dev" {
		t.Errorf("containerd's name is %q", got)
	}
	if got := top.Annotations["org.opencontainers.image.ref.name"]; got != "dev" {
		t.Errorf("ref name is %q", got)
	}
	if want := (platform{Architecture: "arm64", OS: "linux"}); top.Platform == nil || *top.Platform != want {
		t.Errorf("platform is %+v", top.Platform)
	}

	m := unmarshal[manifest](t, blob(t, archive, top))
	if len(m.Layers) != 1 {
		t.Fatalf("%d layers", len(m.Layers))
	}
	c := unmarshal[config](t, blob(t, archive, m.Config))
	layer := blob(t, archive, m.Layers[0])
	if sum := sha256.Sum256(layer); !slices.Equal(c.RootFS.DiffIDs, []string{"sha256:" + hex.EncodeToString(sum[:])}) {
		t.Errorf("diff_ids are %v, the layer's content has %x", c.RootFS.DiffIDs, sum)
	}
	if c.Architecture != "arm64" || c.OS != "linux" || c.Config.User != "65532:65532" {
		t.Errorf("config is %+v", c)
	}
	if !slices.Equal(c.Config.Entrypoint, []string{"/server", "-v"}) {
		t.Errorf("entrypoint is %q", c.Config.Entrypoint)
	}
	if l := c.Config.Labels; len(l) != 2 || l["a"] != "b=c" || l["d"] != "" {
		t.Errorf("labels are %v", l)
	}
	if got := readTar(t, layer)["server"]; string(got.body) != "#!/bin/sh\n" || got.header.Mode != 0o755 {
		t.Errorf("/server is %q, mode %o", got.body, got.header.Mode)
	}
}

func TestLayerAlone(t *testing.T) {
	file := writeTemp(t, "init", "#!/bin/sh\n", 0o755)
	got := readTar(t, build(t, "-layer", file+":/sbin/init"))
	if m := got["sbin/init"]; string(m.body) != "#!/bin/sh\n" || m.header.Mode != 0o755 || len(got) == 0 {
		t.Errorf("/sbin/init is %q, in %v", m.body, got)
	}
	if _, ok := got["oci-layout"]; ok {
		t.Error("it is an image")
	}
}

func TestSameInputSameBytes(t *testing.T) {
	file := writeTemp(t, "f", "content", 0o644)
	args := []string{"-t", "localhost/x:1", file + ":/b/f", "@b/f:/a"}
	first := build(t, args...)
	// Neither the files' times nor the arguments' order may matter.
	if err := os.Chtimes(file, time.Now(), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, build(t, "-t", "localhost/x:1", "@b/f:/a", file+":/b/f")) {
		t.Error("the second archive differs")
	}
	if err := os.WriteFile(file, []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first, build(t, args...)) {
		t.Error("the archive does not change with its files")
	}
}

func TestFailureLeavesTheOldArchive(t *testing.T) {
	out := writeTemp(t, "image.tar", "old", 0o644)
	broken := errors.New("disk full")
	err := writeFile(out, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half of the new"); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "old" {
		t.Errorf("the archive is %q, %v", b, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(out)); len(left) != 1 {
		t.Errorf("leaves %v", left)
	}
}

func TestBadCommandLines(t *testing.T) {
	file := writeTemp(t, "f", "content", 0o644)
	for what, args := range map[string][]string{
		"no name":             {file + ":/f"},
		"short name":          {"-t", "server:1", file + ":/f"},
		"no tag":              {"-t", "localhost/server", file + ":/f"},
		"no registry":         {"-t", "library/server:1", file + ":/f"},
		"relative target":     {"-t", "localhost/x:1", file + ":f"},
		"no target":           {"-t", "localhost/x:1", file},
		"missing file":        {"-t", "localhost/x:1", file + ".not:/f"},
		"two for one path":    {"-t", "localhost/x:1", file + ":/f", "@/x:/f"},
		"file beneath a file": {"-t", "localhost/x:1", file + ":/f", "@/x:/f/g"},
		"root":                {"-t", "localhost/x:1", file + ":/"},
		"label without value": {"-t", "localhost/x:1", "-label", "a", file + ":/f"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			if err := run(append([]string{"-o", filepath.Join(dir, "x.tar")}, args...)); err == nil {
				t.Error("is accepted")
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("leaves %s", left[0].Name())
			}
		})
	}
}

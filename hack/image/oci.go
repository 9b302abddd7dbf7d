package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"
	"time"
)

// The parts of the OCI image specification that are used here.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"

	annotationRefName = "org.opencontainers.image.ref.name"
	// containerd reads the full name here; it takes the one above for a tag.
	annotationImageName = "io.containerd.image.name"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type config struct {
	platform
	Created time.Time `json:"created"`
	Config  execution `json:"config"`
	RootFS  rootFS    `json:"rootfs"`
	History []history `json:"history"`
}

type execution struct {
	User       string            `json:"User,omitempty"`
	Env        []string          `json:"Env"`
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// An image is all that is told of it besides its files.
type image struct {
	name, arch, user string
	entrypoint       []string
	labels           map[string]string
}

// write writes the archive. The layer is not compressed: it stays on this
// machine, where unpacking would cost more than reading.
func (i image) write(w io.Writer, t tree) error {
	var layer bytes.Buffer
	if err := t.writeLayer(&layer); err != nil {
		return err
	}
	a := archive{tar.NewWriter(w)}
	// Folders first, sorted, so that the archive can be unpacked by anything.
	for _, d := range []string{"blobs/", "blobs/sha256/"} {
		if err := a.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755, ModTime: epoch}); err != nil {
			return err
		}
	}

	p := platform{Architecture: i.arch, OS: "linux"}
	layerBlob, err := a.blob(typeLayer, layer.Bytes())
	if err != nil {
		return err
	}
	configBlob, err := a.jsonBlob(typeConfig, config{
		platform: p,
		Created:  epoch,
		Config: execution{
			User: i.user, Entrypoint: i.entrypoint, Labels: i.labels,
			Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin:/"},
		},
		// Not compressed, so the layer's digest is that of its content too.
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{layerBlob.Digest}},
		History: []history{{Created: epoch, CreatedBy: "hack/image"}},
	})
	if err != nil {
		return err
	}
	m, err := a.jsonBlob(typeManifest, manifest{
		SchemaVersion: 2, MediaType: typeManifest, Config: configBlob, Layers: []descriptor{layerBlob},
	})
	if err != nil {
		return err
	}
	m.Platform = &p
	m.Annotations = map[string]string{
		annotationImageName: i.name,
		annotationRefName:   i.name[strings.LastIndexByte(i.name, ':')+1:],
	}
	if err := a.json("index.json", index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{m}}); err != nil {
		return err
	}
	if err := a.json("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}); err != nil {
		return err
	}
	return a.Close()
}

// An archive is an OCI image layout in a tar.
type archive struct{ *tar.Writer }

func (a archive) file(name string, b []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(b)), ModTime: epoch}
	if err := a.WriteHeader(h); err != nil {
		return err
	}
	_, err := a.Write(b)
	return err
}

func (a archive) json(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.file(name, b)
}

// blob stores b under its digest.
func (a archive) blob(mediaType string, b []byte) (descriptor, error) {
	sum := sha256.Sum256(b)
	digest := hex.EncodeToString(sum[:])
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: int64(len(b))}
	return d, a.file("blobs/sha256/"+digest, b)
}

func (a archive) jsonBlob(mediaType string, v any) (descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	return a.blob(mediaType, b)
}

// Command image writes a container image without a container engine: one layer
// of files of this machine, as an OCI archive that "ctr images import" reads.
//
//	image -o server.tar -t localhost/server:dev -entrypoint /server bin/server:/server
//
// Arguments are SRC:DST for a file or a folder, and @TARGET:DST for a symbolic
// link. With -ldd the shared libraries that the files need come along. The same
// input gives the same bytes. With -layer it writes a tar of the files alone, for the
// disk of a virtual machine.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("image: ")
	if err := run(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		log.Fatal(err)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	out := flags.String("o", "", "archive to write")
	name := flags.String("t", "", "full name of the image, e.g. localhost/server:dev")
	entrypoint := flags.String("entrypoint", "", "command, words separated by blanks")
	user := flags.String("user", "", "UID[:GID]")
	arch := flags.String("arch", runtime.GOARCH, "architecture of the image")
	layer := flags.Bool("layer", false, "write the layer alone, a tar of the files")
	ldd := flags.Bool("ldd", false, "add the shared libraries that the files need")
	labels := map[string]string{}
	flags.Func("label", "KEY=VALUE, may be repeated", func(s string) error {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return errors.New("not KEY=VALUE")
		}
		labels[k] = v
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" || *name == "" && !*layer {
		return errors.New("-o is needed, and -t for an image")
	}
	if !*layer {
		if err := checkName(*name); err != nil {
			return err
		}
	}

	t := newTree()
	for _, a := range flags.Args() {
		if err := t.add(a); err != nil {
			return err
		}
	}
	if *ldd {
		if err := t.addLibraries(systemRoot); err != nil {
			return err
		}
	}
	if *layer {
		return writeFile(*out, t.writeLayer)
	}
	img := image{
		name: *name, arch: *arch, user: *user, labels: labels,
		entrypoint: strings.Fields(*entrypoint),
	}
	return writeFile(*out, func(w io.Writer) error { return img.write(w, t) })
}

// checkName asks for a registry and a tag: container runtimes complete a short
// name, each in its own way, and then don't find what was imported.
func checkName(name string) error {
	registry, rest, ok := strings.Cut(name, "/")
	if !ok || (registry != "localhost" && !strings.ContainsAny(registry, ".:")) || !strings.Contains(rest, ":") {
		return fmt.Errorf("%q is not a full name such as localhost/server:dev", name)
	}
	return nil
}

// writeFile replaces path only after all is written, so nobody imports half an
// archive.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

package interop

import "testing"

// nbdkit serves the volume at uri again, by its nbd plugin, to a shell command
// that finds the new URI in $uri.
func nbdkit(t *testing.T, uri, shell string, args ...string) string {
	t.Helper()
	socket := shortDir(t) + "/nbdkit.sock"
	args = append([]string{"-U", socket, "--run", shell}, args...)
	return must(t, "nbdkit", append(args, "nbd", "uri="+uri)...)
}

// TestNbdkit has nbdkit as the client.
func TestNbdkit(t *testing.T) {
	const size = 32 * mib
	image := newImage(t, "disk.img", sparse(size))
	transports(t, func(t *testing.T, transport string) {
		s := start(t, config{volumes: []string{image, "scratch=memory:32M"}})
		disk, scratch := s.uris[transport][0], s.uris[transport][1]
		out := t.TempDir() + "/out.img"
		nbdkit(t, disk, `nbdcopy "$uri" '`+out+`'`)
		sameFile(t, image, out)
		nbdkit(t, scratch, `nbdcopy '`+image+`' "$uri"`)
		must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", disk, scratch)
		contains(t, nbdkit(t, disk, `nbdinfo "$uri"`), "is_read_only: true", "can_multi_conn: true")
	})
}

package interop

import "testing"

// TestScripts runs testdata/*.py, which use libnbd from Python.
func TestScripts(t *testing.T) {
	const size = 16 * mib
	transports(t, func(t *testing.T, transport string) {
		target := newHole(t, "target.img", size)
		s := start(t, config{volumes: []string{"target=" + target + ",access=read-write", "memory:16M", "ro=" + target}})
		file, memory, readonly := s.uris[transport][0], s.uris[transport][1], s.uris[transport][2]
		nbdsh(t, "refused.py", file, readonly)
		nbdsh(t, "refused.py", memory, readonly)
		nbdsh(t, "pipeline.py", file)
		nbdsh(t, "pipeline.py", memory)
		nbdsh(t, "multiconn.py", file, target)
		nbdsh(t, "exportname.py", file)
		nbdsh(t, "flags.py", file, target)
		nbdsh(t, "flags.py", memory)
		nbdsh(t, "chunks.py", file)
		nbdsh(t, "chunks.py", memory)
	})
}

package interop

import "testing"

// fio runs one job with 16 requests in flight on 64 MiB.
func fio(t *testing.T, uri string, args ...string) {
	t.Helper()
	must(t, "fio", append([]string{"--name=job", "--ioengine=nbd", "--uri=" + uri, "--iodepth=16", "--size=64M"}, args...)...)
}

// TestFio writes at random and checks each block by its checksum; the second
// job reads again what the first one has written.
func TestFio(t *testing.T) {
	transports(t, func(t *testing.T, transport string) {
		s := start(t, config{volumes: []string{"target=" + newHole(t, "target.img", 64*mib) + ",access=read-write", "memory:64M"}})
		for _, uri := range s.uris[transport] {
			fio(t, uri, "--rw=randwrite", "--bsrange=4k-64k", "--verify=crc32c", "--verify_fatal=1", "--randseed=1", "--fsync=64")
			fio(t, uri, "--rw=randread", "--bsrange=4k-64k", "--verify=crc32c", "--verify_fatal=1", "--randseed=1")
		}
	})
}

package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fails runs a program that has to fail.
func fails(t *testing.T, name string, args ...string) {
	t.Helper()
	if r := do(t, command(t, name, args...)); r.code == 0 {
		t.Errorf("%s %q went well\n%s", name, args, r.stdout)
	}
}

func TestAllowAndDeny(t *testing.T) {
	t.Parallel()
	s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--deny", "127.0.0.0/8"}})
	fails(t, "nbdinfo", s.uri("tcp"))
	must(t, "nbdinfo", s.uri("unix"))
	contains(t, s.stderr.String(), "denied by address")

	s = start(t, config{volumes: []string{"memory:1M"}, flags: []string{"--allow", "192.0.2.0/24,127.0.0.1", "--deny", "all"}})
	must(t, "nbdinfo", s.uri("tcp"))
	fails(t, "nbdinfo", s.uri("unix"))
}

func TestMaxConnections(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--max-connections", "--max-connections-per-client"} {
		transports(t, func(t *testing.T, transport string) {
			s := start(t, config{volumes: []string{"memory:1M"}, flags: []string{flag, "1"}})
			c := s.connect(transport)
			fails(t, "nbdinfo", s.uri(transport))
			c.read(0, 512)
			c.disconnect()
			eventually(t, "the place is free", func() bool { return s.status().Connections == 0 })
			must(t, "nbdinfo", s.uri(transport))
		})
	}
}

// A limit that is raised in the file holds for a copy that is under way.
func TestConfigChangesUnderACopy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "nbd.yaml")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write("volumes: {disk.img: {rate: {bytesPerSecond: 1K}}}")
	image := newImage(t, "disk.img", []extent{{0, 8 * mib, true}})
	s := start(t, config{volumes: []string{image}, flags: []string{"--config", path}})
	copying := command(t, "nbdcopy", s.uri("tcp"), "out.img")
	var stderr strings.Builder
	copying.Stderr = &stderr
	if err := copying.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the copy begins", func() bool { return s.status().Connections > 0 })
	accepted := s.status().Connections

	write("maxConnections: none")
	eventually(t, "the error is in the log", func() bool { return strings.Contains(s.stderr.String(), "is not a number") })
	if st := s.status(); st.Connections != accepted || st.Exports[0].BytesRead >= 8*mib {
		t.Errorf("the copy isn't slow: %+v", st)
	}
	write("volumes: {disk.img: {rate: {bytesPerSecond: 1G}}}")
	if err := copying.Wait(); err != nil {
		t.Fatalf("nbdcopy: %v\n%s", err, stderr.String())
	}
	sameFile(t, image, filepath.Join(copying.Dir, "out.img"))
	contains(t, s.stderr.String(), "the changed configuration is in force")
}

func TestVolumePolicy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nbd.yaml")
	if err := os.WriteFile(path, []byte("volumes: {secret: {allow: [192.0.2.1], deny: [all]}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	transports(t, func(t *testing.T, transport string) {
		s := start(t, config{volumes: []string{"open=memory:1M", "secret=memory:1M"}, flags: []string{"--config", path}})
		nbdsh(t, "policy.py", s.uris[transport][0], "secret", "open")
		fails(t, "nbdinfo", s.uris[transport][1])
		r := do(t, command(t, "qemu-img", "info", s.uris[transport][1]))
		contains(t, r.stderr, "the export is denied to this address")
		contains(t, s.stderr.String(), "export refused")
	})
}

// What is wrong with a configuration at start keeps the server from starting.
func TestConfigAtStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "nbd.yaml")
	for content, why := range map[string]string{
		"volumes: {dusk: {}}": `--config ` + path + `: volumes: "dusk" isn't the name of a volume`,
		"maxMemory: 1M":       "maxMemory: 1048576 bytes are too few",
		"deny: []\ndeny: []":  `line 2: key "deny" already set`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, command(t, raceBinary, "serve", "--listen", "tcp://127.0.0.1:0", "--config", path, "disk=memory:1M"), []string{why})
	}
}

// Clients that ask for much and take nothing don't hold up others for ever.
func TestStalledClients(t *testing.T) {
	t.Parallel()
	image := newImage(t, "disk.img", []extent{{0, 64 * mib, true}})
	s := start(t, config{volumes: []string{image}, flags: []string{"--max-memory", "64M"}})
	for range 2 {
		s.connect("tcp").put(request(0, cmdRead, 1, 0, 32*mib))
	}
	eventually(t, "their memory is held", func() bool { return s.status().InFlight == 2 })
	must(t, "nbdcopy", "--requests=1", "--connections=1", s.uri("tcp"), "null:")
	contains(t, s.stderr.String(), "stalled while others waited for memory")
	if n := s.status().Connections; n != 1 {
		t.Errorf("%d of the stalled clients are left; one had to go", n)
	}
}

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestParseAddress(t *testing.T) {
	good := map[string]address{
		"tcp://127.0.0.1:10809": {"tcp", "127.0.0.1:10809"},
		"tcp://[::1]:0":         {"tcp", "[::1]:0"},
		"tcp://:10809":          {"tcp", ":10809"},
		"tcp://localhost:nbd":   {"tcp", "localhost:nbd"},
		"unix:///run/nbd.sock":  {"unix", "/run/nbd.sock"},
		"unix:///run/a b?c#d":   {"unix", "/run/a b?c#d"},
	}
	for s, want := range good {
		if got, err := parseAddress(s); err != nil || got != want {
			t.Errorf("parseAddress(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "tcp", "tcp://", "tcp://localhost", "tcp://::1:10809", "127.0.0.1:10809", "udp://127.0.0.1:1",
		"tcp://127.0.0.1:", "tcp://127.0.0.1:65536", "tcp://127.0.0.1:-1", "tcp://127.0.0.1:0/disk", "unix:///" + strings.Repeat("x", 107),
		"unix://", "unix://run/nbd.sock", "unix:/run/nbd.sock", "/run/nbd.sock", "TCP://127.0.0.1:1",
	} {
		if got, err := parseAddress(s); err == nil {
			t.Errorf("parseAddress(%q) = %v, want an error", s, got)
		}
	}
}

func TestURI(t *testing.T) {
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 10809} }
	unix := func(path string) net.Addr { return &net.UnixAddr{Net: "unix", Name: path} }
	tests := []struct {
		addr   net.Addr
		export string
		want   string
	}{
		{tcp("127.0.0.1"), "disk.img", "nbd://127.0.0.1:10809/disk.img"},
		{tcp("::1"), "disk", "nbd://[::1]:10809/disk"},
		{tcp("0.0.0.0"), "disk", "nbd://localhost:10809/disk"},
		{tcp("::"), "disk", "nbd://localhost:10809/disk"},
		{tcp("127.0.0.1"), "", "nbd://127.0.0.1:10809/"},
		{tcp("127.0.0.1"), "two words", "nbd://127.0.0.1:10809/two%20words"},
		{tcp("127.0.0.1"), "50%25?#", "nbd://127.0.0.1:10809/50%2525%3F%23"},
		{tcp("127.0.0.1"), "a/b", "nbd://127.0.0.1:10809/a/b"},
		{tcp("127.0.0.1"), "/a", "nbd://127.0.0.1:10809//a"},
		{tcp("127.0.0.1"), "näme", "nbd://127.0.0.1:10809/n%C3%A4me"},
		{unix("/run/nbd.sock"), "disk", "nbd+unix:///disk?socket=%2Frun%2Fnbd.sock"},
		{unix("/run/a b+c%20&d"), "two words", "nbd+unix:///two%20words?socket=%2Frun%2Fa%20b%2Bc%2520%26d"},
		{unix("/run/nbd.sock"), "a/b?c", "nbd+unix:///a/b%3Fc?socket=%2Frun%2Fnbd.sock"},
	}
	for _, tt := range tests {
		if got := uri(tt.addr, tt.export); got != tt.want {
			t.Errorf("uri(%v, %q) = %s; want %s", tt.addr, tt.export, got, tt.want)
		}
	}
}

// socketDir is a directory with a path that leaves room for the name of a socket,
// however long that of t.TempDir is. It is good in this process only.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
}

func TestListenUnix(t *testing.T) {
	dir := socketDir(t)
	at := func(name string) address { return address{"unix", filepath.Join(dir, name)} }

	live, err := at("live").listen()
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if _, err := at("live").listen(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("over a socket that is listened on: %v", err)
	}

	stale, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: at("stale").addr})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false) // as when the process is killed
	stale.Close()
	l, err := at("stale").listen()
	if err != nil {
		t.Fatalf("over a socket that was left behind: %v", err)
	}
	l.Close()

	if err := os.WriteFile(at("file").addr, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(at("file").addr, at("link").addr); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "link", "."} {
		l, err := at(name).listen()
		if err == nil {
			l.Close()
			t.Fatalf("a socket was put in the place of a %s", name)
		}
		if !strings.Contains(err.Error(), "no socket") {
			t.Errorf("over %s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(at("file").addr); string(b) != "precious" {
		t.Errorf("the file holds %q now (%v)", b, err)
	}
}

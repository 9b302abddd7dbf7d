package main

import (
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/backend/memory"
)

// TestStdioClientIsWatched: a client of inetd is one of TCP as any other, and found
// out when it has vanished. What shows it are the keepalives, which the server
// turns on.
func TestStdioClientIsWatched(t *testing.T) {
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	m, err := memory.New(4096)
	if err != nil {
		t.Fatal(err)
	}
	s := &stdioListener{conn: make(chan net.Conn, 1), left: make(chan struct{}, 1), closed: make(chan struct{})}
	s.conn <- &stdioConn{Conn: nc, left: s.left}
	srv := &nbdserver.Server{Exports: []*nbdserver.Export{{Name: "disk", Backend: m}}}
	go srv.Serve(s)
	defer srv.Close()
	if _, err := io.ReadFull(client, make([]byte, 18)); err != nil {
		t.Fatalf("the greeting: %v", err)
	}
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		if on, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); on != 1 || err != nil {
			t.Errorf("keepalive is %d, %v", on, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

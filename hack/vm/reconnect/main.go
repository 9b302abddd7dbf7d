// Command reconnect does for the Linux kernel's NBD client what nbd-client has its
// option -persist for, which that of Debian 12 can't do for a device set up by
// netlink: it has the kernel hold requests when the connection is lost, and
// gives it a new one as soon as the server is there again.
//
//	nbd-client HOST PORT /dev/nbd0 -name EXPORT -timeout 5
//	reconnect [-timeout 60] 0 HOST:PORT EXPORT
//
// Requests that were under way when the connection was lost are sent once more
// when nbd-client's timeout is over. It runs until it is killed.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("reconnect: ")
	timeout := flag.Uint64("timeout", 60, "seconds that requests wait for a server")
	flag.Parse()
	index, err := strconv.ParseUint(flag.Arg(0), 10, 32)
	if err != nil || flag.NArg() != 3 {
		log.Fatal("usage: reconnect [-timeout SECONDS] INDEX HOST:PORT EXPORT")
	}
	log.Fatal(run(uint32(index), flag.Arg(1), flag.Arg(2), *timeout))
}

// run never returns without an error.
func run(index uint32, addr, export string, timeout uint64) error {
	k, err := dialKernel()
	if err != nil {
		return err
	}
	device := attribute(attrIndex, index)
	if err := k.reconfigure(device, attribute(attrDeadConnTimeout, timeout)); err != nil {
		return fmt.Errorf("nbd%d: %w", index, err)
	}
	log.Printf("nbd%d waits up to %d s for its server", index, timeout)
	for {
		if err := k.awaitDeadLink(index); err != nil {
			return err
		}
		conn, err := await(addr, export, time.Duration(timeout)*time.Second)
		if err != nil {
			return err
		}
		socket := attribute(attrSocketItem, attribute(attrSocketFD, uint32(conn.Fd())))
		if err := k.reconfigure(device, attribute(attrSockets, socket)); err != nil {
			return fmt.Errorf("nbd%d: %w", index, err)
		}
		conn.Close() // the kernel has its own reference
		log.Printf("nbd%d has a new connection", index)
	}
}

// await connects to a server that may not be there yet.
func await(addr, export string, timeout time.Duration) (*os.File, error) {
	for deadline := time.Now().Add(timeout); ; time.Sleep(100 * time.Millisecond) {
		conn, err := connect(addr, export)
		if err == nil || time.Now().After(deadline) {
			return conn, err
		}
	}
}

// connect negotiates as the kernel's client wants it: simple replies and nothing
// else.
func connect(addr, export string) (*os.File, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	var greeting struct {
		Init, Option uint64
		Flags        wire.HandshakeFlags
	}
	if err := binary.Read(conn, binary.BigEndian, &greeting); err != nil {
		return nil, fmt.Errorf("%s: greeting: %w", addr, err)
	}
	if greeting.Init != wire.MagicInit || greeting.Option != wire.MagicOption || greeting.Flags&wire.FlagNoZeroes == 0 {
		return nil, fmt.Errorf("%s: this is no newstyle NBD server: %+v", addr, greeting)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(wire.ClientFixedNewstyle|wire.ClientNoZeroes))
	b = binary.BigEndian.AppendUint64(b, wire.MagicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(wire.OptExportName))
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	if _, err := conn.Write(append(b, export...)); err != nil {
		return nil, err
	}
	var sizeAndFlags [10]byte
	if _, err := io.ReadFull(conn, sizeAndFlags[:]); err != nil {
		return nil, fmt.Errorf("%s: the export %q: %w", addr, export, err)
	}
	conn.SetDeadline(time.Time{})
	return conn.(*net.TCPConn).File()
}

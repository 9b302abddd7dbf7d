package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// captivePatience is how long the command of --run may take to end after it was
// told to, before it is killed.
const captivePatience = 10 * time.Second

// captive is the command of --run. Without one it is the zero value, which never
// ends and has nothing to say.
type captive struct {
	pid    int           // negative if the process has a group of its own, as kill(2) has it
	ended  chan struct{} // gets a value when the process has ended
	waited chan struct{} // closed then; status is set
	status int           // its exit code, or 128 and the number of the signal
}

// privateAddress makes a directory that only its owner can enter, for a socket
// that only the command of --run will know. The directory is there also if there
// is an error about the address.
func privateAddress() (dir string, a address, err error) {
	dir, err = os.MkdirTemp("", "nbdserver-")
	if err == nil {
		a, err = parseAddress("unix://" + filepath.Join(dir, "sock"))
	}
	if err != nil {
		err = fmt.Errorf("--run: a place for the socket: %w: set TMPDIR to another directory, or give --listen", err)
	}
	return dir, a, err
}

// startCaptive runs a shell command with the standard input and outputs of this
// process. The listener must be open already.
//
// The command has a process group of its own, so that what the shell starts ends
// with it; but not if it may read from a terminal, which is for the group in the
// foreground only.
func startCaptive(command string, l net.Addr, export, uri string) (*captive, error) {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), captiveEnv(l, export, uri)...)
	_, err := unix.IoctlGetTermios(0, unix.TCGETS)
	group := err != nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: group}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("--run: %w", err)
	}
	c := &captive{pid: cmd.Process.Pid, ended: make(chan struct{}, 1), waited: make(chan struct{})}
	if group {
		c.pid = -c.pid
	}
	go func() {
		_ = cmd.Wait() // how it ended is in the state
		c.status = exitStatus(cmd.ProcessState)
		close(c.waited)
		c.ended <- struct{}{}
	}()
	return c, nil
}

// captiveEnv is what nbdkit-captive(1) has in the environment. As there, nbd is
// the same as uri.
func captiveEnv(l net.Addr, export, uri string) []string {
	var port, socket string
	switch a := l.(type) {
	case *net.TCPAddr:
		port = strconv.Itoa(a.Port)
	case *net.UnixAddr:
		socket = a.Name
	}
	return []string{"uri=" + uri, "nbd=" + uri, "port=" + port, "unixsocket=" + socket, "exportname=" + export}
}

// exitStatus is how a shell gives the end of a process.
func exitStatus(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// finish ends the command, if the server ended first, and returns the end of the
// process: the command's status, unless that is 0, else the server's. As in the
// drain a second signal cuts it short.
func (c *captive) finish(served error, signals *signalled, log *zap.Logger) error {
	if c.pid == 0 {
		return served
	}
	select {
	case <-c.waited:
	default:
		log.Info("the server has ended before the command of --run: the command is sent SIGTERM")
		_ = syscall.Kill(c.pid, syscall.SIGTERM) // it may have ended just now
		c.await(signals, log)
	}
	if c.status != 0 {
		return exitCode(c.status)
	}
	return served
}

// await waits for the end of the command, for as long as it may take.
func (c *captive) await(signals *signalled, log *zap.Logger) {
	patience := time.After(captivePatience)
	for {
		select {
		case <-c.waited:
			return
		case s := <-signals.c:
			if !signals.second() {
				continue
			}
			log.Warn("a second signal: the command of --run is killed", zap.Stringer("signal", s))
		case <-patience:
			log.Warn("the command of --run goes on after SIGTERM: it is killed", zap.Duration("after", captivePatience))
		}
		_ = syscall.Kill(c.pid, syscall.SIGKILL)
		<-c.waited
		return
	}
}

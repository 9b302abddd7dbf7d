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
// that only the command of --run will know.
func privateAddress() (dir, addr string, err error) {
	dir, err = os.MkdirTemp("", "nbdserver-")
	if err != nil {
		return "", "", fmt.Errorf("--run: a place for the socket: %w: set TMPDIR to a directory that can be written to, or give --listen", err)
	}
	return dir, "unix://" + filepath.Join(dir, "sock"), nil
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
// process: the command's status, unless that is 0, else the server's.
func (c *captive) finish(served error, log *zap.Logger) error {
	if c.pid == 0 {
		return served
	}
	select {
	case <-c.waited:
	default:
		log.Info("the server has ended before the command of --run: the command is sent SIGTERM")
		_ = syscall.Kill(c.pid, syscall.SIGTERM) // it may have ended just now
		select {
		case <-c.waited:
		case <-time.After(captivePatience):
			log.Warn("the command of --run goes on after SIGTERM: it is killed", zap.Duration("after", captivePatience))
			_ = syscall.Kill(c.pid, syscall.SIGKILL)
			<-c.waited
		}
	}
	if c.status != 0 {
		return exitCode(c.status)
	}
	return served
}

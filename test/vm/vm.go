// Package vm boots the virtual machines of hack/vm.sh for tests, with an NBD export as
// their disk, and has them run commands. It emulates them (qemu's TCG), so that it
// works wherever tests run; one takes 5 to 15 s to boot.
package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options say what a machine is made of.
type Options struct {
	// Command runs qemu-system-x86_64 elsewhere, such as "kubectl exec -i POD --";
	// without it, qemu runs here.
	Command []string
	// Dir has the kernel and the initial RAM disk, where qemu runs; Dir() if it is
	// empty.
	Dir string
	// Root is the disk with the root file system.
	Root Disk
}

// Disk is an NBD export, as qemu's client sees it.
type Disk struct {
	Host, Port, Export string
	// TLS is the directory with ca-cert.pem, client-cert.pem and client-key.pem,
	// where qemu runs; empty for a connection in the clear.
	TLS string
	// Hostname is the name in the server's certificate, if that isn't Host.
	Hostname string
}

// Dir is where hack/vm.sh puts what it makes.
func Dir() (string, error) {
	cache := os.Getenv("NBDEXPORT_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(user, "nbdexport")
	}
	return filepath.Join(cache, "vm"), nil
}

// GoldenImage is the raw image of a root file system that hack/vm.sh has made. It
// must not be written to.
func GoldenImage() (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "golden.img")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("there is no virtual machine to boot: run hack/vm.sh (%w)", err)
	}
	return path, nil
}

// Machine is a virtual machine that runs. It takes one command at a time.
type Machine struct {
	cmd     *exec.Cmd
	kill    context.CancelFunc
	in      io.Writer
	lines   chan string // what it says; closed at its end
	console buffer      // what its kernel and qemu say
	done    chan struct{}
	err     error // how qemu ended; valid when done is closed
	number  int   // of the last command
}

// Boot starts a machine and waits until it takes commands. It is killed when ctx is
// done; whoever gets a machine has to Kill it.
func Boot(ctx context.Context, o Options) (*Machine, error) {
	args, err := o.args()
	if err != nil {
		return nil, err
	}
	argv := append(slices.Clone(o.Command), args...)
	ctx, kill := context.WithCancel(ctx)
	m := &Machine{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), kill: kill, lines: make(chan string), done: make(chan struct{})}
	// Not even a test that panics or runs out of time leaves a machine behind.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.cmd.WaitDelay = 5 * time.Second
	m.cmd.Stderr = &m.console
	in, err := m.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	m.in = in
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		kill()
		return nil, fmt.Errorf("%w: qemu is in the Debian package qemu-system-x86, run hack/deps.sh vm", err)
	}
	go m.read(ctx, out)
	if _, err := m.await(ctx, "ready"); err != nil {
		m.Kill()
		return nil, fmt.Errorf("the machine doesn't boot: %w", err)
	}
	return m, nil
}

// Kill ends a machine as a power cut does, if it still runs, and waits for its end.
func (m *Machine) Kill() {
	m.kill()
	<-m.done
}

// args are qemu's. The first serial port, the kernel's, goes to standard error; the
// second one takes commands.
func (o Options) args() ([]string, error) {
	dir := o.Dir
	if dir == "" {
		var err error
		if dir, err = Dir(); err != nil {
			return nil, err
		}
	}
	// On a machine that is busy elsewhere, an emulated timer is late: the kernel must not
	// take it for broken.
	kernel := "console=ttyS0 panic=-1 no_timer_check tsc=reliable"
	args := []string{"qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none", "-machine", "pc", "-accel", "tcg", "-cpu", "max", "-m", "256",
		"-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", filepath.Join(dir, "initrd"), "-append", kernel,
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-serial", "file:/dev/stderr", "-chardev", "stdio,id=commands,signal=off", "-serial", "chardev:commands"}
	drive := []string{"if=virtio", "discard=unmap", "driver=nbd", "host=" + o.Root.Host, "port=" + o.Root.Port, "export=" + o.Root.Export}
	if o.Root.TLS != "" {
		args = append(args, "-object", options("tls-creds-x509", "id=tls", "endpoint=client", "dir="+o.Root.TLS))
		drive = append(drive, "tls-creds=tls")
		if o.Root.Hostname != "" {
			drive = append(drive, "tls-hostname="+o.Root.Hostname)
		}
	}
	return append(args, "-drive", options(drive...)), nil
}

// options are one argument of qemu, in which a comma in a value is doubled.
func options(all ...string) string {
	for i, o := range all {
		all[i] = strings.ReplaceAll(o, ",", ",,")
	}
	return strings.Join(all, ",")
}

// read hands on what the machine says, until qemu ends.
func (m *Machine) read(ctx context.Context, out io.Reader) {
	for said := bufio.NewScanner(out); said.Scan(); {
		select {
		case m.lines <- said.Text():
		case <-ctx.Done():
		}
	}
	m.err = m.cmd.Wait()
	close(m.done)
	close(m.lines)
}

// await collects what the machine says until it says "ID EXITCODE".
func (m *Machine) await(ctx context.Context, id string) (string, error) {
	var out []string
	for {
		select {
		case line, ok := <-m.lines:
			if !ok {
				return "", fmt.Errorf("qemu has ended (%v), its last words:\n%s", m.err, m.console.tail())
			}
			if code, found := strings.CutPrefix(line, id+" "); found {
				text := strings.TrimRight(strings.Join(out, "\n"), "\n")
				if code != "0" {
					return text, fmt.Errorf("exit code %s:\n%s", code, text)
				}
				return text, nil
			}
			out = append(out, line)
		case <-ctx.Done():
			return "", fmt.Errorf("no answer in time (%w), only:\n%s\nthe console:\n%s", ctx.Err(), strings.Join(out, "\n"), m.console.tail())
		}
	}
}

// Run has a shell in the machine run a command of one line, and returns what that
// prints, errors too, without empty lines at the end. An exit code other than 0 is
// an error. When ctx is done before the command, the machine is of no more use.
func (m *Machine) Run(ctx context.Context, command string) (string, error) {
	if strings.Contains(command, "\n") {
		return "", errors.New("a command has one line")
	}
	m.number++
	id := "command-" + strconv.Itoa(m.number)
	if _, err := fmt.Fprintf(m.in, "%s %s\n", id, command); err != nil {
		return "", fmt.Errorf("%s: %w", command, err)
	}
	out, err := m.await(ctx, id)
	if err != nil {
		return out, fmt.Errorf("%s: %w", command, err)
	}
	return out, nil
}

// PowerOff has the machine write all it has to its disk, and waits for its end.
func (m *Machine) PowerOff(ctx context.Context) error {
	if _, err := fmt.Fprintln(m.in, "off sync; mount -o remount,ro / && poweroff -f"); err != nil {
		return err
	}
	for {
		select {
		case line, ok := <-m.lines:
			if !ok {
				return m.err
			}
			if strings.HasPrefix(line, "off ") {
				return fmt.Errorf("the root file system can't be made read-only: %s\n%s", line, m.console.tail())
			}
		case <-ctx.Done():
			return fmt.Errorf("the machine doesn't power off (%w), its last words:\n%s", ctx.Err(), m.console.tail())
		}
	}
}

// Console is what the kernel and qemu have said so far.
func (m *Machine) Console() string { return m.console.String() }

// buffer can be read while qemu writes to it.
type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write implements io.Writer.
func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// tail is the end of it.
func (b *buffer) tail() string {
	s := b.String()
	return s[max(0, len(s)-2000):]
}

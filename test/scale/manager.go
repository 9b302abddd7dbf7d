package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	appsv1 "k8s.io/api/apps/v1"
)

// manager is the operator's process.
type manager struct {
	cmd     *exec.Cmd
	ended   chan error
	log     string
	metrics string
}

// buildManager builds the operator's program as the image has it.
func buildManager(dir string) (program string, err error) {
	program = filepath.Join(dir, "manager")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, root+"/cmd/manager")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("can't build the manager: %w\n%s", err, out)
	}
	return program, nil
}

// startManager starts the operator with the arguments and the environment of its
// Deployment. Only its addresses are others, and its metrics need no token.
func startManager(program, kubeconfig, dir string) (*manager, error) {
	var d appsv1.Deployment
	if err := readYAML(filepath.Join(root, "config", "manager", "deployment.yaml"), &d); err != nil {
		return nil, err
	}
	metrics, err := freeAddress()
	if err != nil {
		return nil, err
	}
	container := d.Spec.Template.Spec.Containers[0]
	args := append(container.Args, "--metrics-bind-address="+metrics, "--metrics-secure=false",
		"--health-probe-bind-address=0", "--leader-election-namespace="+managerNamespace)
	log, err := os.CreateTemp(dir, "manager-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	m := &manager{cmd: exec.Command(program, args...), ended: make(chan error, 1), log: log.Name(), metrics: "http://" + metrics + "/metrics"}
	m.cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	for _, e := range container.Env {
		m.cmd.Env = append(m.cmd.Env, e.Name+"="+e.Value)
	}
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { m.ended <- m.cmd.Wait() }()
	return m, nil
}

// freeAddress is an address where nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// stop ends the manager as the kubelet does.
func (m *manager) stop() error {
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return <-m.ended
}

// lastWords is the end of the manager's log.
func (m *manager) lastWords() string {
	text, _ := os.ReadFile(m.log)
	return string(text[max(0, len(text)-2000):])
}

// work is how far the manager has come.
type work struct {
	// leads says that it has the lease.
	leads bool
	// reconciles are those that have ended, since its start.
	reconciles int
	// busy says that exports wait to be looked at, or are.
	busy bool
}

// work asks the manager for its metrics. There are none before it leads.
func (m *manager) work(ctx context.Context) (w work, err error) {
	select {
	case err := <-m.ended:
		m.ended <- err
		return w, fmt.Errorf("the manager has ended: %v\n%s", err, m.lastWords())
	default:
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.metrics, nil)
	if err != nil {
		return w, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return w, nil // it doesn't listen yet
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		return w, fmt.Errorf("%s: %w", m.metrics, err)
	}
	sum := func(family, of string) (total float64) {
		for _, metric := range families[family].GetMetric() {
			for _, l := range metric.GetLabel() {
				if l.GetValue() == of {
					total += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
					break
				}
			}
		}
		return total
	}
	return work{
		leads:      sum("leader_election_master_status", "nbdexport-manager") == 1,
		reconciles: int(sum("controller_runtime_reconcile_total", "nbdexport")),
		busy:       sum("workqueue_depth", "nbdexport")+sum("controller_runtime_active_workers", "nbdexport") > 0,
	}, nil
}

// cpu is the processor time that the manager has used.
func (m *manager) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name in brackets may have spaces; utime and stime are the 14th and 15th
	// field, in hundredths of a second: proc_pid_stat(5).
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// peakRSS is the most memory in bytes that the manager has had resident so far.
func (m *manager) peakRSS() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc has no VmHWM of the manager")
}

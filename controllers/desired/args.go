package desired

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nbdexport/nbdexport/api/v1alpha1"
)

// Places and ports within the pod.
const (
	// NBDPort is where the server listens for clients.
	NBDPort = 10809
	// HTTPPort is where the server answers probes and shows its metrics.
	HTTPPort = 10810
	// ControlSocket is where the server takes orders from within the pod.
	ControlSocket = v1alpha1.RunDir + "/control.sock"
	// ReportFile keeps the final report over a restart of the container.
	ReportFile = v1alpha1.RunDir + "/report.json"

	configDir  = "/etc/nbdexport"
	fileRoot   = "/volumes"
	deviceRoot = "/dev/nbdexport"
)

// args is the command line of the server.
func args(e *v1alpha1.NBDExport, modes map[string]corev1.PersistentVolumeMode) []string {
	d := e.Spec.Drain
	out := []string{
		"serve",
		"--listen", fmt.Sprintf("tcp://:%d", NBDPort),
		"--http", fmt.Sprintf(":%d", HTTPPort),
		"--control", "unix://" + ControlSocket,
		"--config", path.Join(configDir, configKey),
	}
	out = append(out, tlsArgs(e)...)
	for _, c := range e.Spec.ExitWhen {
		if flag, arg, ok := ExitFlag(e, c); ok {
			// In one word: the argument of --exit-when-last-client-leaves may be left out.
			out = append(out, "--exit-when-"+flag+"="+arg)
		}
	}
	out = append(out,
		"--exit-when-poll", strconv.Itoa(int(e.Spec.GetPollSeconds())),
		"--drain-grace", seconds(d.Grace()),
		"--drain-timeout", seconds(d.GetTimeoutSeconds()),
		"--drain-policy", strings.ToLower(string(d.GetPolicy())),
		"--report", corev1.TerminationMessagePathDefault,
		"--once", ReportFile,
		"--log-format", "json",
	)
	for _, v := range e.Spec.Volumes {
		out = append(out, volumeArg(e, v, modes))
	}
	return out
}

// literal writes arguments so that the kubelet hands them on as they are: it
// replaces "$(NAME)" by a variable and "$$" by "$".
func literal(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = strings.ReplaceAll(a, "$", "$$")
	}
	return out
}

// ExitFlag is how the server is told a condition: the name of the flag after
// "exit-when-", and its argument. The server's report names a condition in the
// same words, as FLAG=ARGUMENT. It is false for a condition that the operator
// watches itself.
//
// A deadline is always a time, never a duration: a server that is started again
// must not begin anew to count. The time from which seconds are counted is
// that of the export's creation, which is known before there is a pod and stays
// the same for all of them.
func ExitFlag(e *v1alpha1.NBDExport, c v1alpha1.ExitCondition) (flag, arg string, ok bool) {
	switch {
	case c.FileCreated != nil:
		return "file-created", string(c.FileCreated.Path), true
	case c.FileDeleted != nil:
		return "file-deleted", string(c.FileDeleted.Path), true
	case c.PipeClosed != nil:
		return "pipe-closed", string(c.PipeClosed.Path), true
	case c.ProcessExited != nil:
		return "process-exits", "name=" + c.ProcessExited.Name, true
	case c.Script != nil:
		return "script", scriptArg(*c.Script), true
	case c.LastClientLeft != nil:
		return "last-client-leaves", duration(c.LastClientLeft.GetGraceSeconds()), true
	case c.Idle != nil:
		return "idle", duration(c.Idle.Seconds), true
	case c.Deadline != nil:
		return "deadline", c.Deadline.At(e.CreationTimestamp.Time).Format(time.RFC3339), true
	}
	return "", "", false
}

// scriptArg writes a script as the server reads it. Characters such as "&" are
// left as they are: people read this in the pod.
func scriptArg(s v1alpha1.Script) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// Strings and a number can't fail to be encoded.
	_ = enc.Encode(struct {
		Command        []string `json:"command"`
		TimeoutSeconds int32    `json:"timeoutSeconds"`
	}{s.Command, s.GetTimeoutSeconds()})
	return strings.TrimSpace(b.String())
}

// volumeArg is how the server is told a volume.
func volumeArg(e *v1alpha1.NBDExport, v v1alpha1.Volume, modes map[string]corev1.PersistentVolumeMode) string {
	access := "access=read-only"
	switch v.GetAccess() {
	case v1alpha1.ReadWrite:
		access = "access=read-write"
	case v1alpha1.CopyOnWrite:
		limit := v.Scratch.GetSizeLimit()
		access = fmt.Sprintf("access=copy-on-write,scratch=%s,scratch-size=%d", scratchDir, limit.Value())
	}
	if m := v.Source.Memory; m != nil {
		size := m.GetSize()
		return fmt.Sprintf("%s=memory:%d,%s", v.Name, size.Value(), access)
	}
	if v.GetFormat() == v1alpha1.Qcow2 {
		access += ",format=qcow2"
	}
	claim, file := claimOf(e, v)
	if modes[claim] == corev1.PersistentVolumeBlock {
		return fmt.Sprintf("%s=%s,%s", v.Name, path.Join(deviceRoot, v.Name), access)
	}
	return fmt.Sprintf("%s=%s,root=%s,%s", v.Name, file, path.Join(fileRoot, v.Name), access)
}

// duration writes seconds in the form in which the server's report repeats them.
func duration(seconds int32) string {
	return (time.Duration(seconds) * time.Second).String()
}

func seconds(n int32) string { return strconv.Itoa(int(n)) + "s" }

//go:build e2e

package e2e

import "testing"

// Every condition that the server itself notices, each met by a companion in
// the export's pod.
func TestExitWhen(t *testing.T) {
	t.Parallel()
	const serve = "while :; do sleep 1; done"
	tests := []struct {
		name      string
		exitWhen  string
		companion string // its command; it serves until /run/nbdexport/go exists
		before    string // a file that it makes, without which the server doesn't start
		reason    string
	}{
		{
			"created", "fileCreated: {path: /run/nbdexport/stop}",
			"until [ -e /run/nbdexport/go ]; do sleep 0.1; done; touch /run/nbdexport/stop; " + serve, "",
			"FileCreated",
		},
		{
			"deleted", "fileDeleted: {path: /run/nbdexport/alive}",
			"touch /run/nbdexport/alive; until [ -e /run/nbdexport/go ]; do sleep 0.1; done; rm /run/nbdexport/alive; " + serve, "/run/nbdexport/alive",
			"FileDeleted",
		},
		{
			"pipe", "pipeClosed: {path: /run/nbdexport/pipe}",
			"mkfifo /run/nbdexport/pipe; exec 3>/run/nbdexport/pipe; until [ -e /run/nbdexport/go ]; do sleep 0.1; done; exec 3>&-; " + serve, "",
			"PipeClosed",
		},
		{
			// The server's image has no shell, so the companion brings one.
			"script", `script: {command: [/run/nbdexport/sh, -c, "[ ! -e /run/nbdexport/go ] || exit 88"]}`,
			"cp /bin/busybox /run/nbdexport/sh; " + serve, "",
			"Script",
		},
		{
			// A script is a process that has the name of its file.
			"process", "processExited: {name: agent}",
			`cd /run/nbdexport; printf "#!/bin/sh\nuntil [ -e go ]; do touch runs; sleep 0.1; done\n" >agent; chmod +x agent; ./agent; ` + serve, "/run/nbdexport/runs",
			"ProcessExited",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNamespace(t, anyTime)
			n.exitWhen(tt.exitWhen, tt.companion, tt.before)
			n.expect("e", map[string]string{
				".status.exit.condition": "the-one",
				".status.exit.reason":    tt.reason,
				".status.exit.clean":     "true",
			})
			if r := n.reason("e", "Ready"); r != "Completed" {
				t.Errorf("Ready has reason %q", r)
			}
		})
	}
}

func (n *namespace) exitWhen(condition, command, before string) {
	n.Helper()
	probe := ""
	if before != "" {
		probe = `
      startupProbe: {periodSeconds: 1, failureThreshold: 300, exec: {command: [test, -e, ` + before + `]}}`
	}
	n.apply(`
apiVersion: nbdexport.io/v1alpha1
kind: NBDExport
metadata: {name: e}
spec:
  volumes:
  - {name: scratch, source: {memory: {size: 16Mi}}, access: ReadWrite}
  exitWhen:
  - {name: never, fileCreated: {path: /run/nbdexport/never}}
  - name: the-one
    ` + condition + `
  pollSeconds: 1
  drain: {timeoutSeconds: 30}` + companion(command) + probe)
	n.await("e", "Ready", "True")
	n.kubectl("exec", n.field("e", ".status.podName"), "-c", "companion", "--", "touch", "/run/nbdexport/go")
	n.await("e", "Complete", "True")
}

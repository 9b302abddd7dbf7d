//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The server is killed while fio writes with FUA, 16 requests at a time. Its
// container is started again in the same pod, fio's connection is made again, and
// all that was acknowledged is there: fio, which has written each block once, reads
// them all back. fio's own client neither reconnects nor knows FUA, so nbdkit does
// both for it.
func TestServerKilledUnderWriteLoad(t *testing.T) {
	n := newNamespace(t, anyTime)
	n.apply(claim("Block"))
	n.apply(exportOfClaim("e", "ReadWrite"))
	n.here("e")
	pod := n.field("e", ".status.podName")
	uid := n.uid("pod", pod)
	metrics := n.read("pod", pod, "{.status.podIP}")
	written := func() uint64 {
		var s struct {
			Exports []struct{ BytesWritten uint64 }
		}
		reply, err := (&http.Client{Timeout: 20 * time.Second}).Get("http://" + metrics + ":10810/status")
		if err != nil {
			return 0
		}
		defer reply.Body.Close()
		if json.NewDecoder(reply.Body).Decode(&s) != nil || len(s.Exports) != 1 {
			return 0
		}
		return s.Exports[0].BytesWritten
	}

	job := `nbdinfo --can fua "$uri" && cd '` + t.TempDir() + `' &&
		fio --name=job --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --size=32M --iodepth=16 --rate_iops=400 --verify=pattern --verify_pattern=%o --verify_fatal=1`
	fio := exec.CommandContext(t.Context(), "nbdkit", "-U", "-", "--run", job,
		"--filter=fua", "--filter=retry", "nbd", "hostname="+n.address("e"),
		"tls=require", "tls-certificates="+n.files(n.secret("nbd-e-client")), "fuamode=force", "retries=300", "retry-delay=1", "retry-exponential=no")
	ended := make(chan string, 1)
	go func() {
		out, err := fio.CombinedOutput()
		if err != nil {
			out = append(out, err.Error()...)
		}
		ended <- string(out)
	}()
	going := func() {
		t.Helper()
		select {
		case out := <-ended:
			t.Fatalf("fio has ended: %s", out)
		default:
		}
	}
	server := n.processes(n.name, pod, "nbdserver")
	n.eventually("fio writes", func() bool { going(); return written() > 4<<20 })
	n.kill(server)
	n.eventually("fio writes to the next server", func() bool {
		going()
		return n.restarts(pod) == "1" && written() > 0
	})
	if out := <-ended; !strings.Contains(out, "err= 0") {
		t.Errorf("fio: %s", out)
	}
	if got := n.uid("pod", pod); got != uid {
		t.Errorf("the export's pod is %s, not %s", got, uid)
	}
	n.await("e", "Ready", "True")
	n.expect("e", map[string]string{".status.exit": ""})
	code := n.read("pod", pod, "{.status.containerStatuses[0].lastState.terminated.exitCode}")
	if code != "137" || n.restarts(pod) != "1" {
		t.Errorf("the server has ended with exit code %s, and was started again %s times", code, n.restarts(pod))
	}
}

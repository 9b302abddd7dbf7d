// Package report defines the one message that the server leaves behind when it
// ends: why, when and how. In a pod it is the container's termination message,
// and it is all that the operator knows of an export's end.
package report

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Exit codes of the server process.
const (
	// ExitClean says that every client left by itself or had nothing under way.
	ExitClean = 0
	// ExitStartup says that the server never served: a usage or start-up error.
	ExitStartup = 1
	// ExitClientsCut says that connections were closed at the deadline, or by a
	// second signal, before their clients had left.
	ExitClientsCut = 3
	// ExitFlushFailed says that data which a client had written may not be on
	// stable storage: a flush or the close of a volume failed.
	ExitFlushFailed = 4
	// ExitDeviceDenied says that the server never served, because the user that it
	// runs as may not open a block device. It has a code of its own because somebody
	// else than for other errors can help: who configures the node's containers.
	ExitDeviceDenied = 5
)

// Report is the end of a server in a few words. Times are in UTC.
type Report struct {
	// Condition is what began the drain, as KIND=ARGUMENT in the spelling of
	// the exit-when flags ("file-created=/run/nbdexport/stop"),
	// "parent-exits=PID", "signal=SIGTERM", "signal=SIGINT", "control=drain",
	// "stdio=closed" (the client of --stdio has left), "run=exited" (the command
	// of --run has ended), or "shutdown" or "close" for these methods of a
	// Server; in the form of Brief once it is written to a file.
	Condition string `json:"condition"`
	// StartedAt is when the condition was noticed.
	StartedAt time.Time `json:"startedAt"`
	// FinishedAt is when the last volume had been flushed and closed.
	FinishedAt time.Time `json:"finishedAt"`
	// ExitCode is the exit code of the process, one of the Exit constants.
	ExitCode int `json:"exitCode"`
	// ClientsCut counts the connections that were closed before their clients
	// had left.
	ClientsCut int `json:"clientsCut"`
	// BytesRead and BytesWritten count the payload of successful reads and
	// writes, over all connections and volumes.
	BytesRead    uint64 `json:"bytesRead"`
	BytesWritten uint64 `json:"bytesWritten"`
	// Error is the first failure to flush or close a volume; empty if none. In
	// the form of Brief once it is written to a file.
	Error string `json:"error,omitempty"`
}

// brief is the length in bytes up to which Brief leaves a text as it is. A
// report must fit into a termination message: the kubelet keeps 4096 bytes of
// one, and fewer in a pod of many containers.
const brief = 256

// Brief returns s if it is at most 256 bytes long, and else its beginning with a
// hash of the whole, 256 bytes together: short, and still different for
// different texts.
func Brief(s string) string {
	if len(s) <= brief {
		return s
	}
	hash := fmt.Sprintf("#%x", sha256.Sum256([]byte(s)))[:17]
	return strings.ToValidUTF8(s[:brief-len(hash)], "") + hash
}

// Clean tells whether nothing was cut short and no data is in doubt.
func (r Report) Clean() bool { return r.ExitCode == ExitClean }

// Parse reads a report from its JSON form. Fields that it does not know are
// ignored, so that an older operator reads a newer server's report.
func Parse(b []byte) (Report, error) {
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return Report{}, fmt.Errorf("not a report of nbdserver: %w", err)
	}
	if r.Condition == "" || r.FinishedAt.IsZero() {
		return Report{}, fmt.Errorf("not a report of nbdserver: condition or finishedAt is missing")
	}
	return r, nil
}

// Clear removes a report of an earlier run, so that nobody takes it for that of a
// run which leaves none. What can't be removed, a mounted file, is emptied; what
// isn't a regular file is left alone.
func Clear(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular() || os.Remove(path) == nil:
		return nil
	}
	return os.Truncate(path, 0)
}

// WriteFile puts the report into a file. A regular file is replaced as a whole
// where its directory allows that, so that nobody reads half of one; the
// termination message of a container is a mounted file in a read-only
// directory, and is written in place. So is what isn't a regular file: a device,
// a FIFO, a symbolic link.
func (r Report) WriteFile(path string) error {
	r.Condition, r.Error = Brief(r.Condition), Brief(r.Error)
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	b = append(b, '\n')
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return os.WriteFile(path, b, 0o644)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".report-*")
	if err != nil {
		return os.WriteFile(path, b, 0o644)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return os.WriteFile(path, b, 0o644)
	}
	return nil
}

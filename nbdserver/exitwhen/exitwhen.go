// Package exitwhen tells the server when to end: a file appears or goes away,
// the far end of a pipe closes, a process exits, a script says so; beyond
// nbdkit's, the clients have left or a time has come. It has the semantics of
// nbdkit-exitwhen-filter(1) and differs where the man page names a limit: what
// the kernel can report is noticed at once, with clients connected or not, and
// only what it can't is polled.
//
// The constructors build conditions from the arguments of the flags, a Set
// waits for the first of them:
//
//	stop, err := exitwhen.FileCreated("/tmp/stop", exitwhen.Options{Log: log})
//	...
//	set := exitwhen.NewSet(log, stop)
//	defer set.Close()
//	event, already, err := set.Check(ctx) // before listening
//	event, err = set.Watch(ctx)           // while serving
//
// The package needs Linux: inotify(7), epoll(7) and pidfd_open(2), that is
// Linux 5.3 or newer.
package exitwhen

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// DefaultPoll is how often a condition is polled if Options doesn't say; it is
// the default of exit-when-poll in nbdkit-exitwhen-filter(1).
const DefaultPoll = 60 * time.Second

// Condition is one thing that ends the server when it happens. It latches: once
// it has been seen to have happened it stays so, even if the file that was
// created is removed again.
//
// Check, Watch and Close must not run at the same time as one another. String
// may be called at any time.
type Condition interface {
	// String is KIND=ARGUMENT in the spelling of the exit-when flags, with
	// paths made absolute: "file-created=/tmp/stop", "process-exits=1234".
	String() string

	// Check tells whether it has happened already. The error is ctx's, if ctx
	// ended before that was known; trouble such as a directory without
	// permission is logged and means no.
	Check(ctx context.Context) (bool, error)

	// Watch returns nil once it has happened, and ctx's error if ctx ends
	// first. Any other error means that the condition can't be watched any
	// longer, never that it happened. After an error that was ctx's, Watch may
	// be called again.
	Watch(ctx context.Context) error

	// Close releases the descriptors of the condition, which is of no use
	// afterwards. A second Close does nothing.
	Close() error
}

// Options are common to all conditions. The zero value works.
type Options struct {
	// Poll is the time between two looks at what the kernel doesn't report:
	// scripts are run this often, and files are looked at this often in case
	// they are on a network file system. Zero and less mean DefaultPoll; a flag
	// should refuse them before they come here.
	Poll time.Duration

	// Clients are those whose absence Idle and LastClientLeaves wait for. The
	// other conditions don't use it.
	Clients *Clients

	// Log receives what hinders a condition from being noticed, and the output
	// of scripts that fail. Nil discards it.
	Log *zap.Logger
}

// withDefaults fills in what the caller left out.
func (o Options) withDefaults() Options {
	if o.Poll <= 0 {
		o.Poll = DefaultPoll
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return o
}

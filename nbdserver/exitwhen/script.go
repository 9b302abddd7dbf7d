package exitwhen

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// The exit codes of a script, from nbdkit-exitwhen-filter(1).
const (
	codeNo        = 0  // it hasn't happened
	codeHappened  = 88 // it has; what lies between the two are failures
	codeReserved  = 89 // from here on they are kept for later use
	codeNotExited = -1 // it didn't exit: not started, killed, timed out
)

// Script happens when a command exits with code 88, as exit-when-script in
// nbdkit-exitwhen-filter(1). Code 0 means that it hasn't happened. So do the
// codes 1 to 87, which are logged as failures, the reserved codes from 89 on, a
// command that can't be started, is killed by a signal or takes too long: all
// of them are logged with the end of the command's output.
//
// The argument is a command line for /bin/sh, or, if it begins with "{", a JSON
// object that is run without a shell:
//
//	{"command": ["/usr/bin/check", "-q"], "timeoutSeconds": 5}
//
// The timeout is from 1 to 3600 seconds; without it, and for command lines, it
// is 30. The command runs when the condition is first checked or watched and
// then every o.Poll, in the working directory and with the environment of the
// server, its standard input empty. It never runs twice at the same time: if it
// takes longer than o.Poll, it next runs o.Poll after it has ended. It is
// killed, and its process group with it, when its time is over or the watch
// ends; processes that it leaves behind otherwise are left alone.
func Script(arg string, o Options) (Condition, error) {
	o = o.withDefaults()
	c, err := parseScript(arg)
	if err != nil {
		return nil, err
	}
	name := "script=" + arg
	return &script{
		name: name,
		run:  c.run,
		poll: o.Poll,
		log:  o.Log.With(zap.String("condition", name)),
	}, nil
}

// script is the condition that run's outcome is code 88.
type script struct {
	name     string
	run      func(context.Context) outcome
	poll     time.Duration
	log      *zap.Logger
	next     time.Time // when to run it again; zero before the first run
	happened bool
}

// outcome is how one run of a script ended.
type outcome struct {
	code   int
	err    error  // why there is no exit code, with codeNotExited
	output string // the end of what it wrote to stdout and stderr
}

func (s *script) String() string { return s.name }

func (s *script) Check(ctx context.Context) (bool, error) {
	if s.happened {
		return true, nil
	}
	started := time.Now()
	o := s.run(ctx)
	s.next = started.Add(s.poll)
	if now := time.Now(); now.After(s.next) {
		s.next = now.Add(s.poll)
	}
	// A run that was cut short says nothing; one that ended in time does.
	if o.code == codeNotExited && ctx.Err() != nil {
		return false, ctx.Err()
	}
	s.happened = s.judge(o)
	return s.happened, nil
}

func (s *script) Watch(ctx context.Context) error {
	for !s.happened {
		if err := sleep(ctx, time.Until(s.next)); err != nil {
			return err
		}
		if _, err := s.Check(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *script) Close() error { return nil }

// judge tells whether the outcome is that it has happened, and logs what is
// neither that nor no.
func (s *script) judge(o outcome) bool {
	var err error
	switch {
	case o.code == codeHappened:
		return true
	case o.code == codeNo:
		return false
	case o.code == codeNotExited:
		err = o.err
	case o.code >= codeReserved:
		err = fmt.Errorf("it exited with code %d, which is reserved: 88 says that it has happened, 0 that it hasn't", o.code)
	default:
		err = fmt.Errorf("it exited with code %d", o.code)
	}
	s.log.Error("the script failed, which counts as not happened", zap.Error(err), zap.String("output", o.output))
	return false
}

var errNoScript = errors.New("no script given: give a command line for /bin/sh or a JSON object")

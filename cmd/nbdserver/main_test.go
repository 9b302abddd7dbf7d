package main

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// TestMain has the runtime begin to deliver signals before any test does: what it
// makes for that, once in a process, belongs to the synctest bubble in which it is
// made, and the next test outside of that bubble would crash them all. Otherwise it
// depends on their order whether they do.
func TestMain(m *testing.M) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	signal.Stop(c)
	os.Exit(m.Run())
}

package vm

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// patience bounds a command in a machine, and its end.
const patience = 5 * time.Minute

// Guest is a machine in a test, which fails when the machine does.
type Guest struct {
	TB testing.TB
	*Machine
}

// Must runs a command, formatted as by fmt.Sprintf, that has to succeed within five
// minutes, and returns what it printed.
func (g Guest) Must(format string, args ...any) string {
	g.TB.Helper()
	ctx, cancel := context.WithTimeout(g.TB.Context(), patience)
	defer cancel()
	out, err := g.Run(ctx, fmt.Sprintf(format, args...))
	if err != nil {
		g.TB.Fatalf("%v\nconsole:\n%s", err, g.Console())
	}
	return out
}

// MustPowerOff has the machine end, within five minutes.
func (g Guest) MustPowerOff() {
	g.TB.Helper()
	ctx, cancel := context.WithTimeout(g.TB.Context(), patience)
	defer cancel()
	if err := g.PowerOff(ctx); err != nil {
		g.TB.Fatal(err)
	}
}

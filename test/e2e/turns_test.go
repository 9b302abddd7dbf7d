//go:build e2e

package e2e

import "testing"

// A turn is what as many tests have at a time as it has room for.
type turn chan struct{}

// unlimited is for go test's own -parallel, which counts those that wait for their turn:
// they mustn't keep out who has it.
const unlimited = "1000"

var (
	// anyTime is the turn of tests that disturb nobody. They wait more than they work,
	// but pods that start, a dozen at once, are in each other's way.
	anyTime = make(turn, 8)
	// theOperator is the turn of tests that do something to the operator. To the others
	// it makes no difference but a few seconds: that is what it is tested for.
	theOperator = make(turn, 1)
	// secondNode and thirdNode are the turns of tests that do something to one of these.
	secondNode = make(turn, 1)
	thirdNode  = make(turn, 1)
	// machines is the turn of tests that run virtual machines: emulated ones take all
	// the CPUs there are.
	machines = make(turn, 1)
)

// take waits for the turn, which is over with the test.
func (u turn) take(t *testing.T) {
	t.Helper()
	t.Parallel()
	u <- struct{}{}
	t.Cleanup(func() { <-u })
}

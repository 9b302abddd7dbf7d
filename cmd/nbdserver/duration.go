package main

import (
	"fmt"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver"
)

// durationOrInfinite is the value of a flag that takes a duration, or the word
// "infinite".
type durationOrInfinite time.Duration

// String implements pflag.Value.
func (d *durationOrInfinite) String() string {
	if time.Duration(*d) == nbdserver.Infinite {
		return "infinite"
	}
	return time.Duration(*d).String()
}

// Set implements pflag.Value.
func (d *durationOrInfinite) Set(s string) error {
	if s == "infinite" {
		*d = durationOrInfinite(nbdserver.Infinite)
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration: write one like 30s, 5m or 0s, or infinite", s)
	}
	*d = durationOrInfinite(v)
	return nil
}

// Type implements pflag.Value; help prints it.
func (d *durationOrInfinite) Type() string { return "DURATION|infinite" }

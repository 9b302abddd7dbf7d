package main

import (
	"github.com/spf13/pflag"
)

// runFlags are the flags of "nbdserver serve" about the ways to be run, as they were written.
type runFlags struct{}

func (f *runFlags) register(*pflag.FlagSet) {}

package main

import (
	"github.com/spf13/pflag"

	"github.com/nbdexport/nbdexport/nbdserver"
)

// limitFlags are the flags of "nbdserver serve" about limits and access, as they were written.
type limitFlags struct{}

func (f *limitFlags) register(*pflag.FlagSet) {}

// apply checks what was written and sets up the server.
func (f limitFlags) apply(*nbdserver.Server) error { return nil }

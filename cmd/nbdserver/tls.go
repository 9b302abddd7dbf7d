package main

import (
	"github.com/spf13/pflag"

	"github.com/nbdexport/nbdexport/nbdserver"
)

// tlsFlags are the flags of "nbdserver serve" about TLS, as they were written.
type tlsFlags struct{}

func (f *tlsFlags) register(*pflag.FlagSet) {}

// apply checks what was written and sets up the server.
func (f tlsFlags) apply(*nbdserver.Server) error { return nil }

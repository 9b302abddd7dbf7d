package main

import (
	"github.com/nbdexport/nbdexport/nbdserver"
	"github.com/nbdexport/nbdexport/nbdserver/exitwhen"
)

// follow has clients know who is connected to a server: it is the server's
// ConnState. Who hasn't chosen an export is no client.
func follow(clients *exitwhen.Clients) func(*nbdserver.Conn, nbdserver.ConnState) {
	return func(c *nbdserver.Conn, s nbdserver.ConnState) {
		switch s {
		case nbdserver.StateConnected:
			clients.Connected(c)
		case nbdserver.StateEnded:
			clients.Left(c)
		}
	}
}

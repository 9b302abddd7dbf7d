package nbdserver

import (
	"testing"
	"testing/synctest"

	"github.com/nbdexport/nbdexport/nbdserver/report"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// The drain begins, without a grace, while a client is being told that it has
// its export: it isn't closed as one that negotiates, but refused or disconnected
// as one that is connected. A pipe has no buffer, which is how the moment is hit.
func TestDrainWhileAClientIsAccepted(t *testing.T) {
	for name, choose := range map[string]func(*rawClient){
		"GO": func(c *rawClient) {
			c.option(wire.OptGo, str(""), uint16(0))
			c.reply(wire.OptGo) // the export; what is missing is the acknowledgement
		},
		"EXPORT_NAME": func(c *rawClient) { c.option(wire.OptExportName) },
	} {
		for policy, what := range map[Policy]string{Refuse: "refuse", Disconnect: "disconnect"} {
			t.Run(name+" "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newMemory(t, 1<<20)
					s.DrainPolicy = &DrainPolicy{Timeout: Infinite, Policy: policy}
					c := connect(t, s)
					c.greet(3)
					choose(c)
					synctest.Wait()
					s.BeginDrain("test")
					synctest.Wait()
					if name == "GO" {
						c.expect(wire.OptGo, wire.RepAck)
					} else {
						c.get(10)
					}
					if policy == Refuse {
						c.request(0, wire.CmdRead, 1, 0, 4)
						c.must(1, wire.ESHUTDOWN)
						c.request(0, wire.CmdDisc, 2, 0, 0)
					}
					c.eof()
					ended(t, s, 0, report.ExitClean)
				})
			})
		}
	}
}

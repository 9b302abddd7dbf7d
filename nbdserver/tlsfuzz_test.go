package nbdserver

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nbdexport/nbdexport/nbdserver/certificates"
	"github.com/nbdexport/nbdexport/nbdserver/wire"
)

// FuzzForcedTLS plays a client that sends any bytes at all in plaintext to a
// server that requires TLS. It never gets to an export.
func FuzzForcedTLS(f *testing.F) {
	option := func(o wire.Option, payload ...any) []byte {
		p := pack(payload...)
		return pack("IHAVEOPT", uint32(o), uint32(len(p)), p)
	}
	f.Add(pack(uint32(3), option(wire.OptList), option(wire.OptGo, str(""), uint16(0)), option(wire.OptAbort)))
	f.Add(pack(uint32(1), option(wire.OptExportName, "disk")))
	f.Add(pack(uint32(0), option(wire.OptExportName, "disk")))
	f.Add(pack(uint32(3), option(wire.OptStartTLS, "x"), option(wire.OptStartTLS)))
	f.Add(pack(uint32(3), option(wire.OptStartTLS), "\x16\x03\x01\x00\x05hello"))
	var with Server
	encrypt(f, &with, TLSRequire, certificates.Options{})
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			s := newMemory(t, 1<<20)
			s.TLS = with.TLS
			s.ConnState = func(_ *Conn, state ConnState) {
				if state == StateConnected {
					t.Error("a client without TLS has chosen an export")
				}
			}
			c := connect(t, s)
			go io.Copy(io.Discard, c)
			go func() {
				// Byte by byte, so that what follows STARTTLS isn't there yet.
				for i := range b {
					if _, err := c.Write(b[i : i+1]); err != nil {
						return
					}
				}
			}()
			time.Sleep(time.Minute)
			nothingLeft(t, s)
			s.Close()
			c.Close()
			if n := s.panics.Load(); n != 0 {
				t.Errorf("%d panics", n)
			}
		})
	})
}

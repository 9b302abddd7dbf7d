# A client of the oldest newstyle: no fixed negotiation, the export by
# NBD_OPT_EXPORT_NAME, simple replies.
#   exportname.py URI     a writable volume
import sys

import nbd

for flags in (0, nbd.HANDSHAKE_FLAG_NO_ZEROES):
    h = nbd.NBD()
    h.set_handshake_flags(flags)
    h.connect_uri(sys.argv[1])
    assert h.get_protocol() == "newstyle", h.get_protocol()
    assert not h.get_structured_replies_negotiated()
    h.pwrite(b"x" * 512, 512, flags=nbd.CMD_FLAG_FUA)
    assert h.pread(1024, 0)[512:] == b"x" * 512
    h.shutdown()

# Some sectors of a device can't be read.
#   badsectors.py URI GOOD     a writable volume, bad from the byte GOOD on
import errno
import sys

import nbd

uri, good = sys.argv[1], int(sys.argv[2])
for structured in (True, False):
    a, b = nbd.NBD(), nbd.NBD()
    for h in (a, b):
        h.set_request_structured_replies(structured)
        h.connect_uri(uri)
    data = bytearray(b"good" * 1024)
    a.pwrite(data, 0)
    for h in (a, b, a):
        for offset, n in ((good, 512), (good + 4096, 4096), (good - 4096, 8192)):
            try:
                h.pread(n, offset)
            except nbd.Error as e:
                assert e.errnum == errno.EIO, e
            else:
                raise AssertionError("bad sectors can be read")
        assert h.pread(4096, 0) == data
        h.pread(4096, good - 4096)
    a.flush()
    for h in (a, b):
        h.shutdown()

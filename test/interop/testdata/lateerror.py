# A device takes writes that it can't keep, and says so when they are flushed.
#   lateerror.py URI OTHER     two writable volumes, the first on that device
import sys

import nbd


def connect(uri):
    h = nbd.NBD()
    h.connect_uri(uri)
    return h


def fails(what, *args):
    try:
        what(*args)
    except nbd.Error as e:
        assert e.errno in ("ENOSPC", "EIO"), e
    else:
        raise AssertionError("%s went well" % what.__name__)


a, b, other = connect(sys.argv[1]), connect(sys.argv[1]), connect(sys.argv[2])
size = a.get_size()
data = bytearray(b"x" * size)
a.pwrite(data, 0)
# The kernel says it once; whoever asks is told.
fails(b.flush)
fails(a.flush)
fails(b.flush)
fails(a.pwrite, data[:4096], 0, nbd.CMD_FLAG_FUA)
assert len(b.pread(4096, 0)) == 4096
other.pwrite(data[:4096], 0, nbd.CMD_FLAG_FUA)
other.flush()
for h in (a, b, other):
    h.shutdown()

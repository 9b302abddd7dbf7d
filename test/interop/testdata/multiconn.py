# Two connections to one volume: what is acknowledged on one is seen on the
# other, and a flush on one covers the writes of the other.
#   multiconn.py URI PATH     a writable volume, and its file
import sys

import nbd

uri, path = sys.argv[1:]
a, b = nbd.NBD(), nbd.NBD()
for h in (a, b):
    h.connect_uri(uri)
    assert h.can_multi_conn()
for i in range(64):
    data = bytearray(("%04d" % i).encode() * 1024)
    a.pwrite(data, i * 4096)
    assert b.pread(4096, i * 4096) == data, i
b.flush()
with open(path, "rb") as f:
    for i in range(64):
        assert f.read(4096) == ("%04d" % i).encode() * 1024, i
# Flushes of both while both write.
flushes = []
for i in range(64):
    for h in (a, b):
        c = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(4096)), i * 4096)
        flushes += [(h, c), (h, h.aio_flush())]
for h, c in flushes:
    while not h.aio_command_completed(c):
        h.poll(-1)
a.shutdown()
assert b.pread(4096, 0) == bytearray(4096)
b.shutdown()

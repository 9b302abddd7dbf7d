# A flush on one connection puts on the disk what was written on another one.
#   flushother.py URI PATH FILEFRAG     a writable volume and its file, on a file
#                                       system that shows what isn't on the disk
import subprocess
import sys

import nbd

uri, path, filefrag = sys.argv[1:]


def pending():
    return b"delalloc" in subprocess.check_output([filefrag, "-v", path])


a, b = nbd.NBD(), nbd.NBD()
for h in (a, b):
    h.connect_uri(uri)
for i in range(4):
    for h in (a, b):
        h.pwrite(bytearray(b"%07d\n" % i) * 8192, i << 20)
    (a if i % 2 else b).flush()
    assert not pending(), i
for h in (a, b):
    h.shutdown()

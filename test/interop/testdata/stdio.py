# Runs a server on a socket that is its standard input and output.
#   stdio.py COMMAND...      a server of a writable volume
import sys

import nbd

h = nbd.NBD()
h.connect_command(sys.argv[1:])
assert h.get_size() == 1 << 20, h.get_size()
content = bytes(range(256)) * 1024
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(content)), i << 18) for i in range(4)]
for c in cookies:
    while not h.aio_command_completed(c):
        h.poll(-1)
h.flush()
assert h.pread(1 << 20, 0) == content * 4
h.shutdown()

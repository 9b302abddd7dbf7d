# nbd_aio_disconnect(3): the server sends no reply, but closes; requests that
# are in flight then are done.
#   disconnect.py URI      a writable volume of at least 16 MiB
import sys

import nbd

BLOCK = 256 << 10
COUNT = 64


def connect():
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    return h


def disconnect(h):
    h.aio_disconnect()
    while not h.aio_is_closed() and not h.aio_is_dead():
        h.poll(-1)
    assert h.aio_is_closed(), h.connection_state()


# With nothing in flight, as is recommended.
h = connect()
assert h.aio_in_flight() == 0
disconnect(h)
try:
    h.pread(512, 0)
    raise SystemExit("a request after the disconnect was answered")
except nbd.Error:
    pass

# With many in flight.
h = connect()
buffers = [nbd.Buffer.from_bytearray(bytearray(bytes([i + 1]) * BLOCK)) for i in range(COUNT)]
cookies = [h.aio_pwrite(b, i * BLOCK) for i, b in enumerate(buffers)]
disconnect(h)
for c in cookies:
    assert h.aio_command_completed(c), "a write in flight wasn't answered"

# Others aren't affected, and whoever left may come back.
h = connect()
other = connect()
disconnect(other)
for i in range(COUNT):
    assert h.pread(BLOCK, i * BLOCK) == bytes([i + 1]) * BLOCK, "block %d" % i
disconnect(h)

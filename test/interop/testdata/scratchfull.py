# A scratch is filled to the last block: the next write fails with ENOSPC and
# changes nothing, and what is trimmed can be used again.
#   scratchfull.py URI SIZE     a copy-on-write volume of at least twice the SIZE
#                               of its scratch in bytes
import errno
import sys

import nbd

BLOCK = 64 << 10
h = nbd.NBD()
h.connect_uri(sys.argv[1])
count = int(sys.argv[2]) // BLOCK
assert h.get_block_size(nbd.SIZE_PREFERRED) == BLOCK


def content(i):
    return bytearray([i % 255 + 1]) * BLOCK


def full(data, offset):
    before = h.pread(BLOCK, offset // BLOCK * BLOCK)
    try:
        h.pwrite(data, offset)
    except nbd.Error as e:
        assert e.errnum == errno.ENOSPC, e
    else:
        raise AssertionError("there is space for more than %d blocks" % count)
    assert h.pread(BLOCK, offset // BLOCK * BLOCK) == before, "a write that failed has written"


for i in range(count):
    h.pwrite(content(i), i * BLOCK)
full(content(count), count * BLOCK)
full(bytearray(b"x"), count * BLOCK + 5)
for i in range(count):
    assert h.pread(BLOCK, i * BLOCK) == content(i), i
h.pwrite(content(7), 3 * BLOCK)  # is there already
h.flush()
h.trim(BLOCK, 5 * BLOCK)
h.pwrite(content(count), count * BLOCK, nbd.CMD_FLAG_FUA)
assert h.pread(BLOCK, count * BLOCK) == content(count)
assert h.pread(BLOCK, 3 * BLOCK) == content(7)
assert h.pread(BLOCK, 5 * BLOCK) == bytearray(BLOCK)
h.zero(h.get_size(), 0)
h.shutdown()

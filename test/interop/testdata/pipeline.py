# Many requests in flight on one connection, collected in any order: writes with
# and without FUA, trims, zeroes, reads of all of it.
#   pipeline.py URI      a writable volume of at least 16 MiB
import random
import sys

import nbd

BLOCK = 64 << 10
COUNT = 256

h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(sys.argv[1])
assert h.can_fua() and h.can_trim() and h.can_zero() and h.can_multi_conn()
rnd = random.Random(1)
content = [rnd.randbytes(BLOCK) for _ in range(COUNT)]
zero = bytes(BLOCK)


def finish(cookies):
    """Waits for all requests, in an order that isn't theirs."""
    rnd.shuffle(cookies)
    for c in cookies:
        while not h.aio_command_completed(c):
            h.poll(-1)


order = list(range(COUNT))
rnd.shuffle(order)
buffers = [nbd.Buffer.from_bytearray(bytearray(b)) for b in content]
finish([h.aio_pwrite(buffers[i], i * BLOCK, flags=nbd.CMD_FLAG_FUA if i % 3 == 0 else 0) for i in order])
h.flush()

todo = []
for i in order:
    if i % 8 == 1:
        todo.append(h.aio_zero(BLOCK, i * BLOCK))
        content[i] = zero
    elif i % 8 == 2:
        todo.append(h.aio_zero(BLOCK, i * BLOCK, flags=nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA))
        content[i] = zero
    elif i % 8 == 3:
        todo.append(h.aio_trim(BLOCK, i * BLOCK, flags=nbd.CMD_FLAG_FUA))
        content[i] = None  # the old bytes or zeroes
finish(todo)

rnd.shuffle(order)
reads = {i: nbd.Buffer(BLOCK) for i in order}
finish([h.aio_pread(reads[i], i * BLOCK) for i in order])
for i, b in reads.items():
    got = bytes(b.to_bytearray())
    assert content[i] is None or got == content[i], "block %d" % i

# Block status: data is data, what was zeroed reads as zeroes, the sum is right.
entries = []


def extents(context, offset, found, error):
    assert context == nbd.CONTEXT_BASE_ALLOCATION and error.value == 0
    entries.extend(zip(found[0::2], found[1::2]))


at = 0
while at < COUNT * BLOCK:
    n = len(entries)
    h.block_status(COUNT * BLOCK - at, at, extents)
    assert len(entries) > n
    at += sum(length for length, _ in entries[n:])
assert at == COUNT * BLOCK, at
at = 0
for length, flags in entries:
    for i in range(at // BLOCK, (at + length - 1) // BLOCK + 1):
        if flags & nbd.STATE_ZERO and content[i] not in (None, zero):
            raise AssertionError("block %d holds data and is said to be zero" % i)
    at += length
del entries[:]
h.block_status(COUNT * BLOCK, 0, extents, flags=nbd.CMD_FLAG_REQ_ONE)
assert len(entries) == 1

# Structured reads, with and without the flag that forbids to split them.
for flags in (0, nbd.CMD_FLAG_DF):
    chunks = []
    h.pread_structured(BLOCK, 0, lambda b, off, status, error: chunks.append((off, len(b), status)), flags=flags)
    assert sum(n for _, n, _ in chunks) == BLOCK and (not flags or len(chunks) == 1), chunks
h.shutdown()

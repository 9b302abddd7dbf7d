# Reads in chunks: holes are left out, data comes, DF asks for one piece; the
# status of one extent; errors with their reasons in words.
#   chunks.py URI     a writable volume of at least 16 MiB
import errno
import sys

import nbd

KIB, MIB = 1 << 10, 1 << 20

h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(sys.argv[1])
assert h.get_structured_replies_negotiated() and h.can_df()
h.trim(16 * MIB, 0)
h.pwrite(b"d" * 128 * KIB, MIB)
want = bytes(MIB) + b"d" * 128 * KIB + bytes(3 * MIB - 128 * KIB)


def read(length, offset, flags=0):
    """The chunks of one read, and its bytes."""
    chunks = []

    def chunk(buf, off, status, err):
        chunks.append((status, off, len(buf)))

    data = h.pread_structured(length, offset, chunk, flags=flags)
    at = offset
    for _, off, n in sorted(chunks, key=lambda c: c[1]):
        assert off == at, chunks
        at += n
    assert at == offset + length, chunks
    return sorted(chunks, key=lambda c: c[1]), data


DATA, HOLE = nbd.READ_DATA, nbd.READ_HOLE
chunks, data = read(4 * MIB, 0)
assert data == want
assert chunks == [(HOLE, 0, MIB), (DATA, MIB, 128 * KIB), (HOLE, MIB + 128 * KIB, 3 * MIB - 128 * KIB)], chunks
chunks, data = read(4 * MIB, 0, flags=nbd.CMD_FLAG_DF)
assert data == want
assert chunks == [(DATA, 0, 4 * MIB)], chunks
chunks, data = read(32 * KIB, 0)
assert data == bytes(32 * KIB)
assert chunks == [(DATA, 0, 32 * KIB)], chunks

extents = []
status = lambda context, offset, entries, err: extents.append((context, offset, entries))
h.block_status(4 * MIB, 0, status)
assert extents == [("base:allocation", 0, [MIB, 3, 128 * KIB, 0, 3 * MIB - 128 * KIB, 3])], extents
extents.clear()
h.block_status(4 * MIB, 0, status, flags=nbd.CMD_FLAG_REQ_ONE)
assert extents == [("base:allocation", 0, [MIB, 3])], extents

# What the server says about an error is in libnbd's debug output.
lines = []
h.set_strict_mode(0)
h.set_debug(True)
h.set_debug_callback(lambda context, message: lines.append(message))
for length, offset in (1024, h.get_size() - 512), (33 * MIB, 0):
    lines.clear()
    try:
        h.pread(length, offset)
    except nbd.Error as e:
        assert e.errnum == (errno.EINVAL if length == 1024 else errno.EOVERFLOW), e
    else:
        raise AssertionError("%d bytes were read from %d on" % (length, offset))
    reason = "reach beyond the end of the export" if length == 1024 else "over the maximum block size"
    assert any(reason in line for line in lines), lines
h.set_debug(False)
assert h.pread(512, 0) == bytes(512)
h.shutdown()

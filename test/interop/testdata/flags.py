# The flags of WRITE_ZEROES, and CACHE.
#   flags.py URI [FILE]     a writable volume of at least 16 MiB, and its file
import errno
import os
import sys

import nbd

MIB = 1 << 20

h = nbd.NBD()
h.connect_uri(sys.argv[1])
path = sys.argv[2] if len(sys.argv) > 2 else None


def allocated():
    h.flush()
    return os.stat(path).st_blocks * 512


def fill():
    h.pwrite(b"z" * MIB, 0)


# Zeroes may become a hole, or not.
fill()
h.zero(MIB, 0)
assert h.pread(MIB, 0) == bytes(MIB)
if path:
    before = allocated()
    h.zero(MIB, 0, flags=nbd.CMD_FLAG_NO_HOLE)
    assert allocated() >= before + MIB, "NO_HOLE has left a hole"
fill()
h.zero(MIB, 0, flags=nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
assert h.pread(MIB, 0) == bytes(MIB)

# Fast zeroes are zeroes, or nothing has happened.
if h.can_fast_zero():
    for flags in 0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA:
        fill()
        try:
            h.zero(MIB, 0, flags=flags | nbd.CMD_FLAG_FAST_ZERO)
            want = bytes(MIB)
        except nbd.Error as e:
            assert e.errnum == errno.ENOTSUP, e
            want = b"z" * MIB
        assert h.pread(MIB, 0) == want, flags

assert h.can_cache()
h.cache(16 * MIB, 0)
h.set_strict_mode(0)
h.cache(4096, 4096, flags=nbd.CMD_FLAG_FUA)
try:
    h.cache(4096, 4096, flags=nbd.CMD_FLAG_DF)
    raise AssertionError("CACHE has taken the flag DF")
except nbd.Error as e:
    assert e.errnum == errno.EINVAL, e
h.trim(16 * MIB, 0)
h.shutdown()

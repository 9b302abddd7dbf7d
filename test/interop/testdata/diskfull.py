# The file system below a sparse image is full: writes fail with ENOSPC, and
# nothing else does.
#   diskfull.py URI OTHER FILLER     two writable volumes, the first on that file
#                                    system, and a file on it that takes space
import errno
import os
import sys

import nbd

uri, other_uri, filler = sys.argv[1:]
MIB = 1 << 20


def connect(uri):
    h = nbd.NBD()
    h.connect_uri(uri)
    return h


def block(i):
    return bytearray([i % 255 + 1]) * MIB


a, b, other = connect(uri), connect(uri), connect(other_uri)
count = a.get_size() // MIB
# Many at a time, so that those that fail are among others that don't.
results = {}
for first in range(0, count, 16):
    pending = {}
    for i in range(first, min(first + 16, count)):
        pending[a.aio_pwrite(nbd.Buffer.from_bytearray(block(i)), i * MIB)] = i
    while pending:
        a.poll(-1)
        for cookie, i in list(pending.items()):
            try:
                if a.aio_command_completed(cookie):
                    results[i] = 0
                    del pending[cookie]
            except nbd.Error as e:
                results[i] = e.errnum
                del pending[cookie]
    # Those to another volume go on.
    other.pwrite(block(first), 0)
    assert other.pread(MIB, 0) == block(first)
    if errno.ENOSPC in results.values():
        break
written = [i for i in results if results[i] == 0]
failed = [i for i in results if results[i] != 0]
assert written and failed, results
assert all(results[i] == errno.ENOSPC for i in failed), results


def intact():
    for h in (a, b):
        for i in written:
            assert h.pread(MIB, i * MIB) == block(i), i


intact()
# A flush after a failed write: that one was reported, the others are kept.
for h in (a, b, other):
    h.flush()
try:
    b.pwrite(block(count - 1), (count - 1) * MIB, nbd.CMD_FLAG_FUA)
except nbd.Error as e:
    assert e.errnum == errno.ENOSPC, e
else:
    raise AssertionError("there is space left")
intact()
os.remove(filler)
b.pwrite(block(failed[0]), failed[0] * MIB, nbd.CMD_FLAG_FUA)
written.append(failed[0])
a.flush()
intact()
for h in (a, b, other):
    h.shutdown()

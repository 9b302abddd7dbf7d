# A file, or a block device, changes its size under a server: new connections
# see that, and the old ones keep what they were told.
#   resize.py URI PATH LARGER SMALLER    a writable volume and its path, and the
#                                        commands that change it
import errno
import os
import subprocess
import sys

import nbd

uri, path, larger, smaller = sys.argv[1:]


def connect():
    h = nbd.NBD()
    h.set_strict_mode(0)  # lets the server judge
    h.connect_uri(uri)
    return h


def size_of(path):
    with open(path, "rb") as f:
        return f.seek(0, os.SEEK_END)


def fails(want, what, *args):
    try:
        what(*args)
    except nbd.Error as e:
        assert e.errnum == want, "%s%r: %s, want %s" % (what.__name__, args, e, errno.errorcode[want])
    else:
        raise AssertionError("%s%r went well" % (what.__name__, args))


data = bytearray(b"data" * 1024)
n = len(data)
old = connect()
size = old.get_size()
old.pwrite(data, size - n)

subprocess.check_call(larger, shell=True)
new_size = size_of(path)
assert new_size > size
new = connect()
assert new.get_size() == new_size, new.get_size()
assert new.pread(n, size - n) == data
assert new.pread(n, size) == bytearray(n)
new.pwrite(data, new_size - n)
assert new.pread(n, new_size - n) == data
new.zero(n, size)
new.flush()
assert old.get_size() == size
fails(errno.EINVAL, old.pread, n, size)
fails(errno.EINVAL, old.pread, 2 * n, size - n)
fails(errno.ENOSPC, old.pwrite, data, size)
assert old.pread(n, size - n) == data

# Nobody has been told yet when the first of these come.
subprocess.check_call(smaller, shell=True)
least = size_of(path)
assert least < size
for last in (False, True):
    for h in (old, new):
        fails(errno.EIO, h.pread, n, least)
        fails(errno.ENOSPC, h.pwrite, data, least)
        fails(errno.ENOSPC, h.zero, n, size - n)
        h.pwrite(data, 0)
        assert h.pread(n, 0) == data
    assert size_of(path) == least, "the file is larger again"
    if not last:
        h = connect()
        assert h.get_size() == least, h.get_size()
        fails(errno.EINVAL, h.pread, n, least)
        h.pwrite(data, least - n)
        h.shutdown()
for h in (old, new):
    h.flush()
    h.shutdown()

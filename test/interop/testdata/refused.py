# What a client must not ask for is answered with the right error, and the
# connection goes on.
#   refused.py WRITABLE READONLY     URIs of two volumes
import errno
import sys

import nbd

writable, readonly = sys.argv[1:]


def connect(uri):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.connect_uri(uri)
    return h


def refused(h, want, what, *args, **kwargs):
    before = h.aio_in_flight()
    try:
        what(*args, **kwargs)
    except nbd.Error as e:
        assert e.errnum == want, "%s%r: %s, want %s" % (what.__name__, args, e, errno.errorcode[want])
    else:
        raise AssertionError("%s%r went well" % (what.__name__, args))
    assert h.aio_is_ready() and h.aio_in_flight() == before
    h.pread(512, 0)


for structured in (True, False):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_request_structured_replies(structured)
    h.connect_uri(writable)
    size = h.get_size()
    data = bytearray(b"x" * 1024)
    refused(h, errno.EINVAL, h.pread, 1024, size - 512)
    refused(h, errno.EINVAL, h.pread, 512, size)
    refused(h, errno.EINVAL, h.pread, 512, 2**63)
    refused(h, errno.EINVAL, h.pread, 512, 2**64 - 512)
    refused(h, errno.ENOSPC, h.pwrite, data, size - 512)
    refused(h, errno.ENOSPC, h.pwrite, data, 2**64 - 512)
    refused(h, errno.ENOSPC, h.zero, 1024, size - 512)
    refused(h, errno.EINVAL, h.trim, 1024, size - 512)
    refused(h, errno.EOVERFLOW if structured else errno.EINVAL, h.pread, 33 << 20, 0)
    refused(h, errno.EINVAL, h.pwrite, bytearray(33 << 20), 0)
    refused(h, errno.EINVAL, h.cache, 512, size)
    if not h.can_fast_zero():
        refused(h, errno.EINVAL, h.zero, 512, 0, flags=nbd.CMD_FLAG_FAST_ZERO)
    refused(h, errno.EINVAL, h.pwrite, data, 0, flags=nbd.CMD_FLAG_REQ_ONE)
    assert h.pread(512, size - 512) == bytearray(512), "a refused write has written"
    h.shutdown()

h = connect(readonly)
assert h.is_read_only()
refused(h, errno.EPERM, h.pwrite, bytearray(512), 0)
refused(h, errno.EPERM, h.pwrite, bytearray(512), 0, flags=nbd.CMD_FLAG_FUA)
refused(h, errno.EPERM, h.zero, 512, 0)
refused(h, errno.EPERM, h.trim, 512, 0)
h.flush()
h.shutdown()

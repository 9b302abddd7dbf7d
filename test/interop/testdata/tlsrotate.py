# A session goes on while certificates are replaced; newcomers see the new ones.
#   tlsrotate.py OLD NEW     URIs with the certificates of clients before and after
# Says when it is connected, and waits for a line before it looks again.
import sys

import nbd

old, new = sys.argv[1:]


def handle():
    h = nbd.NBD()
    h.set_uri_allow_local_file(True)  # the certificates
    return h


h = handle()
h.connect_uri(old)
h.pwrite(b"before" * 512, 0)
print("connected", flush=True)
sys.stdin.readline()

assert h.pread(3072, 0) == b"before" * 512
h.pwrite(b"after." * 512, 0)
h.flush()
late = handle()
try:
    late.connect_uri(old)
except nbd.Error:
    pass
else:
    raise AssertionError("a newcomer trusts the old certificate")
n = handle()
n.connect_uri(new)
assert n.pread(3072, 0) == b"after." * 512
h.pread(3072, 0)
for each in h, n:
    assert each.get_tls_negotiated()
    each.shutdown()

# libnbd's ways to want TLS, with servers of each mode, each with a volume "open"
# and, but for the first, a volume "secret" that requires TLS.
#   tlsmodes.py DIR OFF ON REQUIRE     certificates of the client, ports
import sys

import nbd

dir, off, on, require = sys.argv[1:]


def handle(tls):
    h = nbd.NBD()
    h.set_tls(tls)
    h.set_tls_certificates(dir)
    return h


def connect(tls, port, export):
    h = handle(tls)
    h.set_export_name(export)
    h.connect_tcp("localhost", port)
    h.pread(512, 0)
    negotiated = h.get_tls_negotiated()
    h.shutdown()
    return negotiated


def refused(*args):
    try:
        connect(*args)
    except nbd.Error:
        return
    raise AssertionError("%r was let in" % (args,))


def names(tls, port):
    h = handle(tls)
    h.set_opt_mode(True)
    h.connect_tcp("localhost", port)
    found = []
    h.opt_list(lambda name, description: found.append(name))
    h.opt_abort()
    return found


assert not connect(nbd.TLS_DISABLE, off, "open")
assert not connect(nbd.TLS_ALLOW, off, "open")
refused(nbd.TLS_REQUIRE, off, "open")

assert not connect(nbd.TLS_DISABLE, on, "open")
refused(nbd.TLS_DISABLE, on, "secret")
assert names(nbd.TLS_DISABLE, on) == ["open"]
for tls in nbd.TLS_ALLOW, nbd.TLS_REQUIRE:
    assert connect(tls, on, "open")
    assert connect(tls, on, "secret")
    assert names(tls, on) == ["open", "secret"]

refused(nbd.TLS_DISABLE, require, "open")
for tls in nbd.TLS_ALLOW, nbd.TLS_REQUIRE:
    assert connect(tls, require, "open")
    assert connect(tls, require, "secret")

# A volume that policy keeps from a client isn't listed, and can't be had; the
# connection goes on, and others can.
#   policy.py URI SECRET OPEN      a URI, and the names of two volumes
import errno
import sys

import nbd

uri, secret, open_ = sys.argv[1:]

h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
names = []
h.opt_list(lambda name, _: names.append(name))
assert names == [open_], names
for what in (h.opt_info, h.opt_go):
    h.set_export_name(secret)
    try:
        what()
    except nbd.Error as e:
        assert e.errnum == errno.ENOTSUP, e  # ENOENT is for one that isn't there
    else:
        raise AssertionError("%s went well" % what.__name__)
    assert h.aio_is_negotiating()
h.set_export_name(open_)
h.opt_go()
h.pread(512, 0)
h.shutdown()

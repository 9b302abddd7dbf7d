# Runs a server by socket activation, as nbdinfo and nbdcopy do with [ ... ].
#   activation.py COMMAND...      a server of a writable volume
import sys

import nbd

h = nbd.NBD()
h.connect_systemd_socket_activation(sys.argv[1:])
assert h.get_size() == 1 << 20, h.get_size()
h.pwrite(b"x" * 512, 0, flags=nbd.CMD_FLAG_FUA)
assert h.pread(512, 0) == b"x" * 512
h.shutdown()
del h  # ends the server by SIGTERM, and waits for it

# Runs a server that requires TLS, in one of libnbd's two ways to do that.
#   tlscaptive.py activation|stdio DIR COMMAND...     DIR has the client's certificates
import sys

import nbd

how, dir, command = sys.argv[1], sys.argv[2], sys.argv[3:]
h = nbd.NBD()
h.set_tls(nbd.TLS_REQUIRE)
h.set_tls_certificates(dir)
if how == "stdio":
    h.connect_command(command)
else:
    h.connect_systemd_socket_activation(command)
assert h.get_tls_negotiated()
content = bytes(range(256)) * 4096
h.pwrite(content, 0, flags=nbd.CMD_FLAG_FUA)
assert h.pread(len(content), 0) == content
h.shutdown()
del h  # ends the server, and waits for it

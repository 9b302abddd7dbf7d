# Runs the lines of standard input one by one, with libnbd at hand, and answers
# each with "ok" or with the error of libnbd that it raised.
import errno
import sys

import nbd

env = {"nbd": nbd, "sys": sys}
for line in sys.stdin:
    try:
        exec(line, env)
        print("ok")
    except nbd.Error as e:
        print(errno.errorcode.get(e.errnum, "?"), e.string)
    sys.stdout.flush()

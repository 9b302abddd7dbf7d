# Many connections that write until the server ends them, and then a look at
# whether every write that was acknowledged is in the file.
#   crowd.py URI PATH COUNT     a writable volume of COUNT MiB, and its file
# Says "going" when every connection has had a write acknowledged, and "over" when
# all connections have ended; looks at the file when it is told to.
import errno
import select
import sys

import nbd

uri, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
BLOCK = 4096
BLOCKS = 256
DEPTH = 4


def content(client, n):
    return bytearray((b"%07d %07d\n" % (client, n)) * (BLOCK // 16))


class Client:
    def __init__(self, number):
        self.number = number
        self.sent = 0
        self.flying = {}
        self.acked = {}  # the last write of each block, if it was acknowledged
        self.acks = 0
        self.errors = set()
        self.leaving = False
        self.h = nbd.NBD()
        self.h.connect_uri(uri)

    def over(self):
        return self.h.aio_is_closed() or self.h.aio_is_dead()

    def write(self):
        while not self.errors and not self.over() and len(self.flying) < DEPTH:
            n, self.sent = self.sent, self.sent + 1
            self.acked.pop(n % BLOCKS, None)
            b = nbd.Buffer.from_bytearray(content(self.number, n))
            offset = (self.number * BLOCKS + n % BLOCKS) * BLOCK
            try:
                self.flying[self.h.aio_pwrite(b, offset)] = n
            except nbd.Error:
                return  # the connection has ended meanwhile

    def reap(self):
        for cookie, n in list(self.flying.items()):
            try:
                if not self.h.aio_command_completed(cookie):
                    continue
                self.acked[n % BLOCKS] = n
                self.acks += 1
            except nbd.Error as e:
                self.errors.add(errno.errorcode.get(e.errnum, "?"))
            del self.flying[cookie]
        # Told that it is over, it waits for what is in flight and leaves.
        if self.errors and not self.flying and not self.leaving:
            self.leaving = True
            if not self.over():
                self.h.aio_disconnect()


clients = [Client(i) for i in range(count)]
going = False
while True:
    poll = select.poll()
    byfd = {}
    for c in clients:
        c.write()
        if c.over():
            c.reap()
            continue
        direction = c.h.aio_get_direction()
        events = 0
        if direction & nbd.AIO_DIRECTION_READ:
            events |= select.POLLIN
        if direction & nbd.AIO_DIRECTION_WRITE:
            events |= select.POLLOUT
        byfd[c.h.aio_get_fd()] = c
        poll.register(c.h.aio_get_fd(), events)
    if not byfd:
        break
    for fd, events in poll.poll():
        c = byfd[fd]
        try:
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR) and \
                    c.h.aio_get_direction() & nbd.AIO_DIRECTION_READ:
                c.h.aio_notify_read()
            elif events & (select.POLLOUT | select.POLLHUP | select.POLLERR) and \
                    c.h.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
                c.h.aio_notify_write()
        except nbd.Error:
            pass  # the connection has ended: over() says so
        c.reap()
    if not going and all(c.acks for c in clients):
        going = True
        print("going", flush=True)

print("over", *sorted(set().union(*(c.errors for c in clients))), flush=True)
sys.stdin.readline()
checked = 0
with open(path, "rb") as f:
    for c in clients:
        for block, n in c.acked.items():
            f.seek((c.number * BLOCKS + block) * BLOCK)
            assert f.read(BLOCK) == content(c.number, n), "write %d of client %d is lost" % (n, c.number)
            checked += 1
assert checked >= count
print("found", checked, flush=True)

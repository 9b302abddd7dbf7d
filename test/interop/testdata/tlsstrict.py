# Both ends of a handshake with OpenSSL at its strictest, in memory.
# Arguments: the server's directory, the client's, the name of the server.
import ssl
import sys

server_dir, client_dir, host = sys.argv[1:]


def context(protocol, dir, who):
    c = ssl.SSLContext(protocol)
    c.verify_mode = ssl.CERT_REQUIRED
    c.verify_flags |= ssl.VERIFY_X509_STRICT
    c.load_verify_locations(f"{dir}/ca-cert.pem")
    c.load_cert_chain(f"{dir}/{who}-cert.pem", f"{dir}/{who}-key.pem")
    return c


to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
server = context(ssl.PROTOCOL_TLS_SERVER, server_dir, "server").wrap_bio(to_server, to_client, server_side=True)
client = context(ssl.PROTOCOL_TLS_CLIENT, client_dir, "client").wrap_bio(to_client, to_server, server_hostname=host)


def step(do):
    try:
        do()
        return True
    except ssl.SSLWantReadError:
        return False


done = [False, False]
for _ in range(10):
    for i, end in enumerate((client, server)):
        done[i] = done[i] or step(end.do_handshake)
assert all(done), "the handshake has no end"
client.write(b"x")
assert server.read(1) == b"x"

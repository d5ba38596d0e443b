"""A wire between two daemons that can be cut, stopped up, closed on one side, or left with nobody at its other end."""
import contextlib
import socket
import struct
import threading

CHUNK = 65536
AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: closing is a reset


def reset(end):
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
    end.close()


class Wire:
    """One connection: two sockets, each read by a thread of its own."""

    def __init__(self, client, server, proxy):
        self.client, self.server, self.proxy = client, server, proxy
        self.vanished = False
        self.over = []  # the ends of which nothing more will be read

    def start(self):
        for source, target in ((self.client, self.server), (self.server, self.client)):
            threading.Thread(target=self.hand_on, args=(source, target), daemon=True).start()

    def hand_on(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self.proxy.flows.wait()
                if not self.vanished:
                    target.sendall(data)
            if not self.vanished:
                target.shutdown(socket.SHUT_WR)
        self.over.append(source)
        if len(self.over) == 2:
            self.client.close()
            self.server.close()

    def cut(self):
        """Both ends are told at once."""
        reset(self.client)
        reset(self.server)

    def half_close(self):
        """The client reads an end; what it says still arrives."""
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)

    def vanish(self):
        """As when the server's machine is lost: the client's end stays open, takes what it is told, and never answers."""
        self.vanished = True
        reset(self.server)


class Proxy:
    """Listens on 127.0.0.1 for `target`, a "host:port"."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.flows = threading.Event()  # cleared: connections stand, and no byte passes
        self.flows.set()
        self.refuses = False
        self.wires = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self.listener.accept()
                try:
                    if self.refuses:
                        raise OSError("refused")
                    server = socket.create_connection(self.target, timeout=5)
                except OSError:
                    reset(client)
                    continue
                server.settimeout(None)
                self.wires.append(Wire(client, server, self))
                self.wires[-1].start()

    def each(self, what):
        """Of all connections that there were: cut, half_close or vanish."""
        wires, self.wires = self.wires, []
        for wire in wires:
            getattr(wire, what)()
        return len(wires)

    def close(self):
        self.listener.close()
        self.flows.set()
        self.each("cut")

"""A server on this machine that says byte by byte what a test wants, for as long as the client listens."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

# Gets the path that was asked for, a way to send, and the event that ends everything.
Script = Callable[[str, Callable[[bytes], None], threading.Event], None]


class RawServer(NamedTuple):
    url: str
    sent: list[int]  # how many bytes each connection took
    asked: list[str]  # the paths


@contextmanager
def raw_server(script: Script) -> Iterator[RawServer]:
    """A server that runs a script for each connection; all of it has ended when the `with` ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = RawServer(f"http://127.0.0.1:{listener.getsockname()[1]}", [], [])
    over, threads = threading.Event(), []

    def serve(connection: socket.socket) -> None:
        number = len(server.sent)
        server.sent.append(0)

        def send(data: bytes) -> None:
            connection.sendall(data)
            server.sent[number] += len(data)

        with connection, suppress(OSError):
            connection.settimeout(10)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (piece := connection.recv(65536)):
                    return
                head += piece
            server.asked.append(head.split(b" ")[1].decode())
            script(server.asked[-1], send, over)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                if over.is_set():
                    return connection.close()
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server
    finally:
        over.set()
        socket.create_connection(listener.getsockname()).close()
        accepting.join()
        listener.close()
        for thread in threads:
            thread.join()

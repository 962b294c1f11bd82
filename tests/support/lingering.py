"""What close(2) waits for."""

from __future__ import annotations

import socket
import struct


def lingering() -> tuple[socket.socket, socket.socket]:
    """A connection whose last close waits until the other end has read, for so long that nobody will."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sent = socket.create_connection(server.getsockname())
        reader, _ = server.accept()
    sent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 20))
    sent.setblocking(False)
    try:
        while True:
            sent.send(bytes(1 << 16))
    except BlockingIOError:
        return sent, reader

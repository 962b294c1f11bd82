"""ttRPC over NRI's one connection: frames in frames.

The connection carries several (``pkg/net/multiplex`` of NRI): each piece has the number of its connection
and its length in front, 4 bytes each, big-endian.  In each of them ttRPC's own frames follow one another
(PROTOCOL.md of containerd/ttrpc): length and stream in 4 bytes each, big-endian, type and flags in one.
On connection 1 the runtime asks the plugin, on 2 the plugin asks the runtime.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

from proctor.agent.nri.messages import message, parsed
from proctor.records import NamedTuple

PLUGIN, RUNTIME = 1, 2
_PIECE: Final = struct.Struct(">II")
_FRAME: Final = struct.Struct(">IIBB")
_REQUEST, _RESPONSE = 1, 2
#: Longest payload of a frame (ttRPC), and of a piece (NRI).
_LONGEST: Final = 4 << 20
_LONGEST_PIECE: Final = _FRAME.size + _LONGEST
#: A runtime's reader takes a piece as a whole: into its buffer, which is as long as this (Go's bufio), or behind
#: what it had in that; a longer first piece is an error to it, and the end of the connection (``conn.Read`` of mux.go).
_BUFFER: Final = 4096

#: Codes of google.rpc.Status.
UNKNOWN, UNIMPLEMENTED = 2, 12


class Broken(ValueError):
    """The other side does not speak this protocol."""


class Frame(NamedTuple):
    """One message, on one of the connections."""

    connection: int
    stream: int
    #: A ttRPC ``Request`` or ``Response``.
    message: Any
    is_request: bool


class Wire:
    """Both ways of it.  The socket is the giver's.

    :param sock: connected, blocking; its timeout holds for :meth:`receive`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._arrived = bytearray()
        self._streams = {PLUGIN: bytearray(), RUNTIME: bytearray()}

    def request(self, stream: int, service: str, method: str, payload: Any) -> None:
        """Ask the runtime.

        :param stream: odd; of the answer, too.
        """
        asked = message(
            "Request", service=service, method=method, payload=payload.SerializeToString()
        )
        self._send(RUNTIME, stream, _REQUEST, asked)

    def respond(self, stream: int, payload: Any) -> None:
        """Answer a request of the runtime."""
        self._send(
            PLUGIN, stream, _RESPONSE, message("Response", payload=payload.SerializeToString())
        )

    def fail(self, stream: int, code: int, why: str) -> None:
        """Answer it with an error."""
        status = message("Status", code=code, message=why)
        self._send(PLUGIN, stream, _RESPONSE, message("Response", status=status))

    def _send(self, connection: int, stream: int, kind: int, what: Any) -> None:
        data = what.SerializeToString()
        if len(data) > _LONGEST:
            raise Broken(f"a message of {len(data)} bytes; there are at most {_LONGEST}")
        frame = _FRAME.pack(len(data), stream, kind, 0) + data
        for piece in (frame[:_BUFFER], frame[_BUFFER:]):
            if piece:
                self._sock.sendall(_PIECE.pack(connection, len(piece)) + piece)

    def receive(self) -> Frame | None:
        """The next message; None if the runtime has closed the connection.

        :raises TimeoutError: none came; the next call goes on where this one was.
        :raises Broken: it is none.
        """
        while True:
            for connection, waiting in self._streams.items():
                found = self._frame(connection, waiting)
                if found is not None:
                    return found
            if not self._piece():
                data = self._sock.recv(1 << 16)
                if not data:
                    return None
                self._arrived += data

    def _piece(self) -> bool:
        """Take one piece apart, if it is there."""
        if len(self._arrived) < _PIECE.size:
            return False
        connection, length = _PIECE.unpack_from(self._arrived)
        if length > _LONGEST_PIECE:
            raise Broken(f"a piece of {length} bytes")
        if len(self._arrived) < _PIECE.size + length:
            return False
        piece = bytes(self._arrived[_PIECE.size : _PIECE.size + length])
        del self._arrived[: _PIECE.size + length]
        if connection in self._streams:  # others are not open here: NRI drops what is for them, too
            self._streams[connection] += piece
        return True

    def _frame(self, connection: int, waiting: bytearray) -> Frame | None:
        if len(waiting) < _FRAME.size:
            return None
        length, stream, kind, _ = _FRAME.unpack_from(waiting)
        if length > _LONGEST:
            raise Broken(f"a message of {length} bytes")
        if len(waiting) < _FRAME.size + length:
            return None
        data = bytes(waiting[_FRAME.size : _FRAME.size + length])
        del waiting[: _FRAME.size + length]
        if kind not in (_REQUEST, _RESPONSE):
            raise Broken(f"a message of type {kind}")
        try:
            said = parsed("Request" if kind == _REQUEST else "Response", data)
        except ValueError as problem:
            raise Broken(str(problem)) from None
        return Frame(connection, stream, said, kind == _REQUEST)

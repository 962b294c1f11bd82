"""A server of NFS version 3 for tests of mounting: one directory in memory, which nothing can be written to (RFC 1813, RFC 5531)."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Final

_NFS, _MOUNT = 100003, 100005
_OK, _NOENT, _STALE, _ROFS, _NOTSUPP = 0, 2, 70, 30, 10004
_UNAVAILABLE: Final = 1
_AUTH_SYS: Final = 1
_READS: Final = 0x1 | 0x2 | 0x20  # ACCESS3_READ, _LOOKUP, _EXECUTE
_TOP: Final = 1


class Arguments:
    """What was sent, from the beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def numbers(self, form: str) -> tuple[int, ...]:
        size = struct.calcsize(">" + form)
        found, self._data = struct.unpack(">" + form, self._data[:size]), self._data[size:]
        return found

    def opaque(self) -> bytes:
        (size,) = self.numbers("I")
        found, self._data = self._data[:size], self._data[size + -size % 4 :]
        return found


def opaque(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


class NfsServer:
    """Serves on loopback, of the network namespace that it is made in, until it is closed.

    :param files: content by name.
    :param port: any that is free if none is said.
    """

    def __init__(self, files: dict[str, bytes], port: int = 0) -> None:
        self._files = dict(enumerate(files.items(), _TOP + 1))
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.seen: list[int] = []
        #: What the machines that asked call themselves.
        self.names: set[bytes] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        with one, one.makefile("rb") as file, suppress(OSError):
            while True:
                head = file.read(4)
                if len(head) < 4:
                    return
                (size,) = struct.unpack(">I", head)
                reply = self._reply(Arguments(file.read(size & 0x7FFFFFFF)))
                one.sendall(struct.pack(">I", len(reply) | 1 << 31) + reply)

    def _reply(self, given: Arguments) -> bytes:
        xid, _, _, program, version, procedure, flavor = given.numbers("7I")
        credentials = Arguments(given.opaque())
        if flavor == _AUTH_SYS:
            credentials.numbers("I")
            self.names.add(credentials.opaque())
        given.numbers("I")
        given.opaque()
        head = struct.pack(">5I", xid, 1, 0, 0, 0)
        if version != 3 or program not in (_NFS, _MOUNT):
            return head + struct.pack(">I", _UNAVAILABLE)
        head += struct.pack(">I", _OK)
        if program == _MOUNT:
            handle = struct.pack(">I", _OK) + opaque(self._handle(_TOP)) + struct.pack(">II", 1, 1)
            return head + {1: handle, 2: bytes(4), 5: bytes(4)}.get(
                procedure, b""
            )  # MNT, DUMP, EXPORT
        self.seen.append(procedure)
        return head + (self._nfs(procedure, given) if procedure else b"")

    def _handle(self, number: int) -> bytes:
        return struct.pack(">Q", number)

    def _attributes(self, number: int) -> bytes:
        top = number == _TOP
        size = 4096 if top else len(self._files[number][1])
        return struct.pack(
            ">5IQQIIQQ6I", 2 if top else 1, 0o755 if top else 0o644, 2 if top else 1, 0, 0, size, size, 0, 0, 7, number, *[1] * 6,
        )  # fmt: skip

    def _known(self, number: int) -> bytes:
        return struct.pack(">I", 1) + self._attributes(number)

    def _nfs(self, procedure: int, given: Arguments) -> bytes:
        handle = given.opaque()
        number = struct.unpack(">Q", handle)[0] if len(handle) == 8 else 0
        if number != _TOP and number not in self._files:
            return struct.pack(">II", _STALE, 0)
        ok, here = struct.pack(">I", _OK), self._known(number)
        if procedure == 1:  # GETATTR
            return ok + self._attributes(number)
        if procedure == 3:  # LOOKUP
            name = given.opaque().decode()
            found = [each for each, (other, _) in self._files.items() if other == name]
            if not found:
                return struct.pack(">I", _NOENT) + here
            return ok + opaque(self._handle(found[0])) + self._known(found[0]) + here
        if procedure == 4:  # ACCESS
            return ok + here + struct.pack(">I", given.numbers("I")[0] & _READS)
        if procedure == 6:  # READ
            offset, count = given.numbers("QI")
            data = self._files[number][1]
            part = data[offset : offset + count]
            return (
                ok
                + here
                + struct.pack(">II", len(part), offset + count >= len(data))
                + opaque(part)
            )
        if procedure in (16, 17):  # READDIR, READDIRPLUS
            (cookie,) = given.numbers("Q")
            made = ok + here + bytes(8)
            for each, (name, _) in self._files.items():
                if each > cookie:
                    made += (
                        struct.pack(">IQ", 1, each)
                        + opaque(name.encode())
                        + struct.pack(">Q", each)
                    )
                    if procedure == 17:
                        made += (
                            self._known(each) + struct.pack(">I", 1) + opaque(self._handle(each))
                        )
            return made + struct.pack(">II", 0, 1)
        if procedure == 18:  # FSSTAT
            return ok + here + struct.pack(">6QI", 1 << 20, 0, 0, 9, 0, 0, 0)
        if procedure == 19:  # FSINFO
            return (
                ok
                + here
                + struct.pack(
                    ">7IQIII", 65536, 65536, 512, 65536, 65536, 512, 4096, 1 << 40, 0, 1, 0x1B
                )
            )
        if procedure == 20:  # PATHCONF
            return ok + here + struct.pack(">6I", 1, 255, 1, 1, 0, 1)
        return struct.pack(">III", _NOTSUPP if procedure > 20 else _ROFS, 0, 0)

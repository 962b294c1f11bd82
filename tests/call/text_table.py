"""Calls with interesting arguments, and the memory they point to: for holding our text to strace's."""

from __future__ import annotations

import struct
from typing import NamedTuple

BASE = 0x10000000  #: where the victim maps its file
ENTRIES = 4096
IMAGE = 0x100000  #: offset of the image in the file
EDGE_END = 0x20001000  #: where a page full of "x" ends, and nothing follows
BAD = 0x30000000  #: nothing is mapped here
CWD = -100
M64 = 2**64 - 1


class Row(NamedTuple):
    """One call of the table.  ``ours`` is what we say where that is not what strace says, and
    ``why``."""

    name: str
    args: tuple[int, ...]
    abi: str
    ours: str = ""
    why: str = ""


class Image:
    """Bytes at addresses that are known in advance."""

    def __init__(self) -> None:
        self.data = bytearray()

    def put(self, data: bytes) -> int:
        self.data += bytes(-len(self.data) % 16)
        at = BASE + IMAGE + len(self.data)
        self.data += data
        return at

    def s(self, text: bytes) -> int:
        return self.put(text + b"\0")

    def q(self, *numbers: int) -> int:
        return self.put(struct.pack(f"<{len(numbers)}Q", *(n & M64 for n in numbers)))

    def i(self, *numbers: int) -> int:
        return self.put(struct.pack(f"<{len(numbers)}I", *(n & 0xFFFFFFFF for n in numbers)))

    def f(self, layout: str, *values: object) -> int:
        return self.put(struct.pack("<" + layout, *values))

    def end(self, data: bytes) -> int:
        """Last of all: bytes right before memory that is not there."""
        self.data += bytes(-(len(self.data) + len(data)) % 4096)
        at = BASE + IMAGE + len(self.data)
        self.data += data
        return at


def inet(port: int, host: bytes) -> bytes:
    return struct.pack("<H", 2) + struct.pack(">H", port) + host + bytes(8)


class Table:
    """Rows in the making; ``t("openat", CWD, path, 0)`` adds one."""

    def __init__(self) -> None:
        self.m = Image()
        self.rows: list[Row] = []
        self.path = self.m.s(b"/tmp/a file")
        self.other = self.m.s(b"b")
        self.empty = self.m.s(b"")
        self.odd = self.m.s(b'\x01\x7f\xff\xc3\xa4"\\\t\n\r\v\f\x1b0\x1bz')
        self.data = self.m.put(bytes(range(64)))
        self.text = self.m.put(b"Hello, supervised world.\n" + b"x" * 60)
        self.some = self.m.put(bytes(256))

    def __call__(
        self, name: str, *args: int, ours: str = "", why: str = "", abi: str = "x86_64"
    ) -> None:
        self.rows.append(Row(name, args, abi, ours, why))

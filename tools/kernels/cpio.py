"""Archives that every Linux kernel unpacks as its first root: cpio, newc format, uncompressed.

See ``Documentation/driver-api/early-userspace/buffer-format.rst``.  Archives can follow one
another in one file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple


class Entry(NamedTuple):
    """A file, a directory (no data) or a link (where it leads) with its absolute path."""

    name: str
    mode: int
    data: bytes


def write(made: Path, top: str, entries: Iterable[Entry]) -> None:
    """Make ``made``, complete or not at all; ``top`` is put before each path.

    Directories that nobody names are made; everything belongs to root.
    """
    aside = made.with_name(f"{made.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as out:
            writer = _Writer(out, top)
            for entry in entries:
                writer.put(entry)
            writer.end()
        aside.replace(made)
    finally:
        aside.unlink(missing_ok=True)


class _Writer:
    def __init__(self, out: BinaryIO, top: str) -> None:
        self._out = out
        self._top = top
        self._folders: set[str] = set()
        self._serial = 0

    def put(self, entry: Entry) -> None:
        name = self._top + entry.name
        missing = []
        parent = os.path.dirname(name)
        while parent and parent not in self._folders:
            missing.append(parent)
            parent = os.path.dirname(parent)
        for folder in reversed(missing):
            self._folders.add(folder)
            self._record(folder, stat.S_IFDIR | 0o755, b"")
        if stat.S_ISDIR(entry.mode):
            if name in self._folders:
                return
            self._folders.add(name)
        self._record(name, entry.mode, entry.data)

    def end(self) -> None:
        self._record("TRAILER!!!", 0, b"")
        self._out.write(bytes(-self._out.tell() % 512))

    def _record(self, name: str, mode: int, data: bytes) -> None:
        self._serial += 1  # inode numbers have to differ, no more
        path = name.encode() + b"\0"
        numbers = (self._serial, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        self._out.write(b"070701" + b"".join(b"%08X" % number for number in numbers) + path)
        self._out.write(bytes(-(110 + len(path)) % 4) + data + bytes(-len(data) % 4))

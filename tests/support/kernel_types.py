"""The running kernel's own description of its structures (BTF)."""

from __future__ import annotations

import struct
from pathlib import Path

SOURCE = Path("/sys/kernel/btf/vmlinux")
# What follows a type's head: bytes for each of its members, and bytes once.
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_ONCE = {1: 4, 3: 12, 14: 4, 17: 4}


class KernelTypes:
    """Structures by name: size, and the offset of every field; unnamed unions are part of what they
    are in."""

    def __init__(self, data: bytes) -> None:
        _, _, _, head, types, length, strings, _ = struct.unpack_from("<HBBIIIII", data)
        self._data, self._strings = data, head + strings
        self._types: list[tuple[int, int, int]] = [(0, 0, 0)]  # kind, offset, size or type
        self._named: dict[str, list[int]] = {}
        at, end = head + types, head + types + length
        while at < end:
            name, info, size = struct.unpack_from("<III", data, at)
            kind, count = info >> 24 & 31, info & 0xFFFF
            if kind in (4, 5) and name:
                self._named.setdefault(self._string(name), []).append(len(self._types))
            self._types.append((kind, at, size))
            at += 12 + _EACH.get(kind, 0) * count + _ONCE.get(kind, 0)

    def _string(self, at: int) -> str:
        at += self._strings
        return self._data[at : self._data.index(b"\0", at)].decode()

    def size(self, name: str) -> int | None:
        """Its size; None if this kernel does not have it."""
        found = self._named.get(name)
        return self._types[found[0]][2] if found else None

    def offsets(self, name: str) -> dict[str, set[int]]:
        """Where each field is, in bytes; unnamed unions may have one name at several places."""
        found: dict[str, set[int]] = {}
        self._fields(self._named[name][0], 0, found)
        return found

    def _fields(self, number: int, base: int, found: dict[str, set[int]]) -> None:
        _, at, _ = self._types[number]
        info = struct.unpack_from("<I", self._data, at + 4)[0]
        for index in range(info & 0xFFFF):
            name, type_, offset = struct.unpack_from("<III", self._data, at + 12 + 12 * index)
            bits = offset & 0xFFFFFF if info >> 31 else offset
            if name:
                found.setdefault(self._string(name), set()).add(base + bits // 8)
            else:
                self._fields(type_, base + bits // 8, found)

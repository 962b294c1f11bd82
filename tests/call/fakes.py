"""A caller that exists on paper: memory as a dictionary of regions, a listener that says yes."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

from proctor.call.call import Call
from proctor.errors import CallGone, MemoryUnreadable
from proctor.kernel.notification import Notification
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES


class FakeListener:
    """Valid for as long as ``valid`` says; counts how often it was asked."""

    def __init__(self, valid: bool = True) -> None:
        self.valid = valid
        self.asked = 0

    def fileno(self) -> int:
        return -1

    def id_valid(self, id: int) -> bool:
        self.asked += 1
        return self.valid


class FakeMemory:
    """Regions of bytes; everything else is unmapped."""

    def __init__(self, regions: Mapping[int, bytes], *, gone: bool = False) -> None:
        self.regions = dict(regions)
        self.gone = gone
        self.reads = 0

    def read_some(self, address: int, size: int) -> bytes:
        self.reads += 1
        if self.gone:
            raise CallGone()
        for start, data in self.regions.items():
            if start <= address < start + len(data):
                return data[address - start : address - start + size]
        raise MemoryUnreadable(errno.EFAULT, "unmapped", address)

    def read(self, address: int, size: int) -> bytes:
        data = self.read_some(address, size) if size else b""
        if len(data) < size:
            raise MemoryUnreadable(errno.EFAULT, "unmapped", address + len(data))
        return data

    def string(self, address: int, limit: int = 4096) -> bytes:
        data = self.read_some(address, limit)
        end = data.find(b"\0")
        if end >= 0:
            return data[:end]
        number = errno.ENAMETOOLONG if len(data) == limit else errno.EFAULT
        raise MemoryUnreadable(number, "no end", address)

    def pointers(self, address: int, *, limit: int = 65536, width: int = 8) -> list[int]:
        found: list[int] = []
        while len(found) < limit:
            data = self.read(address + len(found) * width, width)
            number = int.from_bytes(data, "little")
            if not number:
                return found
            found.append(number)
        raise MemoryUnreadable(errno.E2BIG, "no end", address)

    def strings(
        self, address: int, *, limit: int = 65536, total: int = 6 << 20, width: int = 8
    ) -> list[bytes]:
        found = [
            self.string(each, 131072) for each in self.pointers(address, limit=limit, width=width)
        ]
        if sum(len(each) + 1 for each in found) > total:
            raise MemoryUnreadable(errno.E2BIG, "too much", address)
        return found

    def iovec(self, address: int, count: int, *, width: int = 8) -> list[tuple[int, int]]:
        data = self.read(address, count * 2 * width)
        numbers = struct.unpack(f"<{2 * count}{'Q' if width == 8 else 'I'}", data)
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def call(
    name: str,
    *registers: int,
    abi: str = "x86_64",
    memory: Mapping[int, bytes] | FakeMemory | None = None,
    listener: FakeListener | None = None,
    tid: int = 1234,
    **given: object,
) -> Call:
    """A call with these registers (missing ones are zero) and this memory."""
    raw = tuple(number & 0xFFFFFFFFFFFFFFFF for number in registers)
    raw += (0,) * (6 - len(raw))
    notification = Notification(7, tid, tables.number(name, abi), ARCHITECTURES[abi].audit, raw)
    faked = memory if isinstance(memory, FakeMemory) else FakeMemory(memory or {})
    return Call(notification, listener or FakeListener(), memory=faked, **given)  # type: ignore[arg-type]

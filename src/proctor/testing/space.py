"""Memory on paper: regions of bytes at addresses, read by the real reader of memory."""

from __future__ import annotations

import errno
import sys
from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from proctor.call.ports import ValidityPort
from proctor.errors import MemoryUnwritable
from proctor.kernel.memory import STRINGS_MAX, Memory
from proctor.records import NamedTuple

#: An address where nothing is ever mapped: ``target.call("mkdir", UNMAPPED, 0o755)``.
UNMAPPED: Final = 0xDEAD000

_PAGE: Final = 4096
_FIRST: Final = 0x50000000  # also below 2**32, for 32-bit callers


class Read(NamedTuple):
    """One look at the memory: where, and how many bytes were wanted at most."""

    address: int
    limit: int


class Written(NamedTuple):
    """What the monitor wrote, and where."""

    address: int
    data: bytes


class FakeMemory:
    """The memory of a fake target, shared by its threads.

    >>> memory = FakeMemory()
    >>> memory.peek(memory.place(b"hello"), 5)
    b'hello'

    Every placed value ends where its bytes end: a handler that reads one byte more gets EFAULT.

    :ivar reads: every look that handlers took, in order.
    :ivar written: what was written on the monitor's side, in order.
    :ivar on_read: called with the address after bytes were copied and before the notification is
        checked: the moment in which a caller dies or another thread changes what was read.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._regions: list[bytearray] = []
        self._readonly: set[int] = set()
        self._next = _FIRST
        self.reads: list[Read] = []
        self.written: list[Written] = []
        self.on_read: Callable[[int], object] | None = None

    def place(self, data: bytes, at: int | None = None, *, readonly: bool = False) -> int:
        """Map ``data`` and return its address; nothing is mapped right before or behind it.

        :param at: address of your choosing; it may touch, but not overlap, what is mapped.
        :param readonly: the target cannot write there, and so the monitor does not.
        :raises ValueError: it overlaps.
        """
        if at is None:
            at = self._next
            self._next += (len(data) // _PAGE + 2) * _PAGE
        if not 0 < at <= (1 << 64) - len(data):
            raise ValueError(f"{at:#x} is no address for {len(data)} bytes")
        index = bisect_right(self._starts, at)
        before = index > 0 and self._starts[index - 1] + len(self._regions[index - 1]) > at
        behind = index < len(self._starts) and self._starts[index] < at + len(data)
        if before or behind:
            raise ValueError(f"something is mapped at {at:#x} already")
        self._starts.insert(index, at)
        self._regions.insert(index, bytearray(data))
        if readonly:
            self._readonly.add(at)
        return at

    def unmap(self, address: int) -> None:
        """Forget what was placed at ``address``."""
        index = self._index(address)
        self._readonly.discard(self._starts[index])
        del self._starts[index], self._regions[index]

    def write(self, address: int, data: bytes) -> None:
        """Change mapped bytes, as another thread of the target would.

        :raises ValueError: not all of that is mapped in one piece.
        """
        index = self._index(address)
        offset = address - self._starts[index]
        if offset + len(data) > len(self._regions[index]):
            raise ValueError(f"only {len(self._regions[index]) - offset} bytes are mapped there")
        self._regions[index][offset : offset + len(data)] = data

    def peek(self, address: int, size: int) -> bytes:
        """Up to ``size`` mapped bytes, without counting as a look of the handler's."""
        found = bytearray()
        while len(found) < size:
            try:
                index = self._index(address + len(found))
            except ValueError:
                break
            offset = address + len(found) - self._starts[index]
            found += self._regions[index][offset : offset + size - len(found)]
        return bytes(found)

    def fill(self, address: int, data: bytes) -> int:
        """Write as many bytes of ``data`` as the target could itself; how many those are."""
        done = 0
        while done < len(data):
            try:
                index = self._index(address + done)
            except ValueError:
                break
            if self._starts[index] in self._readonly:
                break
            offset = address + done - self._starts[index]
            region = self._regions[index]
            part = data[done : done + len(region) - offset]
            region[offset : offset + len(part)] = part
            done += len(part)
        if done:
            self.written.append(Written(address, data[:done]))
        return done

    def _index(self, address: int) -> int:
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._starts[index] + len(self._regions[index]):
            raise ValueError(f"nothing is mapped at {address:#x}")
        return index


class View(Memory):
    """What one call sees of a :class:`FakeMemory`: everything but the copying is the real
    :class:`~proctor.kernel.memory.Memory`.

    :param readable: whether the kernel would let the monitor look at all.
    :param byteorder: of the caller's machine, which a real one shares with the monitor.
    """

    __slots__ = ("_readable", "_space", "_swapped", "_validity")

    def __init__(
        self,
        space: FakeMemory,
        tid: int,
        listener: ValidityPort,
        id: int,
        readable: Callable[[], bool],
        byteorder: str = sys.byteorder,
    ) -> None:
        super().__init__(tid, listener, id)
        self._swapped = byteorder != sys.byteorder
        self._space = space
        self._validity = listener
        self._readable = readable

    def pointers(self, address: int, *, limit: int = STRINGS_MAX, width: int = 8) -> list[int]:
        return [
            self._order(each, width) for each in super().pointers(address, limit=limit, width=width)
        ]

    def iovec(self, address: int, count: int, *, width: int = 8) -> list[tuple[int, int]]:
        pairs = super().iovec(address, count, width=width)
        return [(self._order(base, width), self._order(size, width)) for base, size in pairs]

    def _order(self, number: int, width: int) -> int:
        """A word of the caller's, read in our order, as the caller means it."""
        if not self._swapped:
            return number
        return int.from_bytes(number.to_bytes(width, "little"), "big")

    def write(self, address: int, data: bytes) -> None:
        space = self._space
        if not self._validity.id_valid(self._id):
            raise self._gone()
        if not self._readable():
            raise self._refusal(errno.EPERM, address, MemoryUnwritable)
        done = space.fill(address, data)
        if done < len(data):
            raise self._refusal(errno.EFAULT, address + done, MemoryUnwritable)

    def _read(self, address: int, limit: int, string: bool) -> bytes:
        """As ``_core.read`` does it: copy, then check, then judge."""
        space = self._space
        space.reads.append(Read(address, limit))
        data = space.peek(address, limit) if self._readable() else b""
        if space.on_read is not None:
            space.on_read(address)
        if not self._validity.id_valid(self._id):
            raise self._refusal(errno.ENOENT, address)
        if not self._readable():
            raise self._refusal(errno.EPERM, address)
        if not data and limit:
            raise self._refusal(errno.EFAULT, address)
        if not string:
            return data
        end = data.find(b"\0")
        if end < 0:
            number = errno.ENAMETOOLONG if len(data) == limit else errno.EFAULT
            raise self._refusal(number, address)
        return data[:end]

"""A caller's memory, copied once: whoever asks again gets what was copied then.

What decides, performs and logs a call must not see different bytes of it, and another thread of the
target can change them at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from proctor.kernel.memory import PATH_MAX, STRINGS_BYTES_MAX, STRINGS_MAX

if TYPE_CHECKING:
    from proctor.call.ports import MemoryPort

T = TypeVar("T")
#: Under which name a call keeps them, among its arguments.
COPIES: Final = "copies of memory"


class Copies:
    """:class:`~proctor.call.ports.MemoryPort` over another one.

    :param memory: gives that one; asking is looking.
    :param kept: what was copied: bytes by address, and the rest by how it was asked for.
    """

    __slots__ = ("_kept", "_memory")

    def __init__(self, memory: Callable[[], MemoryPort], kept: dict[Any, Any]) -> None:
        self._memory = memory
        self._kept = kept

    def _once(self, key: tuple[Any, ...], take: Callable[[MemoryPort], T]) -> T:
        if key not in self._kept:
            self._kept[key] = take(self._memory())
        found: T = self._kept[key]
        return found

    def _extended(self, address: int, size: int, take: Callable[[MemoryPort], bytes]) -> bytes:
        have: bytes = self._kept.get(address, b"")
        if len(have) < size:
            have += take(self._memory())[len(have) :]
            self._kept[address] = have
        return have[:size]

    def read(self, address: int, size: int) -> bytes:
        return self._extended(address, size, lambda memory: memory.read(address, size))

    def read_some(self, address: int, size: int) -> bytes:
        return self._extended(address, size, lambda memory: memory.read_some(address, size))

    def string(self, address: int, limit: int = PATH_MAX) -> bytes:
        key = ("string", address, limit)
        return self._once(key, lambda memory: memory.string(address, limit))

    def pointers(self, address: int, *, limit: int = STRINGS_MAX, width: int = 8) -> list[int]:
        key = ("pointers", address, limit, width)
        return self._once(key, lambda memory: memory.pointers(address, limit=limit, width=width))

    def strings(
        self,
        address: int,
        *,
        limit: int = STRINGS_MAX,
        total: int = STRINGS_BYTES_MAX,
        width: int = 8,
    ) -> list[bytes]:
        return self._once(
            ("strings", address, limit, total, width),
            lambda memory: memory.strings(address, limit=limit, total=total, width=width),
        )

    def iovec(self, address: int, count: int, *, width: int = 8) -> list[tuple[int, int]]:
        key = ("iovec", address, count, width)
        return self._once(key, lambda memory: memory.iovec(address, count, width=width))

    def write(self, address: int, data: bytes) -> None:
        """See :class:`~proctor.call.ports.MemoryPort`; what was copied stays as it was."""
        self._memory().write(address, data)

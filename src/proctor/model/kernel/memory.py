"""A process's memory, as far as the model has any: named pieces of bytes at addresses.

Programs of the model do not keep their variables here; only what a tracer is to read or write
(PTRACE_PEEKDATA, PTRACE_POKEDATA) is put down with :meth:`Memory.map`.

Sources: ``mm/memory.c`` (``access_remote_vm``), ``kernel/fork.c`` (``dup_mm``), Linux 6.12.
"""

from __future__ import annotations


class Memory:
    """``struct mm_struct``: what is mapped, and what it holds."""

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        #: Address to bytes; pieces do not overlap.
        self.pieces: dict[int, bytearray] = {}

    def map(self, address: int, content: bytes) -> None:
        """Put bytes at ``address`` (mmap(2), or a variable of the program).

        Source: mmap(2).
        """
        self.pieces[address] = bytearray(content)

    def copy(self) -> Memory:
        """fork(2): the same bytes, from now on its own (``kernel/fork.c`` 6.12 ``dup_mm``).

        Source: ``kernel/fork.c`` 6.12 ``dup_mm``.
        """
        made = Memory()
        made.pieces = {address: bytearray(content) for address, content in self.pieces.items()}
        return made

    def _find(self, address: int, size: int) -> tuple[bytearray, int] | None:
        for start, content in self.pieces.items():
            if start <= address and address + size <= start + len(content):
                return content, address - start
        return None

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes, or None where not all of them are mapped."""
        found = self._find(address, size)
        return None if found is None else bytes(found[0][found[1] : found[1] + size])

    def write(self, address: int, data: bytes) -> bool:
        """Whether the bytes could be put there (``mm/memory.c`` 6.12 ``access_remote_vm``).

        Source: ``mm/memory.c`` 6.12 ``access_remote_vm``.
        """
        found = self._find(address, len(data))
        if found is None:
            return False
        found[0][found[1] : found[1] + len(data)] = data
        return True

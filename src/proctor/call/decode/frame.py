"""One call while it is looked at: its registers, what they mean, and the way to its memory.

A :class:`Frame` is all that decoding and writing down need of a call.  It settles what depends on
something else: which command of fcntl it is, and which call socketcall and ipc stand for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.call.decode import argument
from proctor.call.decode.copies import COPIES, Copies
from proctor.syscalls.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from proctor.call.ports import MemoryPort
    from proctor.syscalls.signatures import Arg, Signature

_NO_ZEROES: Final = (0,) * 6
#: Among the values: the words of a block of arguments, and what was copied of memory.
_BLOCK: Final = ""


class Frame:
    """What decoding may look at.

    :param known: the signature of the call's name.
    :param registers: all six.
    :param memory: gives the caller's memory; asking is looking.
    :param values: what was decoded, by name: never again while it is there.

    :ivar outer: the signature as given.
    :ivar signature: the one that counts, with ``registers``: that of fcntl's command, or of what
        socketcall stands for, once :meth:`settle` has read its arguments.
    """

    registers: Sequence[int]
    signature: Signature
    values: dict[str, Any]

    __slots__ = ("_memory", "outer", "outside", "registers", "signature", "values")

    def __init__(
        self,
        known: Signature,
        registers: Sequence[int],
        memory: Callable[[], MemoryPort],
        values: dict[str, Any],
    ) -> None:
        self.outer = known
        self.outside = self.registers = registers
        self.signature = known if known.choice is None else known.of(registers)
        self.values = values
        self._memory = memory
        if self.signature.block is not None and _BLOCK in values:
            self.settle()

    @property
    def memory(self) -> MemoryPort:
        """The caller's memory, of which nothing is read twice: for decoding, and for whoever needs the
        very bytes that a value was decoded from."""
        return Copies(self._memory, self.values.setdefault(COPIES, {}))

    @property
    def abi(self) -> str:
        """Architecture by name."""
        return self.outer.abi

    @property
    def byteorder(self) -> str:
        """The caller's: "little" or "big"."""
        return "big" if ARCHITECTURES[self.abi].big_endian else "little"

    @property
    def end(self) -> str:
        """The caller's byte order for :mod:`struct`."""
        return ">" if ARCHITECTURES[self.abi].big_endian else "<"

    def settle(self) -> None:
        """Read the arguments that are in memory as a block, once.

        :raises MemoryUnreadable: they are not there."""
        known = self.signature
        if known.block is None:
            return
        words = self.values.get(_BLOCK)
        if words is None:
            count = len(known.args)
            data = self.memory.read(known.block.value(self.outside), count * known.word)
            words = struct.unpack(f"{self.end}{count}{'I' if known.word == 4 else 'Q'}", data)
            self.values[_BLOCK] = words
        self.registers = (*words, *_NO_ZEROES[len(words) :])
        self.signature = known.of(self.registers)._replace(block=None)

    def settled(self, name: str) -> Arg | None:
        """The argument of this name, of the call as it is made, else of its base (fcntl's ``arg``).

        :raises MemoryUnreadable: it is in memory, where nothing can be read."""
        if self.signature.block is not None and name in self.signature:
            self.settle()
        return self.signature.arg(name) or self.outer.arg(name)

    def register(self, arg: Arg) -> int:
        """An argument's number."""
        inside = arg in self.signature.args
        return arg.value(self.registers if inside else self.outside)

    def number(self, name: str) -> int:
        """Another argument as a number; digits are themselves."""
        if name.isdigit():
            return int(name)
        arg = self.signature.arg(name)
        assert arg is not None, f"{self.signature.name} has no argument {name}"
        return arg.value(self.registers)

    def counts(self, arg: Arg) -> bool:
        """Whether the kernel looks at the argument: open(2) does not at the mode unless it makes a
        file."""
        return arg.when is None or arg.when.holds(self.number(arg.when.name))

    def value(self, arg: Arg) -> Any:
        """An argument's value: its number, or what it points to, read once.

        :raises MemoryUnreadable: with the errno that the kernel would give."""
        if arg.name in self.values:
            return self.values[arg.name]
        found = argument.decode(arg, self)
        self.values[arg.name] = found
        return found

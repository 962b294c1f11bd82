"""From a test's values to registers and memory: what :mod:`proctor.call` decodes, the other way.

:func:`registers` follows the call's signature, so a value lands in the register, with the width and
the byte order that the ABI has.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from proctor.call.decode import layouts, sockaddr
from proctor.call.decode.structures import MessageHeader
from proctor.call.decode.values import SignalSet, Timespec
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.signatures import POINTER_ROLES, Arg, Signature
from proctor.testing.space import FakeMemory
from proctor.testing.tree import encoded

Registers = tuple[int, int, int, int, int, int]

_M64: Final = (1 << 64) - 1
#: Arguments that hold the length or the count of another one.
_COUNTS: Final = frozenset(("socklen", "iovcnt"))


def registers(
    memory: FakeMemory,
    known: Signature,
    given: Sequence[Any],
    named: Mapping[str, Any],
) -> Registers:
    """The six registers of a call, its memory placed.

    Lengths that were not given (of socket addresses, vectors, structures and buffers) are filled
    in; everything else that was not given is 0.

    :raises TypeError: too many values, a name the call does not have, or a value that means nothing
        there.
    """
    base, made, left = known, [0] * 6, dict(named)
    encoder = _Encoder(memory, known)
    index = 0
    while index < len(known.args):
        arg = known.args[index]
        if index < len(given):
            if arg.name in left:
                raise TypeError(f"{known.name} was given {arg.name!r} twice")
            number = encoder.number(arg, given[index])
        elif arg.name in left:
            number = encoder.number(arg, left.pop(arg.name))
        else:
            number = encoder.implied(index)
        _set(made, arg, number, known.abi)
        index += 1
        narrowed = base.of(made)  # what follows depends on it, if it is a command
        known = encoder.known = base if narrowed.block is not None else narrowed
    if len(given) > len(known.args):
        raise TypeError(
            f"{known.name} has {len(known.args)} arguments ({_names(known)}), not {len(given)}"
        )
    if left:
        raise TypeError(f"{known.name} has no argument {min(left)!r}; it has {_names(known)}")
    return tuple(made)  # type: ignore[return-value]


def _names(known: Signature) -> str:
    return ", ".join(arg.name for arg in known.args) or "none"


def _set(made: list[int], arg: Arg, number: int, abi: str) -> None:
    if not -(1 << 63) <= number <= _M64:
        raise TypeError(f"{arg.name}={number:#x} does not fit into a register")
    if arg.reg_high >= 0:
        made[arg.reg] = number & 0xFFFFFFFF
        made[arg.reg_high] = number >> 32 & 0xFFFFFFFF
        return
    # As compilers do it: a negative int leaves the upper half of its register clear.
    narrow = ARCHITECTURES[abi].bits == 32 or (number < 0 and arg.bits <= 32)
    made[arg.reg] = number & (0xFFFFFFFF if narrow else _M64)


class _Encoder:
    """Places values for one call, and remembers how long they are."""

    def __init__(self, memory: FakeMemory, known: Signature) -> None:
        self.memory = memory
        self.known = known
        self.end = ">" if ARCHITECTURES[known.abi].big_endian else "<"
        #: Argument → length in bytes, or count, of what was placed for it.
        self.lengths: dict[str, int] = {}

    def implied(self, index: int) -> int:
        """What an argument is that was not given: the length of another one, or 0."""
        arg = self.known.args[index]
        if arg.role in _COUNTS:
            for other in self.known.args:
                if other.counted_by == arg.name:
                    return self.lengths.get(other.name, 0)
        if arg.role == "size" and index:
            return self.lengths.get(self.known.args[index - 1].name, 0)
        return 0

    def number(self, arg: Arg, value: Any) -> int:
        """The register's number for one argument."""
        if isinstance(value, int) and not isinstance(value, SignalSet):
            return int(value)
        if arg.role not in POINTER_ROLES:
            raise TypeError(
                f"{self.known.name}: {arg.name} is a number ({arg.role}), not {value!r}"
            )
        if value is None:
            return 0
        if arg.role in ("path", "string"):
            return self.memory.place(self.text(arg, value) + b"\0")
        if arg.role == "strings":
            return self.strings(arg, value)
        if arg.role == "iovec":
            pairs = self.vector(value)
            self.lengths[arg.name] = len(pairs)
            return self.pairs(pairs)
        data = self.data(arg, value)
        self.lengths[arg.name] = len(data)
        return self.memory.place(data)

    def text(self, arg: Arg, value: Any) -> bytes:
        if not isinstance(value, (str, bytes, os.PathLike)):
            raise TypeError(f"{self.known.name}: {arg.name} is a {arg.role}, not {value!r}")
        text = encoded(value)
        if b"\0" in text:
            raise TypeError(
                f"{arg.name}={value!r}: a string ends at its first NUL; for other bytes pass the "
                "address that target.memory.place() returns"
            )
        return text

    def data(self, arg: Arg, value: Any) -> bytes:
        """The bytes of anything else that is passed by address."""
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if arg.role == "pointer" and isinstance(value, str):
            return encoded(value) + b"\0"
        if arg.role == "sockaddr":
            return sockaddr.encode(value, self.byteorder)
        if arg.role == "array" and isinstance(value, Sequence):
            return b"".join(self.element(arg, each) for each in value)
        return self.element(arg, value)

    @property
    def byteorder(self) -> str:
        return "little" if self.end == "<" else "big"

    def pointer(self, *numbers: int) -> bytes:
        return struct.pack(
            f"{self.end}{len(numbers)}{'I' if self.known.word == 4 else 'Q'}", *numbers
        )

    def strings(self, arg: Arg, value: Any) -> int:
        if isinstance(value, (str, bytes)):
            raise TypeError(f"{self.known.name}: {arg.name} is a list of strings, not {value!r}")
        addresses = [self.memory.place(self.text(arg, each) + b"\0") for each in value]
        return self.memory.place(self.pointer(*addresses, 0))

    def vector(self, value: Any) -> list[tuple[int, int]]:
        """Buffers, or (address, length) pairs, as pairs."""
        pairs = []
        for each in value:
            if isinstance(each, (bytes, bytearray)):
                pairs.append((self.memory.place(bytes(each)) if each else 0, len(each)))
            else:
                pairs.append((int(each[0]), int(each[1])))
        return pairs

    def pairs(self, pairs: list[tuple[int, int]]) -> int:
        flat = [number for pair in pairs for number in pair]
        return self.memory.place(self.pointer(*flat)) if pairs else 0

    def element(self, arg: Arg, value: Any) -> bytes:
        """One structure, or number, by its fields (the others are 0) or as it is decoded."""
        family = (arg.family or "").partition(".")[0]
        if isinstance(value, float):
            value = Timespec(int(value // 1), int(value % 1 * 1e9))
        if isinstance(value, MessageHeader):
            value = self.message(value)
        if isinstance(value, SignalSet):
            return struct.pack(self.end + "Q", value)
        number = layouts.number(family, self.known)
        if number is not None and isinstance(value, int):
            return number.pack(value)
        if arg.role not in ("struct", "array", "inout") or not layouts.exists(family):
            if isinstance(value, Mapping):
                raise TypeError(f"{self.known.name}: {arg.name} has no fields by name: pass bytes")
            raise TypeError(f"{self.known.name}: {arg.name} ({arg.role}) cannot be {value!r}")
        made = layouts.layout(family, self.known)
        if not isinstance(value, (Mapping, tuple)):
            raise TypeError(f"{self.known.name}: {arg.name} ({arg.role}) cannot be {value!r}")
        try:
            return made.pack(made.named(value))
        except KeyError as missing:
            has = ", ".join(field.name for field in made.shown)
            raise TypeError(f"struct {family} has no field {missing}; it has {has}") from None
        except ValueError as wrong:
            raise TypeError(f"struct {family}: {wrong}") from None

    def message(self, value: MessageHeader) -> dict[str, int]:
        to = sockaddr.encode(value.address, self.byteorder) if value.address is not None else b""
        iov = self.vector(value.iov)
        return {
            "msg_name": self.memory.place(to) if to else 0,
            "msg_namelen": len(to),
            "msg_iov": self.pairs(iov),
            "msg_iovlen": len(iov),
            "msg_control": value.control,
            "msg_controllen": value.controllen,
            "msg_flags": value.flags,
        }

"""From a test's values to registers and memory: what :mod:`proctor.call` decodes, the other way.

:func:`registers` follows the call's signature, so a value lands in the register, with the width and
the byte order that the ABI has.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from proctor.call.decode import sockaddr
from proctor.call.decode.layouts import Structure
from proctor.call.decode.structures import (
    CloneArgs,
    EpollEvent,
    Limits,
    MessageHeader,
    MountAttributes,
    OpenHow,
)
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
    if len(given) > len(known.args):
        raise TypeError(
            f"{known.name} has {len(known.args)} arguments ({_names(known)}), not {len(given)}"
        )
    values = {arg.name: value for arg, value in zip(known.args, given, strict=False)}
    for name, value in named.items():
        if name not in known:
            raise TypeError(f"{known.name} has no argument {name!r}; it has {_names(known)}")
        if name in values:
            raise TypeError(f"{known.name} was given {name!r} twice")
        values[name] = value
    encoder = _Encoder(memory, known)
    made = [0] * 6
    for index, arg in enumerate(known.args):
        if arg.name in values:
            number = encoder.number(arg, values[arg.name])
        else:
            number = encoder.implied(index)
        _set(made, arg, number, known.abi)
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
        self.word = known.word
        #: Argument → length in bytes, or count, of what was placed for it.
        self.lengths: dict[str, int] = {}

    def implied(self, index: int) -> int:
        """What an argument is that was not given: the length of another one, or 0."""
        arg = self.known.args[index]
        if arg.role in _COUNTS:
            for other in self.known.args:
                if other.family == arg.name:
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
            return address(value, self.end)
        if arg.role == "timespec":
            return self.timespec(arg, value)
        if isinstance(value, Mapping):
            return self.fields(arg, value)
        packed = self.structure(value)
        if packed is None:
            raise TypeError(f"{self.known.name}: {arg.name} ({arg.role}) cannot be {value!r}")
        return packed

    def pointer(self, *numbers: int) -> bytes:
        return struct.pack(f"{self.end}{len(numbers)}{'I' if self.word == 4 else 'Q'}", *numbers)

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

    def timespec(self, arg: Arg, value: Any) -> bytes:
        if isinstance(value, float):
            value = Timespec(int(value // 1), int(value % 1 * 1e9))
        short = self.known.time32 and arg.family != "timespec64"
        return struct.pack(self.end + ("ii" if short else "qq"), *value)

    def fields(self, arg: Arg, value: Mapping[str, Any]) -> bytes:
        """A structure by its fields; the others are 0."""
        from proctor.call.decode import layouts

        family = arg.family or ""
        if arg.role != "struct" or not layouts.exists(family):
            raise TypeError(f"{self.known.name}: {arg.name} has no fields by name: pass bytes")
        made = layouts.layout(family, self.known)
        try:
            return made.pack(value)
        except KeyError as missing:
            has = ", ".join(field.name for field in made.shown)
            raise TypeError(f"struct {family} has no field {missing}; it has {has}") from None

    def structure(self, value: Any) -> bytes | None:
        end, word = self.end, self.word
        if isinstance(value, SignalSet):
            return struct.pack(end + "Q", value)
        if isinstance(value, Structure):
            return value.pack()
        if isinstance(value, OpenHow):
            return struct.pack(end + "3Q", *map(int, value))
        if isinstance(value, CloneArgs):
            return struct.pack(end + "11Q", *map(int, value))
        if isinstance(value, MountAttributes):
            return struct.pack(end + "4Q", *map(int, value))
        if isinstance(value, Limits):
            wide = word == 8 or self.known.name == "prlimit64"
            if not wide:  # "no limit" is all ones in either width
                return struct.pack(end + "2I", *(number & 0xFFFFFFFF for number in value))
            return struct.pack(end + "2Q", *value)
        if isinstance(value, EpollEvent):
            packed = self.known.abi in ("x86_64", "x32", "i386")
            return struct.pack(end + ("IQ" if packed else "I4xQ"), *value)
        if isinstance(value, MessageHeader):
            to = address(value.address, end) if value.address is not None else b""
            iov = self.vector(value.iov)
            layout = "IiIIIII" if word == 4 else "Qi4xQQQQI4x"
            return struct.pack(
                end + layout,
                self.memory.place(to) if to else 0,
                len(to),
                self.pairs(iov),
                len(iov),
                value.control,
                value.controllen,
                value.flags,
            )
        return None


def address(value: Any, end: str = "<") -> bytes:
    """A socket address as the target has it in memory.

    :param value: one of :mod:`proctor.call.decode.sockaddr`'s values, or ``(host, port)`` for AF_INET and,
        with a colon in the host, AF_INET6.
    """
    if isinstance(value, sockaddr.UnixAddress):
        lead = b"\0" if value.kind == "abstract" else b""
        close = b"\0" if value.kind == "pathname" else b""
        return struct.pack(end + "H", sockaddr.AF_UNIX) + lead + value.path + close
    if isinstance(value, sockaddr.NetlinkAddress):
        return struct.pack(end + "HHII", sockaddr.AF_NETLINK, 0, value.pid, value.groups)
    if isinstance(value, sockaddr.PacketAddress):
        head = struct.pack(end + "H", sockaddr.AF_PACKET) + struct.pack(">H", value.protocol)
        tail = struct.pack(
            end + "iHBB", value.ifindex, value.hatype, value.pkttype, len(value.address)
        )
        return head + tail + value.address.ljust(8, b"\0")
    if isinstance(value, sockaddr.VsockAddress):
        family = sockaddr.AF_VSOCK
        return struct.pack(end + "HHIIB3x", family, 0, value.port, value.cid, value.flags)
    if isinstance(value, sockaddr.RawAddress):
        return (struct.pack(end + "H", value.family) if value.family >= 0 else b"") + value.data
    if isinstance(value, sockaddr.Inet6Address):
        return _inet6(value, end)
    if isinstance(value, sockaddr.InetAddress):
        return _inet(value, end)
    if isinstance(value, tuple) and len(value) == 2:
        host, port = value
        if ":" in host:
            return _inet6(sockaddr.Inet6Address(host, port), end)
        return _inet(sockaddr.InetAddress(host, port), end)
    raise TypeError(
        f"{value!r} is no socket address: pass (host, port), bytes, or a value of "
        "proctor.call.decode.sockaddr"
    )


def _inet(value: sockaddr.InetAddress, end: str) -> bytes:
    from ipaddress import IPv4Address

    head = struct.pack(end + "H", sockaddr.AF_INET) + struct.pack(">H", value.port)
    return head + IPv4Address(value.host).packed + bytes(8)


def _inet6(value: sockaddr.Inet6Address, end: str) -> bytes:
    from ipaddress import IPv6Address

    head = struct.pack(end + "H", sockaddr.AF_INET6) + struct.pack(
        ">HI", value.port, value.flowinfo
    )
    return head + IPv6Address(value.host).packed + struct.pack(end + "I", value.scope_id)

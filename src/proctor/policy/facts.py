"""A call in plain values, for explaining and testing a policy without running anything."""

from __future__ import annotations

import errno as _errno
import socket
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from proctor.errors import PolicyError
from proctor.policy.addresses import Address
from proctor.policy.rules import Unknowable
from proctor.words import did_you_mean


class Facts:
    """What is known of one call.

    :param name: the system call.
    :param arch: the caller's architecture.
    :param registers: six raw registers; missing ones are 0.
    :param paths: resolved absolute paths by argument name; None for a NULL pointer.
    :param strings: other strings by argument name.
    :param addresses: socket addresses by argument name; None for a NULL pointer.
    :param identity: ``uid`` and ``gid`` of the caller.

    Asking for what is not known raises :class:`~proctor.policy.rules.Unknowable` with EFAULT, as
    a bad pointer would.
    """

    __slots__ = (
        "_addresses",
        "_identity",
        "_paths",
        "_strings",
        "arch",
        "name",
        "registers",
        "tid",
    )

    def __init__(
        self,
        name: str,
        arch: str = "x86_64",
        registers: Sequence[int] = (),
        *,
        paths: Mapping[str, bytes | None] | None = None,
        strings: Mapping[str, bytes | None] | None = None,
        addresses: Mapping[str, Address | None] | None = None,
        identity: Mapping[str, int] | None = None,
        tid: int = 0,
    ) -> None:
        self.name = name
        self.arch = arch
        self.registers: tuple[int, ...] = (*registers, *(0,) * 6)[:6]
        self.tid = tid
        self._paths = dict(paths or {})
        self._strings = dict(strings or {})
        self._addresses = dict(addresses or {})
        self._identity = dict(identity or {})

    @classmethod
    def of(cls, name: str, arch: str = "x86_64", **arguments: Any) -> Facts:
        """Facts from arguments by name: ``Facts.of("mknod", path=b"/dev/x", mode=0o20666, dev="1:3")``.

        Numbers go into the call's registers, bytes are what a path or string argument holds, a
        string ``"MAJOR:MINOR"`` is a device, an :class:`~proctor.policy.addresses.Address` a socket
        address; ``uid`` and ``gid`` are the caller's where the call has no such argument.

        :raises PolicyError: an argument that the call does not have.
        """
        from proctor.syscalls.signatures import signature

        described = signature(name, arch)
        if described is None:
            raise PolicyError(f"the arguments of {name} on {arch} are not known")
        registers = [0] * 6
        facts = cls(name, arch)
        for key, value in arguments.items():
            arg = described.arg(key)
            if arg is None and key == "path":
                arg = described.first("path")
            if arg is None and key == "address":
                arg = described.first("sockaddr")
            if arg is None:
                if key in ("uid", "gid"):
                    facts._identity[key] = int(value)
                    continue
                names = [each.name for each in described.args]
                hint = did_you_mean(key, names) or f"; it has {', '.join(names)}"
                raise PolicyError(f'{name} has no argument "{key}"{hint}')
            if isinstance(value, bytes) or value is None:
                where = facts._paths if arg.role == "path" else facts._strings
                if arg.role == "sockaddr":
                    facts._addresses[arg.name] = None
                else:
                    where[arg.name] = value
                registers[arg.reg] = 0 if value is None else 0x7F0000000000
            elif isinstance(value, Address):
                facts._addresses[arg.name] = value
                registers[arg.reg] = 0x7F0000000000
            elif isinstance(value, str):
                major, _, minor = value.partition(":")
                number = int(minor)
                registers[arg.reg] = int(major) << 8 | (number & 0xFF) | (number & 0xFFF00) << 12
            else:
                registers[arg.reg] = int(value) & (1 << 64) - 1
        facts.registers = tuple(registers)
        return facts

    def path(self, argument: str) -> bytes | None:
        """See :class:`~proctor.policy.rules.CallView`."""
        return _known(self._paths, argument)

    def string(self, argument: str) -> bytes | None:
        """See :class:`~proctor.policy.rules.CallView`."""
        return _known(self._strings, argument)

    def address(self, argument: str) -> Address | None:
        """See :class:`~proctor.policy.rules.CallView`."""
        return _known(self._addresses, argument)

    def identity(self, what: str) -> int:
        """See :class:`~proctor.policy.rules.CallView`."""
        if what not in self._identity:
            raise Unknowable(0, f"the caller's {what} is not known")
        return self._identity[what]

    def hint(self, argument: str) -> bytes | None:
        """The path or string in an argument if it is known, for people to read."""
        return self._paths.get(argument, self._strings.get(argument))


_Value = TypeVar("_Value")


def _known(values: Mapping[str, _Value], argument: str) -> _Value:
    if argument not in values:
        raise Unknowable(_errno.EFAULT, f"what {argument} points to is not known")
    return values[argument]


def unix_address(name: bytes) -> Address:
    """The address of a socket file, or of an abstract socket if ``name`` begins with NUL."""
    if not name:
        return Address(socket.AF_UNIX)
    if name.startswith(b"\0"):
        return Address(socket.AF_UNIX, abstract=name[1:])
    return Address(socket.AF_UNIX, path=name)

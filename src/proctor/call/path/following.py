"""Where a path argument of a call leads: relative to what, and as the call treats it."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Final

from proctor.syscalls import paths
from proctor.syscalls.signatures import READ_ROLES

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.path.located import Located
    from proctor.syscalls.signatures import Arg, Signature

Registers = tuple[int, int, int, int, int, int]

AT_FDCWD: Final = -100


class Way:
    """What is known of one path argument of all calls of one name.

    :ivar in_struct: what it means is in a structure, not in registers."""

    __slots__ = ("_known", "_meanings", "_pick", "arg", "dirfd", "in_struct", "mask", "name", "reg")

    def __init__(self, known: Signature, arg: Arg) -> None:
        self.arg, self.name, self.reg, self.mask = arg, arg.name, arg.reg, arg.mask
        self.dirfd = known.dirfd_of(arg)
        self.in_struct = known.name == "openat2"
        flags = [each.reg for each in known.args if each.family and each.role not in READ_ROLES]
        #: The registers with its flags.
        self._pick = itemgetter(*flags) if flags else _nothing
        self._known = known
        self._meanings: dict[tuple[bool, object], paths.Meaning] = {}

    def base(self, registers: Registers) -> int:
        """The caller's number of the directory that it is relative to."""
        return AT_FDCWD if self.dirfd is None else self.dirfd.value(registers)

    def meaning(self, call: Call, registers: Registers) -> paths.Meaning:
        """What it means."""
        if self.in_struct:
            return paths.meaning(self._known, self.arg, registers, int(call.how.flags))
        key = (not registers[self.reg] & self.mask, self._pick(registers))
        found = self._meanings.get(key)
        if found is None:
            if len(self._meanings) >= _MOST:
                self._meanings.clear()  # registers are the target's to choose
            found = self._meanings[key] = paths.meaning(self._known, self.arg, registers)
        return found


def _nothing(registers: Registers) -> None:
    """No flags say what a path means."""


_MOST: Final = 256
_ways: dict[tuple[int, int, str | None], Way] = {}


def way_of(call: Call, argument: str | None) -> Way:
    """:raises AttributeError: the call has no such path argument."""
    notification = call._notification
    key = (notification.arch, notification.nr, argument)
    found = _ways.get(key)
    if found is None:
        known = call.signature
        arg = None
        if known is not None:
            arg = known.first("path") if argument is None else known.arg(argument)
        if known is None or arg is None or arg.role != "path":
            raise AttributeError(f"{call.name} has no path argument {argument or ''}".rstrip())
        found = _ways[key] = Way(known, arg)
    return found


def resolve(call: Call, argument: str | None, follow: bool | None) -> tuple[str, Located, bool]:
    """(argument, where it leads, whether that is what the call means): see
    :meth:`proctor.call.Call.resolve`."""
    way = way_of(call, argument)
    path: bytes | None = call.args[way.arg.name]
    means = way.meaning(call, call.registers)
    located = call.caller.locate(
        path if path is not None else b"",
        way.base(call.registers),
        follow=means.follows if follow is None else follow,
        empty=means.empty,
        resolve=int(call.how.resolve) if way.in_struct else 0,
        entry=not follow and means.entry,
    )
    return way.arg.name, located, follow is None or follow == means.follows

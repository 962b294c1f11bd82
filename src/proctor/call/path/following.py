"""Where a path argument of a call leads: relative to what, and as the call treats it."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Final

from proctor.records import NamedTuple
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

    __slots__ = (
        "_known",
        "_meanings",
        "_pick",
        "_starts",
        "arg",
        "in_struct",
        "mask",
        "name",
        "reg",
    )

    def __init__(self, known: Signature, arg: Arg) -> None:
        self.arg, self.name, self.reg, self.mask = arg, arg.name, arg.reg, arg.mask
        self._starts = known.dirfd_of(arg)
        self.in_struct = known.name == "openat2"
        others = [each for each in known.args if each.family and each.role not in READ_ROLES]
        if self._starts is not None:
            others.append(self._starts)
        #: The registers with its flags, and with the directory that it is relative to.
        self._pick = itemgetter(*[each.reg for each in others]) if others else _nothing
        self._known = known
        self._meanings: dict[tuple[bool, object], tuple[int, bool, bool, bool]] = {}

    def meaning(self, call: Call, registers: Registers) -> tuple[int, bool, bool, bool]:
        """(the caller's number of the directory that it is relative to, and what
        :class:`~proctor.syscalls.paths.Meaning` has)."""
        if self.in_struct:
            return self._mean(registers, int(call.how.flags))
        key = (not registers[self.reg] & self.mask, self._pick(registers))
        found = self._meanings.get(key)
        if found is None:
            if len(self._meanings) >= _MOST:
                self._meanings.clear()  # registers are the target's to choose
            found = self._meanings[key] = self._mean(registers, None)
        return found

    def _mean(self, registers: Registers, how: int | None) -> tuple[int, bool, bool, bool]:
        base = AT_FDCWD if self._starts is None else self._starts.value(registers)
        return base, *paths.meaning(self._known, self.arg, registers, how)


def _nothing(registers: Registers) -> None:
    """Nothing says what a path means."""


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


class Sought(NamedTuple):
    """What to look for, to find out where something of a call leads: see
    :func:`proctor.call.path.resolve.locate`."""

    path: bytes
    dirfd: int = AT_FDCWD
    follow: bool = True
    empty: bool = False
    resolve: int = 0
    entry: bool = False


def sought(call: Call, argument: str | None, follow: bool | None = None) -> Sought:
    """What a path argument means.

    :param follow: see :meth:`proctor.call.Call.resolve`."""
    way = way_of(call, argument)
    path: bytes | None = call.args[way.arg.name]
    base, follows, entry, empty = way.meaning(call, call.registers)
    return Sought(
        path if path is not None else b"",
        base,
        follows if follow is None else follow,
        empty,
        int(call.how.resolve) if way.in_struct else 0,
        not follow and entry,
    )


def resolve(call: Call, argument: str | None, follow: bool | None) -> tuple[str, Located, bool]:
    """(argument, where it leads, whether that is what the call means): see
    :meth:`proctor.call.Call.resolve`."""
    way, what = way_of(call, argument), sought(call, argument, follow)
    located = call.caller.locate(**what._asdict())
    meant = follow is None or follow == way.meaning(call, call.registers)[1]
    return way.name, located, meant

"""Names for numbers in conditions: constants of an argument's family, signals, AT_FDCWD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from proctor.policy.registers import Register

if TYPE_CHECKING:
    from proctor.syscalls.signatures import Arg

_AT_FDCWD: Final = {"AT_FDCWD": -100}


def register_of(arg: Arg) -> Register:
    """Where an argument is and which of its bits count; the low half of one in two registers."""
    if arg.reg_high >= 0:
        return Register(arg.reg, 32)
    return Register(arg.reg, arg.bits, arg.signed)


def constants_of(arg: Arg, arch: str) -> Mapping[str, int]:
    """The names that may stand for numbers in this argument, with the numbers ``arch`` gives them."""
    if arg.role in ("fd", "dirfd"):
        return _AT_FDCWD
    if arg.role == "signal":
        import signal

        return {each.name: int(each) for each in signal.Signals}
    if arg.role == "mode":
        import stat

        return {
            name: value
            for name, value in vars(stat).items()
            if name.startswith("S_I") and isinstance(value, int)
        }
    if arg.family is None or arg.role not in ("flags", "cmd", "clock"):
        return {}
    from proctor.syscalls import flags

    try:
        return flags.members(arg.family, arch)
    except KeyError:
        return {}  # a family without names

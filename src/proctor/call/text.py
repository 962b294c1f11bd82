"""A call as text, the way strace writes it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from proctor.call import decode
from proctor.call.values import quote
from proctor.kernel.errors import CallError

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.filter.signatures import Arg

AT_FDCWD: Final = -100
_MAKES_A_FILE: Final = 0o100 | 0o20000000  # O_CREAT, and the bit that makes O_TMPFILE
_SHOWN: Final = 8  # elements of an array


def line(call: Call, *, read: bool) -> str:
    """``name(argument, ...)``.

    :param read: whether the caller's memory may be read; without, pointers that were not decoded
        before are shown as addresses.
    """
    if call.signature is None:
        return f"{call.name}({', '.join(f'{number:#x}' for number in call.raw)})"
    parts = []
    for arg in call.signature.args:
        if arg.role == "mode" and not _mode_counts(call):
            continue
        parts.append(_argument(call, arg, read))
    return f"{call.name}({', '.join(parts)})"


def _mode_counts(call: Call) -> bool:
    """open(2) ignores its mode unless it makes a file."""
    if call.name not in ("open", "openat"):
        return True
    assert call.signature is not None
    flags = call.signature.arg("flags")
    return flags is None or bool(flags.value(call.raw) & _MAKES_A_FILE)


def _argument(call: Call, arg: Arg, read: bool) -> str:
    number = arg.value(call.raw)
    if decode.needs_memory(arg):
        known = call._values or {}
        if arg.name in known:
            return value_text(known[arg.name])
        if not read:
            return "NULL" if not number else f"{number:#x}"
        try:
            return value_text(call._by_name(arg.name))
        except (CallError, OSError) as error:
            code = getattr(error, "errno", None)
            why = errno.errorcode.get(code, "?") if isinstance(code, int) else type(error).__name__
            return f"{number:#x} ({why})"
    if arg.role in ("pointer", "address", "struct"):
        return "NULL" if not number else f"{number:#x}"
    if arg.role in ("dirfd", "fd") and number == AT_FDCWD:
        return "AT_FDCWD"
    if arg.role in ("uid", "gid") and number == 0xFFFFFFFF:
        return "-1"
    if arg.role == "ulong" and number > 0xFFFF:
        return f"{number:#x}"
    return value_text(decode.plain(arg, number, call.abi))


def value_text(value: Any) -> str:
    """One decoded value."""
    if isinstance(value, bytes):
        return quote(value)
    if value is None:
        return "NULL"
    if type(value) is tuple:
        shown = ", ".join(value_text(each) for each in value[:_SHOWN])
        return f"[{shown}{', ...' if len(value) > _SHOWN else ''}]"
    return str(value)

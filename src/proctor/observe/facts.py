"""What a log for programs says of a call besides its line: taken while the caller still waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.call.structured import plain, structured
from proctor.errors import CallError

if TYPE_CHECKING:
    from proctor.call.call import Call


def facts(call: Call, *, read: bool) -> dict[str, Any]:
    """``args``, and as far as they can be known ``paths``, ``pid``, ``comm`` and ``exe``, as JSON has
    them; see ``docs/log.md``.

    :param read: whether the caller's memory and /proc may be looked at.
    """
    found: dict[str, Any] = {"args": structured(call, read=read)}
    looks = call.looks
    if looks:
        found["paths"] = {name: plain(look.path) for name, look in looks.items()}
    if read:
        for name, take in _CALLER.items():
            try:
                found[name] = plain(take(call))
            except (CallError, OSError):
                pass  # it is gone, has no number here, or may not be looked at
    return found


_CALLER: Final[dict[str, Callable[[Call], Any]]] = {
    "pid": lambda call: call.caller.tgid,
    "comm": lambda call: call.comm,
    "exe": lambda call: call.exe,
}

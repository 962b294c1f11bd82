"""What a log for programs says of a call besides what became of it: taken while the caller still waits.

It is text, members of a JSON object.  Most calls differ from one another by a path, so what is said of all
else is made once for each set of registers that comes, with holes for paths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from proctor.call import passwords
from proctor.call.decode.frame import Frame
from proctor.call.strace.line import line
from proctor.call.structured import arguments, json_text, plain, structured
from proctor.errors import CallError
from proctor.syscalls.signatures import READ_ROLES

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.observe.callers import Callers
    from proctor.syscalls.signatures import Signature

#: What C, JSON and we write alike.
_PLAIN: Final = re.compile(rb"[ !#-\[\]-~]{1,1024}").fullmatch
_HOLE: Final = "<hole %d>"
#: Sets of registers that are remembered of one call, and calls; hostile ones too.
_SETS, _CALLS = 1024, 1024

_Registers = tuple[int, int, int, int, int, int]


class _Shown:
    """Calls of one name, as far as they are shown by registers and paths alone."""

    __slots__ = ("_known", "_made", "_paths", "_pick")

    def __init__(self, known: Signature) -> None:
        self._known = known
        self._paths = [arg for arg in known.args if arg.role == "path"]
        others = [arg for arg in known.args if arg.role != "path"]
        registers = [reg for arg in others for reg in (arg.reg, arg.reg_high) if reg >= 0]
        self._pick: Callable[[Any], Any] = itemgetter(*registers) if registers else _nothing
        self._made: dict[Any, list[str] | None] = {}

    def members(self, call: Call) -> str | None:
        """``call`` and ``args``; None where it takes more to show them."""
        registers = call.registers
        texts = []
        for arg in self._paths:
            if not registers[arg.reg] & arg.mask:
                return None
            try:
                path = call.args[arg.name]
            except (CallError, OSError):
                return None
            if _PLAIN(path) is None:
                return None
            texts.append(path.decode("ascii"))
        made = self.between(registers)
        if made is None:
            return None
        if len(texts) == 1:
            (text,) = texts
            first, second, last = made
            return f"{first}{text}{second}{text}{last}"
        pieces = [made[0]]
        for text, piece in zip(texts * 2, made[1:], strict=True):
            pieces += text, piece
        return "".join(pieces)

    def between(self, registers: _Registers) -> list[str] | None:
        """What is between the paths, each of which is shown twice; None if that is not so."""
        key = self._pick(registers)
        try:
            return self._made[key]
        except KeyError:
            if len(self._made) >= _SETS:
                self._made.clear()
            made = self._made[key] = self._make(registers)
            return made

    def _make(self, registers: _Registers) -> list[str] | None:
        holes = {arg.name: (_HOLE % at).encode() for at, arg in enumerate(self._paths)}
        frame = Frame(self._known, registers, _never, {**holes})
        text = _json({"call": line(frame, read=False), "args": arguments(frame, read=False)})
        found = re.split("|".join(each.decode() for each in holes.values()) or "$^", text)
        return found if len(found) == 2 * len(holes) + 1 else None


def _nothing(registers: object) -> None:
    """Nothing but paths is shown."""


def _never() -> Any:
    raise AssertionError("registers say all")


def _json(members: dict[str, Any]) -> str:
    return json.dumps(members)[1:-1]


_shown: dict[tuple[int, int], _Shown | None] = {}


def _shown_of(call: Call) -> _Shown | None:
    notification = call._notification
    key = (notification.arch, notification.nr)
    try:
        return _shown[key]
    except KeyError:
        known = call.signature
        found = None
        if known is not None and known.choice is None and known.block is None:
            roles = {arg.role for arg in known.args if arg.role != "path"}
            shapes = any(arg.role == "pointer" and arg.family for arg in known.args)
            found = None if shapes or roles & READ_ROLES else _Shown(known)
        if len(_shown) < _CALLS:
            _shown[key] = found
        return found


def pieces_of(call: Call) -> list[str] | None:
    """What :func:`facts` has for a call between its paths, by its registers alone, as far as it is
    shown by those: text before and after each of the two places where each path is."""
    shown = _shown_of(call)
    return None if shown is None else shown.between(call.registers)


def facts(call: Call, callers: Callers, *, read: bool) -> str:
    """``call`` and ``args``, and as far as they can be known ``paths``, ``pid``, ``comm`` and ``exe``, as
    members of a JSON object; see ``docs/log.md``.

    :param read: whether the caller's memory and /proc may be looked at.
    """
    shown = _shown_of(call) if read else None
    found = shown.members(call) if shown is not None else None
    if found is None:
        found = _json({"call": call.describe(read), "args": structured(call, read=read)})
    looks = call.looks
    if looks:
        named = call.name
        paths = [
            f'"{name}": {json_text(passwords.of(named, name, look.path))}'
            for name, look in looks.items()
        ]
        found = f'{found}, "paths": {{{", ".join(paths)}}}'
    if read:
        who = callers.told(call) if call.looked_at is None else _who(call)
        if who:
            found = f"{found}, {who}"
    return found


_CALLER: Final[dict[str, Callable[[Call], Any]]] = {
    "pid": lambda call: call.caller.tgid,
    "comm": lambda call: call.comm,
    "exe": lambda call: call.exe,
}


def _who(call: Call) -> str:
    """The same as :meth:`Callers.told`, of one whom somebody asked after already."""
    found = {}
    for name, take in _CALLER.items():
        try:
            found[name] = plain(take(call))
        except (CallError, OSError):
            pass  # it is gone, has no number here, or may not be looked at
    return _json(found)

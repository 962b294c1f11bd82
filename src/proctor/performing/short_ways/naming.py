"""What uname says, for those whom it is to tell other names; see :mod:`proctor.performing.families.resources`."""

from __future__ import annotations

from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Final, cast

from proctor.call.verdict import Answer
from proctor.performing.short_ways.deeds import DeedWay
from proctor.performing.short_ways.plans import Deed, Plan, Planning
from proctor.performing.trouble import Moved

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.requests import Reply
    from proctor.performing.families.resources import Options
    from proctor.performing.task import Task, Work

#: In their order; there is one more, of the domain.
_UTSNAME: Final = ("sysname", "nodename", "release", "version", "machine")
_LENGTH: Final = 65  # __NEW_UTS_LEN + 1
#: What of a personality ``uname`` looks at: PER_MASK, UNAME26 (include/uapi/linux/personality.h).
_OF_UNAME: Final = 0x00FF | 0x0020000


class NamesWay(DeedWay):
    """The short way: see :mod:`proctor.performing.short_ways.deeds`."""

    def deed(self, call: Call, wish: Perform, standing: Standing) -> Deed | None:
        """An executor in the caller's UTS namespace, with its personality, is asked."""
        if not standing.still_there():
            return None
        told = partial(_told, cast("Options | None", wish.options))
        return Deed(_naming, (standing.personality & _OF_UNAME,), (), told=told)


def uname(task: Task, options: Options) -> Work:
    """The same, by the long way."""
    if task.elsewhere():
        raise Moved
    asking = _naming(()).request
    reply = yield from task.session.ask(asking, task.standing.personality & _OF_UNAME, table=True)
    return _told(options, task.call, reply)


def _told(options: Options | None, call: Call, reply: Reply) -> Verdict:
    names = bytearray(reply.parts[0])
    for at, name in _others(options):
        names[at : at + _LENGTH] = name
    return Answer(0, "", ((call.words[0], bytes(names)),))


@lru_cache(64)
def _others(options: Options | None) -> list[tuple[int, bytes]]:
    """The names that are other ones, and where each is in a struct new_utsname (include/uapi/linux/utsname.h)."""
    named = [(at, getattr(options, name, "").encode()) for at, name in enumerate(_UTSNAME)]
    return [(_LENGTH * at, name.ljust(_LENGTH, b"\0")) for at, name in named if name]


@cache
def _naming(_relative: tuple[bool, ...]) -> Plan:
    """Hole: the personality."""
    planning = Planning(relative=())
    steps = planning.steps
    personality, names = steps.number(), steps.scratch(_LENGTH * (len(_UTSNAME) + 1))
    before = steps.call("personality", personality)
    made = steps.call("uname", names, bad=0)
    steps.call("personality", before)
    steps.want(names)
    return Plan(steps.freeze(), made, ())

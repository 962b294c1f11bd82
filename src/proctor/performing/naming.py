"""What uname says, for those whom it is to tell other names; see :mod:`proctor.performing.families.resources`."""

from __future__ import annotations

from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Final, cast

from proctor.call.verdict import answer
from proctor.performing.deeds import DeedWay
from proctor.performing.plans import Deed, Plan, Planning
from proctor.performing.trouble import Moved

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.families.resources import Options
    from proctor.performing.steps import Reply
    from proctor.performing.task import Task, Work

_UTSNAME: Final = ("sysname", "nodename", "release", "version", "machine", "domainname")
_LENGTH: Final = 65  # __NEW_UTS_LEN + 1
#: What of a personality ``uname`` looks at: PER_MASK, UNAME26 (include/uapi/linux/personality.h).
_OF_UNAME: Final = 0x00FF | 0x0020000


class NamesWay(DeedWay):
    """The short way: see :mod:`proctor.performing.deeds`."""

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
    said, names = reply.parts[0], _names(options)
    fields = [
        names.get(name) or said[_LENGTH * at : _LENGTH * (at + 1)].partition(b"\0")[0]
        for at, name in enumerate(_UTSNAME)
    ]
    data = b"".join([each.ljust(_LENGTH, b"\0") for each in fields])
    return answer(0, writes=call.fill("buf", data))


@lru_cache(64)
def _names(options: Options | None) -> dict[str, bytes]:
    if options is None:
        return {}
    return {name: getattr(options, name, "").encode() for name in _UTSNAME}


@cache
def _naming(_relative: tuple[bool, ...]) -> Plan:
    """Hole: the personality."""
    planning = Planning(relative=())
    steps = planning.steps
    personality, names = steps.number(), steps.scratch(_LENGTH * len(_UTSNAME))
    before = steps.call("personality", personality)
    made = steps.call("uname", names, bad=0)
    steps.call("personality", before)
    steps.want(names)
    return Plan(steps.freeze(), made, ())

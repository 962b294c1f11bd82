"""Structures that tell their own size (``struct sched_attr``, ``struct perf_event_attr``) and are too big, or smaller than any:
E2BIG, and the kernel puts the size that it knows where theirs was, by which programs find out
(``sched_copy_attr`` of kernel/sched/syscalls.c, ``perf_copy_attr`` of kernel/events/core.c)."""

from __future__ import annotations

import errno
import struct
from functools import cache
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Answer, deny
from proctor.performing.executing.requests import Request
from proctor.performing.executing.steps import Place, Result, Steps

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work

#: Where the size is.
_SIZE_AT: Final = {"sched_setattr": 0, "perf_event_open": 4}


def told(task: Task, address: int) -> Work:
    """What the kernel would say and write.

    :param address: of the structure."""
    name = task.call.name
    asking, made = _asking(name)
    reply = yield from task.session.ask(asking)
    reply.close()
    failed = reply.error(made)
    if failed != errno.E2BIG:
        return deny(failed or errno.E2BIG)
    # an errno, after something was written: answer() makes no such thing, for handlers would mean something else
    return Answer(-failed, writes=((address + _SIZE_AT[name], reply.parts[0]),))


@cache
def _asking(name: str) -> tuple[Request, Result]:
    """Ask with a structure of one byte."""
    steps, at = Steps(), _SIZE_AT[name]
    attr = steps.bytes(struct.pack("=4I", *(int(each * 4 == at) for each in range(4))))
    args = (0, attr, 0) if name == "sched_setattr" else (attr, 0, -1, -1, 0)
    made = steps.call(name, *args, bad=0)
    steps.want(Place(attr.offset + at, 4))
    return steps.freeze(), made

"""setsockopt: see :mod:`proctor.performing.families.setsockopt`."""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from proctor.performing.steps import Request, Result, Steps

if TYPE_CHECKING:
    from proctor.performing.executors import Wait
    from proctor.performing.steps import Reply
    from proctor.performing.task import Task


class _Setting(NamedTuple):
    request: Request
    made: Result


@cache
def _setting() -> _Setting:
    """Holes: level, option, value and its length.  Sent: the socket."""
    steps = Steps()
    level, option, value, length = steps.number(), steps.number(), steps.hole(256), steps.number()
    made = steps.call("setsockopt", steps.sent(), level, option, value, length)
    return _Setting(steps.freeze(), made)


def set_option(
    task: Task, fd: int, level: int, option: int, value: bytes
) -> Generator[Wait, Reply, int]:
    """With the caller's own rights: 0, or an errno."""
    setting = _setting()
    reply = yield from task.session.ask(
        setting.request, level, option, value, len(value), fds=(fd,)
    )
    reply.close()
    return reply.error(setting.made)

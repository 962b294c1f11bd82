"""setsockopt: see :mod:`proctor.performing.families.setsockopt`."""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING

from proctor.performing.single import Single
from proctor.performing.steps import Steps

if TYPE_CHECKING:
    from proctor.performing.executors import Wait
    from proctor.performing.steps import Reply
    from proctor.performing.task import Task


@cache
def _setting(readable: bool) -> Single:
    """Holes: level, option, value (if that is ``readable``) and its length.  Sent: the socket."""
    steps = Steps()
    level, option = steps.number(), steps.number()
    value, length = steps.hole(256) if readable else 1, steps.number()
    made = steps.call("setsockopt", steps.sent(), level, option, value, length)
    return Single(steps.freeze(), made)


def set_option(
    task: Task, fd: int, level: int, option: int, value: bytes | None, length: int
) -> Generator[Wait, Reply, int]:
    """With the caller's own rights: 0, or an errno.

    :param value: None if it cannot be read, which is the kernel's to say in its time."""
    setting = _setting(value is not None)
    values = (length,) if value is None else (value, length)
    reply = yield from task.session.ask(setting.request, level, option, *values, fds=(fd,))
    reply.close()
    return reply.error(setting.made)

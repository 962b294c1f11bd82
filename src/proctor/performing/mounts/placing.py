"""What the caller's executor does with mounts: putting a detached one somewhere, and changing one.

Both are by the caller's own right to do so, which the kernel checks.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny
from proctor.performing.executing.requests import Request
from proctor.performing.executing.single import SENT, Hole, Shape
from proctor.performing.executing.steps import Result, Steps
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.verdict import Verdict
    from proctor.performing.task import Task


class _Putting(NamedTuple):
    request: Request
    changed: Result | None
    put: Result


@cache
def _putting(changes: bool) -> _Putting:
    """As the caller: change a detached mount's attributes, and put it somewhere.

    Holes: the attributes, if it ``changes`` them.  Sent: the mount, where it goes."""
    steps = Steps()
    attributes, empty = steps.hole(32) if changes else None, steps.bytes(b"")
    mount, target = steps.sent(), steps.sent()
    changed = None
    if attributes is not None:
        changed = steps.call("mount_setattr", mount, empty, 0x1000, attributes, 32)
    put = steps.call("move_mount", mount, empty, target, empty, 0x4 | 0x40)
    steps.call("close", mount)  # so that nobody uses it when the caller goes on
    return _Putting(steps.freeze(), changed, put)


def put(
    task: Task, mount: int, target: int, attributes: int, unwished: int = 0
) -> Generator[Any, Any, Verdict]:
    """Put a detached mount where the caller wants it, by the caller's right to do so."""
    changes = bool(attributes or unwished)
    putting = _putting(changes)
    values = (struct.pack("=QQQQ", attributes, unwished, 0, 0),) if changes else ()
    reply = yield from task.session.ask(putting.request, *values, fds=(mount, target))
    failed = putting.changed is not None and reply.error(putting.changed)
    failed = failed or reply.error(putting.put)
    return deny(failed) if failed else answer(0)


_CHANGING: Final = Shape("mount_setattr", SENT, b"", 0x1000, Hole(32), 32)


def change(task: Task, mount: int, wished: int, unwished: int) -> Generator[Any, Any, int]:
    """Have a mount's MOUNT_ATTR_* bits set and taken away: an errno, or 0."""
    attributes = struct.pack("=QQQQ", wished, unwished, 0, 0)
    return (yield from _CHANGING().ask(task.session, attributes, fds=(mount,)))

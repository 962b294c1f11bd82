"""Mounts that were made for a container, so that it can have their file systems remounted.

A remount changes the superblock, which belongs to the host; the kernel lets nobody in a container do that.
Whoever was given a mount may have it remounted: that very mount, which the kernel numbers and never numbers
so again (STATX_MNT_ID_UNIQUE, Linux 6.8), not another one of the same file system, which the host may have
made read-only for it.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.kernel.mounts import Mounts
from proctor.performing.executing.requests import Request
from proctor.performing.executing.steps import Steps
from proctor.performing.paths.filestat import STATX_SIZE, UNIQUE, statx

if TYPE_CHECKING:
    from proctor.performing.task import Task

_NUMBER_AT: Final = 144


def mounts(task: Task) -> Mounts:
    """All that are known here."""
    kept = task.host.kept
    known = kept.get("mount") or kept.setdefault("mount", Mounts())
    assert isinstance(known, Mounts)
    return known


def number_in(data: bytes) -> int:
    """The number of a mount, in what statx(2) says; 0 if the kernel tells none."""
    (mask,) = struct.unpack_from("=I", data)
    found: int = struct.unpack_from("=Q", data, _NUMBER_AT)[0] if mask & UNIQUE else 0
    return found


@cache
def _asking() -> tuple[Request, int]:
    steps = Steps()
    empty, status = steps.bytes(b""), steps.scratch(STATX_SIZE)
    statx(steps, steps.sent(), status, empty, UNIQUE)
    part = steps.want(status)
    return steps.freeze(), part


def number(task: Task, mount: int) -> Generator[Any, Any, int]:
    """The number of a mount, of something that is pinned on it; 0 if the kernel tells none."""
    request, status = _asking()
    reply = yield from task.session.ask(request, fds=(mount,))
    return number_in(reply.parts[status])

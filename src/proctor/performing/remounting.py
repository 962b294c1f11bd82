"""Mounts that were made for a container, so that it can have their file systems remounted.

A remount changes the superblock, which belongs to the host; the kernel lets nobody in a container do that.
Whoever was given a mount may have it remounted: that very mount, which the kernel numbers and never numbers
so again (STATX_MNT_ID_UNIQUE, Linux 6.8), not another one of the same file system, which the host may have
made read-only for it.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.performing.steps import Argument, Request, Steps
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.task import Task

_AT_EMPTY_PATH_NO_AUTOMOUNT: Final = 0x1000 | 0x800
_UNIQUE: Final = 0x4000
_NUMBER_AT: Final = 144
_MOST: Final = 256


class Mounts:
    """Those that are known, by container; thread-safe."""

    def __init__(self) -> None:
        #: For each its numbers, and whether its source was opened for writing.
        self._known: dict[object, dict[int, bool]] = {}
        self._lock = threading.Lock()

    def add(self, container: object, number: int, writable: bool) -> None:
        """Know one; the oldest of a container goes."""
        with self._lock:
            own = self._known.setdefault(container, {})
            own[number] = writable
            while len(own) > _MOST:
                del own[next(iter(own))]

    def writable(self, container: object, number: int) -> bool | None:
        """Whether the source of a mount was opened for writing; None if the container was given no such."""
        with self._lock:
            return self._known.get(container, {}).get(number)

    def forget(self, container: object) -> None:
        """A container is over."""
        with self._lock:
            self._known.pop(container, None)

    def close(self) -> None:
        """All are."""
        with self._lock:
            self._known.clear()


def mounts(task: Task) -> Mounts:
    """All that are known here."""
    known = task.host.kept.setdefault("mount", Mounts())
    assert isinstance(known, Mounts)
    return known


class Numbering:
    """The step that asks for the number of a mount; made when all bytes of a request are there."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._empty = steps.bytes(b"")
        self._status = steps.scratch(256)

    def add(self, mount: Argument) -> int:
        """Ask; the part of the reply that :func:`number_in` reads."""
        how = _AT_EMPTY_PATH_NO_AUTOMOUNT
        self._steps.call("statx", mount, self._empty, how, _UNIQUE, self._status)
        return self._steps.want(self._status)


def number_in(data: bytes) -> int:
    """The number of a mount, in what statx(2) says; 0 if the kernel tells none."""
    (mask,) = struct.unpack_from("=I", data)
    found: int = struct.unpack_from("=Q", data, _NUMBER_AT)[0] if mask & _UNIQUE else 0
    return found


class _Asking(NamedTuple):
    request: Request
    status: int


@cache
def _asking() -> _Asking:
    steps = Steps()
    status = Numbering(steps).add(steps.sent())
    return _Asking(steps.freeze(), status)


def number(task: Task, mount: int) -> Generator[Any, Any, int]:
    """The number of a mount, of something that is pinned on it; 0 if the kernel tells none."""
    asking = _asking()
    reply = yield from task.session.ask(asking.request, fds=(mount,))
    return number_in(reply.parts[asking.status])

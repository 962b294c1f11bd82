"""What a caller's cgroups leave it of the machine."""

from __future__ import annotations

import os
import time
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from proctor.performing.identities.cgroups import directories
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")
#: Seconds that numbers are good for, and how many are kept.
_WHILE: Final = 0.1
_MOST: Final = 64


class Recall:
    """What was said about something is said again for a tenth of a second: a dozen files are read for it, and who
    asks in a loop sees no more than before."""

    def __init__(self) -> None:
        self._said: dict[object, tuple[float, Any]] = {}

    def __call__(self, about: object, say: Callable[[], T]) -> T:
        now = time.monotonic()
        known = self._said.get(about)
        if known is not None and now < known[0]:
            recalled: T = known[1]
            return recalled
        if len(self._said) >= _MOST:
            self._said.clear()
        value = say()
        self._said[about] = now + _WHILE, value
        return value

    def until(self, about: object) -> float:
        """How long that is said, by CLOCK_MONOTONIC; it is over if nothing is."""
        known = self._said.get(about)
        return 0.0 if known is None else known[0]


def briefly(function: Callable[P, T]) -> Callable[P, T]:
    """Have what a function says for some arguments recalled."""
    recall = Recall()

    @wraps(function)
    def recalled(*args: P.args, **more: P.kwargs) -> T:
        return recall(args, lambda: function(*args, **more))

    return recalled


class Share(NamedTuple):
    """What a caller's cgroups leave it of the machine; None where they set no limit."""

    memory: int | None
    #: Of that, in use.
    used: int
    swap: int | None
    swap_used: int
    processors: int | None
    processes: int | None


@briefly
def share(cgroups: bytes) -> Share:
    """The least of all cgroups from the caller's upwards, of version 1 and 2.

    :param cgroups: the text of ``/proc/TID/cgroup``."""
    memory: list[tuple[int, int]] = []
    swap: list[tuple[int, int]] = []
    processors: list[int] = []
    for place in directories(cgroups, b"memory"):
        limit, used = (
            number(place, b"memory.limit_in_bytes"),
            number(place, b"memory.usage_in_bytes"),
        )
        if limit is not None and limit < 1 << 60:  # as good as none, rounded to pages
            memory.append((limit, used or 0))
            both = number(place, b"memory.memsw.limit_in_bytes")
            if both is not None and both < 1 << 60:
                all_used = number(place, b"memory.memsw.usage_in_bytes") or 0
                swap.append((max(0, both - limit), max(0, all_used - (used or 0))))
    for place in directories(cgroups, b""):
        limit = number(place, b"memory.max")
        if limit is not None:
            memory.append((limit, number(place, b"memory.current") or 0))
        limit = number(place, b"memory.swap.max")
        if limit is not None:
            swap.append((limit, number(place, b"memory.swap.current") or 0))
        quota, _, period = (text(place, b"cpu.max") or "max").partition(" ")
        if quota.isdigit() and period.isdigit():
            processors.append(-(-int(quota) // int(period)))
    for place in directories(cgroups, b"cpu"):
        quota1, period1 = number(place, b"cpu.cfs_quota_us"), number(place, b"cpu.cfs_period_us")
        if quota1 is not None and quota1 > 0 and period1:
            processors.append(-(-quota1 // period1))
    counted = [
        number(places[0], b"pids.current")
        for places in (directories(cgroups, b"pids"), directories(cgroups, b""))
        if len(places) > 1  # the root's is everybody's
    ]
    least, used = min(memory, default=(None, 0))
    most, swap_used = min(swap, default=(None, 0))
    found = [each for each in counted if each is not None]
    time = min(processors, default=None)
    return Share(least, used, most, swap_used, time, found[0] if found else None)


def text(directory: bytes, name: bytes) -> str | None:
    """What is in a file of a cgroup; None if there is no such file."""
    try:
        with open(os.path.join(directory, name), encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return None  # this controller, or its file, is not there


def number(directory: bytes, name: bytes) -> int | None:
    """The number in a file of a cgroup; None if there is none, or a word."""
    found = text(directory, name)
    return int(found) if found is not None and found.lstrip("-").isdigit() else None


def processors(tid: int, cgroups: bytes) -> list[int]:
    """Numbers of the processors that a caller may use, no more than its cgroups have time for.

    :param cgroups: as for :func:`share`."""
    return sorted(os.sched_getaffinity(tid))[: share(cgroups).processors]

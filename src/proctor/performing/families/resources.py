"""sysinfo, sched_getaffinity, uname, getrandom: what a program sees of its machine.

Memory, swap, processes and processors are those of the caller's cgroup, where that has less than the
machine; names of the machine are what the options say; random bytes come from a seed, if there is one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from proctor.performing.given import Given

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call
    from proctor.performing.performers import Performers
    from proctor.performing.short_ways.short import Ordinary
    from proctor.performing.task import Task, Work

#: Answered by the cgroups of their thread, or by the seed: see :func:`proctor.performing.registry.asks_who`.
WHOEVER: Final = ("sysinfo", "sched_getaffinity", "getrandom")
#: See :mod:`proctor.performing.short_ways.seen`.
SEEN: Final = dict.fromkeys(WHOEVER, "proctor.performing.limits.resources")
WAYS: Final = (
    "proctor.performing.short_ways.seen",
    "proctor.performing.limits.resources",
    "proctor.performing.short_ways.naming",
)


class Options(Given):
    """See docs/families/resources.md.

    :param seed: what random bytes are made of; the kernel's own if there is none.
    :param sysname: of the machine, for uname, as ``nodename``, ``release``, ``version`` and ``machine``; what the
        caller has if nothing is said.
    """

    seed: str = ""
    sysname: str = ""
    nodename: str = ""
    release: str = ""
    version: str = ""
    machine: str = ""

    def check(self) -> None:
        for each in self._fields:
            value = getattr(self, each)
            if not isinstance(value, str) or (each != "seed" and len(value.encode()) > 64):
                raise ValueError(f"{each} is a text of at most 64 bytes, not {value!r}")


def short_way(
    performers: Performers, name: str, listener: object, begins: Callable[[Call], object] | None
) -> Ordinary:
    """What supervisors ask first."""
    from proctor.performing.short_ways.naming import NamesWay

    return NamesWay(performers, sys.modules[__name__], None, begins).go


def perform(task: Task) -> Work:
    """Answer with what the caller is to see."""
    from proctor.performing.limits import resources

    options = task.options(Options)
    if task.call.name == "uname":
        from proctor.performing.short_ways import naming

        return (yield from naming.uname(task, options))
    yield from ()
    return resources.seen(task.call, task.standing, options, task.host)

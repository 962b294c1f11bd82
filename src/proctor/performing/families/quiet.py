"""fsync, fdatasync, sync, syncfs, msync, sync_file_range: said to be done, and not done.

For builds and tests, whose files nobody needs after a power cut.  What the kernel refuses is refused:
descriptors that are none or cannot be synchronised, flags that are none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.performing.families import CALLS

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work

#: Answered by what a descriptor is of: see :func:`proctor.performing.registry.asks_who`.
WHOEVER: Final = CALLS["quiet"]
#: See :mod:`proctor.performing.short_ways.seen`.
SEEN: Final = dict.fromkeys(WHOEVER, "proctor.performing.short_ways.quieting")
WAYS: Final = ("proctor.performing.short_ways.seen", "proctor.performing.short_ways.quieting")


def perform(task: Task) -> Work:
    """Say that it is done."""
    from proctor.performing.short_ways import quieting

    return (yield from quieting.perform(task))

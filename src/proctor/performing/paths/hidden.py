"""What is to be known of a thing whose file system may tell the monitor nothing, or let it wait.

A FUSE file system tells its own users alone what it has: whoever is in the user namespace that mounted it, or is the very
user who did (``fuse_allow_current_process`` of fs/fuse/dir.c).  The host's root is nobody there; and whoever is somebody
waits for its server.  So the monitor takes what the kernel has in memory (AT_STATX_DONT_SYNC of statx(2)), and where that
is kept from it the caller's executor is asked, which counts against its container while it waits.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from proctor.kernel.raw import is_hidden, remembered
from proctor.performing.identities.identity import becoming
from proctor.performing.identities.who import Key

if TYPE_CHECKING:
    from proctor.performing.session import Session
    from proctor.performing.task import Task

_CAP_DAC_READ_SEARCH: Final = 2


def mode_of(task: Task, fd: int) -> Generator[Any, Any, int]:
    """``st_mode`` of what a descriptor of the caller's is of."""
    try:
        return remembered(fd)[0]
    except PermissionError:
        task.flushes = True
        return (yield from task.held(fd)).named.status.mode


def who_reads(task: Task, fd: int) -> Session:
    """Who reads what the caller may run and not read; the asker closes it.  That is whoever is what the monitor is, or
    where that is nobody, what the caller is, with CAP_DAC_READ_SEARCH over its user namespace."""
    own, who = task.own, task.own.who
    if is_hidden(fd):
        who, right = task.who, 1 << _CAP_DAC_READ_SEARCH
        who = who._replace(effective=who.effective | right, permitted=who.permitted | right)

    become = becoming(task.caller, who, own)
    made = task.session.another(Key(who, task.session.container), become)
    made.foreign = task.session.foreign
    return made

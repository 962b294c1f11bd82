"""Filters: a tree along ``prev``, two counts, and the decision.

``refs`` (``usage`` in the first patches) keeps the filter in memory: one per directly attached
task, one per filter built on it, one for the listener.  ``users`` (``live`` in the "filter unused"
patch) says whether any task can still reach it: one per directly attached task and one per
dependent filter that has users itself.  When it falls to zero, pollers are told HUP.

Sources: ``kernel/seccomp.c`` 5.0; ``kernel/seccomp.c`` 5.9 (99cdb8b9a573) (``live``, ``seccomp_filter_release``);
``kernel/seccomp.c`` 6.12 (``__seccomp_filter_orphan``, ``__put_seccomp_filter``,
``seccomp_run_filters``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.kernel.abi import (
    AUDIT_ARCH_I386,
    AUDIT_ARCH_X86_64,
    SECCOMP_RET_ACTION_FULL,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_KILL_PROCESS,
)
from proctor.model.kernel.errors import BrokenCount
from proctor.model.kernel.linux import NR, POLLHUP
from proctor.model.kernel.waits import WaitQueue

if TYPE_CHECKING:
    from proctor.model.kernel.listener import Notifications
    from proctor.model.kernel.programs import Arguments, Code
    from proctor.model.kernel.tasks import Process, Task

#: Limit of a path through the tree, in translated instructions (``MAX_INSNS_PER_PATH``).
PATH_LIMIT: Final = (1 << 18) // 8
#: What each filter below the newest costs on top of its length.
PATH_PENALTY: Final = 4
#: Numbers below this are in the allow bitmap (NR_syscalls, x86-64 and i386, 6.18).
BITMAP_CALLS: Final = 470


class Filter:
    """``struct seccomp_filter``."""

    __slots__ = ("_allows", "code", "log", "notif", "prev", "refs", "users", "wait_killable", "wqh")

    def __init__(self, code: Code) -> None:
        self.code = code
        self.refs = 1
        self.users = 1
        self.log = False
        #: Callers sleep killable once received (WAIT_KILLABLE_RECV).
        self.wait_killable = False
        self.prev: Filter | None = None
        #: The listener's side; None without a listener.
        self.notif: Notifications | None = None
        #: Woken for pollers and, since 6.11, for receivers.
        self.wqh = WaitQueue()
        self._allows: dict[int, bool] = {}

    def always_allows(self, nr: int, arch: int, features: frozenset[str]) -> bool:
        """Whether this filter and all below it are proven to allow ``nr`` (the bitmap).

        Source: ``kernel/seccomp.c`` 6.12 ``seccomp_cache_prepare_bitmap``: a bit stays set only
        while every filter of the path keeps it.  Worked out when asked, which nobody can see.
        """
        key = arch << 32 | nr
        known = self._allows.get(key)
        if known is None:
            below = self.prev is None or self.prev.always_allows(nr, arch, features)
            free = arch == AUDIT_ARCH_X86_64 and nr in exempt(features)
            known = below and (free or self.code.constant(nr, arch) == SECCOMP_RET_ALLOW)
            self._allows[key] = known
        return known


def exempt(features: frozenset[str]) -> frozenset[int]:
    """Native calls that are never filtered: those that the trampolines of probes make."""
    names = [name for name in ("uretprobe", "uprobe") if f"{name}_unfiltered" in features]
    return frozenset(NR[name] for name in names)


def get(task: Task) -> None:
    """A task more stands on its filter (``get_seccomp_filter``): fork, thread, TSYNC.

    Source: ``kernel/seccomp.c`` 6.12.
    """
    if task.filter is not None:
        task.filter.refs += 1
        task.filter.users += 1


def get_ref(filter: Filter) -> None:
    """A reference without a user: the listener's (``__get_seccomp_filter``).

    Source: ``kernel/seccomp.c`` 6.12.
    """
    filter.refs += 1


def release(filter: Filter | None, features: frozenset[str]) -> None:
    """A task less stands on ``filter`` (``__seccomp_filter_release``).

    Source: ``kernel/seccomp.c`` 6.12; ``kernel/seccomp.c`` 5.9 (99cdb8b9a573).
    """
    orphan(filter, features)
    put_ref(filter)


def orphan(filter: Filter | None, features: frozenset[str]) -> None:
    """One user less; whoever is thereby unused is hung up, and so on along ``prev``.

    Source: ``kernel/seccomp.c`` 5.9 (99cdb8b9a573) ``seccomp_filter_release``; ``kernel/seccomp.c`` 6.12
    ``__seccomp_filter_orphan``.

    :raises BrokenCount: below zero.
    """
    while filter is not None:
        if filter.users <= 0:
            raise BrokenCount("a filter lost more users than it had")
        filter.users -= 1
        if filter.users:
            return
        if "hangup" in features:
            filter.wqh.wake(POLLHUP)
        filter = filter.prev


def put_ref(filter: Filter | None) -> None:
    """One reference less; freed filters let go of the one below (``__put_seccomp_filter``).

    :raises BrokenCount: below zero.

    Source: ``kernel/seccomp.c`` 5.0 (``put_seccomp_filter``); ``kernel/seccomp.c`` 6.12.
    """
    while filter is not None:
        if filter.refs <= 0:
            raise BrokenCount("a filter was put more often than it was taken")
        filter.refs -= 1
        if filter.refs:
            return
        filter = filter.prev


def is_ancestor(parent: Filter | None, child: Filter | None) -> bool:
    """Whether ``child``'s path goes through ``parent``; no filter is everybody's ancestor.

    Source: ``kernel/seccomp.c`` 6.12 ``is_ancestor``.
    """
    if parent is None:
        return True
    while child is not None:
        if child is parent:
            return True
        child = child.prev
    return False


def path_length(newest: Code, below: Filter | None) -> int:
    """What the path would cost with ``newest`` on top (``seccomp_attach_filter``; C013)."""
    total = newest.translated
    while below is not None:
        total += below.code.translated + PATH_PENALTY
        below = below.prev
    return total


def listener_above(filter: Filter | None) -> bool:
    """Whether any filter of the path has a live listener (``has_duplicate_listener``; C018)."""
    while filter is not None:
        if filter.notif is not None:
            return True
        filter = filter.prev
    return False


def cannot_sync(process: Process, caller: Task, features: frozenset[str]) -> Task | None:
    """The first thread that stands in the way of TSYNC, or None.

    Source: ``kernel/seccomp.c`` 6.12 ``seccomp_can_sync_threads``: no mode, or a filter that is an
    ancestor of the caller's; strict mode always stands in the way.
    """
    for thread in process.tasks:
        if thread is caller:
            continue
        if thread.exiting and "tsync_skips_exited" in features:
            continue
        if thread.mode == 0:
            continue
        if thread.mode == 2 and is_ancestor(thread.filter, caller.filter):
            continue
        return thread
    return None


def sync(process: Process, caller: Task, features: frozenset[str]) -> None:
    """Put every other thread on the caller's filter, with its no_new_privs.

    Source: ``kernel/seccomp.c`` 6.12 ``seccomp_sync_threads``.
    """
    for thread in process.tasks:
        if thread is caller or thread.exiting:
            continue
        get(caller)
        release(thread.filter, features)
        thread.filter = caller.filter
        thread.filter_count = caller.filter_count
        if caller.no_new_privs:
            thread.no_new_privs = True
        if thread.mode == 0:
            thread.mode = 2


def _action(verdict: int) -> int:
    """The upper half as the signed number the kernel compares (``ACTION_ONLY``)."""
    action = verdict & SECCOMP_RET_ACTION_FULL
    return action - (1 << 32) if action & 0x80000000 else action


_ALLOW = _action(SECCOMP_RET_ALLOW)


def decide(
    newest: Filter | None,
    nr: int,
    arch: int,
    args: Arguments,
    ip: int,
    features: frozenset[str],
) -> tuple[int, Filter | None]:
    """The verdict of a path of filters, and the filter it is from (None: ALLOW).

    All run, newest first; the strictly lowest action wins, so that of equals the newest does.

    Source: ``kernel/seccomp.c`` 6.12 ``seccomp_run_filters``; selftests ERRNO_order, precedence.*.
    """
    if newest is None:
        return SECCOMP_RET_KILL_PROCESS, None
    if (
        "allow_bitmap" in features
        and 0 <= nr < BITMAP_CALLS
        and arch in (AUDIT_ARCH_X86_64, AUDIT_ARCH_I386)
        and newest.always_allows(nr, arch, features)
    ):
        return SECCOMP_RET_ALLOW, None
    verdict, best, match = SECCOMP_RET_ALLOW, _ALLOW, None
    filter: Filter | None = newest
    while filter is not None:
        says = filter.code.run(nr, arch, args, ip)
        action = _action(says)
        if action < best:
            verdict, best, match = says, action, filter
        filter = filter.prev
    return verdict, match

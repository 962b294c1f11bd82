"""Mounters before they are asked for a mount: where they are, and what they may.

A mounter begins in a mount namespace of its own.  That is a copy of a small one, which is made once and is nobody's: a tmpfs with the
host's /dev and /proc, where all is that a mount of a device needs.  So what it costs to copy it, and to do away with it, does not
grow with the mounts of the host, and nobody who waits for work keeps one of those busy.

What a policy names may be anywhere on the host: whoever mounts that leaves the host's mounts for a copy of all of them, and is not
begun before that is asked for.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.performing.beginning import PLAINLY, Beginning
from proctor.performing.executors import Once
from proctor.performing.identity import Becoming
from proctor.performing.steps import KEPT, Argument, Reply, Request, Result, Steps
from proctor.performing.trouble import Powerless
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.executors import Start
    from proctor.performing.task import Task

_CAP_SYS_ADMIN, _CAP_MKNOD, _CAP_CHOWN, _CAP_FOWNER, _CAP_FSETID = 21, 27, 0, 3, 4
_RIGHTS: Final = sum(
    1 << each for each in (_CAP_SYS_ADMIN, _CAP_MKNOD, _CAP_CHOWN, _CAP_FOWNER, _CAP_FSETID)
)
AT_FDCWD: Final = -100
CLONE_NEWNS: Final = 0x20000
_PR_SET_DUMPABLE, _PR_SET_PDEATHSIG, _SIGKILL = 4, 1, 9
_QUIET: Final = 2 | 4 | 8  # MS_NOSUID, MS_NODEV, MS_NOEXEC
_MS_REC_PRIVATE: Final = 0x4000 | 1 << 18
_MNT_DETACH, _MOVE_FROM_FD = 2, 4
_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)
OPEN_TREE: Final = 1 | _CLOEXEC
#: For want of what others may give back: the next mount tries again.
_PASSING: Final = (
    errno.ENOMEM,
    errno.ENOSPC,
    errno.ENFILE,
    errno.EMFILE,
    errno.EAGAIN,
    errno.EINTR,
)
#: Where a mounter has its first namespace open.
_OWN: Final = KEPT - 1


class Mounting(Steps):
    """What a mounter is asked for, beginning with what it gives up.

    :param rights: what :func:`rights` says.
    :param apart: whether it has left the host's mounts already.
    """

    __slots__ = ("words",)

    def __init__(self, rights: int, apart: bool) -> None:
        super().__init__()
        #: What steps are for; the subject of a sentence if they fail.
        self.words: dict[int, str] = {} if apart else _leave(self)
        header = self.bytes(struct.pack("=Ii", 0x20080522, 0))
        capabilities = self.bytes(struct.pack("=6I", rights, rights, 0, 0, 0, 0))
        self.step("dropping capabilities", "capset", header, capabilities)
        self.step("settling down", "prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
        self.step("settling down", "prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)

    def step(self, what: str, call: str, *args: Argument) -> Result:
        """One step that must come out well."""
        made = self.call(call, *args)
        self.words[made.step] = what
        return made


def rights(task: Task) -> int:
    """Those of a mounter.

    :raises Powerless: the monitor has not got the right."""
    permitted = task.own.who.permitted
    if not permitted >> _CAP_SYS_ADMIN & 1 or not task.own.initial:
        raise Powerless
    return _RIGHTS & permitted


def ask(
    task: Task,
    joins: bool,
    request: Request,
    fds: tuple[int, ...],
    *values: int,
    begins: Beginning | None = None,
) -> Generator[Any, Any, Reply]:
    """Have a request made by a mounter, which dies while the call goes on.

    :param joins: whether it is in the caller's cgroups, whose rules for devices hold then.
    :param values: for the holes of the request.
    :param begins: what :func:`small` says, if it is to be there."""

    def become(capable: int, mother: int) -> Start | None:
        if not joins or not task.who.joins:
            return None
        made = Becoming()
        try:
            made.join_cgroups(task.own.to_join(task.who.cgroups))
            return made.settle(mother)
        except BaseException:
            made.drop()
            raise

    session = task.session.another(Once(begins or PLAINLY), become)
    task.outlive(session)
    try:
        return (yield from session.ask(request, *values, fds=fds))
    finally:
        session.signal()  # used once, and what it mounted is nobody's but the caller's


# Where they are -------------------------------------------------------------------------------------


def _leave(steps: Steps) -> dict[int, str]:
    """Leave the mounts of where one is, for a copy of them."""
    none, root, own = map(steps.bytes, (b"none", b"/", b"/proc/self/ns/mnt"))
    left = steps.call("unshare", CLONE_NEWNS)
    private = steps.call("mount", none, root, 0, _MS_REC_PRIVATE, 0)
    # so that nobody waits for its end (synchronize_rcu_expedited) when it is left for another one
    opened = steps.call("openat", AT_FDCWD, own, _CLOEXEC)
    kept = steps.call("dup3", opened, _OWN, _CLOEXEC)
    words = "leaving the host's mounts", "keeping mounts to itself", *["keeping its namespace"] * 2
    return dict(zip([each.step for each in (left, private, opened, kept)], words, strict=True))


def _beginning(namespace: int) -> Beginning:
    def enter(steps: Steps) -> dict[int, str]:
        entered = steps.call("setns", steps.sent(), CLONE_NEWNS)
        return {entered.step: "entering the mounters' namespace", **_leave(steps)}

    return Beginning(enter, (namespace,))


class _Small:
    """The small namespace, if there is one, and how mounters begin there."""

    def __init__(self, namespace: int) -> None:
        self._namespace = namespace
        self.begins = None if namespace < 0 else _beginning(namespace)

    def forget(self, container: object) -> None:
        """It is nobody's."""

    def close(self) -> None:
        """Let go of it; idempotent."""
        namespace, self._namespace = self._namespace, -1
        if namespace >= 0:
            os.close(namespace)


class _Furnishing(NamedTuple):
    request: Request
    namespace: Result
    entered: Result


@cache
def _furnishing() -> _Furnishing:
    """Make the small namespace."""
    steps = Steps()
    empty, none, root, dot, kind = map(steps.bytes, (b"", b"none", b"/", b".", b"tmpfs"))
    own, options = steps.bytes(b"/proc/self/ns/mnt"), steps.bytes(b"mode=755,nr_inodes=3,size=4k")
    places = [(steps.bytes(each), steps.bytes(b"/proc" + each)) for each in (b"/dev", b"/proc")]
    steps.call("unshare", CLONE_NEWNS)
    steps.call("mount", none, root, 0, _MS_REC_PRIVATE, 0)
    mounts = [steps.call("open_tree", AT_FDCWD, path, OPEN_TREE) for path, _ in places]
    top = places[1][0]  # /proc: a directory that there is
    steps.call("mount", kind, top, kind, _QUIET, options)
    for mount, (_, place) in zip(mounts, places, strict=True):
        steps.call("mkdirat", AT_FDCWD, place, 0o755, changes=False)
        steps.call("move_mount", mount, empty, AT_FDCWD, place, _MOVE_FROM_FD, changes=False)
    steps.call("chdir", top)
    steps.call("pivot_root", dot, dot)
    steps.call("umount2", dot, _MNT_DETACH)
    namespace = steps.call("openat", AT_FDCWD, own, _CLOEXEC)
    entered = steps.call("setns", namespace, CLONE_NEWNS)  # which takes a right of its own
    steps.give(namespace)
    return _Furnishing(steps.freeze(), namespace, entered)


def _has_loops() -> bool:
    """Whether what images take is in /dev's own file system, which alone is in the small namespace: where the monitor is in a container
    itself, each device may be a mount of its own."""
    try:
        return os.stat("/dev/loop-control").st_dev == os.stat("/dev").st_dev
    except OSError:
        return True  # nobody has them


def small(task: Task) -> Generator[Any, Any, Beginning | None]:
    """How mounters begin in the small namespace, which is made, if it was not; None where that cannot be."""
    kept = task.host.kept
    known = kept.get("mounters")
    if known is None:
        namespace = -1
        if _has_loops():
            furnishing = _furnishing()
            reply = yield from ask(task, False, furnishing.request, ())
            if reply.made(furnishing.entered):
                namespace = reply.take(furnishing.namespace)
            reply.close()
            if namespace < 0 and any(-each in _PASSING for each in reply.results):
                return None
        made = _Small(namespace)
        known = kept.setdefault("mounters", made)
        if known is not made:
            made.close()  # another call was faster
    assert isinstance(known, _Small)
    return known.begins

"""Mounters before they are asked for a mount: where they are, and what they may.

A mounter looks things up in a small mount namespace, which is made once and is nobody's: a tmpfs with the host's /dev and /proc, where
all is that a mount of a device needs.  What it mounts it puts into one of its own, a copy of one in which there is nothing but
an empty directory.  So what these cost, and what it costs to do away with them, does not grow with the mounts of the host, and nobody who
waits for work keeps one of those busy.

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

from proctor.performing.executing.beginning import PLAINLY, Beginning, Once
from proctor.performing.executing.requests import Reply, Request
from proctor.performing.executing.steps import KEPT, Argument, Result, Steps
from proctor.performing.identities.identity import Becoming
from proctor.performing.trouble import Powerless
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.executing.beginning import Start
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
_RDONLY, _REMOUNT, _MNT_DETACH, _MOVE_FROM_FD = 1, 32, 2, 4
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
_WHERE: Final = os.O_PATH | os.O_DIRECTORY | _CLOEXEC
#: Where a mounter has its first namespace open.
_OWN: Final = KEPT - 1


class Mounting(Steps):
    """What a mounter is asked for, beginning with what it gives up.

    :param rights: what :func:`rights` says.
    :param apart: whether it has left the host's mounts already, for a directory with nothing in it.
    """

    __slots__ = ("apart", "place", "words")

    def __init__(self, rights: int, apart: bool) -> None:
        super().__init__()
        self.last = True  # used once, and what it mounted is nobody's but the caller's
        self.apart = apart
        #: A directory that there is, in a namespace of its own.
        self.place = self.bytes(b"proc" if apart else b"/proc")
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
    ends = False
    try:
        reply = yield from session.ask(request, *values, fds=fds)
        ends = request.last
        return reply
    finally:
        if not ends:
            session.signal()


# Where they are -------------------------------------------------------------------------------------


def _leave(steps: Steps) -> dict[int, str]:
    """Leave the mounts of where one is, for a copy of them."""
    none, root = map(steps.bytes, (b"none", b"/"))
    left = steps.call("unshare", CLONE_NEWNS)
    private = steps.call("mount", none, root, 0, _MS_REC_PRIVATE, 0)
    words = {left.step: "leaving the host's mounts", private.step: "keeping mounts to itself"}
    return {**words, **_keep(steps)}


def _keep(steps: Steps) -> dict[int, str]:
    """Keep the namespace where one is, so that nobody waits for its end (synchronize_rcu_expedited) when it is left for another one."""
    opened = steps.call("openat", AT_FDCWD, steps.bytes(b"/proc/self/ns/mnt"), _CLOEXEC)
    kept = steps.call("dup3", opened, _OWN, _CLOEXEC)
    return dict.fromkeys((opened.step, kept.step), "keeping its namespace")


def _enter(steps: Steps) -> dict[int, str]:
    """Sent: the small namespace and the empty one.  Its root is in the first, and it works in a copy of the second."""
    root, dot = steps.bytes(b"/"), steps.bytes(b".")
    small, empty = steps.sent(), steps.sent()
    first = steps.call("setns", small, CLONE_NEWNS)
    lookups = steps.call("openat", AT_FDCWD, root, _WHERE)
    second = steps.call("setns", empty, CLONE_NEWNS)
    copied = steps.call("unshare", CLONE_NEWNS)
    own = steps.call("openat", AT_FDCWD, root, _WHERE)
    there, rooted = steps.call("fchdir", lookups), steps.call("chroot", dot)
    back = steps.call("fchdir", own)
    made = first, lookups, second, copied, own, there, rooted, back
    words = dict.fromkeys([each.step for each in made], "entering the mounters' namespaces")
    return {**words, **_keep(steps)}


class _Small:
    """The namespaces in which mounters begin, if there are any, and how that is done."""

    def __init__(self, *namespaces: int) -> None:
        self._namespaces = namespaces
        self.begins = Beginning(_enter, namespaces) if namespaces else None

    def forget(self, container: object) -> None:
        """It is nobody's."""

    def close(self) -> None:
        """Let go of them; idempotent."""
        namespaces, self._namespaces = self._namespaces, ()
        for each in namespaces:
            os.close(each)


class _Furnishing(NamedTuple):
    request: Request
    #: The small one and the empty one.
    namespaces: tuple[Result, Result]
    entered: Result


@cache
def _furnishing() -> _Furnishing:
    """Make the small namespace, and the empty one."""
    steps = Steps()
    steps.last = True
    empty, none, root, dot, kind = map(steps.bytes, (b"", b"none", b"/", b".", b"tmpfs"))
    own, options = steps.bytes(b"/proc/self/ns/mnt"), steps.bytes(b"mode=755,nr_inodes=3,size=4k")
    places = [(steps.bytes(each), steps.bytes(b"/proc" + each)) for each in (b"/dev", b"/proc")]
    top, only = places[1]  # /proc: a directory that there is

    def move_in() -> None:
        steps.call("chdir", top)
        steps.call("pivot_root", dot, dot)
        steps.call("umount2", dot, _MNT_DETACH)

    steps.call("unshare", CLONE_NEWNS)
    steps.call("mount", none, root, 0, _MS_REC_PRIVATE, 0)
    mounts = [steps.call("open_tree", AT_FDCWD, path, OPEN_TREE) for path, _ in places]
    steps.call("mount", kind, top, kind, _QUIET, options)
    for mount, (_, place) in zip(mounts, places, strict=True):
        steps.call("mkdirat", AT_FDCWD, place, 0o755, changes=False)
        steps.call("move_mount", mount, empty, AT_FDCWD, place, _MOVE_FROM_FD, changes=False)
    move_in()
    small = steps.call("openat", AT_FDCWD, own, _CLOEXEC)
    steps.call("unshare", CLONE_NEWNS)
    bare = steps.call("openat", AT_FDCWD, own, _CLOEXEC)  # its name is gone then
    steps.call("mount", kind, top, kind, _QUIET, options)
    steps.call("mkdirat", AT_FDCWD, only, 0o755, changes=False)
    steps.call("mount", none, top, 0, _QUIET | _REMOUNT | _RDONLY, 0)
    move_in()
    entered = steps.call("setns", small, CLONE_NEWNS)  # which takes a right of its own
    steps.give(small)
    steps.give(bare)
    return _Furnishing(steps.freeze(), (small, bare), entered)


def _has_loops() -> bool:
    """Whether what images take is in /dev's own file system, which alone is in the small namespace: where the monitor is in a container
    itself, each device may be a mount of its own."""
    try:
        return os.stat("/dev/loop-control").st_dev == os.stat("/dev").st_dev
    except OSError:
        return True  # nobody has them


def small(task: Task) -> Generator[Any, Any, Beginning | None]:
    """How mounters begin in namespaces of their own, which are made, if they were not; None where that cannot be."""
    kept = task.host.kept
    known = kept.get("mounters")
    if known is None:
        namespaces: list[int] = []
        if _has_loops():
            furnishing = _furnishing()
            reply = yield from ask(task, False, furnishing.request, ())
            if reply.made(furnishing.entered):
                namespaces = [reply.take(each) for each in furnishing.namespaces]
            reply.close()
            if not namespaces and any(-each in _PASSING for each in reply.results):
                return None
        made = _Small(*namespaces)
        known = kept.setdefault("mounters", made)
        if known is not made:
            made.close()  # another call was faster
    assert isinstance(known, _Small)
    return known.begins

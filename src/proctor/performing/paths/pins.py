"""What requests about paths are made of: pinning, naming and probing.

A path is walked once, by the kernel, with the caller's identity: ``openat2`` with O_PATH (no right is
needed for that, and nothing happens) and RESOLVE_NO_MAGICLINKS.  What comes of it is the *pin*.  It is
then named: the kernel says which path it has (``/proc/self/fd``), and that path is walked once more,
without any link, to see that it leads to the very same thing.  Things without such a path (deleted,
covered by a mount, outside of the root, pipes) get a text that no absolute path equals.

A walk that fails is *probed*: the same path again, following no link at all, and then going to no other
mount.  If one of these fails alike, no link of procfs was on the way: the kernel's word stands.
Otherwise see :mod:`proctor.performing.paths.walk`.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from functools import lru_cache
from typing import Final

from proctor.call.path.procfs import spellings
from proctor.performing import scarce
from proctor.performing.executing.requests import Reply
from proctor.performing.executing.steps import END, Argument, Place, Result, Steps
from proctor.performing.paths.filestat import (
    PROMPT,
    STATFS_SIZE,
    STATX_SIZE,
    Status,
    same_place,
    status_of,
    statx,
    system_of,
)
from proctor.performing.trouble import Said
from proctor.records import NamedTuple

AT_FDCWD: Final = -100
#: include/uapi/linux/openat2.h
NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT, CACHED = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
SCOPED: Final = BENEATH | IN_ROOT
O_PATH: Final = getattr(os, "O_PATH", 0)
O_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
O_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)
_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)
PIN: Final = O_PATH | _CLOEXEC
HOW: Final = struct.Struct("=QQQ")

PATH_MAX: Final = 4096
#: In the place of a longer path, and of one below it: no rule is asked about that.
UNSAID: Final = b"(too long)"
#: Bytes of the longest path that the kernel takes.
LONGEST: Final = PATH_MAX - 1
#: What everybody gets in the place of what procfs shows to a process of its own: ``proc_fd_permission`` of
#: fs/proc/fd.c, ``proc_pid_permission`` and ``proc_pid_get_link`` of fs/proc/base.c (hidepid).
OWN: Final = (errno.EACCES, errno.ENOENT, errno.EPERM)
_KEPT_OUT: Final = (errno.EACCES, errno.EPERM)
#: Room for paths: one request for each of these.
_SIZES: Final = (64, 256, 1024, 8192)
#: Of these those that most paths fit into.
SHORT: Final = _SIZES[:2]


def signed(register: int) -> int:
    """An int in a register."""
    register &= 0xFFFFFFFF
    return register - (1 << 32) if register >> 31 else register


def only_a_path(fd: int) -> bool:
    """Whether a descriptor is an O_PATH one, which most calls take for none."""
    import fcntl  # policies are looked over where it is not

    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & O_PATH)


def flushes(fd: int) -> bool:
    """Whether who closes a duplicate may wait for somebody's server, which flushes the file (FUSE, NFS)."""
    from proctor.kernel.raw import filesystem_type, remembered

    try:
        mode = remembered(fd)[0]
    except PermissionError:  # it is hidden from us
        return not only_a_path(fd)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)) or only_a_path(fd):
        return False
    return filesystem_type(fd) not in PROMPT


def copies(*fds: int) -> list[int]:
    """Duplicates of descriptors, the asker's to close; all of them, or none.

    :raises OSError: EMFILE."""
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))
    except OSError:
        for each in made:
            os.close(each)
        raise
    return made


def room(length: int) -> int:
    """The size of hole that takes so many bytes."""
    for size in _SIZES:
        if length <= size:
            return size
    raise ValueError(f"no hole takes {length} bytes")


# Parts of requests ------------------------------------------------------------------------------


class Naming:
    """The steps that name a pin."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._how = steps.bytes(HOW.pack(PIN | O_NOFOLLOW, 0, NO_SYMLINKS))
        self.empty = steps.bytes(b"")
        self.dot = steps.bytes(b".")
        #: Where the pin's number, status, file system and name are, and the status of what that name leads to.
        self.seen: tuple[Place, ...] = ()

    def add(self, pin: Result, table: Argument, again: bool = True) -> Name:
        """Name a pin; to be called when all bytes of the request are there.

        :param again: False where the name decides nothing but if it is the path that the pin was found by: then it
            leads there."""
        steps = self._steps
        status, system, second = (
            steps.scratch(STATX_SIZE),
            steps.scratch(128),
            steps.scratch(STATX_SIZE),
        )
        self.seen = steps.scratch(16), status, system, steps.scratch(PATH_MAX + 8), second
        link, walked, last = self._look(pin, table, again)
        text = self.seen[3]
        first = steps.want(status)
        steps.want(Place(system.offset, STATFS_SIZE))
        steps.want(text, link)
        steps.want(second if again else status)
        return Name(first, link, walked, last)

    def add_another(self, pin: Result, table: Argument) -> tuple[Name, int]:
        """Name another thing in the place of what :meth:`add` was for, where that is not there; and the part that has
        its name.  The others are in the same parts."""
        link, walked, last = self._look(pin, table, True)
        text = self._steps.want(self.seen[3], link)
        return Name(0, link, walked, last), text

    def _look(self, pin: Result, table: Argument, again: bool) -> tuple[Result, Result, Result]:
        """Its name, whither that leads, and the last step."""
        steps, (digits, status, system, text, second) = self._steps, self.seen
        statx(steps, pin, status, self.empty)
        steps.call("fstatfs", pin, system)
        steps.put_text(digits, pin)
        link = last = walked = steps.call(
            "readlinkat", table, digits, text, PATH_MAX, bad=2 * again
        )
        if again:
            walked = steps.call("openat2", AT_FDCWD, text, self._how, HOW.size, bad=1)
            last = statx(steps, walked, second, self.empty)
        return link, walked, last


class Name(NamedTuple):
    """Where in a reply the name of a pin is."""

    first: int
    link: Result
    again: Result
    last: Result

    def read(self, reply: Reply) -> Named:
        """What was found."""
        status, system, text, second = reply.parts[self.first : self.first + 4]
        seen = status_of(status)
        if not reply.made(self.link):
            text = UNSAID if self.unsaid(reply) else b"(unreachable)"
        elif text.startswith(b"/") and not (reply.made(self.again) and same_place(status, second)):
            text = b"(unreachable)" + text  # what does not begin with a slash is pipe:[1] or so
        on = system_of(system)
        return Named(seen, on.proc, text, on.slow, on.stacked)

    def unsaid(self, reply: Reply) -> bool:
        """Whether it has a path that is longer than the kernel says one."""
        return reply.error(self.link) == errno.ENAMETOOLONG

    def on_proc(self, reply: Reply) -> bool:
        """Whether that is on procfs."""
        return system_of(reply.parts[self.first + 1]).proc

    def lost(self, reply: Reply) -> bool:
        """Whether there was no room for that second walk: then it is not known whether the name leads there."""
        return reply.error(self.again) in scarce.OURS

    def unsure(self, reply: Reply) -> bool:
        """Whether :meth:`read` is not all that can be said: :meth:`proctor.performing.paths.finding.Finding.named` sees to the rest.
        Who asks a rule about less lets everybody past who can take an executor its descriptors, or whose path was
        foreseen and leads elsewhere now: nobody saw whether that name leads there."""
        return (
            self.again == self.link
            or self.lost(reply)
            or self.unsaid(reply)
            or bool(self.hidden(reply))
        )

    def hidden(self, reply: Reply) -> tuple[bytes, ...]:
        """The paths that the kernel's name of a pin may stand for, where that name was not seen to lead to it and
        another look may show that one does: its walk could not be repeated for want of rights (something was reached
        from a directory below others that may not be searched), or the name has an addition.  Empty otherwise."""
        status, _, text, second = reply.parts[self.first : self.first + 4]
        if not text.startswith(b"/") or not reply.made(self.link):
            return ()
        paths = spellings(text)
        if reply.error(self.again) == errno.EACCES:
            return paths
        return paths[1:] if not (reply.made(self.again) and same_place(status, second)) else ()


class Named(NamedTuple):
    """A pin, known."""

    status: Status
    #: Whether it is on procfs.
    proc: bool
    #: The path by which the caller's root shows it; text that does not begin with a slash if none.
    path: bytes
    #: As :class:`System` has them.
    slow: bool
    stacked: bool


class Probing:
    """The steps that probe a walk that failed."""

    def __init__(self, steps: Steps, how: bytes = b"") -> None:
        """
        :param how: what :func:`probing` says; filled in later if that is not known."""
        self._steps = steps
        self.how = steps.bytes(how) if how else steps.hole(2 * HOW.size)
        self._dot = steps.bytes(b".")
        self._itself = steps.bytes(HOW.pack(PIN, 0, 0))

    def add(self, where: Argument, path: Place) -> Probe:
        """Probe; to be called when all bytes of the request are there."""
        steps, (how, _) = self._steps, self.how
        system = steps.scratch(128)
        plain = steps.call(
            "openat2", where, path, Place(how, HOW.size), HOW.size, want=-errno.ELOOP
        )
        near = steps.call("openat2", where, path, Place(how + HOW.size, HOW.size), HOW.size, bad=0)
        start = steps.call("openat2", where, self._dot, self._itself, HOW.size)
        steps.call("fstatfs", start, system, good=END)
        return Probe(plain, near, start, steps.want(Place(system.offset, STATFS_SIZE)))


class Probe(NamedTuple):
    """Where in a reply it is what a probe found."""

    plain: Result
    near: Result
    start: Result
    system: int

    def confirms(self, failed: int, reply: Reply, strictly: bool = False) -> bool:
        """Whether the walk that failed met no link of procfs.

        :param strictly: whether it met no procfs at all, where that lets nobody but a process itself in."""
        plain = reply.error(self.plain)
        if not (strictly and failed in OWN) and (not plain or plain == failed != errno.ELOOP):
            return True
        return (
            reply.error(self.near) == failed != errno.EXDEV
            and reply.made(self.start)
            and not system_of(reply.parts[self.system]).proc
        )

    def may_be_own(self, failed: int, reply: Reply) -> bool:
        """Whether it may be that the caller alone is let in, by a procfs: somebody was kept out, and it is not seen that
        none was met."""
        if failed not in _KEPT_OUT:
            return False
        alike = reply.error(self.near) in (0, failed) and reply.made(self.start)
        return not alike or system_of(reply.parts[self.system]).proc


def split(path: bytes) -> tuple[bytes, bytes, bytes]:
    """(directory, last component, trailing slashes) as the kernel's path walk splits; the last
    component is empty for ``/`` and for the empty path."""
    bare = path.rstrip(b"/")
    slashes = path[len(bare) :]
    if not bare:
        return (b"/", b"", b"") if path else (b"", b"", b"")
    cut = bare.rfind(b"/") + 1
    return bare[:cut] or b".", bare[cut:], slashes


def within(path: bytes) -> tuple[bytes, bytes]:
    """A directory that is to be searched, and a name with the slashes behind it."""
    head, last, slashes = split(path)
    if not last:  # nobody asks whether the root may be searched where nothing is looked for in it
        return b"/", b"/"
    # The kernel's walk to a last component asks whether its directory may be searched (link_path_walk).
    return head + (b"." if head.endswith(b"/") else b"/."), last + slashes


# Requests about paths, in common ------------------------------------------------------------------


def has(start: int | None) -> bool:
    """Whether a directory goes along."""
    return start is not None and start >= 0


def directory(start: int | None) -> tuple[int, ...]:
    """What fills the hole of a directory that does not go along: nothing is where the caller has
    none, for the kernel to say EBADF where it matters."""
    if has(start):
        return ()
    return (AT_FDCWD if start is None else -1,)


def along(start: int | None) -> tuple[int, ...]:
    """What goes along."""
    return (start,) if start is not None and start >= 0 else ()


@lru_cache(64)
def probing(flags: int, resolve: int) -> bytes:
    """How a failed walk is probed: following no link; going to no other mount."""
    flags, resolve = PIN | flags & O_NOFOLLOW, resolve & ~CACHED
    near = HOW.pack(flags, 0, resolve | NO_MAGICLINKS | NO_XDEV)
    return HOW.pack(flags, 0, resolve | NO_SYMLINKS) + near


def refuse(reply: Reply, step: Result, fine: int) -> None:
    """
    :raises Said: a step failed otherwise than it should."""
    number = reply.error(step)
    if number != fine:
        raise Said(number)


def stands(
    failed: int, reply: Reply, probe: Probe | None, resolve: int, strictly: bool = False
) -> bool:
    """Whether an errno is the kernel's last word: no link of procfs was on the way.

    :param strictly: see :meth:`Probe.confirms`."""
    if stands_alone(failed, resolve, strictly) or probe is None:
        return True
    return probe.confirms(failed, reply, strictly)


def stands_alone(failed: int, resolve: int, strictly: bool = False) -> bool:
    """The same, where no probe is needed."""
    return failed in (errno.EINVAL, errno.EBADF) or bool(resolve & NO_SYMLINKS and not strictly)

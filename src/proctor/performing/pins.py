"""Requests about paths: walking, pinning and naming what is there, in one trip each.

A path is walked once, by the kernel, with the caller's identity: ``openat2`` with O_PATH (no right is
needed for that, and nothing happens) and RESOLVE_NO_MAGICLINKS.  What comes of it is the *pin*.  It is
then named: the kernel says which path it has (``/proc/self/fd``), and that path is walked once more,
without any link, to see that it leads to the very same thing.  Things without such a path (deleted,
covered by a mount, outside of the root, pipes) get a text that no absolute path equals.

A walk that fails is *probed*: the same path again, following no link at all, and then going to no other
mount.  If one of these fails alike, no link of procfs was on the way: the kernel's word stands.
Otherwise see :mod:`.walk`.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from functools import cache, lru_cache
from typing import Final, NamedTuple

from proctor.performing.steps import END, Argument, Place, Reply, Request, Result, Steps
from proctor.performing.trouble import Said

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

_AT_EMPTY_PATH, _AT_EACCESS = 0x1000, 0x200
_AT_NO_AUTOMOUNT: Final = 0x800
_STATX: Final = 0x17FF  # STATX_BASIC_STATS and STATX_MNT_ID (Linux 5.8)
_STATX_SIZE: Final = 256
PROC_SUPER_MAGIC: Final = 0x9FA0
PROC_ROOT_INO: Final = 1
_CGROUPS: Final = (0x63677270, 0x27E0EB)  # of version 2 and of version 1
#: File systems that open and close regular files and directories without asking anybody: ext4, xfs,
#: btrfs, tmpfs, ramfs, f2fs, overlayfs (if what it lies on does), squashfs, erofs, isofs, bcachefs, zfs.
#: Of include/uapi/linux/magic.h and their own headers.
LOCAL: Final = (
    0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x858458F6, 0xF2F52010,
    0x794C7630, 0x73717368, 0xE0F5E1E2, 0x9660, 0xCA451A4E, 0x2FC12FC1,
)  # fmt: skip
_LOCAL: Final = frozenset(LOCAL)
_FILES: Final = (stat.S_IFREG, stat.S_IFDIR)
#: And those of the kernel itself, whose files it closes at once: also sysfs, devpts, pipefs and sockfs.
_PROMPT: Final = frozenset(
    (*LOCAL, PROC_SUPER_MAGIC, *_CGROUPS, 0x62656572, 0x1CD1, 0x50495045, 0x534F434B)
)
_PATH_MAX: Final = 4096
#: What an :func:`entry`'s parent is found by.
ABSOLUTE, RELATIVE, PINNED = range(3)
#: Room for paths: one request for each of these.
_SIZES: Final = (64, 256, 1024, 8192)
#: Of these those that most paths fit into.
SHORT: Final = _SIZES[:2]


class Status(NamedTuple):
    """What statx(2) says of a thing."""

    mode: int
    uid: int
    rdev: tuple[int, int]
    device: tuple[int, int]
    inode: int
    mount: int

    @property
    def place(self) -> tuple[tuple[int, int], int, int]:
        """Equal for the same thing on the same mount, as long as somebody keeps it open."""
        return self.device, self.inode, self.mount

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_device(self) -> bool:
        """Whether it is a device node."""
        return stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)


def status_of(data: bytes) -> Status:
    """From a struct statx (include/uapi/linux/stat.h)."""
    uid, _, mode = struct.unpack_from("=IIH", data, 20)
    (inode,) = struct.unpack_from("=Q", data, 32)
    rmajor, rminor, major, minor, mount = struct.unpack_from("=IIIIQ", data, 128)
    return Status(mode, uid, (rmajor, rminor), (major, minor), inode, mount)


class System(NamedTuple):
    """What fstatfs(2) says of a file system."""

    proc: bool
    cgroup: bool
    #: ST_* bits of the mount: include/linux/statfs.h.
    flags: int
    #: Whether close(2) may wait there for somebody who does not answer.
    slow: bool


def kind_of(data: bytes) -> int:
    """``f_type`` of a struct statfs."""
    kind: int = struct.unpack_from("=I" if _S390 else "@l", data)[0]
    return kind & 0xFFFFFFFF


def system_of(data: bytes) -> System:
    """From a struct statfs (include/uapi/asm-generic/statfs.h; s390 has one of its own)."""
    kind = kind_of(data)
    if _S390:
        (flags,) = struct.unpack_from("=I", data, 64)
    else:
        size = struct.calcsize("@l")
        (flags,) = struct.unpack_from("@l", data, 9 * size + 8)
    return System(kind == PROC_SUPER_MAGIC, kind in _CGROUPS, flags, kind not in _PROMPT)


def is_plain(system: bytes, status: bytes) -> bool:
    """Whether it is a regular file or a directory, on a file system that asks nobody."""
    (mode,) = struct.unpack_from("=H", status, 28)
    return stat.S_IFMT(mode) in _FILES and kind_of(system) in _LOCAL


_S390: Final = hasattr(os, "uname") and os.uname().machine == "s390x"
ST_NODEV, ST_NOSYMFOLLOW = 0x0004, 0x2000
_STATFS_SIZE: Final = 96  # what matters of it


def signed(register: int) -> int:
    """An int in a register."""
    register &= 0xFFFFFFFF
    return register - (1 << 32) if register >> 31 else register


def room(length: int) -> int:
    """The size of hole that takes so many bytes."""
    for size in _SIZES:
        if length <= size:
            return size
    raise ValueError(f"no hole takes {length} bytes")


# Parts of requests ------------------------------------------------------------------------------


def statx(steps: Steps, fd: Argument, place: Place, empty: Place) -> Result:
    """Have statx(2) of a descriptor in ``place``."""
    return steps.call("statx", fd, empty, _AT_EMPTY_PATH | _AT_NO_AUTOMOUNT, _STATX, place)


class Naming:
    """The steps that name a pin."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._how = steps.bytes(HOW.pack(PIN | O_NOFOLLOW, 0, NO_SYMLINKS))
        self.empty = steps.bytes(b"")
        self.dot = steps.bytes(b".")

    def add(self, pin: Result, table: Argument) -> Name:
        """Name a pin; to be called when all bytes of the request are there."""
        steps = self._steps
        status, system, second = (
            steps.scratch(_STATX_SIZE),
            steps.scratch(128),
            steps.scratch(_STATX_SIZE),
        )
        digits, text = steps.scratch(16), steps.scratch(_PATH_MAX + 8)
        statx(steps, pin, status, self.empty)
        steps.call("fstatfs", pin, system)
        steps.put_text(digits, pin)
        link = steps.call("readlinkat", table, digits, text, _PATH_MAX, bad=2)
        again = steps.call("openat2", AT_FDCWD, text, self._how, HOW.size, bad=1)
        last = statx(steps, again, second, self.empty)
        first = steps.want(status)
        steps.want(Place(system.offset, _STATFS_SIZE))
        steps.want(text, link)
        steps.want(second)
        return Name(first, link, again, last)


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
            text = b"(unreachable)"
        elif text.startswith(b"/") and not (
            reply.made(self.again) and status_of(second).place == seen.place
        ):
            text = b"(unreachable)" + text  # what does not begin with a slash is pipe:[1] or so
        on = system_of(system)
        return Named(seen, on.proc, text, on.slow)


class Named(NamedTuple):
    """A pin, known."""

    status: Status
    #: Whether it is on procfs.
    proc: bool
    #: The path by which the caller's root shows it; text that does not begin with a slash if none.
    path: bytes
    #: As :attr:`System.slow`.
    slow: bool


class Probing:
    """The steps that probe a walk that failed."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        #: What :func:`probing` says.
        self.how = steps.hole(2 * HOW.size)
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
        steps.call("fstatfs", start, system)
        return Probe(plain, near, start, steps.want(Place(system.offset, _STATFS_SIZE)))


class Probe(NamedTuple):
    """Where in a reply it is what a probe found."""

    plain: Result
    near: Result
    start: Result
    system: int

    def confirms(self, failed: int, reply: Reply) -> bool:
        """Whether the walk that failed met no link of procfs."""
        plain = reply.error(self.plain)
        if not plain or plain == failed != errno.ELOOP:
            return True
        return (
            reply.error(self.near) == failed != errno.EXDEV
            and reply.made(self.start)
            and not system_of(reply.parts[self.system]).proc
        )


# Requests ---------------------------------------------------------------------------------------


class Look(NamedTuple):
    """Pin and name."""

    request: Request
    valid: Result
    pin: Result
    name: Name
    probe: Probe


@cache
def look(relative: bool, size: int) -> Look:
    """Holes: directory (a number, if not ``relative``), how to open later, how to walk, how to probe,
    path.  What the kernel says to the flags of the first of these it says before it looks at any path.

    Sent: the directory (if ``relative``), the executor's table."""
    steps = Steps()
    where: Argument = steps.sent() if relative else steps.number()
    table = steps.sent()
    later, how = steps.hole(HOW.size), steps.hole(HOW.size)
    probing, naming = Probing(steps), Naming(steps)
    path = steps.hole(size)
    valid = _validity(steps, later, naming)
    pin = steps.call("openat2", where, path, how, HOW.size)
    name = naming.add(pin, table)
    steps.end(name.last)
    steps.jump(pin, bad=True)
    probe = probing.add(where, path)
    steps.give(pin)
    return Look(steps.freeze(), valid, pin, name, probe)


def _validity(steps: Steps, how: Place, naming: Naming) -> Result:
    return steps.call("openat2", -1, naming.dot, how, HOW.size, want=-errno.EBADF)


class Known(NamedTuple):
    """Name what goes along."""

    request: Request
    name: Name


@cache
def name_of() -> Known:
    """Sent: a pin, the executor's table."""
    steps = Steps()
    naming = Naming(steps)
    given, table = steps.sent(), steps.sent()
    name = naming.add(steps.call("dup", given), table)
    return Known(steps.freeze(), name)


class Opening(NamedTuple):
    """Open for good."""

    request: Request
    fd: Result
    probe: Probe
    system: int
    status: int


@cache
def opening(relative: bool, size: int) -> Opening:
    """By path, as the kernel does it all.  Holes: directory (if not ``relative``), umask, how to open,
    how to probe, path.  Sent: the directory (if ``relative``)."""
    steps = Steps()
    where: Argument = steps.sent() if relative else steps.number()
    umask, how, probing = steps.number(), steps.hole(HOW.size), Probing(steps)
    path = steps.hole(size)
    empty = steps.bytes(b"")
    system, status = steps.scratch(128), steps.scratch(_STATX_SIZE)
    steps.call("umask", umask)
    fd = steps.call("openat2", where, path, how, HOW.size, bad=2)
    statx(steps, fd, status, empty)
    steps.call("fstatfs", fd, system, good=END)
    probe = probing.add(where, path)
    steps.give(fd)
    part = steps.want(Place(system.offset, _STATFS_SIZE))
    kind = steps.want(status)
    return Opening(steps.freeze(), fd, probe, part, kind)


class Acting(NamedTuple):
    """Do what was decided, with what is pinned."""

    request: Request
    fd: Result
    #: Its status.
    status: int


@cache
def reopening() -> Acting:
    """Open the very thing that is pinned, by its own link.  Holes: how.  Sent: the pin, the
    executor's table."""
    steps = Steps()
    how, empty = steps.hole(HOW.size), steps.bytes(b"")
    digits, status = steps.scratch(16), steps.scratch(_STATX_SIZE)
    given, table = steps.sent(), steps.sent()
    pin = steps.call("dup", given)
    steps.put_text(digits, pin)
    fd = steps.call("openat2", table, digits, how, HOW.size)
    statx(steps, fd, status, empty)
    steps.give(fd)
    part = steps.want(status)
    return Acting(steps.freeze(), fd, part)


@cache
def writable() -> Acting:
    """Whether what is pinned may be written to (the step's result; nothing is opened).  Sent: the pin."""
    steps = Steps()
    asked = steps.call(
        "faccessat2", steps.sent(), steps.bytes(b""), os.W_OK, _AT_EMPTY_PATH | _AT_EACCESS
    )
    return Acting(steps.freeze(), asked, 0)


@cache
def opening_in(size: int) -> Acting:
    """Open one name in a pinned directory.  Holes: umask, how, name.  Sent: the directory."""
    steps = Steps()
    umask, how, name = steps.number(), steps.hole(HOW.size), steps.hole(size)
    empty = steps.bytes(b"")
    status = steps.scratch(_STATX_SIZE)
    directory = steps.sent()
    steps.call("umask", umask)
    fd = steps.call("openat2", directory, name, how, HOW.size)
    statx(steps, fd, status, empty)
    steps.give(fd)
    part = steps.want(status)
    return Acting(steps.freeze(), fd, part)


class Entry(NamedTuple):
    """A name in a directory, both pinned and named."""

    request: Request
    valid: Result
    parent: Result
    parent_name: Name
    probe: Probe | None
    #: What has the name, not followed.
    found: Result
    found_name: Name
    #: Its text, if it is a symbolic link.
    link: int


@cache
def entry(by: int, size: int) -> Entry:
    """Holes: directory (ABSOLUTE), how to open later, how to walk, how to probe, path of the parent
    (these three not if it is PINNED), name.

    Sent: the directory (RELATIVE) or the parent itself (PINNED), the executor's table."""
    steps = Steps()
    where: Argument = steps.number() if by == ABSOLUTE else steps.sent()
    table = steps.sent()
    later = steps.hole(HOW.size)
    how = steps.hole(HOW.size) if by != PINNED else None
    probing = Probing(steps) if by != PINNED else None
    path = steps.hole(size) if by != PINNED else None
    last, naming = steps.hole(size), Naming(steps)
    itself = steps.bytes(HOW.pack(PIN | O_NOFOLLOW, 0, 0))
    valid = _validity(steps, later, naming)
    if path is not None and how is not None:
        parent = steps.call("openat2", where, path, how, HOW.size)
    else:
        parent = steps.call("dup", where)
    parent_name = naming.add(parent, table)
    found = steps.call("openat2", parent, last, itself, HOW.size)
    found_name = naming.add(found, table)
    target = steps.scratch(_PATH_MAX + 8)
    text = steps.call("readlinkat", found, naming.empty, target, _PATH_MAX, good=END, bad=END)
    probe = None
    if path is not None and probing is not None:
        steps.jump(parent, bad=True)
        probe = probing.add(where, path)
    steps.give(parent)
    steps.give(found)
    link = steps.want(target, text)
    return Entry(steps.freeze(), valid, parent, parent_name, probe, found, found_name, link)


class Making(NamedTuple):
    """Make a node."""

    request: Request
    parent: Result
    system: int
    probe: Probe | None
    made: Result


@cache
def making(by: int, size: int) -> Making:
    """Holes: directory (ABSOLUTE), umask, mode, device, how to walk, how to probe, path of the parent
    (these three not if it is PINNED), name.  Sent: the directory (RELATIVE), the parent (PINNED)."""
    steps = Steps()
    where: Argument = steps.number() if by == ABSOLUTE else steps.sent()
    umask, mode, device = steps.number(), steps.number(), steps.number()
    how = steps.hole(HOW.size) if by != PINNED else None
    probing = Probing(steps) if by != PINNED else None
    path = steps.hole(size) if by != PINNED else None
    last = steps.hole(size)
    system = steps.scratch(128)
    steps.call("umask", umask)
    if path is not None and how is not None:
        parent = steps.call("openat2", where, path, how, HOW.size)
    else:
        parent = steps.call("dup", where)
    steps.call("fstatfs", parent, system, bad=0)  # what does not tell (FUSE) is not procfs
    made = steps.call("mknodat", parent, last, mode, device, good=END)
    probe = None
    if path is not None and probing is not None:
        steps.jump(parent, bad=True)
        probe = probing.add(where, path)
    steps.give(parent)
    part = steps.want(Place(system.offset, _STATFS_SIZE))
    return Making(steps.freeze(), parent, part, probe, made)


def split(path: bytes) -> tuple[bytes, bytes, bytes]:
    """(directory, last component, trailing slashes) as the kernel's path walk splits; the last
    component is empty for ``/`` and for the empty path."""
    bare = path.rstrip(b"/")
    slashes = path[len(bare) :]
    if not bare:
        return (b"/", b"", b"") if path else (b"", b"", b"")
    cut = bare.rfind(b"/") + 1
    return bare[:cut] or b".", bare[cut:], slashes


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


def stands(failed: int, reply: Reply, probe: Probe | None, resolve: int) -> bool:
    """Whether an errno is the kernel's last word: no link of procfs was on the way."""
    return stands_alone(failed, resolve) or probe is None or probe.confirms(failed, reply)


def stands_alone(failed: int, resolve: int) -> bool:
    """The same, where no probe is needed."""
    return failed in (errno.EINVAL, errno.EBADF) or bool(resolve & NO_SYMLINKS)

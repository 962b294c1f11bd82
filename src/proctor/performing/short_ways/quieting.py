"""What is said to calls that would write files down; see :mod:`proctor.performing.families.quiet`."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from array import array
from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.kernel.raw import filesystem_type, is_hidden, remembered
from proctor.performing.paths import filestat, pins
from proctor.performing.paths.hidden import mode_of
from proctor.performing.trouble import Moved

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.requests import Reply
    from proctor.performing.executing.workers import Wait
    from proctor.performing.performers import Performers
    from proctor.performing.task import Task, Work

_MS_ASYNC, _MS_SYNC, _MS_ALL = 1, 4, 7
_RANGE_FLAGS: Final = 7  # SYNC_FILE_RANGE_* of include/uapi/linux/fs.h
#: File systems of which nothing is ever written; many have no fsync, which is EINVAL (include/uapi/linux/magic.h): proc,
#: sysfs, nsfs, pidfs, debugfs, tracefs, cgroup, cgroup2, bpf, securityfs, selinuxfs, configfs, pstore, binfmt_misc, mqueue,
#: anonymous inodes, devpts, resctrl, memfd_secret(2), fusectl, efivarfs; and what can only be read: squashfs, erofs, cramfs,
#: isofs, romfs.
_SHOWN: Final = frozenset((
    filestat.PROC_SUPER_MAGIC, 0x62656572, 0x6E736673, 0x50494446, 0x64626720, 0x74726163, 0x27E0EB, 0x63677270,
    0xCAFE4A11, 0x73636673, 0xF97CFF8C, 0x62656570, 0x6165676C, 0x42494E4D, 0x19800202, 0x09041934, 0x1CD1,
    0x7655821, 0x5345434D, 0x65735543, 0xDE5E81E4, 0x73717368, 0xE0F5E1E2, 0x28CD3D45, 0x9660, 0x7275,
))  # fmt: skip
#: The others of those that close files without asking anybody, for the core.
STORED: Final = array("I", [each for each in filestat.LOCAL if each not in _SHOWN]).tobytes()
_OF_NO_DESCRIPTOR: Final = ("sync", "msync")
_DONE: Final = answer(0)
_KERNELS: Final = "nothing is written by it, or the kernel has it fail"


def perform(task: Task) -> Work:
    """Say that it is done."""
    call = task.call
    if call.name in _OF_NO_DESCRIPTOR:
        return _of_no_descriptor(call)
    return _said(call, (yield from _kind(task, call.registers[0])))


def seen(call: Call, standing: Standing, _options: None, host: Performers) -> Verdict | None:
    """The same; None of what is hidden from the monitor, and where a handler looked at the descriptor, perhaps.

    :raises CallGone: the thread is dead."""
    if call.name in _OF_NO_DESCRIPTOR:
        return _of_no_descriptor(call)
    if call.looked_at is not None:
        return None
    try:
        fd = standing.take_fd(pins.signed(call.registers[0]))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return _said(call, None)
    if fd is None:
        return None
    flushes = False
    try:
        if pins.only_a_path(fd):
            return _said(call, None)
        flushes = True
        mode = remembered(fd)[0]
        flushes = _is_file(mode)
        system = filesystem_type(fd) if flushes else 0
        flushes = flushes and system not in filestat.PROMPT
        return _said(call, _kind_of(mode, system))
    except PermissionError:
        return None
    finally:
        if flushes:
            host.executors.closers.close_shortly(standing.kept.key.container, fd)
        else:
            os.close(fd)


def _of_no_descriptor(call: Call) -> Verdict:
    return _DONE if call.name == "sync" else _msync(*call.words[:3])


def _said(call: Call, kind: str | None) -> Verdict:
    """For what :func:`_kind` says."""
    if kind is None:
        return deny(errno.EBADF)
    if "sync_file_range" in call.name:
        start, length = call.args.offset, call.args.nbytes
        if call.args.flags & ~_RANGE_FLAGS or start < 0 or length < 0 or start + length >= 1 << 63:
            return deny(errno.EINVAL)
        # ESPIPE, but for pidfds, which have pages, and none to write
        return _DONE if kind else let_run_unsafe(_KERNELS)
    if call.name == "syncfs" or kind == "stored":
        return _DONE
    return let_run_unsafe(_KERNELS)  # pipes, sockets, terminals...: EINVAL


def _msync(start: int, length: int, flags: int) -> Verdict:
    """As ``msync`` of mm/msync.c, as far as it does not look at mappings."""
    flags &= 0xFFFFFFFF
    if flags & ~_MS_ALL or start % mmap.PAGESIZE or (flags & _MS_ASYNC and flags & _MS_SYNC):
        return deny(errno.EINVAL)
    if flags & _MS_SYNC and length:
        return _DONE
    return let_run_unsafe(_KERNELS)


def _kind(task: Task, register: int) -> Generator[Wait, Reply, str | None]:
    """What a descriptor is of: something "stored", what only looks so ("shown", by procfs), or neither
    (""); None if it is none."""
    fd = task.taken(pins.signed(register))
    if fd is None or pins.only_a_path(fd):
        return None
    if is_hidden(fd) and not task.standing.unchanged():  # which was not asked yet
        raise Moved
    mode, system = (yield from mode_of(task, fd)), 0
    if _is_file(mode):
        system = filesystem_type(fd)
        task.flushes = system not in filestat.PROMPT
    return _kind_of(mode, system)


def _is_file(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)


def _kind_of(mode: int, system: int) -> str:
    if not _is_file(mode):
        return ""
    return "shown" if system in _SHOWN else "stored"

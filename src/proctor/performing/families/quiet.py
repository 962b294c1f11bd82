"""fsync, fdatasync, sync, syncfs, msync, sync_file_range: said to be done, and not done.

For builds and tests, whose files nobody needs after a power cut.  What the kernel refuses is refused:
descriptors that are none or cannot be synchronised, flags that are none.
"""

from __future__ import annotations

import errno
import mmap
import stat
from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.performing import filestat, pins
from proctor.performing.families import CALLS
from proctor.performing.trouble import Moved

if TYPE_CHECKING:
    from proctor.call.verdict import Verdict
    from proctor.performing.executors import Wait
    from proctor.performing.steps import Reply
    from proctor.performing.task import Task, Work

#: Answered by what a descriptor is of: see :func:`proctor.performing.registry.asks_who`.
WHOEVER: Final = CALLS["quiet"]

_MS_ASYNC, _MS_SYNC, _MS_ALL = 1, 4, 7
_RANGE_FLAGS: Final = 7  # SYNC_FILE_RANGE_* of include/uapi/linux/fs.h
#: File systems of which nothing is ever written; many have no fsync, which is EINVAL (include/uapi/linux/magic.h): proc,
#: sysfs, nsfs, pidfs, debugfs, tracefs, cgroup, cgroup2, bpf, securityfs, selinuxfs, configfs, pstore, binfmt_misc, mqueue,
#: anonymous inodes, devpts, resctrl.
_SHOWN: Final = frozenset((
    filestat.PROC_SUPER_MAGIC, 0x62656572, 0x6E736673, 0x50494446, 0x64626720, 0x74726163, 0x27E0EB, 0x63677270,
    0xCAFE4A11, 0x73636673, 0xF97CFF8C, 0x62656570, 0x6165676C, 0x42494E4D, 0x19800202, 0x09041934, 0x1CD1,
    0x7655821,
))  # fmt: skip
_KERNELS: Final = "nothing is written by it, or the kernel has it fail"


def perform(task: Task) -> Work:
    """Say that it is done."""
    call = task.call
    if call.name == "sync":
        return answer(0)
    if call.name == "msync":
        return _msync(*call.registers[:3])
    kind = yield from _kind(task, call.registers[0])
    if kind is None:
        return deny(errno.EBADF)
    if "sync_file_range" in call.name:
        start, length = call.args.offset, call.args.nbytes
        if call.args.flags & ~_RANGE_FLAGS or start < 0 or length < 0 or start + length >= 1 << 63:
            return deny(errno.EINVAL)
        return answer(0) if kind else deny(errno.ESPIPE)
    if call.name == "syncfs" or kind == "stored":
        return answer(0)
    return let_run_unsafe(_KERNELS)  # pipes, sockets, terminals...: EINVAL


def _msync(start: int, length: int, flags: int) -> Verdict:
    """As ``msync`` of mm/msync.c, as far as it does not look at mappings."""
    flags &= 0xFFFFFFFF
    if flags & ~_MS_ALL or start % mmap.PAGESIZE or (flags & _MS_ASYNC and flags & _MS_SYNC):
        return deny(errno.EINVAL)
    if flags & _MS_SYNC and length:
        return answer(0)
    return let_run_unsafe(_KERNELS)


def _kind(task: Task, register: int) -> Generator[Wait, Reply, str | None]:
    """What a descriptor is of: something "stored", what only looks so ("shown", by procfs), or neither
    (""); None if it is none."""
    fd = task.taken(pins.signed(register))
    if fd is None:
        return None
    from proctor.kernel.raw import filesystem_type, is_hidden
    from proctor.performing.hidden import mode_of

    if pins.only_a_path(fd):
        return None
    if is_hidden(fd) and not task.standing.unchanged():  # which was not asked yet
        raise Moved
    mode = yield from mode_of(task, fd)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)):
        return ""
    kind = filesystem_type(fd)
    task.flushes = kind not in filestat.PROMPT
    return "shown" if kind in _SHOWN else "stored"

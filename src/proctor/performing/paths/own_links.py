"""A caller's own directory of procfs, in which the kernel lets it in where it keeps others out.

Every process may follow its own links there that lead to objects, search ``fd`` and ``fdinfo``, read these and what
is in them, and its own ``maps``, also one that gave rights up and is therefore not dumpable: its directory is root's
then, and an executor that is what the caller is may do nothing of that (``__ptrace_may_access`` of kernel/ptrace.c
lets a thread group alone, and so do ``proc_fd_permission`` and ``proc_fdinfo_permission`` of fs/proc/fd.c).  The
monitor does it, from the pinned directory, once that is seen to be the caller's.  What a file's mode says, and to
whom it belongs, is asked of the executor all the same.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from proctor.call.identity import Status
from proctor.call.path.located import file_id
from proctor.call.path.procfs import is_procfs, numbers_in
from proctor.errors import SCARCE, ProctorError
from proctor.kernel import _core
from proctor.kernel.raw import openat2
from proctor.performing.executing.requests import Reply
from proctor.performing.paths import acting
from proctor.performing.paths.filestat import PROC_ROOT_INO, ST_NOSYMFOLLOW
from proctor.performing.paths.pinning import name_of
from proctor.performing.paths.pins import (
    AT_FDCWD,
    NO_MAGICLINKS,
    NO_SYMLINKS,
    NO_XDEV,
    O_DIRECTORY,
    O_NOFOLLOW,
    PIN,
    SCOPED,
)
from proctor.performing.paths.wanted import O_CLOEXEC, O_NOATIME, TMPFILE, access
from proctor.performing.trouble import Said
from proctor.records import NamedTuple
from proctor.syscalls import tables
from proctor.syscalls.architectures import native

if TYPE_CHECKING:
    from proctor.call.caller import Caller
    from proctor.performing.paths.finding import Pin
    from proctor.performing.task import Task

#: In the directory of a process or of a thread; all others need more.
_THERE: Final = (b"cwd", b"root", b"exe")
_CLOSED: Final = (b"fd", b"fdinfo", b"map_files")
#: What changing names wants of a directory.
_CHANGING: Final = os.W_OK | os.X_OK
#: Files whose opener is looked at when they are opened (``proc_mem_open`` of fs/proc/base.c), and never again.  Not
#: ``pagemap``, which shows to whoever has it what its opener had the right to see.
_OPENED: Final = frozenset(
    (b"maps", b"smaps", b"smaps_rollup", b"numa_maps", b"mem", b"environ", b"auxv", b"timers")
)


class Place(NamedTuple):
    """Where in the directory of the caller's own process a directory of procfs is."""

    #: The path by which the monitor has that directory, or the one of a thread in it.
    directory: bytes
    #: What it is in there; empty for that directory itself.
    name: bytes

    @property
    def closed(self) -> bool:
        """Whether others may not search it, nor read it."""
        return self.name in _CLOSED

    def leads(self, name: bytes) -> bool:
        """Whether a link of this name, if it is there, leads to an object, and its process may follow it."""
        if self.name == b"fd":
            return True
        return name in _THERE if not self.name else self.name == b"ns" and b"." not in name

    def opens(self, name: bytes) -> bool:
        """Whether a file of this name is opened by its own process as by nobody else."""
        return name in _OPENED if not self.name else self.name == b"fdinfo"


def place(here: int, caller: Caller) -> Place | None:
    """Where a directory is; None if not in the caller's own part of a procfs.

    It is by number: what is mounted over a part of a procfs, which whoever may mount can do at any time, is never
    looked at, and inode numbers there come round again."""
    if here < 0 or not is_procfs(here):
        return None
    above = [os.dup(here)]
    try:
        for _ in range(4):  # N/task/N/fd
            above.append(openat2(above[-1], b"..", PIN | O_DIRECTORY, NO_XDEV))
            if os.fstat(above[-1]).st_ino == PROC_ROOT_INO:
                top, *names = [_name_of(fd) for fd in reversed(above[:-1])]
                numbers = numbers_in(above[-1], caller)
                thread = None
                if names[:1] == [b"task"] and names[1:]:
                    thread, names = names[1], names[2:]
                if numbers is None or top != b"%d" % numbers[0] or names[1:]:
                    return None
                if thread is not None and not thread.isdigit():
                    return None  # it is dead
                directory = _directory(caller, numbers, None if thread is None else int(thread))
                return None if directory is None else Place(directory, b"".join(names))
    except OSError as error:
        if isinstance(error, ProctorError) or error.errno in SCARCE:
            raise
    finally:
        for fd in above:
            os.close(fd)
    return None


def _name_of(fd: int) -> bytes:
    return os.readlink(b"/proc/self/fd/%d" % fd).rpartition(b"/")[2]


def step(
    here: int, there: Place, name: bytes, caller: Caller, resolve: int, *, follow: bool
) -> tuple[int, bool]:
    """What a name in a directory of the caller's own leads to, in the order of ``walk_component`` and
    ``nd_jump_link`` of fs/namei.c: an O_PATH descriptor, the asker's to close; whether it is behind a link.

    A link is followed in the monitor's own procfs: over what is in the caller's another's link may be mounted.

    :raises Said: what the kernel says; EACCES where something is mounted over a link."""
    fd = _opened(here, name, PIN | O_NOFOLLOW, resolve & NO_XDEV, caller)
    try:
        link = stat.S_ISLNK(os.fstat(fd).st_mode)
        if not follow or not link:
            kept, fd = fd, -1
            return kept, False
        if resolve & NO_SYMLINKS or os.fstatvfs(fd).f_flag & ST_NOSYMFOLLOW:
            raise Said(errno.ELOOP)
        if not there.leads(name):
            raise Said(errno.EPERM)  # proc_map_files_get_link of fs/proc/base.c
        if resolve & NO_MAGICLINKS:
            raise Said(errno.ELOOP)
        if file_id(fd).mount != file_id(here).mount:
            raise Said(errno.EACCES)
    finally:
        if fd >= 0:
            os.close(fd)
    path = b"/".join(filter(None, [there.directory, there.name, name]))
    fd = _opened(AT_FDCWD, path, PIN, 0, caller)
    if resolve & SCOPED or (resolve & NO_XDEV and file_id(fd).mount != file_id(here).mount):
        os.close(fd)
        raise Said(errno.EXDEV)
    return fd, True


def enter(here: int, name: bytes, caller: Caller) -> int | None:
    """A name in a directory of the caller's own that others may not search, not followed: an O_PATH descriptor, the
    asker's to close; None if it is none.

    :raises Said: what the kernel says."""
    there = place(here, caller)
    if there is None or not there.closed:
        return None
    return step(here, there, name, caller, 0, follow=False)[0]


def opened(task: Task, pin: Pin, flags: int) -> Generator[Any, Reply, int | None]:
    """Open what the executor may not, and its own process may: a descriptor, the asker's to close; None if it is
    nothing of the kind.

    :raises Said: what the kernel says."""
    caller, directory = task.caller, pin.named.status.is_directory
    there = place(pin.fd if directory else pin.inside, caller)
    where, name = (pin.fd, b".") if directory else (pin.inside, _name_of(pin.fd))
    if there is None or not (there.closed if directory else there.opens(name)):
        return None
    if pin.named.status.mount != file_id(where).mount:
        return None  # that is mounted over it
    asked = pin.fd
    if there.name == b"fdinfo":
        asked = task.hold(_alike(where, directory, caller))
    mode = os.W_OK if flags & TMPFILE else access(flags)
    if (there.name == b"fdinfo" or not there.closed) and (
        yield from acting.ACCESSIBLE().ask(task.session, mode, fds=(asked,))
    ):
        return None
    if there.closed and flags & O_NOATIME and not flags & TMPFILE:
        fd = task.hold(_opened(where, name, O_CLOEXEC, NO_XDEV | NO_SYMLINKS, caller))
        if failed := (yield from acting.NOATIME().ask(task.session, fds=(fd,))):
            raise Said(failed)
    try:
        fd = _opened(where, name, flags | O_CLOEXEC, NO_XDEV | NO_SYMLINKS, caller)
    except (
        Said
    ) as said:  # the monitor may have no number in a container's procfs, as the caller has
        raise (
            Said(errno.EOPNOTSUPP) if flags & TMPFILE and said.errno == errno.EOVERFLOW else said
        ) from None
    if file_id(fd) != file_id(pin.fd):
        os.close(fd)
        return None
    return fd


def names(
    task: Task, directories: tuple[int, ...], what: str, *args: int | bytes
) -> Generator[Any, Reply, int]:
    """The errno of a call about names in directories, where the executor was kept out (EACCES) of one that is the caller's
    own.  No directory of a process has names made, moved or taken away, so the monitor makes the call to hear what is wrong
    with it: nothing comes of it.

    That nobody can do with the caller's rights but its own process.  Nor does it tell more than they would: each directory
    was pinned by ``.`` in it, so that whoever calls may search them all (a descriptor of another process's is EACCES before
    anybody comes here), and who may write there is asked of the executor.

    :param args: of the system call, after its directories and names were pinned."""
    places = [place(each, task.caller) for each in directories]
    if not any(there is not None and there.closed for there in places):
        return errno.EACCES
    given = [each + b"\0" if isinstance(each, bytes) else each for each in args]
    try:
        _core.syscall(tables.number(what, native()), *given)
        failed = 0
    except OSError as error:
        failed = error.errno or errno.EIO
    task.caller.check()
    if failed == errno.EOVERFLOW:  # the monitor has no number there, as the caller has
        failed = errno.EPERM
    slashes = what != "unlinkat" or not args[-1]  # rmdir does not mind
    if failed == errno.EPERM or (
        failed == errno.ENOTDIR and not (slashes and any(map(_is_slashed, args)))
    ):  # before that it was seen who may write there
        for each, there in zip(directories, places, strict=True):
            if kept_out := (yield from _accessed(task, each, there, True, _CHANGING)):
                return kept_out
    return failed


def _is_slashed(name: int | bytes) -> bool:
    return isinstance(name, bytes) and name.endswith(b"/")


def text(task: Task, pin: Pin) -> Generator[Any, Reply, bytes | None]:
    """What a link of the caller's own says of what it leads to, as its root shows that; None if it is none."""
    there = place(pin.inside, task.caller)
    name = _name_of(pin.fd)
    if there is None or not there.leads(name):
        return None
    fd, _ = step(pin.inside, there, name, task.caller, 0, follow=True)
    known = name_of()
    reply = yield from task.session.ask(known.request, fds=(task.hold(fd),), table=True)
    reply.close()
    return reply.parts[known.name.first + 2] if reply.made(known.name.link) else None


def accessed(task: Task, pin: Pin, mode: int) -> Generator[Any, Reply, int]:
    """The errno of access(2), where the executor was kept out (EACCES)."""
    directory = pin.named.status.is_directory
    where = pin.fd if directory else pin.inside
    there = place(where, task.caller)
    if there is None or pin.named.status.mount != file_id(where).mount:
        return errno.EACCES
    return (yield from _accessed(task, where, there, directory, mode))


def _accessed(
    task: Task, where: int, there: Place | None, directory: bool, mode: int
) -> Generator[Any, Reply, int]:
    """What access(2) says of a directory, or of a file in it, where the caller's process may do more than others:
    anything in ``fd`` and ``map_files`` (``proc_fd_permission`` of fs/proc/fd.c), in ``fdinfo`` what the modes say."""
    asked = where
    if there is not None and there.name == b"fdinfo":
        asked = task.hold(_alike(where, directory, task.caller))
    elif not directory:
        return errno.EACCES
    elif there is not None and there.closed:
        return errno.EROFS if mode & os.W_OK and os.fstatvfs(where).f_flag & os.ST_RDONLY else 0
    return (yield from acting.ACCESSIBLE().ask(task.session, mode, fds=(asked,)))


def _alike(fdinfo: int, directory: bool, caller: Caller) -> int:
    """What has the owner and mode of ``fdinfo``, or of what is in it, and is open to the executor."""
    near = b"../net" if directory else b"../maps"
    return _opened(fdinfo, near, PIN, NO_XDEV | NO_SYMLINKS, caller)


def _directory(caller: Caller, numbers: tuple[int, int], thread: int | None) -> bytes | None:
    """The path by which the monitor has a directory of the caller's process or of one of its threads; None if that is
    gone.

    :param numbers: what the caller has in another procfs.
    :param thread: the thread's number there; None for the process."""
    process = b"/proc/%d" % caller.tgid
    if thread is None:
        return process
    if thread == numbers[1]:
        return b"%s/task/%d" % (process, caller.tid)
    level = max(
        i for i, both in enumerate(zip(caller.nstgid, caller.nspid, strict=True)) if both == numbers
    )
    for tid in os.listdir(process + b"/task"):
        one = b"%s/task/%s" % (process, tid)
        try:
            with open(one + b"/status", "rb") as file:
                seen = Status(file.read()).numbers("NSpid")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if seen is not None and seen[level : level + 1] == (thread,):
            return one
    return None


def _opened(directory: int, name: bytes, flags: int, resolve: int, caller: Caller) -> int:
    try:
        fd = openat2(directory, name, flags, resolve)
    except OSError as error:
        if error.errno in SCARCE:
            raise
        raise Said(error.errno or 0) from None
    return caller.checked_fd(fd)

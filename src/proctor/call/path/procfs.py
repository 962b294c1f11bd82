"""What path resolution must know about procfs, and how a place is named.

procfs is where the same name leads different tasks to different places (``/proc/self``), and where
links lead to objects that may have no name at all (``/proc/PID/fd/5``).
"""

from __future__ import annotations

import errno
import os
import stat as _stat
from typing import Final, Protocol

from proctor.call.path.files import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    UNREACHABLE,
)
from proctor.call.path.located import file_id
from proctor.errors import SCARCE, NotPermitted

#: Why nothing is decided by it, whatever the rule: it may be below any directory.
TOO_LONG: Final = "its path is longer than the kernel says one (4,095 bytes)"
_PROC_SUPER_MAGIC: Final = 0x9FA0
_PROC_ROOT_INO: Final = 1
_PIN: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_ST_NOSYMFOLLOW: Final = 0x2000


class CallerNumbers(Protocol):
    """The caller's numbers in every pid namespace, ours first."""

    @property
    def nspid(self) -> tuple[int, ...]:
        """Thread ids."""
        ...

    @property
    def nstgid(self) -> tuple[int, ...]:
        """Process ids."""
        ...

    def namespace(self, kind: str) -> int:
        """Inode number of a namespace."""
        ...


# Naming a place -----------------------------------------------------------------------------


def name_of(fd: int, root: int) -> tuple[list[bytes], bytes]:
    """(components, prefix): how a process with this root would name what ``fd`` refers to.

    The prefix is empty if the components lead there, which is verified by walking them; otherwise
    it is ``(unreachable)`` and the components are the kernel's name for it, whatever it is.

    :raises NotPermitted: that name is longer than the kernel says one: nobody can decide by it.
    """
    try:
        text = os.readlink(f"/proc/self/fd/{fd}".encode())
        base = os.readlink(f"/proc/self/fd/{root}".encode()).rstrip(b"/")
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise NotPermitted(errno.EPERM, TOO_LONG) from None
    for path in spellings(text):
        if path == (base or b"/") or path.startswith(base + b"/"):
            names = [name for name in path[len(base) :].split(b"/") if name]
            if _leads_to(root, names, fd):
                return names, b""
    return [name for name in text.split(b"/") if name], UNREACHABLE


def spellings(name: bytes) -> tuple[bytes, ...]:
    """The paths that a name of the kernel's may stand for.  What was mounted and then removed where it came from is
    still there under its path, to which the kernel adds `` (deleted)`` (``d_path`` of fs/d_path.c)."""
    path = name.removesuffix(b" (deleted)")
    return (name,) if path == name else (name, path)


def _leads_to(root: int, names: list[bytes], fd: int) -> bool:
    """Whether ``names`` lead from the root to what ``fd`` refers to, without any link."""
    from proctor.kernel.raw import openat2

    bits = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
    try:
        here = openat2(root, b"/".join(names) or b".", _PIN, bits)
    except OSError as error:
        if error.errno in SCARCE:
            raise
        # where the monitor may not search, it is as the kernel says: shutting a directory is no way around rules
        return error.errno == errno.EACCES
    try:
        return file_id(here) == file_id(fd)
    finally:
        os.close(here)


# Links of procfs ----------------------------------------------------------------------------


def may_be(device: int) -> bool:
    """Whether a device number may be a procfs's: cheap, no false "no"."""
    return os.major(device) == 0


def is_procfs(fd: int) -> bool:
    """Whether ``fd`` is on a procfs.  Asked anew each time: device numbers are used again."""
    from proctor.kernel.raw import filesystem_type

    return filesystem_type(fd) == _PROC_SUPER_MAGIC


def refuse_nosymfollow(link: int) -> None:
    """Fail as the kernel where a mount option says that links are not followed (Linux 5.10).

    :raises OSError: ELOOP."""
    if os.fstatvfs(link).f_flag & _ST_NOSYMFOLLOW:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def link_text(parent: int, name: bytes, fd: int, caller: CallerNumbers) -> bytes | None:
    """What the caller would read in a link ``name`` of procfs directory ``parent``.

    None for one that leads to an object: the links below ``/proc/PID``, and those of which we
    cannot tell where in a procfs they are (a part of it mounted elsewhere).
    """
    if os.fstat(parent).st_ino == _PROC_ROOT_INO:
        if name not in (b"self", b"thread-self"):
            return os.readlink(b"", dir_fd=fd)
        numbers = numbers_in(parent, caller)
        if numbers is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        tgid, tid = numbers
        return str(tgid).encode() if name == b"self" else f"{tgid}/task/{tid}".encode()
    if _below_a_process(parent):
        return None
    return os.readlink(b"", dir_fd=fd)


def _below_a_process(directory: int) -> bool:
    """Whether a directory of procfs is below /proc/PID; True where it cannot be told."""
    device = os.fstat(directory).st_dev
    here = os.dup(directory)
    try:
        for _ in range(64):
            above = os.open(b"..", _PIN | os.O_DIRECTORY, dir_fd=here)
            here, below = above, here
            try:
                status = os.fstat(here)
                if status.st_dev != device:
                    return True
                if status.st_ino == _PROC_ROOT_INO:
                    return _is_a_process(below)
            finally:
                os.close(below)
        return True
    finally:
        os.close(here)


def refuse_other_network(directory: int, caller: CallerNumbers) -> None:
    """Fail in /proc/sys/net if the caller's network namespace is another than ours: whose network
    it shows depends on who looks (proc_sys_compare in fs/proc/proc_sysctl.c), so that a directory
    that is not there for us may be there for the caller.

    :raises NotPermitted: it is so."""
    if not may_be(os.fstat(directory).st_dev) or not is_procfs(directory):
        return
    if _below_sys_net(directory) and caller.namespace("net") != _own_network():
        raise NotPermitted(
            errno.EPERM,
            "/proc/sys/net of the caller's network namespace cannot be seen from the monitor's; "
            "run the monitor in that namespace, or do not decide by paths below it",
        )


def _own_network() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def _below_sys_net(directory: int) -> bool:
    """Whether a directory of procfs is /proc/sys/net or below it."""
    passed = [os.fstat(directory).st_ino]
    here = os.dup(directory)
    try:
        for _ in range(64):
            if passed[-1] == _PROC_ROOT_INO:
                try:
                    return os.stat(b"sys/net", dir_fd=here).st_ino in passed
                except OSError:
                    return False  # a procfs with subset=pid
            here, below = os.open(b"..", _PIN | os.O_DIRECTORY, dir_fd=here), here
            os.close(below)
            passed.append(os.fstat(here).st_ino)
        return True
    finally:
        os.close(here)


def _is_a_process(directory: int) -> bool:
    try:
        return _stat.S_ISDIR(os.stat(b"task", dir_fd=directory).st_mode)
    except OSError:
        return False


def numbers_in(proc_root: int, caller: CallerNumbers) -> tuple[int, int] | None:
    """(process id, thread id) of the caller as the procfs at ``proc_root`` counts them; None if it does
    not show the caller.

    A procfs belongs to one pid namespace.  An equal number proves nothing, since every small number
    exists in each: the process behind it must be in the caller's pid namespace, by the inode of
    ``ns/pid``, and have the caller's number there.  There is only one such process.
    """
    tgids, tids = caller.nstgid, caller.nspid
    for level in range(len(tgids) - 1, -1, -1):
        if _is_process(proc_root, tgids[level], caller.namespace("pid"), tgids[-1]):
            return tgids[level], tids[level]
    return None


def _is_process(proc_root: int, number: int, namespace: int, innermost: int) -> bool:
    """Whether a procfs has under this number the process that is number ``innermost`` of a pid
    namespace: read through one pinned directory, on which nothing else is mounted."""
    from proctor.call.identity import Status
    from proctor.kernel.raw import openat2

    opened: list[int] = []

    def at(place: int, name: bytes, flags: int) -> int:
        opened.append(openat2(place, name, flags | os.O_CLOEXEC, RESOLVE_NO_XDEV))
        return opened[-1]

    try:
        process = at(proc_root, b"%d" % number, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        link = os.readlink(b"", dir_fd=at(process, b"ns/pid", os.O_PATH | os.O_NOFOLLOW))
        if link != b"pid:[%d]" % namespace:
            return False
        seen = Status(os.read(at(process, b"status", os.O_RDONLY), 4096)).numbers("NStgid")
        return seen is not None and seen[-1:] == (innermost,)
    except OSError:
        return False  # somebody else: the caller's own namespaces were readable
    finally:
        for fd in opened:
            os.close(fd)

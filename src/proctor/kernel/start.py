"""Carrying a plan out: a process under a filter whose listener we hold.

The native core does the work (the head of ``core/launch.c`` says how, and why the hand-over also
succeeds when *every* system call is notified).  Most want :func:`proctor.kernel.launch.launch`, which
speaks in sentences.
"""

from __future__ import annotations

import errno as _errno
import mmap
import os
import struct
from typing import Final

from proctor.kernel import _core, abi
from proctor.kernel.pidfd import reap
from proctor.kernel.plan import Plan, is_open, plan

#: What helper and target leave on the shared page: three words of their own, errno, step.
_BOARD: Final = struct.Struct("=12xi20s")
#: ``ret #SECCOMP_RET_ALLOW``
_ALLOW_ALL: Final = abi.SOCK_FILTER.pack(0x06, 0, 0, abi.SECCOMP_RET_ALLOW)


class Started:
    """What :func:`start` started.  The descriptors belong to the caller, all CLOEXEC."""

    __slots__ = ("_board", "listener", "pid", "pidfd", "status_fd")

    #: Process id as we see it.
    pid: int
    #: pidfd of the process.
    pidfd: int
    #: Its listener, or -1.
    listener: int
    #: Reads as end-of-file once the target execed or died.
    status_fd: int

    def __init__(self, board: mmap.mmap, numbers: tuple[int, int, int, int]) -> None:
        self._board = board
        self.pid, self.pidfd, self.listener, self.status_fd = numbers

    def failure(self) -> tuple[str, int] | None:
        """(step, errno) if the target could not be started; None if nothing failed, of which one
        can be sure once ``status_fd`` shows end-of-file."""
        number: int = _BOARD.unpack_from(self._board)[0]
        if number == 0:
            return None
        step: bytes = _BOARD.unpack_from(self._board)[1]
        return step.partition(b"\0")[0].decode(), number


def start(what: Plan) -> Started:
    """Carry out a plan.

    It returns once the filter is installed and *before* execve has succeeded.  No SIGCHLD comes
    from the helper process, nor from a target that never execed (``__WALL`` waits for that one).

    :raises ValueError: a NUL in a string.
    :raises OSError: with ``filename`` set to the step that failed, for what fails before the filter
        is installed: nothing is left over then.  What fails later :meth:`Started.failure` tells.
        The steps, in their order: dup2 (a descriptor of ours is not open), socketpair, clone,
        pipe2, sendmsg, setgroups, uid_map, gid_map, helper (was killed), setup (the target was
        killed), setsid, setpgid, tiocsctty, tcsetpgrp, mount, dup2, close_range, setgroups,
        setgid, setuid, chdir, pdeathsig, no_new_privs, sigprocmask, execve (of several candidates
        none can be run), seccomp, recvmsg (EMFILE: our own table is full), execve.
    """
    program = what.program
    if program is not None and (len(program) % 8 or not 0 < len(program) <= 8 * 65535):
        raise OSError(_errno.EINVAL, os.strerror(_errno.EINVAL), "seccomp")
    if what.cwd is not None and b"\0" in what.cwd:
        raise ValueError("embedded null byte in cwd")
    for fd, _ in what.fds:
        if not is_open(fd):
            raise OSError(_errno.EBADF, os.strerror(_errno.EBADF), "dup2")
    board = mmap.mmap(-1, _BOARD.size)
    return Started(board, _core.launch(board, *map(_packed, what)))


def _packed(value: object) -> object:
    """Sequences of strings, of pairs and of numbers as C has them; everything else as it is."""
    if not isinstance(value, (list, tuple)):
        return value
    packed = []
    for each in value:
        if isinstance(each, bytes):
            if b"\0" in each:
                raise ValueError("embedded null byte in an argument, a path or the environment")
            packed.append(each + b"\0")
        elif isinstance(each, tuple):
            packed.append(struct.pack("=iii", *each, -1))
        else:
            packed.append(struct.pack("=I", each))
    return b"".join(packed)


class Throwaway:
    """A listener whose only task is gone: its exec fails on purpose, after the filter is in place.

    :raises OSError: as :func:`start`; EBUSY if a listener sits above us.
    """

    def __init__(self) -> None:
        started = start(plan(["/proc/self/proctor-probe"], program=_ALLOW_ALL, wait_killable=False))
        self.fd = started.listener
        os.close(started.status_fd)
        reap(started.pidfd)
        os.close(started.pidfd)

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

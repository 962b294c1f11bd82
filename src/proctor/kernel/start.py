"""Starting a process: the native launch, with Python values and nothing guessed.

:func:`launch` packs what ``_core.launch`` takes; its result is a :class:`Launch`.  Most want
:func:`proctor.kernel.launch.spawn`, which knows defaults and speaks in sentences.
"""

from __future__ import annotations

import errno as _errno
import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from proctor.kernel import _core

#: What helper and target leave on the shared page: three words of their own, errno, step.
_BOARD: Final = struct.Struct("=12xi20s")


class Launch:
    """What :func:`launch` started.  The descriptors belong to the caller, all CLOEXEC."""

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


def launch(
    argv: Sequence[bytes],
    *,
    candidates: Sequence[bytes],
    env: Sequence[bytes] | None = None,
    cwd: bytes | None = None,
    fds: Sequence[tuple[int, int]] = ((0, 0), (1, 1), (2, 2)),
    program: bytes | None = None,
    filter_flags: int = 0,
    no_new_privs: bool | None = None,
    namespaces: int = 0,
    uid_map: bytes | None = None,
    gid_map: bytes | None = None,
    deny_setgroups: bool = False,
    uid: int = -1,
    gid: int = -1,
    groups: Sequence[int] | None = None,
    umask: int = -1,
    process_group: int = -1,
    new_session: bool = False,
    foreground_tty: int = -1,
    parent_death_signal: int = 0,
    ignored_signals: int = 0,
) -> Launch:
    """Start ``argv`` with nothing guessed and nothing translated; most want :func:`proctor.kernel.launch.spawn`.

    It returns once the filter is installed and *before* execve has succeeded.  No SIGCHLD comes
    from the helper process, nor from a target that never execed (``__WALL`` waits for that one).

    :param candidates: absolute or cwd-relative paths to try in turn, as execvp(3) does: ENOENT,
        ENOTDIR, ENODEV, ESTALE, ETIMEDOUT and EACCES go on to the next, EACCES is remembered.
    :param env: ``NAME=value`` strings, or None for ours.
    :param fds: (ours, target's) pairs; every other descriptor is closed on exec.
    :param filter_flags: with NEW_LISTENER the listener comes back in the result.
    :param no_new_privs: True sets it, False does not, None sets it only if the kernel wants it
        (EACCES without).
    :param namespaces: CLONE_NEW* bits.
    :param uid_map: bytes for /proc/PID/uid_map, written from outside; likewise ``gid_map``.
    :param deny_setgroups: writes "deny" to /proc/PID/setgroups before the gid_map.
    :param process_group: 0 for a new group, n for an existing one, -1 to stay.
    :param new_session: setsid(2) in place of ``process_group``; ``foreground_tty`` then also becomes
        the controlling terminal.
    :param foreground_tty: descriptor of ours of a terminal whose foreground group the target's
        group becomes, or -1.
    :param parent_death_signal: sent to the target when the *thread* that called us ends.
    :param ignored_signals: bit ``n - 1`` leaves signal ``n`` ignored in the target; every other has
        its default action, and none is blocked.
    :raises OSError: with ``filename`` set to the step that failed, for what fails before the filter
        is installed: nothing is left over then.  What fails later :meth:`Launch.failure` tells.
        The steps, in their order: dup2 (a descriptor of ours is not open), socketpair, clone,
        pipe2, sendmsg, setgroups, uid_map, gid_map, helper (was killed), setup (the target was
        killed), setsid, setpgid, tiocsctty, tcsetpgrp, mount, dup2, close_range, setgroups,
        setgid, setuid, chdir, pdeathsig, no_new_privs, sigprocmask, seccomp, recvmsg (EMFILE: our
        own table is full), execve.
    """
    if program is not None and (len(program) % 8 or not 0 < len(program) <= 8 * 65535):
        raise OSError(_errno.EINVAL, os.strerror(_errno.EINVAL), "seccomp")
    if cwd is not None and b"\0" in cwd:
        raise ValueError("embedded null byte in cwd")
    for fd, _ in fds:
        if not is_open(fd):
            raise OSError(_errno.EBADF, os.strerror(_errno.EBADF), "dup2")
    board = mmap.mmap(-1, _BOARD.size)
    numbers = _core.launch(
        board,
        _blob(argv),
        _blob(candidates),
        _blob((name + b"=" + value for name, value in os.environb.items()) if env is None else env),
        cwd,
        b"".join(struct.pack("=iii", ours, theirs, -1) for ours, theirs in fds),
        program,
        filter_flags,
        -1 if no_new_privs is None else int(no_new_privs),
        namespaces,
        uid_map,
        gid_map,
        deny_setgroups,
        uid,
        gid,
        None if groups is None else struct.pack(f"={len(groups)}I", *groups),
        umask,
        process_group,
        new_session,
        foreground_tty,
        parent_death_signal,
        ignored_signals,
    )
    return Launch(board, numbers)


def _blob(strings: Iterable[bytes]) -> bytes:
    """The strings, each followed by a NUL, as C wants them."""
    strings = list(strings)
    if any(b"\0" in string for string in strings):
        raise ValueError("embedded null byte in an argument, a path or the environment")
    return b"".join(string + b"\0" for string in strings)


def is_open(fd: int) -> bool:
    """Whether the number is a descriptor of ours."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True

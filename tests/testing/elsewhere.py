"""A pytest plugin (and a module for scripts) that makes this platform poorer: no native core, none of
the modules and names that Windows or macOS lack.  Load it with ``-p elsewhere``, last of all."""

from __future__ import annotations

import errno
import importlib.abc
import importlib.machinery
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

#: Modules that are not there on Windows, or nowhere but on Linux, and the core.
MODULES = frozenset(
    """proctor.kernel._core fcntl grp pwd resource termios tty pty syslog posix_ipc crypt spwd
    readline""".split()  # noqa: SIM905
)
#: Names that Windows, macOS or both lack, but for those that the standard library found here when it
#: was imported and uses since (AF_UNIX, sched_getaffinity).
NAMES = {
    os: """O_PATH O_NOFOLLOW O_DIRECTORY O_CLOEXEC O_NONBLOCK O_TMPFILE
        EFD_CLOEXEC EFD_NONBLOCK MFD_CLOEXEC MFD_ALLOW_SEALING P_PIDFD CLONE_NEWNS CLONE_NEWUSER
        WNOHANG WUNTRACED WIFEXITED WIFSIGNALED waitid pidfd_open memfd_create eventfd eventfd_read
        eventfd_write setns unshare fork forkpty posix_spawn posix_spawnp pipe2 pread preadv pwrite
        pwritev readv writev sendfile splice mknod mkfifo major minor makedev chroot chown lchown
        fchown fchdir getuid geteuid getgid getegid getgroups setuid setgid seteuid setegid setresuid
        setresgid setgroups getresuid getresgid initgroups uname statvfs fstatvfs getxattr setxattr
        listxattr removexattr sched_setaffinity sched_yield register_at_fork killpg
        getpgid getpgrp setpgid setsid tcgetpgrp tcsetpgrp wait wait3 wait4 ctermid nice getloadavg
        get_blocking set_blocking""",
    select: "epoll poll kqueue EPOLLIN EPOLLHUP POLLIN POLLOUT POLLHUP POLLERR POLLNVAL",
    signal: """pthread_sigmask pthread_kill sigwait sigwaitinfo sigtimedwait sigpending setitimer
        alarm pause SIGKILL SIGSTOP SIGCONT SIGCHLD SIGUSR1 SIGUSR2 SIGALRM SIGHUP SIGQUIT SIGPIPE
        SIG_BLOCK SIG_SETMASK SIG_UNBLOCK""",
    socket: "AF_NETLINK AF_PACKET AF_VSOCK SCM_RIGHTS SO_PEERCRED send_fds recv_fds",
}  # fmt: skip

#: Error numbers as Windows has them, of those that the kernel below does not happen to give.
ERRNOS = {
    "ECONNREFUSED": 10061,
    "ELOOP": 10062,
    "ENAMETOOLONG": 38,
    "ENOSYS": 40,
    "EHOSTUNREACH": 10065,
    "ETIMEDOUT": 10060,
    "EDEADLK": 36,
}


class Blocker(importlib.abc.MetaPathFinder):
    """Says that a module is not there."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r} (elsewhere)", name=name)
        return None


def impoverish() -> None:
    """From now on this is a poorer platform.  What proctor has must not be loaded yet."""
    loaded = [name for name in sys.modules if name.partition(".")[0] == "proctor"]
    assert not loaded, f"too late: {loaded}"
    # the standard library's own optional imports happen while it is still rich
    import asyncio  # noqa: F401
    import logging  # noqa: F401
    import selectors
    import subprocess  # noqa: F401
    import tempfile

    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Blocker())
    tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]
    selectors.DefaultSelector = selectors.SelectSelector  # type: ignore[assignment, misc]
    for module, names in NAMES.items():
        for each in names.split():
            if hasattr(module, each):
                delattr(module, each)
    # As on Windows: names are UTF-8, and bytes that are not raise.
    os.fsdecode = lambda path: (
        path if isinstance(path, str) else path.decode("utf-8", "surrogatepass")
    )  # type: ignore[assignment]
    os.fsencode = lambda path: (
        path if isinstance(path, bytes) else str(path).encode("utf-8", "surrogatepass")
    )  # type: ignore[assignment]
    for name in ERRNOS:
        errno.errorcode.pop(getattr(errno, name), None)
    for name, number in ERRNOS.items():
        setattr(errno, name, number)
        errno.errorcode[number] = name


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    impoverish()

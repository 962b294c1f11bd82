"""Calls that are not like others when a policy names them, or forgets to, each with the reason.

The reasons are clauses that end a sentence: "restart_syscall is not allowed: the kernel makes it for...".
"""

from __future__ import annotations

from typing import Final

from proctor.syscalls.siblings import families

_HANDLER = "the end of every signal handler makes it, and a program cannot go on without it"
#: What an allow-list forgets, since no program makes these calls by itself, or can do without.
UNASKED: Final[dict[str, str]] = {
    # signal(7), "Interruption of system calls and library functions by stop signals".
    "restart_syscall": "the kernel makes it for a program whose sleep was stopped and continued",
    # sigreturn(2).
    "rt_sigreturn": _HANDLER,
    "sigreturn": _HANDLER,
    # What is left of the launch once the filter is there (the head of kernel/core/launch.c).
    "execve": "it is how the command is started, under the filter already",
    "exit_group": "it is how every program ends, and the launch of one that cannot be executed",
    # pthread_exit(3): libc makes it again and again until it does not return.
    "exit": "it is how every thread ends",
}

_FORK = _CLOSE = "programs do not try it again when a signal interrupts the wait for an answer"
_WAIT = "the end of a child is itself a signal, which interrupts the wait for an answer"
_FUTEX = "every lock goes through it, and libc ends a program for an error that it does not expect"
_EXIT = "no program looks whether it came back, and one that is interrupted does"
_MASK = "programs keep signals away with it, and a signal interrupts the wait for an answer"

#: What breaks programs when it has to wait for a monitor: a signal interrupts a caller until its
#: call was received, and then the call fails with EINTR, unless the signal's handler has SA_RESTART
#: (seccomp_unotify(2); C075 and C076 of tests/conformance).
FRAGILE: Final[dict[str, str]] = {
    "close": f"{_CLOSE}, and the descriptor stays open",
    **dict.fromkeys(("clone", "clone3", "fork", "vfork"), _FORK),
    **dict.fromkeys(("wait4", "waitid", "waitpid"), _WAIT),
    **dict.fromkeys(("futex", "futex_time64", "futex_wait", "futex_waitv", "futex_wake"), _FUTEX),
    **dict.fromkeys(("exit", "exit_group"), _EXIT),
    **dict.fromkeys(("rt_sigaction", "rt_sigprocmask", "sigaction", "sigprocmask"), _MASK),
    **dict.fromkeys(("rt_sigreturn", "sigreturn"), _HANDLER),
}

#: What libc does in the program itself, without the call being made (vdso(7)).
VDSO: Final = frozenset(
    ("clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64", "getcpu", "gettimeofday", "time")
)  # fmt: skip

#: In which Linux io_uring began to do what, without the call being made.
_RING: Final = {
    "5.1": "fsync poll pread64 preadv pwrite64 pwritev read readv write writev",
    "5.2": "sync_file_range",
    "5.3": "recvmsg sendmsg",
    "5.5": "accept accept4 connect",
    "5.6": "close epoll_ctl fadvise64 fallocate madvise openat openat2 recv recvfrom send sendto statx",
    "5.7": "splice",
    "5.8": "tee",
    "5.11": "renameat renameat2 shutdown unlinkat",
    "5.15": "linkat mkdirat symlinkat",
    "5.19": "fgetxattr fsetxattr getxattr setxattr socket",
    "6.7": "futex_wait futex_waitv futex_wake getsockopt setsockopt waitid",
    "6.9": "ftruncate",
    "6.11": "bind listen",
    "6.15": "epoll_wait",
    "6.16": "pipe2",
}
#: What io_uring does without the call being made, to the Linux version that brought it.  Sources:
#: io_uring_enter(2); ``include/uapi/linux/io_uring.h`` 6.16, ``enum io_uring_op``.
IO_URING: Final = {call: since for since, calls in _RING.items() for call in calls.split()}


def by_io_uring(call: str) -> str:
    """The call in whose manner io_uring does what ``call`` does; empty if it does not.

    >>> by_io_uring("mkdir")
    'mkdirat'
    """
    if call in IO_URING:
        return call
    same = (other for family in families() if call in family.calls for other in family.calls)
    return next((other for other in same if other in IO_URING), "")

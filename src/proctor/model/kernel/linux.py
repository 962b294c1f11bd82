"""Linux's own numbers that the model needs: errnos, signals, poll bits, open flags, call numbers.

Spelled out instead of taken from :mod:`errno`, :mod:`signal` and :mod:`select`, since the model
means Linux on whatever platform it runs.  Values are those of x86-64.

Sources: ``include/uapi/asm-generic/errno-base.h``, ``errno.h``, ``arch/x86/include/uapi/asm/signal.h``,
``include/uapi/linux/eventpoll.h``, ``include/uapi/asm-generic/fcntl.h``,
``arch/x86/entry/syscalls/syscall_64.tbl``, ``include/linux/errno.h`` (Linux 6.12).
"""

from __future__ import annotations

from typing import Final

EPERM: Final = 1
ENOENT: Final = 2
ESRCH: Final = 3
EINTR: Final = 4
EIO: Final = 5
E2BIG: Final = 7
EBADF: Final = 9
ECHILD: Final = 10
EAGAIN: Final = 11
ENOMEM: Final = 12
EACCES: Final = 13
EFAULT: Final = 14
EBUSY: Final = 16
EINVAL: Final = 22
EMFILE: Final = 24
ENOTTY: Final = 25
ERANGE: Final = 34
ENOSYS: Final = 38
EOPNOTSUPP: Final = 95
ECONNRESET: Final = 104
EINPROGRESS: Final = 115

#: Errnos that user space should never see; they say how an interrupted call goes on.
ERESTARTSYS: Final = 512
ERESTARTNOINTR: Final = 513
ERESTARTNOHAND: Final = 514
ERESTART_RESTARTBLOCK: Final = 516

SIGHUP: Final = 1
SIGINT: Final = 2
SIGQUIT: Final = 3
SIGILL: Final = 4
SIGTRAP: Final = 5
SIGABRT: Final = 6
SIGBUS: Final = 7
SIGFPE: Final = 8
SIGKILL: Final = 9
SIGUSR1: Final = 10
SIGSEGV: Final = 11
SIGUSR2: Final = 12
SIGPIPE: Final = 13
SIGALRM: Final = 14
SIGTERM: Final = 15
SIGCHLD: Final = 17
SIGCONT: Final = 18
SIGSTOP: Final = 19
SIGTSTP: Final = 20
SIGTTIN: Final = 21
SIGTTOU: Final = 22
SIGURG: Final = 23
SIGXCPU: Final = 24
SIGXFSZ: Final = 25
SIGWINCH: Final = 28
SIGSYS: Final = 31

POLLIN: Final = 0x001
POLLOUT: Final = 0x004
POLLERR: Final = 0x008
POLLHUP: Final = 0x010
POLLNVAL: Final = 0x020
POLLRDNORM: Final = 0x040
POLLWRNORM: Final = 0x100
EPOLLET: Final = 1 << 31
EPOLLONESHOT: Final = 1 << 30

O_RDWR: Final = 0o2
O_NONBLOCK: Final = 0o4000
O_CLOEXEC: Final = 0o2000000
O_PATH: Final = 0o10000000
PIDFD_THREAD: Final = 0o200  # O_EXCL; Linux 6.9

PR_GET_SECCOMP: Final = 21
PR_SET_SECCOMP: Final = 22
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39

WNOHANG: Final = 1
WUNTRACED: Final = 2

#: Numbers of the calls the model knows by name (x86-64).
NR: Final[dict[str, int]] = {
    "read": 0,
    "write": 1,
    "open": 2,
    "close": 3,
    "poll": 7,
    "rt_sigreturn": 15,
    "ioctl": 16,
    "pause": 34,
    "nanosleep": 35,
    "dup": 32,
    "dup2": 33,
    "getpid": 39,
    "sendmsg": 46,
    "recvmsg": 47,
    "clone": 56,
    "fork": 57,
    "execve": 59,
    "exit": 60,
    "wait4": 61,
    "kill": 62,
    "mknod": 133,
    "getppid": 110,
    "prctl": 157,
    "ptrace": 101,
    "gettid": 186,
    "restart_syscall": 219,
    "clock_nanosleep": 230,
    "exit_group": 231,
    "epoll_wait": 232,
    "epoll_ctl": 233,
    "tgkill": 234,
    "openat": 257,
    "mknodat": 259,
    "unshare": 272,
    "epoll_create1": 291,
    "dup3": 292,
    "seccomp": 317,
    "kcmp": 312,
    "pidfd_send_signal": 424,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "uretprobe": 335,
    "uprobe": 336,
}

#: What a call that stays in the kernel gives back for now; its value comes later.
#: No call returns it: it lies outside of what a register can hold.
BLOCKED: Final = 1 << 80

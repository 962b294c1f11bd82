"""The few x86-64 numbers that tests use by name; the project's own tables are not trusted here.

Sources: ``arch/x86/entry/syscalls/syscall_64.tbl`` and the uapi headers.
"""

from __future__ import annotations

from typing import Final

NR: Final[dict[str, int]] = {
    "read": 0,
    "write": 1,
    "open": 2,
    "close": 3,
    "poll": 7,
    "lseek": 8,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "rt_sigprocmask": 14,
    "ioctl": 16,
    "pipe": 22,
    "dup": 32,
    "dup2": 33,
    "pause": 34,
    "nanosleep": 35,
    "alarm": 37,
    "setitimer": 38,
    "getpid": 39,
    "sendmsg": 46,
    "recvmsg": 47,
    "fork": 57,
    "execve": 59,
    "exit": 60,
    "wait4": 61,
    "kill": 62,
    "fcntl": 72,
    "getppid": 110,
    "setresuid": 117,
    "setresgid": 119,
    "setgroups": 116,
    "prctl": 157,
    "gettid": 186,
    "tkill": 200,
    "restart_syscall": 219,
    "clock_gettime": 228,
    "clock_nanosleep": 230,
    "exit_group": 231,
    "openat": 257,
    "unshare": 272,
    "pipe2": 293,
    "prlimit64": 302,
    "process_vm_readv": 310,
    "seccomp": 317,
    "memfd_create": 319,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
}

#: getppid by the i386 table (``arch/x86/entry/syscalls/syscall_32.tbl``).
I386_GETPPID: Final = 64

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_GET_SECCOMP: Final = 21
PR_SET_SECCOMP: Final = 22
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39

CLONE_FILES: Final = 0x400
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000

#: uid and gid of nobody, where tests drop root.
NOBODY: Final = 65534

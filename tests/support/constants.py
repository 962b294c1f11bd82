"""The few numbers that tests use by name; the project's own tables are not trusted here.

Sources: ``arch/x86/entry/syscalls/syscall_64.tbl``, ``include/uapi/asm-generic/unistd.h`` and the uapi
headers.
"""

from __future__ import annotations

import os
import platform
from typing import Final

_X86_64 = {
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
    "setsid": 112,
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
    "tgkill": 234,
    "openat": 257,
    "ppoll": 271,
    "unshare": 272,
    "pipe2": 293,
    "prlimit64": 302,
    "process_vm_readv": 310,
    "seccomp": 317,
    "memfd_create": 319,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
}
#: Of the architectures that came late: what a newer call does as well has no number there.
_GENERIC = {
    "dup": 23,
    "fcntl": 25,
    "ioctl": 29,
    "openat": 56,
    "close": 57,
    "pipe2": 59,
    "lseek": 62,
    "read": 63,
    "write": 64,
    "ppoll": 73,
    "exit": 93,
    "exit_group": 94,
    "unshare": 97,
    "nanosleep": 101,
    "setitimer": 103,
    "clock_gettime": 113,
    "clock_nanosleep": 115,
    "restart_syscall": 128,
    "kill": 129,
    "tkill": 130,
    "tgkill": 131,
    "rt_sigprocmask": 135,
    "setresuid": 147,
    "setresgid": 149,
    "setsid": 157,
    "setgroups": 159,
    "prctl": 167,
    "getpid": 172,
    "getppid": 173,
    "gettid": 178,
    "sendmsg": 211,
    "recvmsg": 212,
    "munmap": 215,
    "execve": 221,
    "mmap": 222,
    "mprotect": 226,
    "wait4": 260,
    "prlimit64": 261,
    "process_vm_readv": 270,
    "seccomp": 277,
    "memfd_create": 279,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
}
_NUMBERS: Final = {"x86_64": _X86_64, "aarch64": _GENERIC, "riscv64": _GENERIC}
#: Those of this machine; none where the victim was not brought to.
NR: Final[dict[str, int]] = _NUMBERS.get(platform.machine(), {})

#: What notifications say of it (``include/uapi/linux/audit.h``).
AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}.get(
    platform.machine(), 0
)

#: The instruction that makes a call, behind which the caller is.
SYSCALL: Final = {
    "x86_64": b"\x0f\x05", "aarch64": b"\x01\0\0\xd4", "riscv64": b"\x73\0\0\0",
}.get(platform.machine(), b"")  # fmt: skip

#: getppid by the i386 table (``arch/x86/entry/syscalls/syscall_32.tbl``).
I386_GETPPID: Final = 64

#: How much longer everything may take here than on a machine that is not emulated.
SLOWNESS: Final = float(os.environ.get("PROCTOR_TEST_SLOWNESS", "1"))

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

"""Numbers and layouts of the seccomp interface.

Sources: ``include/uapi/linux/seccomp.h``, ``include/uapi/linux/audit.h``; seccomp(2),
seccomp_unotify(2).  Everything here is importable on any platform: no system call is made.

The comments say since which kernel a number exists; nobody in the project compares kernel
versions, features are probed (:mod:`proctor.kernel.probe`).
"""

from __future__ import annotations

import struct
from typing import Final

# Operations of seccomp(2).
SECCOMP_SET_MODE_STRICT: Final = 0
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_GET_ACTION_AVAIL: Final = 2  # 4.14
SECCOMP_GET_NOTIF_SIZES: Final = 3  # 5.0

# Flags of SECCOMP_SET_MODE_FILTER.
SECCOMP_FILTER_FLAG_TSYNC: Final = 1 << 0  # 3.17
SECCOMP_FILTER_FLAG_LOG: Final = 1 << 1  # 4.14
SECCOMP_FILTER_FLAG_SPEC_ALLOW: Final = 1 << 2  # 4.17
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 1 << 3  # 5.0
SECCOMP_FILTER_FLAG_TSYNC_ESRCH: Final = 1 << 4  # 5.7
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Final = 1 << 5  # 5.19

FILTER_FLAGS: Final[dict[str, int]] = {
    "TSYNC": SECCOMP_FILTER_FLAG_TSYNC,
    "LOG": SECCOMP_FILTER_FLAG_LOG,
    "SPEC_ALLOW": SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "NEW_LISTENER": SECCOMP_FILTER_FLAG_NEW_LISTENER,
    "TSYNC_ESRCH": SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
    "WAIT_KILLABLE_RECV": SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}

#: The Linux that has a flag first.
FILTER_FLAGS_SINCE: Final[dict[str, str]] = {
    "TSYNC": "3.17",
    "LOG": "4.14",
    "SPEC_ALLOW": "4.17",
    "NEW_LISTENER": "5.0",
    "TSYNC_ESRCH": "5.7",
    "WAIT_KILLABLE_RECV": "5.19",
}

# Return actions of a filter, strongest first (the kernel compares the upper 16 bits as a
# signed number; the lowest wins).
SECCOMP_RET_KILL_PROCESS: Final = 0x80000000  # 4.14
SECCOMP_RET_KILL_THREAD: Final = 0x00000000
SECCOMP_RET_TRAP: Final = 0x00030000
SECCOMP_RET_ERRNO: Final = 0x00050000
SECCOMP_RET_USER_NOTIF: Final = 0x7FC00000  # 5.0
SECCOMP_RET_TRACE: Final = 0x7FF00000
SECCOMP_RET_LOG: Final = 0x7FFC0000  # 4.14
SECCOMP_RET_ALLOW: Final = 0x7FFF0000

SECCOMP_RET_ACTION_FULL: Final = 0xFFFF0000
SECCOMP_RET_DATA: Final = 0x0000FFFF

#: Action name (as in /proc/sys/kernel/seccomp/actions_avail) to value, strongest first.
ACTIONS: Final[dict[str, int]] = {
    "kill_process": SECCOMP_RET_KILL_PROCESS,
    "kill_thread": SECCOMP_RET_KILL_THREAD,
    "trap": SECCOMP_RET_TRAP,
    "errno": SECCOMP_RET_ERRNO,
    "user_notif": SECCOMP_RET_USER_NOTIF,
    "trace": SECCOMP_RET_TRACE,
    "log": SECCOMP_RET_LOG,
    "allow": SECCOMP_RET_ALLOW,
}

# ioctls of the listener.
SECCOMP_IOCTL_NOTIF_RECV: Final = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND: Final = 0xC0182101
SECCOMP_IOCTL_NOTIF_ID_VALID: Final = 0x40082102  # 5.9 (47e33c05f9f0)
SECCOMP_IOCTL_NOTIF_ID_VALID_WRONG_DIR: Final = 0x80082102  # 5.0; still accepted
SECCOMP_IOCTL_NOTIF_ADDFD: Final = 0x40182103  # 5.9
SECCOMP_IOCTL_NOTIF_SET_FLAGS: Final = 0x40082104  # 6.6; the argument is the flag word itself

SECCOMP_USER_NOTIF_FLAG_CONTINUE: Final = 1 << 0  # 5.5
SECCOMP_ADDFD_FLAG_SETFD: Final = 1 << 0  # 5.9
SECCOMP_ADDFD_FLAG_SEND: Final = 1 << 1  # 5.14
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: Final = 1 << 0  # 6.6

#: struct seccomp_data: nr, arch, instruction_pointer, args[6].
SECCOMP_DATA: Final = struct.Struct("=iIQ6Q")
#: struct seccomp_notif: id, pid, flags, then struct seccomp_data.
SECCOMP_NOTIF: Final = struct.Struct("=QIIiIQ6Q")
#: struct seccomp_notif_resp: id, val, error, flags.
SECCOMP_NOTIF_RESP: Final = struct.Struct("=QqiI")
#: struct seccomp_notif_addfd: id, flags, srcfd, newfd, newfd_flags.
SECCOMP_NOTIF_ADDFD: Final = struct.Struct("=QIIII")
#: struct sock_filter: code, jt, jf, k.
SOCK_FILTER: Final = struct.Struct("=HBBI")

#: (seccomp_notif, seccomp_notif_resp, seccomp_data) as SECCOMP_GET_NOTIF_SIZES must say.
NOTIF_SIZES: Final = (80, 24, 64)

#: The longest program seccomp(2) accepts, in instructions (BPF_MAXINSNS).
MAX_INSTRUCTIONS: Final = 4096
#: The largest errno the kernel's and libc's convention can carry (MAX_ERRNO).
MAX_ERRNO: Final = 4095

# AUDIT_ARCH_* values (include/uapi/linux/audit.h); the others are in syscalls/architectures.py.
AUDIT_ARCH_X86_64: Final = 0xC000003E
AUDIT_ARCH_I386: Final = 0x40000003
#: Bit set in the number of every x32 call (they carry AUDIT_ARCH_X86_64).
X32_SYSCALL_BIT: Final = 0x40000000

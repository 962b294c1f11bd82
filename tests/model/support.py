"""Programs in cBPF, a monitor, and words on command lines, for tests of the model."""

from __future__ import annotations

import argparse
import struct

from proctor.kernel import abi
from proctor.model.kernel.features import of_release
from proctor.model.kernel.linux import NR
from proctor.model.kernel.machine import Kernel
from proctor.model.kernel.program import Program

MAGIC = 116983961184613
LD_NR = (0x20, 0, 0, 0)


def assemble(*instructions: tuple[int, int, int, int]) -> bytes:
    """(code, jt, jf, k) rows as packed ``sock_filter``."""
    return b"".join(abi.SOCK_FILTER.pack(*row) for row in instructions)


def ret(action: int) -> tuple[int, int, int, int]:
    """RET K."""
    return (0x06, 0, 0, action)


def always(action: int) -> bytes:
    """A program that returns ``action``."""
    return assemble(ret(action))


def on(call: str | int, action: int, otherwise: int = abi.SECCOMP_RET_ALLOW) -> bytes:
    """``action`` for one number, ``otherwise`` for all others."""
    nr = NR[call] if isinstance(call, str) else call
    return assemble(LD_NR, (0x15, 0, 1, nr & 0xFFFFFFFF), ret(action), ret(otherwise))


def on_any(calls: list[str | int], action: int) -> bytes:
    """``action`` for each of several numbers, ALLOW for others."""
    rows = [LD_NR]
    for call in calls:
        nr = NR[call] if isinstance(call, str) else call
        rows += [(0x15, 0, 1, nr & 0xFFFFFFFF), ret(action)]
    return assemble(*rows, ret(abi.SECCOMP_RET_ALLOW))


def trap(call: str | int) -> bytes:
    """Notify for one number (``user_notif_syscall``)."""
    return on(call, abi.SECCOMP_RET_USER_NOTIF)


ALLOW = always(abi.SECCOMP_RET_ALLOW)


def start(profile: str = "6.18", **options: object) -> Program:
    """A program on a new machine."""
    return Program(Kernel(profile, **options))  # type: ignore[arg-type]


def unprivileged(program: Program) -> Program:
    """Take CAP_SYS_ADMIN away."""
    program.task.cap_sys_admin = False
    program.task.uid = 65534
    return program


def exited(status: int) -> int:
    """What wait4(2) says of exit(status)."""
    return status << 8


def resp(id: int, val: int = 0, error: int = 0, flags: int = 0) -> bytearray:
    """A ``seccomp_notif_resp``."""
    return bytearray(abi.SECCOMP_NOTIF_RESP.pack(id, val, error, flags))


def addfd(
    id: int, flags: int, srcfd: int, newfd: int, newfd_flags: int, size: int = 24
) -> bytearray:
    """A ``seccomp_notif_addfd`` of ``size`` bytes, zero at the end."""
    return bytearray(struct.pack("=QIIII", id, flags, srcfd, newfd, newfd_flags)) + bytearray(
        size - 24
    )


def addfd_number(size: int) -> int:
    """ADDFD's ioctl number for a struct of ``size`` bytes."""
    return 0x40002103 | size << 16


def some(text: str) -> int:
    """An option's number of steps: one at least, since no steps never differ."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def release(text: str) -> str:
    """An option's release of the kernel, as in "5.10"."""
    try:
        of_release(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no release such as 5.10") from None
    return text

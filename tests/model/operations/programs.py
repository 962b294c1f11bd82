"""Programs in cBPF to install: filters that notify, that do everything, that are refused."""

from __future__ import annotations

from proctor.kernel import abi
from proctor.model.kernel.linux import NR
from tests.model.operations.choices import INVENTED, Choices

ACTIONS = tuple(abi.ACTIONS.values())


def row(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    return abi.SOCK_FILTER.pack(code, jt, jf, k & 0xFFFFFFFF)


def ret(action: int) -> bytes:
    return row(0x06, action)


def notifier(choices: Choices) -> bytes:
    """A filter that mostly notifies, and never what an actor needs to take commands."""
    program = row(0x20, 0)
    for nr in (NR["getppid"], NR["dup"], NR["nanosleep"], NR["restart_syscall"], 5000, 5001, 5002):
        if choices.chance(60):
            program += row(0x15, nr, 0, 1) + ret(abi.SECCOMP_RET_USER_NOTIF | choices.number(3))
    if choices.chance(15):
        program += row(0x15, NR["execve"], 0, 1) + ret(abi.SECCOMP_RET_USER_NOTIF)
    return program + ret(abi.SECCOMP_RET_ALLOW)


def mixed(choices: Choices) -> bytes:
    """Every action for some invented number, sometimes depending on an argument."""
    program = row(0x20, 0)
    for nr in INVENTED:
        if choices.chance(25):
            action = choices.one(ACTIONS)
            if action in (abi.SECCOMP_RET_KILL_PROCESS, abi.SECCOMP_RET_KILL_THREAD):
                action = action if choices.chance(30) else abi.SECCOMP_RET_ERRNO
            data = choices.one((0, 7, 4095, 4096, 65535))
            if choices.chance(30):
                program += row(0x15, nr, 0, 4) + row(0x20, 16 + 8 * choices.number(5))
                program += row(0x45, 1, 0, 1) + ret(action | data) + ret(abi.SECCOMP_RET_ALLOW)
            else:
                program += row(0x15, nr, 0, 1) + ret(action | data)
    return program + ret(abi.SECCOMP_RET_ALLOW)


def broken(choices: Choices) -> bytes:
    """Something the kernel refuses, or takes without liking it."""
    allow = ret(abi.SECCOMP_RET_ALLOW)
    return choices.one(
        (
            b"",
            allow * 4097,
            row(0x20, 64) + allow,
            row(0x20, 2) + allow,
            row(0x28, 0) + allow,
            row(0x94, 3) + allow,
            row(0x34, 0) + allow,
            row(0x64, 32) + allow,
            row(0x20, 0),
            row(0x15, 1, 1, 0) + allow,
            row(0x60, 0) + allow,
            row(0x02, 15) + row(0x60, 15) + allow,
            allow * 4096,
        )
    )

"""Filters for tests, assembled by hand: nothing here depends on proctor's own compiler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proctor.kernel import abi

from .constants import NR

LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
W, H, B = 0x00, 0x08, 0x10
IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR = range(0x00, 0xB0, 0x10)
JA, JEQ, JGT, JGE, JSET = 0x00, 0x10, 0x20, 0x30, 0x40
K, X, A = 0x00, 0x08, 0x10
TAX, TXA = 0x00, 0x80

#: Offsets in struct seccomp_data.
AT_NR, AT_ARCH, AT_IP, AT_ARGS = 0, 4, 8, 16

ALLOW = abi.SECCOMP_RET_ALLOW
LOG = abi.SECCOMP_RET_LOG
TRACE = abi.SECCOMP_RET_TRACE
NOTIFY = abi.SECCOMP_RET_USER_NOTIF
ERRNO = abi.SECCOMP_RET_ERRNO
TRAP = abi.SECCOMP_RET_TRAP
KILL_THREAD = abi.SECCOMP_RET_KILL_THREAD
KILL_PROCESS = abi.SECCOMP_RET_KILL_PROCESS


def insn(code: int, k: int = 0, jt: int = 0, jf: int = 0) -> bytes:
    """One instruction, as it lies in memory."""
    return abi.SOCK_FILTER.pack(code, jt, jf, k & 0xFFFFFFFF)


def load(offset: int) -> bytes:
    """A = the word at ``offset`` of struct seccomp_data."""
    return insn(LD | W | ABS, offset)


def ret(action: int) -> bytes:
    """Return ``action``."""
    return insn(RET | K, action)


def number(name: str | int) -> int:
    """The system call number of a name; a number stays as it is."""
    return NR[name] if isinstance(name, str) else name


def table(actions: Mapping[str | int, int], default: int = ALLOW) -> bytes:
    """A program that gives each call (by name or number) its action, and all others ``default``.

    The architecture is not looked at: victims call by the native entry unless told otherwise."""
    program = load(AT_NR)
    for call, action in actions.items():
        program += insn(JMP | JEQ | K, number(call), 0, 1) + ret(action)
    return program + ret(default)


def notify(*calls: str | int) -> bytes:
    """A program that notifies these calls and allows the rest."""
    return table(dict.fromkeys(calls, NOTIFY))


def everything_but(calls: Iterable[str | int], action: int = NOTIFY) -> bytes:
    """A program that gives every call ``action`` except these, which are allowed."""
    return table(dict.fromkeys(calls, ALLOW), default=action)

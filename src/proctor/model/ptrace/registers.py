"""A stopped thread's registers, as far as the model has any, in the layouts a tracer knows.

The model has the call's number, its six arguments, the instruction pointer and the result register;
all other registers read as 0, and what is written to them is lost.

Sources: ``arch/x86/include/asm/user_64.h`` (``user_regs_struct``), ``arch/x86/include/asm/syscall.h``
(``syscall_get_nr``, ``syscall_get_error``), ``include/uapi/linux/ptrace.h``
(``ptrace_syscall_info``), Linux 6.12 and 6.16.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from proctor.kernel.abi import AUDIT_ARCH_X86_64, MAX_ERRNO
from proctor.model.kernel.linux import EINVAL, ERANGE, SIGTRAP
from proctor.model.ptrace.numbers import (
    PTRACE_EVENT_SECCOMP,
    PTRACE_EVENTMSG_SYSCALL_ENTRY,
    PTRACE_EVENTMSG_SYSCALL_EXIT,
    PTRACE_SYSCALL_INFO_ENTRY,
    PTRACE_SYSCALL_INFO_EXIT,
    PTRACE_SYSCALL_INFO_NONE,
    PTRACE_SYSCALL_INFO_SECCOMP,
)

if TYPE_CHECKING:
    from proctor.model.kernel.tasks import Task
    from proctor.model.ptrace.tracing import Stop

_MASK64: Final = (1 << 64) - 1
#: Words of ``user_regs_struct``: r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip at 7..., 27 in all.
WORDS: Final = 27
SIZE: Final = WORDS * 8
#: Bytes of ``struct user``, which PEEKUSER and POKEUSER know offsets in.
USER_SIZE: Final = 928
RAX: Final = 10
ORIG_RAX: Final = 15
RIP: Final = 16
#: Arguments in order: rdi, rsi, rdx, r10, r8, r9.
_ARGUMENTS: Final = (14, 13, 12, 7, 9, 8)
#: ``struct ptrace_syscall_info``: op, reserved, flags, arch, ip, sp; then by op.
INFO_HEAD: Final = struct.Struct("=BBHIQQ")
INFO_SIZE: Final = 88
_INFO_CALL: Final = struct.Struct("=7Q")
_INFO_EXIT: Final = struct.Struct("=qB")


def signed(value: int, bits: int = 64) -> int:
    """A register's low ``bits`` as a signed number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def result(task: Task) -> int:
    """The result register."""
    if task.stop is not None and task.stop.way is not None:
        return task.stop.way.value
    return 0 if task.frame is None else task.frame.ax


def read(task: Task, word: int) -> int:
    """One word of ``user_regs_struct``; outside of a call the number reads as -1.

    Source: ``arch/x86/kernel/ptrace.c`` 6.12 ``getreg``.
    """
    frame = task.frame
    if word == ORIG_RAX:
        return (-1 if frame is None else frame.nr) & _MASK64
    if word == RAX:
        return result(task) & _MASK64
    if frame is not None and word == RIP:
        return frame.ip
    if frame is not None and word in _ARGUMENTS:
        return frame.args[_ARGUMENTS.index(word)]
    return 0


def write(task: Task, word: int, value: int) -> None:
    """Write one word; the number is what the call goes on with, if it has not been made yet.

    Source: ``arch/x86/kernel/ptrace.c`` 6.12 ``putreg``; ``arch/x86/include/asm/syscall.h`` 6.12
    ``syscall_get_nr`` (a signed 32-bit number).
    """
    frame = task.frame
    if word == RAX:
        set_result(task, signed(value))
    elif frame is None:
        return
    elif word == ORIG_RAX:
        set_number(task, signed(value, 32))
    elif word in _ARGUMENTS:
        args = list(frame.args)
        args[_ARGUMENTS.index(word)] = value & _MASK64
        frame.args = (args[0], args[1], args[2], args[3], args[4], args[5])


def set_result(task: Task, value: int) -> None:
    """Write the result register (``syscall_set_return_value``).

    Source: ``arch/x86/include/asm/syscall.h`` 6.12.
    """
    if task.stop is not None and task.stop.way is not None:
        task.stop.way.value = value
    if task.frame is not None:
        task.frame.ax = value


def set_number(task: Task, nr: int) -> None:
    """Write the call's number (``syscall_set_nr``): from now on it is another call.

    Source: ``arch/x86/include/asm/syscall.h`` 6.16.
    """
    if task.frame is not None and task.frame.nr != nr:
        task.frame.nr = nr
        task.frame.perform = None


def operation(at: Stop) -> int:
    """What kind of stop it is for PTRACE_GET_SYSCALL_INFO.

    Source: ``kernel/ptrace.c`` 6.16 ``ptrace_get_syscall_info_op``.
    """
    if at.info == SIGTRAP | 0x80:
        return {
            PTRACE_EVENTMSG_SYSCALL_ENTRY: PTRACE_SYSCALL_INFO_ENTRY,
            PTRACE_EVENTMSG_SYSCALL_EXIT: PTRACE_SYSCALL_INFO_EXIT,
        }.get(at.message, PTRACE_SYSCALL_INFO_NONE)
    if at.info == SIGTRAP | PTRACE_EVENT_SECCOMP << 8:
        return PTRACE_SYSCALL_INFO_SECCOMP
    return PTRACE_SYSCALL_INFO_NONE


def get_info(task: Task, at: Stop) -> bytes:
    """``struct ptrace_syscall_info``, as long as it is for this kind of stop.

    Source: ``kernel/ptrace.c`` 6.12 ``ptrace_get_syscall_info``.
    """
    frame, kind = task.frame, operation(at)
    arch, ip = (AUDIT_ARCH_X86_64, 0) if frame is None else (frame.arch, frame.ip)
    head = INFO_HEAD.pack(kind, 0, 0, arch, ip, 0)
    if frame is None or kind == PTRACE_SYSCALL_INFO_NONE:
        return head
    if kind == PTRACE_SYSCALL_INFO_EXIT:
        is_error = -MAX_ERRNO <= frame.ax < 0
        return head + _INFO_EXIT.pack(frame.ax, is_error)
    call = head + _INFO_CALL.pack(frame.nr & _MASK64, *frame.args)
    return call if kind == PTRACE_SYSCALL_INFO_ENTRY else call + at.message.to_bytes(4, "little")


def set_info(task: Task, at: Stop, raw: bytes) -> int:
    """PTRACE_SET_SYSCALL_INFO: 0 or a negative errno; the kind of stop cannot be changed.

    Source: ``kernel/ptrace.c`` 6.16 ``ptrace_set_syscall_info``.
    """
    kind, reserved, flags, _, _, _ = INFO_HEAD.unpack_from(raw)
    if flags or reserved or kind != operation(at) or kind == PTRACE_SYSCALL_INFO_NONE:
        return -EINVAL
    if kind == PTRACE_SYSCALL_INFO_EXIT:
        value, is_error = _INFO_EXIT.unpack_from(raw, INFO_HEAD.size)
        # The error of syscall_set_return_value(error, val) is an int.
        set_result(task, signed(value, 32) if is_error else value)
        return 0
    wide, *args = _INFO_CALL.unpack_from(raw, INFO_HEAD.size)
    nr = signed(wide, 32)
    if nr & _MASK64 != wide:
        return -ERANGE
    set_number(task, nr)
    if nr != -1 and task.frame is not None:
        task.frame.args = (args[0], args[1], args[2], args[3], args[4], args[5])
    return 0

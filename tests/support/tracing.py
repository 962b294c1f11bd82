"""Just enough ptrace(2) to stop a victim and look at its registers."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from .processes import LIBC, eventually

PTRACE_ATTACH, PTRACE_DETACH, PTRACE_GETREGSET = 16, 17, 0x4204
NT_PRSTATUS = 1
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
_WALL = 0x40000000
#: Of what a call returned in struct user_regs_struct: rax, x0, a0.
_RESULT_AT = {"x86_64": 80, "aarch64": 0, "riscv64": 80}


def _ptrace(request: int, tid: int, data: object = 0, address: int = 0) -> None:
    LIBC.ptrace.restype = ctypes.c_long
    if LIBC.ptrace(ctypes.c_long(request), ctypes.c_long(tid), ctypes.c_long(address), data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"ptrace {request:#x}")


def attach(tid: int) -> None:
    """PTRACE_ATTACH: asks for a stop by SIGSTOP; does not wait for it."""
    _ptrace(PTRACE_ATTACH, tid)


def seize_and_interrupt(tid: int) -> None:
    """PTRACE_SEIZE and PTRACE_INTERRUPT: asks for a stop; does not wait for it."""
    _ptrace(PTRACE_SEIZE, tid)
    _ptrace(PTRACE_INTERRUPT, tid)


def stopped(tid: int) -> bool:
    """Whether the stop has been reached (and is now consumed)."""
    pid, status = os.waitpid(tid, os.WNOHANG | _WALL)
    return pid == tid and os.WIFSTOPPED(status)


def wait_stopped(tid: int) -> int:
    """Wait for the stop; the signed value in the result register."""
    eventually(f"thread {tid} stops for its tracer", lambda: stopped(tid))
    registers = ctypes.create_string_buffer(512)
    vector = ctypes.create_string_buffer(struct.pack("@PN", ctypes.addressof(registers), 512))
    _ptrace(PTRACE_GETREGSET, tid, vector, NT_PRSTATUS)
    value: int = struct.unpack_from("=q", registers, _RESULT_AT[platform.machine()])[0]
    return value


def detach(tid: int) -> None:
    """PTRACE_DETACH; the thread goes on, without the SIGSTOP of :func:`attach`."""
    _ptrace(PTRACE_DETACH, tid, ctypes.c_long(0))

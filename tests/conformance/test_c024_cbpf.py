"""C024-C035: what a filter may be, and what its verdicts do."""

from __future__ import annotations

import errno
import os
import platform
import select
import signal

import pytest

from proctor.kernel import abi
from tests.support import bpf
from tests.support.bpf import insn, load, ret
from tests.support.constants import I386_GETPPID, NR
from tests.support.harness import Result
from tests.support.kernel import CONTINUE, Kernel
from tests.support.lab import Lab
from tests.support.processes import eventually
from tests.support.waiting import events

ALLOW = ret(bpf.ALLOW)

#: Programs that the kernel must refuse, by what is wrong with them.
REFUSED = {
    "load at 2": load(2) + ALLOW,
    "load at 64": load(64) + ALLOW,
    "load a half word": insn(bpf.LD | bpf.H | bpf.ABS, 0) + ALLOW,
    "load a byte": insn(bpf.LD | bpf.B | bpf.ABS, 0) + ALLOW,
    "indirect load": insn(bpf.LD | bpf.W | bpf.IND, 0) + ALLOW,
    "load MSH": insn(bpf.LDX | bpf.B | bpf.MSH, 0) + ALLOW,
    "modulo a constant": insn(bpf.ALU | bpf.MOD | bpf.K, 3) + ALLOW,
    "modulo X": insn(bpf.ALU | bpf.MOD | bpf.X) + ALLOW,
    "divide by constant 0": insn(bpf.ALU | bpf.DIV | bpf.K, 0) + ALLOW,
    "shift left by 32": insn(bpf.ALU | bpf.LSH | bpf.K, 32) + ALLOW,
    "return X": insn(bpf.RET | bpf.X),
    "no return at the end": load(0),
    "jump always out": insn(bpf.JMP | bpf.JA, 1) + ALLOW,
    "jump if equal out": insn(bpf.JMP | bpf.JEQ | bpf.K, 0, 1, 0) + ALLOW,
    "load scratch never stored": insn(bpf.LD | bpf.W | bpf.MEM, 0) + ALLOW,
    "store beyond scratch": insn(bpf.ST, 16) + ALLOW,
    "ancillary load": load(0xFFFFF000) + ALLOW,
    "code 0xffff": insn(0xFFFF) + ALLOW,
    "jump if less (eBPF only)": insn(bpf.JMP | 0xA0 | bpf.K, 0, 0, 0) + ALLOW,
}

#: Programs that the kernel must accept; each ends in ALLOW.
ACCEPTED = {
    "load at 60": load(60) + ALLOW,
    "load at 4": load(4) + ALLOW,
    "load the length": insn(bpf.LD | bpf.W | bpf.LEN) + ALLOW,
    "load the length into X": insn(bpf.LDX | bpf.W | bpf.LEN) + ALLOW,
    "negate": insn(bpf.ALU | bpf.NEG) + ALLOW,
    "shift right by 31": insn(bpf.ALU | bpf.RSH | bpf.K, 31) + ALLOW,
    "exclusive or": insn(bpf.ALU | bpf.XOR | bpf.K, 5) + ALLOW,
    "multiply by X": insn(bpf.ALU | bpf.MUL | bpf.X) + ALLOW,
    "scratch stored, then loaded": insn(bpf.ST, 3) + insn(bpf.LD | bpf.MEM, 3) + ALLOW,
    "A to X": insn(bpf.MISC | bpf.TAX) + ALLOW,
    "X to A": insn(bpf.MISC | bpf.TXA) + ALLOW,
    "immediates": insn(bpf.LD | bpf.IMM, 1) + insn(bpf.LDX | bpf.IMM, 2) + ALLOW,
    "jump on bits of X": insn(bpf.JMP | bpf.JSET | bpf.X, 0, 0, 0) + ALLOW,
    "return A": insn(bpf.LD | bpf.IMM, bpf.ALLOW) + insn(bpf.RET | bpf.A),
}


def killed(lab: Lab, program: bytes) -> int:
    """The signal that ends a single-threaded victim calling getppid under this program."""
    victim = lab.victim()
    assert victim.install(program) == (0, 0)
    victim.begin("getppid")
    return victim.exit_signal()


def for_getppid(action: int) -> bytes:
    return bpf.table({"getppid": action})


@pytest.mark.parametrize("program", REFUSED.values(), ids=REFUSED.keys())
def test_c024_refused_programs(lab: Lab, program: bytes) -> None:
    victim = lab.victim()
    assert victim.install(program) == (-1, errno.EINVAL)
    assert victim.call("getppid") == (os.getpid(), 0)


def test_c025_accepted_programs(lab: Lab) -> None:
    victim = lab.victim()
    for name, program in ACCEPTED.items():
        assert victim.install(program) == (0, 0), name
    # All of them ran for this call and allowed it.
    assert victim.call("getppid") == (os.getpid(), 0)


def test_c026_division_by_a_zero_x_kills_the_thread(lab: Lab) -> None:
    division = (
        load(bpf.AT_NR)
        + insn(bpf.JMP | bpf.JEQ | bpf.K, NR["getppid"], 0, 2)
        + insn(bpf.LDX | bpf.IMM, 0)
        + insn(bpf.ALU | bpf.DIV | bpf.X)
        + ALLOW
    )
    assert killed(lab, division) == signal.SIGSYS
    victim = lab.victim()
    thread = victim.thread()
    assert thread.install(division) == (0, 0)
    thread.begin("getppid")
    thread.wait_gone()
    assert victim.call("getppid") == (os.getpid(), 0)


@pytest.mark.parametrize("action", [0x10000000, 0x90000000, 0x7FC10000, 0x7FFE0000], ids=hex)
def test_c027_unknown_actions_kill_the_process(lab: Lab, action: int) -> None:
    victim = lab.victim()
    thread = victim.thread()
    assert thread.install(for_getppid(action)) == (0, 0)
    thread.begin("getppid")
    assert victim.exit_signal() == signal.SIGSYS


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (0, Result(0, 0)),
        (7, Result(-1, errno.E2BIG)),
        (4095, Result(-1, 4095)),
        (4096, Result(-1, 4095)),
        (65535, Result(-1, 4095)),
    ],
)
def test_c028_errno_and_its_cap(lab: Lab, data: int, result: Result) -> None:
    victim = lab.victim()
    assert victim.install(for_getppid(bpf.ERRNO | data)) == (0, 0)
    assert victim.call("getppid") == result


def test_c029_of_equal_actions_the_newest_filter_wins(lab: Lab) -> None:
    victim = lab.victim()
    for number in (11, 13, 12):
        assert victim.install(for_getppid(bpf.ERRNO | number)) == (0, 0)
        assert victim.call("getppid") == (-1, number)


def test_c030_kill_thread_and_kill_process(lab: Lab) -> None:
    victim = lab.victim()
    thread = victim.thread()
    assert thread.install(for_getppid(bpf.KILL_THREAD)) == (0, 0)
    thread.begin("getppid")
    thread.wait_gone()
    assert victim.call("getppid") == (os.getpid(), 0)
    thread = victim.thread()
    assert thread.install(for_getppid(bpf.KILL_PROCESS)) == (0, 0)
    thread.begin("getppid")
    assert victim.exit_signal() == signal.SIGSYS


def test_c031_trap_cannot_be_ignored_and_trace_without_tracer(lab: Lab) -> None:
    victim = lab.victim()
    victim.on_signal(signal.SIGSYS, "ignore")
    assert victim.install(for_getppid(bpf.TRAP)) == (0, 0)
    victim.begin("getppid")
    assert victim.exit_signal() == signal.SIGSYS
    victim = lab.victim()
    assert victim.install(for_getppid(bpf.TRACE)) == (0, 0)
    assert victim.call("getppid") == (-1, errno.ENOSYS)


@pytest.mark.parametrize("other_first", [False, True], ids=["listener-first", "listener-last"])
@pytest.mark.parametrize("other", [bpf.TRACE, bpf.LOG, bpf.ALLOW], ids=["trace", "log", "allow"])
def test_c032_who_beats_user_notif(lab: Lab, kernel: Kernel, other: int, other_first: bool) -> None:
    victim = lab.victim()
    if other_first:
        assert victim.install(for_getppid(other)) == (0, 0)
    listener = lab.own(victim.listen(bpf.notify("getppid", "dup")))
    if not other_first:
        assert victim.install(for_getppid(other)) == (0, 0)
    pending = victim.begin("getppid")
    kernel.send(listener, kernel.recv(listener).id, 9)
    assert pending.result() == (9, 0)
    # ERRNO is stronger: nothing is notified at all.
    assert victim.install(bpf.table({"dup": bpf.ERRNO | 5})) == (0, 0)
    assert victim.call("dup", 0) == (-1, 5)
    assert events(listener) == 0


def test_c033_an_inner_user_notif_without_listener(lab: Lab) -> None:
    victim, listener = lab.listener(bpf.notify("getppid"))
    assert victim.install(bpf.notify("getppid")) == (0, 0)
    assert victim.call("getppid") == (-1, errno.ENOSYS)
    assert events(listener) == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="no other entry here")
def test_c034_other_entries_have_their_own_numbers(lab: Lab, kernel: Kernel) -> None:
    x32_getppid = NR["getppid"] | abi.X32_SYSCALL_BIT
    program = (
        load(bpf.AT_ARCH)
        + insn(bpf.JMP | bpf.JEQ | bpf.K, abi.AUDIT_ARCH_I386, 0, 2)
        + load(bpf.AT_NR)
        + insn(bpf.JMP | bpf.JEQ | bpf.K, I386_GETPPID, 2, 3)
        + load(bpf.AT_NR)
        + insn(bpf.JMP | bpf.JEQ | bpf.K, x32_getppid, 0, 1)
        + ret(bpf.NOTIFY)
        + ret(bpf.ALLOW)
    )
    victim, listener = lab.listener(program)
    assert victim.call("getppid") == (os.getpid(), 0)

    pending = victim.begin(x32_getppid)
    notification = kernel.recv(listener)
    assert (notification.nr, notification.arch) == (x32_getppid, abi.AUDIT_ARCH_X86_64)
    kernel.send(listener, notification.id, 32)
    assert pending.result() == (32, 0)

    pending = victim.command("call-i386", I386_GETPPID, 0xFFFFFFFF12345678).started()
    if not eventually("a notification or death", lambda: events(listener)) & select.POLLIN:
        pytest.skip("this kernel has no i386 entry (IA32_EMULATION): the call was fatal")
    notification = kernel.recv(listener)
    assert (notification.nr, notification.arch) == (I386_GETPPID, abi.AUDIT_ARCH_I386)
    # The kernel's own i386 calls look at 32 bits; filters and notifications are shown all 64 of
    # the register (arch/x86/include/asm/syscall.h, syscall_get_arguments).
    assert notification.args[0] == 0xFFFFFFFF12345678
    kernel.send(listener, notification.id, 86)
    assert pending.result() == (86, 0)


@pytest.mark.parametrize("nr", [1000, 5000, -1, abi.X32_SYSCALL_BIT | 5000])
def test_c035_invented_system_calls(lab: Lab, kernel: Kernel, nr: int) -> None:
    victim, listener = lab.listener(bpf.notify(nr))
    pending = victim.begin(nr, 1, 2, 3)
    notification = kernel.recv(listener)
    assert notification.nr == nr
    assert notification.args[:3] == (1, 2, 3)
    kernel.send(listener, notification.id, 4711)
    assert pending.result() == (4711, 0)
    pending = victim.begin(nr)
    kernel.send(listener, kernel.recv(listener).id, flags=CONTINUE)
    assert pending.result() == (-1, errno.ENOSYS)

"""The kernel's own seccomp tests, on the model: those with a tracer, with kcmp, with metadata.

Names are those of ``tools/testing/selftests/seccomp/seccomp_bpf.c``; a fixture's variants are ids.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proctor.kernel import abi
from proctor.model.kernel.kcmp import KCMP_FILE
from proctor.model.kernel.linux import (
    BLOCKED,
    E2BIG,
    EACCES,
    EBADF,
    EINVAL,
    ENOENT,
    ENOSYS,
    EPERM,
    ESRCH,
    NR,
    SIGCONT,
    SIGKILL,
    SIGSTOP,
    SIGSYS,
    SIGTRAP,
)
from proctor.model.kernel.program import Program
from proctor.model.ptrace import numbers as pt
from proctor.model.ptrace import registers
from tests.model.support import ALLOW, LD_NR, assemble, exited, on, ret, start

TRACE = abi.SECCOMP_RET_TRACE
POKED = 0x10000
SECCOMP_STOP = (pt.PTRACE_EVENT_SECCOMP << 8 | SIGTRAP) << 8 | 0x7F

Act = Callable[[Program, Program, int], None]


def word(tracer: Program, tracee: Program, index: int) -> int:
    """One register of a stopped tracee, signed."""
    data = bytearray(8)
    assert tracer.ptrace(pt.PTRACE_PEEKUSER, tracee, index * 8, data) == 0
    return registers.signed(int.from_bytes(data, "little"))


def number(tracer: Program, tracee: Program) -> int:
    """``get_syscall``."""
    return word(tracer, tracee, registers.ORIG_RAX)


def change(tracer: Program, tracee: Program, nr: int | None, value: int | None = None) -> None:
    """``__change_syscall``."""
    regs = bytearray(registers.SIZE)
    assert tracer.ptrace(pt.PTRACE_GETREGS, tracee, 0, regs) == 0
    for index, new in ((registers.ORIG_RAX, nr), (registers.RAX, value)):
        if new is not None:
            regs[index * 8 : index * 8 + 8] = (new & (1 << 64) - 1).to_bytes(8, "little")
    assert tracer.ptrace(pt.PTRACE_SETREGS, tracee, 0, regs) == 0


def message(tracer: Program, tracee: Program) -> int:
    """PTRACE_GETEVENTMSG."""
    data = bytearray(8)
    assert tracer.ptrace(pt.PTRACE_GETEVENTMSG, tracee, 0, data) == 0
    return int.from_bytes(data, "little")


class Traced:
    """``setup_trace_fixture``: a tracee, and its child as its tracer, who acts on every stop."""

    def __init__(self, act: Act, use_ptrace: bool, profile: str = "6.18") -> None:
        self.tracee = start(profile)
        self.tracer = self.tracee.fork()
        self.act = act
        self.go_on = pt.PTRACE_SYSCALL if use_ptrace else pt.PTRACE_CONT
        tracer, tracee = self.tracer, self.tracee
        assert tracer.ptrace(pt.PTRACE_ATTACH, tracee) == 0
        assert tracer.wait() == tracee.pid
        assert tracer.wait_status == SIGSTOP << 8 | 0x7F
        options = pt.PTRACE_O_TRACESYSGOOD if use_ptrace else pt.PTRACE_O_TRACESECCOMP
        assert tracer.ptrace(pt.PTRACE_SETOPTIONS, tracee, 0, options) == 0
        assert tracer.ptrace(self.go_on, tracee) == 0

    def call(self, name: str | int, *args: int) -> int | None:
        """The tracee makes a call, the tracer does what it does; None if the tracee died."""
        self.tracee.call(name, *args)
        return self.run()

    def run(self) -> int | None:
        """The tracer's loop."""
        while self.tracee.state == "t":
            assert self.tracer.wait() == self.tracee.pid
            self.act(self.tracer, self.tracee, self.tracer.wait_status)
            assert self.tracer.ptrace(self.go_on, self.tracee) == 0
        return self.tracee.result

    def install(self, program: bytes) -> None:
        """prctl(PR_SET_SECCOMP), past the tracer's stops."""
        self.tracee.install(program)
        assert self.run() == 0


# TRACE_poke -----------------------------------------------------------------------------------
def tracer_poke(tracer: Program, tracee: Program, status: int) -> None:
    """Write the filter's data into the tracee's memory."""
    assert message(tracer, tracee) == 0x1001
    assert tracer.ptrace(pt.PTRACE_POKEDATA, tracee, POKED, 0x1001) == 0


def _poke() -> Traced:
    traced = Traced(tracer_poke, False)
    traced.tracee.task.process.memory.map(POKED, bytes(8))
    assert traced.tracee.no_new_privs() == 0
    traced.install(on("read", TRACE | 0x1001))
    return traced


def _poked(traced: Traced) -> int:
    return int.from_bytes(traced.tracee.task.process.memory.read(POKED, 8) or b"?", "little")


def test_TRACE_poke_read_has_side_effects():
    traced = _poke()
    assert _poked(traced) == 0
    traced.tracee.call("read", -1, perform=lambda: -EBADF)
    assert traced.run() == -EBADF
    assert _poked(traced) == 0x1001


def test_TRACE_poke_getpid_runs_normally():
    traced = _poke()
    assert traced.call("getpid") == traced.tracee.pid
    assert _poked(traced) == 0


# TRACE_syscall --------------------------------------------------------------------------------
#: What the tracer makes of calls: (another number, the value it gives).
REWRITES = {
    NR["getpid"]: (NR["getppid"], None),
    NR["gettid"]: (-1, 45000),
    NR["openat"]: (-1, -ESRCH),
}


def tracer_seccomp(tracer: Program, tracee: Program, status: int) -> None:
    """Rewrite the call by what the filter says."""
    assert status == SECCOMP_STOP
    called = {0x1002: "getpid", 0x1003: "gettid", 0x1004: "openat", 0x1005: "getppid"}
    nr = NR[called[message(tracer, tracee)]]
    assert number(tracer, tracee) == nr
    if nr in REWRITES:
        change(tracer, tracee, *REWRITES[nr])


def tracer_ptrace() -> Act:
    """Rewrite the call by its number, at its entry; the traditional way to tell is to count."""
    entry = True

    def act(tracer: Program, tracee: Program, status: int) -> None:
        nonlocal entry
        assert status == (SIGTRAP | 0x80) << 8 | 0x7F
        told = pt.PTRACE_EVENTMSG_SYSCALL_ENTRY if entry else pt.PTRACE_EVENTMSG_SYSCALL_EXIT
        assert message(tracer, tracee) == told
        if entry:
            change(tracer, tracee, *REWRITES.get(number(tracer, tracee), (None, None)))
        entry = not entry

    return act


@pytest.fixture(params=["ptrace", "seccomp"])
def TRACE_syscall(request) -> Traced:
    """The fixture, with its variants."""
    use_ptrace = request.param == "ptrace"
    traced = Traced(tracer_ptrace() if use_ptrace else tracer_seccomp, use_ptrace)
    traced.tracee.no_new_privs()
    assert traced.run() == 0
    if not use_ptrace:
        rows = [LD_NR]
        for data, name in enumerate(("getpid", "gettid", "openat", "getppid"), 0x1002):
            rows += [(0x15, 0, 1, NR[name]), ret(TRACE | data)]
        traced.install(assemble(*rows, ret(abi.SECCOMP_RET_ALLOW)))
    return traced


@pytest.mark.parametrize("nr", [-1, -101])
def test_TRACE_syscall_negative_ENOSYS(TRACE_syscall: Traced, nr: int):
    assert TRACE_syscall.call(nr) == -ENOSYS


def test_TRACE_syscall_syscall_allowed(TRACE_syscall: Traced):
    assert TRACE_syscall.call("getppid") == TRACE_syscall.tracee.kernel.init.tid


def test_TRACE_syscall_syscall_redirected(TRACE_syscall: Traced):
    assert TRACE_syscall.call("getpid") == TRACE_syscall.tracee.kernel.init.tid


def test_TRACE_syscall_syscall_errno(TRACE_syscall: Traced):
    assert TRACE_syscall.call("openat") == -ESRCH


def test_TRACE_syscall_syscall_faked(TRACE_syscall: Traced):
    assert TRACE_syscall.call("gettid") == 45000


def test_TRACE_syscall_kill_immediate(TRACE_syscall: Traced):
    TRACE_syscall.install(on("mknodat", abi.SECCOMP_RET_KILL_THREAD))
    assert TRACE_syscall.call("mknodat", -1) is None
    assert TRACE_syscall.tracer.wait() == TRACE_syscall.tracee.task.process.leader.tid
    assert TRACE_syscall.tracer.wait_status == SIGSYS


def test_TRACE_syscall_skip_after(TRACE_syscall: Traced):
    TRACE_syscall.install(on("getppid", abi.SECCOMP_RET_ERRNO | EPERM))
    assert TRACE_syscall.call("getpid") == -EPERM


def test_TRACE_syscall_kill_after(TRACE_syscall: Traced):
    TRACE_syscall.install(on("getppid", abi.SECCOMP_RET_KILL_THREAD))
    assert TRACE_syscall.call("getpid") is None
    assert TRACE_syscall.tracee.task.process.code == SIGSYS


def test_negative_ENOSYS_is_what_a_skip_gives():
    """negative_ENOSYS: asking for -1 oneself is no different from being skipped by a tracer."""
    assert [start().call(nr) for nr in (-1, -101)] == [-ENOSYS, -ENOSYS]


# syscall_restart ------------------------------------------------------------------------------
def test_syscall_restart():
    """A sleep interrupted by a stop is asked about again, as restart_syscall; C086."""
    tracer = start()
    child = tracer.fork()
    assert child.ptrace(pt.PTRACE_TRACEME) == 0
    assert child.kill(child, SIGSTOP) == BLOCKED
    rows = [LD_NR, (0x15, 2, 0, NR["clock_nanosleep"]), (0x15, 2, 0, NR["restart_syscall"])]
    verdicts = [abi.SECCOMP_RET_ALLOW, TRACE | 0x100, TRACE | 0x200]

    assert tracer.wait(child) == child.pid
    assert tracer.wait_status == SIGSTOP << 8 | 0x7F
    assert tracer.ptrace(pt.PTRACE_SETOPTIONS, child, 0, pt.PTRACE_O_TRACESECCOMP) == 0
    assert tracer.ptrace(pt.PTRACE_CONT, child) == 0
    assert child.result == 0
    assert child.no_new_privs() == 0
    assert child.install(assemble(*rows, *map(ret, verdicts))) == 0

    assert child.sleep(1.0) == BLOCKED
    assert tracer.wait(child) == child.pid
    assert tracer.wait_status == SECCOMP_STOP
    assert message(tracer, child) == 0x100
    assert number(tracer, child) == NR["clock_nanosleep"]
    info = bytearray(16)
    assert tracer.ptrace(pt.PTRACE_GETSIGINFO, child, 0, info) == 0
    assert int.from_bytes(info[:4], "little") == SIGTRAP
    assert int.from_bytes(info[8:12], "little") == SIGTRAP | pt.PTRACE_EVENT_SECCOMP << 8

    assert tracer.kill(child, SIGSTOP) == 0
    assert tracer.ptrace(pt.PTRACE_CONT, child) == 0
    assert tracer.wait(child) == child.pid
    assert tracer.wait_status == SIGSTOP << 8 | 0x7F
    assert tracer.ptrace(pt.PTRACE_GETSIGINFO, child, 0, info) == 0
    assert int.from_bytes(info[:4], "little") == SIGSTOP

    assert tracer.kill(child, SIGCONT) == 0
    assert tracer.ptrace(pt.PTRACE_CONT, child) == 0
    assert tracer.wait(child) == child.pid
    assert tracer.wait_status == SIGCONT << 8 | 0x7F
    assert tracer.ptrace(pt.PTRACE_CONT, child) == 0

    assert tracer.wait(child) == child.pid
    assert tracer.wait_status == SECCOMP_STOP
    assert message(tracer, child) == 0x200
    assert number(tracer, child) == NR["restart_syscall"]
    assert tracer.ptrace(pt.PTRACE_CONT, child) == 0
    child.kernel.advance(2.0)
    assert child.result == 0
    child.exit(0)
    assert tracer.wait(child) > 0
    assert tracer.wait_status == exited(0)


# Metadata, suspending, kcmp -------------------------------------------------------------------
def _metadata(tracer: Program, tracee: Program, offset: int) -> tuple[int, int, int]:
    data = bytearray(offset.to_bytes(8, "little") + b"\xff" * 8)
    value = tracer.ptrace(pt.PTRACE_SECCOMP_GET_METADATA, tracee, len(data), data)
    return value, int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")


def _stopped_child(tracer: Program) -> Program:
    child = tracer.fork()
    assert child.install(ALLOW, abi.SECCOMP_FILTER_FLAG_LOG) == 0
    assert child.install(on("read", abi.SECCOMP_RET_ERRNO)) == 0
    assert tracer.ptrace(pt.PTRACE_ATTACH, child) == 0
    assert tracer.wait(child) == child.pid
    return child


def test_get_metadata():
    tracer = start()
    child = _stopped_child(tracer)
    assert _metadata(tracer, child, 0) == (16, 0, abi.SECCOMP_FILTER_FLAG_LOG)
    assert _metadata(tracer, child, 1) == (16, 1, 0)
    assert _metadata(tracer, child, 2)[0] == -ENOENT
    tracer.kill(child, SIGKILL)
    assert child.status == SIGKILL


def test_get_metadata_is_for_the_unconfined():
    """EACCES without CAP_SYS_ADMIN, and for whoever has a filter (``seccomp_get_metadata``)."""
    tracer = start()
    child = _stopped_child(tracer)
    assert tracer.ptrace(pt.PTRACE_SECCOMP_GET_METADATA, child, 7, bytearray(16)) == -EINVAL
    tracer.task.cap_sys_admin = False
    assert _metadata(tracer, child, 0)[0] == -EACCES
    tracer.task.cap_sys_admin = True
    tracer.install(ALLOW)
    assert _metadata(tracer, child, 0)[0] == -EACCES
    assert tracer.ptrace(pt.PTRACE_SECCOMP_GET_FILTER, child, 0, None) == -EACCES


def test_get_filter_gives_the_program():
    tracer = start()
    child = _stopped_child(tracer)
    assert tracer.ptrace(pt.PTRACE_SECCOMP_GET_FILTER, child, 1, None) == 4
    data = bytearray(32)
    assert tracer.ptrace(pt.PTRACE_SECCOMP_GET_FILTER, child, 1, data) == 4
    assert bytes(data) == on("read", abi.SECCOMP_RET_ERRNO)
    assert tracer.ptrace(pt.PTRACE_SECCOMP_GET_FILTER, child, 0, None) == 1
    assert tracer.ptrace(pt.PTRACE_SECCOMP_GET_FILTER, child, 2, None) == -ENOENT


@pytest.fixture
def O_SUSPEND_SECCOMP() -> tuple[Program, Program]:
    """The fixture: a filtered program without CAP_SYS_ADMIN, and its child in pause(2)."""
    program = start()
    program.task.cap_sys_admin = False
    program.no_new_privs()
    program.install(on("read", abi.SECCOMP_RET_ERRNO | E2BIG))
    child = program.fork()
    assert child.call("pause") == BLOCKED
    return program, child


def test_O_SUSPEND_SECCOMP_setoptions(O_SUSPEND_SECCOMP):
    program, child = O_SUSPEND_SECCOMP
    assert program.ptrace(pt.PTRACE_ATTACH, child) == 0
    assert program.wait() == child.pid
    suspend = pt.PTRACE_O_SUSPEND_SECCOMP
    assert program.ptrace(pt.PTRACE_SETOPTIONS, child, 0, suspend) == -EPERM


def test_O_SUSPEND_SECCOMP_seize(O_SUSPEND_SECCOMP):
    program, child = O_SUSPEND_SECCOMP
    assert program.ptrace(pt.PTRACE_SEIZE, child, 0, pt.PTRACE_O_SUSPEND_SECCOMP) == -EPERM
    assert child.task.tracing is None


def test_O_SUSPEND_SECCOMP_suspends():
    """With the right, and without a filter of the tracer's own, no filter is asked any more."""
    tracer = start()
    child = tracer.fork()
    child.install(on("getppid", abi.SECCOMP_RET_KILL_THREAD))
    assert tracer.ptrace(pt.PTRACE_SEIZE, child, 0, pt.PTRACE_O_SUSPEND_SECCOMP) == 0
    assert child.call("getppid") == tracer.pid
    assert tracer.ptrace(pt.PTRACE_INTERRUPT, child) == 0
    assert tracer.wait(child) == child.pid
    assert tracer.ptrace(pt.PTRACE_SETOPTIONS, child, 0, 0) == 0
    assert tracer.ptrace(pt.PTRACE_CONT, child) == 0
    child.call("getppid")
    assert child.status == SIGSYS


def test_kcmp():
    program = start()
    for _ in range(3):
        program.open()
    assert program.kcmp(program, program, KCMP_FILE, 1, 1) == 0
    assert program.kcmp(program, program, KCMP_FILE, 1, program.dup(1)) == 0
    one, other = (program.kcmp(program, program, KCMP_FILE, *pair) for pair in ((0, 1), (1, 0)))
    assert {one, other} == {1, 2}
    assert program.kcmp(program, program, KCMP_FILE, 0, 77) == -EBADF
    assert program.kcmp(program, program, 99, 0, 0) == -EINVAL

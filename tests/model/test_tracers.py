"""Tracers on the model: what the kernel's own tests do not play."""

from __future__ import annotations

import pytest

from proctor.kernel import abi
from proctor.model.kernel.linux import (
    ECHILD,
    EINVAL,
    EIO,
    ENOENT,
    ENOSYS,
    EPERM,
    ERESTARTSYS,
    ESRCH,
    NR,
    SIGCONT,
    SIGKILL,
    SIGSTOP,
    SIGSYS,
    SIGTRAP,
    SIGUSR1,
    SIGWINCH,
    WNOHANG,
    WUNTRACED,
)
from proctor.model.kernel.program import Program
from proctor.model.ptrace import numbers as pt
from proctor.model.ptrace import registers
from tests.model.support import on, start, trap
from tests.model.test_selftests_ptrace import SECCOMP_STOP, change, message, number, word

WAIT_KILLABLE = abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
EVENT_STOP = (pt.PTRACE_EVENT_STOP << 8 | SIGTRAP) << 8 | 0x7F


def stopped(number: int) -> int:
    """What wait4(2) says of a stop with a signal."""
    return number << 8 | 0x7F


def traced(profile: str = "6.18", seize: int | None = None) -> tuple[Program, Program]:
    """A tracer, and its child, stopped; with ``seize`` seized with these options."""
    tracer = start(profile)
    child = tracer.fork()
    if seize is None:
        assert tracer.ptrace(pt.PTRACE_ATTACH, child) == 0
    else:
        assert tracer.ptrace(pt.PTRACE_SEIZE, child, 0, seize) == 0
        assert tracer.ptrace(pt.PTRACE_INTERRUPT, child) == 0
    assert tracer.wait(child) == child.tid
    assert tracer.wait_status == (stopped(SIGSTOP) if seize is None else EVENT_STOP)
    return tracer, child


def notified(flags: int) -> tuple[Program, int, Program, int]:
    """A monitor with a listener, and a caller whose notification it received."""
    monitor = start()
    listener = monitor.listen(trap("getppid"), flags)
    caller = monitor.fork()
    caller.call("getppid")
    request = monitor.recv(listener)
    assert not isinstance(request, int)
    return monitor, listener, caller, request.id


# A tracer and a notification -------------------------------------------------------------------
@pytest.mark.parametrize("seize", [False, True])
def test_a_tracer_cancels_a_received_notification(seize: bool):
    """C113: without WAIT_KILLABLE the sleep ends, and the call is made again with a new id."""
    monitor, listener, caller, id = notified(0)
    tracer = Program(monitor.kernel)
    if seize:
        assert tracer.ptrace(pt.PTRACE_SEIZE, caller) == 0
        assert monitor.id_valid(listener, id) == 0
        assert tracer.ptrace(pt.PTRACE_INTERRUPT, caller) == 0
    else:
        assert tracer.ptrace(pt.PTRACE_ATTACH, caller) == 0
    assert tracer.wait(caller) == caller.tid
    assert caller.state == "t"
    assert word(tracer, caller, registers.RAX) == -ERESTARTSYS
    assert monitor.send(listener, id, 7) == -ENOENT
    assert tracer.ptrace(pt.PTRACE_CONT, caller) == 0
    again = monitor.recv(listener)
    assert not isinstance(again, int)
    assert again.id == id + 1
    assert monitor.send(listener, again.id, 7) == 0
    assert caller.result == 7


@pytest.mark.parametrize("seize", [False, True])
def test_wait_killable_sleeps_on_until_the_answer_then_stops_with_the_result(seize: bool):
    """C112: how a monitor can see what a continued call returned."""
    monitor, listener, caller, id = notified(WAIT_KILLABLE)
    tracer = Program(monitor.kernel)
    if seize:
        assert tracer.ptrace(pt.PTRACE_SEIZE, caller) == 0
        assert tracer.ptrace(pt.PTRACE_INTERRUPT, caller) == 0
    else:
        assert tracer.ptrace(pt.PTRACE_ATTACH, caller) == 0
    assert caller.state == "D"
    assert tracer.wait(caller, WNOHANG) == 0
    assert monitor.let_run(listener, id) == 0
    assert tracer.wait(caller) == caller.tid
    assert word(tracer, caller, registers.RAX) == monitor.pid
    assert tracer.ptrace(pt.PTRACE_DETACH, caller) == 0
    assert caller.result == monitor.pid


def test_a_notification_before_its_reception_is_cancelled_even_so():
    monitor = start()
    listener = monitor.listen(trap("getppid"), WAIT_KILLABLE)
    caller = monitor.fork()
    caller.call("getppid")
    tracer = Program(monitor.kernel)
    assert tracer.ptrace(pt.PTRACE_ATTACH, caller) == 0
    assert caller.state == "t"
    assert monitor.recv(listener) == -ENOENT


def test_continue_after_a_tracer_redirected_the_call():
    """The notification shows what the tracer made of the call, and CONTINUE runs that."""
    monitor = start()
    listener = monitor.listen(trap("getppid"))
    tracer, caller = Program(monitor.kernel), monitor.fork()
    tracer.ptrace(pt.PTRACE_SEIZE, caller, 0, pt.PTRACE_O_TRACESYSGOOD)
    tracer.ptrace(pt.PTRACE_INTERRUPT, caller)
    tracer.ptrace(pt.PTRACE_SYSCALL, caller)
    caller.call("gettid")
    assert number(tracer, caller) == NR["gettid"]
    change(tracer, caller, NR["getppid"])
    tracer.ptrace(pt.PTRACE_CONT, caller)
    request = monitor.recv(listener)
    assert not isinstance(request, int)
    assert request.nr == NR["getppid"]
    assert monitor.let_run(listener, request.id) == 0
    assert caller.result == monitor.pid


# Who may, and who is there ---------------------------------------------------------------------
def test_refusals_of_attaching():
    tracer, child = traced()
    other = Program(tracer.kernel)
    assert other.ptrace(pt.PTRACE_ATTACH, child) == -EPERM  # one tracer
    assert other.ptrace(pt.PTRACE_CONT, child) == -ESRCH  # not his
    assert tracer.ptrace(pt.PTRACE_ATTACH, tracer) == -EPERM  # itself
    assert tracer.ptrace(pt.PTRACE_ATTACH, tracer.thread()) == -EPERM  # its own thread
    assert other.ptrace(pt.PTRACE_SEIZE, child, 1) == -EIO
    assert other.ptrace(pt.PTRACE_SEIZE, child, 0, 1 << 30) == -EIO
    assert tracer.ptrace(pt.PTRACE_SETOPTIONS, child, 0, 1 << 30) == -EINVAL
    assert tracer.ptrace(pt.PTRACE_CONT, child, 0, 65) == -EIO
    assert tracer.ptrace(pt.PTRACE_INTERRUPT, child) == -EIO  # attached, not seized
    assert tracer.ptrace(pt.PTRACE_CONT, child) == 0
    assert tracer.ptrace(pt.PTRACE_CONT, child) == -ESRCH  # it runs


def test_a_thread_traces_not_its_process():
    tracer, child = traced()
    assert tracer.thread().ptrace(pt.PTRACE_CONT, child) == -ESRCH


@pytest.mark.parametrize("dumpable", [False, True])
def test_the_unprivileged_trace_their_own_and_dumpable(dumpable: bool):
    tracer = start()
    child = tracer.fork()
    for program in (tracer, child):
        program.task.uid, program.task.cap_sys_admin = 1000, False
    child.task.process.dumpable = dumpable
    assert tracer.ptrace(pt.PTRACE_ATTACH, child) == (0 if dumpable else -EPERM)


def test_traceme():
    parent = start()
    child = parent.fork()
    assert child.ptrace(pt.PTRACE_TRACEME) == 0
    assert child.ptrace(pt.PTRACE_TRACEME) == -EPERM
    assert parent.kill(child, SIGWINCH) == 0  # the default is nothing, but the tracer is shown it
    assert child.state == "t"
    assert parent.wait(child) == child.pid
    assert parent.wait_status == stopped(SIGWINCH)


# Ends ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("waited", [False, True])
def test_a_tracers_death_lets_its_tracees_go(waited: bool):
    """With the signal of a stop that nobody waited for, as if the tracer had wanted it."""
    tracer, child = traced()
    tracer.ptrace(pt.PTRACE_CONT, child)
    outside = Program(tracer.kernel)
    outside.kill(child, SIGUSR1)
    assert child.state == "t"
    if waited:
        tracer.wait(child)
    tracer.exit(0)
    assert child.task.tracing is None
    assert child.status == (None if waited else SIGUSR1)


def test_exitkill():
    tracer, child = traced(seize=pt.PTRACE_O_EXITKILL)
    tracer.exit(0)
    assert child.status == SIGKILL


def test_a_tracer_waits_before_the_parent():
    parent = start()
    child = parent.fork()
    tracer = Program(parent.kernel)
    assert tracer.ptrace(pt.PTRACE_SEIZE, child) == 0
    child.exit(3)
    assert parent.wait(child, WNOHANG) == 0
    assert tracer.wait(child) == child.task.process.leader.tid
    assert tracer.wait_status == 3 << 8
    assert parent.wait(child) > 0
    assert (parent.wait_status, parent.wait(child)) == (3 << 8, -ECHILD)


def test_exit_event_shows_the_code_and_a_kill_stops_there_too():
    tracer, child = traced(seize=pt.PTRACE_O_TRACEEXIT)
    tracer.ptrace(pt.PTRACE_CONT, child)
    tracer.kill(child, SIGKILL)
    assert tracer.wait(child) == child.tid
    assert tracer.wait_status >> 8 == pt.PTRACE_EVENT_EXIT << 8 | SIGTRAP
    assert message(tracer, child) == SIGKILL
    tracer.ptrace(pt.PTRACE_CONT, child)
    assert child.status == SIGKILL


# Events and stops ------------------------------------------------------------------------------
@pytest.mark.parametrize("seize", [None, 0], ids=["attached", "seized"])
@pytest.mark.parametrize("thread", [False, True])
def test_children_of_a_tracee(thread: bool, seize: int | None):
    tracer, child = traced(seize=seize)
    option = pt.PTRACE_O_TRACECLONE if thread else pt.PTRACE_O_TRACEFORK
    tracer.ptrace(pt.PTRACE_SETOPTIONS, child, 0, option)
    tracer.ptrace(pt.PTRACE_CONT, child)
    born = child.thread() if thread else child.fork()
    assert (child.state, born.state) == ("t", "t")
    assert message(tracer, child) == born.tid
    assert tracer.wait(born) == born.tid
    assert tracer.wait_status == (stopped(SIGSTOP) if seize is None else EVENT_STOP)
    assert word(tracer, born, registers.RAX) == 0
    for program in (child, born):
        assert tracer.ptrace(pt.PTRACE_DETACH, program) == 0
    assert (child.result, born.result) == (born.tid, 0)


def test_an_exec_without_the_event_is_a_sigtrap():
    tracer, child = traced()
    tracer.ptrace(pt.PTRACE_CONT, child)
    child.execve()
    assert child.state == "t"
    assert tracer.wait(child) == child.pid
    assert tracer.wait_status == stopped(SIGTRAP)


def test_an_exec_with_the_event_tells_the_old_number():
    tracer, child = traced(seize=pt.PTRACE_O_TRACEEXEC)
    tracer.ptrace(pt.PTRACE_CONT, child)
    other = child.thread()
    old = other.tid
    tracer.ptrace(pt.PTRACE_SEIZE, other, 0, pt.PTRACE_O_TRACEEXEC)
    other.execve()
    assert other.tid == child.pid
    assert tracer.ptrace(pt.PTRACE_CONT, other) == -ESRCH  # not before it was waited for
    assert tracer.wait(other) == other.tid
    assert message(tracer, other) == old
    assert tracer.ptrace(pt.PTRACE_CONT, other) == 0


def test_a_group_stop_and_listening():
    tracer, child = traced(seize=0)
    tracer.ptrace(pt.PTRACE_CONT, child)
    outside = Program(tracer.kernel)
    outside.kill(child, SIGSTOP)
    tracer.wait(child)
    tracer.ptrace(pt.PTRACE_CONT, child, 0, SIGSTOP)
    assert tracer.wait(child) == child.tid
    assert tracer.wait_status == stopped(pt.PTRACE_EVENT_STOP << 8 | SIGSTOP)
    assert tracer.ptrace(pt.PTRACE_LISTEN, child) == 0
    assert tracer.ptrace(pt.PTRACE_CONT, child) == -ESRCH
    outside.kill(child, SIGCONT)
    assert tracer.wait(child) == child.tid
    assert tracer.wait_status == EVENT_STOP


def test_detached_from_a_stopped_process_it_is_stopped():
    tracer, child = traced()
    tracer.ptrace(pt.PTRACE_CONT, child, 0, SIGSTOP)
    assert tracer.wait(child) == child.tid
    assert tracer.ptrace(pt.PTRACE_GETSIGINFO, child, 0, bytearray(128)) == -EINVAL
    assert tracer.ptrace(pt.PTRACE_DETACH, child) == 0
    assert child.state == "T"
    tracer.kill(child, SIGCONT)
    assert child.state == "R"


def test_a_parent_sees_stops_if_it_asks_to():
    parent = start()
    child = parent.fork()
    parent.kill(child, SIGSTOP)
    assert parent.wait(child, WNOHANG) == 0
    assert parent.wait(child, WNOHANG | WUNTRACED) == child.pid
    assert parent.wait_status == stopped(SIGSTOP)
    assert parent.wait(child, WNOHANG | WUNTRACED) == 0


# Calls -----------------------------------------------------------------------------------------
def test_the_tracers_stop_comes_before_the_filters():
    """Since 4.8: what the tracer makes of the call is what they are asked about."""
    tracer, child = traced(seize=pt.PTRACE_O_TRACESYSGOOD | pt.PTRACE_O_TRACESECCOMP)
    child.task.no_new_privs = True
    tracer.ptrace(pt.PTRACE_CONT, child)
    child.install(on("getpid", abi.SECCOMP_RET_KILL_PROCESS))
    child.install(on("getppid", abi.SECCOMP_RET_TRACE | 9))
    tracer.ptrace(pt.PTRACE_INTERRUPT, child)
    tracer.ptrace(pt.PTRACE_SYSCALL, child)
    child.call("getpid")
    info = bytearray(88)
    assert tracer.ptrace(pt.PTRACE_GET_SYSCALL_INFO, child, 88, info) == 80
    assert (info[0], info[24]) == (pt.PTRACE_SYSCALL_INFO_ENTRY, NR["getpid"])
    change(tracer, child, NR["getppid"])
    tracer.ptrace(pt.PTRACE_SYSCALL, child)
    tracer.wait(child)
    assert tracer.wait_status == SECCOMP_STOP
    assert message(tracer, child) == 9
    tracer.ptrace(pt.PTRACE_SYSCALL, child)
    assert word(tracer, child, registers.RAX) == tracer.pid
    change(tracer, child, None, 12)
    tracer.ptrace(pt.PTRACE_CONT, child)
    assert child.result == 12


def test_trace_without_a_tracer_that_asked_is_enosys():
    """A tracer alone is not enough (``ptrace_event_enabled``)."""
    tracer, child = traced(seize=0)
    tracer.ptrace(pt.PTRACE_CONT, child)
    child.install(on("getppid", abi.SECCOMP_RET_TRACE))
    assert child.call("getppid") == -ENOSYS


@pytest.mark.parametrize(("profile", "dies"), [("5.14", False), ("5.19", True)])
def test_a_tracer_could_call_off_a_kill_once(profile: str, dies: bool):
    """Before 5.16 the SIGSYS of a KILL verdict was shown, and could be taken away."""
    tracer, child = traced(profile, seize=0)
    tracer.ptrace(pt.PTRACE_CONT, child)
    child.install(on("getppid", abi.SECCOMP_RET_KILL_PROCESS))
    child.call("getppid")
    if not dies:
        assert tracer.wait(child) == child.tid
        assert tracer.wait_status == stopped(SIGSYS)
        tracer.ptrace(pt.PTRACE_CONT, child)
    assert child.status == (SIGSYS if dies else None)


@pytest.mark.parametrize(("profile", "value"), [("6.6", -EIO), ("6.18", 0)])
def test_set_syscall_info(profile: str, value: int):
    """Since 6.16; before, PTRACE_SETREGS."""
    tracer, child = traced(profile, seize=pt.PTRACE_O_TRACESYSGOOD)
    tracer.ptrace(pt.PTRACE_SYSCALL, child)
    child.call("getppid")
    info = bytearray(88)
    assert tracer.ptrace(pt.PTRACE_GET_SYSCALL_INFO, child, 88, info) == 80
    info[24:32] = NR["gettid"].to_bytes(8, "little")
    assert tracer.ptrace(pt.PTRACE_SET_SYSCALL_INFO, child, 88, info) == value
    tracer.ptrace(pt.PTRACE_CONT, child)
    assert child.result == (tracer.pid if value else child.tid)


def test_memory_is_copied_by_fork_and_gone_after_exec():
    tracer = start()
    tracer.task.process.memory.map(0x1000, b"12345678")
    child = tracer.fork()
    tracer.ptrace(pt.PTRACE_SEIZE, child)
    tracer.ptrace(pt.PTRACE_INTERRUPT, child)
    data = bytearray(8)
    assert tracer.ptrace(pt.PTRACE_POKEDATA, child, 0x1000, 0) == 0
    assert tracer.task.process.memory.read(0x1000, 8) == b"12345678"
    assert tracer.ptrace(pt.PTRACE_PEEKDATA, child, 0x1000, data) == 0
    assert data == bytes(8)
    assert tracer.ptrace(pt.PTRACE_PEEKDATA, child, 0x1001, data) == -EIO
    tracer.ptrace(pt.PTRACE_CONT, child)
    child.execve()
    tracer.ptrace(pt.PTRACE_INTERRUPT, child)
    assert tracer.ptrace(pt.PTRACE_PEEKDATA, child, 0x1000, data) == -EIO

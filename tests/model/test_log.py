"""SECCOMP_FILTER_FLAG_LOG: which calls reach the audit log, and when (``seccomp_log``)."""

from __future__ import annotations

import pytest

from proctor.kernel import abi
from proctor.model.kernel.linux import BLOCKED, ENOSYS, NR, SIGUSR1
from proctor.model.kernel.program import Program
from tests.model.support import on, start, trap

LOG = abi.SECCOMP_FILTER_FLAG_LOG
NOTIFIED = (NR["getppid"], abi.SECCOMP_RET_USER_NOTIF)


def scene(flags: int) -> tuple[Program, int, Program]:
    monitor = start()
    listener = monitor.listen(trap("getppid"), flags)
    child = monitor.fork()
    child.close(listener)
    assert child.call("getppid") == BLOCKED
    assert monitor.kernel.log == [], "nothing is logged while it waits"
    return monitor, listener, child


@pytest.mark.parametrize("flags, logged", [(0, []), (LOG, [NOTIFIED])])
def test_an_answered_call_is_logged_when_it_is_over(flags: int, logged: list[tuple[int, int]]):
    monitor, listener, child = scene(flags)
    assert monitor.send(listener, monitor.recv(listener).id, val=7) == 0
    assert child.result == 7
    assert monitor.kernel.log == logged


def test_a_call_that_is_run_is_not_logged():
    monitor, listener, child = scene(LOG)
    assert monitor.let_run(listener, monitor.recv(listener).id) == 0
    assert child.result == monitor.pid
    assert monitor.kernel.log == []


def test_an_interrupted_call_is_logged_each_time():
    monitor, _, child = scene(LOG)
    child.handle(SIGUSR1, restart=True)
    for times in (1, 2):
        assert monitor.kill(child, SIGUSR1) == 0
        assert child.result is None, "made again, and notified again"
        assert monitor.kernel.log == [NOTIFIED] * times


def test_a_call_without_a_listener_is_logged():
    monitor, listener, _ = scene(LOG)
    monitor.close(listener)
    assert monitor.kernel.log == [NOTIFIED], "the one that was waiting"
    assert monitor.fork().call("getppid") == -ENOSYS
    assert monitor.kernel.log == [NOTIFIED] * 2


@pytest.mark.parametrize(
    "action", [abi.SECCOMP_RET_ERRNO | 1, abi.SECCOMP_RET_TRAP, abi.SECCOMP_RET_TRACE]
)
def test_refusals_are_logged_on_request(action: int):
    for flags in (0, LOG):
        program = start()
        program.handle(31)
        assert program.seccomp(abi.SECCOMP_SET_MODE_FILTER, flags, on("getppid", action)) == 0
        program.call("getppid")
        wanted = (NR["getppid"], action & abi.SECCOMP_RET_ACTION_FULL)
        assert program.kernel.log == ([wanted] if flags else [])

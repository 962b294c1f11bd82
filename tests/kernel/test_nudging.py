"""Nudging a thread whose tracer waits."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from proctor.kernel import nudging


def test_a_tracer_that_waits_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose other thread executes what does not come holds it up; and each look begins no further one."""
    began: list[int] = []
    goes_on = threading.Event()

    def ptrace(number: int, request: int, tid: int, *rest: int) -> int:
        began.append(tid)
        goes_on.wait(60)
        raise ProcessLookupError

    monkeypatch.setattr(nudging, "_core", SimpleNamespace(syscall=ptrace, SYS_ptrace=101))
    monkeypatch.setattr(nudging, "_END", 0.01)
    try:
        assert [nudging.nudge(7), nudging.nudge(7), nudging.nudge(7)] == [False] * 3
        assert began == [7]
    finally:
        goes_on.set()
    nudging._NUDGING[7].join(60)
    assert nudging.nudge(8) is False
    assert began == [7, 8] and not nudging._NUDGING

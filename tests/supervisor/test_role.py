"""Who stalls loses the role of receiving, and nobody else waits for it."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Callable

import pytest

import proctor
from proctor.kernel.engine import Engine
from proctor.performing.executing.steps import Steps
from proctor.policy import loads
from proctor.supervisor.deciding import Decider
from proctor.supervisor.jobs import Job
from proctor.supervisor.poller import EpollPoller
from proctor.supervisor.ports import SERVE
from proctor.supervisor.pyengine import PyEngine
from tests.supervisor.conftest import lines
from tests.support.stalling import await_threads

GETPPID = "110"
GETPGRP = "111"


def handler(function: Callable[[proctor.Call], object], **options: object) -> proctor.Handler:
    return proctor.Handler(("getppid",), function, **options)  # type: ignore[arg-type]


def test_a_handler_that_loops_holds_up_nobody(start: Callable[..., proctor.Process]) -> None:
    """It ends only once another caller was answered, called again, and was answered again."""
    callers: list[int] = []
    answered: list[int] = []
    others = threading.Event()

    def loop(call: proctor.Call) -> proctor.Verdict:
        callers.append(call.tid)
        while call.tid == callers[0] and not others.is_set():
            sum(range(100))  # all that it does is in the interpreter
        return proctor.answer(5)

    def told(outcome: proctor.Outcome) -> None:
        answered.append(outcome.call.tid)
        if len(answered) == 2:
            others.set()

    process = start(
        "fork", "call", GETPPID, "call", GETPPID,
        handlers=[handler(loop)], observers=[proctor.outcomes(told)],
    )  # fmt: skip
    assert lines(process) == ["110 = 5"] * 4
    assert [tid == callers[0] for tid in answered] == [False, False, True, True]


@pytest.mark.parametrize("make_world", ["native"], indirect=True)
def test_who_waits_for_an_executor_ends_that_when_another_calls(
    start: Callable[..., proctor.Process],
) -> None:
    """Its patience is of ten minutes, and nobody answers."""
    steps = Steps()
    steps.call("getpid")
    request, first = steps.freeze(), []
    ours, theirs = socket.socketpair()

    def wait(call: proctor.Call) -> proctor.Verdict:
        if not first:
            first.append(request.native.ask(ours.fileno(), request.fill(), (), 600_000_000))
        return proctor.answer(5)

    with ours, theirs:
        process = start("fork", "call", GETPPID, handlers=[handler(wait)])
        assert lines(process) == ["110 = 5"] * 2
    assert first == [(errno.EAGAIN, b"")]


def test_what_waits_for_a_descriptor_takes_no_thread(
    start: Callable[..., proctor.Process],
) -> None:
    """More wait than there may be threads; the last to come lets all go on, one after another."""
    ends: list[tuple[int, int]] = []
    threads: set[int] = set()

    def later(call: proctor.Call) -> object:
        end, other = os.pipe()
        ends.append((end, other))
        threads.add(threading.get_ident())

        def resume() -> proctor.Verdict:
            threads.add(threading.get_ident())
            os.close(end)
            if ends:
                os.close(ends.pop()[1])
            return proctor.answer(call.registers[0])

        if len(ends) == 60:
            os.close(ends.pop()[1])
        return proctor.Later(end, resume, lambda: os.close(end))

    process = start("thread", "60", GETPPID, handlers=[handler(later)], world={"workers": 1})
    assert lines(process) == [str(n) for n in range(60)]
    assert len(threads) < 12


def test_what_nobody_waits_for_any_more_is_given_up(start: Callable[..., proctor.Process]) -> None:
    """By its deadline, and exactly once."""
    given_up: list[str] = []

    def later(call: proctor.Call) -> object:
        end, other = os.pipe()

        def over(how: str) -> None:
            given_up.append(how)
            os.close(end)
            os.close(other)

        return proctor.Later(end, lambda: over("resumed"), lambda: over("given up"))

    process = start(
        "call", GETPPID, "call", GETPPID,
        handlers=[handler(later, deadline=0.05)], on_deadline=proctor.deny(errno.ETIME),
    )  # fmt: skip
    assert lines(process) == [f"110 = -{errno.ETIME}"] * 2
    process.close()
    await_threads()  # whoever answered gives it up after that
    assert given_up == ["given up"] * 2


def test_what_cannot_be_waited_for_is_a_mistake_of_its_handler(
    start: Callable[..., proctor.Process], caplog: pytest.LogCaptureFixture
) -> None:
    """A regular file (EPERM of epoll_ctl(2)), a number that is nobody's."""
    given_up: list[int] = []

    def later(call: proctor.Call) -> object:
        fd = os.open("/etc/passwd", os.O_RDONLY) if not given_up else 1 << 20
        return proctor.Later(fd, lambda: proctor.answer(0), lambda: given_up.append(fd))

    process = start("call", GETPPID, "call", GETPPID, handlers=[handler(later)])
    try:
        assert lines(process) == [f"110 = -{errno.EPERM}"] * 2
    finally:
        os.close(given_up[0])
    assert len(given_up) == 2
    assert "handler" in caplog.text


def test_a_wait_that_is_over_goes_on_without_the_descriptor(
    start: Callable[..., proctor.Process],
) -> None:
    end, other = os.pipe()
    looks = []

    def look() -> object:
        looks.append(1)
        if len(looks) < 3:
            return proctor.Later(end, look, lambda: None, 0.001)
        return proctor.answer(9)

    process = start(
        "call", GETPPID,
        handlers=[handler(lambda call: proctor.Later(end, look, lambda: None, 0.001))],
    )  # fmt: skip
    try:
        assert lines(process) == ["110 = 9"]
    finally:
        os.close(end)
        os.close(other)
    assert len(looks) == 3


class _Resigning(EpollPoller):
    """Whoever leads resigns just as the one that stands by decides to sleep."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before = before
        self.resign: Callable[[], None] = lambda: None
        self.looks = 0

    def rung(self) -> int:
        self.looks += 1
        now = self.looks == 3  # it sleeps after two looks in vain
        if now and self.before:
            self.resign()
        rung = super().rung()
        if now and not self.before:
            self.resign()
        return rung


@pytest.mark.parametrize("before", [True, False])
def test_a_role_that_becomes_free_as_one_decides_to_sleep_is_taken(before: bool) -> None:
    poller = _Resigning(before)
    engine = PyEngine(poller)
    first = engine.lead(SERVE, lambda what: None)
    poller.resign = lambda: engine.resign(first)
    taken: list[int] = []
    standing = threading.Thread(
        target=lambda: taken.append(engine.lead(SERVE, lambda what: None)), daemon=True
    )
    standing.start()
    standing.join(30)
    assert poller.looks == 3
    assert engine.has(taken[0])
    assert taken[0] != first
    engine.close()


class _Standing:
    """A thread that has the role and stalls in ``work``, and one that stands by."""

    def __init__(self, engine: Engine | PyEngine, due: Callable[[], float | None]) -> None:
        self.engine = engine
        self.overtaken: list[object] = []
        self.tokens: list[int] = []
        self.first = engine.lead(SERVE, lambda what: None)
        self._standing = threading.Thread(target=self._stand_by, args=(due,), daemon=True)

    def _stand_by(self, due: Callable[[], float | None]) -> None:
        self.tokens.append(self.engine.lead(SERVE, self.overtaken.append, None, due))

    def stall(self, work: Callable[[], object]) -> bool:
        """Whether it still has the role when it is done."""
        self._standing.start()
        return self.engine.attend(self.first, work)

    def over(self) -> None:
        self.engine.resign(self.first)
        self._standing.join(30)
        assert not self._standing.is_alive()
        self.engine.close()


@pytest.mark.parametrize("make", [Engine, lambda: PyEngine(EpollPoller())])
def test_who_stalls_keeps_a_role_that_nobody_needs(make: Callable[[], Engine | PyEngine]) -> None:
    """It goes on where whoever stands by has found that nothing is due, and nothing comes."""
    found, done = threading.Event(), threading.Event()

    def due() -> None:
        found.set()
        done.wait(30)

    standing = _Standing(make(), due)
    assert standing.stall(lambda: found.wait(30))
    done.set()
    standing.over()
    assert not standing.overtaken
    assert standing.tokens != [standing.first]


@pytest.mark.parametrize("make", [Engine, lambda: PyEngine(EpollPoller())])
@pytest.mark.parametrize("why", ["due", "late"])
def test_who_stalls_loses_it_when_something_is_due_or_for_good(
    make: Callable[[], Engine | PyEngine], why: str
) -> None:
    """What it is at may have a deadline itself, of which nobody knows yet."""
    standing = _Standing(make(), lambda: 0.0 if why == "due" else None)

    def stall() -> None:
        while not standing.overtaken:
            select.select([], [], [], 0.001)

    assert not standing.stall(stall)
    standing.over()
    assert standing.overtaken == [stall]


@pytest.mark.parametrize("before", [True, False])
def test_who_stalls_loses_it_to_whatever_comes(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the stall is found, or after that; whatever else there may be to wait for."""
    monkeypatch.setattr("proctor.supervisor.pyengine.PATIENCE", 1e9)
    end, other = os.pipe()
    engine = PyEngine(EpollPoller())
    engine.watch(end, lambda: None)

    class Poller(EpollPoller):
        def some(self, seconds: float) -> bool:
            if not before:
                os.close(other)
            return super().some(seconds)

    engine._poller.__class__ = Poller  # type: ignore[assignment]
    standing = _Standing(engine, lambda: None)
    if before:
        os.close(other)

    def stall() -> None:
        while not standing.overtaken:
            select.select([], [], [], 0.001)

    assert not standing.stall(stall)
    standing.over()
    os.close(end)


def test_a_ring_before_a_look_ends_it() -> None:
    poller = EpollPoller()
    rung = poller.rung()
    poller.ring()
    looking = threading.Thread(target=lambda: poller.look(None, rung), daemon=True)
    looking.start()
    looking.join(30)
    assert not looking.is_alive()
    poller.close()


def test_a_call_that_waits_keeps_no_others_from_the_shortest_way(
    start: Callable[..., proctor.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One caller waits until the other has called five hundred times: none of these calls is looked at at length."""
    callers: list[int] = []
    waiting: list[int] = []
    at_length: list[int] = []
    end, other = os.pipe()
    decide = Decider.decide

    def long_way(self: Decider, job: Job) -> None:
        at_length.append(job.tid)
        decide(self, job)

    def wait(call: proctor.Call) -> object:
        waiting.append(call.tid)
        if len(waiting) > 1:
            return proctor.answer(7)
        return proctor.Later(end, lambda: proctor.answer(7), lambda: None)

    def answer(call: proctor.Call) -> proctor.Verdict:
        callers.append(call.tid)
        if len(callers) == 500:
            os.close(other)
        return proctor.answer(call.registers[0])

    monkeypatch.setattr(Decider, "decide", long_way)
    process = start(
        "fork", "thread", "1", GETPPID, "loop", "500", GETPGRP,
        handlers=[handler(wait), proctor.Handler(("getpgrp",), answer)],
    )  # fmt: skip
    out = lines(process)
    os.close(end)
    assert sorted(out) == ["7", "7", "ok", "ok"]
    assert len(callers) == 1000
    assert len(waiting) == 2
    assert at_length.count(callers[0]) < 2  # the first of its number, perhaps


def test_a_call_that_stalls_keeps_no_others_from_the_shortest_way(
    start: Callable[..., proctor.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One caller keeps a thread until the other has called five hundred times: few of these calls are looked at at
    length, before it was seen that the thread does not compute."""
    callers: list[int] = []
    stalled: list[int] = []
    at_length: list[int] = []
    called = threading.Event()
    decide = Decider.decide

    def long_way(self: Decider, job: Job) -> None:
        at_length.append(job.tid)
        decide(self, job)

    def stall(call: proctor.Call) -> proctor.Verdict:
        stalled.append(call.tid)
        if len(stalled) == 1:
            called.wait()
        return proctor.answer(7)

    def answer(call: proctor.Call) -> proctor.Verdict:
        callers.append(call.tid)
        if len(callers) == 500:
            called.set()
        return proctor.answer(call.registers[0])

    monkeypatch.setattr(Decider, "decide", long_way)
    process = start(
        "fork", "thread", "1", GETPPID, "loop", "500", GETPGRP,
        handlers=[handler(stall), proctor.Handler(("getpgrp",), answer)],
    )  # fmt: skip
    assert sorted(lines(process)) == ["7", "7", "ok", "ok"]
    assert callers[:500] == callers[:1] * 500
    assert at_length.count(callers[0]) < 250


BY_PATH = """
[[rule]]
name = "late"
calls = ["mkdir"]
when = { path_text = "/proc/late*" }
deny = "EROFS"

[[rule]]
name = "all"
calls = ["mkdir"]
allow = "unsafe: a test"
"""


@pytest.mark.parametrize("usual", [True, False])
def test_an_interrupted_caller_s_next_call_waits_for_the_end_of_the_first(
    start: Callable[..., proctor.Process], usual: bool
) -> None:
    """Though other callers' calls do not, and calls like it were decided at once before, by and by: a first one may stall."""
    over: list[str] = []
    end, other = os.pipe()

    def first(call: proctor.Call) -> object:
        def resume() -> proctor.Verdict:
            over.append("first")
            return proctor.answer(1)

        os.kill(call.tid, signal.SIGALRM)
        return proctor.Later(end, resume, lambda: None, 1.0)

    def told(outcome: proctor.Outcome) -> None:
        if outcome.call.name != "getppid":
            over.append(outcome.call.name)

    rules = loads(BY_PATH)
    second = ("string", "/proc/late", "83") if usual else ("call", GETPGRP)
    plain = [handler(first), proctor.Handler(("getpgrp",), lambda call: proctor.answer(5))]
    process = start(
        *second * 40, "interrupt", "0", "call", GETPPID, *second,
        handlers=[*plain, *rules.handlers()], filter=proctor.filter_for(plain, rules.filter()),
        observers=[proctor.outcomes(told)], wait_killable=False, **rules.supervisor_options(),
    )  # fmt: skip
    out = lines(process)
    process.close()
    await_threads()  # observers are told after the answer
    os.close(end)
    os.close(other)
    said = f"83 = -{errno.EROFS}" if usual else f"{GETPGRP} = 5"
    assert out == [*[said] * 40, f"110 = -{errno.EINTR}", said]
    name = "mkdir" if usual else "getpgrp"
    assert over == [*[name] * 40, "first", name]


def test_a_stall_slows_no_container_down_for_good(start: Callable[..., proctor.Process]) -> None:
    """Four callers of whom one always waits: once nothing stalls, their calls go the shortest way again."""
    others = threading.Event()
    begun: list[int] = []
    watchful: list[bool] = []
    made: list[proctor.Process] = []
    ready = threading.Event()

    def stall_once(call: proctor.Call) -> proctor.Verdict:
        ready.wait()
        begun.append(call.tid)
        if len(begun) == 1:
            while not others.is_set():
                sum(range(100))
        if call.tid != begun[0]:
            others.set()
        select.select(
            [], [], [], 0.0001
        )  # as long as an executor takes: the others call again meanwhile
        sum(range(2000))
        backlog = made[0].supervisor._decider.backlog
        watchful.append(backlog.share(call.container).watchful)
        return proctor.answer(call.registers[0])

    made.append(start("fork", "fork", "loop", "500", GETPPID, handlers=[handler(stall_once)]))
    ready.set()
    assert lines(made[0]) == ["ok"] * 4
    assert True in watchful
    assert watchful[-1000:].count(False) > 200

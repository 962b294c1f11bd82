"""What goes on with a call, once something is readable, has its turn as calls do, and an end before that if need be."""

from __future__ import annotations

import errno
import math
import os
import signal
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

import proctor
from proctor.kernel.notification import Notification
from proctor.supervisor.backlog import Backlog
from proctor.supervisor.container import Container, Quotas
from proctor.supervisor.driver import Driver
from proctor.supervisor.jobs import Job
from proctor.supervisor.role import Role
from proctor.supervisor.share import Kind, Share
from tests.supervisor.conftest import lines
from tests.support.stalling import await_threads

GETPPID = "110"
GETPGRP = "111"
CALLERS = 20
X86_64 = 0xC000003E

Start = Callable[..., proctor.Process]


class Later:
    """Handlers whose calls go on when a pipe is readable, and block then until :attr:`release` is set; what became of each.

    At most ``workers`` threads are kept, and as many once more before it is known that they stall.
    """

    def __init__(self, patch: pytest.MonkeyPatch, container: Container | None = None) -> None:
        self.release = threading.Event()
        #: Calls that were gone on with, or that wait to be.
        self.seen: set[int] = set()
        #: Calls for which one was made.
        self.made: set[int] = set()
        self.waiting: set[int] = set()
        self.changed = threading.Condition()
        self.resumed: list[int] = []
        self.cancelled: list[int] = []
        self.most = self._busy = 0
        real = Backlog.put

        def put(backlog: Backlog, job: Job) -> None:
            real(backlog, job)
            if job.begun:
                with self.changed:
                    self.seen.add(job.call.id)
                    self.waiting.add(job.call.id)
                    self.changed.notify_all()

        patch.setattr(Backlog, "put", put)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for it."""
        with self.changed:
            assert self.changed.wait_for(true, 60)

    def __call__(
        self, call: proctor.Call, *, readable: bool = True, gone: int = -1
    ) -> proctor.Later:
        """A handler's answer."""
        end, other = os.pipe2(os.O_CLOEXEC)
        self.made.add(call.id)
        if readable:
            os.close(other)

        def over(how: list[int]) -> None:
            with self.changed:
                how.append(call.id)
                self.seen.add(call.id)
                self.changed.notify_all()
            os.close(end)
            if not readable:
                os.close(other)
            if gone >= 0:
                os.close(gone)

        def resume() -> proctor.Verdict:
            with self.changed:
                self._busy += 1
                self.most = max(self.most, self._busy)
            over(self.resumed)
            self.release.wait(60)
            with self.changed:
                self._busy -= 1
            return proctor.answer(call.registers[0])

        wait = None if readable else 0.001
        return proctor.Later(end, resume, lambda: over(self.cancelled), wait, gone)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    return Later(monkeypatch)


def limited(function: Callable[..., Any], name: str = "getppid", **options: Any) -> dict[str, Any]:
    """A handler, in a container that may keep one thread."""
    handler = proctor.Handler((name,), function, **options)
    return {"handlers": [handler], "world": {"workers": 1}}


@pytest.mark.parametrize("readable", [True, False], ids=["readable", "waited for long enough"])
def test_what_goes_on_and_blocks_keeps_no_more_threads_than_calls(
    start: Start, later: Later, readable: bool
) -> None:
    """None is let go before all have gone on, or wait for that."""
    process = start(
        "thread", str(CALLERS), GETPPID,
        **limited(lambda call: later(call, readable=readable)),
    )  # fmt: skip
    try:
        later.until(lambda: len(later.seen) == CALLERS)
    finally:
        later.release.set()
    assert lines(process) == [str(number) for number in range(CALLERS)]
    # one, once more as many before it is known that they stall, and whoever has the role
    assert later.most <= 3
    assert len(later.resumed) == CALLERS
    assert not later.cancelled
    process.close()
    await_threads()
    assert Driver(process.supervisor).held == 0


def test_one_later_after_another_has_its_turn_each_time(start: Start, later: Later) -> None:
    """Each call goes on three times; the callers take turns."""
    later.release.set()

    def thrice(call: proctor.Call) -> object:
        left = [3]

        def again() -> object:
            said = later(call)
            return said._replace(resume=lambda: once(said))

        def once(said: proctor.Later) -> object:
            verdict = said.resume()
            os.sched_yield()
            left[0] -= 1
            return again() if left[0] else verdict

        return again()

    process = start("thread", str(CALLERS), GETPPID, **limited(thrice))
    assert lines(process) == [str(number) for number in range(CALLERS)]
    assert len(later.resumed) == 3 * CALLERS


def test_what_waits_to_go_on_is_given_up_at_its_deadline(start: Start, later: Later) -> None:
    process = start(
        "thread", "4", GETPPID, **limited(later, deadline=1.0),
        on_deadline=proctor.deny(errno.ETIME),
    )  # fmt: skip
    try:
        assert lines(process) == [f"-{errno.ETIME}"] * 4
        later.until(lambda: len(later.resumed) + len(later.cancelled) == 4)
        assert later.cancelled
    finally:
        later.release.set()
    process.close()
    await_threads()
    assert later.waiting >= set(later.cancelled)
    assert len({*later.resumed, *later.cancelled}) == 4


def test_what_waits_to_go_on_is_given_up_when_its_caller_dies(start: Start, later: Later) -> None:
    """Its descriptors, too, while what keeps the thread goes on."""

    def with_pidfd(call: proctor.Call) -> object:
        return later(call, gone=os.pidfd_open(call.tid))

    process = start("fork", "fork", "fork", "call", GETPPID, **limited(with_pidfd))
    try:
        later.until(lambda: len(later.seen) == 8)
        pids = {job.call.id: job.tid for job in process.supervisor._decider.calls.pending(None)}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        # but for the three that may be at work, or have come to that
        later.until(lambda: len(later.cancelled) >= 5)
        assert len(later.cancelled) + len(later.resumed) <= 8
    finally:
        later.release.set()


@pytest.mark.parametrize("how", ["close", "detach"])
def test_what_waits_to_go_on_is_given_up_at_the_end(start: Start, later: Later, how: str) -> None:
    process = start("thread", "8", GETPPID, **limited(later))
    try:
        later.until(lambda: len(later.seen) == 8)
        if how == "detach":
            (served,) = process.supervisor._listeners.served.values()
            process.supervisor.detach(served.listener)
            served.listener.close()
        else:
            process.supervisor.close()
        assert len(later.cancelled) >= 5
        assert lines(process) == [f"-{errno.ENOSYS}"] * 8
    finally:
        later.release.set()
    process.close()
    await_threads()
    assert len({*later.resumed, *later.cancelled}) == 8


def test_a_coroutine_s_later_is_given_up_where_nobody_wants_it(start: Start, later: Later) -> None:
    """It waits for its turn to be awaited when the call's deadline comes."""

    async def handler(call: proctor.Call) -> object:
        return later(call)

    process = start(
        "thread", str(CALLERS), GETPPID, **limited(handler, deadline=1.0),
        on_deadline=proctor.deny(errno.ETIME),
    )  # fmt: skip
    try:
        assert lines(process) == [f"-{errno.ETIME}"] * CALLERS
    finally:
        later.release.set()
    process.close()
    await_threads()
    assert later.made
    assert {*later.resumed, *later.cancelled} == later.made


def test_others_of_the_container_go_on_meanwhile(start: Start, later: Later) -> None:
    """What stalls when it goes on is known for that by itself, and so is what does not."""
    ends: list[int] = []
    waits = threading.Event()

    def other(call: proctor.Call) -> object:
        ends.extend(os.pipe2(os.O_CLOEXEC))
        waits.set()
        return proctor.Later(ends[0], lambda: proctor.answer(9), lambda: None)

    def flood(call: proctor.Call) -> object:
        return later(call) if waits.is_set() else proctor.answer(0)

    handlers = [proctor.Handler(("getppid",), flood), proctor.Handler(("getpgrp",), other)]
    process = start("flood", "4", GETPPID, "call", GETPGRP, handlers=handlers, world={"workers": 1})
    try:
        assert waits.wait(60)
        later.until(lambda: len(later.seen) == 4)
        os.close(ends[1])
        assert lines(process) == ["go", f"{GETPGRP} = 9"]
        assert len(later.resumed) < 4
    finally:
        later.release.set()
        os.close(ends[0])


def test_a_coroutine_is_asked_after_a_later_that_said_nothing(start: Start) -> None:
    """Its verdict is what goes on then, and not the Later."""
    end, other = os.pipe2(os.O_CLOEXEC)
    os.close(other)

    async def second(call: proctor.Call) -> proctor.Verdict:
        return proctor.answer(7)

    handlers = [
        proctor.Handler(("getppid",), lambda call: proctor.Later(end, lambda: None, lambda: None)),
        proctor.Handler(("getppid",), second),
    ]
    process = start("call", GETPPID, "call", GETPPID, handlers=handlers)
    try:
        assert lines(process) == [f"{GETPPID} = 7"] * 2
    finally:
        os.close(end)


def test_a_descriptor_that_two_calls_wait_for_is_still_waited_for_by_the_first(
    start: Start,
) -> None:
    """The second one is refused, and the first one not forgotten."""
    end, other = os.pipe2(os.O_CLOEXEC)
    cancelled = threading.Event()

    def wait(call: proctor.Call) -> proctor.Later:
        return proctor.Later(end, lambda: proctor.answer(7), cancelled.set)

    process = start("thread", "2", GETPPID, handlers=[proctor.Handler(("getppid",), wait)])
    try:
        assert cancelled.wait(60)
        os.close(other)
        assert sorted(lines(process)) == [f"-{errno.EPERM}", "7"]
    finally:
        os.close(end)


def test_a_wait_that_is_no_number_is_refused(start: Start) -> None:
    cancelled = threading.Event()
    end, other = os.pipe2(os.O_CLOEXEC)
    handler = proctor.Handler(
        ("getppid",), lambda call: proctor.Later(end, lambda: None, cancelled.set, math.nan)
    )
    process = start("call", GETPPID, handlers=[handler])
    try:
        assert lines(process) == [f"{GETPPID} = -{errno.EPERM}"]
        assert cancelled.is_set()
    finally:
        os.close(end)
        os.close(other)


def test_no_rate_holds_what_was_begun() -> None:
    share = Share(Quotas(rate=1))
    new, begun = Kind(slow=False, begun=False), Kind(slow=False, begun=True)
    for _ in range(3):
        share.begin(new, 0.0)
    assert share.delay(0.0, new) == 2.0
    assert share.delay(0.0, begun) == 0.0
    share.begin(begun, 0.0)
    assert share.delay(0.0, new) == 2.0


class _Elsewhere:
    """Where calls were received that are submitted."""

    def id_valid(self, id: int) -> bool:
        return True

    def send(self, id: int, *answer: int) -> bool:
        return True


def test_a_few_looks_at_what_waits_are_taken_between_two_rounds(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hundred calls are to be looked at, all at once: whoever receives comes to that in between."""
    now = [100.0]
    end, other = os.pipe2(os.O_CLOEXEC)
    fds = [os.dup(end) for _ in range(300)]
    looks, at_rounds = [0], [0]

    def wait(fd: int) -> proctor.Later:
        def look() -> proctor.Later:
            looks[0] += 1
            return wait(fd)

        return proctor.Later(fd, look, lambda: None, 1.0)

    handler = proctor.Handler(("getppid",), lambda call: wait(fds[call.id]))
    container = Container(handlers=[handler])
    world = make_world()
    world.clock = lambda: now[0]
    supervisor = proctor.Supervisor(world=world)
    real = type(supervisor._engine).serve

    def serve(*arguments: Any) -> int:
        at_rounds.append(looks[0])
        return real(*arguments)

    monkeypatch.setattr(type(supervisor._engine), "serve", serve)
    port: Any = _Elsewhere()
    for number in range(300):
        supervisor.submit(Notification(number, 1000 + number, 110, X86_64), port, container)
    while any(job.later is None for job in supervisor._decider.calls.pending(None)):
        supervisor.step(0.0)
    now[0] += 2.0
    while looks[0] < 300:
        supervisor.step(0.0)
    supervisor.close()
    await_threads()
    for fd in (end, other, *fds):
        os.close(fd)
    assert max(after - before for before, after in pairwise(at_rounds)) <= 64


def test_an_observer_that_blocks_after_a_deadline_keeps_a_thread_of_that_container(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, entered, overtaken = threading.Event(), threading.Event(), threading.Event()
    real = Role.overtaken

    def watched(role: Role, work: object) -> None:
        real(role, work)
        if entered.is_set():
            overtaken.set()

    def told(outcome: proctor.Outcome) -> None:
        if outcome.decided_by == "deadline":
            entered.set()
            release.wait(60)

    end, other = os.pipe2(os.O_CLOEXEC)
    monkeypatch.setattr(Role, "overtaken", watched)
    process = start(
        "call", GETPPID, observers=[proctor.outcomes(told)],
        **limited(lambda call: proctor.Later(end, lambda: None, lambda: None), deadline=0.05),
    )  # fmt: skip
    try:
        assert overtaken.wait(60)
        assert Driver(process.supervisor).held == 1
    finally:
        release.set()
    process.close()
    await_threads()
    os.close(end)
    os.close(other)
    assert Driver(process.supervisor).held == 0

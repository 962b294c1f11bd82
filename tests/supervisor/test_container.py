"""Containers: what belongs together, and what one cannot take from another."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.kernel.launch import launch
from proctor.kernel.notification import Notification
from proctor.observe.events import ContainerAdded, ContainerEnded
from proctor.supervisor.container import Container, Quotas
from proctor.supervisor.jobs import Job, Served
from proctor.supervisor.share import LONGEST, Kind, Share, number_of
from proctor.supervisor.world import KernelWorld
from tests.support.stalling import stalling

X86_64 = 0xC000003E
Start = Callable[..., "Target"]


class Target:
    """A target that was added to a supervisor, and what it prints."""

    def __init__(self, process: Any, reader: int, listener: proctor.Listener) -> None:
        self.process = process
        self.listener = listener
        self._reader = reader

    def lines(self) -> list[str]:
        """To its end."""
        with open(self._reader, closefd=False) as file:
            return file.read().splitlines()

    def close(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.close()
        os.close(self._reader)


@pytest.fixture
def host(make_world: Callable[..., KernelWorld]) -> Iterator[proctor.Supervisor]:
    """A supervisor that runs."""
    with proctor.Supervisor(world=make_world()).start() as supervisor:
        yield supervisor


@pytest.fixture
def target(caller: str, host: proctor.Supervisor) -> Iterator[Start]:
    """Start a caller in a container."""
    made: list[Target] = []
    program = proctor.filter_for([proctor.Handler(("getppid",), lambda call: None)])
    assert program is not None
    code = program.compile().code

    def go(container: Container, *script: str) -> Target:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        process = launch([caller, *script], program=code, fds=((writer, 1),))
        os.close(writer)
        listener = proctor.Listener(process.take_listener())
        made.append(Target(process, reader, listener))
        host.add(listener, container)
        return made[-1]

    yield go
    for each in made:
        each.close()


def handler(function: Callable[[Any], Any], **options: Any) -> proctor.Handler:
    return proctor.Handler(("getppid",), function, **options)


# What handlers see ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["short", "conditions", "stalls", "async", "passed on"])
def test_handlers_see_the_container_on_every_route(target: Start, way: str) -> None:
    def count(call: proctor.Call) -> proctor.Verdict:
        state = call.container.state
        state["calls"] = state.get("calls", 0) + 1
        return proctor.answer(state["calls"])

    async def later(call: proctor.Call) -> proctor.Verdict:
        return count(call)

    chosen = {
        "short": [handler(count)],
        "conditions": [handler(count, conditions=(proctor.Condition(0, "==", 0),))],
        "stalls": [handler(stalling(count))],
        "async": [handler(later)],
        "passed on": [handler(lambda call: None), handler(count)],
    }[way]
    one, other = (Container(name, chosen, labels={"of": name}) for name in "ab")
    script = ("call", "110", "call", "110")
    assert target(one, *script).lines() == ["110 = 1", "110 = 2"]
    assert target(other, *script).lines() == ["110 = 1", "110 = 2"]
    assert target(one, "call", "110").lines() == ["110 = 3"], "its second listener shares its state"


def test_a_call_that_is_over_still_says_whose_it_was(target: Start) -> None:
    kept: list[proctor.Call] = []

    def keep(call: proctor.Call) -> proctor.Verdict:
        kept.append(call)
        return proctor.answer(7)

    web = Container("web", [handler(keep)])
    assert target(web, "call", "110").lines() == ["110 = 7"]
    assert kept[0].container is web


def test_observers_are_told_of_containers(
    caller: str, make_world: Callable[..., KernelWorld]
) -> None:
    told: list[Any] = []

    def observe(event: Any) -> None:
        told.append(event)

    observe.events = (ContainerAdded, ContainerEnded)  # type: ignore[attr-defined]
    web = Container("web", [handler(lambda call: proctor.answer(7))])
    program = proctor.filter_for(web.handlers or ())
    assert program is not None
    with proctor.Supervisor(world=make_world(), observers=[observe]).start() as supervisor:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        two = [
            launch([caller, "wait"], program=program.compile().code, fds=((reader, 0),))
            for _ in range(2)
        ]
        for process in two:
            supervisor.add(proctor.Listener(process.take_listener()), web)
        for process in two:
            process.kill()
            process.wait(30)
            process.close()
        assert supervisor.wait(30)
        os.close(reader)
        os.close(writer)
    assert told == [ContainerAdded(web), ContainerEnded(web, "ended")]


def test_an_end_that_is_just_being_told_is_told_before_all_is_closed(
    caller: str, make_world: Callable[..., KernelWorld]
) -> None:
    """Whoever tells it has stalled, and another thread closes everything: the observer may be closed behind that."""
    told: list[Any] = []
    begun, closing, closed = threading.Event(), threading.Event(), threading.Event()

    def observe(event: Any) -> None:
        begun.set()
        closing.wait(30)
        while not (closed.is_set() or supervisor._ended._waiters):  # type: ignore[attr-defined]
            os.sched_yield()
        told.append(event)

    observe.events = (ContainerEnded,)  # type: ignore[attr-defined]
    web = Container("web", [handler(lambda call: proctor.answer(7))])
    program = proctor.filter_for(web.handlers or ())
    assert program is not None
    supervisor = proctor.Supervisor(world=make_world(), observers=[observe]).start()
    process = launch([caller, "wait"], program=program.compile().code)
    supervisor.add(proctor.Listener(process.take_listener()), web)
    process.kill()
    process.wait(30)
    process.close()
    assert begun.wait(30)
    supervisor.on_close(closing.set)
    supervisor.close()
    found = [*told]
    closed.set()
    assert found == [ContainerEnded(web, "ended")]


def test_quotas_are_numbers_of_something() -> None:
    for wrong in (
        Quotas(workers=0),
        Quotas(calls=0),
        Quotas(performers=-1),
        Quotas(rate=float("nan")),
    ):
        with pytest.raises(ValueError, match="at least one is needed"):
            Container("x", quotas=wrong)


# What they take --------------------------------------------------------------------------------------


def test_a_container_that_holds_all_its_workers_takes_nothing_from_another(target: Start) -> None:
    """Once more as many are begun while nobody has seen that they stall: who looked when one of them had no processor has not."""
    entered, release = threading.Semaphore(0), threading.Event()

    def stuck(call: proctor.Call) -> proctor.Verdict:
        entered.release()
        release.wait(60)
        return proctor.answer(1)

    def slow(call: proctor.Call) -> proctor.Verdict:
        return proctor.answer(2)

    greedy = Container("greedy", [handler(stuck)], quotas=Quotas(workers=3))
    modest = Container("modest", [handler(slow)])
    try:
        held = target(greedy, "thread", "20", "110")
        for _ in range(3):
            assert entered.acquire(timeout=30)
        assert target(modest, "thread", "8", "110").lines() == ["2"] * 8
        more = [entered.acquire(blocking=False) for _ in range(4)]
        assert sum(more) <= 3, "it has more workers than its quota"
    finally:
        release.set()
    assert held.lines() == ["1"] * 20


def test_a_container_always_gets_a_worker(
    caller: str, make_world: Callable[..., KernelWorld]
) -> None:
    """Though others hold all that there are."""
    release = threading.Event()
    entered = threading.Semaphore(0)

    def stuck(call: proctor.Call) -> proctor.Verdict:
        entered.release()
        release.wait(60)
        return proctor.answer(1)

    program = proctor.filter_for([handler(stuck)])
    assert program is not None
    code = program.compile().code
    with proctor.Supervisor(world=make_world(workers=2)).start() as supervisor:
        targets = []
        try:
            for name in ("a", "b", "c"):
                target = launch([caller, "thread", "4", "110"], program=code, fds=())
                targets.append(target)
                container = Container(name, [handler(stuck)])
                supervisor.add(proctor.Listener(target.take_listener()), container)
                assert entered.acquire(timeout=30)
        finally:
            release.set()
            for target in targets:
                target.kill()
                target.close()


def test_calls_beyond_the_quota_are_denied(
    caller: str, make_world: Callable[..., KernelWorld]
) -> None:
    refused, release = threading.Semaphore(0), threading.Event()

    def stuck(call: proctor.Call) -> proctor.Verdict:
        release.wait(60)
        return proctor.answer(1)

    def observe(outcome: proctor.Outcome) -> None:
        if outcome.decided_by == "quota":
            refused.release()

    chosen = [handler(stuck)]
    program = proctor.filter_for(chosen)
    assert program is not None
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with (
        proctor.Supervisor(world=make_world(), observers=[proctor.outcomes(observe)]) as supervisor,
        launch(
            [caller, "thread", "9", "110"], program=program.compile().code, fds=((writer, 1),)
        ) as process,
        open(reader) as file,
    ):
        os.close(writer)
        quotas = Quotas(workers=2, calls=5)
        supervisor.add(
            proctor.Listener(process.take_listener()), Container("few", chosen, quotas=quotas)
        )
        supervisor.start()
        try:
            for _ in range(4):
                assert refused.acquire(timeout=30)
        finally:
            release.set()
        assert sorted(file.read().splitlines()) == [f"-{errno.ENOMEM}"] * 4 + ["1"] * 5


# How fast ---------------------------------------------------------------------------------------------


#: A call that is not begun.
KIND = Kind(slow=False, begun=False)


def test_a_rate_in_virtual_time() -> None:
    share = Share(Quotas(rate=100))
    begun = 0
    for tick in range(10_000):  # a millisecond each; more is wanted than may be had
        now = tick / 1000
        while share.delay(now, KIND) == 0.0:
            share.begin(KIND, now)
            begun += 1
    assert 1000 <= begun <= 1011
    wait = share.delay(9.999, KIND)
    assert wait is not None
    assert 0 < wait <= 0.01
    share.limit(Quotas())
    assert share.delay(10.0, KIND) == 0.0
    assert not share.watchful


def test_a_slow_rate_is_not_none() -> None:
    share = Share(Quotas(rate=1))
    share.begin(KIND, 0.0)
    assert share.delay(0.0, KIND) == 0.0
    share.begin(KIND, 0.0)
    assert share.delay(0.0, KIND) == 1.0


def test_a_flood_takes_its_share_only(target: Start, host: proctor.Supervisor) -> None:
    """By the clock of whoever counts: bounds that hold however slow the machine is."""
    began = time.monotonic()
    counts = {"flood": 0, "modest": 0}

    def count(call: proctor.Call) -> proctor.Verdict:
        counts[call.container.name] += 1
        return proctor.answer(7)

    rate = 5.0
    flood = Container("flood", [handler(count)], quotas=Quotas(rate=rate))
    modest = Container("modest", [handler(count)])
    held = target(flood, "thread", "64", "110")
    assert target(modest, *("call", "110") * 2000).lines() == ["110 = 7"] * 2000
    had, passed = counts["flood"], time.monotonic() - began
    assert had <= rate * (passed + 0.1) + 2
    host.limit(flood, Quotas())
    assert held.lines() == ["7"] * 64


# Whose turn it is --------------------------------------------------------------------------------------


def _job(tid: int, served: Served, at: float = 0.0) -> Job:
    notification = Notification(tid, tid, 110, X86_64)
    return Job(proctor.Call(notification, served.listener), (), served, at)


def _served(share: Share) -> Served:
    return Served(None, Container(), share, number=5)  # type: ignore[arg-type]


def test_callers_share_by_what_they_took() -> None:
    share = Share(Quotas())
    served = _served(share)
    for tid in range(1, 41):
        share.put(_job(tid, served))
    for _ in range(100):  # they call again and again, and each call takes a second
        job = share.take()
        assert job is not None
        share.spent(job, 1.0)
        share.put(_job(job.tid, served))
    fresh = _job(99, served)
    share.put(fresh)
    assert share.take() is fresh


def test_nobody_waits_for_ever_behind_newcomers() -> None:
    share = Share(Quotas())
    served = _served(share)
    old = _job(1, served)
    share.put(old)
    assert share.take() is old
    share.spent(old, 1.0)
    old = _job(1, served)
    share.put(old)
    for tid in range(2, 1000):  # each makes one call, which costs as much
        share.put(_job(tid, served))
        job = share.take()
        assert job is not None
        if job is old:
            break
        share.spent(job, 1.0)
    else:
        raise AssertionError("newcomers went before it, one after another")


def test_callers_that_share_an_account_are_served_as_they_came() -> None:
    """Those without a number, from another pid namespace: what one of them took meanwhile is not forgotten,
    or all that come later go first."""
    share = Share(Quotas())
    served = _served(share)
    first, second, third = (_job(0, served) for _ in range(3))
    share.put(first)
    share.spent(_job(0, served), 1.0)
    share.put(second)
    assert share.take() is first
    share.put(third)
    assert share.take() is second
    assert share.take() is third


def test_what_was_spent_on_the_dead_is_not_spent_on_who_has_their_number_now() -> None:
    share = Share(Quotas())
    served = _served(share)
    died = _job(1, served, at=1.0)
    share.put(died)
    assert share.take() is died
    assert share.doubted(_job(1, served, at=2.0)) is None, "nothing was spent yet"
    share.spent(died, 1.0)
    assert share.doubted(_job(1, served, at=1.0)) is None, "it was spent on this very call"
    assert share.doubted(_job(2, served, at=3.0)) is None
    new, other = _job(1, served, at=3.0), _job(2, served, at=3.0)
    assert share.doubted(new) == 1.0
    share.put(new, anew=True)
    share.put(other)
    assert share.take() is new
    # the first one's thread is let go late, of an even older call: the account is not of the new one alone
    share.spent(_job(1, served, at=0.5), 1.0)
    assert share.doubted(_job(1, served, at=4.0)) == 0.5


def test_little_that_was_spent_is_nobodys_question() -> None:
    share = Share(Quotas())
    served = _served(share)
    job = _job(1, served, at=1.0)
    share.spent(job, 0.001)
    assert share.doubted(_job(1, served, at=2.0)) is None
    share.spent(job, 0.005)
    assert share.doubted(_job(1, served, at=2.0)) == 1.0


def test_callers_without_a_number_are_not_told_apart() -> None:
    share = Share(Quotas())
    served = _served(share)
    share.spent(_job(0, served, at=1.0), 1.0)
    assert share.doubted(_job(0, served, at=2.0)) is None


@pytest.mark.root
def test_a_new_thread_pays_nothing_for_the_dead_one_whose_number_it_has(
    target: Start, host: proctor.Supervisor
) -> None:
    """It has its turn as it came, before another newcomer."""
    if os.geteuid() != 0:
        pytest.skip("choosing thread ids takes root")
    order: list[int] = []
    entered, release = threading.Event(), threading.Event()

    def slow(call: proctor.Call) -> proctor.Verdict:
        which = call.registers[0]
        if which == 0:  # of who dies
            while host.taken(container) != (1, 1):
                os.sched_yield()
            enough = time.thread_time() + 0.01  # that is charged, and its number known for stalling
            while time.thread_time() < enough:
                pass
            parent = int(Path(f"/proc/{call.tid}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(parent, signal.SIGSTOP)  # the other one with its number is born later
            os.kill(call.tid, signal.SIGKILL)
        elif which == 2:
            entered.set()
            release.wait(30)
        order.append(which)
        return proctor.answer(which)

    container = Container("c", [handler(stalling(slow))], quotas=Quotas(workers=1))
    again = target(container, "again", "110")

    def until(calls: int, threads: int) -> None:
        give_up = time.monotonic() + 30
        while host.taken(container) != (calls, threads) or not order:
            assert time.monotonic() < give_up, (host.taken(container), order)
            os.sched_yield()

    try:
        until(0, 0)
        holds = target(container, "call", "110", "2")
        assert entered.wait(30)
        until(1, 1)
        again.process.send_signal(signal.SIGCONT)
        until(2, 1)
        last = target(container, "call", "110", "3")
        until(3, 1)
    finally:
        release.set()
    assert [each.lines() for each in (again, holds, last)] == [
        ["110 = 1"],
        ["110 = 2"],
        ["110 = 3"],
    ]
    assert order == [0, 2, 1, 3]


class _Waits:
    """A thread that waits for something.

    :param queue: it is a processor, for so many seconds whenever it is asked."""

    def __init__(self, queue: float = 0.0) -> None:
        self._queue, self._queued = queue, 0.0

    def __call__(self) -> float:
        return 0.0

    def runs(self) -> bool:
        return False

    def queued(self) -> float:
        self._queued += self._queue
        return self._queued


class _Computes(_Waits):
    """A thread that computes, where it has a processor: as far as is said."""

    used = 0.0

    def __call__(self) -> float:
        return self.used

    def runs(self) -> bool:
        return True


def test_threads_without_a_processor_compute_all_the_same() -> None:
    """Or a machine that has none to spare has as many of them as there may be, and whoever receives is one more of those
    that want one."""
    share = Share(Quotas())
    served = _served(share)
    for tid in range(1, 5):
        share.hold(_job(tid, served), _Computes(), 0.0)
    assert share.delay(0.3, KIND), "another one is to wait"
    assert share.delay(LONGEST + 0.1, KIND) == 0.0, "for a moment"
    blocked = Share(Quotas())
    for tid in range(1, 5):
        blocked.hold(_job(tid, _served(blocked)), _Waits(), 0.0)
    assert blocked.delay(0.3, KIND) == 0.0, "for one that is blocked nobody waits"


def test_who_computes_little_has_his_turn_soon_though_all_take_long() -> None:
    """The calls of forty take twenty milliseconds of a processor, another one's one; where there is none to spare, each of
    them takes a second.  He waits for two of the others, not for all."""
    share, now = Share(Quotas()), 0.0
    served = _served(share)
    plain = 41
    for tid in range(1, plain + 1):
        share.put(_job(tid, served))
    turns, others = [], 0
    for _ in range(10 * plain):  # they call again and again
        job = share.take()
        assert job is not None
        pulse = _Computes(queue=0.97)
        hold = share.hold(job, pulse, now)
        pulse.used += 0.001 if job.tid == plain else 0.02
        now += 1.0
        share.let_go(hold, now)
        share.put(_job(job.tid, served))
        if job.tid == plain:
            turns.append(others)
        others = 0 if job.tid == plain else others + 1
    assert turns.pop(0) == plain - 1, "the first time each is a newcomer"
    assert max(turns) <= 3
    assert len(turns) > plain


def test_what_blocks_is_paid_for_where_there_is_no_other_thread() -> None:
    for workers, order in ((1, [2, 1]), (2, [1, 2])):
        share = Share(Quotas(workers=workers))
        served = _served(share)
        share.let_go(share.hold(_job(1, served), _Waits(), 0.0), 1.0)
        for tid in (1, 2):
            share.put(_job(tid, served))
        assert [job and job.tid for job in (share.take(), share.take())] == order


def test_whoever_gives_the_role_up_pays_from_the_beginning(
    target: Start, host: proctor.Supervisor
) -> None:
    """However long the next one is in coming, who is to see that it stalls: it may be over before that."""
    burnt: list[float] = []

    def slow(call: proctor.Call) -> proctor.Verdict:
        began = time.thread_time()
        host._engine.wake()  # the role is needed
        while time.thread_time() < began + 0.02:
            pass
        burnt.append(time.thread_time() - began)
        return proctor.answer(7)

    container = Container("c", [handler(slow)])
    share = host._decider.backlog.share(container)
    for _ in range(2):  # the first time it is not known for stalling
        with host._decider._lock:
            share._accounts.clear()
        assert target(container, "call", "110", "0").lines() == ["110 = 7"]
        give_up, paid = time.monotonic() + 30, [0.0]
        while paid == [0.0]:
            assert time.monotonic() < give_up
            os.sched_yield()
            with host._decider._lock:
                paid = [spent for spent, _ in share._accounts.values()] or paid
        assert share.slow
    assert paid[0] >= burnt[1]


def test_a_short_wait_after_giving_the_role_up_is_no_stall() -> None:
    """Otherwise a number that stalled once would be known for it for ever, where all its calls wait
    shortly, for an executor."""
    share = Share(Quotas())
    served = _served(share)
    hold = share.hold(stalled := _job(1, served), _Waits(), 0.0)
    assert share.is_slow(stalled)
    share.let_go(hold, 1.0)
    for number in range(100):
        if not share.is_slow(stalled):
            break
        hold = share.hold(again := _job(1, served), _Waits(), float(number))
        share.let_go(hold, number + 0.0001)
        share.was_quick(number_of(again))
    else:
        raise AssertionError("it is known for ever")
    # one that does stall is known for longer
    hold = share.hold(stalled, _Waits(), 0.0)
    share.was_quick(number_of(stalled))
    share.let_go(hold, 1.0)
    share.let_go(share.hold(stalled, _Waits(), 2.0), 3.0)
    for _ in range(10):
        share.was_quick(number_of(stalled))
    assert share.is_slow(stalled)


def test_a_wait_for_a_processor_is_no_stall() -> None:
    """Otherwise all numbers of a busy machine are known for stalling for ever, once something has stalled."""
    share = Share(Quotas())
    served = _served(share)
    share.let_go(share.hold(stalled := _job(1, served), _Waits(), 0.0), 1.0)
    for number in range(7):
        share.let_go(share.hold(stalled, _Waits(0.999), float(number)), number + 1.0)
        share.was_quick(number_of(stalled))
    assert share.is_slow(stalled)
    share.was_quick(number_of(stalled))
    assert not share.is_slow(stalled)


def test_a_wait_for_a_processor_is_seen() -> None:
    """That of this thread, beside one that leaves it none."""
    allowed = os.sched_getaffinity(0)
    pulse = KernelWorld().pulse()
    before = pulse.queued()
    with open("/proc/self/schedstat") as file:
        counted = file.read() != "0 0 0\n"
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(other.pid, {min(allowed)})
        os.sched_setaffinity(0, {min(allowed)})
        used = time.thread_time()
        while time.thread_time() < used + 0.1:
            pass
    finally:
        os.sched_setaffinity(0, allowed)
        other.kill()
        other.wait()
    assert not counted or pulse.queued() > before
    assert pulse.runs()


def test_what_stalled_keeps_no_other_number_from_the_shortest_way() -> None:
    share = Share(Quotas())
    served = _served(share)
    hold = share.hold(stalled := _job(1, served), _Waits(), 0.0)
    assert share.watchful
    share.let_go(hold, 1.0)
    assert share.is_slow(stalled) and not share.watchful


def test_accounts_are_bounded() -> None:
    share = Share(Quotas())
    served = _served(share)
    for tid in range(1, 5000):
        share.put(_job(tid, served))
        job = share.take()
        assert job is not None
        share.spent(job, 0.001)
        share.put(answered := _job(tid, served))
        assert share.take_out(answered)
    assert len(share._accounts) < 200
    assert all(len(queue) < 200 for queue in share._queues.values())


# Other handlers ------------------------------------------------------------------------------------------


def test_replaced_handlers_are_old_or_new_and_never_both(
    target: Start, host: proctor.Supervisor
) -> None:
    """Each set answers with its own number, given by one handler and taken by the next."""

    def pair(number: int) -> list[proctor.Handler]:
        def first(call: proctor.Call) -> None:
            call.container.state[call.id] = number

        def second(call: proctor.Call) -> proctor.Verdict:
            return proctor.answer(100 * call.container.state.pop(call.id) + number)

        return [handler(first), handler(second)]

    web = Container("web", pair(1))
    running = target(web, "fork", "fork", "values", "500", "110")
    changes = 1
    while host.listeners and changes < 3000:
        changes += 1
        try:
            host.replace(running.listener, pair(1 + changes % 9))
        except ValueError:
            break  # its end was faster
    seen = {int(line) for line in running.lines()}
    assert seen <= {101 * number for number in range(1, 10)}


def test_replacing_the_handlers_of_a_listener_that_is_not_served(host: proctor.Supervisor) -> None:
    class Listener:
        def fileno(self) -> int:
            return 1 << 20

    with pytest.raises(ValueError, match="not served here"):
        host.replace(Listener(), [])  # type: ignore[arg-type]


def test_a_call_that_waits_keeps_its_handlers(target: Start, host: proctor.Supervisor) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(call: proctor.Call) -> proctor.Verdict:
        entered.set()
        release.wait(30)
        return proctor.answer(1)

    web = Container("web", [handler(slow)])
    running = target(web, "call", "110", "call", "110")
    assert entered.wait(30)
    host.replace(running.listener, [handler(lambda call: proctor.answer(2))])
    release.set()
    assert running.lines() == ["110 = 1", "110 = 2"]


# Calls from elsewhere --------------------------------------------------------------------------------------


class Port:
    """Remembers what is answered."""

    def __init__(self) -> None:
        self.sent: dict[int, tuple[int, int, int]] = {}
        self.answered = threading.Semaphore(0)

    def fileno(self) -> int:
        return -1

    def id_valid(self, id: int) -> bool:
        return id not in self.sent

    def send(self, id: int, value: int, error: int, flags: int) -> bool:
        assert id not in self.sent
        self.sent[id] = (value, error, flags)
        self.answered.release()
        return True


def test_submitted_calls_are_decided_in_their_callers_order(host: proctor.Supervisor) -> None:
    port: Any = Port()
    order: list[int] = []

    def note(call: proctor.Call) -> proctor.Verdict:
        order.append(call.id)
        return proctor.answer(call.container.state["add"] + call.id)

    web = Container("web", [handler(note)], state={"add": 1000})
    notifications = [Notification(id, 1 + id % 3, 110, X86_64) for id in range(300)]

    def give(mine: int) -> None:
        for each in notifications:
            if each.pid == mine:
                host.submit(each, port, web)

    threads = [threading.Thread(target=give, args=(tid,)) for tid in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for _ in notifications:
        assert port.answered.acquire(timeout=30)
    for thread in threads:
        thread.join()
    assert port.sent == {id: (1000 + id, 0, 0) for id in range(300)}
    for tid in range(3):
        mine = [id for id in order if id % 3 == tid]
        assert mine == sorted(mine)


def test_what_was_submitted_is_answered_at_the_end(
    make_world: Callable[..., KernelWorld],
) -> None:
    port: Any = Port()
    entered, release = threading.Event(), threading.Event()

    def stuck(call: proctor.Call) -> proctor.Verdict:
        entered.set()
        release.wait(30)
        return proctor.answer(1)

    supervisor = proctor.Supervisor([handler(stuck)], world=make_world()).start()
    container = Container()
    for id in (1, 2):
        supervisor.submit(Notification(id, 7, 110, X86_64), port, container)
    assert entered.wait(30)
    supervisor.close()
    release.set()
    assert port.sent == {1: (0, -errno.ENOSYS, 0), 2: (0, -errno.ENOSYS, 0)}
    with pytest.raises(RuntimeError, match="closed"):
        supervisor.submit(Notification(3, 7, 110, X86_64), port, container)


def test_what_was_submitted_is_not_kept_once_it_is_answered(host: proctor.Supervisor) -> None:
    """Its port may hold descriptors of a container that is over: neither a deadline in an hour, nor what was awaited
    until then, nor the list of those that waited has it."""
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(50)]

    def waits(call: proctor.Call) -> proctor.Later:
        return proctor.Later(pipes[call.id][0], lambda: proctor.answer(1), lambda: None, 3600.0)

    container = Container(handlers=[proctor.Handler(("getppid",), waits, deadline=3600.0)])
    ports: list[Any] = []
    for id in range(50):
        ports.append(Port())
        host.submit(Notification(id, 7 + id % 10, 110, X86_64), ports[id], container)
    for id, (reading, writing) in enumerate(pipes):
        os.write(writing, b"x")
        assert ports[id].answered.acquire(timeout=30)
        os.close(writing)
        pipes[id] = (reading, -1)
    kept = [weakref.ref(port) for port in ports]
    ports.clear()
    until = time.monotonic() + 30
    while sum(each() is not None for each in kept) > 2:  # a thread may have the last one still
        assert time.monotonic() < until, sum(each() is not None for each in kept)
        gc.collect()
        time.sleep(0.01)
    for reading, _ in pipes:
        os.close(reading)

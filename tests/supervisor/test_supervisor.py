"""What the supervisor promises, on the real kernel and on both engines."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import proctor
from proctor.supervisor.world import KernelWorld
from tests.support.stalling import stalling

from .conftest import lines

# Numbers that belong to no system call: nothing but the test's target makes them.
INVENTED = 4242


def handler(function: Callable[[Any], Any], nr: int = 110, **options: Any) -> proctor.Handler:
    """A handler for getppid (110), which takes no arguments the kernel would look at."""
    return proctor.Handler(("getppid",), function, **options)


def test_answers_values_and_errnos(start: Callable[..., proctor.Process]) -> None:
    def one(call: proctor.Call) -> proctor.Verdict:
        return (
            proctor.answer(call.registers[0])
            if call.registers[0] < 100
            else proctor.deny(errno.EXDEV)
        )

    process = start("call", "110", "7", "call", "110", "100", handlers=[handler(one)])
    assert lines(process) == ["110 = 7", f"110 = -{errno.EXDEV}"]
    assert process.returncode == 0


@pytest.mark.parametrize("stalls", [False, True])
def test_first_verdict_wins_and_none_means_the_next(
    start: Callable[..., proctor.Process], stalls: bool
) -> None:
    asked: list[str] = []

    def never(call: proctor.Call) -> None:
        asked.append("never")

    def seven(call: proctor.Call) -> proctor.Verdict:
        asked.append("seven")
        return proctor.answer(7)

    def eight(call: proctor.Call) -> proctor.Verdict:
        asked.append("eight")
        return proctor.answer(8)

    handlers = [handler(never), handler(stalling(seven) if stalls else seven), handler(eight)]
    assert lines(start("call", "110", handlers=handlers)) == ["110 = 7"]
    assert asked == ["never", "seven"]


def test_no_verdict_at_all_lets_the_kernel_run_it(start: Callable[..., proctor.Process]) -> None:
    process = start("call", "110", handlers=[handler(lambda call: None)])
    assert lines(process) == [f"110 = {os.getpid()}"]


@pytest.mark.parametrize("stalls", [False, True])
def test_no_verdict_is_the_default_whatever_that_is(
    start: Callable[..., proctor.Process], stalls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    script = ("call", "110", "1", "call", "110", "2", "call", "110", "1")

    def two(call: proctor.Call) -> proctor.Verdict | None:
        return proctor.answer(2) if call.registers[0] == 2 else None

    default = proctor.deny(errno.EXDEV)
    process = start(*script, handlers=[handler(stalling(two) if stalls else two)], default=default)
    assert lines(process) == [f"110 = -{errno.EXDEV}", "110 = 2", f"110 = -{errno.EXDEV}"]

    def look(call: proctor.Call) -> None:
        call.memory.read_some(0x1000, 0)  # counts as looking

    process = start("call", "110", handlers=[handler(stalling(look) if stalls else look)])
    assert lines(process) == [f"110 = -{errno.EPERM}"]  # the default, let_run(), would be racy
    said = f"memory was looked at, {look.__qualname__} (test_supervisor.py:{look.__code__.co_firstlineno}) had no verdict"
    assert said in caplog.text or stalls
    assert 'return proctor.let_run_unsafe("why"), or give that as the default' in caplog.text


@pytest.mark.parametrize("kind", ["short", "stalls", "async"])
def test_c127_handler_exception_gives_the_configured_verdict(
    start: Callable[..., proctor.Process], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(call: proctor.Call) -> proctor.Verdict:
        raise ZeroDivisionError("a bug in the handler")

    async def bad_later(call: proctor.Call) -> proctor.Verdict:
        await asyncio.sleep(0)
        raise ZeroDivisionError("a bug in the handler")

    chosen = handler(
        {"short": bad, "stalls": stalling(bad), "async": bad_later}[kind],
        label=bad_later.__qualname__ if kind == "async" else bad.__qualname__,
    )
    process = start(
        "call", "110", "call", "110", handlers=[chosen], on_error=proctor.deny(errno.ENOTTY)
    )
    assert lines(process) == [f"110 = -{errno.ENOTTY}"] * 2
    assert "a bug in the handler" in caplog.text


def test_memory_that_cannot_be_read_is_one_line_in_the_log(
    start: Callable[..., proctor.Process], caplog: pytest.LogCaptureFixture
) -> None:
    """A bad pointer is the target's doing, not a mistake of the handler's."""

    def read(call: proctor.Call) -> proctor.Verdict:
        return proctor.answer(len(call.path))

    process = start("call", "84", "8", handlers=[proctor.Handler(("rmdir",), read)])
    assert lines(process) == [f"84 = -{errno.EPERM}"]
    (record,) = caplog.records
    assert "rmdir" in record.getMessage()
    assert "deny EPERM" in record.getMessage()
    assert not record.exc_info or record.exc_info == (None, None, None)


@pytest.mark.parametrize("when", [("mode", "==", 0), ["mode"], [None]])
def test_what_is_no_condition_is_refused(when: Any) -> None:
    with pytest.raises(proctor.FilterError, match="is no condition"):
        proctor.on("mkdir", when=when)(lambda call: None)


@pytest.mark.parametrize("nonsense", [0, "deny", object(), proctor.deny])
def test_nonsense_is_refused_and_answered(
    start: Callable[..., proctor.Process], nonsense: object, caplog: pytest.LogCaptureFixture
) -> None:
    process = start("call", "110", handlers=[handler(lambda call: nonsense)])
    assert lines(process) == [f"110 = -{errno.EPERM}"]
    assert "return proctor.deny()" in caplog.text


def test_system_exit_in_a_handler_does_not_hang_the_caller(
    start: Callable[..., proctor.Process],
) -> None:
    def leave(call: proctor.Call) -> proctor.Verdict:
        raise SystemExit(3)

    process = start("call", "110", "call", "110", handlers=[handler(leave)])
    assert lines(process) == [f"110 = -{errno.EPERM}"] * 2


def test_letting_run_after_looking_is_refused_unless_said(
    start: Callable[..., proctor.Process], caplog: pytest.LogCaptureFixture
) -> None:
    def look(call: proctor.Call) -> proctor.Verdict:
        assert call.path == b"/nonexistent"
        return proctor.let_run()

    def look_and_say(call: proctor.Call) -> proctor.Verdict:
        assert call.path == b"/nonexistent"
        return proctor.let_run_unsafe("a test")

    rmdir = 84
    process = start(
        "string", "/nonexistent", str(rmdir), handlers=[proctor.Handler(("rmdir",), look)]
    )
    assert lines(process) == [f"84 = -{errno.EPERM}"]
    assert "let_run_unsafe" in caplog.text
    process = start(
        "string", "/nonexistent", str(rmdir), handlers=[proctor.Handler(("rmdir",), look_and_say)]
    )
    assert lines(process) == [f"84 = -{errno.ENOENT}"]


def test_a_call_is_dead_after_its_verdict(start: Callable[..., proctor.Process]) -> None:
    kept: list[proctor.Call] = []

    def keep(call: proctor.Call) -> proctor.Verdict:
        kept.append(call)
        return proctor.answer(0)

    lines(start("call", "110", handlers=[handler(keep)]))
    with pytest.raises(proctor.CallOver):
        _ = kept[0].caller
    with pytest.raises(proctor.CallOver):
        kept[0].valid()


def test_workers_run_side_by_side(start: Callable[..., proctor.Process]) -> None:
    together = threading.Barrier(8, timeout=20)

    def meet(call: proctor.Call) -> proctor.Verdict:
        together.wait()
        return proctor.answer(call.registers[0])

    process = start("thread", "8", "110", handlers=[handler(meet)], world={"workers": 8})
    assert lines(process) == [str(n) for n in range(8)]


def test_coroutines_run_side_by_side(start: Callable[..., proctor.Process]) -> None:
    waiting: list[asyncio.Future[None]] = []

    async def meet(call: proctor.Call) -> proctor.Verdict:
        future = asyncio.get_running_loop().create_future()
        waiting.append(future)
        if len(waiting) == 16:
            for one in waiting:
                one.set_result(None)
        await future
        return proctor.answer(call.registers[0])

    assert lines(start("thread", "16", "110", handlers=[handler(meet)])) == [
        str(n) for n in range(16)
    ]


def test_more_calls_than_workers_are_all_answered(start: Callable[..., proctor.Process]) -> None:
    process = start(
        "thread", "40", "110", "thread", "40", "110",
        handlers=[handler(lambda call: proctor.answer(call.registers[0]))],
        world={"workers": 2},
    )  # fmt: skip
    assert lines(process) == [str(n) for n in range(40)] * 2


def test_deadline_answers_in_the_handlers_place(start: Callable[..., proctor.Process]) -> None:
    release = threading.Event()
    late: list[bool] = []

    def slow(call: proctor.Call) -> proctor.Verdict:
        release.wait(30)
        late.append(True)
        return proctor.answer(1)

    process = start(
        "call", "110", "call", "110",
        handlers=[handler(slow, deadline=0.05)],
        on_deadline=proctor.deny(errno.ETIME),
    )  # fmt: skip
    try:
        assert lines(process) == [f"110 = -{errno.ETIME}"] * 2
    finally:
        release.set()


def test_a_handler_overtaken_by_its_deadline_makes_no_noise(
    start: Callable[..., proctor.Process], caplog: pytest.LogCaptureFixture
) -> None:
    release, met = threading.Event(), threading.Event()

    def slow(call: proctor.Call) -> proctor.Verdict:
        release.wait(30)
        try:
            call.valid()
        finally:
            met.set()
        return proctor.answer(1)

    process = start("call", "110", handlers=[handler(slow, deadline=0.02)])
    assert lines(process) == [f"110 = -{errno.EPERM}"]
    release.set()
    assert met.wait(20)
    process.close()
    assert "CallOver" not in caplog.text


def test_late_verdicts_close_their_descriptors(start: Callable[..., proctor.Process]) -> None:
    release, closed = threading.Event(), threading.Event()
    reader, writer = os.pipe()

    def slow(call: proctor.Call) -> proctor.Verdict:
        release.wait(30)
        return proctor.hand_over(writer)

    process = start("call", "110", handlers=[handler(slow, deadline=0.02)])
    assert lines(process) == [f"110 = -{errno.EPERM}"]
    release.set()
    threading.Thread(target=lambda: (os.read(reader, 1), closed.set()), daemon=True).start()
    assert closed.wait(20), "the descriptor given away was not closed"
    os.close(reader)


def test_interrupted_caller_calls_again_in_order(start: Callable[..., proctor.Process]) -> None:
    """Without WAIT_KILLABLE a signal cancels the call and SA_RESTART makes it again, under a new id:
    its second handler must not overtake, or run beside, the first."""
    running: list[int] = []
    seen: list[int] = []
    most: list[int] = []
    first, ready = threading.Event(), threading.Event()

    def slow(call: proctor.Call) -> proctor.Verdict:
        running.append(call.id)
        most.append(len(running))
        seen.append(call.id)
        if len(seen) == 1:
            first.set()
            while call.valid():  # until the signal has cancelled it, which nobody announces
                os.sched_yield()
        running.remove(call.id)
        return proctor.answer(len(seen))

    def received(outcome: proctor.Outcome) -> None:
        if not outcome.delivered:
            ready.set()

    process = start(
        "alarm", "0", "call", "110",
        handlers=[handler(slow)], wait_killable=False,
        observers=[proctor.outcomes(received)],
    )  # fmt: skip
    assert first.wait(20)
    process.send_signal(signal.SIGALRM)
    assert lines(process) == ["110 = 2"]
    assert ready.wait(20)
    assert most == [1, 1]
    assert seen[1] > seen[0]


def test_c128_closing_answers_everything_pending(
    caller: str, make_world: Callable[..., KernelWorld]
) -> None:
    entered = threading.Semaphore(0)
    forever = threading.Event()

    def stuck(call: proctor.Call) -> proctor.Verdict:
        entered.release()
        forever.wait(60)
        return proctor.answer(1)

    process = proctor.spawn(
        [caller, "thread", "12", "110"], [handler(stuck)], stdout=-1,
        world=make_world(workers=4),
    )  # fmt: skip
    for _ in range(4):
        assert entered.acquire(timeout=20)
    process.supervisor.close()  # four run, eight queue or are not even received
    try:
        assert lines(process) == [f"-{errno.ENOSYS}"] * 12
    finally:
        forever.set()
        process.close()


def test_c132_three_hundred_pending_answered_in_any_order(
    start: Callable[..., proctor.Process],
) -> None:
    waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def hold(call: proctor.Call) -> proctor.Verdict:
        future = asyncio.get_running_loop().create_future()
        waiting.append((call.registers[0], future))
        if len(waiting) % 60 == 0:
            for _, one in reversed(waiting[-60:]):
                one.set_result(None)
        await future
        return proctor.answer(call.registers[0])

    process = start("thread", "60", "110", "thread", "60", "110", "thread", "60", "110",
                    "thread", "60", "110", "thread", "60", "110", handlers=[handler(hold)])  # fmt: skip
    assert lines(process) == [str(n) for n in range(60)] * 5


def test_c125_answering_twice_is_our_error(start: Callable[..., proctor.Process]) -> None:
    raised: list[Exception] = []
    listener: list[proctor.Listener] = []
    tried = threading.Event()

    def twice(call: proctor.Call) -> proctor.Verdict:
        assert listener[0].send(call.id, 5, 0, 0)
        try:
            # The target may not have run yet (EINPROGRESS) or be gone on (an event): C051
            if listener[0].send(call.id, 6, 0, 0) is False:
                raise proctor.AlreadyAnswered("gone on")
        except proctor.AlreadyAnswered as problem:
            raised.append(problem)
        tried.set()
        return proctor.answer(7)

    process = start("wait", "call", "110", handlers=[handler(twice)])
    (served,) = process.supervisor._listeners.served.values()
    listener.append(served.listener)  # type: ignore[arg-type]
    assert process.stdin is not None
    process.stdin.write(b"x")
    assert lines(process) == ["go", "110 = 5"]
    assert tried.wait(30)
    assert len(raised) == 1


def test_c126_a_cancelled_call_is_an_event(start: Callable[..., proctor.Process]) -> None:
    outcomes: list[tuple[bool, BaseException | None]] = []
    inside = threading.Event()
    told = threading.Event()
    process: list[proctor.Process] = []

    def slow(call: proctor.Call) -> proctor.Verdict:
        process[0].kill()
        process[0].wait(20)
        inside.set()
        return proctor.answer(1)

    def observe(outcome: proctor.Outcome) -> None:
        outcomes.append((outcome.delivered, outcome.error))
        told.set()

    process.append(
        start(
            "wait",
            "call",
            "110",
            handlers=[handler(slow)],
            observers=[proctor.outcomes(observe)],
        )
    )
    assert process[0].stdin is not None
    process[0].stdin.write(b"x")
    assert inside.wait(20)
    assert told.wait(20)
    assert outcomes == [(False, None)]


def test_c129_given_descriptors_are_closed_exactly_once(
    start: Callable[..., proctor.Process],
) -> None:
    """On every path: delivered, at the target's limit, caller gone, bad number."""
    memfd = os.memfd_create("shared")
    os.write(memfd, b"x")
    closed: list[int] = []
    given: list[int] = []

    def hand(call: proctor.Call) -> proctor.Verdict:
        fd = os.dup(memfd)
        given.append(fd)
        return proctor.hand_over(fd, at=10**6 if call.registers[0] == 1 else None)

    def observe(outcome: proctor.Outcome) -> None:
        try:
            found = os.fstat(given[-1])
        except OSError:
            closed.append(given[-1])
            return
        if not os.path.samestat(found, os.fstat(memfd)):
            closed.append(given[-1])  # the number is somebody else's already

    process = start(
        "fds",
        "50",
        "110",
        "call",
        "110",
        "1",
        handlers=[handler(hand)],
        observers=[proctor.outcomes(observe)],
    )
    assert lines(process) == ["ok", f"110 = -{errno.EBADF}"]
    process.close()  # the last outcome has been told once the supervisor has ended
    assert closed == given
    os.close(memfd)


def test_descriptor_kept_by_its_giver_stays_open(start: Callable[..., proctor.Process]) -> None:
    memfd = os.memfd_create("kept")
    os.write(memfd, b"x")
    process = start(
        "fds", "20", "110", handlers=[handler(lambda call: proctor.hand_over(memfd, close=False))]
    )
    assert lines(process) == ["ok"]
    os.fstat(memfd)
    os.close(memfd)


def test_end_of_life_forgets_and_closes_the_listener(start: Callable[..., proctor.Process]) -> None:
    process = start("wait", "call", "110", handlers=[handler(lambda call: proctor.answer(3))])
    (served,) = process.supervisor._listeners.served.values()
    out, _ = process.communicate(b"\n", timeout=30)
    assert out is not None and out.decode().splitlines() == ["go", "110 = 3"]
    assert process.wait_all(20)
    assert process.supervisor.listeners == 0
    assert served.listener.closed  # type: ignore[attr-defined]


def test_descendants_keep_the_listener_alive(start: Callable[..., proctor.Process]) -> None:
    process = start(
        "fork",
        "call",
        "110",
        "5",
        handlers=[handler(lambda call: proctor.answer(call.registers[0]))],
    )
    assert lines(process) == ["110 = 5"] * 2
    assert process.wait_all(20)


def test_many_listeners_added_while_running(
    caller: str, make_world: Callable[..., KernelWorld]
) -> None:
    from proctor.kernel.launch import launch
    from proctor.process.run import filter_for

    one = handler(lambda call: proctor.answer(call.registers[0]))
    program = filter_for([one])
    assert program is not None
    code = program.compile().code
    ended = threading.Semaphore(0)
    with proctor.Supervisor([one], world=make_world()) as supervisor:
        supervisor.start()
        targets = []
        for _ in range(20):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            target = launch([caller, "loop", "200", "110"], program=code, fds=((writer, 1),))
            os.close(writer)
            supervisor.add(proctor.Listener(target.take_listener()), on_end=ended.release)
            targets.append((target, reader))
        for target, reader in targets:
            with open(reader, "rb") as file:
                assert file.read() == b"ok\n"
            assert target.wait(20) == 0
            target.close()
        assert supervisor.wait(20)
        for _ in targets:
            assert ended.acquire(timeout=20)


def test_detach_gives_the_listener_back(start: Callable[..., proctor.Process]) -> None:
    process = start("wait", "call", "110", handlers=[handler(lambda call: proctor.answer(1))])
    (served,) = process.supervisor._listeners.served.values()
    listener = served.listener
    process.supervisor.detach(listener)
    assert process.stdin is not None
    process.stdin.write(b"x")
    notification = listener.recv()
    assert notification is not None
    assert listener.send(notification.id, 9, 0, 0)
    assert lines(process) == ["go", "110 = 9"]
    listener.close()


def test_many_fast_calls(start: Callable[..., proctor.Process]) -> None:
    process = start(
        "loop", "20000", "110", handlers=[handler(lambda call: proctor.answer(call.registers[0]))]
    )
    assert lines(process) == ["ok"]


def test_descriptors_under_a_signal_timer(start: Callable[..., proctor.Process]) -> None:
    """C074 seen from above: the monitor is hit by signals, no descriptor is lost."""
    memfd = os.memfd_create("shared")
    os.write(memfd, b"x")
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        process = start(
            "fds",
            "10000",
            "110",
            handlers=[handler(lambda c: proctor.hand_over(memfd, close=False))],
        )
        found = lines(process)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found == ["ok"]
    os.close(memfd)


def test_handlers_meet_their_conditions_only(start: Callable[..., proctor.Process]) -> None:
    """Two handlers for one call, each with a condition of its own."""
    one = handler(lambda call: proctor.answer(11), conditions=(proctor.Condition(0, "==", 1),))
    two = handler(lambda call: proctor.answer(22), conditions=(proctor.Condition(0, "==", 2),))
    process = start("call", "110", "1", "call", "110", "2", "call", "110", "3", handlers=[one, two])
    assert lines(process) == ["110 = 11", "110 = 22", f"110 = {os.getpid()}"]


def test_observer_failure_is_no_failure(
    start: Callable[..., proctor.Process], caplog: pytest.LogCaptureFixture
) -> None:
    def observe(outcome: proctor.Outcome) -> None:
        raise ValueError("observer bug")

    process = start(
        "call",
        "110",
        handlers=[handler(lambda c: proctor.answer(4))],
        observers=[proctor.outcomes(observe)],
    )
    assert lines(process) == ["110 = 4"]
    process.close()
    assert "observer bug" in caplog.text


def test_stepping_by_hand(caller: str, make_world: Callable[..., KernelWorld]) -> None:
    from proctor.kernel.launch import launch
    from proctor.process.run import filter_for

    asked: list[int] = []

    def echo(call: proctor.Call) -> proctor.Verdict:
        asked.append(call.registers[0])
        return proctor.answer(call.registers[0])

    one = handler(echo)
    program = filter_for([one])
    assert program is not None
    with launch([caller, "loop", "100", "110"], program=program.compile().code) as target:
        supervisor = proctor.Supervisor([one], world=make_world())
        supervisor.add(proctor.Listener(target.take_listener()))
        # before Linux 6.11 a listener ends only once its last user was reaped
        reaper = threading.Thread(target=target.wait, daemon=True)
        reaper.start()
        received = 0
        while supervisor.listeners:
            received += supervisor.step(5)
        assert received == 100
        reaper.join(20)
        assert target.wait(20) == 0
        supervisor.close()


def test_performer_is_asked_and_its_answer_is_the_answer(
    start: Callable[..., proctor.Process],
) -> None:
    asked: list[str] = []

    def performer(call: proctor.Call, verdict: object) -> proctor.Verdict:
        asked.append(call.name)
        return proctor.answer(77)

    process = start(
        "call", "110", handlers=[handler(lambda c: proctor.perform())], performer=performer
    )
    assert lines(process) == ["110 = 77"]
    assert asked == ["getppid"]

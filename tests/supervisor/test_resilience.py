"""Nothing that handlers, observers or a hostile machine do may leave a caller waiting."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import proctor
from proctor.call.notified import Notified
from proctor.call.verdict import Answer, Deny
from proctor.observe.events import Outcome
from proctor.observe.logger import flush
from proctor.supervisor.world import KernelWorld
from tests.support.stalling import await_threads, stalling

from .conftest import lines

TWICE = ("call", "110", "call", "110")
DENIED = f"110 = -{errno.EROFS}"


def handler(function: Callable[[Any], Any], **options: Any) -> proctor.Handler:
    return proctor.Handler(("getppid",), function, **options)


def refuse(call: proctor.Call) -> proctor.Verdict:
    return proctor.deny(errno.EROFS)


@pytest.mark.parametrize("stalls", [False, True])
def test_exit_in_an_observer_ends_nothing(
    start: Callable[..., proctor.Process], stalls: bool
) -> None:
    def leave(outcome: Outcome) -> None:
        sys.exit(3)

    process = start(
        *TWICE,
        handlers=[handler(stalling(refuse) if stalls else refuse)],
        observers=[proctor.outcomes(leave)],
    )
    assert lines(process) == [DENIED] * 2


def test_caller_is_answered_if_there_is_no_memory_as_it_is_answered(
    start: Callable[..., proctor.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its id is asked for, which is a number that is made anew each time."""
    own, failed = Notified.id.fget, []  # type: ignore[attr-defined]

    def number(call: proctor.Call) -> Any:
        if sys._getframe(1).f_code.co_name == "carry_out" and not failed:
            failed.append(call)
            raise MemoryError
        return own(call)

    monkeypatch.setattr(Notified, "id", property(number))
    said = lines(
        start(*TWICE, handlers=[handler(refuse)], observers=[proctor.outcomes(lambda _: None)])
    )
    assert failed
    assert said == [f"110 = -{errno.EPERM}", DENIED]


def test_exit_at_the_end_of_one_listener_does_not_end_the_others(
    start: Callable[..., proctor.Process], caller: str
) -> None:
    from proctor.kernel.launch import launch
    from proctor.kernel.listener import Listener

    host = start("wait", "call", "110", handlers=[handler(refuse)])
    program = proctor.filter_for([handler(refuse)])
    assert program is not None
    with launch([caller, "call", "110"], program=program.compile().code, fds=()) as target:
        ended = threading.Event()

        def leave() -> None:
            ended.set()
            sys.exit(3)

        host.supervisor.add(Listener(target.take_listener()), on_end=leave)
        target.wait(30)
        assert ended.wait(30)
    out, _ = host.communicate(b"\n", timeout=30)
    assert out is not None and out.decode().splitlines()[-1] == DENIED
    assert host.wait_all(30)


@pytest.mark.parametrize("stalls", [False, True])
def test_descriptor_closed_behind_our_back(
    start: Callable[..., proctor.Process], stalls: bool
) -> None:
    class Closed:
        def close(self) -> None:
            raise OSError(errno.EBADF, "what a handler's os.close(call.caller.cwd()) leads to")

    def close(call: proctor.Call) -> proctor.Verdict:
        call._keep(Closed())
        return proctor.answer(call.registers[0])

    # more often than there are workers: none may be lost
    process = start("loop", "50", "110", handlers=[handler(stalling(close) if stalls else close)])
    assert lines(process) == ["ok"]


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("verdict", [Answer(1 << 70), Deny(-5), Deny(5000), Deny(1 << 32)])
def test_impossible_numbers_are_answered(
    start: Callable[..., proctor.Process], verdict: proctor.Verdict, stalls: bool
) -> None:
    """Verdicts that did not come from deny() and answer(), which check: a positive error would be
    a success for the caller (C055)."""
    process = start(
        *TWICE,
        handlers=[handler(stalling(lambda call: verdict) if stalls else lambda call: verdict)],
    )
    assert lines(process) == [f"110 = -{errno.EPERM}"] * 2


def test_deadline_verdict_must_be_repeatable(make_world: Callable[..., KernelWorld]) -> None:
    for verdict in (proctor.perform(), proctor.hand_over(0, close=False)):
        with pytest.raises(TypeError, match="on_deadline"):
            proctor.Supervisor(world=make_world(), deadline=1, on_deadline=verdict)


@pytest.mark.parametrize(
    "option",
    [
        {"on_error": 3},
        {"on_error": proctor.let_run()},
        {"close_verdict": proctor.answer(0)},
        {"default": 3},
        {"default": proctor.hand_over(0, close=False)},
        {"on_deadline": 0},
        {"deadline": "soon"},
        {"deadline": True},
    ],
    ids=str,
)
def test_what_is_answered_without_a_handler_is_a_verdict(option: dict[str, Any]) -> None:
    """What could not be carried out would leave callers waiting, once it is wanted."""
    with pytest.raises(TypeError, match=next(iter(option))):
        proctor.Supervisor(**option)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), -float("inf")])
def test_deadline_that_cannot_be(seconds: float) -> None:
    with pytest.raises(ValueError, match="deadline"):
        proctor.Supervisor(deadline=seconds)
    with pytest.raises(ValueError, match="deadline"):
        handler(refuse, deadline=seconds)


@pytest.mark.parametrize("seconds", [float("inf"), 1e300, 10**400])
def test_deadline_that_nobody_lives_to_see_is_none(
    start: Callable[..., proctor.Process], seconds: float
) -> None:
    slow = handler(stalling(refuse), deadline=seconds)
    assert lines(start("call", "110", handlers=[slow], deadline=seconds)) == [DENIED]


def test_denial_without_an_errno_is_none(start: Callable[..., proctor.Process]) -> None:
    """A call that is denied does not succeed."""
    process = start("call", "110", handlers=[handler(lambda call: Deny(0))])
    assert lines(process) == [f"110 = -{errno.EPERM}"]


def test_a_performer_is_called(make_world: Callable[..., KernelWorld]) -> None:
    """Said at once, and not with the first call that is to be performed."""
    with pytest.raises(TypeError, match=r"performer=<object .*>: it is called with"):
        proctor.Supervisor(world=make_world(), performer=object())  # type: ignore[arg-type]


@pytest.mark.parametrize("failures", [1, 40])
@pytest.mark.parametrize("kind", ["worker", "async"])
def test_no_threads_to_be_had(
    start: Callable[..., proctor.Process],
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
    kind: str,
) -> None:
    """What a target under our user can bring about by using up RLIMIT_NPROC."""
    real = threading.Thread.start
    started: list[str] = []
    failed: list[str] = []

    def fail(thread: threading.Thread) -> None:
        if thread.name in ("proctor-worker", "proctor-asyncio"):
            if not started:
                started.append(thread.name)  # the one without which there is no supervisor
            elif len(failed) < failures:
                failed.append(thread.name)
                raise RuntimeError("can't start new thread")
        real(thread)

    async def later(call: proctor.Call) -> proctor.Verdict:
        await asyncio.sleep(0)
        return proctor.deny(errno.EROFS)

    monkeypatch.setattr(threading.Thread, "start", fail)
    chosen = handler(later) if kind == "async" else handler(refuse)
    process = start(*TWICE, handlers=[chosen], on_error=proctor.deny(errno.EROFS))
    assert lines(process) == [DENIED] * 2
    assert failed


def test_log_handler_that_raises(start: Callable[..., proctor.Process]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(errno.ENOSPC, "no space left")

    def bad(call: proctor.Call) -> proctor.Verdict:
        raise ZeroDivisionError

    broken = Broken()
    logging.getLogger("proctor").addHandler(broken)
    try:
        process = start(*TWICE, handlers=[handler(bad)])
        assert lines(process) == [f"110 = -{errno.EPERM}"] * 2
    finally:
        logging.getLogger("proctor").removeHandler(broken)


@pytest.mark.parametrize("stalls", [False, True])
def test_log_that_cannot_be_loaded(
    start: Callable[..., proctor.Process], monkeypatch: pytest.MonkeyPatch, stalls: bool
) -> None:
    """Out of descriptors, not even a module can be loaded (EMFILE): the caller is answered anyway."""

    def bad(call: proctor.Call) -> proctor.Verdict:
        raise ZeroDivisionError

    monkeypatch.setitem(sys.modules, "logging", None)  # importing it fails
    process = start(
        *TWICE,
        handlers=[handler(stalling(bad) if stalls else bad)],
        on_error=proctor.deny(errno.EROFS),
    )
    assert lines(process) == [DENIED] * 2


def test_deadline_is_not_held_up_by_describing(start: Callable[..., proctor.Process]) -> None:
    """Describing looks at memory, which a target can make late: deadlines come through, and
    neither they nor close() look at it."""
    release = threading.Event()
    seen: list[Outcome] = []

    class Late:
        def describe(self, read: bool = True) -> str:
            if read:
                release.wait(30)
            return "late"

    def slow(call: proctor.Call) -> proctor.Verdict:
        # stands in for process_vm_readv on a page of a FUSE server that does not answer
        call.late = Late()  # type: ignore[attr-defined]
        return proctor.deny(errno.EROFS)

    real = proctor.Call.describe

    def describe(call: proctor.Call, read: bool = True) -> str:
        if isinstance(late := getattr(call, "late", None), Late):
            return late.describe(read)
        return real(call, read)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proctor.Call, "describe", describe)
        process = start(
            *TWICE,
            handlers=[handler(slow, deadline=0.05)],
            on_deadline=proctor.deny(errno.ETIMEDOUT),
            observers=[proctor.outcomes(seen.append, text=True)],
        )
        assert lines(process) == [f"110 = -{errno.ETIMEDOUT}"] * 2
        assert [outcome.text for outcome in seen] == ["late"] * 2
        release.set()


def test_answered_calls_are_not_kept_until_their_deadline(
    start: Callable[..., proctor.Process],
) -> None:
    async def same(call: proctor.Call) -> proctor.Verdict:
        return proctor.answer(call.registers[0])

    process = start("loop", "1000", "110", handlers=[handler(same, deadline=3600)])
    assert lines(process) == ["ok"]
    assert process.wait_all(30)
    assert len(process.supervisor._decider.calls._dues) < 200


def test_event_loop_gives_its_descriptors_back(start: Callable[..., proctor.Process]) -> None:
    async def later(call: proctor.Call) -> proctor.Verdict:
        await asyncio.sleep(0)
        return proctor.deny(errno.EROFS)

    async def never(call: proctor.Call) -> proctor.Verdict:
        await asyncio.Event().wait()
        raise AssertionError

    def loops() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "proctor-asyncio"]

    for chosen in (later, never):
        process = start("call", "110", handlers=[handler(chosen)])
        if chosen is later:
            assert lines(process) == [DENIED]
        mine = loops()
        process.close()
        for thread in mine:
            thread.join(30)
            assert not thread.is_alive()


def test_calls_without_end_do_not_keep_others_waiting(
    start: Callable[..., proctor.Process],
) -> None:
    """Deadlines and close() get their turn while a target calls as fast as it can."""
    release = threading.Event()
    both = threading.Semaphore(0)

    def same(call: proctor.Call) -> proctor.Verdict:
        return proctor.answer(call.registers[0])

    def slow(call: proctor.Call) -> proctor.Verdict:
        release.wait(30)
        return proctor.answer(1)

    def watch(outcome: Outcome) -> None:
        if outcome.decided_by == "deadline":
            both.release()

    stuck = proctor.Handler(("getpgrp",), slow, deadline=0.3)
    process = start(
        "fork",
        *("call", "111"),
        *("loop", "100000000", "110"),
        handlers=[handler(same), stuck],
        observers=[proctor.outcomes(watch)],
    )
    # of parent and child, one may be calling already while the other waits
    assert both.acquire(timeout=30)
    assert both.acquire(timeout=30)
    closing = threading.Thread(target=process.close, daemon=True)
    closing.start()
    closing.join(30)
    release.set()
    assert not closing.is_alive()


def test_forked_children_hold_no_listener(start: Callable[..., proctor.Process]) -> None:
    """C094: with a copy anywhere, callers whom the monitor left would wait for ever."""

    def held() -> int:
        numbers = os.listdir("/proc/self/fd")
        links = [f"/proc/self/fd/{number}" for number in numbers]
        return sum("seccomp" in os.readlink(link) for link in links if os.path.lexists(link))

    others = held()  # of tests before this one, not freed yet
    process = start("wait", "call", "110", handlers=[handler(refuse)])
    assert held() > others
    child = os.fork()
    if child == 0:
        try:
            process.supervisor.close()  # no error, and nobody waits for threads that are not there
            os._exit(max(0, held() - others))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    out, _ = process.communicate(b"\n", timeout=30)
    assert out is not None and out.decode().splitlines() == ["go", DENIED]


@pytest.mark.parametrize("stalls", [False, True])
def test_child_of_a_handler_that_comes_back_ends(
    start: Callable[..., proctor.Process], stalls: bool
) -> None:
    """It has the handler's thread and no listener: it ends, and its parent answers the call."""

    def forking(call: proctor.Call) -> proctor.Verdict:
        child = os.fork()
        if child:
            assert os.waitpid(child, 0) == (child, 0)
        return proctor.deny(errno.EROFS)

    process = start(*TWICE, handlers=[handler(stalling(forking) if stalls else forking)])
    assert lines(process) == [DENIED] * 2


def test_loop_that_cancels_a_handler_before_it_begins(
    start: Callable[..., proctor.Process], caplog: pytest.LogCaptureFixture
) -> None:
    """As asyncio.run() does when it ends."""
    loop = asyncio.new_event_loop()
    schedule = loop.call_soon_threadsafe
    queued = threading.Event()

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    def cancelling(callback: Callable[[], object]) -> None:
        schedule(queued.wait)
        schedule(callback)
        schedule(cancel)
        queued.set()

    async def later(call: proctor.Call) -> proctor.Verdict:
        raise AssertionError("it never begins")

    loop.call_soon_threadsafe = cancelling  # type: ignore[method-assign,assignment]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = threading.Event()
    schedule(running.set)
    assert running.wait(30)
    try:
        process = start("call", "110", handlers=[handler(later)], world={"loop": loop})
        assert lines(process) == [f"110 = -{errno.EPERM}"]
        assert "cancelled the handler before it began" in caplog.text
    finally:
        schedule(loop.stop)
        thread.join()
        loop.close()


def test_close_does_not_wait_for_a_handler(
    start: Callable[..., proctor.Process], caplog: pytest.LogCaptureFixture
) -> None:
    """Stands in for memory behind a userfaultfd or a FUSE file of a descendant that lives on."""
    entered, release = threading.Event(), threading.Event()

    def stuck(call: proctor.Call) -> proctor.Verdict:
        entered.set()
        release.wait(30)
        return proctor.deny(errno.EROFS)

    process = start("call", "110", handlers=[handler(stuck)])
    assert entered.wait(30)
    closing = threading.Thread(target=process.close, daemon=True)
    closing.start()
    closing.join(20)
    try:
        assert not closing.is_alive()
        assert not caplog.text
    finally:
        release.set()
        await_threads()


async def _later(call: proctor.Call) -> proctor.Verdict:
    await asyncio.sleep(0)
    return proctor.deny(errno.EROFS)


@pytest.mark.parametrize("state", ["never run", "stopped", "closed"])
def test_event_loop_that_does_not_run(
    start: Callable[..., proctor.Process], state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody would ever run the handler, and its caller would wait for ever."""
    loop = asyncio.new_event_loop()
    if state != "never run":
        loop.run_until_complete(asyncio.sleep(0))
    if state == "closed":
        loop.close()
    try:
        process = start(*TWICE, handlers=[handler(_later)], world={"loop": loop})
        assert lines(process) == [f"110 = -{errno.EPERM}"] * 2
        assert "the event loop for async handlers" in caplog.text
    finally:
        loop.close()


def test_event_loop_that_stops_under_a_handler(
    start: Callable[..., proctor.Process], caplog: pytest.LogCaptureFixture
) -> None:
    """It is noticed when the next call comes: then nobody is left waiting, and what the handler says
    when the loop goes on all the same is given up."""
    loop = asyncio.new_event_loop()
    reader, writer = os.pipe()
    entered = threading.Event()
    futures: list[asyncio.Future[None]] = []

    async def waits(call: proctor.Call) -> proctor.Verdict:
        futures.append(loop.create_future())
        entered.set()
        await futures[-1]
        return proctor.hand_over(writer)

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        process = start("fork", "wait", "call", "110", handlers=[handler(waits)],
                        world={"loop": loop})  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(b"1")
        process.stdin.flush()
        assert entered.wait(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        out, _ = process.communicate(b"2", timeout=30)
        assert out is not None
        assert out.decode().splitlines() == ["go", "go", *[f"110 = -{errno.EPERM}"] * 2]
        assert flush(30)
        assert "the event loop for async handlers does not run" in caplog.text
        (task,) = asyncio.all_tasks(loop)
        futures[0].set_result(None)
        loop.run_until_complete(task)
        assert os.read(reader, 1) == b""  # the descriptor that nobody wants any more was closed
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(loop.stop)
            thread.join(30)
        loop.close()
        os.close(reader)

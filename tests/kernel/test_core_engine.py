"""The native engine: batches, fairness, ends, waking, removal, exceptions, signals."""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from proctor.kernel import _core
from proctor.kernel.launch import launch
from proctor.kernel.seccomp import flag_problem
from proctor.kernel.target import Target
from proctor.supervisor.ports import route_key
from tests.support.constants import AUDIT_ARCH
from tests.support.rounds import Engine

from .conftest import listener_knows, notify

Wire = tuple[int, int, int]
Monitor = Callable[..., str]

KEY = route_key(AUDIT_ARCH, 4242)


def pending(target: Target) -> int:
    """How many threads of the target sleep in call 4242."""
    place = f"/proc/{target.pid}/task"
    try:
        tasks = os.listdir(place)
    except FileNotFoundError:
        return 0
    count = 0
    for task in tasks:
        try:
            with open(f"{place}/{task}/syscall") as file:
                count += file.read().startswith("4242 ")
        except OSError:
            pass
    return count


def until_pending(target: Target, count: int) -> None:
    """The kernel announces it to nobody: look again and again, giving the processor away."""
    give_up = time.monotonic() + 30
    while pending(target) != count:
        assert time.monotonic() < give_up, f"{pending(target)} of {count} threads are waiting"
        os.sched_yield()


class Caller:
    """A subject that makes calls; what it says of their results."""

    def __init__(self, subject: str, *commands: str) -> None:
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        self.target = launch([subject, *commands], program=notify(4242), fds=[(2, 2), (writer, 1)])
        os.close(writer)
        self.listener = self.target.take_listener()
        # Before Linux 6.11 a listener hangs up only once its last user was reaped.
        self._reaper = threading.Thread(target=self.target.wait, daemon=True)
        self._reaper.start()

    def said(self) -> list[str]:
        """Its words, when it has ended."""
        with open(self._reader, "rb", closefd=False) as file:
            words = file.read().decode().split()
        assert self.target.wait(30) == 0
        return words

    def close(self) -> None:
        self.target.kill()
        self._reaper.join(30)
        self.target.close()
        for fd in (self._reader, self.listener):
            if fd >= 0:
                os.close(fd)

    def close_listener(self) -> None:
        os.close(self.listener)
        self.listener = -1


@pytest.fixture
def call(subject: str) -> Iterator[Callable[..., Caller]]:
    """Start callers; all are killed and closed in the end."""
    made: list[Caller] = []

    def go(*commands: str) -> Caller:
        made.append(Caller(subject, *commands))
        return made[-1]

    yield go
    for caller in made:
        caller.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One engine, closed in the end."""
    made = Engine()
    yield made
    made.close()


def nobody() -> None:
    """An ``ended`` that must not be called."""
    raise AssertionError("ended was called")


def finish(engine: Engine, ended: list[bool]) -> None:
    """Rounds until a listener ended."""
    while not ended:
        engine.run_once(30)


# Routing ------------------------------------------------------------------------------------------


def test_fields_and_routes(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("call", "3")
    seen: list[_core.Notification] = []
    ended: list[bool] = []
    by_number: list[int] = []

    def fallback(notification: _core.Notification) -> Wire:
        seen.append(notification)
        routes[KEY] = route  # a table may grow while it is served
        return 7, 0, 0

    def route(notification: _core.Notification) -> Wire:
        by_number.append(notification.args[0])
        return 0, -errno.EACCES, 0

    routes: dict[int, Callable[[_core.Notification], Wire]] = {}
    engine.add(caller.listener, routes, fallback, lambda: ended.append(True))
    finish(engine, ended)
    assert caller.said() == ["7", "0", "-1", str(errno.EACCES), "-1", str(errno.EACCES)]
    (first,) = seen
    assert (first.pid, first.nr, first.arch, first.flags) == (
        caller.target.pid,
        4242,
        AUDIT_ARCH,
        0,
    )
    assert first.args[0] == 0
    assert first.args[3:] == (0, 0, (1 << 64) - 1)
    assert first.ip > 4096
    assert by_number == [1, 2]
    with pytest.raises(AttributeError):
        first.id = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        _core.Notification()


def test_continue(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("call", "1")
    ended: list[bool] = []
    engine.add(caller.listener, {}, lambda n: (0, 0, 1), lambda: ended.append(True))
    finish(engine, ended)
    assert caller.said() == ["-1", str(errno.ENOSYS)]  # there is no such call


def test_answering_later(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("threads", "5")
    kept: list[_core.Notification] = []
    engine.add(caller.listener, {}, kept.append, nobody)
    while len(kept) < 5:
        engine.run_once(30)
    for notification in reversed(kept):
        _core.send(caller.listener, notification.id, notification.args[0] * 2, 0, 0)
    assert caller.said() == ["0", "2", "4", "6", "8"]


def test_answered_by_the_route_itself(engine: Engine, call: Callable[..., Caller]) -> None:
    """The first answer stands; the second is no error."""
    caller = call("call", "2")
    ended: list[bool] = []

    def route(notification: _core.Notification) -> Wire:
        _core.send(caller.listener, notification.id, 5, 0, 0)
        return 6, 0, 0

    engine.add(caller.listener, {}, route, lambda: ended.append(True))
    finish(engine, ended)
    assert caller.said() == ["5", "0", "5", "0"]


def test_caller_killed_before_the_answer(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("call", "1")
    ended: list[bool] = []

    def route(notification: _core.Notification) -> Wire:
        caller.target.kill()
        assert caller.target.wait(30) == -signal.SIGKILL
        return 1, 0, 0

    engine.add(caller.listener, {}, route, lambda: ended.append(True))
    assert engine.run_once(30) == 1
    finish(engine, ended)


def test_cancelled_before_it_is_received(engine: Engine, call: Callable[..., Caller]) -> None:
    """ENOENT from RECV is no error and does not block (C044)."""
    caller = call("threads", "2")
    until_pending(caller.target, 2)
    caller.target.kill()
    assert caller.target.wait(30) == -signal.SIGKILL
    ended: list[bool] = []
    engine.add(caller.listener, {}, lambda n: (1, 0, 0), lambda: ended.append(True))
    assert engine.run_once(30) == 0
    assert ended == [True]


# Batches ------------------------------------------------------------------------------------------


def test_everything_is_received_before_the_first_is_routed(
    engine: Engine, call: Callable[..., Caller]
) -> None:
    caller = call("threads", "10")
    until_pending(caller.target, 10)
    waiting: list[int] = []
    ids: list[int] = []
    poll = select.poll()
    poll.register(caller.listener, select.POLLIN)

    def route(notification: _core.Notification) -> Wire:
        waiting.append(len(poll.poll(0)))
        ids.append(notification.id)
        return notification.args[0], 0, 0

    engine.add(caller.listener, {}, route, nobody)
    assert engine.run_once(30) == 10
    assert waiting[0] == 0
    # In the order of their arrival; before Linux 5.19 (which also has this flag) the newest first.
    assert ids == sorted(ids, reverse=flag_problem("WAIT_KILLABLE_RECV") != 0)
    assert caller.said() == [str(n) for n in range(10)]


def test_no_listener_starves(engine: Engine, call: Callable[..., Caller]) -> None:
    """At most 32 of one, however many wait: the other has its turn in the same round."""
    many, few = call("threads", "50"), call("threads", "1")
    until_pending(many.target, 50)
    until_pending(few.target, 1)
    seen: list[str] = []

    def answer(name: str) -> Callable[[_core.Notification], Wire]:
        return lambda notification: seen.append(name) or (0, 0, 0)

    engine.add(many.listener, {}, answer("many"), lambda: None)
    engine.add(few.listener, {}, answer("few"), lambda: None)  # which may end by the second round
    assert engine.run_once(30) == 33
    assert (seen.count("many"), seen.count("few")) == (32, 1)
    assert engine.run_once(30) == 18
    assert len(many.said()) == 50
    assert few.said() == ["0"]


def test_more_listeners_than_one_round_takes(engine: Engine, call: Callable[..., Caller]) -> None:
    callers = [call("threads", "1") for _ in range(40)]
    ended: list[int] = []
    for caller in callers:
        engine.add(caller.listener, {}, lambda n: (1, 0, 0), lambda: ended.append(1))
    while len(ended) < 40:
        engine.run_once(30)
    assert [caller.said() for caller in callers] == [["1"]] * 40


# Exceptions ---------------------------------------------------------------------------------------


def test_route_that_raises(
    engine: Engine, call: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EPERM for those, an answer for all others of the batch, the first exception at the end."""
    caller = call("threads", "4")
    until_pending(caller.target, 4)
    others: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: others.append(what.exc_value))

    def route(notification: _core.Notification) -> Wire:
        if notification.args[0] % 2:
            raise RuntimeError(notification.args[0])
        return 7, 0, 0

    engine.add(caller.listener, {}, route, nobody)
    with pytest.raises(RuntimeError) as caught:
        engine.run_once(30)
    assert sorted([caught.value.args[0], *(e.args[0] for e in others)]) == [1, 3]  # type: ignore[attr-defined]
    assert caller.said() == ["7", "-1", "7", "-1"]


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        (5, TypeError),
        ((1, 2), TypeError),
        ([0, 0, 0], TypeError),
        (("a", 0, 0), TypeError),
        ((1 << 63, 0, 0), OverflowError),
        ((0, 0, 2), OSError),  # no such flag
        ((1, 0, 1), OSError),  # CONTINUE with a value
    ],
)
def test_route_that_returns_nonsense(
    engine: Engine, call: Callable[..., Caller], returned: object, error: type[Exception]
) -> None:
    caller = call("call", "1")
    engine.add(caller.listener, {}, lambda n: returned, nobody)  # type: ignore[arg-type, return-value]
    with pytest.raises(error):
        engine.run_once(30)
    assert caller.said() == ["-1", str(errno.EPERM)]


def test_ended_that_raises(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("call", "0")
    engine.add(caller.listener, {}, lambda n: (0, 0, 0), nobody)
    with pytest.raises(AssertionError, match="ended was called"):
        engine.run_once(30)
    assert engine.run_once(0) == 0  # it is forgotten all the same


# Coming and going ---------------------------------------------------------------------------------


def test_end_is_told_once(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("fork", "call", "2")  # a grandchild uses the filter too
    ended: list[bool] = []
    engine.add(caller.listener, {}, lambda n: (3, 0, 0), lambda: ended.append(True))
    finish(engine, ended)
    assert caller.said() == ["3", "0", "3", "0"]
    assert engine.run_once(0) == 0
    assert ended == [True]
    engine.remove(caller.listener)  # no error


def test_removing_in_a_route(engine: Engine, call: Callable[..., Caller]) -> None:
    """What the batch still held of it is answered as if the listener were closed."""
    caller = call("threads", "4")
    until_pending(caller.target, 4)
    routed: list[int] = []

    def route(notification: _core.Notification) -> Wire:
        routed.append(notification.args[0])
        engine.remove(caller.listener)
        caller.close_listener()
        return 7, 0, 0

    engine.add(caller.listener, {}, route, nobody)
    assert engine.run_once(30) == 4
    assert len(routed) == 1
    words = caller.said()
    assert words[routed[0]] == "7"
    assert sorted(words) == ["-1", "-1", "-1", "7"]
    assert engine.run_once(0) == 0


def test_adding_in_a_route(engine: Engine, call: Callable[..., Caller]) -> None:
    first, second = call("call", "1"), call("call", "1")
    ended: list[bool] = []

    def route(notification: _core.Notification) -> Wire:
        engine.add(second.listener, {}, lambda n: (2, 0, 0), lambda: ended.append(True))
        return 1, 0, 0

    engine.add(first.listener, {}, route, lambda: ended.append(True))
    while len(ended) < 2:
        engine.run_once(30)
    assert first.said() == ["1", "0"]
    assert second.said() == ["2", "0"]


def test_removing_while_another_thread_waits(engine: Engine, subject: str) -> None:
    """The engine's duplicate goes too: the call that comes then gets ENOSYS, nobody hangs."""
    waiting, done = threading.Event(), threading.Event()

    def serve() -> None:
        waiting.set()
        assert engine.run_once(None) == 0
        done.set()

    reader, writer = os.pipe2(os.O_CLOEXEC)
    said, saying = os.pipe2(os.O_CLOEXEC)
    target = launch(
        [subject, "read", "call", "1"], program=notify(4242), fds=[(reader, 0), (saying, 1)]
    )
    os.close(reader)
    os.close(saying)
    listener = target.take_listener()
    engine.add(listener, {}, lambda n: (1, 0, 0), nobody)
    thread = threading.Thread(target=serve)
    thread.start()
    assert waiting.wait(30)
    engine.remove(listener)
    os.close(listener)
    assert done.wait(30)
    thread.join()
    os.close(writer)  # only now it makes its call
    with target, open(said, "rb") as file:
        assert file.read().split() == [b"-1", str(errno.ENOSYS).encode()]
        assert target.wait(30) == 0


def test_number_closed_and_reused(engine: Engine, call: Callable[..., Caller]) -> None:
    """The engine never speaks to whoever has the number now."""
    first, second = call("call", "2"), call("call", "2")
    ended: list[int] = []
    engine.add(first.listener, {}, lambda n: (1, 0, 0), lambda: ended.append(1))
    number = first.listener
    os.dup2(second.listener, number)  # closes it, too early, and takes its number
    finish(engine, ended)
    assert first.said() == ["1", "0", "1", "0"]
    engine.add(number, {}, lambda n: (2, 0, 0), lambda: ended.append(2))
    while 2 not in ended:
        engine.run_once(30)
    assert second.said() == ["2", "0", "2", "0"]


def test_adding_twice(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("call", "0")
    engine.add(caller.listener, {}, lambda n: (0, 0, 0), nobody)
    with pytest.raises(FileExistsError):
        engine.add(caller.listener, {}, lambda n: (0, 0, 0), nobody)
    engine.remove(caller.listener)
    engine.remove(caller.listener)
    engine.remove(12345)
    with pytest.raises(OSError) as caught:
        engine.add(12345, {}, lambda n: (0, 0, 0), nobody)
    assert caught.value.errno == errno.EBADF


# Waiting ------------------------------------------------------------------------------------------


def test_waking(engine: Engine) -> None:
    engine.wake()
    engine.wake()
    assert engine.run_once(30) == 0  # before it waits
    assert engine.run_once(0) == 0  # and only once
    thread = threading.Timer(0.01, engine.wake)
    thread.start()
    assert engine.run_once(None) == 0
    thread.join()
    thread = threading.Timer(0.01, engine.wake)
    thread.start()
    assert engine.run(None) == 0
    thread.join()


def test_time_is_over(engine: Engine) -> None:
    start = time.monotonic()
    assert engine.run_once(0.02) == 0
    assert time.monotonic() - start >= 0.02  # never early
    for timeout in (0, -1, 0.0, float("-inf")):
        assert engine.run_once(timeout) == 0
    assert engine.run(0.001) == 0


def test_rounds(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("call", "100")
    ended: list[bool] = []
    engine.add(caller.listener, {}, lambda n: (n.args[0], 0, 0), lambda: ended.append(True))
    assert engine.run(30) == 100
    assert ended == [True]
    assert caller.said()[::2] == [str(n) for n in range(100)]


def test_rounds_end_in_time_though_more_comes(engine: Engine, call: Callable[..., Caller]) -> None:
    """A caller that goes on for ever, and is answered at once."""
    caller = call("flood")  # "call" would wait for whoever reads what it says
    engine.add(caller.listener, {}, lambda n: (0, 0, 0), nobody)
    for _ in range(2):
        while not engine.run(0.01):
            pass  # it has not begun


def test_one_thread_only(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("call", "1")
    problems: list[str] = []

    def route(notification: _core.Notification) -> Wire:
        try:
            engine.run_once(0)
        except ValueError as problem:
            problems.append(str(problem))
        return 1, 0, 0

    engine.add(caller.listener, {}, route, nobody)
    assert engine.run_once(30) == 1
    assert problems == ["this engine is closed, or runs in another thread"]


def test_closing(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("call", "1")
    engine.add(caller.listener, {}, lambda n: engine.close() or (4, 0, 0), nobody)
    assert engine.run_once(30) == 1
    assert caller.said() == ["4", "0"]
    engine.close()
    engine.wake()
    for use in (lambda: engine.run_once(0), lambda: engine.add(0, {}, lambda n: None, nobody)):
        with pytest.raises(ValueError, match="closed"):
            use()
    engine.remove(caller.listener)


def test_closing_from_another_thread(engine: Engine) -> None:
    def close() -> None:
        while not engine._running:
            pass  # before it runs, closing makes it refuse to
        engine.close()

    thread = threading.Thread(target=close)
    thread.start()
    assert engine.run_once(None) == 0
    thread.join()
    with pytest.raises(ValueError, match="closed"):
        engine.run_once(0)


def test_engine_in_a_circle_is_freed(call: Callable[..., Caller]) -> None:
    caller = call("call", "0")
    before = set(os.listdir("/proc/self/fd"))  # of what others leave to be freed some go meanwhile

    class Owner:
        def __init__(self) -> None:
            self.engine = Engine()
            self.engine.add(caller.listener, {}, self.route, self.route)  # type: ignore[arg-type]

        def route(self, notification: _core.Notification) -> Wire:
            return 0, 0, 0

    Owner()
    assert set(os.listdir("/proc/self/fd")) - before
    gc.collect()
    assert not set(os.listdir("/proc/self/fd")) - before


# Signals ------------------------------------------------------------------------------------------


class Rang(Exception):
    """A signal's handler raised it."""


def test_signal_handler_that_raises_ends_the_waiting(engine: Engine) -> None:
    def ring(*_: object) -> None:
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(Rang):
            engine.run_once(30)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(Rang):
            engine.run(None)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert engine.run_once(0) == 0


def test_signal_handler_that_returns(engine: Engine) -> None:
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while not rang:
            assert engine.run_once(30) == 0
    finally:
        signal.signal(signal.SIGALRM, before)


def test_routes_run_with_signals_held_back(engine: Engine, call: Callable[..., Caller]) -> None:
    caller = call("call", "1")
    masks: list[set[int]] = []

    def route(notification: _core.Notification) -> Wire:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        return 0, 0, 0

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    engine.add(caller.listener, {}, route, nobody)
    engine.run_once(30)
    assert masks[0] >= set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("main", [True, False], ids=["main-thread", "other-thread"])
def test_twenty_thousand_descriptors_under_a_timer(monitor: Monitor, main: bool) -> None:
    """A signal every 0.3 ms, and never a call that returned 0 without a descriptor (C074)."""
    if not listener_knows("ADDFD with SEND"):
        pytest.skip("ADDFD that answers is there since Linux 5.14")
    out = monitor(
        f"""
        import threading
        from tests.support.rounds import Engine
        rang = []
        signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
        code = one(0x20, 0, 0, 0) + one(0x15, 0, 1, 4242)
        code += one(6, 0, 0, abi.SECCOMP_RET_USER_NOTIF) + one(6, 0, 0, abi.SECCOMP_RET_ALLOW)
        pipe = os.pipe()
        target = launch([subject, "descriptors", "20000"], program=code, fds=[(0, 0), (1, 1), (2, 2)])
        listener = Listener(target.take_listener())
        threading.Thread(target=target.wait).start()  # before 6.11 who is not reaped is a user
        engine, ended, handed = Engine(), [], []

        def route(notification):
            handed.append(listener.addfd(notification.id, pipe[0], send=True))

        def serve():
            while not ended:
                engine.run_once(30)

        engine.add(listener.fileno(), {{}}, route, lambda: ended.append(True))
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        if {main}:
            serve()
        else:
            thread = threading.Thread(target=serve)
            thread.start()
            thread.join()
        signal.setitimer(signal.ITIMER_REAL, 0, 0)
        assert target.wait(30) == 0
        assert len(handed) == 20000 and set(handed) == {{3}}, set(handed)
        assert len(rang) > 100, len(rang)
        """,
        timeout=110,
    )
    assert out == "wrong 0"


def test_a_number_that_is_another_file_s_by_now_is_watched(engine: Engine) -> None:
    """The first was closed without a word, before it was readable."""
    heard: list[str] = []
    for name in ("first", "second", "third"):
        end, other = os.pipe()
        engine.watch(end, partial(heard.append, name))
        if name == "second":
            os.write(other, b"x")
            assert engine.run_once(30) == 1
        os.close(end)
        os.close(other)
    assert heard == ["second"]


def test_many_are_watched_and_left(engine: Engine) -> None:
    """Every other one is left; of the rest each is heard, once."""
    pipes = [os.pipe() for _ in range(300)]
    heard: list[int] = []
    for number, (end, other) in enumerate(pipes):
        engine.watch(end, partial(heard.append, number))
        os.write(other, b"x")
        if number % 2:
            engine.unwatch(end)
            engine.unwatch(end)  # nothing happens
    while engine.run_once(0) or len(heard) < 150:
        pass
    assert sorted(heard) == list(range(0, 300, 2))
    engine.watch(pipes[1][0], partial(heard.append, -1))
    engine.run_once(30)
    assert heard[-1] == -1
    for each in sum(pipes, ()):
        os.close(each)


def test_what_is_readable_while_it_begins_to_be_watched_is_heard() -> None:
    """By another thread, before the one that watches goes on: it is told of once only."""
    heard: list[int] = []
    ours, theirs = os.pipe()
    os.write(theirs, b"x")
    engine = Engine()
    loop: Any = engine._loop

    class Hasty:
        """Serves as soon as something is watched."""

        def watch(self, *what: Any) -> None:
            loop.watch(*what)
            token = loop.lead(1, print, 0)
            loop.serve(token, engine._served, [], 0, 1)
            loop.resign(token)

    hasty: Any = Hasty()
    engine._loop = hasty
    try:
        engine.watch(ours, lambda: heard.append(ours))
        with pytest.raises(OSError):
            engine.watch(1 << 20, heard.clear)
    finally:
        engine._loop = loop
    assert heard == [ours]
    assert 1 << 20 not in engine._served
    engine.unwatch(ours)
    engine.close()
    os.close(ours)
    os.close(theirs)

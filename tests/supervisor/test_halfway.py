"""What ends half-way: an exception between two steps leaves no caller waiting and nothing open."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import proctor
from proctor.kernel.journal import FREE, HEADER, RECEIVED, SLOT_SIZE, Journal
from proctor.kernel.notification import Notification
from proctor.supervisor.poller import EpollPoller
from proctor.supervisor.ports import SERVE
from proctor.supervisor.pyengine import PyEngine
from proctor.supervisor.role import Role
from proctor.supervisor.world import KernelWorld, quiet_thread
from tests.support.stalling import Poller, await_threads, stall

from .conftest import lines

pytestmark = pytest.mark.timeout(120)
X86_64 = 0xC000003E


class Listener:
    """One that has notifications, and remembers what is answered."""

    def __init__(self, number: int, *waiting: int) -> None:
        self.number = number
        self.waiting = [Notification(id, 10 + id, 110, X86_64) for id in waiting]
        self.sent: dict[int, tuple[int, int, int]] = {}
        self.closed = False
        self.asked_number: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        self.asked_number()
        if self.closed:
            raise ValueError("this listener is closed")
        return self.number

    def recv(self) -> Notification:
        return self.waiting.pop(0)

    def id_valid(self, id: int) -> bool:
        return id not in self.sent

    def send(self, id: int, value: int, error: int, flags: int) -> bool:
        if id in self.sent:
            return False
        self.sent[id] = (value, error, flags)
        return True

    def close(self) -> None:
        self.closed = True


class World(KernelWorld):
    """On fake listeners."""

    def __init__(self, *listeners: Any) -> None:
        super().__init__()
        self._listeners = listeners

    def engine(self) -> PyEngine:
        return PyEngine(Poller(*self._listeners))


def test_a_listener_that_cannot_be_received_from_costs_no_other_call() -> None:
    class Broken(Listener):
        def recv(self) -> Notification:
            raise OSError(errno.ENOMEM, "what RECV says when memory is short")

    good: Any = Listener(5, 1)
    broken: Any = Broken(6, 2)
    engine = PyEngine(Poller(good, broken))
    for listener in (good, broken):
        engine.add(listener, {}, lambda _: (7, 0, 0), lambda: None)
    with pytest.raises(OSError, match="memory is short"):
        engine.serve(engine.lead(SERVE, lambda: None), 0, 1)
    assert good.sent == {1: (7, 0, 0)}


def test_what_a_route_has_answered_itself_is_answered_and_in_no_journal() -> None:
    """As the core's own routes do, on the engine in plain Python, too."""
    journal = Journal(
        bytearray(HEADER.pack(b"PROCTORJ", 1, SLOT_SIZE, 4, 0) + bytes(4 * SLOT_SIZE))
    )

    class Journaled(Listener):
        def recv(self, into: memoryview | None = None, slot: int = -1) -> Notification:
            received = super().recv()
            return received._replace(slot=slot)

    listener: Any = Journaled(5, 1, 2)
    engine = PyEngine(Poller(listener))

    def route(notification: Notification) -> bool | None:
        assert journal.state(notification.slot) == RECEIVED
        return (notification.id == 1 and listener.send(1, 7, 0, 0)) or None

    engine.add(listener, {}, route, lambda: None, journal=journal)
    engine.serve(engine.lead(SERVE, lambda: None), 0, 1)
    assert listener.sent == {1: (7, 0, 0)}
    assert [journal.state(slot) for slot in range(4)] == [FREE, RECEIVED, FREE, FREE]


def test_ctrl_c_costs_no_call_that_was_received_with_the_interrupted_one() -> None:
    listener: Any = Listener(5, 1, 2)

    def interrupted(call: proctor.Call) -> proctor.Verdict:
        if call.id == 1:
            raise KeyboardInterrupt
        return proctor.answer(7)

    with proctor.Supervisor(
        [proctor.Handler(("getppid",), interrupted)], world=World(listener)
    ) as supervisor:
        supervisor.add(listener)
        with pytest.raises(KeyboardInterrupt):
            supervisor.step(0)
        while len(listener.sent) < 2:  # a thread that stood by may have taken the second one over
            os.sched_yield()
        assert listener.sent == {1: (0, -errno.EPERM, 0), 2: (7, 0, 0)}


@pytest.mark.parametrize("observed", [False, True])
def test_an_interrupt_is_logged_once(
    start: Callable[..., proctor.Process], caplog: pytest.LogCaptureFixture, observed: bool
) -> None:
    def interrupted(what: object) -> proctor.Verdict:
        raise KeyboardInterrupt

    def refuse(call: proctor.Call) -> proctor.Verdict:
        return proctor.deny(errno.EPERM)

    handler = proctor.Handler(("getppid",), refuse if observed else interrupted)
    with caplog.at_level(logging.ERROR, "proctor"):
        process = start(
            "call",
            "110",
            handlers=[handler],
            observers=[proctor.outcomes(interrupted)] if observed else [],
        )
        assert lines(process) == [f"110 = -{errno.EPERM}"]
        assert process.wait_all(30)
        process.close()  # which sees to the log
    assert len(caplog.records) == 1


# close() ----------------------------------------------------------------------------------------------


def test_ctrl_c_while_closing_leaves_nothing_open(
    start: Callable[..., proctor.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """close() may wait five seconds for whoever receives: somebody gets impatient."""
    done: list[str] = []
    process = start("wait", handlers=[proctor.Handler(("getppid",), lambda call: None)])
    supervisor = process.supervisor
    supervisor.on_close(lambda: done.append("closed"))

    def impatient(role: Role, how: int, patience: float | None = None) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Role, "lead", impatient)
        supervisor.close()
    assert supervisor.listeners == 0
    assert done == ["closed"]
    await_threads()


def test_close_goes_on_where_a_listener_was_closed_by_somebody_else(
    make_world: Callable[..., KernelWorld], caller: str
) -> None:
    from proctor.kernel.launch import launch

    done: list[str] = []
    handlers = [proctor.Handler(("getppid",), lambda call: None)]
    program = proctor.filter_for(handlers)
    assert program is not None
    with launch([caller, "wait"], program=program.compile().code, fds=()) as target:
        listener = proctor.Listener(target.take_listener())
        supervisor = proctor.Supervisor(handlers, world=make_world())
        supervisor.on_close(lambda: done.append("closed"))
        supervisor.add(listener)
        listener.close()
        supervisor.close()
    assert done == ["closed"]
    assert supervisor.listeners == 0


def test_what_is_added_while_all_closes_is_refused_in_words() -> None:
    """close() comes between the supervisor's look and the engine's."""
    listener: Any = Listener(5)
    supervisor = proctor.Supervisor(world=World(listener))
    times = iter(range(10))

    def second_time() -> None:
        if next(times) == 1:
            supervisor.close()

    listener.asked_number = second_time
    with pytest.raises(RuntimeError, match="this supervisor is closed"):
        supervisor.add(listener)
    assert listener.closed
    assert supervisor.listeners == 0


def test_close_answers_what_detach_has_not_yet_answered() -> None:
    """close() comes between detach()'s taking the listener out and its answering what is pending."""
    entered, release = threading.Event(), threading.Event()
    after_close: list[dict[int, tuple[int, int, int]]] = []
    listener: Any = Listener(5, 1)

    def slow(call: proctor.Call) -> proctor.Verdict:
        entered.set()
        release.wait(30)
        return proctor.answer(7)

    supervisor = proctor.Supervisor([proctor.Handler(("getppid",), slow)], world=World(listener))
    supervisor.add(listener)
    supervisor.start()
    assert entered.wait(30)
    times = iter(range(10))

    def second_time() -> None:
        if next(times) == 1:  # the engine asks, to remove it
            supervisor.close()
            after_close.append(dict(listener.sent))

    listener.asked_number = second_time
    try:
        supervisor.detach(listener)
    finally:
        release.set()
    assert after_close == [{1: (0, -errno.ENOSYS, 0)}]
    assert not listener.closed, "it was given back"


def test_a_command_that_somebody_else_waited_for(start: Callable[..., proctor.Process]) -> None:
    """Its exit status is lost, and close() says so; its supervisor is closed all the same."""
    process = start("call", "110", handlers=[proctor.Handler(("getppid",), lambda call: None)])
    assert os.waitpid(process.pid, 0)[0] == process.pid
    with pytest.raises(ChildProcessError):
        process.close()
    assert process.supervisor._listeners.closed
    assert process.target.pidfd == -1
    process.target._returncode = 0  # for the fixture, which closes it once more


def test_waking_a_closed_poller_touches_nothing() -> None:
    """Its descriptor's number may be another file's by then."""
    poller = EpollPoller()
    poller.close()
    poller.wake()
    poller.close()


def test_a_poller_that_is_closed_under_a_wait_ends_it() -> None:
    for _ in range(50):
        poller = EpollPoller()
        thread = threading.Thread(target=poller.wait, args=(None,))
        thread.start()
        while not poller._waits:
            os.sched_yield()
        poller.wake()
        poller.close()
        thread.join(30)
        assert not thread.is_alive()
        assert poller._epoll.closed
        assert poller._event == -1


def test_a_listener_that_cannot_be_watched_is_not_served() -> None:
    class Full(Poller):
        def register(self, fd: int) -> None:
            raise OSError(errno.ENOSPC, "fs.epoll.max_user_watches")

    listener: Any = Listener(5)
    engine = PyEngine(Full(listener))
    with pytest.raises(OSError, match="max_user_watches"):
        engine.add(listener, {}, lambda _: None, lambda: None)
    assert not engine._served


# Threads and birth ---------------------------------------------------------------------------------------


def test_an_interrupt_leaves_no_signal_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """pthread_sigmask runs the handlers of signals that came just before, after it blocked all."""
    real = signal.pthread_sigmask

    def interrupted(how: int, mask: Any) -> Any:
        before = real(how, mask)
        if how == signal.SIG_BLOCK and mask:
            raise KeyboardInterrupt
        return before

    before = real(signal.SIG_BLOCK, ())
    monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            quiet_thread(lambda: None, "proctor-never")
        assert real(signal.SIG_BLOCK, ()) == before
    finally:
        real(signal.SIG_SETMASK, before)


def test_birth_is_not_misdated_by_a_pause_between_two_clocks(
    make_world: Callable[..., KernelWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is preempted between them must not take an old thread for a new one."""
    world = make_world()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        now = time.monotonic() + 1
        real = time.monotonic, time.clock_gettime
        late: list[float] = []

        def monotonic() -> float:
            value = real[0]() + sum(late)
            late.append(30)
            return value

        def clock_gettime(clock: int) -> float:
            value = real[1](clock) + sum(late)
            late.append(30)
            return value

        monkeypatch.setattr(time, "monotonic", monotonic)
        monkeypatch.setattr(time, "clock_gettime", clock_gettime)
        assert not world.born_since(child.pid, now)
        monkeypatch.undo()
        assert child.stdin is not None
        child.stdin.close()


FOREIGN = """
import os, sys, time
from proctor.supervisor.world import KernelWorld
host = os.readlink("/proc/self")
assert os.getpid() == 1 and host != "1"
world = KernelWorld()
print(world.born_since(int(host), time.monotonic() - 3600), flush=True)
"""


@pytest.mark.root
def test_a_proc_of_another_pid_namespace_tells_nothing_of_births() -> None:
    """Numbers mean others there."""
    if os.geteuid() != 0:
        pytest.skip("a new pid namespace takes root")
    libc = ctypes.CDLL(None, use_errno=True)

    def apart() -> None:
        assert libc.unshare(0x20000000) == 0  # CLONE_NEWPID
        child = os.fork()
        if child:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    done = subprocess.run(
        [sys.executable, "-c", FOREIGN],
        check=False,
        preexec_fn=apart,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


# Closing from within ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["handler", "stalled", "coroutine", "observer", "end"])
def test_closed_from_within(
    caller: str,
    make_world: Callable[..., KernelWorld],
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    """Whoever is called by the supervisor may close it."""
    from proctor.kernel.launch import launch

    ended = threading.Event()

    def close(what: object = None) -> None:
        supervisor.close()
        ended.set()

    async def close_later(call: proctor.Call) -> None:
        close()

    def decide(call: proctor.Call) -> proctor.Verdict | None:
        if where == "stalled":
            stall()
        return close() if where in ("handler", "stalled") else proctor.answer(7)

    handler = proctor.Handler(("getppid",), close_later if where == "coroutine" else decide)
    program = proctor.filter_for([handler])
    assert program is not None
    reader, writer = os.pipe2(os.O_CLOEXEC)
    supervisor = proctor.Supervisor(
        [handler],
        world=make_world(),
        observers=[proctor.outcomes(close)] if where == "observer" else [],
    )
    with (
        caplog.at_level(logging.ERROR, "proctor"),
        launch(
            [caller, "call", "110"], program=program.compile().code, fds=((writer, 1),)
        ) as target,
        open(reader) as file,
    ):
        os.close(writer)
        supervisor.start()
        supervisor.add(
            proctor.Listener(target.take_listener()), on_end=close if where == "end" else None
        )
        answer = 7 if where in ("observer", "end") else -errno.ENOSYS
        assert file.read() == f"110 = {answer}\n"
        assert target.wait(30) == 0
        assert ended.wait(30)
        await_threads()
        assert supervisor.listeners == 0
    assert not caplog.records


def test_the_end_is_told_though_a_listener_cannot_be_closed(
    make_world: Callable[..., KernelWorld], caller: str
) -> None:
    """Somebody closed its descriptor by number."""
    from proctor.kernel.launch import launch

    class Listener(proctor.Listener):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EBADF, "what a number that is closed already leads to")

    ended: list[str] = []
    program = proctor.filter_for([proctor.Handler(("getppid",), lambda call: None)])
    assert program is not None
    with (
        launch([caller, "call", "39"], program=program.compile().code, fds=()) as target,
        proctor.Supervisor(world=make_world()).start() as supervisor,
    ):
        supervisor.add(Listener(target.take_listener()), on_end=lambda: ended.append("told"))
        assert target.wait(30) == 0
        assert supervisor.wait(30)
    assert ended == ["told"]


def test_a_listener_that_cannot_be_added_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a supervisor, and with a copy of its listener open, the command's children would wait
    for ever."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    handler = proctor.Handler(("getppid",), lambda call: None)
    monkeypatch.setattr("proctor.kernel.engine.Engine.add", full)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        proctor.spawn(["true"], [handler])


def test_a_listener_that_cannot_be_set_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    handler = proctor.Handler(("getppid",), lambda call: None)
    monkeypatch.setattr(proctor.Listener, "set_flags", bad)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        proctor.spawn(["true"], [handler])

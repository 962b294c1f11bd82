"""Callers that a signal ends die of it while their handlers work, as they would natively, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

import proctor
from proctor.kernel.killable import waits_killably
from proctor.supervisor.dying import is_dying
from proctor.supervisor.world import KernelWorld
from tests.supervisor.conftest import SLOWNESS

pytestmark = pytest.mark.timeout(120)

PROGRAM = """
import ctypes, os, resource, signal, sys, threading
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
SOME = [signal.SIGUSR1, signal.SIGTERM, signal.SIGQUIT]
def call():
    libc.getpgid(0)
    print("returned", flush=True)
def meant():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SOME)
    call()
def threads(count):
    made = [threading.Thread(target=meant) for _ in range(count)]
    for each in made: each.start()
    for each in made: each.join()
if sys.argv[1] == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, SOME)
if sys.argv[1] == "first":
    call()
elif sys.argv[1] == "init":
    libc.unshare(0x20000000)
    child = os.fork()
    if not child: call(); os._exit(0)
    os.waitpid(child, 0)
elif sys.argv[1] == "blocked":
    call()
else:
    signal.pthread_sigmask(signal.SIG_BLOCK, SOME)
    threads(int(sys.argv[1]))
"""


class Slow:
    """Handlers of ``getpgid`` that take until :attr:`release` is set."""

    def __init__(self, callers: int = 1) -> None:
        self.asked = threading.Semaphore(0)
        self.release = threading.Event()
        self._callers = callers
        self._pipe = os.pipe2(os.O_CLOEXEC)

    def blocks(self, call: proctor.Call) -> proctor.Verdict:
        self.asked.release()
        self.release.wait()
        return proctor.answer(5)

    async def coroutine(self, call: proctor.Call) -> proctor.Verdict:
        self.asked.release()
        while not self.release.is_set():
            await asyncio.sleep(0.01)
        return proctor.answer(5)

    def later(self, call: proctor.Call) -> proctor.Later:
        self.asked.release()
        return proctor.Later(self._pipe[0], lambda: proctor.answer(5), lambda: None)

    def until_asked(self) -> None:
        for _ in range(self._callers):
            assert self.asked.acquire(timeout=30 * SLOWNESS)

    def close(self) -> None:
        self.release.set()
        for fd in self._pipe:
            os.close(fd)


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.close()


def start(
    how: str, function: Callable[[proctor.Call], object], world: KernelWorld
) -> proctor.Process:
    handler = proctor.Handler(["getpgid"], function)  # type: ignore[arg-type]
    command = [sys.executable, "-S", "-c", PROGRAM, how]
    return proctor.spawn(command, [handler], stdout=-1, world=world)


@pytest.mark.parametrize("kind", ["blocks", "coroutine", "later"])
@pytest.mark.parametrize(
    "signals",
    [(signal.SIGUSR1, signal.SIGTERM), (signal.SIGQUIT,), (signal.SIGURG, signal.SIGUSR1, signal.SIGABRT)],
    ids=["after another", "with a core", "both"],
)  # fmt: skip
def test_a_caller_dies_while_its_handler_works(
    slow: Slow, kind: str, signals: Sequence[int], make_world: Callable[..., KernelWorld]
) -> None:
    with start("first", getattr(slow, kind), make_world()) as process:
        slow.until_asked()
        for number in signals:
            os.kill(process.pid, number)
        out, _ = process.communicate(timeout=30 * SLOWNESS)
        assert (process.returncode, out) == (-signals[-1], b"")
        slow.release.set()


LIVES = """
import ctypes, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
@ctypes.CFUNCTYPE(None, ctypes.c_int)
def ignores(number):
    libc.signal(signal.SIGTERM, 1)
action = struct.pack("P128siP", ctypes.cast(ignores, ctypes.c_void_p).value, b"\\xff" * 128, 0, 0)
assert not libc.sigaction(int(signal.SIGUSR1), action, None)
print(libc.getpgid(0), ctypes.get_errno())
"""


def test_who_is_to_stop_first_does_not_die(make_world: Callable[..., KernelWorld]) -> None:
    """Natively it stands still, and what would end it waits until it goes on."""
    seen: list[bool] = []

    def look(call: proctor.Call) -> proctor.Verdict:
        for number in (signal.SIGSTOP, signal.SIGTERM):
            os.kill(call.tid, number)
        seen.append(is_dying(call))
        os.kill(call.tid, signal.SIGCONT)
        return proctor.answer(5)

    with start("first", look, make_world()) as process:
        process.communicate(timeout=30 * SLOWNESS)
        assert (seen, process.returncode) == ([False], -signal.SIGTERM)


def test_who_lives_on_makes_the_call_again(make_world: Callable[..., KernelWorld]) -> None:
    """Another signal's handler runs first, with the deadly one masked, and has it ignored."""
    looked, asked = threading.Event(), []
    killably: list[bool | None] = []

    def handle(call: proctor.Call) -> proctor.Verdict:
        asked.append(call.tid)
        if len(asked) == 1:
            killably.append(waits_killably(call._listener.fileno(), call.id, call.tid))  # type: ignore[attr-defined]
            os.kill(call.tid, signal.SIGUSR1)
            os.kill(call.tid, signal.SIGTERM)
            assert not killably[0] or looked.wait(30 * SLOWNESS)
        return proctor.answer(5)

    def observe(outcome: proctor.Outcome) -> None:
        if outcome.decided_by == "gone":
            looked.set()

    handlers = [proctor.Handler(["getpgid"], handle)]
    with proctor.spawn(
        [sys.executable, "-S", "-c", LIVES], handlers, stdout=-1, world=make_world(),
        observers=[proctor.outcomes(observe)],
    ) as process:  # fmt: skip
        out, _ = process.communicate(timeout=30 * SLOWNESS)
        if not killably[0]:
            pytest.skip("no WAIT_KILLABLE_RECV here (Linux 5.19)")
        assert (process.returncode, out, len(asked)) == (0, b"5 0\n", 2)


@pytest.mark.parametrize("callers", [1, 2])
def test_it_dies_of_what_is_sent_to_its_process(
    slow: Slow, callers: int, make_world: Callable[..., KernelWorld]
) -> None:
    """Of two threads that wait alike nobody knows which was meant."""
    slow._callers = callers
    with start(str(callers), slow.blocks, make_world()) as process:
        slow.until_asked()
        os.kill(process.pid, signal.SIGQUIT)
        out, _ = process.communicate(timeout=30 * SLOWNESS)
        assert (process.returncode, out) == (-signal.SIGQUIT, b"")
        slow.release.set()


def test_one_that_waits_for_its_turn_dies(
    slow: Slow, make_world: Callable[..., KernelWorld]
) -> None:
    """No handler was asked yet."""
    handlers = [proctor.Handler(["getpgid"], slow.blocks)]
    program = f"""
import ctypes, os, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
libc = ctypes.CDLL(None)
pids = []
for _ in range(4):
    pids.append(os.fork())
    if not pids[-1]: libc.getpgid(0); os._exit(0)
for pid in pids:
    os.kill(pid, {signal.SIGQUIT:d})
print(*[os.waitpid(pid, 0)[1] & 127 for pid in pids], flush=True)
"""
    with proctor.spawn(
        [sys.executable, "-S", "-c", program], handlers, stdout=-1,
        quotas=proctor.Quotas(workers=1), world=make_world(),
    ) as process:  # fmt: skip
        out, _ = process.communicate(timeout=30 * SLOWNESS)
        assert out.split() == [b"3"] * 4
        slow.release.set()


@pytest.mark.parametrize(
    ("how", "signals", "dies"),
    [
        ("first", [], False),
        ("first", [signal.SIGUSR1], False),  # caught
        ("first", [signal.SIGHUP], False),  # ignored
        ("first", [signal.SIGURG, signal.SIGCHLD, signal.SIGWINCH], False),
        ("first", [signal.SIGQUIT], True),
        ("first", [signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT], True),
        ("first", [signal.SIGUSR1, signal.SIGRTMIN + 3], True),
        ("blocked", [signal.SIGUSR1, signal.SIGTERM, signal.SIGQUIT], False),
        pytest.param("init", [signal.SIGTERM, signal.SIGQUIT], False, marks=pytest.mark.root),
    ],
)
def test_who_is_dying(
    how: str, signals: Sequence[int], dies: bool, make_world: Callable[..., KernelWorld]
) -> None:
    seen: list[bool] = []
    killably: list[bool | None] = []

    def look(call: proctor.Call) -> proctor.Verdict:
        killably.append(waits_killably(call._listener.fileno(), call.id, call.tid))  # type: ignore[attr-defined]
        for number in signals:
            os.kill(call.tid, number)
        seen.append(is_dying(call))
        return proctor.answer(5)

    with start(how, look, make_world()) as process:
        process.communicate(timeout=30 * SLOWNESS)
        if not killably[0]:
            pytest.skip("no WAIT_KILLABLE_RECV here (Linux 5.19)")
        assert seen == [dies]
        if not dies:
            assert process.returncode == 0

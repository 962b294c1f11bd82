"""Performed calls that wait for the target itself: no bound of ours stands between them and their end."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import proctor
from proctor.call.decode.values import SignalSet
from proctor.performing import Performers, conversation
from proctor.supervisor import looks as looking
from proctor.supervisor.looks import Looks
from tests.performing.executing.test_performers import wait_for

#: More opens wait than there are workers; each one's other end is opened by a performed call, too.
FIFOS = """
import os, sys, threading
count = int(sys.argv[1])
names = [f"fifo{n}" for n in range(count)]
for name in names:
    os.mkfifo(name)
def read(name):
    with open(name, "rb", buffering=0) as file:
        assert file.read(9) == name.encode()[:9]
readers = [threading.Thread(target=read, args=(name,)) for name in names]
for reader in readers:
    reader.start()
for name in names:
    with open(name, "wb", buffering=0) as file:
        file.write(name.encode())
for reader in readers:
    reader.join()
print("all")
"""


@proctor.on("open", "openat", "creat")
def performed(call: proctor.Call) -> proctor.Verdict:
    return proctor.perform()


def test_more_opens_wait_in_fifos_than_there_are_workers(tmp_path: object) -> None:
    done = proctor.run(
        [sys.executable, "-ISc", FIFOS, "40"], [performed], workers=2, userns=True, cwd=str(tmp_path),
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"all\n", b"")


def test_what_waits_ends_with_its_caller(tmp_path: object) -> None:
    """Nobody ever opens the other end: a signal ends the wait."""
    program = "import os, signal; os.mkfifo('f'); signal.alarm(1); open('f')"
    done = proctor.run(
        [sys.executable, "-ISc", program], [performed], userns=True, cwd=str(tmp_path),
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -14


#: A thousand opens wait in FIFOs, then `gate` opens; after that others are opened, and the FIFOs' other ends.
THOUSAND = """
import os, threading
threading.stack_size(1 << 16)
names = [f"fifo{n}" for n in range(1000)]
for name in names:
    os.mkfifo(name)
def read(name):
    fd = os.open(name, os.O_RDONLY | os.O_NOCTTY)
    assert os.read(fd, 9) == name.encode()[:9]
    os.close(fd)
readers = [threading.Thread(target=read, args=(name,)) for name in names]
for reader in readers:
    reader.start()
try:
    os.rmdir("gate")
except FileExistsError:
    print("all wait", flush=True)
for number in range(100):
    os.close(os.open("/dev/null" if number % 2 else f"new{number}", os.O_RDWR | os.O_CREAT))
print("others go on", flush=True)
for name in names:
    with open(name, "wb", buffering=0) as file:
        file.write(name.encode())
for reader in readers:
    reader.join()
print("all")
"""


def test_a_thousand_opens_wait_and_hold_no_thread(tmp_path: object) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 16384:
        pytest.skip("each call that waits needs ten descriptors of the monitor's")
    waiting: list[int] = []
    threads: list[int] = []
    gate, opener = os.pipe()

    @proctor.on("openat")
    def count(call: proctor.Call) -> proctor.Verdict:
        threads.append(threading.active_count())
        if call.flags & os.O_NOCTTY:
            waiting.append(call.tid)
            if len(waiting) == 1000:
                os.close(opener)
        return proctor.perform()

    @proctor.on("rmdir")
    def wait(call: proctor.Call) -> proctor.Later:
        return proctor.Later(gate, lambda: proctor.deny(errno.EEXIST), lambda: None)

    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, hard))
    before = threading.active_count()
    try:
        done = proctor.run(
            [sys.executable, "-ISc", THOUSAND], [count, wait], workers=2, userns=True,
            performing={"limit": 1010}, cwd=str(tmp_path), capture_output=True, timeout=100,
        )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(gate)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"all wait\nothers go on\nall\n"
    assert max(threads) < before + 20


class _Worker:
    """An executor that never answers."""

    interruptible = True

    def reply(self, request: object, *, wait: bool) -> None:
        return None

    def hindered(self) -> str:
        return ""

    def fileno(self) -> int:
        return -1


class _Caller:
    """A caller with no signal to take."""

    tid = tgid = os.getpid()

    def __init__(self, container: proctor.Container | None = None) -> None:
        self.container = container

    @property
    def caller(self) -> _Caller:
        return self

    def valid(self) -> bool:
        return True

    def pending(self, *, its_own: bool = False) -> SignalSet:
        return SignalSet(0)


def _begin(container: proctor.Container) -> conversation.Conversation:
    """One that waits, and is looked at."""

    def work() -> Any:
        yield

    began = work()
    next(began)
    asked: Any = SimpleNamespace(worker=_Worker(), request=None, done=False)
    call: Any = _Caller(container)
    made = conversation.Conversation(began, asked, call, lambda call, error: proctor.deny(1), None)
    assert made.later().wait == pytest.approx(0.05)
    return made


@pytest.mark.parametrize(
    ("waiting", "pauses"),
    [
        ([1], [0.25]),
        ([250], [0.25]),
        ([500], [0.5]),
        # four looks a second are what each of the few wants, and the others have the rest
        ([1, 1000], [0.25, 1000 / 996]),
        ([10, 20, 220, 2000], [0.25, 0.25, 220 / 440, 2000 / 440]),
        ([500, 500], [1.0, 1.0]),
        ([100, 100, 50], [0.25, 0.25, 0.25]),
    ],
)
def test_callers_are_looked_at_more_rarely_where_many_of_their_container_wait(
    waiting: list[int], pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand looks a second at all of them, of which each container has its share; and those whose calls are over are
    counted no more."""
    now = [100.0]
    monkeypatch.setattr(conversation, "time", SimpleNamespace(monotonic=lambda: now[0]))
    looks = Looks()
    monkeypatch.setattr(conversation.Conversation, "_waiting", looks)
    all_of = [
        [_begin(container) for _ in range(count)]
        for count, container in ((count, proctor.Container()) for count in waiting)
    ]
    now[0] = all_of[0][0].next_look
    for some, pause in zip(all_of, pauses, strict=True):
        assert all(each.look() is None for each in some)
        assert [each.next_look - now[0] for each in some] == [pytest.approx(pause)] * len(some)
    seconds = sum(count / pause for count, pause in zip(waiting, pauses, strict=True))
    assert seconds <= 1000.1
    for some in all_of:
        for each in some:
            each.cancel()
    assert len(looks) == 0


def test_who_is_looked_at_late_for_others_pays_little_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What comes a second late is looked at less: not so the one of another container that was kept waiting."""
    now = [100.0]
    monkeypatch.setattr(conversation, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(conversation.Conversation, "_waiting", Looks())
    many, one = proctor.Container(), proctor.Container()
    some = [_begin(many) for _ in range(300)]
    other = _begin(one)
    now[0] += 1.05
    for each in (some[0], other):
        each.look()
    assert some[0].next_look - now[0] == pytest.approx(4.0)
    assert other.next_look - now[0] == pytest.approx(0.25)


def test_a_dead_reader_is_no_end_of_its_fifo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its executor is ended when it dies, and not at the next look at it, which never comes here."""
    monkeypatch.setattr(conversation, "_FIRST", 3600)
    monkeypatch.setattr(looking, "PAUSE", 3600)
    program = "import os, sys; os.mkfifo('f'); os.fork() or os.open('f', os.O_NOCTTY); os.wait(); sys.stdin.read()"
    opening: list[int] = []

    @proctor.on("openat")
    def openat(call: proctor.Call) -> proctor.Verdict:
        if call.flags & os.O_NOCTTY:
            opening.append(call.tid)
        return proctor.perform()

    troubles: list[str] = []
    with Performers(on_trouble=troubles.append) as performers:
        busy = performers.executors._busy
        with proctor.spawn(
            [sys.executable, "-ISc", program], [openat], performer=performers, userns=True,
            cwd=str(tmp_path), stdin=proctor.PIPE,
        ) as process:  # fmt: skip
            wait_for(lambda: bool(opening and busy))
            os.kill(opening[0], signal.SIGKILL)
            wait_for(lambda: not busy)
            assert process.poll() is None
            process.kill()
    assert troubles == []

"""Who puts something into a writer never waits; what finds no room is counted and told."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from proctor.kernel import threads
from proctor.observe import writer as module
from proctor.observe.writer import LINES, Writer
from tests.support.processes import eventually


class Place:
    """Somewhere that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.seen: list[str] = []

    def write(self, lines: list[str]) -> None:
        self.reached.set()
        assert self.open.wait(30)
        self.seen += lines


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.open.set()


def stuck(place: Place) -> Writer[str]:
    """A writer whose thread sits in its first line."""
    writer: Writer[str] = Writer(place.write, "there")
    assert writer.put("first")
    assert place.reached.wait(30)
    return writer


def test_everything_is_written_in_order(place: Place) -> None:
    place.open.set()
    writer: Writer[str] = Writer(place.write, "there")
    lines = [str(number) for number in range(1000)]
    for line in lines:
        assert writer.put(line)
    assert writer.close(30)
    assert place.seen == lines


def test_a_place_that_is_stuck_holds_up_nobody_and_the_end_is_bounded(place: Place) -> None:
    writer = stuck(place)
    assert writer.put("second")
    assert not writer.close(0.01)
    assert not writer.put("third")  # closed
    place.open.set()
    assert writer.flush(30)
    assert place.seen == ["first", "second"]


def test_lines_are_bounded_and_what_is_dropped_is_told_once(place: Place) -> None:
    writer = stuck(place)
    told: list[int] = []
    writer.on_dropped.append(told.append)
    taken = [writer.put(str(number)) for number in range(LINES + 7)]
    assert taken == [True] * (LINES - 1) + [False] * 8
    place.open.set()
    assert writer.flush(30)
    assert told == [8]
    assert writer.put("again") and writer.flush(30)
    assert told == [8]


def test_bytes_are_bounded_too(place: Place) -> None:
    writer = stuck(place)
    assert writer.put("x" * (module.BYTES - 6))
    assert not writer.put("second")
    assert writer.put("", size=1)


def test_who_tells_of_dropped_lines_may_write(place: Place) -> None:
    writer = stuck(place)
    writer.on_dropped.append(lambda lines: writer.put(f"{lines} lost"))
    for number in range(LINES + 1):
        writer.put(str(number))
    place.open.set()
    assert writer.flush(30)
    assert place.seen[-1] == "2 lost"


def test_an_error_in_writing_ends_nothing() -> None:
    seen: list[str] = []

    def write(lines: list[str]) -> None:
        seen.extend(lines)
        raise ZeroDivisionError

    writer: Writer[str] = Writer(write, "there")
    for line in ("one", "two"):
        writer.put(line)
        assert writer.flush(30)
    assert seen == ["one", "two"]


def test_who_writes_may_close(place: Place) -> None:
    """A handler of logging's that closes a supervisor, say."""
    closed: list[bool] = []

    def write(lines: list[str]) -> None:
        closed.append(writer.close(30))

    writer: Writer[str] = Writer(write, "there")
    writer.put("line")
    assert writer.flush(30) or not closed
    assert closed == [False]


def test_progress_is_waited_for_and_no_longer_than_that(place: Place) -> None:
    """``patience`` counts from the last that was written; ``most`` is the end of it all."""
    writer = stuck(place)
    assert not writer.flush(0.01, 0.02)
    turns = threading.Semaphore(0)
    slow: Writer[str] = Writer(lambda lines: turns.acquire(timeout=30), "there")
    for number in range(module._BATCH * 3):
        slow.put(str(number))
    turns.release(module._BATCH * 3)  # however few lines it takes at a time
    assert slow.flush(30, 30)


def test_without_a_thread_the_last_to_wait_writes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(target: object, name: str) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "quiet_thread", none)
    ready: list[bool] = [False, True]
    writer: Writer[str] = Writer(place.write, "there", lambda seconds: ready.pop(0))
    writer.put("one")
    assert not writer.flush(0.01)  # where it would be stuck itself, nobody does
    place.open.set()
    assert writer.flush(1)
    assert place.seen == ["one"]
    monkeypatch.setattr(module, "quiet_thread", threads.quiet_thread)
    writer.put("two")  # there are threads again
    assert writer.flush(30)
    assert place.seen == ["one", "two"]


def test_a_child_of_fork_writes_what_is_its_own() -> None:
    reader, end = os.pipe()
    with open(reader, encoding="ascii") as file:
        held = threading.Event()
        parent = os.getpid()

        def write(lines: list[str]) -> None:
            if os.getpid() == parent:
                held.wait(30)
            os.write(end, "".join(lines).encode())

        writer: Writer[str] = Writer(write, "there")
        writer.put("of the parent\n")
        child = os.fork()
        if child == 0:
            writer.put("of the child\n")
            os._exit(0 if writer.close(20) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        held.set()
        assert writer.close(30)
        os.close(end)
        assert file.read().splitlines() == ["of the child", "of the parent"]


class Gathered:
    """Lines that are made elsewhere, as ``_core.Gathered`` has them."""

    def __init__(self, hint: Callable[[], object]) -> None:
        self._hint = hint
        self._lines: list[str] = []

    def put(self, line: str) -> None:
        self._lines.append(line)
        if len(self._lines) == 1 or len(self._lines) % 100 == 0:
            self._hint()

    def take(self) -> tuple[str, int]:
        lines, self._lines = self._lines, []
        return "".join(lines), len(lines)


@pytest.fixture
def gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    from proctor.kernel import _core

    monkeypatch.setattr(_core, "Gathered", Gathered)


@pytest.mark.usefixtures("gathering")
def test_what_is_gathered_keeps_its_place(place: Place) -> None:
    place.open.set()
    writer: Writer[str] = Writer(place.write, "there")
    gathered = writer.gathered()
    assert writer.gathered() is gathered
    expected = []
    for number in range(2000):
        expected.append(f"{number}\n")
        if number % 7:
            gathered.put(expected[-1])
        else:
            assert writer.put(expected[-1])
    assert writer.close(30)
    assert "".join(place.seen) == "".join(expected)


@pytest.mark.usefixtures("gathering")
def test_what_is_gathered_is_written_without_more(place: Place) -> None:
    place.open.set()
    writer: Writer[str] = Writer(place.write, "there")
    for number in range(3):
        writer.gathered().put(f"{number}\n")
        eventually("it is written", lambda: len("".join(place.seen)) == 2 * (number + 1))  # noqa: B023


@pytest.mark.usefixtures("gathering")
def test_what_is_gathered_is_bounded_and_counted(place: Place) -> None:
    writer = stuck(place)
    dropped: list[int] = []
    writer.on_dropped.append(dropped.append)
    gathered = writer.gathered()
    for number in range(LINES + 1000):
        gathered.put(f"{number}\n")
    place.open.set()
    assert writer.close(30)
    written = "".join(place.seen[1:]).count("\n")
    assert LINES - 200 <= written <= LINES
    gathered.put("late\n")
    assert sum(dropped) + written in (LINES + 1000, LINES + 999)
    assert "late" not in "".join(place.seen)

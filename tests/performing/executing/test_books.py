"""The books of executors are right wherever memory runs out while something is written down: nobody is counted whom nobody has."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from proctor.kernel import _core
from proctor.performing.executing import executors, workers

_testcapi: Any = pytest.importorskip("_testcapi")  # CPython's own, which some leave out
#: Of the container, at work elsewhere: numbers for which there is an object already are no others.
OTHERS = 300


class Fake:
    """As an executor."""

    last, counted = False, True
    equals: list[Any]
    container = None


class Books(_core.Books):
    def __init__(self) -> None:
        self._lock, self._most, self._reaper = threading.Lock(), 8, True
        self.executor, self.discarded = Fake(), 0
        self.executor.equals = self._by_key["key"] = [self.executor]
        self._idle[self.executor] = 0.0
        self._taken["container"] = OTHERS
        # so many that one more wants memory
        self.others = [object() for _ in range(4)]
        self._busy.update(self.others)

    def borrow_as_help(self) -> None:
        assert self.borrow("key", "container", workers.HELPING) is self.executor

    def borrow_it(self) -> None:
        assert self.borrow("key", "container", OTHERS + 1) is self.executor

    def set_it_free(self) -> None:
        self.set_free(self.executor)

    def discard(self, executor: Any) -> None:
        self.discarded += 1

    def state(self) -> tuple[int, ...]:
        return (
            len(self._idle),
            len(self._by_key["key"]),
            len(self._busy) - 4,
            self._taken["container"] - OTHERS,
        )


WAITS, WORKS, HELPS = (1, 1, 0, 0), (0, 0, 1, 1), (0, 0, 1, 0)


def failures(
    first: Callable[[Books], None] | None, what: Callable[[Books], None], after: tuple[int, ...]
) -> int:
    """Have each of its allocations fail once, in books of their own: how often it failed."""
    for time in range(100):
        books = Books()
        if first is not None:
            first(books)
        before, failed = books.state(), False
        _testcapi.set_nomemory(time, time + 1)
        try:
            what(books)
        except MemoryError:
            failed = True
        finally:
            _testcapi.remove_mem_hooks()
        assert books.state() == (before if failed else after), time
        assert books.discarded == int(failed and first is not None)
        if not failed:
            return time
    raise AssertionError("it never comes about")


def test_what_cannot_be_lent_waits_still() -> None:
    assert failures(None, Books.borrow_it, WORKS)


def test_what_cannot_be_set_free_is_discarded() -> None:
    assert failures(Books.borrow_it, Books.set_it_free, WAITS)


def test_who_helps_is_not_counted() -> None:
    assert failures(None, Books.borrow_as_help, HELPS)
    assert failures(Books.borrow_as_help, Books.set_it_free, WAITS)


class Kept(Fake):
    """As an executor that has an end."""

    def __init__(self) -> None:
        self.equals, self.container, self.key = [], "container", "key"
        self.ends = 0

    def kill(self) -> None:
        self.ends += 1

    close = kill

    def ended(self) -> bool:
        return False


def test_what_is_kept_waits_or_has_an_end() -> None:
    raised = dropped = 0
    for time in range(100):
        books: Any = executors.Executors(idle=60)
        one = Kept()
        books._reaper, books._taken["container"] = True, OTHERS
        books._busy.update({one, *(object() for _ in range(4))})
        failed = False
        _testcapi.set_nomemory(time, time + 1)
        try:
            books.keep(one)
        except MemoryError:
            failed = True
        finally:
            _testcapi.remove_mem_hooks()
        waits = one in books._idle
        assert (one in one.equals, one in books._busy, one.ends) == (waits, False, not waits), time
        assert (one in books._dying) == failed
        assert books._taken["container"] == OTHERS - (not failed)
        raised, dropped = raised + failed, dropped + (not waits and not failed)
        if waits:
            assert raised and dropped
            return
    raise AssertionError("it never comes about")


class Stuck(executors.Worker):
    """A process that was killed, and does not die."""

    dead = False

    def ended(self) -> bool:
        return self.dead


def test_who_helped_is_counted_until_he_is_dead() -> None:
    """His call may be over by then, and its container goes on."""
    books = executors.Executors(idle=60)
    one = Stuck("container")
    books.employ(one, workers.HELPING)
    assert not books._taken
    books.discard(one)
    assert books._taken == {"container": 1}
    with pytest.raises(executors.TooMany):
        books.expect_room("container", 1)
    books.expect_room("container", workers.HELPING)
    one.dead = True
    books.expect_room("container", 1)
    assert not books._taken


def test_who_helped_is_counted_until_what_he_had_open_is_closed() -> None:
    books: Any = executors.Executors(idle=60)
    one: Any = Kept()
    one.counted, one.holds, one.closed = False, True, lambda wait: False
    books.employ(one, workers.HELPING)
    books.release(one, slow=True)
    assert books._taken == {"container": 1}
    one.closed = lambda wait: True
    books.expect_room("container", 1)
    assert not books._taken
    books.close()

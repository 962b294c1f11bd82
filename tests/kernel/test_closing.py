"""Descriptors whose close waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from proctor.kernel import closing
from proctor.kernel.closing import Closers
from tests.support.lingering import lingering


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def test_what_waits_holds_up_nothing_else() -> None:
    """Nor what the same one gave."""
    closers = Closers()
    stuck = [lingering() for _ in range(3)]
    done = threading.Event()
    ends = os.pipe()
    closers.close([sent.detach() for sent, _ in stuck], "somebody")
    closers.close(ends, "somebody", done.set)
    assert done.wait(60)
    assert closers.left("somebody") == 3 == closers.end(0.01)
    assert closers.left("another") == 0
    for _, reader in stuck:
        reader.close()
    assert closers.end(60) == 0 == closers.left("somebody")


def test_nothing_to_close_is_over_at_once() -> None:
    done = threading.Event()
    Closers().close([], then=done.set)
    assert done.is_set()


def test_the_last_thread_is_not_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be had, what is given waits for one, and goes on then."""
    closers = Closers()
    have = threading.Semaphore(1)
    tried = threading.Event()
    start = closing.quiet_thread

    def scarce(target: Callable[[], object], name: str) -> threading.Thread:
        if have.acquire(blocking=False):
            return start(target, name)
        tried.set()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(closing, "quiet_thread", scarce)
    sent, reader = lingering()
    done = threading.Event()
    fd = sent.detach()
    closers.close([fd], "somebody")
    closers.close(os.pipe(), then=done.set)
    assert tried.wait(60)
    assert is_open(fd) and not done.is_set()
    have.release()
    have.release()
    assert done.wait(60)
    reader.close()
    assert closers.end(60) == 0


def test_without_any_thread_the_caller_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(target: Callable[[], object], name: str) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(closing, "quiet_thread", none)
    closers = Closers()
    done = threading.Event()
    ends = os.pipe()
    closers.close(ends, then=done.set)
    assert done.is_set() and closers.end(0) == 0
    assert not any(map(is_open, ends))


def test_threads_end_without_work() -> None:
    closers = Closers(0.01)
    closers.close(os.pipe())
    assert closers.end(60) == 0
    for thread in threading.enumerate():
        if thread.name == "proctor-closer":
            thread.join(60)
    assert closers._threads == 0
    closers.close(os.pipe())
    assert closers.end(60) == 0


def test_what_is_no_descriptor_is_over() -> None:
    closers = Closers()
    closers.close([-1, 1 << 30])
    assert closers.end(60) == 0


def test_a_child_has_threads_of_its_own() -> None:
    closing.closers.close(os.pipe())
    child = os.fork()
    if not child:
        closing.closers.close(os.pipe())
        os._exit(closing.closers.end(60))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert closing.closers.end(60) == 0

"""A machine that breaks off, by a violation or since its test's time is over, leaves no thread to later tests."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from proctor.model.sim.episode import Episode

NEVER = 1 << 62


class TimeIsOver(Exception):
    """What a test's timeout raises."""


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize("as_thread", [True, False])
def test_after_a_violation(as_thread: bool) -> None:
    episode = Episode(1, 0, "ordinary")
    episode.settings = episode.settings._replace(as_thread=as_thread)
    episode.world.schedule.later(0.01, lambda: episode.ledger.broken("planted"))
    episode.run()
    assert episode.violation == "planted"


@pytest.mark.parametrize("at", [50, 500, 2000, 3001])
@pytest.mark.parametrize("seed", [1, 2])
def test_after_a_signal(seed: int, at: int) -> None:
    """It comes while the main stack waits for a thread, or runs itself."""

    def over(*_: object) -> None:
        raise TimeIsOver

    def kill() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, over)
    try:
        episode = Episode(seed, 0, "preemptive", stall_at=NEVER)
        assert episode.preemption is not None
        episode.preemption.at(at, kill)
        with pytest.raises(TimeIsOver):
            episode.run()
    finally:
        signal.signal(signal.SIGUSR1, before)

"""Fixtures of the call tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.call.live import Watch
from tests.support.lab import Lab


@pytest.fixture
def notified(lab: Lab) -> Iterator[Callable]:
    """``notified(actor, "openat", *registers)``: a victim's call, received, as a Call."""
    watches: list[Watch] = []

    def make(*calls: str | int) -> Watch:
        watch = Watch(lab, calls)
        watches.append(watch)
        return watch

    yield make
    for watch in watches:
        watch.close()


@pytest.fixture(params=["quick", "walk"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are found by openat2(2) where that will do, and once more without it, step by step."""
    if request.param == "walk":
        monkeypatch.setattr("proctor.call.path.resolve.find", lambda *_: None)

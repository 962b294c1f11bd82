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

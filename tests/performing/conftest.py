"""How calls are performed of callers that are what the monitor is; what tests of families begin with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from proctor.performing import registry

from .callers import Performers, open_directory


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an executor, as for all others: the monitor opens nothing itself."""
    monkeypatch.setattr(registry, "at_once", lambda name, options=None: None)


@pytest.fixture(scope="module")
def performers() -> Iterator[Performers]:
    with Performers() as made:
        yield made


@pytest.fixture
def place() -> Iterator[bytes]:
    """A directory of the root of containers."""
    with open_directory() as path:
        os.chown(path, 100000, 100000)
        yield path

"""What the tests of performing share: performers, places, and which way calls are performed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from proctor.performing import registry
from tests.performing.support.callers import Performers, open_directory


@pytest.fixture
def performers() -> Iterator[Performers]:
    """Nothing of them is to cause trouble."""
    troubles: list[str] = []
    with Performers(on_trouble=troubles.append) as made:
        yield made
    assert troubles == []


@pytest.fixture
def top() -> Iterator[bytes]:
    """A directory that everybody may write to."""
    with open_directory() as path:
        os.chmod(path, 0o777)
        yield path


@pytest.fixture
def place() -> Iterator[bytes]:
    """A directory of the root of containers."""
    with open_directory() as path:
        os.chown(path, 100000, 100000)
        yield path


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an executor, as for all others: the monitor opens nothing itself."""
    monkeypatch.setattr(registry, "at_once", lambda name, options=None: None)

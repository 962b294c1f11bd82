"""Fixtures for pytest: put ``pytest_plugins = ["proctor.testing.fixtures"]`` into a conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from proctor.testing.target import FakeTarget


@pytest.fixture
def fake_target() -> Iterator[Callable[..., FakeTarget]]:
    """``fake_target(uid=0, files={...})`` makes a :class:`~proctor.testing.FakeTarget` that is
    closed with the test."""
    made: list[FakeTarget] = []

    def make(*arguments: object, **options: object) -> FakeTarget:
        target = FakeTarget(*arguments, **options)  # type: ignore[arg-type]
        made.append(target)
        return target

    yield make
    for target in made:
        target.close()

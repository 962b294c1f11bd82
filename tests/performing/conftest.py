"""How calls are performed of callers that are what the monitor is."""

from __future__ import annotations

import pytest

from proctor.performing import registry


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an executor, as for all others: the monitor opens nothing itself."""
    monkeypatch.setattr(registry, "at_once", lambda name: None)

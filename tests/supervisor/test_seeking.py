"""Where paths lead for handlers that ask: who looks, and what is said where nobody can."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

import proctor
from proctor.supervisor.seeking import Seeking


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOENT])
def test_being_out_of_descriptors_once_says_nothing_of_later_callers(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Who is what the monitor is was not seen: asked again, unless there is no procfs of ours."""
    made: list[int] = []

    def failing() -> object:
        made.append(number)
        if len(made) == 1:
            raise OSError(number, os.strerror(number))
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr("proctor.kernel.alikes.Alikes", failing)
    seeking = Seeking(None, proctor.deny(errno.EPERM))
    assert seeking.alikes is None
    assert (seeking.alikes is None) == (number == errno.ENOENT)
    seeking.close()

"""Where processes stand."""

from __future__ import annotations

import os
import subprocess
from unittest import mock

from proctor.process import standing


def test_a_thread_that_ends_while_children_are_listed_has_nobody_look_at_all_processes() -> None:
    """Each look is a call that an outer monitor performs."""
    real, listed = os.listdir, []

    def listdir(path: str) -> list[str]:
        listed.append(path)
        return [*real(path), "999999999"] if len(listed) == 1 else real(path)

    child = subprocess.Popen(["sleep", "60"])
    try:
        with mock.patch.object(os, "listdir", listdir):
            found = standing.children()
        assert child.pid in found
        assert listed == ["/proc/self/task"] * 2
    finally:
        child.kill()
        child.wait()

"""The command ``proctor``, run as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = [sys.executable, "-m", "proctor"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run("run", "--", "true")``; standard output and error apart, with a hard time limit."""

    def go(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        options.setdefault("cwd", tmp_path)
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False, **options
        )

    return go

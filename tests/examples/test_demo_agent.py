"""The agent's demonstration, run as `make demo-agent` runs it once everything is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.runtimes import missing

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "agent.py"


def test_everything_is_shown() -> None:
    lacks = missing("runc", "busybox", "unshare")
    if lacks:
        pytest.skip(f"needs {lacks}")
    done = subprocess.run(
        [sys.executable, str(DEMO)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT" not in done.stdout and "killed monitor" in done.stdout
    assert 'rule "no other devices"; would be allowed by' in done.stdout
    if "no image is mounted" not in done.stdout:
        assert "from the image" in done.stdout

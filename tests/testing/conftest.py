"""Tests of handlers on fake targets; none of them needs Linux unless it says so."""

from __future__ import annotations

import sys
from pathlib import Path

from proctor.testing.fixtures import fake_target

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parents[1] / "examples" / "demo"))

__all__ = ["fake_target"]

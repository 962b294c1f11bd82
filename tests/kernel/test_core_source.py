"""What the core's source must not have, since no build here would show it."""

from __future__ import annotations

import re
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src/proctor/kernel/_core.c"


def test_no_lengths_in_argument_formats() -> None:
    """``y#`` compiled with the headers of 3.13 means another function than 3.11 has: the one binary
    for all versions (abi3) would raise SystemError there.  ``y*`` is the same everywhere."""
    text = SOURCE.read_text(encoding="utf-8")
    formats = re.findall(r'Py(?:Arg_\w+|_BuildValue)\([^"]*"([^"]*)"', text)
    assert len(formats) >= 5
    assert not [each for each in formats if "#" in each]
    assert text.count("\n") < 800

"""What the core's source must not have, since no build here would show it."""

from __future__ import annotations

import re
from pathlib import Path

SOURCES = sorted((Path(__file__).parents[2] / "src/proctor/kernel/core").rglob("*.c"))


def test_constants_are_returned_with_a_reference() -> None:
    """``Py_RETURN_NONE`` and its like take none with the headers of 3.12 and 3.13, where these objects
    are immortal: on 3.11 the same binary would use None up."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"Py_RETURN_\w+|return Py_(?:None|True|False)\b", text), path.name


def test_no_lengths_in_argument_formats() -> None:
    """``y#`` compiled with the headers of 3.13 means another function than 3.11 has: the one binary
    for all versions (abi3) would raise SystemError there.  ``y*`` is the same everywhere."""
    texts = [each.read_text(encoding="utf-8") for each in SOURCES]
    formats = re.findall(r'Py(?:Arg_\w+|_BuildValue)\([^"]*"([^"]*)"', "".join(texts))
    assert len(formats) >= 10
    assert not [each for each in formats if "#" in each]
    assert all(text.count("\n") < 800 for text in texts)

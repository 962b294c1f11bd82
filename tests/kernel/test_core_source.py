"""What the core's source must not have, since no build here would show it."""

from __future__ import annotations

import re
from pathlib import Path

from proctor.syscalls.tables import all_names

HERE = Path(__file__).parents[2] / "src/proctor/kernel/core"
SOURCES = sorted(HERE.rglob("*.c"))


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


def test_nothing_is_called_as_a_system_call_is() -> None:
    """A newer C library declares it with other parameters, as glibc 2.43 does openat2(2) and its ``struct open_how``."""
    texts = [path.read_text(encoding="utf-8") for path in (*SOURCES, *HERE.rglob("*.h"))]
    made = re.findall(
        r"^[a-z][\w *]*?\b(\w+)\([^;{]*\)(?:;| \{)$|^struct (\w+) \{$", "\n".join(texts), re.M
    )
    names = {name for each in made for name in each if name}
    assert "pin" in names and "how_to_open" in names
    assert names & (all_names() | {"open_how", "clone_args", "mount_attr", "file_attr"}) == set()

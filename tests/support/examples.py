"""Examples in docstrings, run: what stands behind ``>>>``, and indented blocks after ``::``."""

from __future__ import annotations

import doctest
import errno
import os
import re
import sys
import textwrap
from typing import Any

import proctor
from proctor.testing import FakeTarget

#: What every example may use without importing it.
NAMES = {"errno": errno, "os": os, "sys": sys, "proctor": proctor, "FakeTarget": FakeTarget}

_BLOCK = re.compile(r"::\n\n((?:(?:[ ]{4}.*)?\n)+)")
_FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def sources(text: str | None) -> tuple[str, list[doctest.Example]]:
    """The program that the blocks of a docstring make, and its lines that say what they give."""
    head, _, rest = (text or "").partition("\n")
    plain = f"{head}\n{textwrap.dedent(rest)}\n"
    blocks = "".join(textwrap.dedent(block) for block in _BLOCK.findall(plain))
    return blocks, doctest.DocTestParser().get_examples(plain)


def run(text: str | None, name: str, names: dict[str, Any]) -> str:
    """Run the examples of a docstring and return their source; "" if it has none.

    :param names: what is known besides :data:`NAMES`.
    """
    blocks, lines = sources(text)
    known = {**names, **NAMES, "__name__": "example"}
    exec(compile(blocks, f"<example of {name}>", "exec"), dict(known))
    if lines:
        said: list[str] = []
        test = doctest.DocTest(lines, dict(known), name, None, None, text)
        failed, _ = doctest.DocTestRunner(optionflags=_FLAGS).run(test, out=said.append)
        assert not failed, "".join(said)
    return blocks + "".join(line.source + line.want for line in lines)

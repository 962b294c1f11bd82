"""Standard error and output that may be closed, full, or a pipe that nobody reads."""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    """Write ``proctor: text`` to standard error.  Where it cannot be written nobody reads it: what proctor does, and
    its exit status, must not depend on that."""
    try:
        sys.stderr.write(f"proctor: {one_line(text)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def one_line(text: str) -> str:
    """The text without what moves a cursor or begins a line: arguments and reasons may hold anything."""
    if text.isprintable():
        return text
    from proctor.policy.source import printable

    return printable(text)


def give_up_output() -> None:
    """What is left in the buffer goes nowhere, rather than into a complaint at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return  # no descriptor left for that
    os.dup2(null, sys.stdout.fileno())
    os.close(null)

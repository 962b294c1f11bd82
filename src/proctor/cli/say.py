"""Standard error and output that may be closed, full, or a pipe that nobody reads."""

from __future__ import annotations

import os
import sys

from proctor.words import printable


def say(text: str) -> None:
    """Write ``proctor: text`` to standard error.  Where it cannot be written nobody reads it: what proctor does, and
    its exit status, must not depend on that."""
    try:
        sys.stderr.write(f"proctor: {printable(text)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def give_up_output() -> None:
    """What is left in the buffer goes nowhere, rather than into a complaint at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return  # no descriptor left for that
    os.dup2(null, sys.stdout.fileno())
    os.close(null)

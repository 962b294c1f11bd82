"""What proctor says, on a standard error that may be closed, full, stopped, or a pipe that nobody
reads: what it does, and its exit status, must not depend on that."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from proctor.errors import ProctorError
from proctor.observe.lines import Lines
from proctor.words import printable

if TYPE_CHECKING:
    from proctor.observe.writer import Writer

#: Seconds that the end waits while nothing gets written, and at most.
_PATIENCE, _MOST = 1.0, 10.0

_standard_error: Lines | None = None
#: For which the end has waited long enough.
_stuck: list[Writer[Any]] = []


def missing(problem: ImportError, who: str, extra: str = "agent") -> ProctorError:
    """What is said where something is wanted that comes with an extra of the package."""
    name = "protobuf" if f"{problem.name}.".startswith("google.") else problem.name
    return ProctorError(f"{name} is not installed, which {who}: pip install 'proctor[{extra}]'")


def standard_error() -> Lines:
    """The one writer for standard error."""
    global _standard_error  # noqa: PLW0603 - there is one
    if _standard_error is None:
        _standard_error = Lines(2, "standard error")
    return _standard_error


def say(text: str) -> None:
    """Have ``proctor: text`` written to standard error, in one line whatever it quotes; it does not
    wait for that."""
    standard_error().put(f"proctor: {printable(text)}\n")


def finish(writer: Writer[Any] | None = None) -> None:
    """Wait for what was said to be written, or for what waits in another writer: not for ever."""
    writer = _standard_error if writer is None else writer
    if writer is not None and writer not in _stuck and not writer.flush(_PATIENCE, _MOST):
        _stuck.append(writer)


def give_up_output() -> None:
    """What is left in the buffer goes nowhere, rather than into a complaint at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return  # no descriptor left for that
    os.dup2(null, sys.stdout.fileno())
    os.close(null)

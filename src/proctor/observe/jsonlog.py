"""What was answered, for people and for programs."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from proctor.call.verdict import Deny
from proctor.cli.say import say
from proctor.errors import PolicyError
from proctor.words import quoted

if TYPE_CHECKING:
    from proctor.observe.events import Outcome


def record(outcome: Outcome) -> dict[str, Any]:
    """One outcome as a JSON object: times in microseconds, ids in decimal."""
    verdict = outcome.verdict
    found: dict[str, Any] = {
        "time": round(time.time(), 6),
        "pid": outcome.call.tid,
        "syscall": outcome.call.name,
        "call": outcome.text,
        "verdict": str(verdict),
        "by": outcome.decided_by,
        "performed": outcome.performed,
        "delivered": outcome.delivered,
        "microseconds": round((outcome.answered - outcome.received) * 1e6, 1),
    }
    if verdict.reason:
        found["reason"] = str(verdict.reason)
        if outcome.rule:
            found["rule"] = outcome.rule
        if tip := getattr(verdict.reason, "tip", ""):
            found["tip"] = tip
    if outcome.error is not None:
        found["error"] = f"{type(outcome.error).__name__}: {outcome.error}"
    return found


class JsonLog:
    """Appends one JSON object per line; an observer.

    :raises PolicyError: if the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._file: TextIO
        self._path = path
        self._broken = False
        if path == "-":
            self._file = sys.stderr
            return
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise PolicyError(f"--log {path or quoted(path)}: {problem.strerror}") from None
        self._file = open(fd, "w", encoding="utf-8")  # noqa: SIM115

    def __call__(self, outcome: Outcome) -> None:
        if self._broken:
            return
        try:
            # one write per line, so that lines of several threads do not mix
            self._file.write(json.dumps(record(outcome), ensure_ascii=True) + "\n")
            self._file.flush()
        except OSError as problem:  # a full disk, most of all: said once, and the command goes on
            self._broken = True
            say(f"--log {self._path}: {problem.strerror}; what comes now is not logged")

    def close(self) -> None:
        """Close the file."""
        if self._file is not sys.stderr:
            try:
                self._file.close()
            except OSError:
                pass  # what could not be written was told when it happened


def tell_refusals(outcome: Outcome) -> None:
    """One line on standard error for what a rule refused, and why; an observer.

    Of what was performed: what failed for want of a right, which may be the monitor's own want."""
    verdict = outcome.verdict
    if not isinstance(verdict, Deny) or not verdict.reason:
        return
    if (not outcome.performed or outcome.decided_by == "deadline") or (
        verdict.errno in (errno.EPERM, errno.EACCES)
        and not str(verdict.reason).startswith("not performed: ")  # told by the performer
    ):
        what = outcome.text or outcome.call.name
        say(f"{what}: {verdict}: {verdict.reason}")

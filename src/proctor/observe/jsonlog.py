"""The log for programs: one JSON object per line.  ``docs/log.md`` says what is in it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Answer, Deny, LetRun
from proctor.observe.counters import word
from proctor.observe.events import (
    ContainerAdded,
    ContainerEnded,
    Dropped,
    Event,
    Outcome,
    TakenOver,
    Trouble,
)
from proctor.observe.lines import Lines
from proctor.observe.observers import said

if TYPE_CHECKING:
    from proctor.call.ports import ContainerPort
    from proctor.observe.writer import Writer

#: Of the records' form: it grows when a key changes its meaning, or goes; keys may be added.
VERSION: Final = 1


class JsonLog:
    """An observer that puts a record of every event into a writer of lines.

    ::

        from proctor.observe.jsonlog import to_file
        lines = to_file("calls.jsonl", print)
        command = [sys.executable, "-c", "import os; os.getppid()"]
        handler = proctor.Handler(["getppid"], lambda call: proctor.answer(7))
        proctor.run(command, [handler], observers=[proctor.JsonLog(lines)])
        lines.close(1.0)
        assert '"syscall": "getppid"' in open("calls.jsonl").read()

    :param containers: whether their coming and going is recorded, too; where there is but one, as
        under ``proctor run``, its calls say all.
    """

    wants_text = True
    wants_facts = True

    def __init__(self, writer: Writer[Any], *, containers: bool = True) -> None:
        self.writer = writer
        of_one: tuple[type, ...] = (Outcome, Trouble, Dropped, TakenOver)
        self.events = (*of_one, ContainerAdded, ContainerEnded) if containers else of_one

    def __call__(self, event: Event) -> None:
        if isinstance(event, Trouble) and not event.worth_telling:
            return  # of calls there is a record each, with their error
        found = record(event)
        self.writer.put(found, 600 + 4 * len(found.get("call") or found.get("text") or ""))


def to_file(path: str, broken: Callable[[OSError], object]) -> Lines:
    """Lines that are appended to a file, which is made for its owner alone if it is not there.

    :param broken: see :class:`~proctor.observe.lines.Lines`.
    :raises OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return Lines(fd, f"--log {path}", broken)


def record(event: Event) -> dict[str, Any]:
    """One event as a JSON object."""
    found: dict[str, Any] = {"version": VERSION, "event": "", "time": round(time.time(), 6)}
    if isinstance(event, Outcome):
        found["event"] = "call"
        found |= _call(event)
    elif isinstance(event, Trouble):
        found |= {"event": "trouble", "text": event.text, "times": event.times}
    elif isinstance(event, Dropped):
        found |= {"event": "dropped", "place": event.place, "lines": event.lines}
    elif isinstance(event, ContainerAdded):
        found |= {"event": "added", **_container(event.container)}
    elif isinstance(event, ContainerEnded):
        found |= {"event": "ended", **_container(event.container), "how": event.how}
    elif isinstance(event, TakenOver):
        found |= {"event": "taken over", **_container(event.container), "calls": event.calls}
    return found


def _container(container: ContainerPort) -> dict[str, Any]:
    found: dict[str, Any] = {"container": container.name}
    if container.labels:
        found["labels"] = dict(container.labels)
    return found


def _call(outcome: Outcome) -> dict[str, Any]:
    call, verdict = outcome.call, outcome.verdict
    result = None
    if outcome.delivered:
        if isinstance(verdict, Deny):
            result = -verdict.errno
        elif isinstance(verdict, Answer):
            result = verdict.value
    found: dict[str, Any] = {
        **_container(outcome.container),
        "tid": call.tid,
        "arch": call.abi,
        "syscall": call.name,
        "call": outcome.text,
        **outcome.facts,
        "verdict": "perform" if outcome.performed else word(verdict),
        "by": outcome.decided_by,
        "delivered": outcome.delivered,
        "result": result,
        "microseconds": round((outcome.answered - outcome.received) * 1e6, 1),
    }
    if isinstance(verdict, Deny):
        found["errno"] = errno.errorcode.get(verdict.errno, str(verdict.errno))
    if isinstance(verdict, LetRun) and verdict.unsafe:
        found["unsafe"] = True
    if verdict.reason:
        found["reason"] = str(verdict.reason)
    if outcome.rule:
        found["rule"] = outcome.rule
    tip = getattr(verdict.reason, "tip", "")
    if tip:
        found["tip"] = tip
    if outcome.error is not None:
        found["error"] = said(outcome.error)
    return found

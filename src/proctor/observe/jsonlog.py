"""The log for programs: one JSON object per line.  ``docs/log.md`` says what is in it."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Answer, Deny, LetRun
from proctor.observe.amount import Limits
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
from proctor.observe.lines import Lines, open_log
from proctor.observe.observers import said

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.ports import ContainerPort
    from proctor.call.verdict import Perform, Verdict
    from proctor.observe.writer import Writer

__all__ = ["JsonLog", "to_file"]

#: Of the records' form: it grows when a key changes its meaning, or goes; keys may be added.
VERSION: Final = 1
#: Ways in which calls can end that are remembered.
_MOST: Final = 1024
#: Verdicts whose first item is what the call comes to: an errno, a value, whether it is unsafe.
_BY_VALUE: Final = (Deny, Answer, LetRun)


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
    :raises TypeError: what is given as the writer writes no lines.
    """

    #: What lines of calls begin with, before the time.
    HEAD: Final = f'{{"version": {VERSION}, "event": "call", "time": '.encode()
    #: Tells other observers of an event; set by whoever tells this one.
    tell: Callable[[Event], object] = staticmethod(bool)

    def __init__(self, writer: Writer[Any], *, containers: bool = True) -> None:
        if not hasattr(writer, "put"):
            raise TypeError(
                f"JsonLog({writer!r}): a writer of lines is wanted, as proctor.observe.jsonlog.to_file() makes"
            )
        self.writer = writer
        of_one: tuple[type, ...] = (Outcome, Trouble, Dropped, TakenOver)
        self.events = (*of_one, ContainerAdded, ContainerEnded) if containers else of_one
        self._limits = Limits()
        self.wants_facts = self._limits.wants
        self._became: dict[tuple[object, ...], str] = {}
        self._container: tuple[object, object, str] = (None, None, "")
        self._gathered: Any = None

    def __call__(self, event: Event) -> None:
        if type(event) is Outcome:
            left_out = self._limits.take(event.container, event.verdict, event.performed)
            if left_out is None:
                return
            if left_out:
                self._left_out(event.container, left_out)
            line = self.line(event)
        elif isinstance(event, Trouble) and not event.worth_telling:
            return  # of calls there is a record each, with their error
        else:
            if isinstance(event, ContainerEnded):
                self._left_out(event.container, self._limits.left_out(event.container))
            line = json.dumps(record(event)) + "\n"
        self.writer.put(line)

    def _left_out(self, container: ContainerPort, lines: int) -> None:
        """Tell everybody, ourselves too."""
        if lines:
            self.tell(Dropped(self.writer.place, lines, container))

    def line(self, outcome: Outcome) -> str:
        """The record of a call.  Made where it is told of: for another thread to make it, that would
        have to take the interpreter from whoever answers the next call."""
        call, container = outcome.call, outcome.container
        known = self._container  # other threads tell of calls of other containers
        if known[0] is not container or known[1] is not container.labels:
            text = json.dumps(_container(container))[1:-1]
            known = self._container = container, container.labels, text
        facts = outcome.facts or '"call": "", "args": {}'
        took = (outcome.answered - outcome.received) * 1e6
        return (
            f'{{"version": {VERSION}, "event": "call", "time": {time.time():.6f}, '
            f'{known[2]}, "tid": {call.tid}, "arch": "{call.abi}", "syscall": "{call.name}", '
            f"{facts}, "
            f'{self._what_became(outcome)}, "microseconds": {took:.1f}}}\n'
        )

    def _what_became(self, outcome: Outcome) -> str:
        """What became of a call, as members of a JSON object: mostly as of others before it."""
        verdict = outcome.verdict
        tip: str = getattr(verdict.reason, "tip", "")
        if tip or outcome.error is not None:
            return json.dumps(_became(outcome))[1:-1]
        kind = type(verdict)
        # Not the whole verdict, which may have what was written.
        value = verdict[0] if kind in _BY_VALUE else None
        key = (kind, value, verdict.reason, outcome.decided_by, outcome.delivered,
               outcome.performed, outcome.rule)  # fmt: skip
        found = self._became.get(key)
        if found is None:
            if len(self._became) >= _MOST:
                self._became.clear()
            found = self._became[key] = json.dumps(_became(outcome))[1:-1]
        return found

    # For calls that are written down in the core, piece by piece what line() makes ----------------
    def gathered(self) -> Any:
        """``_core.Gathered``: the writer's lines that are made there."""
        if self._gathered is None:
            self._gathered = self.writer.gathered()
        return self._gathered

    def middle(self, container: ContainerPort) -> bytes:
        """What is between the time and the caller's number."""
        return f', {json.dumps(_container(container))[1:-1]}, "tid": '.encode()

    def pieces(self, call: Call, path: str) -> tuple[bytes, ...]:
        """What comes behind the caller's number, up to where the path is; up to where it is again; behind
        that; and before what it leads to.  Nothing for a call that takes more to show.

        :param path: the path's name, if there is one."""
        from proctor.observe.facts import pieces_of

        made = pieces_of(call)
        if made is None:
            return ()
        first, *rest = made
        first = f', "arch": "{call.abi}", "syscall": "{call.name}", {first}'
        second, last = rest or ("", "")
        return tuple(each.encode() for each in (first, second, last, f', "paths": {{"{path}": "'))

    def became(
        self, verdict: Verdict, by: str, delivered: bool, performed: Perform | None = None
    ) -> bytes:
        """What became of a call that got this verdict from a handler, or from a rule.

        :param performed: it was performed, as that says."""
        said = verdict if performed is None else performed
        rule = getattr(said.reason, "rule", "")
        call: Any = None
        outcome = Outcome(
            call, verdict, by, delivered, 0.0, 0.0, call, performed is not None, rule=rule
        )
        return json.dumps(_became(outcome))[1:-1].encode()


def to_file(path: str, broken: Callable[[OSError], object]) -> Lines:
    """Lines that are appended to a file, which is made for its owner alone if it is not there.

    :param broken: see :class:`~proctor.observe.lines.Lines`.
    :raises OSError: it cannot be opened.
    """
    return Lines(open_log(path), f"--log {path}", broken)


def record(event: Event) -> dict[str, Any]:
    """One event, other than a call's, as a JSON object."""
    found: dict[str, Any] = {"version": VERSION, "event": "", "time": round(time.time(), 6)}
    if isinstance(event, Trouble):
        found |= {"event": "trouble", "text": event.text, "times": event.times}
    elif isinstance(event, Dropped):
        found |= {"event": "dropped", "place": event.place, "lines": event.lines}
        if event.container is not None:
            found |= _container(event.container)
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


def _became(outcome: Outcome) -> dict[str, Any]:
    verdict = outcome.verdict
    result = None
    if outcome.delivered:
        if isinstance(verdict, Deny):
            result = -verdict.errno
        elif isinstance(verdict, Answer):
            result = verdict.value
    found: dict[str, Any] = {
        "verdict": "perform" if outcome.performed else word(verdict),
        "by": outcome.decided_by,
        "delivered": outcome.delivered,
        "result": result,
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

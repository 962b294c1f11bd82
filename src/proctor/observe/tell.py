"""What people are told while a command runs: refusals and their reasons, and trouble, a line each."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from proctor.call.verdict import Deny, Stated, Verdict
from proctor.observe.events import Dropped, Event, Outcome, Trouble
from proctor.words import printable

if TYPE_CHECKING:
    from proctor.observe.writer import Writer


class Teller:
    """An observer that puts ``proctor: ...`` lines into a writer.

    Trouble of one kind at one place is told in full once, with its traceback if there is one, and
    from then on counted: the tenth, the hundredth..., and :meth:`close` has the last word.

    :param refusals: whether to tell what was refused, if somebody said why.  Of what was performed:
        what failed for want of a right, which may be the monitor's own want.
    :param debug: tell all trouble, each with its traceback.
    """

    def __init__(self, writer: Writer[Any], *, refusals: bool = True, debug: bool = False) -> None:
        self.writer = writer
        self.events: tuple[type, ...] = (Trouble, Dropped, *((Outcome,) if refusals else ()))
        self._debug = debug
        #: What was not told every time, by place: the text, how often, and how often when last told.
        self._counted: dict[str, tuple[str, int, int]] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Outcome):
            self._refusal(event)
        elif isinstance(event, Trouble):
            self._trouble(event)
        elif isinstance(event, Dropped):
            self.say(
                f"{event.lines} lines for {event.place} were dropped: nobody took those before"
            )

    @staticmethod
    def wants(verdict: Verdict) -> bool:
        """A refusal with a reason."""
        return isinstance(verdict, Deny) and bool(verdict.reason)

    def wants_text(self, call: object, verdict: Verdict) -> bool:
        """Of those."""
        return self.wants(verdict)

    def say(self, text: str) -> None:
        """Tell something else: in one line, whatever it quotes."""
        self.writer.put(f"proctor: {printable(text)}\n")

    def _refusal(self, outcome: Outcome) -> None:
        verdict = outcome.verdict
        assert isinstance(verdict, Deny)
        if not outcome.delivered and str(verdict.reason).startswith("on_error"):
            return  # its caller went while it was looked at, which is why that failed
        if (
            not outcome.performed
            or outcome.decided_by == "deadline"
            or isinstance(verdict.reason, Stated)
        ) or (
            verdict.errno in (errno.EPERM, errno.EACCES)
            and not str(verdict.reason).startswith("not performed: ")  # told by the performer
        ):
            self.say(f"{outcome.text or outcome.call.name}: {verdict}: {verdict.reason}")

    def _trouble(self, event: Trouble) -> None:
        told = self._debug or event.worth_telling
        _, times, before = self._counted.get(event.place, ("", 0, 0))
        most = max(times, event.times)  # others are told at the same time
        self._counted[event.place] = (event.text, most, max(before, event.times * told))
        if not told:
            return
        self.say(event.text if event.times == 1 else f"{event.text} ({event.times} times so far)")
        if self._debug or event.times == 1:
            for line in event.traceback().splitlines():
                self.say(f"  {line}")

    def close(self) -> None:
        """Say how often that happened of which not all was told."""
        for text, times, told in self._counted.values():
            if times > told:
                self.say(f"{text} ({times} times in all)")
        self._counted.clear()

"""The observers of one supervisor: who is told what, and what becomes of trouble."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import CallError
from proctor.given import several
from proctor.observe.counters import Counters
from proctor.observe.events import EVENTS, Dropped, Event, Observer, Outcome, Trouble

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.ports import ContainerPort
    from proctor.call.verdict import Verdict
    from proctor.observe.writer import Writer

#: Places at which trouble is counted by itself; code that makes code has any number of them.
_PLACES: Final = 1000
#: What differs from one trouble to the next of its kind: threads, processes.
_NUMBERS: Final = re.compile("[0-9]+")
#: Characters of what an exception says that are told.
_SAID: Final = 500


class Observers:
    """See the module.

    Trouble and dropped lines that no observer takes go to the logger ``proctor`` (:mod:`logging`).

    :param lock: guards the counts of trouble.
    :raises TypeError: for an observer that cannot be called, or wants events that do not exist.
    """

    __slots__ = (
        "_all",
        "_facts",
        "_facts_for",
        "_lock",
        "_logged",
        "_others",
        "_outcomes",
        "_places",
        "_texts",
        "_told",
        "_wanted",
        "callers",
        "counters",
        "log",
        "watching",
    )

    def __init__(self, observers: Iterable[Observer], lock: AbstractContextManager[Any]) -> None:
        given = several("observers", observers, "observers")
        told: dict[type, tuple[Observer, ...]] = {}
        for observer in given:
            if not callable(observer):
                raise TypeError(f"{observer!r} observes nothing: it is called with an event")
            for kind in getattr(observer, "events", EVENTS):
                if kind not in EVENTS:
                    raise TypeError(f"{observer!r}: {kind!r} is no event")
                told[kind] = (*told.get(kind, ()), observer)
        for each in given:
            if hasattr(each, "tell"):
                each.tell = self.tell
        writers: set[Writer[Any]] = {each.writer for each in given if hasattr(each, "writer")}
        for writer in writers:
            self._hear(writer)
        outcomes = told.pop(Outcome, ())
        #: The one that can be kept on the shortest path; None if there is none, or more than one.
        self.counters: Counters | None = None
        counting = [each for each in outcomes if type(each) is Counters]
        if len(counting) == 1:
            self.counters = counting[0]
        self._outcomes = tuple((each, getattr(each, "wants", _every)) for each in outcomes)
        #: All of these want every outcome.
        self._all = outcomes if all(w is _every for _, w in self._outcomes) else None
        #: Asked with a verdict: of which outcomes somebody but the counters wants to know.
        self._others = tuple(each for each in self._outcomes if each[0] is not self.counters)
        self._wanted = tuple(wants for _, wants in self._others)
        self.watching = bool(self._wanted)
        texts = [getattr(each, "wants_text", False) for each in outcomes]
        #: Of which calls and their verdicts the text is wanted.
        self._texts = tuple(_every_of if text is True else text for text in texts if text)
        #: One whose lines of usual calls can be made in the core: the only such one; None without.
        gathering = [each for each in outcomes if hasattr(each, "gathered")]
        self.log: Any = gathering[0] if len(gathering) == 1 else None
        self._facts: Callable[..., str] | None = None
        facts_for = [getattr(each, "wants_facts", False) for each in outcomes]
        #: Of which containers' verdicts facts are wanted.
        self._facts_for = tuple(_every_of if of is True else of for of in facts_for if of)
        if self._facts_for:
            # At once: what is loaded while the first caller waits takes it 20 ms.
            from proctor.observe.callers import Callers
            from proctor.observe.facts import facts

            self._facts, self.callers = facts, Callers()
        #: Waits for what the logger owes; None where it is told nothing.
        self._logged: Callable[[float], object] | None = None
        if not (Trouble in told and Dropped in told):
            from proctor.observe.logger import flush, log

            self._logged = flush
            told.setdefault(Trouble, (log,))
            told.setdefault(Dropped, (log,))
        self._told = told
        self._places: dict[str, int] = {}
        self._lock = lock

    def wants(self, verdict: Any) -> bool:
        """Whether somebody, counters aside, wants to know of an outcome with that verdict."""
        if _every in self._wanted:
            return True
        return any(self._ask(wants, verdict) for wants in self._wanted)

    def who_wants(self, verdict: Any) -> list[Observer]:
        """Those who want to know of an outcome with that verdict, counters aside."""
        return [
            each for each, wants in self._others if wants is _every or self._ask(wants, verdict)
        ]

    def counting(self, verdict: Any) -> Callable[[Outcome], list[Any] | None] | None:
        """Who alone wants to know of an outcome with that verdict, and counts by himself what is like others: given one
        of which he was told he gives its cell, how many of its like there were and when the last was."""
        who = self.who_wants(verdict)
        return getattr(who[0], "cell", None) if len(who) == 1 else None

    def _ask(self, wants: Callable[..., bool], *what: Any) -> bool:
        try:
            return wants(*what)
        except Exception as problem:  # told too much, rather than nothing
            self.trouble(f"observer {label_of(wants)}", problem)
            return True

    def tell_outcome(self, outcome: Outcome) -> BaseException | None:
        """As :meth:`tell`."""
        if self._all is not None:
            return self._tell(outcome, self._all)
        verdict = outcome.verdict
        return self._tell(
            outcome, [each for each, wants in self._outcomes if self._ask(wants, verdict)]
        )

    def tell(self, event: Event) -> BaseException | None:
        """Tell whoever wants to know; a KeyboardInterrupt that came out of an observer, to be raised
        where that is the user's own thread."""
        return self._tell(event, self._told.get(type(event), ()))

    def _tell(self, event: Event, observers: Sequence[Observer]) -> BaseException | None:
        interrupted: BaseException | None = None
        for observer in observers:
            try:
                observer(event)
            except BaseException as problem:  # sys.exit() must end neither us nor the bookkeeping
                if isinstance(problem, KeyboardInterrupt):
                    interrupted = problem
                if not isinstance(event, (Trouble, Dropped)):
                    self.trouble(f"observer {label_of(observer)}", problem)
        return interrupted

    def _hear(self, writer: Writer[Any]) -> None:
        writer.on_dropped.append(lambda lines: self.tell(Dropped(writer.place, lines)))

    def looks(self, call: Any, verdict: Any, container: ContainerPort | None = None) -> bool:
        """Whether a call that is to be answered so is looked at for an observer before it is."""
        if any(wanted(container, verdict) for wanted in self._facts_for):
            return True
        return any(self._ask(wanted, call, verdict) for wanted in self._texts)

    def explained(self, call: Call, verdict: Verdict) -> Verdict:
        """The verdict with all that its reason has to say, if somebody wants to know of it; it may look
        at the caller's memory, and never raises."""
        explains = call.explains
        if explains is None or explains[0] is not verdict or not self.wants(verdict):
            return verdict
        try:
            return verdict._replace(reason=explains[1]())
        except (CallError, OSError):
            pass  # somebody else ended the call
        except Exception as problem:  # it is only for those who are told
            self.trouble("a refusal could not be explained", problem)
        return verdict

    def look(self, call: Call, verdict: Verdict, *, read: bool) -> tuple[str, str]:
        """The text and the facts of a call that somebody wants; it never raises.

        :param read: whether the caller's memory and what it is may be looked at.
        """
        text = found = ""
        try:
            if self._texts and any(self._ask(wanted, call, verdict) for wanted in self._texts):
                text = call.describe(read)
            if self._facts is not None:
                found = self._facts(call, self.callers, read=read)
        except (CallError, OSError):
            pass  # somebody else ended the call
        except Exception as problem:  # it is only for a log
            self.trouble("a call could not be described", problem)
        return text, found

    def trouble(
        self,
        who: str,
        error: BaseException | None = None,
        *,
        call: Call | None = None,
        near: object = None,
        then: str = "",
        expected: bool = False,
    ) -> None:
        """Tell trouble; it never raises.

        :param who: what went wrong, or whose doing it is.
        :param error: what was raised.
        :param call: of which call.
        :param near: the function whose line is named, if ``error`` came by it.
        :param then: what happened about it.
        :param expected: the error says all there is to say, without a place in the code.
        """
        try:
            where = "" if error is None or expected else _where(error, near)
            words = "" if error is None else said(error, expected)
            text = f"{who} ({where})" if where else who
            place = (
                f"{text}: {type(error).__name__}" if error is not None else _NUMBERS.sub("#", text)
            )
            if words:
                text = f"{text}: {words}"
            if call is not None:
                text = f"{text} on {_line(call)}"
            if then:
                text = f"{text}; {then}"
            with self._lock:
                if place not in self._places and len(self._places) >= _PLACES:
                    place = "(elsewhere)"
                count = self._places[place] = self._places.get(place, 0) + 1
            self.tell(Trouble(text, place, count, None if expected else error))
        except Exception:
            # no memory, no descriptor left to load a module: callers wait for us
            pass

    def flush(self, patience: float) -> None:
        """Nothing more is told: give what the logger owes a bounded time to be written."""
        if self._facts is not None:
            self.callers.close()
        if self._logged is not None:
            self._logged(patience)


def _every(verdict: object) -> bool:
    return True


def _every_of(container: object, verdict: object) -> bool:
    return True


def label_of(function: Any) -> str:
    """What people call it."""
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def said(error: BaseException, expected: bool = False) -> str:
    """``ValueError: what it says``, in bounds; ``expected``: what it says."""
    try:
        words = str(error)
    except Exception:  # an exception of somebody's
        words = ""
    if len(words) > _SAID:
        words = words[:_SAID] + "..."
    if expected:
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _where(error: BaseException, near: object) -> str:
    """``file:line`` of the last line in the file of ``near``, or where that is defined if the error is about what it
    returned; of something that has no code, of the last of all."""
    code = getattr(getattr(near, "__func__", near), "__code__", None)
    found = None
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if (
            found is None
            or code is None
            or file == code.co_filename
            or found[0] != code.co_filename
        ):
            found = (file, trace.tb_lineno)
        trace = trace.tb_next
    if code is not None and (found is None or found[0] != code.co_filename):
        found = (code.co_filename, code.co_firstlineno)
    return f"{os.path.basename(found[0])}:{found[1]}" if found is not None else ""


def _line(call: Call) -> str:
    """The call, from what is known of it already."""
    try:
        return call.describe(read=False)
    except Exception:  # it is over
        return call.name

"""What observers are told: one vocabulary for the log, the counters and whoever else looks on.

::

    def observer(event):
        seen.append(type(event))

    seen = []
    observer.events = (ContainerAdded, ContainerEnded, TakenOver, Trouble, Dropped)
    handler = proctor.Handler(["getppid"], lambda call: None)
    proctor.run(["true"], [handler], observers=[observer])
    assert seen == [ContainerAdded, ContainerEnded]

An observer is called with one event at a time, from whichever thread it happened on, while a caller
may wait for that thread: it must be quick, and neither wait nor write.  One that writes puts lines
into a :class:`~proctor.observe.writer.Writer`.  Two attributes of an observer are looked at, if it
has them, when it is given to a supervisor:

``events``
    the classes of events it is called with; all, if it does not say;
``wants_text``
    whether outcomes carry the call as strace would write it, which costs a look at memory: True, or
    a function that is asked with each call and its verdict, and has the same answer until it is told;
``wants_facts``
    whether they carry what a log for programs wants (:mod:`proctor.observe.facts`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Union

from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.ports import ContainerPort
    from proctor.call.verdict import Verdict

__all__ = [
    "ContainerAdded",
    "ContainerEnded",
    "Dropped",
    "Outcome",
    "TakenOver",
    "Trouble",
    "outcomes",
]

#: Lines of a traceback that are told, how many of them of its beginning, and columns of each.
_LINES: Final = 80
_FIRST: Final = 20
_COLUMNS: Final = 1000


class Outcome(NamedTuple):
    """What became of one call; told before the call object dies.

    >>> from proctor.testing import FakeCall
    >>> made = proctor.Outcome(FakeCall("getpid"), proctor.answer(7), "mine", True, 1.0, 1.5, None)
    >>> made.answered - made.received, made.rule
    (0.5, '')
    """

    #: The call; alive only while the observer runs.
    call: Call
    #: What was answered (for a performed call: its outcome).
    verdict: Verdict
    #: Label of the handler that decided, or "default", "deadline", "close"; "gone" if its caller was
    #: found to be, or to die of a signal as soon as it is answered, before anybody decided; "quota" if its container has too many calls.
    decided_by: str
    #: False if the caller was gone when the answer came: an ordinary event.
    delivered: bool
    #: World clock, seconds: when it was received and when it was answered.
    received: float
    answered: float
    #: Whose caller made it.
    container: ContainerPort
    #: Whether the verdict was reached by performing the call.
    performed: bool = False
    #: What a handler raised, if that decided.
    error: BaseException | None = None
    #: The call as strace would write it; "" unless an observer wants text of such a verdict.
    text: str = ""
    #: Call, arguments and caller for programs, as members of a JSON object (``"call": "getpid()",
    #: ...``); "" unless an observer wants facts.
    facts: str = ""
    #: Name of the policy's rule that decided; "" if none did, or it has no name.
    rule: str = ""


class ContainerAdded(NamedTuple):
    """Its calls are answered from now on."""

    container: ContainerPort


class ContainerEnded(NamedTuple):
    """Its calls are not answered any more."""

    container: ContainerPort
    #: "ended": nobody uses its filter any more; "detached": it was given back; "closed" with its
    #: supervisor.
    how: str


class TakenOver(NamedTuple):
    """Calls that an earlier monitor had received, and left unanswered, are answered here."""

    container: ContainerPort
    calls: int


class Trouble(NamedTuple):
    """Something of ours, or of a handler's, went wrong; callers were answered all the same.

    A target decides how often: the same trouble at the same place is told with rising ``times``,
    and whoever shows it to people shows few of them (:attr:`worth_telling`).
    """

    #: One sentence.  It may quote what a target gave: print it through ``words.printable``.
    text: str
    #: What is counted together.
    place: str = ""
    #: How often it happened so far, at this place.
    times: int = 1
    #: What was raised; its traceback holds frames alive, and with them a call: do not keep it.
    error: BaseException | None = None

    @property
    def worth_telling(self) -> bool:
        """The first, the tenth, the hundredth..."""
        return str(self.times).strip("0") == "1"

    def traceback(self) -> str:
        """A page: of a longer one where it begins and ends, since a target may choose how deep a handler gets, or what
        an exception says.  "" where nothing was raised."""
        if self.error is None:
            return ""
        from traceback import format_exception

        lines = "".join(format_exception(self.error)).rstrip().splitlines()
        if len(lines) > _LINES:
            left = len(lines) - _LINES
            lines[_FIRST : _FIRST + left] = [f"  ... {left} lines are left out ..."]
        return "\n".join(
            line if len(line) <= _COLUMNS else f"{line[:_COLUMNS]}..." for line in lines
        )


class Dropped(NamedTuple):
    """Lines that were not written, since nobody took those before them."""

    #: Where they were to go, in words.
    place: str
    lines: int
    #: Whose, where one had more than it may have (:class:`proctor.observe.amount.Amount`).
    container: ContainerPort | None = None


Event = Union[Outcome, ContainerAdded, ContainerEnded, TakenOver, Trouble, Dropped]
EVENTS: Final = (Outcome, ContainerAdded, ContainerEnded, TakenOver, Trouble, Dropped)
Observer = Callable[[Any], object]


class outcomes:
    """An observer that calls ``function`` with every :class:`Outcome`, and with nothing else.

    ::

        seen = []
        command = [sys.executable, "-c", "import os; os.getppid()"]
        handler = proctor.Handler(["getppid"], lambda call: proctor.answer(7))
        observer = proctor.outcomes(lambda outcome: seen.append(str(outcome.verdict)))
        proctor.run(command, [handler], observers=[observer])
        assert seen == ["answer 7"]

    :param text: whether it reads :attr:`Outcome.text`.
    """

    __slots__ = ("function", "wants_text")

    events = (Outcome,)

    def __init__(self, function: Callable[[Outcome], object], *, text: bool = False) -> None:
        self.function = function
        self.wants_text = text

    def __call__(self, outcome: Outcome) -> object:
        return self.function(outcome)

"""How many calls there were, by container, call and verdict: counted at next to no cost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Answer, Deny, HandOver, LetRun, Perform, Verdict
from proctor.observe.events import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.ports import ContainerPort

#: Lines of the table.  A target decides which calls it makes, and has as many errnos to be denied
#: with as a handler takes from it.
_MOST: Final = 10_000
_OTHERS: Final = ("(others)", "", "")

Key = tuple[str, str, str]


class Counters:
    """An observer that counts, exactly: a supervisor with no other observer of outcomes than one of
    these decides plain calls on its shortest path.

    ::

        counters = proctor.Counters()
        command = [sys.executable, "-c", "import os; os.getppid()"]
        handler = proctor.Handler(["getppid"], lambda call: proctor.answer(7))
        proctor.run(command, [handler], observers=[counters])
        ((container, call, verdict), count), = counters.table().items()
        assert (call, verdict, count) == ("getppid", "answer", 1)

    :param group: what calls are counted by besides call and verdict: a container's name, if it does
        not say.
    :param told: given each outcome that is told at all: of a call that waits, or that others want to know of.
    """

    events = (Outcome,)
    wants_text = False

    def __init__(
        self,
        group: Callable[[ContainerPort], str] | None = None,
        told: Callable[[Outcome], object] | None = None,
    ) -> None:
        for each in (group, told):
            if each is not None and not callable(each):
                raise TypeError(f"{each!r}: a function is wanted")
        self._group = group if group is not None else _name
        self._told = told
        self._lock = threading.Lock()
        self._cells: dict[Key, list[int]] = {}

    def __call__(self, outcome: Outcome) -> None:
        cell = self.cell(outcome.container, outcome.call.name, what(outcome))
        cell[0] += 1
        if self._told is not None:
            self._told(outcome)

    def cell(self, container: ContainerPort, call: str, verdict: str) -> list[int]:
        """Where calls of this kind are counted: a list of one number.  ``cell[0] += 1`` loses none
        with a global interpreter lock, since nothing between load and store lets it go."""
        key = (self._group(container), call, verdict)
        cell = self._cells.get(key)
        if cell is None:
            with self._lock:
                if len(self._cells) >= _MOST:
                    key = _OTHERS
                cell = self._cells.setdefault(key, [0])
        return cell

    def table(self) -> dict[Key, int]:
        """The counts so far, by (container, call, verdict)."""
        with self._lock:
            return {key: cell[0] for key, cell in self._cells.items() if cell[0]}

    def forget(self, group: str) -> dict[Key, int]:
        """The counts of containers of that name, for the last time: they are not kept any longer.
        What is still being decided for one of them may be missing."""
        with self._lock:
            gone = {key: cell for key, cell in self._cells.items() if key[0] == group}
            for key in gone:
                del self._cells[key]
        return {key: cell[0] for key, cell in gone.items()}


def _name(container: ContainerPort) -> str:
    return container.name


def what(outcome: Outcome) -> str:
    """The verdict without what a target chooses: ``deny EPERM``, ``answer``, ``hand over``,
    ``let run``, ``perform``, ``perform EPERM``."""
    if not outcome.performed:
        return kind(outcome.verdict)
    return f"perform {kind(outcome.verdict)[5:]}" if type(outcome.verdict) is Deny else "perform"


def kind(verdict: Verdict) -> str:
    """As :func:`what`, of what was not performed."""
    return str(verdict) if isinstance(verdict, Deny) else word(verdict)


def word(verdict: Verdict) -> str:
    """The verdict without its errno."""
    return _WORDS[type(verdict)]


_WORDS: Final[dict[type, str]] = {
    Deny: "deny",
    Answer: "answer",
    HandOver: "hand over",
    LetRun: "let run",
    Perform: "perform",
}

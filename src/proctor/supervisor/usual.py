"""Usual calls: those that differ from others before them in nothing but a path.

What is known of them by their registers is put into the engine's own code (``_core.Usual``) when the first
of them comes: what a path is relative to, which patterns decide about it, how a log shows the call.  From
then on they are looked at, decided, answered and written down there, in one go.  What is in any way out of
the ordinary is decided as if that did not exist, or, once it was looked at, with what was seen.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from typing import TYPE_CHECKING, Any, Final

from proctor.call.call import Call
from proctor.call.path.following import AT_FDCWD, way_of
from proctor.call.verdict import Deny, HandOver, Perform, Verdict, deny, perform
from proctor.observe.counters import kind as kind_of
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.kernel.alikes import Alikes
    from proctor.kernel.notification import NotificationLike
    from proctor.observe.events import Outcome
    from proctor.observe.observers import Observers
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.jobs import Served
    from proctor.supervisor.ports import Engine, Route
    from proctor.supervisor.seeking import Seeking

#: Who is told of an outcome: nobody, the log, whoever wants; or it is to be performed, and what becomes of that is told; or
#: one who counts those by himself that are like others.
_PLAIN, _LOGGED, _AT_LENGTH, _PERFORMED, _COUNTED = range(5)
_PERFORM: Final = perform()
#: Kinds of refusals that are known of one number: a target can make any number of them.
_ALIKE: Final = 64
#: Registers, and what a path leads to: see ``_core.Usual.counts``.
_KEY: Final = struct.Struct("=6Qi")
#: All that may come of what is performed.
_ERRNOS: Final = tuple(map(deny, errno.errorcode))


class Alike:
    """Refusals that somebody counts by himself, who is told of the first of them, and of few of the others: of what are
    like it in all that he is told.

    :ivar cells: by what they are known by, for the engine's own code: how many there were, and when the last was."""

    __slots__ = ("cells",)

    def __init__(self) -> None:
        self.cells: dict[bytes, list[Any]] = {}

    def again(self, key: bytes) -> bool:
        """Count one that is like one that was told; False if none is."""
        cell = self.cells.get(key)
        if cell is None:
            return False
        cell[0] += 1
        cell[1] = time.time()
        return True

    def noting(
        self, observers: Observers, verdict: Deny, who: str, key: bytes, path: str = ""
    ) -> Callable[[Outcome], None] | None:
        """What notes where one is counted that comes to this by that handler, once he was told of it; None where nobody
        does so.

        :param path: the argument that ``key`` has besides registers: whose reason says more of the call is told of
            each time."""
        counting = observers.counting(verdict)
        if counting is None:
            return None

        def note(outcome: Outcome) -> None:
            said = outcome.verdict
            if (
                outcome.decided_by != who
                or not isinstance(said, Deny)
                or said.errno != verdict.errno
            ):
                return  # its deadline's, or its end's
            if getattr(said.reason, "looks", frozenset()) - {path}:
                return
            cell = counting(outcome)
            if cell is not None:
                if len(self.cells) >= _ALIKE:
                    self.cells.clear()
                self.cells[key] = cell

        return note


class Case(NamedTuple):
    """One rule on a path."""

    #: About its text as it was passed; otherwise about what it leads to.
    text: bool
    #: Of which one matches: as ``_core.matches`` takes them.
    patterns: tuple[bytes, ...]
    verdict: Verdict
    #: Whether it decides where a path cannot be followed.
    unresolved: bool


class ByPath(NamedTuple):
    """How calls are decided that have the same registers, but for one path."""

    #: The path's name; empty if no case is about one.
    argument: str
    #: The first that holds decides.
    cases: tuple[Case, ...]
    #: Where none does.
    otherwise: Verdict
    #: The registers that decided besides, a bit for each.
    registers: int


def _looks_for(alikes: Alikes | None) -> tuple[dict[int, Any], bool, bytes]:
    """For whom paths are looked at there: those who are what the monitor is."""
    return ({}, True, b"") if alikes is None else (alikes.known, alikes.groups, alikes.ours)


class Usual:
    """Usual calls of one number of one listener.

    :ivar route: routes them; None where nothing is usual about what the handler does with them.
    :ivar record: answers, and writes down, a call that the handler decided: see ``_core.Usual.record``.
    """

    __slots__ = (
        "_alike",
        "_by_path",
        "_handler",
        "_indices",
        "_log",
        "_name",
        "_native",
        "_observers",
        "_performed",
        "_performing",
        "_performs",
        "_registers",
        "_served",
        "_told",
        "path",
        "record",
        "route",
    )

    def __init__(
        self,
        engine: Engine,
        served: Served,
        handler: Handler,
        observers: Observers,
        notification: NotificationLike,
        fallback: Route,
        told: Callable[[Call, Any, float, Callable[[Outcome], None] | None], None],
        seeking: Seeking,
        performer: object = None,
        performed: Callable[[Call, Perform, Verdict, float], None] | None = None,
    ) -> None:
        """
        :param performer: what performs ordinary calls at once; or its ``found`` gives that, once it is there.
        :param performed: takes what that leaves to be given."""
        self._served = served
        self._told = told
        self._handler = handler
        self._observers = observers
        callers = None if observers.log is None else observers.callers.native
        # Of a container of which a log has a part each line is asked after.
        whole = callers is not None and served.container.logging is None
        self._log: Any = observers.log if whole else None
        #: Name of the path, and what is known of how it is meant.
        self.path = ""
        self.route: Route | None = None
        self.record: Any = None
        self._native: Any = None
        #: Rules that have calls performed, by their outcome.
        self._performing: dict[int, Perform] = {}
        self._performs = False
        self._indices: dict[tuple[Any, ...], int] = {}
        makers = engine.makers(served.listener)
        call = self._call(notification)
        known = call.signature
        self._name = call.name
        paths = () if known is None else known.with_role("path")
        if makers is None or known is None or len(paths) > 1:
            return
        if not (self._log or handler.by_path):
            return
        reg, mask, registers = -1, 0, 0
        for arg in known.args:
            if arg in paths:
                self.path, reg, mask = arg.name, arg.reg, arg.mask
            else:
                registers |= 1 << arg.reg
                if arg.reg_high >= 0:
                    registers |= 1 << arg.reg_high
        self._registers = registers
        container = served.container
        log = self._log
        alikes = seeking.alikes if handler.by_path is not None else None
        self._native = makers.Usual(
            self.learn, fallback, self._tell, served.share, served.busy, container, container.labels,
            None if log is None else log.gathered(), callers,
            b"" if log is None else log.HEAD, b"" if log is None else log.middle(container),
            served.listener, registers, reg, mask, *_looks_for(alikes),
            *((alikes.has, seeking.lend, seeking.took_back) if alikes is not None else (None, None, None)),
        )  # fmt: skip
        self._performed = performed
        self._alike = Alike()
        self._native.counts(self._alike.cells)
        if performer is not None and not self._is_any_wanted():
            find = getattr(performer, "found", lambda: performer)
            self._native.performs(find, self._to_be_given, self._became)
            self._performs = True
        if log is not None:
            self.record = self._native.record
        if handler.by_path is not None and paths:
            self.route = self._native

    def _call(self, notification: NotificationLike) -> Call:
        return Call(notification, self._served.listener, container=self._served.container)

    def _is_any_wanted(self) -> bool:
        """Whether somebody but the log is told of anything that may come of what is performed."""
        who = self._observers.who_wants
        told = [] if self._log is None else [self._log]
        return any(who(verdict) != told for verdict in (HandOver(-1), *_ERRNOS))

    def _to_be_given(
        self,
        notification: NotificationLike,
        path: bytes,
        name: bytes | None,
        index: int,
        fd: int,
        received: float,
    ) -> None:
        """What was opened where somebody else may answer by now."""
        call = self._call(notification)
        self._keep(call, path)
        if name is not None:
            call._looks = [(self.path, name, None, False)]
        assert self._performed is not None
        cloexec = bool(call.registers[2] & os.O_CLOEXEC)
        wish = self._performing.get(index, _PERFORM)
        self._performed(call, wish, HandOver(fd, None, cloexec), received)

    def _became(self, index: int, failed: int) -> tuple[list[int] | None, bytes, bytes]:
        """How it is counted, and what the log has, that a call was performed as a rule says (-1: nobody knows
        which), and came to this errno; the second if its caller is gone."""
        observers = self._observers
        said: Verdict = deny(failed) if failed else HandOver(-1)
        cell = None
        if observers.counters is not None:
            kind = f"perform {kind_of(said)[5:]}" if failed else "perform"
            cell = observers.counters.cell(self._served.container, self._name, kind)
        if self._log is None:
            return cell, b"", b""
        wish = self._performing.get(index, _PERFORM)
        by = self._handler.label
        delivered, gone = (self._log.became(said, by, each, wish) for each in (True, False))
        return cell, delivered, gone

    def learn(self, notification: NotificationLike) -> None:
        """What is known of calls with these registers; nothing is looked at for it."""
        call = self._call(notification)
        start = (AT_FDCWD, True, False)
        cases: list[tuple[bool, bool, int, tuple[bytes, ...]]] = []
        otherwise = -1
        way = way_of(call, self.path) if self.path else None
        if way is not None and not way.in_struct:
            base, follows, entry, _ = way.meaning(call, call.registers)
            start = (base, follows, entry)
            found = None if self._handler.by_path is None else self._handler.by_path(call)
            if (
                found is not None
                and found.argument in (self.path, "")
                and not found.registers & ~self._registers
            ):
                cases = [
                    (each.text, each.unresolved, self.index(each.verdict, True), each.patterns)
                    for each in found.cases
                ]
                otherwise = self.index(found.otherwise, True)
                if any(index < 0 for _, _, index, _ in cases):
                    otherwise = -1
        shown = () if self._log is None else self._log.pieces(call, self.path)
        self._native.learn(call.registers, start, tuple(cases), otherwise, shown)

    def written(self, call: Call, outcome: int, received: float) -> bool:
        """Whether a call was answered, and written down, that the handler decided: not if the log is to
        show more than its registers and its path."""
        if not (call._looks is None and call._caller is None and call.explains is None):
            return False
        values = call._values
        path = None if values is None else values.get(self.path)
        said = self.record(call._notification, outcome, path, received)
        if type(said) is bytes:  # read, and not answered
            self._keep(call, said)
        return said is True

    def _keep(self, call: Call, path: bytes) -> None:
        """What was read of it stays what it has."""
        call.memory_read = True
        call._values = {**(call._values or {}), self.path: path}

    def _tell(
        self, notification: NotificationLike, path: bytes, name: bytes | int | None, received: float
    ) -> None:
        """A call was looked at, and is to be told of at length, or answered by a longer way."""
        call = self._call(notification)
        self._keep(call, path)
        if isinstance(name, bytes):
            call._looks = [(self.path, name, None, False)]
        try:
            verdict = self._handler.decide_seen(call, self.path, name)
        except BaseException as raised:  # whatever it is, a caller waits for an answer
            verdict = raised
        noted = None
        if isinstance(verdict, Deny):
            leads = name if isinstance(name, int) else -1 if name is None else 0
            known = [
                each if self._registers >> number & 1 else 0
                for number, each in enumerate(call.registers)
            ]
            key = (
                _KEY.pack(*known, leads) + path + b"\0" + (name if isinstance(name, bytes) else b"")
            )
            noted = self._alike.noting(
                self._observers, verdict, self._handler.label, key, self.path
            )
        self._told(call, verdict, received, noted)

    def index(self, verdict: Verdict, explained: bool = False) -> int:
        """The number of an outcome; -1 if there are too many.

        :param explained: of a refusal there is more to say to whoever is told of it."""
        rule = getattr(verdict.reason, "rule", "")
        key = (type(verdict), verdict, rule, explained)
        found = self._indices.get(key)
        if found is None:
            more = explained and isinstance(verdict, Deny)
            more = more or bool(getattr(verdict.reason, "tip", ""))
            if type(verdict) is not Perform:
                found = self._outcome(verdict, more)
            elif self._performs:
                found = self._native.outcome(_PERFORMED, (0, 0, 0), None, b"", b"")
                self._performing[found] = verdict
            else:
                found = -1
            if found >= 0:
                self._indices[key] = found
        return found

    def _outcome(self, verdict: Any, more: bool) -> int:
        observers, served = self._observers, self._served
        wants = observers.who_wants(verdict)
        how = _PLAIN if not wants else _AT_LENGTH
        if isinstance(verdict, Deny) and observers.counting(verdict) is not None:
            how = _COUNTED
        delivered = gone = b""
        if wants == [self._log] and not more:
            how = _LOGGED
            delivered, gone = (
                self._log.became(verdict, self._handler.label, each) for each in (True, False)
            )
        cell = None
        if observers.counters is not None:
            cell = observers.counters.cell(served.container, self._name, kind_of(verdict))
        made: int = self._native.outcome(how, verdict.wire, cell, delivered, gone)
        return made

"""Routes: where the calls of one number go.

An engine looks a route up for every notification.  The table starts empty and is filled at the first
call of each number, so that starting costs nothing for calls that never come.
"""

from __future__ import annotations

import struct
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Final

from proctor.call.call import Call
from proctor.call.verdict import RUN, Answer, Deny, HandOver, LetRun, Perform, Verdict, Wire
from proctor.observe.counters import kind as kind_of
from proctor.supervisor.jobs import Job, Served
from proctor.supervisor.natively import Natively, came_to
from proctor.supervisor.ports import Later, Route, route_key
from proctor.supervisor.share import LOOK, Kind
from proctor.supervisor.usual import Alike, Usual
from proctor.syscalls import architectures, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from proctor.kernel.notification import NotificationLike
    from proctor.observe.events import Outcome
    from proctor.supervisor.deciding import Decider
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.ports import Engine
    from proctor.supervisor.role import Role
    from proctor.supervisor.world_port import World

#: Who is told of what was decided, if it is not the log alone.
_NOBODY, _ALL = -2, -1
#: What calls are known by that all come to the same: see ``_core.Constant``.
_KEY: Final = struct.Struct("=6Q")
#: Most routes one listener remembers: numbers that exist nowhere can be notified too (C035).
_MOST: Final = 4096


def chain_of(handlers: Iterable[Handler], name: str | None) -> tuple[Handler, ...]:
    """Those of the handlers that want a call; None for one that has no name."""
    return () if name is None else tuple([each for each in handlers if each.wants(name)])


class Routes:
    """The routes of one listener; :attr:`known` is what an engine is given, with :meth:`first_sight`
    as the fallback."""

    __slots__ = ("_decider", "_engine", "_handlers", "_role", "_served", "_world", "known")

    def __init__(
        self,
        served: Served,
        handlers: Sequence[Handler],
        decider: Decider,
        role: Role,
        world: World,
        engine: Engine,
    ) -> None:
        self._role = role
        self._engine = engine
        self._served = served
        self._handlers = handlers
        self._decider = decider
        self._world = world
        self.known: dict[int, Route] = {}

    def first_sight(self, notification: NotificationLike) -> Wire | bool | None:
        """The first call of its number: find its handlers, remember the way, go it."""
        arch, nr = notification.arch, notification.nr
        name = tables.name(nr, architectures.arch_of(arch, nr))
        route = self._route(chain_of(self._handlers, name), name or "", notification)
        if len(self.known) < _MOST:
            self.known[route_key(arch, nr)] = route
        return route(notification)

    def late(self, notification: NotificationLike) -> Wire | None:
        """Received before the supervisor gave the listener up, and nobody can receive it again."""
        return self._decider.late(self._job(notification, ()))

    def job(self, notification: NotificationLike) -> Job:
        """One for what is decided without them."""
        name = tables.name(
            notification.nr, architectures.arch_of(notification.arch, notification.nr)
        )
        return self._job(notification, chain_of(self._handlers, name))

    def _job(self, notification: NotificationLike, chain: tuple[Handler, ...]) -> Job:
        served = self._served
        call = Call(notification, served.listener, container=served.container)
        return Job(call, chain, served, self._world.clock())

    # Whoever receives stalls: see proctor.kernel.stalls.Stalls --------------------------------------
    def overtaken(self, notification: NotificationLike) -> None:
        """Another thread receives from now on."""

        def stand_in() -> Job:
            job = self.job(notification)
            job.given = job.claimed = getattr(notification, "given", False)
            return job

        self._role.overtaken_at(self._served, notification.id, stand_in)

    def settle(self, notification: NotificationLike, wire: Wire | bool | None) -> None:
        """The call was routed to its end."""
        given = isinstance(wire, bool)
        if isinstance(wire, bool):
            wire = RUN  # it was answered, so that this one comes to nothing

        def late() -> Job:
            return self._job(notification, ())

        answered = self._role.settle(self._served, notification.id, wire, late)
        if not (answered or given) and wire is not None:
            counters = self._decider.observers.counters
            if counters is not None:  # it was counted as answered so
                value, error, flags = wire
                said: Verdict = LetRun() if flags else Deny(-error) if error else Answer(value)
                name = late().call.name
                counters.cell(self._served.container, name, kind_of(said))[0] -= 1

    def amend(self, notification: NotificationLike, number: int) -> None:
        """It was counted as performed, and another thread found that its caller cannot be given anything."""
        counters = self._decider.observers.counters
        if counters is not None:
            container, name = self._served.container, self._job(notification, ()).call.name
            counters.cell(container, name, "perform")[0] -= 1
            counters.cell(container, name, f"perform {kind_of(Deny(number))[5:]}")[0] += 1

    def _route(self, chain: tuple[Handler, ...], name: str, first: NotificationLike) -> Route:
        """The way of all calls of one number.  With one handler, and a verdict of which nobody is
        told, it is short: this is what a notification costs beyond the kernel's own price."""
        served, decider = self._served, self._decider
        observers = decider.observers
        counters, wants = observers.counters, observers.wants if observers.watching else None
        listener, container = served.listener, served.container
        share, number = served.share, (first.arch, first.nr)
        slow, busy = share.slow, served.busy
        clock, below = self._world.clock, container.below
        claim = self._engine.claim

        def route(notification: NotificationLike) -> Wire | None:
            call = Call(notification, listener, container=container)
            decider.decide(Job(call, chain, served, clock()))
            return None

        if len(chain) != 1 or chain[0].is_async or chain[0].conditions:
            return route
        handler = chain[0]
        function = handler.function
        # Between two notifications the processor runs other programs, and forgets ours: what runs
        # here runs cold, several times slower than in a benchmark of its own.  Hence no __init__,
        # no property, and the last plain verdict kept: most handlers answer one thing.
        made = object.__new__
        settled: object = object()  # not None: that is an answer of handlers, "not mine"
        wire: Wire = RUN
        alike: Alike | None = None  # where somebody counts what all calls come to
        told = _NOBODY  # who is told of it: nobody, all who want, or the log, as that outcome
        # Counting without asking whether anybody counts: the cells are then nobody's.
        cell = [0]
        cell_of_runs = [0] if counters is None else counters.cell(container, name, "let run")
        apart = served.number < 0  # somebody else gives its answers
        ordinary = None if apart else decider.at_once(name, served)
        tells = apart or wants is not None
        at_once = decider.at_once(name, served, told=True) if tells else ordinary

        def watched(notification: NotificationLike) -> Wire | bool | None:
            """Something of its container stalls, or calls of its number do: it may have to wait for its turn.  It does
            not take longer because of that, or it would be what makes others stall."""
            stalls, began = number in slow, clock()
            if not decider.begins(share, Kind(stalls, False), began):
                return route(notification)
            if not stalls:
                return short(notification, True)
            mark = decider.surrender()
            said = short(notification, True)
            if not mark.counted:
                decider.charge(mark, self._job(notification, ()))
            if clock() < began + LOOK:
                decider.was_quick(share, number)
            return said

        def short(notification: NotificationLike, begun: bool = False) -> Wire | bool | None:
            nonlocal settled, wire, cell, told
            if (busy and notification.pid in busy) or (below is not None and below.active):
                return route(notification)
            if not begun and (share.watchful or (slow and number in slow)):
                return watched(notification)
            received = clock() if wants is not None else 0.0
            call = made(Call)
            call._notification = notification
            call._listener = listener
            call.container = container
            try:
                verdict: Any = function(call)
            except BaseException as raised:
                verdict = raised
            answer: Wire | bool = wire
            counted, whom = cell, told
            if verdict is not settled:
                kind = type(verdict)
                if kind is Perform and at_once is not None:
                    try:
                        said: Any = at_once(call, verdict)
                    except BaseException as raised:
                        said = raised
                    if isinstance(said, int):  # it is answered
                        if counters is not None:
                            counters.cell(container, name, came_to(said))[0] += 1
                        if getrefcount(call) > 2:
                            call.expire()
                        return True
                    if said is not None:
                        kind = type(said)
                        if kind in (Deny, Answer) and (wants is None or not wants(said)):
                            # nobody is told
                            if kind is Deny or not said.writes:
                                if counters is not None:
                                    came = came_to(said.errno if kind is Deny else 0)
                                    counters.cell(container, name, came)[0] += 1
                                if getrefcount(call) > 2:
                                    call.expire()
                                return said.wire  # type: ignore[no-any-return]
                            if counters is None and claim():
                                decider.fill(call, said, served)
                                return True
                        performed(call, verdict, said, received or clock())
                        return None
                if kind is LetRun:
                    plain = verdict.unsafe or not call.memory_read
                else:
                    plain = kind is Deny or (kind is Answer and not verdict.writes)
                whom = _NOBODY
                if plain and wants is not None and wants(verdict):
                    whom = _ALL if usual.record is None else usual.index(verdict)
                if not plain:
                    at_length(call, verdict, received or clock(), plain)
                    return None
                if kind is LetRun and not verdict.unsafe:
                    answer, counted = RUN, cell_of_runs
                else:
                    settled, wire, told = verdict, verdict.wire, whom
                    if counters is not None:
                        cell = counters.cell(container, name, kind_of(verdict))
                    answer, counted = wire, cell
            if whom != _NOBODY:
                if whom == _ALL or not usual.written(call, whom, received):
                    noted = None
                    if alike is not None:
                        key = _KEY.pack(*notification.args)
                        if apart and alike.again(key):
                            counted[0] += 1
                            return answer
                        noted = alike.noting(observers, verdict, handler.label, key)
                    at_length(call, verdict, received, True, noted)
                    return None
                answer = True
            else:
                counted[0] += 1
            # Expiring costs more than all the rest here, and only matters if the handler kept the
            # call, or took something that has to be closed: then the call keeps itself.
            if getrefcount(call) > 2:  # our variable, and getrefcount's argument
                call.expire()
            return answer

        def performed(
            call: Call, wish: Perform, said: Verdict | Later | BaseException, received: float
        ) -> None:
            job = Job(call, chain, served, received)
            job.performed = wish
            try:
                decider.routed(job)
            except BaseException:
                if isinstance(said, Later):  # nobody has it who would
                    said.cancel()
                raise
            if type(said) is HandOver and said.close and (wants is None or not wants(said)):
                decider.give(job, said, chain[0].label)
            else:
                job.index = 1
                decider.decided(job, said, chain[0].label, performing=True)

        def at_length(
            call: Call,
            verdict: Any,
            received: float,
            plain: bool,
            noted: Callable[[Outcome], None] | None = None,
        ) -> None:
            job = Job(call, chain, served, received)
            job.index = 1
            job.noted = noted
            decider.routed(job)
            if plain:
                decider.answer(job, verdict, handler.label)
            elif verdict is None:
                decider.advance(job)
            else:
                decider.decided(job, verdict, handler.label)

        def seen(
            call: Call,
            verdict: Any,
            received: float,
            noted: Callable[[Outcome], None] | None,
        ) -> None:
            at_length(call, verdict, received, False, noted)

        usual = Usual(
            self._engine, served, handler, observers, first, short, seen, decider.seeking,
            ordinary, performed,
        )  # fmt: skip
        if below is not None and below.active:
            return short
        natively = Natively(served, decider, self._world, self._engine)
        said_to_all = natively.constant(handler, first)
        if said_to_all is not None and wants is not None and wants(said_to_all):
            alike = Alike()
        if said_to_all is None or natively.makers is None:
            return (
                natively.seen(handler, first, name, ordinary, short)
                or natively.doing(handler, first, name, ordinary, usual.route or short, performed)
                or usual.route
                or natively.performed(handler, first, name, ordinary, short, performed)
                or short
            )
        counted = None if counters is None else counters.cell(container, name, kind_of(said_to_all))
        cells = None if alike is None else alike.cells
        route_of_all: Route = natively.makers.Constant(
            share, busy, short, said_to_all.wire, counted, cells
        )
        return route_of_all

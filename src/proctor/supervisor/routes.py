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
    from proctor.supervisor.ports import Engine, World
    from proctor.supervisor.role import Role

#: Who is told of what was decided, if it is not the log alone.
_NOBODY, _ALL = -2, -1
#: What calls are known by that all come to the same: see ``_core.Constant``.
_KEY: Final = struct.Struct("=6Q")
#: Most routes one listener remembers: numbers that exist nowhere can be notified too (C035).
_MOST: Final = 4096

#: Calls that the engine's own code answers by what it reads of their thread, how else than by 0, and whether what was said before is
#: said again (:class:`proctor.kernel._core.Seen`).
_SEEN: Final = {
    **dict.fromkeys(("fsync", "fdatasync", "syncfs"), ("EBADF", False)), "sysinfo": ("EFAULT", True),
}  # fmt: skip
#: Those that it has done by one plan (:class:`proctor.kernel._core.Doing`).
_DOING: Final = frozenset((
    "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
    "symlinkat", "chmod", "fchmodat", "fchmodat2", "chown", "chown32", "lchown", "lchown32", "fchownat",
    "mknod", "mknodat",
))  # fmt: skip
#: Of those, whose ids have 16 bits where there are calls with 32.
_NARROW: Final = frozenset(("chown", "lchown"))


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

    def _job(self, notification: NotificationLike, chain: tuple[Handler, ...]) -> Job:
        served = self._served
        call = Call(notification, served.listener, container=served.container)
        return Job(call, chain, served, self._world.clock())

    # Whoever receives stalls: see proctor.kernel.stalls.Stalls --------------------------------------
    def overtaken(self, notification: NotificationLike) -> None:
        """Another thread receives from now on."""

        def stand_in() -> Job:
            name = tables.name(
                notification.nr, architectures.arch_of(notification.arch, notification.nr)
            )
            job = self._job(notification, chain_of(self._handlers, name))
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
        claim, surrender = self._engine.claim, self._engine.surrender

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
        ordinary = decider.at_once(name, served)
        at_once = ordinary if wants is None else decider.at_once(name, served, told=True)

        def watched(notification: NotificationLike) -> Wire | bool | None:
            """Something of its container stalls, or calls of its number do: it may have to wait for its turn.  It does
            not take longer because of that, or it would be what makes others stall."""
            stalls, began = number in slow, clock()
            if not decider.begins(share, Kind(stalls, False), began):
                return route(notification)
            if not stalls:
                return short(notification, True)
            surrender()
            said = short(notification, True)
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
                            kind_of_it = f"perform {kind_of(Deny(said))[5:]}" if said else "perform"
                            counters.cell(container, name, kind_of_it)[0] += 1
                        if getrefcount(call) > 2:
                            call.expire()
                        return True
                    if said is not None:
                        kind = type(said)
                        if wants is None and counters is None and kind in (Deny, Answer):
                            # nobody is told
                            if kind is Deny or not said.writes:
                                if getrefcount(call) > 2:
                                    call.expire()
                                return said.wire  # type: ignore[no-any-return]
                            if claim():
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
        constant = self._constant(handler, first)
        if constant is None:
            return (
                self._seen(handler, first, name, ordinary, short)
                or self._doing(handler, first, name, ordinary, usual.route or short, performed)
                or usual.route
                or self._performed(handler, first, name, ordinary, short, performed)
                or short
            )
        made_alike, said_to_all = constant
        if wants is not None and wants(said_to_all):
            alike = Alike()
        counted = None if counters is None else counters.cell(container, name, kind_of(said_to_all))
        cells = None if alike is None else alike.cells
        route_of_all: Route = made_alike(share, busy, short, said_to_all.wire, counted, cells)
        return route_of_all

    def _constant(
        self, handler: Handler, first: NotificationLike
    ) -> tuple[Callable[..., Any], Any] | None:
        """What makes the route of calls that all come to the same, and that; None where they do not, or somebody is told of
        each."""
        served, observers = self._served, self._decider.observers
        made = self._engine.constant(served.listener)
        if made is None or handler.constant is None:
            return None
        said = handler.constant(Call(first, served.listener, container=served.container))
        if not isinstance(said, (Deny, Answer, LetRun)):
            return None
        if isinstance(said, Answer) and said.writes:
            return None
        if observers.watching and observers.wants(said):
            counted = isinstance(said, Deny) and observers.counting(said) is not None
            return (made, said) if counted else None
        return made, said

    def _wish(self, handler: Handler, first: NotificationLike) -> Perform | None:
        """How all calls of a number are performed, of which nobody is told; None if that is not so."""
        if handler.constant is None or self._decider.observers.watching:
            return None
        wish = handler.constant(
            Call(first, self._served.listener, container=self._served.container)
        )
        return wish if isinstance(wish, Perform) else None

    def _seen(
        self, handler: Handler, first: NotificationLike, name: str, ordinary: Any, short: Route
    ) -> Route | None:
        """The way of calls that are answered by what is read of their thread, where nobody is told of it."""
        served, observers = self._served, self._decider.observers
        made = self._engine.seen(served.listener)
        if name not in _SEEN or made is None or ordinary is None:
            return None
        wish = self._wish(handler, first)
        if wish is None or wish.allow is not None:
            return None
        fails, recalls = _SEEN[name]
        kinds = "perform", f"perform {fails}"
        counters = observers.counters
        cells = [
            None if counters is None else counters.cell(served.container, name, kind)
            for kind in kinds
        ]
        find = getattr(ordinary, "found", lambda: ordinary)
        way: Route = made(
            served.share,
            served.busy,
            short,
            find,
            served.container,
            served.listener,
            recalls,
            *cells,
        )
        return way

    def _doing(
        self,
        handler: Handler,
        first: NotificationLike,
        name: str,
        ordinary: Any,
        short: Route,
        performed: Callable[[Call, Perform, Any, float], None],
    ) -> Route | None:
        """The way of calls that are all done by one plan, where nobody is told of it, and no later monitor is to know how far it is
        (:mod:`proctor.performing.noting`)."""
        served = self._served
        made = self._engine.doing(served.listener)
        if name not in _DOING or made is None or ordinary is None or served.journal is not None:
            return None
        if name in _NARROW and "chown32" in tables.numbers(
            architectures.arch_of(first.arch, first.nr)
        ):
            return None
        judge, registers = None, 0
        wish = self._wish(handler, first)
        if wish is None:
            judge, registers = self._judge(handler, first)
            if not registers:
                return None
            wish = Perform()
        if wish.allow is not None or wish.options is not None:
            return None
        find, wanted = getattr(ordinary, "found", lambda: ordinary), wish

        def goes_on(notification: NotificationLike, *found: Any) -> None:
            way: Any = find()
            try:
                call = Call(notification, served.listener, container=served.container)
            except BaseException:
                way.give_up(*found)
                raise
            try:
                said: Any = way.goes_on(call, wanted, *found)
            except BaseException as raised:
                said = raised
            performed(call, wanted, said, self._world.clock())

        way: Route = made(
            served.share, served.busy, short, find, served.container, served.listener,
            self._decider.starts(served), goes_on, self._counted_as(name), judge, registers,
        )  # fmt: skip
        return way

    def _judge(
        self, handler: Handler, first: NotificationLike
    ) -> tuple[Callable[[NotificationLike], bool] | None, int]:
        """Who says whether a call is performed, where nobody is told of that and nothing but registers decides it; and which."""
        served, says = self._served, handler.by_registers
        if says is None or self._decider.observers.watching:
            return None, 0

        def call_of(notification: NotificationLike) -> Call:
            return Call(notification, served.listener, container=served.container)

        return lambda notification: says(call_of(notification))[0], says(call_of(first))[1]

    def _counted_as(self, name: str) -> Callable[[int], list[int] | None]:
        """Where performed calls of a name are counted, by the errno that came of them."""
        container, counters = self._served.container, self._decider.observers.counters

        def counted_as(failed: int) -> list[int] | None:
            return None if counters is None else counters.cell(container, name, _came_to(failed))

        return counted_as

    def _performed(
        self,
        handler: Handler,
        first: NotificationLike,
        name: str,
        ordinary: Any,
        short: Route,
        performed: Callable[[Call, Perform, Any, float], None],
    ) -> Route | None:
        """The way of calls that are all performed, where nobody is told of it: who does that is asked without a handler."""
        served, clock = self._served, self._world.clock
        listener, container = served.listener, served.container
        find = getattr(ordinary, "found", None)
        made = None if find is None else self._engine.performed(listener)
        wish = None if made is None else self._wish(handler, first)
        if made is None or wish is None:
            return None

        def call_of(notification: NotificationLike) -> Call:
            return Call(notification, listener, container=container)

        def went_on(call: Call, said: Verdict | Later) -> None:
            performed(call, wish, said, clock())

        way: Route = made(
            served.share, served.busy, short, find, container, wish, call_of, went_on, self._counted_as(name)
        )  # fmt: skip
        return way


def _came_to(failed: int) -> str:
    """What a performed call is counted as, by the errno that came of it."""
    return f"perform {kind_of(Deny(failed))[5:]}" if failed else "perform"

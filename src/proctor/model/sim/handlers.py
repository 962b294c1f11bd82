"""Handlers of every temper, each doing what its call's :class:`Script` says.

The seed writes the script when the call is made; the handler looks it up by the call's first
register.  So it is known beforehand which answers can be right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, Final, cast

from proctor.call.verdict import (
    Deny,
    HandOver,
    Perform,
    Verdict,
    answer,
    deny,
    hand_over,
    let_run,
    let_run_unsafe,
    perform,
)
from proctor.errors import CallGone, CallOver
from proctor.filter.conditions import Condition
from proctor.kernel import progress
from proctor.kernel.abi import SECCOMP_USER_NOTIF_FLAG_CONTINUE
from proctor.kernel.journal import notes_at
from proctor.model.kernel.linux import EACCES, EBADF, EMFILE, ENOENT, ERESTARTSYS, O_PATH
from proctor.model.sim.ledger import ON_ERROR
from proctor.model.sim.schedule import Sleep
from proctor.records import NamedTuple
from proctor.supervisor.handlers import Handler
from proctor.supervisor.ports import Later

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Wire
    from proctor.model.sim.accounts import Received
    from proctor.model.sim.listener import SimListener
    from proctor.model.sim.world import SimWorld

_RUN: Final[Wire] = (0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)
_ERROR: Final[Wire] = (0, -ON_ERROR, 0)
_NO_ROOM: Final[frozenset[Wire]] = frozenset(((0, -EMFILE, 0), (0, -EBADF, 0), _ERROR))
_ONLY_ERROR: Final = frozenset((_ERROR,))
_ONLY_RUN: Final = frozenset((_RUN,))

#: Calls that notify: name, number on x86-64, and how their handlers are run (:func:`handlers`).
CALLS: Final[tuple[tuple[str, int], ...]] = (
    ("mkdir", 83),  # one that seldom stalls
    ("rmdir", 84),  # the same
    ("mkdirat", 258),  # two of them, the first with a condition
    ("mknod", 133),  # a slow one
    ("mknodat", 259),  # a slow one with a deadline
    ("openat", 257),  # one that glances, then a slow one
    ("chown", 92),  # async
    ("symlink", 88),  # async with a deadline
    ("rename", 82),  # slow, then async
    ("unlink", 87),  # nobody's
    ("bogus", 9999),  # a number that no call has
)
#: Deadlines of handlers, by call.
DEADLINES: Final[dict[str, float]] = {"mknodat": 0.5, "symlink": 1.0}
#: Those whose handlers often take time; the others seldom.
_PATIENT: Final = frozenset(("mknod", "mknodat", "openat", "chown", "symlink", "rename"))
_ON_WORKERS: Final = frozenset(("mknod", "openat"))
_UNHANDLED: Final = frozenset(("unlink", "bogus"))

#: What handlers do, with how often.
_KINDS: Final[tuple[tuple[str, int], ...]] = (
    ("deny", 30), ("answer", 25), ("let run", 12), ("pass", 5), ("raise", 4), ("nonsense", 4),
    ("look and let run", 3), ("unsafe", 3), ("hand over", 9), ("hand over junk", 2),
    ("perform", 10), ("gone", 1), ("exit", 1),
)  # fmt: skip
_TABLE: Final = tuple(kind for kind, weight in _KINDS for _ in range(weight))
#: Errnos that a handler may say; those of :mod:`proctor.model.sim.ledger` are the rules' own.
_ERRNOS: Final = (ENOENT, EACCES, 17, 20, 28, 30)
_NEVER: Final = math.inf
#: How often a patient handler takes time.
_PAUSES: Final = 0.3
#: Seconds that a worker is busy at most.
_LONG: Final = 30.0
#: Seconds, several of which an executor takes.
_MOMENT: Final = 0.01
#: Performed calls whose numbers can be divided by it take no long until they go on, and long then.
_LATE: Final = 15


class Script(NamedTuple):
    """What a handler does with one call."""

    kind: str
    number: int
    """An errno, a value, or what else ``kind`` wants."""
    pause: float
    """Seconds before it does it."""
    looks: bool
    """Whether it asks if the call is valid first."""

    @property
    def late(self) -> bool:
        """Whether that is not before something that was awaited is there."""
        return self.kind == "perform" and self.number % _LATE == 0

    @property
    def noted(self) -> bool:
        """Whether it is performed by an executor that says what it did: see :class:`~proctor.model.sim.keeper.Executors`."""
        return self.kind == "note"

    @property
    def gives(self) -> int:
        """What that gives: a number, or minus an errno, which a call can be done with, too."""
        return (self.number, 0, -EACCES)[self.number % 3]

    @property
    def given(self) -> Wire:
        """The same as an answer."""
        return (0, self.gives, 0) if self.gives < 0 else (self.gives, 0, 0)

    def __str__(self) -> str:
        return f"{self.kind} {self.number} after {self.pause:.3f} s"


_SIMPLE: Final[dict[str, tuple[Script, frozenset[Wire]]]] = {}
_DENY: Final = {number: frozenset(((0, -number, 0),)) for number in _ERRNOS}


def script(
    random: Random, name: str, limited: bool, malice: float = 0.0
) -> tuple[Script, frozenset[Wire]]:
    """A script for one call, and the answers it can lead to.

    :param limited: the call has a deadline, so that its handler may never return.
    :param malice: how likely its handler takes very long.
    """
    draw = random.random
    kind = _TABLE[int(draw() * len(_TABLE))] if name not in _UNHANDLED else "pass"
    pause = 0.0
    looks = False
    if name in _PATIENT:
        looks = draw() < 0.2
        if draw() < _PAUSES:
            pause = draw() * draw() * 2.0
            if limited and draw() < 0.05:
                pause = _NEVER
    elif name not in _UNHANDLED and draw() < 0.03:
        pause = draw() * draw() * 2.0
    number = int(draw() * (1 << 30))
    if malice and name in _ON_WORKERS and draw() < malice:
        pause = _LONG
        if draw() < 0.3:  # once something that was awaited is there
            kind, number = "perform", number - number % _LATE
    if kind == "deny":
        number = _ERRNOS[number % len(_ERRNOS)]
        wires = _DENY[number]
    elif kind == "answer":
        wires = frozenset(((number, 0, 0),))
    elif kind in ("let run", "pass", "unsafe"):
        wires = _ONLY_RUN
    elif kind == "hand over":
        wires = _NO_ROOM
    elif kind == "note":
        wires = frozenset((Script(kind, number, pause, looks).given,))
    elif kind == "perform":
        wires = (frozenset(((number, 0, 0),)), _DENY[EACCES], _ONLY_ERROR, _ONLY_ERROR)[number % 4]
    else:
        wires = _ONLY_ERROR
    return Script(kind, number, pause, looks), wires


class Handlers:
    """The handlers of one simulated supervisor, its performer, and what they need."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        #: A descriptor that is handed over again and again, and never given away.
        self._lent = world.open("lent", given=False)
        #: A call that was kept beyond its end.
        self._kept: Call | None = None
        self.all = self._make()

    def _make(self) -> tuple[Handler, ...]:
        low = Condition("mode", "==", 0)
        return (
            Handler(("mkdir", "rmdir"), self._handler("plain"), label="plain"),
            Handler(("mkdirat",), self._handler("first"), (low,), label="first"),
            Handler(("mkdirat",), self._handler("second"), label="second"),
            Handler(("mknod",), self._handler("slow"), label="slow"),
            Handler(
                ("mknodat",), self._handler("limited"),
                deadline=DEADLINES["mknodat"], label="limited",
            ),
            Handler(("openat",), self._handler("glance", passes=True), label="glance"),
            Handler(("openat",), self._handler("then slow"), label="then slow"),
            Handler(("chown",), self._coroutine("async"), label="async"),
            Handler(
                ("symlink",), self._coroutine("limited async"),
                deadline=DEADLINES["symlink"], label="limited async",
            ),
            Handler(
                ("rename",), self._handler("slow glance", passes=True),
                label="slow glance",
            ),
            Handler(("rename",), self._coroutine("then async"), label="then async"),
        )  # fmt: skip

    def _handler(self, label: str, passes: bool = False) -> Any:
        world = self._world

        def handle(call: Call) -> Any:
            with self._at_work(call):
                plan = self._begin(call, label)
                if passes:
                    return None
                if plan.pause and not plan.late:
                    world.schedule.pause(min(plan.pause, _LONG), burn=plan.number % 5 == 0)
                return self._verdict(call, plan)

        return handle

    def _at_work(self, call: Call) -> AbstractContextManager[None]:
        """A thread is kept busy by this call meanwhile."""
        port = cast("SimListener", call._listener)
        return self._busy(port, self._world.ledger.open.get((port.number, call.id)))

    @contextmanager
    def _busy(self, port: SimListener, received: Received | None) -> Iterator[None]:
        world = self._world
        world.tick()
        world.ledger.begins(port)
        try:
            yield
        finally:
            world.tick()
            world.ledger.ends(port, received)

    def _coroutine(self, label: str) -> Any:
        async def handle(call: Call) -> Any:
            plan = self._begin(call, label)
            if plan.pause:
                await Sleep(plan.pause)
            return self._verdict(call, plan)

        return handle

    def _begin(self, call: Call, label: str) -> Script:
        world = self._world
        world.tick()
        port: Any = call._listener
        received = world.ledger.handler(port, call.id, label, world.who())
        if received is None:
            return Script("deny", EACCES, 0.0, False)
        plan: Script = received.asked.script
        return plan

    def _verdict(self, call: Call, plan: Script) -> Any:
        kind = plan.kind
        if plan.looks and not call.valid():
            raise CallGone
        if kind == "deny":
            return deny(plan.number)
        if kind == "answer":
            return answer(plan.number)
        if kind == "let run":
            return let_run()
        if kind == "pass":
            return None
        return self._unusual(call, plan)

    def _unusual(self, call: Call, plan: Script) -> Any:
        kind, number = plan.kind, plan.number
        if kind == "raise":
            self._use_kept()
            self._kept = call
            raise RuntimeError("a handler's own mistake")
        if kind == "exit":
            raise SystemExit(1)
        if kind == "gone":
            raise CallGone
        if kind == "nonsense":
            return (42, "deny", True, [], Deny)[number % 5]
        if kind == "look and let run":
            call.memory_read = True
            return let_run()
        if kind == "unsafe":
            call.memory_read = True
            return let_run_unsafe("a simulation's own reason")
        if kind in ("perform", "note"):
            return perform()
        return self._hand_over(kind, number)

    def _hand_over(self, kind: str, number: int) -> HandOver:
        if kind == "hand over junk":
            if number % 2:
                return hand_over(self._world.open("path", O_PATH))
            return hand_over(self._lent + (1 << 20), close=False)  # it was never open
        at = number % 40 if number % 5 == 0 else None
        cloexec = number % 3 == 0
        if number % 7 == 0:
            return hand_over(self._lent, at=at, cloexec=cloexec, close=False)
        return hand_over(self._world.open("given"), at=at, cloexec=cloexec)

    def _use_kept(self) -> None:
        """What was kept beyond its end cannot be used."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        try:
            kept.valid()
        except CallOver:
            pass

    def __call__(self, call: Call, verdict: Perform) -> Verdict | Later:
        """The performer."""
        with self._at_work(call):
            world = self._world
            port: Any = call._listener
            known = world.ledger.open.get((port.number, call.id))
            if known is not None and known.asked.script.noted and port.journal is not None:
                return self._by_executor(call, port, known.asked.script)
            received = world.ledger.performing(port, call.id)
            if received is None:
                return deny(EACCES)
            plan: Script = received.asked.script
            if plan.number % 3 == 0:
                takes = 0.01 if plan.late else min(plan.pause, _LONG)
                return self._later(port, received, world.schedule.now + takes)
            world.schedule.pause(min(plan.pause, _LONG))
            return self._performed(plan)

    def _by_executor(self, call: Call, port: SimListener, plan: Script) -> Verdict:
        """By a process that outlives the monitor, and says where the next one sees it what it did."""
        schedule, executors = self._world.schedule, self._world.executors
        assert executors is not None and port.journal is not None
        memory, at = port.journal, notes_at(call._notification.slot)
        place = executors.place()
        progress.asks(memory, at, call.id, (place, 1))
        schedule.pause(plan.number % 8 * _MOMENT)
        executors.send(place, port, call.id, plan.gives)
        schedule.pause(min(plan.pause, _LONG))
        gave = executors.hear(place)
        schedule.pause(plan.number % 7 * _MOMENT)
        progress.came(memory, at, call.id, gave)
        schedule.pause(plan.number % 5 * _MOMENT)
        return deny(-plan.gives) if plan.gives < 0 else answer(plan.gives)

    def is_harmless_again(self, call: Call) -> bool:
        """What an executor would have said that it did."""
        port: Any = call._listener
        received = self._world.ledger.open.get((port.number, call.id))
        return call.untouched and received is not None and received.asked.script.noted

    def _later(self, port: SimListener, received: Received, until: float) -> Later:
        """A descriptor is going to be readable; now and then somebody looks before that.  What is interrupted
        has done nothing, or has to be waited for, or was just done."""
        world, plan = self._world, received.asked.script
        fd = world.readable_at(until)

        def resume() -> Any:
            with self._busy(port, received):  # the call may be over by now
                world.waited_for(fd)
                if world.schedule.now < until:
                    return self._later(port, received, until)
                if plan.late:
                    world.schedule.pause(min(plan.pause, _LONG))
                return self._performed(plan)

        def interrupt() -> Any:
            if plan.number % 9 == 0 or world.schedule.now >= until:
                return resume()
            world.waited_for(fd)
            received.begun = False
            return deny(ERESTARTSYS)

        wait = 0.1 if plan.number % 6 == 0 else None
        can = plan.number % 5 != 0
        return Later(
            fd, resume, lambda: world.waited_for(fd), wait, interrupt=interrupt if can else None
        )

    @staticmethod
    def _performed(plan: Script) -> Verdict:
        way = plan.number % 4
        if way == 0:
            return answer(plan.number)
        if way == 1:
            return deny(EACCES)
        if way == 2:
            raise OSError(EBADF, "the performer died")
        return perform()

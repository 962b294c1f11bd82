"""Ways of calls that the engine's own code goes by itself, without a handler of ours, where nobody is told of what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proctor.call.call import Call
from proctor.call.verdict import Answer, Deny, LetRun, Perform, Verdict
from proctor.observe.counters import kind as kind_of
from proctor.syscalls import architectures, tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.kernel.notification import NotificationLike
    from proctor.supervisor.deciding import Decider
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.jobs import Served
    from proctor.supervisor.ports import Engine, Later, Route
    from proctor.supervisor.world_port import World

#: Calls that the engine's own code answers by what it reads of their thread, how else than by 0, and whether what was said before is
#: said again (:class:`proctor.kernel._core.Seen`).
_SEEN: Final = {
    **dict.fromkeys(("fsync", "fdatasync", "syncfs"), ("EBADF", False)), "sysinfo": ("EFAULT", True),
}  # fmt: skip
#: Those that it has done by one plan (:class:`proctor.kernel._core.Doing`).
_DOING: Final = frozenset((
    "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
    "symlinkat", "chmod", "fchmodat", "fchmodat2", "chown", "chown32", "lchown", "lchown32", "fchownat",
    "mknod", "mknodat", "access", "faccessat", "faccessat2",
))  # fmt: skip
#: The same for programs of our own architecture: they fill memory as the kernel does for these.
_FILLING: Final = frozenset(("stat", "lstat", "newfstatat", "statx", "readlink", "readlinkat"))
#: Of those, whose ids have 16 bits where there are calls with 32.
_NARROW: Final = frozenset(("chown", "lchown"))


class Natively:
    """Those of one listener; each is None where there is no such way."""

    __slots__ = ("_decider", "_served", "_world", "makers")

    def __init__(self, served: Served, decider: Decider, world: World, engine: Engine) -> None:
        self._served = served
        self._decider = decider
        self._world = world
        #: Of routes, in the engine's own code; None where there is none.
        self.makers = engine.makers(served.listener)

    def constant(self, handler: Handler, first: NotificationLike) -> Deny | Answer | LetRun | None:
        """What all calls come to; None where they do not come to the same, or somebody is told of each."""
        served, observers = self._served, self._decider.observers
        if handler.constant is None:
            return None
        said = handler.constant(Call(first, served.listener, container=served.container))
        if not isinstance(said, (Deny, Answer, LetRun)):
            return None
        if isinstance(said, Answer) and said.writes:
            return None
        if observers.watching and observers.wants(said):
            counted = isinstance(said, Deny) and observers.counting(said) is not None
            return said if counted else None
        return said

    def _wish(self, handler: Handler, first: NotificationLike) -> Perform | None:
        """How all calls of a number are performed, of which nobody is told; None if that is not so."""
        if handler.constant is None or self._decider.observers.watching:
            return None
        wish = handler.constant(
            Call(first, self._served.listener, container=self._served.container)
        )
        return wish if isinstance(wish, Perform) else None

    def seen(
        self, handler: Handler, first: NotificationLike, name: str, ordinary: Any, short: Route
    ) -> Route | None:
        """The way of calls that are answered by what is read of their thread, where nobody is told of it."""
        served, observers = self._served, self._decider.observers
        if name not in _SEEN or self.makers is None or ordinary is None:
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
        way: Route = self.makers.Seen(
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

    def doing(
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
        if (
            name not in (*_DOING, *_FILLING)
            or self.makers is None
            or ordinary is None
            or served.journal is not None
        ):
            return None
        if (
            name in _FILLING
            and architectures.arch_of(first.arch, first.nr) != architectures.native()
        ):
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

        way: Route = self.makers.Doing(
            served.share, served.busy, short, find, served.container, served.listener,
            self._decider, goes_on, self._counted_as(name), judge, registers,
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
            return None if counters is None else counters.cell(container, name, came_to(failed))

        return counted_as

    def performed(
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
        if find is None or self.makers is None:
            return None
        wish = self._wish(handler, first)
        if wish is None:
            return None

        def call_of(notification: NotificationLike) -> Call:
            return Call(notification, listener, container=container)

        def went_on(call: Call, said: Verdict | Later) -> None:
            performed(call, wish, said, clock())

        way: Route = self.makers.Performed(
            served.share, served.busy, short, find, container, wish, call_of, went_on, self._counted_as(name)
        )  # fmt: skip
        return way


def came_to(failed: int) -> str:
    """What a performed call is counted as, by the errno that came of it."""
    return f"perform {kind_of(Deny(failed))[5:]}" if failed else "perform"

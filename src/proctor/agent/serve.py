"""The agent as a process: its sockets, its signals, its end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

from proctor.agent import dropping
from proctor.agent.accepting import Acceptor
from proctor.agent.agent import Agent
from proctor.agent.control import Control
from proctor.agent.doors.launches import LaunchDoor
from proctor.agent.doors.lxc import LxcDoor
from proctor.agent.doors.oci import OciDoor
from proctor.agent.doors.turned_away import TurnedAway
from proctor.agent.keeping import HAND_OVER, MOUNTS, PROGRESS, Item, KeptBy, make_room, raise_limits
from proctor.agent.kept import beside
from proctor.agent.metrics import Metrics
from proctor.agent.owners import is_trusted
from proctor.agent.policies import Book
from proctor.agent.refusals import Refusals
from proctor.agent.resuming import in_turn
from proctor.agent.scraped import serve as serve_metrics
from proctor.agent.settings import SOCKET, Place, Settings
from proctor.agent.sockets import Peer, peer_of

if TYPE_CHECKING:
    from proctor.agent.keeping import Keeper, Keeping
    from proctor.observe.events import Observer

D = TypeVar("D", LxcDoor, OciDoor, LaunchDoor)

#: Seconds between looks at what is left, at the end.
_LOOK: Final = 0.02


class Server:
    """An agent with its sockets, on a loop that its owner runs.

    :param book: policies, loaded.
    :param tell: told what is worth a line, in a sentence.
    :param keeping: keeps what the next one needs.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        book: Book,
        observers: Sequence[Observer] = (),
        tell: Callable[[str], object] = str,
        keeping: Keeping | None = None,
    ) -> None:
        self._loop = loop
        self._settings = settings
        metrics = Metrics(asked=settings.metrics is not None)
        self._refusals = refusals = Refusals()
        self.agent = Agent(
            loop,
            book,
            [*observers, refusals, *metrics.observers],
            deadline=settings.deadline,
            tell=tell,
            keeping=keeping,
            performing=metrics.timed,
            answers=settings.answers,
        )
        self._metrics = metrics
        self._doors: list[Acceptor] = []
        self._ends: list[Callable[[], object]] = []

    def prepare(self) -> None:
        """Do what need not be done when others wait, of all that :meth:`open` takes."""
        self.agent.prepare(lxc=bool(self._settings.lxc))
        self.agent.answer()

    def open(self, items: Sequence[Item]) -> None:
        """Go on with what an earlier monitor left, and let peers in.

        :param items: what there is; ours from now on.
        :raises ProctorError, OSError: a socket cannot be had.
        """
        try:
            self._resume(items)
        except BaseException:
            self.close()
            raise

    def _resume(self, items: Sequence[Item]) -> None:
        agent = self.agent
        control = Control(self._loop, agent, self._refusals, self._metrics, self._settings.log)
        of: defaultdict[str, list[Item]] = defaultdict(list)
        for item in items:
            of[item.name.partition(" ")[0]].append(item)
        sockets = {
            item.name.removeprefix(SOCKET): socket.socket(fileno=item.fds[0])
            for item in of.pop("socket", ())
        }
        listeners, connections, silent = (
            of.pop(kind, []) for kind in ("listener", "connection", "silent")
        )
        known, arriving = (
            {item.name: item.fds[0] for item in of.pop(kind, ())} for kind in ("known", "arriving")
        )
        progress, mounts = (next(iter(of.pop(kind, ())), None) for kind in (PROGRESS, MOUNTS))
        for item in chain.from_iterable(of.values()):
            if not (agent.delegations.collect(item) or agent.attached.restore(item)):
                item.close()
        agent.leave_traces(progress, mounts)
        agent.answer()
        for some in in_turn(listeners):
            for item in some:
                self._restore(item)
        agent.restored()
        doors: dict[str, LxcDoor | OciDoor] = {}
        for place in self._settings.lxc:
            doors[place.path] = self._open(LxcDoor, place, sockets, keeps=agent)
        for item in connections:
            of_lxc = agent.connection(item, known)
            sock = socket.socket(fileno=item.fds[0])
            sock.setblocking(False)
            door = doors.get(of_lxc.socket)
            if isinstance(door, LxcDoor):
                door.restored(sock, peer_of(sock), item, of_lxc)
            else:
                sock.close()
                os.close(item.fds[2])
                agent.forget(item.name)
        agent.forget_mounts_of_others()
        for left, memory in known.items():  # whose connection hung up
            os.close(memory)
            agent.forget(left)
        for place in self._settings.oci:
            doors[place.path] = self._open(OciDoor, place, sockets, senders=True, keeps=agent)
        for place in self._settings.run:
            self._open(LaunchDoor, place, sockets)
        if self._settings.control is not None:
            self._accept(self._settings.control, sockets, control.connected)
            self._ends.append(control.close)
        for other in sockets.values():  # of an agent that was told otherwise
            other.close()
        for item in silent:
            boxed = arriving.pop(beside(item.name), -1)
            self._go_on(item, doors, boxed)
            if boxed >= 0:
                os.close(boxed)
        for left, boxed in arriving.items():  # whose connection is not there
            os.close(boxed)
            agent.forget(left)

    def _go_on(self, item: Item, doors: Mapping[str, LxcDoor | OciDoor], boxed: int) -> None:
        """Take a connection of which nothing is known.

        :param boxed: what has come by it; -1: nothing."""
        connection = self.agent.silent(item)
        if connection is None:
            return
        door = doors.get(connection.getsockname())
        if isinstance(door, OciDoor):
            door.connected(connection, peer_of(connection), item.name, boxed)
        elif door is not None:
            door.connected(connection, peer_of(connection), item.name)
        else:  # of an agent that was told otherwise
            self.agent.forget(item.name)
            connection.close()

    def _restore(self, item: Item) -> None:
        try:
            self.agent.restore(item)
        except Exception as problem:  # the others are not to suffer from it
            self.agent.trouble(
                f"{item.name} cannot be taken over: {problem}; it is let go, and its calls get ENOSYS"
            )
            self.agent.forget(item.name)  # else they would wait as long as it is kept

    def _open(
        self, kind: type[D], place: Place, sockets: dict[str, socket.socket], **options: Any
    ) -> D:
        door = kind(self._loop, place.path, self.agent, self._refusing(place))
        self._accept(place, sockets, door.connected, **options)
        self._ends.append(door.close)
        return door

    def _accept(
        self,
        place: Place,
        sockets: dict[str, socket.socket],
        connected: Callable[[socket.socket, Peer, str], object],
        *,
        senders: bool = False,
        keeps: Agent | None = None,
    ) -> None:
        sock = sockets.pop(place.path, None)
        if sock is None:
            sock = place.listen()
            self.agent.keep(SOCKET + place.path, [sock.fileno()])
        sock.setblocking(False)
        if not all(map(is_trusted, place.uids)):
            dropping.turning_away.start()
            self.agent.start_early()
        refused = self._refusing(place)
        acceptor = Acceptor(
            self._loop, sock, place.uids, connected, refused, senders=senders, keeps=keeps
        )
        self._doors.append(acceptor)

    def _refusing(self, place: Place) -> Callable[[str], object]:
        return TurnedAway(lambda why: self.agent.trouble(f"{place.path}: {why}", counted=False))

    def show_metrics(self) -> None:
        """
        :raises OSError, ProctorError: the address for metrics cannot be had.
        """
        if self._settings.metrics is not None:
            self._metrics.show(self.agent)
            self._ends.append(serve_metrics(self._settings.metrics, self._metrics.registry))

    def let_nobody_in(self) -> None:
        """Accept no more connections; idempotent."""
        for door in self._doors:
            door.close()

    def hand_over(self) -> None:
        """Leave everything to the next monitor: nothing is answered any more, and this process is to end."""
        self.let_nobody_in()
        left = self.agent.hand_over(self._settings.drain)
        if left:
            self.agent.trouble(f"{left} calls were being performed when this monitor was replaced")

    def close(self) -> None:
        """Let nobody in any more, answer what is pending, and let every listener go; idempotent."""
        self.let_nobody_in()
        for end in self._ends:
            end()
        self._ends.clear()
        self.agent.close()


class _Stop:
    """The end in order: calls in flight are waited for, and served meanwhile; who asks again gets it at once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        server: Server,
        tell: Callable[[str], object],
        most: float,
    ) -> None:
        self._loop = loop
        self._server = server
        self._tell = tell
        self._most = most
        self._until: float | None = None

    def __call__(self) -> None:
        if self._until is not None:
            self._loop.stop()
            return
        self._until = self._loop.time() + self._most
        self._server.let_nobody_in()
        left = self._server.agent.in_flight
        if left and self._most:
            self._tell(
                f"stops; calls in flight are waited for: {left}, at most {self._most:g} seconds"
            )
        self._look()

    def _look(self) -> None:
        assert self._until is not None
        if self._server.agent.in_flight and self._loop.time() < self._until:
            self._loop.call_later(_LOOK, self._look)
        else:
            self._loop.stop()


def _on_signal(loop: asyncio.AbstractEventLoop, number: int, then: Callable[[], object]) -> None:
    """Have the loop do something when a signal comes.  Not by its own ``add_signal_handler``: a signal is lost there whose byte finds
    the pipe full by which threads wake the loop, as it is when some hundred listeners end at the same time."""
    signal.signal(number, lambda *_: loop.call_soon_threadsafe(then))


def run(
    settings: Settings,
    observers: Sequence[Observer] = (),
    tell: Callable[[str], object] = str,
    keeper: Keeper | None = None,
    watchdog: tuple[float, Callable[[], object]] | None = None,
    ready: Callable[[], object] = bool,
) -> bool:
    """Serve until SIGTERM or SIGINT; whether all is left to the next monitor.

    :param ready: told once it serves.

    :param watchdog: seconds, and what is to be called so often while all is well.
    :param keeper: has what earlier monitors left, and keeps what the next one needs.
    :raises PolicyError: a policy is wrong, and no earlier monitor had a better one.
    :raises ProctorError, OSError: a socket cannot be had.
    """
    make_room(raise_limits())
    loop = asyncio.new_event_loop()
    book = Book(settings.policies, tell)
    items: list[Item] = []
    replaced = False

    def replace() -> None:
        nonlocal replaced
        replaced = True
        loop.stop()

    _on_signal(loop, HAND_OVER, replace)  # which is seen to once it serves
    gc.disable()  # thousands of containers are made at once, of which none is garbage
    first = keeper is None or keeper.first()
    if first:
        book.load()
    else:
        book.refresh(settle=False)  # what is parsed now need not be when others wait
    server = Server(loop, settings, book, observers, tell, keeper)
    if not first:
        server.prepare()
    if keeper is not None:
        items = keeper.take_over()
    if not first:
        server.agent.restore_texts(items)
    alive: Callable[[], object] | None = None
    if watchdog is not None:
        seconds, sign = watchdog

        def alive() -> None:
            sign()
            loop.call_later(seconds, alive)

    try:
        stop = _Stop(loop, server, tell, settings.drain)
        _on_signal(loop, signal.SIGTERM, stop)  # calls are answered from now on
        # A terminal's Ctrl-C is a keeper's as well, who tells us.
        interrupted = bool if isinstance(keeper, KeptBy) else stop
        _on_signal(loop, signal.SIGINT, interrupted)
        server.open(items)
        try:
            server.show_metrics()
            tell("ready" if first else f"took over {len(server.agent.containers)} containers")
            server.agent.watch_policies()
            gc.enable()
            if keeper is not None:
                keeper.serves()
            ready()
            if alive is not None:
                alive()
            loop.run_forever()
        finally:
            left = replaced or (keeper is not None and keeper.leaves)
            if left:
                server.hand_over()
            else:
                server.close()
    finally:
        for number in (HAND_OVER, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        loop.close()
    return left

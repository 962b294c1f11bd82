"""The agent: containers that come by its doors, decided by the policies of a directory."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from proctor.agent.attached import Attached
from proctor.agent.containers import Containers
from proctor.agent.deciding import Handlers, asks
from proctor.agent.delegating import Delegations
from proctor.agent.facts import Facts
from proctor.agent.held import Held, Record
from proctor.agent.keeping import Nobody, memory_of, read_memory
from proctor.agent.loading import load_early
from proctor.agent.owners import Named
from proctor.call.verdict import deny
from proctor.errors import ProctorError
from proctor.kernel.closing import closers
from proctor.kernel.journal import Journal
from proctor.kernel.listener import Listener
from proctor.kernel.progress import Progress
from proctor.observe.events import ContainerAdded, ContainerEnded
from proctor.process.performing import LazyPerformer
from proctor.process.starting import wake_in_step
from proctor.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from proctor.agent.delegating import Way
    from proctor.agent.keeping import Item, Keeping
    from proctor.agent.policies import Book
    from proctor.kernel.mounts import Mounts
    from proctor.observe.events import Observer
    from proctor.supervisor.deciding import Performer

#: Calls of one listener that a journal holds: as many threads as wait for answers at a time.
_SLOTS: Final = 1024


class Agent(Containers):
    """Serves listeners by the policy of their container; all methods on the thread of its loop.

    :param book: says which policy is whose.
    :param observers: as a supervisor's.
    :param deadline: seconds after which a call is denied where its policy says nothing.
    :param tell: told what is worth a line, in a sentence.
    :param keeping: keeps the listeners while a monitor is replaced.
    :param performing: makes the performer that the supervisor is given of the built-in one.
    :param answers: a directory for what is answered to rules that ask; None: it is forgotten with
        the monitor.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        book: Book,
        observers: Iterable[Observer] = (),
        *,
        deadline: float | None = None,
        tell: Callable[[str], object] = str,
        keeping: Keeping | None = None,
        performing: Callable[[LazyPerformer], Performer] | None = None,
        answers: str | None = None,
    ) -> None:
        performer = LazyPerformer({})
        self._asks = asks(answers, self.trouble)

        def forget(event: ContainerEnded) -> None:
            performer.forget(event.container)
            self._asks.forget(event.container)

        forget.events = (ContainerEnded,)  # type: ignore[attr-defined]
        self._observers: tuple[Observer, ...] = (forget, *observers)
        supervisor = Supervisor(
            default=deny(errno.ENOSYS, "no system call that is known here"),
            deadline=deadline,
            observers=self._observers,
            performer=performer if performing is None else performing(performer),
            seeker=performer,
        )
        performer.on_trouble = supervisor.trouble
        supervisor.on_close(performer.close)
        kept = Nobody() if keeping is None else keeping
        super().__init__(loop, kept, book, supervisor, Handlers(self._asks, tell), tell)
        self._performer = performer
        self._progress: Progress | None = None
        self._mounts: Mounts | None = None
        #: What containers of restored listeners are known by, also those whose name another one has by now; until all are.
        self._taken_over: set[bytes] = set()
        #: Starts what performs now, before anything that users send could hold that up.
        self.start_early = performer.start_early
        self.attached = Attached(self)
        self.delegations = Delegations(loop, self, self.supervisor)
        self._answers = False

    def prepare(self, *, lxc: bool) -> None:
        """Make the handlers of all policies now, and not when the first container comes, and load what its first call takes.

        :param lxc: also those for containers whose calls LXC receives."""
        policies = self.book.held()
        load_early(policies, self._performer)
        for policy in policies:
            for door in ("oci", "lxc") if lxc else ("oci",):
                self._handlers.of(policy, door)

    def answer(self) -> None:
        """Begin to answer those that are served, and those that come; idempotent."""
        if not self._answers:
            self._answers = True
            self.supervisor.start()

    def renew(self) -> None:
        """Begin to replace this monitor by a new one.

        :raises ProctorError: that is not to be had here."""
        self._keeping.renew()

    def trouble(self, text: str, *, counted: bool = True) -> None:
        """Tell observers of trouble: see :meth:`Supervisor.trouble <proctor.supervisor.supervisor.Supervisor.trouble>`."""
        self.supervisor.trouble(text, counted=counted)

    # Listeners ------------------------------------------------------------------------------

    def admit(
        self,
        facts: Facts,
        listener: int,
        *,
        fresh: bool,
        process: Named,
        alive: int = -1,
        way: Way | None = None,
        came_by: str = "",
    ) -> None:
        """Serve a listener that a door brought; it is the agent's from now on.

        :param fresh: its container is just being made; otherwise it belongs to the one that has its
            id, if that is known.
        :param process: one that has the filter.
        :param alive: a descriptor that is closed when the listener is; -1 for none.
        :param way: by which supervisors below register, of a fresh container.
        :param came_by: as what the connection is kept by which it came (:meth:`accept`).
        :raises ProctorError, OSError: it cannot be served, and all are closed.
        """
        port = Listener(listener)
        name = self.numbered("listener")
        if alive >= 0:
            self.attached.hold(name, alive)
        try:
            wake_in_step(port)
            held = self.container(facts, fresh=fresh, process=process)
            if way is not None:
                self.delegations.begin(name, way, held.container)
            journal = Journal.create(_SLOTS)
            journal.progress = self._progress
            try:
                self._keep(name, held, port, journal, came_by)
                self._serve(held, port, journal, name)
            finally:
                journal.close()  # its memory stays where it is
        except BaseException:
            port.close()
            self._forget_all_of(name)
            if way is not None and way.sock.fileno() >= 0:
                closers.close([way.sock.detach()])
            raise

    def _keep(self, name: str, held: Held, port: Listener, journal: Journal, came_by: str) -> None:
        record = Record(held.facts, tuple(held.container.owner_userns), held.since, came_by)
        memory = memory_of(msgspec.json.encode(record))
        self.keep(name, [port.fileno(), journal.fileno(), memory])
        os.close(memory)

    def leave_traces(self, item: Item | None, mounted: Item | None) -> None:
        """Have executors say how far they are, and know how far those of earlier monitors were, and what these mounted; before
        :meth:`restore`.

        :param item: where these said how far they are; ours from now on.
        :param mounted: what was mounted; ours from now on."""
        self._progress = self.progress_in(item)
        self._mounts = self.mounts_in(mounted)
        self._performer.leave_traces(self._progress, self._mounts)

    def forget_mounts_of_others(self) -> None:
        """Of containers that were over before this monitor began; after all are restored."""
        if self._mounts is not None:
            held = {each.container.lasting for each in self._held.values()}
            self._mounts.keep_only(held | self._taken_over)
        self._taken_over.clear()

    def restore(self, item: Item) -> None:
        """Serve a listener that an earlier monitor served; what that had received is decided now.

        :raises ProctorError, OSError, ValueError: it is none; it is closed.
        """
        self.numbered_before(item)
        listener, journal_fd, memory = item.fds
        port = Listener(listener)
        try:
            try:
                journal = Journal(journal_fd)
            except ProctorError:
                os.close(journal_fd)
                raise
            journal.progress = self._progress
            try:
                record = msgspec.json.decode(read_memory(memory), type=Record)
                self._said.add(record.came_by)
                held = self._held.get((record.facts.door, record.facts.uid, record.facts.id))
                # each command is one by itself; and who has the name now is not who had it before
                if held is None or record.facts.door == "run" or held.since != record.since:
                    held = self._hold(record.facts, record.owner_userns, record.since)
                self._taken_over.add(held.container.lasting)
                self.delegations.restore(item.name, held.container)
                self._serve(held, port, journal, item.name)
            finally:
                journal.close()  # its memory stays where it is
        except BaseException:
            port.close()
            raise
        finally:
            os.close(memory)

    def _serve(self, held: Held, port: Listener, journal: Journal, name: str) -> None:
        held.listeners[port] = name
        self._shares.count(held.facts.uid, 1, held.weight)
        try:
            self.supervisor.add(
                port,
                held.container,
                on_end=lambda: self._later(self._ended, held, port),
                journal=journal,
            )
        except BaseException:
            self._ended(held, port)
            raise

    # Those whose calls LXC receives: see proctor.agent.doors.lxc.Containers

    def connect(self, facts: Facts, owners: Callable[[], Iterable[int]], since: float) -> Held:
        """The container of these facts, which has one connection more from now on.

        :param owners: asked where it is new, and may raise that its process is not its user's.
        """
        held = self._held.get((facts.door, facts.uid, facts.id))
        if held is None:
            held = self._hold(facts, owners(), since)
        held.connections += 1
        if held.connections == 1:
            self._happened(ContainerAdded(held.container))
        return held

    def disconnect(self, held: Held) -> None:
        """It has one less."""
        held.connections -= 1
        if not held.connections:
            if self._held.get(held.key) is held:
                del self._held[held.key]
            self._happened(ContainerEnded(held.container, "ended"))

    def _happened(self, event: ContainerAdded | ContainerEnded) -> None:
        """Tell what a supervisor tells of containers whose listeners it has."""
        for observer in self._observers:
            if type(event) in getattr(observer, "events", (type(event),)):
                observer(event)

    def _later(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            pass  # the loop is closed: nobody asks any more

    def _ended(self, held: Held, port: Listener) -> None:
        name = held.listeners.pop(port, None)
        if name is not None:
            self._shares.count(held.facts.uid, -1, held.weight)
            self.forget(name)
            self._forget_all_of(name)
        if not held.listeners and self._held.get(held.key) is held:
            del self._held[held.key]

    def _forget_all_of(self, name: str) -> None:
        """What belongs to a listener."""
        self.attached.close(name)
        self.delegations.close(name)

    def restored(self) -> None:
        """All that was kept is here."""
        names = [name for held in self._held.values() for name in held.listeners.values()]
        self.attached.close_all_but(names)
        self.delegations.close_all_but(names)

    def hand_over(self, patience: float) -> int:
        """See :meth:`Supervisor.hand_over <proctor.supervisor.supervisor.Supervisor.hand_over>`."""
        return self.supervisor.hand_over(patience)

    def close(self) -> None:
        """Answer what is pending, and let every listener go; idempotent."""
        self.stop_watching()
        self.supervisor.close()
        self.attached.close_all_but()
        self.delegations.close_all_but()

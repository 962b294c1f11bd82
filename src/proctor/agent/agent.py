"""The agent: containers that come by its doors, decided by the policies of a directory."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from proctor.agent.agreeing import disagreements, makes_userns, profile_of
from proctor.agent.attached import Attached
from proctor.agent.deciding import Handlers, asks, container_options, policy_name
from proctor.agent.delegating import Delegations
from proctor.agent.facts import Facts
from proctor.agent.held import Held, Key, Record, Shares, lasting, weight
from proctor.agent.keeping import Nobody, memory_of, read_memory
from proctor.agent.kept import Keeps
from proctor.agent.loading import load_early
from proctor.agent.owners import Named, is_trusted, owner_userns
from proctor.call.verdict import deny
from proctor.errors import ProctorError
from proctor.kernel.closing import closers
from proctor.kernel.journal import Journal
from proctor.kernel.listener import Listener
from proctor.kernel.progress import Progress
from proctor.observe.events import ContainerAdded, ContainerEnded
from proctor.process.performing import LazyPerformer
from proctor.process.starting import wake_in_step
from proctor.supervisor.container import Container
from proctor.supervisor.handlers import Handler
from proctor.supervisor.supervisor import Supervisor
from proctor.words import quoted

if TYPE_CHECKING:
    from proctor.agent.delegating import Way
    from proctor.agent.keeping import Item, Keeping
    from proctor.agent.policies import Book, Resolved
    from proctor.filter.rules import Filter
    from proctor.kernel.mounts import Mounts
    from proctor.observe.events import Observer
    from proctor.policy import Policy
    from proctor.supervisor.deciding import Performer

#: Seconds between looks at the directory of policies.
_LOOK: Final = 1.0
#: Calls of one listener that a journal holds: as many threads as wait for answers at a time.
_SLOTS: Final = 1024


class Agent(Keeps):
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
        self._loop = loop
        self._tell = tell
        super().__init__(Nobody() if keeping is None else keeping, book)
        performer = LazyPerformer({})
        self._asks = asks(answers, self.trouble)

        def forget(event: ContainerEnded) -> None:
            performer.forget(event.container)
            self._asks.forget(event.container)

        forget.events = (ContainerEnded,)  # type: ignore[attr-defined]
        self._observers: tuple[Observer, ...] = (forget, *observers)
        self.supervisor = Supervisor(
            default=deny(errno.ENOSYS, "no system call that is known here"),
            deadline=deadline,
            observers=self._observers,
            performer=performer if performing is None else performing(performer),
            seeker=performer,
        )
        performer.on_trouble = self.supervisor.trouble
        self.supervisor.on_close(performer.close)
        self._performer = performer
        self._progress: Progress | None = None
        self._mounts: Mounts | None = None
        #: What containers of restored listeners are known by, also those whose name another one has by now; until all are.
        self._taken_over: set[bytes] = set()
        #: Starts what performs now, before anything that users send could hold that up.
        self.start_early = performer.start_early
        self._held: dict[Key, Held] = {}
        self._shares = Shares()
        self.attached = Attached(self)
        self.delegations = Delegations(loop, self, self.supervisor)
        self._handlers = Handlers(self._asks, tell)
        self._answers = False
        self._looking: asyncio.TimerHandle | None = None

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

    def watch_policies(self) -> None:
        """Have the policies kept for the next monitor, and begin to look at their directory."""
        self._keep_texts()
        self._looking = self._loop.call_later(_LOOK, self._look)

    @property
    def containers(self) -> list[Held]:
        """Those that are served, in the order in which they came."""
        return list(self._held.values())

    @property
    def in_flight(self) -> int:
        """How many calls were received, and wait for their answer or keep somebody busy."""
        return sum(self.supervisor.taken(each.container)[0] for each in self._held.values())

    def renew(self) -> None:
        """Begin to replace this monitor by a new one.

        :raises ProctorError: that is not to be had here."""
        self._keeping.renew()

    def trouble(self, text: str, *, counted: bool = True) -> None:
        """Tell observers of trouble: see :meth:`Supervisor.trouble <proctor.supervisor.supervisor.Supervisor.trouble>`."""
        self.supervisor.trouble(text, counted=counted)

    # Containers -----------------------------------------------------------------------------

    def filter(self, facts: Facts, more: Sequence[str] = ()) -> Filter:
        """The filter under which a command of these facts is to be launched.

        :param more: calls to notify besides.
        :raises ProctorError: it has no policy, or one that is too large for a filter.
        """
        resolved = self.book.resolve(facts)
        if resolved.policy is None:
            raise ProctorError(resolved.why)
        extra = [Handler(more, lambda call: None)] if more else []
        return resolved.policy.filter(extra_notify=extra)

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

    def container(self, facts: Facts, *, fresh: bool, process: Named) -> Held:
        """The container of these facts; a new one, or that which is served already.

        :raises ProctorError: no more of its user's are served."""
        held = None if fresh else self._held.get((facts.door, facts.uid, facts.id))
        self._shares.see(facts.uid, weight(facts) if held is None else held.weight)
        if held is not None:
            return held
        if facts.bundle and is_trusted(facts.uid):
            process = process._replace(own=makes_userns(facts.bundle))
        return self._hold(facts, owner_userns(process, facts.uid), time.time())

    def _hold(self, facts: Facts, owners: Iterable[int], since: float) -> Held:
        resolved = self.book.resolve(facts)
        container = Container(
            facts.id,
            self._handlers.first(resolved, facts.door),
            labels=facts.labels() | {"policy": policy_name(resolved.policy)},
            owner_userns=owners,
            **container_options(resolved.policy),
        )
        container.lasting = lasting(facts, since)
        held = Held(facts, container, resolved, since)
        self._held[held.key] = held
        self._compare(held)
        return held

    def _compare(self, held: Held) -> None:
        """Tell where its filter and its policy disagree, as far as that can be known."""
        facts, policy = held.facts, held.resolved.policy
        if policy is None or not facts.bundle or facts.uid:
            return
        profile = profile_of(facts.bundle)
        for each in () if profile is None else disagreements(policy, profile):
            self._tell(f"container {quoted(facts.id)}: {each}")

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

    # Policies -------------------------------------------------------------------------------

    def _look(self) -> None:
        self._looking = self._loop.call_later(_LOOK, self._look)
        self.refresh()

    def refresh(self, *, settle: bool = True) -> None:
        """Take what changed in the directory of policies, also for containers that run."""
        if not self.book.refresh(settle=settle):
            return
        self._keep_texts()
        changed = 0
        held_now: set[Policy | None] = set()
        for held in self._held.values():
            now = self.book.resolve(held.facts)
            held_now.add(now.policy)
            if now.policy is not held.resolved.policy or now.policy is None:
                self._replace(held, now)
                changed += 1
            held.resolved = now
        self._tell(f"policies changed; so they did for {changed} of {len(self._held)} containers")
        self._handlers.keep_only(held_now)

    def restored(self) -> None:
        """All that was kept is here."""
        names = [name for held in self._held.values() for name in held.listeners.values()]
        self.attached.close_all_but(names)
        self.delegations.close_all_but(names)

    def _replace(self, held: Held, now: Resolved) -> None:
        made = self._handlers.first(now, held.facts.door)
        held.resolved = now
        container = held.container
        container.handlers = made
        container.labels = {**container.labels, "policy": policy_name(now.policy)}
        options = container_options(now.policy)
        container.performing, container.logging = options["performing"], options["logging"]
        self.supervisor.limit(container, options["quotas"])
        self._compare(held)
        for port in held.listeners:
            try:
                self.supervisor.replace(port, made)
            except ValueError:
                pass  # nobody uses its filter any more, and we are just about to hear of it

    def hand_over(self, patience: float) -> int:
        """See :meth:`Supervisor.hand_over <proctor.supervisor.supervisor.Supervisor.hand_over>`."""
        return self.supervisor.hand_over(patience)

    def close(self) -> None:
        """Answer what is pending, and let every listener go; idempotent."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self.supervisor.close()
        self.attached.close_all_but()
        self.delegations.close_all_but()

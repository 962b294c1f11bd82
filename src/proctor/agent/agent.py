"""The agent: containers that come by its doors, decided by the policies of a directory."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from proctor.agent.facts import Facts
from proctor.agent.owners import owner_userns
from proctor.call.verdict import deny
from proctor.kernel.listener import Listener
from proctor.observe.events import ContainerEnded
from proctor.policy.handlers import verdict_of
from proctor.process.performing import LazyPerformer
from proctor.process.starting import wake_in_step
from proctor.supervisor.container import Container, Quotas
from proctor.supervisor.handlers import Handler
from proctor.supervisor.supervisor import Supervisor
from proctor.syscalls import tables

if TYPE_CHECKING:
    from proctor.agent.policies import Book, Resolved
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.observe.events import Observer
    from proctor.policy import Policy

#: Seconds between looks at the directory of policies.
_LOOK: Final = 1.0

#: Door, user and id: what makes listeners those of one container.
Key = tuple[str, int, str]


class Held:
    """A container that is served."""

    __slots__ = ("container", "facts", "listeners", "resolved")

    def __init__(self, facts: Facts, container: Container, resolved: Resolved) -> None:
        self.facts = facts
        self.container = container
        #: What holds for it.
        self.resolved = resolved
        self.listeners: set[Listener] = set()

    @property
    def key(self) -> Key:
        """See there."""
        return (self.facts.door, self.facts.uid, self.facts.id)


class Agent:
    """Serves listeners by the policy of their container; all methods on the thread of its loop.

    :param book: says which policy is whose.
    :param observers: as a supervisor's.
    :param deadline: seconds after which a call is denied where its policy says nothing.
    :param tell: told what is worth a line, in a sentence.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        book: Book,
        observers: Iterable[Observer] = (),
        *,
        deadline: float | None = None,
        tell: Callable[[str], object] = str,
    ) -> None:
        self._loop = loop
        self._tell = tell
        self.book = book
        performer = LazyPerformer({})

        def forget(event: ContainerEnded) -> None:
            performer.forget(event.container)

        forget.events = (ContainerEnded,)  # type: ignore[attr-defined]
        self.supervisor = Supervisor(
            default=deny(errno.ENOSYS, "no system call that is known here"),
            deadline=deadline,
            observers=[forget, *observers],
            performer=performer,
        )
        performer.on_trouble = self.supervisor.trouble
        self.supervisor.on_close(performer.close)
        self._held: dict[Key, Held] = {}
        self._handlers: dict[Policy, tuple[Handler, ...]] = {}
        self._looking: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to answer, and to look at the policies' directory."""
        self.supervisor.start()
        self._looking = self._loop.call_later(_LOOK, self._look)

    @property
    def containers(self) -> list[Held]:
        """Those that are served, in the order in which they came."""
        return list(self._held.values())

    def trouble(self, text: str) -> None:
        """Tell observers of trouble."""
        self.supervisor.trouble(text)

    # Containers -----------------------------------------------------------------------------

    def admit(self, facts: Facts, listener: int, *, fresh: bool, pid: int) -> None:
        """Serve a listener that a door brought; it is the agent's from now on.

        :param fresh: its container is just being made; otherwise it belongs to the one that has its
            id, if that is known.
        :param pid: of the process that has the filter, as the runtime sees it.
        :raises ProctorError, OSError: it cannot be served, and is closed.
        """
        port = Listener(listener)
        try:
            wake_in_step(port)
            held = self.container(facts, fresh=fresh, pid=pid)
            held.listeners.add(port)
            try:
                self.supervisor.add(
                    port, held.container, on_end=lambda: self._later(self._ended, held, port)
                )
            except BaseException:
                self._ended(held, port)
                raise
        except BaseException:
            port.close()
            raise

    def container(self, facts: Facts, *, fresh: bool, pid: int) -> Held:
        """The container of these facts; a new one, or that which is served already."""
        key = (facts.door, facts.uid, facts.id)
        held = self._held.get(key)
        if held is not None and not fresh:
            return held
        resolved = self.book.resolve(facts)
        container = Container(
            facts.id,
            self._handlers_of(resolved),
            labels=facts.labels(),
            owner_userns=owner_userns(pid, facts.uid),
            **_options(resolved.policy),
        )
        held = self._held[key] = Held(facts, container, resolved)
        return held

    def _later(self, function: object, *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
        except RuntimeError:
            pass  # the loop is closed: nobody asks any more

    def _ended(self, held: Held, port: Listener) -> None:
        held.listeners.discard(port)
        if not held.listeners and self._held.get(held.key) is held:
            del self._held[held.key]

    # Policies -------------------------------------------------------------------------------

    def _handlers_of(self, resolved: Resolved) -> tuple[Handler, ...]:
        policy = resolved.policy
        if policy is None:
            verdict = deny(errno.EPERM, resolved.why)
            return (Handler(_NAMES, lambda call: verdict, label="no policy"),)
        known = self._handlers.get(policy)
        if known is None:
            known = self._handlers[policy] = tuple(handlers(policy))
        return known

    def _look(self) -> None:
        self._looking = self._loop.call_later(_LOOK, self._look)
        self.refresh()

    def refresh(self, *, settle: bool = True) -> None:
        """Take what changed in the directory of policies, also for containers that run."""
        if not self.book.refresh(settle=settle):
            return
        changed = 0
        held_now = set()
        for held in self._held.values():
            now = self.book.resolve(held.facts)
            held_now.add(now.policy)
            if now != held.resolved:
                self._replace(held, now)
                changed += 1
        self._tell(f"policies changed; so they did for {changed} of {len(self._held)} containers")
        for policy in self._handlers.keys() - held_now:
            del self._handlers[policy]

    def _replace(self, held: Held, now: Resolved) -> None:
        made = self._handlers_of(now)
        held.resolved = now
        container = held.container
        container.handlers = made
        container.performing = _options(now.policy)["performing"]
        for port in held.listeners:
            try:
                self.supervisor.replace(port, made)
            except ValueError:
                pass  # nobody uses its filter any more, and we are just about to hear of it

    def close(self) -> None:
        """Answer what is pending, and let every listener go; idempotent."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self.supervisor.close()


_NAMES: Final = sorted(tables.all_names())


def handlers(policy: Policy) -> list[Handler]:
    """Those of a policy, and one that gives what no rule is about the policy's default: a runtime's
    filter may notify more than the policy asks for."""
    made = policy.handlers()
    default = verdict_of(policy.settings.default, "no rule; default")

    def by_default(call: Call) -> Verdict:
        return default

    left = sorted(tables.all_names() - set(policy.calls))
    made.append(Handler(left, by_default, label="policy"))
    for handler in made:
        if handler.deadline is None:
            handler.deadline = policy.settings.deadline
    return made


def _options(policy: Policy | None) -> dict[str, Any]:
    """What a policy says of a container besides its rules."""
    if policy is None:
        return {"performing": {}}
    settings = policy.settings
    found: dict[str, Any] = {"performing": dict(settings.performing)}
    if settings.workers is not None:
        found["quotas"] = Quotas(workers=settings.workers)
    return found

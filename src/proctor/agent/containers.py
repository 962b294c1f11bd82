"""Containers that an agent serves, and by which policies: as these are when a container comes, and as they change later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from proctor.agent.agreeing import disagreements, makes_userns, profile_of
from proctor.agent.deciding import Handlers, container_options, policy_name
from proctor.agent.held import Held, Key, Shares, lasting, weight
from proctor.agent.kept import Keeps
from proctor.agent.owners import Named, is_trusted, owner_userns
from proctor.errors import ProctorError
from proctor.supervisor.container import Container
from proctor.supervisor.handlers import Handler
from proctor.words import quoted

if TYPE_CHECKING:
    from proctor.agent.facts import Facts
    from proctor.agent.keeping import Keeping
    from proctor.agent.policies import Book, Resolved
    from proctor.filter.rules import Filter
    from proctor.policy import Policy
    from proctor.supervisor.supervisor import Supervisor

#: Seconds between looks at the directory of policies.
_LOOK: Final = 1.0


class Containers(Keeps):
    """See the module.

    :param keeping: keeps what the next monitor needs.
    :param book: says which policy is whose.
    :param supervisor: has their listeners.
    :param handlers: of policies.
    :param tell: told what is worth a line, in a sentence.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        keeping: Keeping,
        book: Book,
        supervisor: Supervisor,
        handlers: Handlers,
        tell: Callable[[str], object],
    ) -> None:
        super().__init__(keeping, book)
        self.supervisor = supervisor
        self._loop = loop
        self._handlers = handlers
        self._tell = tell
        self._held: dict[Key, Held] = {}
        self._shares = Shares()
        self._looking: asyncio.TimerHandle | None = None

    @property
    def containers(self) -> list[Held]:
        """Those that are served, in the order in which they came."""
        return list(self._held.values())

    @property
    def in_flight(self) -> int:
        """How many calls were received, and wait for their answer or keep somebody busy."""
        return sum(self.supervisor.taken(each.container)[0] for each in self._held.values())

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

    # Policies -------------------------------------------------------------------------------

    def watch_policies(self) -> None:
        """Have the policies kept for the next monitor, and begin to look at their directory."""
        self._keep_texts()
        self._looking = self._loop.call_later(_LOOK, self._look)

    def stop_watching(self) -> None:
        """Look at policies no more; idempotent."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

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

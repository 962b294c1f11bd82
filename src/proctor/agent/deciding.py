"""How the containers of an agent are decided: handlers and options of a policy, and whom its rules ask."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from proctor.agent.doors.lxc_question import DEADLINE
from proctor.asking.asker import Asker
from proctor.call.verdict import deny
from proctor.policy.asking import Asks
from proctor.policy.handlers import build
from proctor.policy.policy import Policy
from proctor.policy.rules import ASK
from proctor.policy.settled import verdict_of
from proctor.supervisor.container import Quotas
from proctor.supervisor.handlers import Handler
from proctor.syscalls import tables

if TYPE_CHECKING:
    from proctor.agent.policies import Resolved
    from proctor.call.call import Call
    from proctor.call.ports import ContainerPort
    from proctor.call.verdict import Verdict

#: Every call that has a name.
ALL_CALLS: Final = sorted(tables.all_names())
#: Bytes of a file's name.
_LONGEST: Final = 200
#: Seconds that are left of a call's time when whoever was asked has had his.
_SPARE: Final = 2.0


def asks(directory: str | None, trouble: Callable[[str], object]) -> Asks:
    """Asks for the rules of an agent's policies.  At no terminal: an agent has none.

    :param directory: for answers that hold for longer than a call: of policy ``NAME`` in ``NAME.toml``,
        those of a container in ``containers/``, as long as there is one.
    """

    def file(whose: Policy | ContainerPort) -> str | None:
        if directory is None:
            return None
        if isinstance(whose, Policy):
            return os.path.join(directory, f"{policy_name(whose)}.toml")
        labels = whose.labels
        name = quote(f"{labels.get('door')}-{labels.get('uid')}-{whose.name}", safe="")
        return os.path.join(directory, "containers", f"{name[:_LONGEST]}.toml")

    return Asks(Asker(unattended=True, trouble=trouble), file)


class Alike(Handler):
    """A handler that says the same to every call.

    :param verdict: that."""

    __slots__ = ("_verdict",)

    def __init__(self, names: Iterable[str], verdict: Verdict, label: str) -> None:
        super().__init__(names, lambda call: verdict, label=label)
        self._verdict = verdict

    def constant(self, call: Call) -> Verdict:
        """See :class:`~proctor.supervisor.handlers.Handler`."""
        return self._verdict


def handlers(policy: Policy, asks: Asks, most: float | None = None) -> list[Handler]:
    """Those of a policy, and one that gives what no rule is about the policy's default: a runtime's
    filter may notify more than the policy asks for.

    :param most: seconds within which each has to decide.
    """
    made = build(policy, asks if most is None else asks.within(most - _SPARE))
    default = verdict_of(policy.settings.default, "no rule; default")
    left = sorted(tables.all_names() - set(policy.calls))
    made.append(Alike(left, default, "policy"))
    for handler in made:
        if handler.deadline is None:
            handler.deadline = policy.settings.deadline
        if most is not None:
            handler.deadline = min(handler.deadline or most, most)
    return made


def doubts(policy: Policy) -> list[str]:
    """Sentences about rules that mean something else under an agent."""
    asking = [each for each in policy.rules if each.ruling.kind == ASK]
    return [
        f'{policy.name}: rule "{rule.name}" asks at a terminal, which an agent has not: its default holds'
        for rule in asking
        if getattr(rule.ruling.options, "how", "") == "terminal" and not rule.implied
    ]


class Handlers:
    """Handlers of policies, made once for each and each kind of door.

    :param tell: told of a policy's doubts when its first container comes."""

    def __init__(self, asks: Asks, tell: Callable[[str], object]) -> None:
        self._asks = asks
        self._tell = tell
        self._made: dict[tuple[Policy, float | None], tuple[Handler, ...]] = {}
        #: Policies of whose doubts was told.
        self._doubted: set[Policy] = set()

    def first(self, resolved: Resolved, door: str) -> tuple[Handler, ...]:
        """Those of a container that has this policy from now on; without one all is refused."""
        policy = resolved.policy
        if policy is None:
            verdict = deny(errno.EPERM, resolved.why)
            return (Alike(ALL_CALLS, verdict, "no policy"),)
        if policy not in self._doubted:
            self._doubted.add(policy)
            for doubt in doubts(policy):
                self._tell(doubt)
        return self.of(policy, door)

    def of(self, policy: Policy, door: str) -> tuple[Handler, ...]:
        """Those of a policy."""
        most = DEADLINE if door == "lxc" else None
        known = self._made.get((policy, most))
        if known is None:
            known = self._made[policy, most] = tuple(handlers(policy, self._asks, most))
        return known

    def keep_only(self, policies: set[Policy | None]) -> None:
        """Forget all of others."""
        for key in [each for each in self._made if each[0] not in policies]:
            del self._made[key]
        self._doubted &= policies


def policy_name(policy: Policy | None) -> str:
    """A policy's, without directory and ending; "" if there is none."""
    return "" if policy is None else os.path.basename(policy.name).removesuffix(".toml")


@lru_cache(maxsize=64)
def container_options(policy: Policy | None) -> dict[str, Any]:
    """What a policy says of a container besides its rules."""
    if policy is None:
        return {"performing": {}, "quotas": Quotas(), "logging": None}
    settings = policy.settings
    return {
        "performing": dict(settings.performing),
        "quotas": settings.quotas() or Quotas(),
        "logging": settings.audit,
    }

"""One rule alone, as a handler: for those that are written in Python (:mod:`proctor.families`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from proctor.call.verdict import Perform, Verdict
from proctor.errors import PolicyError
from proctor.given import one
from proctor.performing import registry
from proctor.policy.compile import unfolded
from proctor.policy.document import Source, Spec
from proctor.policy.handlers import as_told, decided, unknowable
from proctor.policy.loader import clauses
from proctor.policy.look import Look, Unknowable
from proctor.policy.policy import Policy, Settings
from proctor.policy.rules import PERFORM, Rule, Ruling
from proctor.policy.rulings import options
from proctor.policy.settled import by_registers
from proctor.supervisor.handlers import Handler
from proctor.supervisor.ports import Seek
from proctor.syscalls.architectures import ARCHITECTURES, native
from proctor.syscalls.signatures import signature

if TYPE_CHECKING:
    from proctor.call.call import Call


def performed(name: str, family: str, when: Mapping[str, Spec], how: Mapping[str, Any]) -> Handler:
    """A handler that has the calls of a family performed where conditions hold, and leaves the others
    to the next one, also those that have no such argument.

    :raises PolicyError: a condition or option that cannot be.
    :raises TypeError: conditions that are none."""
    one("when", when, Mapping, "a mapping of arguments' names to what they are to be")
    for each in when:
        one("a name in when", each, str, "a text")
    source, arches = Source(name, ""), ARCHITECTURES[native()].family
    calls = _having(registry.calls(family), when, arches, source)
    ruling = Ruling(PERFORM, options=options(calls, how, (PERFORM,), source))
    rule = Rule(0, name, clauses(calls, when, arches, (), source), ruling, when=when)
    rules = (rule, *(each for arch in arches for each in unfolded(rule, calls, arch).values()))
    policy = Policy(name, rules, Settings(arches))

    def decide(call: Call) -> Verdict | Seek | None:
        always = policy.plan(call).always
        if always is not None:
            return always
        look = Look.of_callers(call)
        return as_told(look, lambda: decide_now(look))  # type: ignore[no-any-return]

    def decide_now(look: Look) -> Verdict | None:
        try:
            decision = policy.judge(look)
        except Unknowable as unknown:
            return unknowable(policy, look.call, unknown)
        return None if decision.rule is None else decided(policy, look, decision)

    names = dict.fromkeys(call for each in rules for _, call in each.clauses)
    handler = _Performed(tuple(names), decide, performs=True, label=name)
    handler.policy = policy
    return handler


class _Performed(Handler):
    __slots__ = ("policy",)

    policy: Policy

    def constant(self, call: Call) -> Perform | None:
        return self.policy.plan(call).always

    def by_registers(self, call: Call) -> tuple[bool, int]:
        """See there."""
        return by_registers(self.policy, call)


def _having(
    calls: Sequence[str], when: Mapping[str, Spec], arches: Sequence[str], source: Source
) -> Sequence[str]:
    """The calls that can meet the conditions.

    :raises PolicyError: none can: of the call that has the most of these arguments."""
    found, errors = [], []
    for call in calls:
        try:
            clauses((call,), when, arches, (), source)
            found.append(call)
        except PolicyError as error:
            known = signature(call, native())
            has = sum(known is not None and known.arg(key) is not None for key in when)
            errors.append((has, error))
    if not found:
        raise max(errors, key=lambda each: each[0])[1]
    return found

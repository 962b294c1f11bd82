"""One rule alone, as a handler: for those that are written in Python (:mod:`proctor.families`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proctor.call.verdict import Verdict, deny
from proctor.performing import registry
from proctor.policy.compile import unfolded
from proctor.policy.document import Source, Spec
from proctor.policy.handlers import decided
from proctor.policy.loader import clauses
from proctor.policy.policy import Policy, Settings
from proctor.policy.rules import PERFORM, Look, Rule, Ruling, Unknowable
from proctor.policy.rulings import options
from proctor.supervisor.handlers import Handler
from proctor.syscalls.architectures import ARCHITECTURES, native

if TYPE_CHECKING:
    from proctor.call.call import Call


def performed(name: str, family: str, when: Mapping[str, Spec], how: Mapping[str, Any]) -> Handler:
    """A handler that has the calls of a family performed where conditions hold, and leaves the others
    to the next one.

    :raises PolicyError: a condition or option that cannot be."""
    source, arches = Source(name, ""), ARCHITECTURES[native()].family
    calls = registry.calls(family)
    ruling = Ruling(PERFORM, options=options(calls, how, (PERFORM,), source))
    rule = Rule(0, name, clauses(calls, when, arches, (), source), ruling, when=when)
    rules = (rule, *(each for arch in arches for each in unfolded(rule, calls, arch).values()))
    policy = Policy(name, rules, Settings(arches))

    def decide(call: Call) -> Verdict | None:
        look = Look(call)
        try:
            decision = policy.judge(look)
        except Unknowable as unknown:
            return deny(unknown.errno or policy.settings.on_error, unknown.why)
        return None if decision.rule is None else decided(policy, look, decision)

    names = dict.fromkeys(call for each in rules for _, call in each.clauses)
    return Handler(tuple(names), decide, performs=True, label=name)

"""The filter of a policy: one filter rule for each alternative of each clause.

A clause that registers decide alone gets its ruling as action; one that needs memory, identity or
an action of ours notifies, and only for calls whose registers match.  Order is kept, so the first
rule that matches in the file is the first that matches in the filter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, Union

from proctor.errors import FilterError, PolicyError
from proctor.filter import actions
from proctor.filter.conditions import Alternative, Condition
from proctor.filter.rules import Filter
from proctor.filter.rules import Rule as FilterRule
from proctor.policy.rules import ALLOW, DENY, KILL, LOG, Ruling

if TYPE_CHECKING:
    from proctor.policy.policy import Policy


class _HasNames(Protocol):
    """A handler, as far as the filter needs it."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def conditions(self) -> tuple[Condition, ...]: ...


#: What ``extra_notify`` takes: a call or group name, or a handler.
Wanted = Union[str, _HasNames]


def action_of(ruling: Ruling) -> actions.Return:
    """What the filter says for a ruling that it can carry out alone."""
    if ruling.kind == DENY:
        return actions.errno(ruling.value)
    if ruling.kind == ALLOW:
        return actions.ALLOW
    if ruling.kind == LOG:
        return actions.LOG
    if ruling.kind == KILL:
        return actions.KILL_PROCESS
    return actions.errno(0)  # return = 0


def build(policy: Policy, extra_notify: Iterable[Wanted] = ()) -> Filter:
    """See :meth:`proctor.policy.policy.Policy.filter`."""
    rules: list[FilterRule] = []
    for rule in policy.rules:
        # Calls with the same tests share a filter rule, so that the filter stays readable.
        shared: dict[tuple[str, Alternative, bool], list[str]] = {}
        for (arch, call), clause in rule.clauses.items():
            for tests in clause.registers:
                key = (arch, tests, rule.in_filter(clause))
                shared.setdefault(key, []).append(call)
        for (arch, tests, in_filter), calls in shared.items():
            rules.append(
                FilterRule(
                    tuple(calls),
                    action_of(rule.ruling) if in_filter else actions.NOTIFY,
                    tuple(test.condition for test in tests),
                    label=rule.name,
                    arches=(arch,),
                )
            )
    for wanted in extra_notify:
        names = (wanted,) if isinstance(wanted, str) else wanted.names
        conditions = () if isinstance(wanted, str) else wanted.conditions
        rules.append(FilterRule(tuple(names), actions.NOTIFY, tuple(conditions), label="handler"))
    settings = policy.settings
    try:
        return Filter(
            rules,
            action_of(settings.default),
            settings.arches,
            action_of(settings.foreign_arch),
            action_of(settings.x32),
            strict=False,
        )
    except FilterError as error:
        raise PolicyError(f"{policy.name}: {error}") from None

"""The filter of a policy, and what its rules mean besides what they say.

One filter rule for each alternative of each clause.  A clause that registers decide alone gets its
ruling as action; one that needs memory, identity or an action of ours notifies, and only for calls
whose registers match.  Order is kept, so the first rule that matches in the file is the first that
matches in the filter.

Not written and yet meant (ordinary clauses of ordinary rules: filter, handlers and explanations see
them):

* Other names of a call on 32-bit architectures (:mod:`proctor.syscalls.variants`): a rule on the one
  name means the others too.
* Programs of i386, s390x and others may make ``connect`` as ``socketcall(3, …)``, with the arguments
  in memory where the filter cannot see them (:mod:`proctor.syscalls.multiplex`).  A rule without
  conditions covers that as well; for a rule with conditions such a call fails with ENOSYS, which is
  what libcs fall back from.
* A policy that performs refuses what would hold a program and not what is performed for it
  (:mod:`proctor.performing.untaken`): Landlock is not there, as on a kernel without it.
* An allow-list has the calls that no program makes by itself, and the end of a process
  (:data:`proctor.syscalls.special.UNASKED`).  Not execve: that is a right, and a policy without it is
  warned of (:mod:`proctor.policy.check`).
"""

from __future__ import annotations

import errno
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from proctor.errors import FilterError, PolicyError
from proctor.filter import actions
from proctor.filter.conditions import ALWAYS, Alternative, Alternatives, Condition, Test, either
from proctor.filter.rules import Filter
from proctor.filter.rules import Rule as FilterRule
from proctor.policy.rules import ALLOW, DENY, KILL, LOG, PERFORM, Clause, Rule, Ruling

if TYPE_CHECKING:
    from proctor.policy.policy import Policy
    from proctor.syscalls.multiplex import Member


class _HasNames(Protocol):
    """A handler, as far as the filter needs it."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def conditions(self) -> tuple[Condition, ...]: ...


#: What ``extra_notify`` takes: a call or group name, or a handler.
Wanted = str | _HasNames


def action_of(ruling: Ruling) -> actions.Action:
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


# What is meant without being said ---------------------------------------------------------------


def multiplexed(
    calls: Iterable[str], arch: str, but: Container[tuple[str, int]] = ()
) -> dict[str, Alternatives]:
    """By ``socketcall`` and ``ipc``: which first arguments stand for one of ``calls``.

    :param but: those that are left out, with the call that they are made through."""
    from proctor.syscalls import multiplex

    found: dict[str, list[Alternatives]] = {}
    for call in calls:
        for inner in multiplex.members(call, arch):
            if (inner.through, inner.number) not in but:
                found.setdefault(inner.through, []).append(((_first(inner),),))
    return {through: either(tests) for through, tests in found.items()}


def _first(inner: Member) -> Test:
    return Test(0, False, inner.number, inner.mask, False)


def unfolded(rule: Rule, calls: Iterable[str], arch: str) -> dict[Member, Rule]:
    """Of a rule that performs: those that it implies for multiplexed calls, each of which is performed as the
    call that it stands for.  Conditions on registers cannot be told of what is in memory; all others are
    asked as of the call itself."""
    from proctor.syscalls import multiplex

    made: dict[Member, Rule] = {}
    for member in [each for call in calls for each in multiplex.members(call, arch)]:
        meant = multiplex.meant("socketcall", member.number)
        own = multiplex.directly(meant, arch) if member.through == "socketcall" else None
        clause = rule.clauses.get((arch, own)) if own is not None else None
        if own is None or (clause is None and rule.when):
            continue
        further = clause.further if clause is not None else ()
        if (clause is not None and clause.registers != ALWAYS) or (further and own != meant):
            continue
        through = Clause(((_first(member),),), further)
        made[member] = rule._replace(clauses={(arch, member.through): through}, implied=True)
    return made


def with_multiplexed(rule: Rule, calls: Iterable[str], arches: Iterable[str]) -> list[Rule]:
    """The rule, and those that it implies for multiplexed calls if it has conditions or performs."""
    calls = list(calls)
    performed: list[Rule] = []
    clauses: dict[tuple[str, str], Clause] = {}
    for arch in arches:
        made = unfolded(rule, calls, arch) if rule.ruling.kind == PERFORM else {}
        performed += made.values()
        but = {(each.through, each.number) for each in made}
        for through, tests in multiplexed(calls, arch, but).items():
            if (arch, through) not in rule.clauses:
                clauses[arch, through] = Clause(tests)
    if not clauses:
        return [rule, *performed]
    if not rule.when and rule.ruling.kind != PERFORM:
        return [rule._replace(clauses={**rule.clauses, **clauses})]
    closed = rule._replace(clauses=clauses, ruling=Ruling(DENY, errno.ENOSYS), implied=True)
    return [rule, *performed, closed]


def unasked(rules: Sequence[Rule], arches: Iterable[str], default: Ruling) -> list[Rule]:
    """What an allow-list has of itself, as far as no rule is about it."""
    from proctor.syscalls import tables
    from proctor.syscalls.special import UNASKED

    named = {key for rule in rules for key in rule.clauses}
    clauses = {
        (arch, call): Clause(ALWAYS)
        for arch in arches
        for call in UNASKED
        if call != "execve" and call in tables.numbers(arch) and (arch, call) not in named
    }
    if default.runs or not clauses:
        return []
    return [Rule(len(rules), "made for programs", clauses, Ruling(ALLOW), implied=True)]


def untaken(rules: Sequence[Rule], arches: Iterable[str], default: Ruling) -> list[Rule]:
    """What a policy that performs refuses of itself, as far as no rule is about it."""
    from proctor.performing.untaken import UNTAKEN
    from proctor.syscalls import tables

    if not default.runs or not any(rule.performs for rule in rules):
        return []
    named = {key for rule in rules for key in rule.clauses}
    made: list[Rule] = []
    for each in UNTAKEN:
        clauses = {
            (arch, call): Clause(ALWAYS)
            for arch in arches
            for call in each.calls
            if call in tables.numbers(arch) and (arch, call) not in named
        }
        if clauses:
            ruling = Ruling(DENY, each.errno)
            place = len(rules) + len(made)
            made.append(Rule(place, f"{each.what} would not hold", clauses, ruling, implied=True))
    return made

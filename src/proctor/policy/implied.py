"""What a rule means on architectures that make the same call in other ways.

Programs of i386, s390x and others may make ``connect`` as ``socketcall(3, …)``, with the arguments in
memory where the filter cannot see them (:mod:`proctor.syscalls.multiplex`).  A rule without
conditions covers that as well; for a rule with conditions such a call fails with ENOSYS, which is
what libcs fall back from.  Both are ordinary clauses of ordinary rules afterwards: filter, handlers
and explanations see them, as they see those for other names of a call
(:mod:`proctor.syscalls.variants`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from proctor.filter.conditions import Alternatives, either
from proctor.policy.registers import Register, bits_equal
from proctor.policy.rules import DENY, Clause, Rule, Ruling


def multiplexed(calls: Iterable[str], arch: str) -> dict[str, Alternatives]:
    """By ``socketcall`` and ``ipc``: which first arguments stand for one of ``calls``."""
    from proctor.syscalls import multiplex

    found: dict[str, list[Alternatives]] = {}
    for call in calls:
        for inner in multiplex.members(call, arch):
            test = bits_equal(Register(0), inner.mask, inner.number)
            found.setdefault(inner.through, []).append(test)
    return {through: either(tests) for through, tests in found.items()}


def with_multiplexed(rule: Rule, calls: Iterable[str], arches: Iterable[str]) -> list[Rule]:
    """The rule, and the one it implies for multiplexed calls if it has conditions."""
    calls = list(calls)
    clauses = {
        (arch, through): Clause(tests)
        for arch in arches
        for through, tests in multiplexed(calls, arch).items()
        if (arch, through) not in rule.clauses
    }
    if not clauses:
        return [rule]
    if not rule.when and rule.ruling.kind != "perform":
        return [rule._replace(clauses={**rule.clauses, **clauses})]
    return [rule, rule._replace(clauses=clauses, ruling=Ruling(DENY, errno.ENOSYS), implied=True)]

"""Deadlines as a policy file writes them: seconds that make sense, and do not contradict each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from proctor.policy.rules import PERFORM, Clause, Rule
from proctor.policy.source import KeyPath, Source

if TYPE_CHECKING:
    from proctor.policy.schema import PolicyTable

#: Seconds; what is meant to be longer is meant to be none.
LONGEST: Final = 86400


def seconds(value: float | None, place: KeyPath, source: Source) -> float | None:
    """The value of a ``deadline`` key.

    :raises PolicyError: not a number of seconds above 0, up to a day.
    """
    if value is not None and not 0 < value <= LONGEST:  # what is no number (nan) fails here, too
        raise source.error(
            f"a deadline is in seconds, more than 0 and at most {LONGEST} (a day)", place
        )
    return value


def check_used(table: PolicyTable, source: Source) -> None:
    """Refuse an ``on_deadline`` that is never answered.

    :raises PolicyError: see above.
    """
    given = (table.deadline, *(rule.deadline for rule in table.rule))
    if table.on_deadline is not None and all(each is None for each in given):
        raise source.error(
            "nothing here has a deadline; write deadline = 10 (seconds) beside it", ("on_deadline",)
        )


def check_rules(rules: Iterable[Rule], source: Source) -> None:
    """Refuse deadlines that say nothing, and those that contradict each other.

    Which rule takes a call is known only when it is decided, and a deadline counts from the call's
    arrival: so it belongs to the call, and the rules about one call agree on it.

    :raises PolicyError: see above.
    """
    first: dict[str, Rule] = {}
    for rule in rules:
        if rule.deadline is None or rule.implied:
            continue
        place = ("rule", rule.position, "deadline")
        if not any(_takes_long(rule, clause) for clause in rule.clauses.values()):
            raise source.error(
                f'"{rule.name}" is decided at once; a deadline is for a rule that performs, or whose '
                "conditions are on a path, a string or an address",
                place,
            )
        for _, call in rule.clauses:
            other = first.setdefault(call, rule)
            if other.deadline != rule.deadline:
                raise source.error(
                    f'"{other.name}" (rule[{other.position}]) gives {call} {other.deadline:g} seconds '
                    f"and this one {rule.deadline:g}: which rule takes a call is known only when it is "
                    "decided, so rules about one call have one deadline",
                    place,
                )


def _takes_long(rule: Rule, clause: Clause) -> bool:
    return clause.reads_memory or rule.ruling.kind == PERFORM

"""Two profiles as one: what both allow, or what either does.

The order of actions is that proposed for container runtimes (opencontainers/runtime-spec#1317,
2026-06), most restrictive first: KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, NOTIFY, TRACE, LOG, ALLOW.  That is the
kernel's order, too: so an intersection does what both filters would, installed one after the other.

What runtimes do call by call we do for each set of registers: where a profile has conditions, both
profiles' first rules that hold are compared.  What such a file cannot say is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

from proctor.errors import FilterError
from proctor.filter import actions
from proctor.filter.actions import Action
from proctor.filter.profiles import exchange
from proctor.filter.profiles.profile import ARCH_WORDS, Profile
from proctor.filter.rules import Filter, Rule
from proctor.syscalls import multiplex

How = Literal["union", "intersect"]

#: A flag that takes something away from the process's safety; the others add to what is seen or held.
_LOOSENS: Final = "SECCOMP_FILTER_FLAG_SPEC_ALLOW"

_Said = list[tuple[Action, tuple[Any, ...]]]


def merged(one: Profile, other: Profile, how: How) -> Profile:
    """The profile that allows what both allow (``"intersect"``), or what either does (``"union"``).

    ::

        from proctor.filter.profiles import oci
        from proctor.filter.profiles.merge import merged

        one = oci.load({"defaultAction": "SCMP_ACT_ALLOW"})
        other = oci.load({"defaultAction": "SCMP_ACT_ERRNO"})
        assert merged(one, other, "intersect").default == other.default

    Of two errnos the first profile's stays.

    :raises FilterError: no such file can say that, in a sentence.
    """
    arches = tuple(arch for arch in one.arches if arch in other.arches)
    if how == "union" and set(one.arches) != set(other.arches):
        raise FilterError(
            f"one profile is for {', '.join(one.arches)} and the other for {', '.join(other.arches)}: "
            "no file can say what of one architecture alone is allowed; give both the same, a policy by its arches"
        )
    if not arches:
        raise FilterError("the profiles have no architecture in common")
    paths = {each.listener_path for each in (one, other)} - {""}
    told = {each.listener_metadata for each in (one, other)} - {""}
    if len(paths) > 1 or len(told) > 1:
        raise FilterError(
            f"the profiles send their listeners elsewhere: {' and '.join(sorted(paths | told))}"
        )
    default = _pick(one.default, other.default, how)
    filters = [each.filter() for each in (one, other)]
    entries: dict[tuple[tuple[Action, Any], ...], list[str]] = {}
    names = dict.fromkeys(str(n) for each in filters for rule in each.rules for n in rule.names)
    for name in names:
        rules = _rules(name, filters, how, default, arches)
        if rules:
            entries.setdefault(rules, []).append(name)
    notifies = default == actions.NOTIFY or any(
        action == actions.NOTIFY for rules in entries for action, _ in rules
    )
    return Profile(
        [Rule(tuple(calls), action, conditions) for rules, calls in entries.items() for action, conditions in rules],
        default,
        architectures=[ARCH_WORDS[arch] for arch in arches],
        flags=_flags(one, other, how),
        listener_path=next(iter(paths), "") if notifies else "",
        listener_metadata=next(iter(told), "") if notifies else "",
        native=arches[0],
    )  # fmt: skip


def _pick(one: Action, other: Action, how: How) -> Action:
    ranks = [actions.rank(each.value) for each in (one, other)]
    if ranks[0] == ranks[1]:
        return one
    return (one, other)[(ranks[0] > ranks[1]) == (how == "intersect")]


def _flags(one: Profile, other: Profile, how: How) -> Iterable[str]:
    found = dict.fromkeys((*one.flags, *other.flags))
    if how == "intersect" and not (_LOOSENS in one.flags and _LOOSENS in other.flags):
        found.pop(_LOOSENS, None)
    return found


def _rules(
    name: str, filters: list[Filter], how: How, default: Action, arches: tuple[str, ...]
) -> tuple[tuple[Action, Any], ...]:
    """Of one call, without an order."""
    one, other = filters
    have = tuple(arch for arch in arches if multiplex.callable_on(name, arch))
    if not have:
        return ()
    said = [_combined(_said(name, one, arch), _said(name, other, arch), how) for arch in have]
    if any(each != said[0] for each in said):
        raise FilterError(f"{name} would not mean the same on {' and '.join(have)}")
    try:
        made = [Rule((name,), action, conditions) for action, conditions in said[0]]
        kept = exchange.unordered(Filter(made, default, have, strict=False), "a profile")
        for rule in kept:
            exchange.no_repeated_argument(rule, "a profile")
    except FilterError as problem:
        raise FilterError(
            f"{name}: the profiles together cannot be written as one: {problem}"
        ) from None
    return tuple((rule.action, rule.conditions) for rule in kept)


def _said(name: str, source: Filter, arch: str) -> _Said:
    """What a filter says of a call, the first that holds decides."""
    found = [
        (rule.action, tuple(rule.conditions))
        for rule in source.rules
        if name in rule.names and (not rule.arches or arch in rule.arches)
    ]
    return [*found, (source.default, ())]


def _combined(one: _Said, other: _Said, how: How) -> _Said:
    """Both: in the order of the one and, within that, of the other, the first that holds has the first of
    each that does."""
    made: _Said = []
    for action, conditions in one:
        for another, more in other:
            both = tuple(dict.fromkeys((*conditions, *more)))
            if any(set(before) <= set(both) for _, before in made):
                continue  # those before it have all of it
            made.append((_pick(action, another, how), both))
    while len(made) > 1 and made[-2][0] == made[-1][0]:
        del made[-2]  # what comes then says the same
    return made

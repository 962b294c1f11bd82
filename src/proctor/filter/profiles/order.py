"""Rules without an order, as files for container runtimes hold them, put into one.

In OCI and LXC profiles rules have no order: libseccomp, which compiles them there, sorts them.  Held to
it by tests (2.5.4; what decides here is the same in 2.4.0 to 2.6.1, ``src/db.c`` ``_db_chain_lt``):

* A rule without conditions decides its call, wherever it stands; of several the first.
* A rule whose action is the default's is skipped by the runtimes (libseccomp refuses it).
* Of rules with one condition each, those on the argument with the highest number come first; on one
  argument ``==``, ``!=`` and masks before ``<`` and ``<=``, and these before ``>`` and ``>=``; among
  those, the one that fewest numbers fulfil.

Beyond that libseccomp's tree is no order that one could write down: it refuses rules, drops them,
lets one decide for numbers that it does not mean, or never comes to an end.  A profile with such
rules is refused in a sentence: :func:`ordered`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from proctor.errors import FilterError
from proctor.filter.conditions import FULL, Condition, Test, lower, possible, settled
from proctor.filter.rules import Rule
from proctor.syscalls import multiplex
from proctor.syscalls.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from proctor.filter.actions import Action

_M32: Final = 0xFFFFFFFF

#: Operators by when they are tried.
_GROUPS: Final = {"==": 0, "!=": 0, "&=": 0, "<": 1, "<=": 1, ">": 2, ">=": 2}
_ABOVE: Final = 2
#: Operators of which libseccomp makes one test for both, of which one wants the opposite.
_OPPOSITE: Final = {"<": ">=", ">=": "<", "<=": ">", ">": "<=", "==": "!=", "!=": "=="}


def ordered(rules: Iterable[Rule], default: Action, arches: Sequence[str]) -> tuple[Rule, ...]:
    """Rules without order as rules of which the first match decides.

    Conditions that are always or never true, refused in rules of our own, are worked out.

    :param arches: what the profile is for.
    :raises FilterError: rules of one call overlap in a way that runtimes do not decide by what is
        written.
    """
    outermost: list[Rule] = []
    certain: list[Rule] = []
    conditional: list[Rule] = []
    for rule in _cut(rules, arches):
        if rule.action == default:
            continue
        # A mask of no bits is no condition to libseccomp; others that always hold are.
        conditions = tuple(c for c in rule.conditions if c.op != "&=" or c.mask)
        if conditions:
            conditional.append(rule._replace(conditions=conditions))
            continue
        # A rule on socketcall itself decides before those on the calls within it.
        outer = tuple(name for name in rule.names if name in multiplex.MASKS)
        inner = tuple(name for name in rule.names if name not in multiplex.MASKS)
        if outer:
            outermost.append(rule._replace(names=outer, conditions=()))
        if inner:
            certain.append(rule._replace(names=inner, conditions=()))
    for arch in arches:
        by_call: dict[str, list[Rule]] = {}
        for rule in conditional:
            for name in rule.names if not rule.arches or arch in rule.arches else ():
                by_call.setdefault(str(name), []).append(rule)
        for rule in (*outermost, *certain):
            for name in rule.names if not rule.arches or arch in rule.arches else ():
                by_call.pop(str(name), None)
        for call, some in by_call.items():
            if len(some) > 1:
                _check(call, some)
    conditional.sort(key=_place)
    return (*outermost, *certain, *(_worked_out(rule) for rule in conditional if _may_hold(rule)))


def _cut(rules: Iterable[Rule], arches: Sequence[str]) -> Iterator[Rule]:
    """Rules whose numbers have more bits than the registers of some architectures, for those in
    the lower 32 bits: libseccomp drops the others there."""
    narrow = tuple(arch for arch in arches if ARCHITECTURES[arch].bits == 32)
    wide = tuple(arch for arch in arches if arch not in narrow)
    for rule in rules:
        if all(c.value <= _M32 and (c.mask <= _M32 or c.op != "&=") for c in rule.conditions):
            yield rule
            continue
        for some, bits in ((wide, FULL), (narrow, _M32)):
            those = tuple(arch for arch in some if not rule.arches or arch in rule.arches)
            cut = (
                c._replace(value=c.value & bits, mask=c.mask & bits if c.op == "&=" else FULL)
                for c in rule.conditions
            )
            have = tuple(
                name
                for name in rule.names
                if any(multiplex.callable_on(str(name), arch) for arch in those)
            )
            if have:
                yield rule._replace(names=have, conditions=tuple(cut), arches=those)


def _place(rule: Rule) -> tuple[int, int, int]:
    """Where a rule comes, as a key to sort by."""
    if len(rule.conditions) > 1:
        return 1, 0, 0  # it overlaps with no other that differs: anywhere
    ((arg, op, value, _),) = rule.conditions
    assert isinstance(arg, int)
    return -arg, _GROUPS[op], value if op in ("<", "<=") else -value


def _may_hold(rule: Rule) -> bool:
    return all(settled(condition) is not False for condition in rule.conditions)


def _worked_out(rule: Rule) -> Rule:
    return rule._replace(conditions=tuple(c for c in rule.conditions if settled(c) is None))


def _check(call: str, rules: Sequence[Rule]) -> None:
    """Refuse rules of one call that libseccomp does not decide by what is written."""
    for rule in rules:
        # What comes behind such a condition hangs in two places of libseccomp's tree, and what
        # another rule adds in one of them is then found in both.
        if any(c.op not in ("==", "&=") for c in sorted(rule.conditions)[:-1]):
            raise FilterError(
                f"{rule.label or rule}: on {call} there are other rules, and libseccomp mixes them up with one "
                "that asks more after an argument that need not be equal to something; put "
                "that condition on its last argument"
            )
    for one, other in combinations(rules, 2):
        for (before, c), (other_before, d) in product(_steps(one), _steps(other)):
            # The longer of two such rules is dropped, unless it stands first and they differ.
            kept = len(before) > len(other_before) and one.action != other.action
            opposite = (c.arg, c.value, _OPPOSITE.get(c.op)) == (d.arg, d.value, d.op)
            if opposite and before != other_before and not kept:
                raise _refusal(call, one, other, "a condition and its opposite")
    orderings = [(c, rule) for rule in rules for c in rule.conditions if _GROUPS[c.op]]
    for (c, one), (other_c, other) in combinations(orderings, 2):
        if c.arg == other_c.arg and c.value >> 32 != other_c.value >> 32:
            raise _refusal(call, one, other, "comparisons with numbers whose upper halves differ")
    contested: dict[int | str, tuple[Rule, Rule]] = {}
    for one, other in combinations(rules, 2):
        if one.action == other.action:
            continue
        if one.conditions == other.conditions:
            raise _refusal(call, one, other, "the same conditions")
        if not _overlap(one, other):
            continue
        if len(one.conditions) > 1 or len(other.conditions) > 1:
            raise _refusal(call, one, other, "several conditions")
        first, second = one.conditions[0], other.conditions[0]
        groups = _GROUPS[first.op], _GROUPS[second.op]
        if first.arg == second.arg and groups == (0, 0) and {first.op, second.op} != {"==", "!="}:
            raise _refusal(call, one, other, "masks or inequalities")
        if any(groups):
            contested.update({first.arg: (one, other), second.arg: (one, other)})
    for arg, pair in contested.items():
        _check_orderings(call, [(c, rule) for c, rule in orderings if c.arg == arg], pair)


def _check_orderings(
    call: str, orderings: Sequence[tuple[Condition, Rule]], pair: tuple[Rule, Rule]
) -> None:
    """Refuse orderings of one argument, of which ``pair`` differ, that are no order together."""
    tried = {(c.op, c.value) for c, _ in orderings}
    if any((_OPPOSITE.get(op), value) in tried for op, value in tried):
        raise _refusal(call, *pair, "a condition and its opposite")
    if any(c.value >> 32 for c, _ in orderings):
        raise _refusal(call, *pair, "comparisons with numbers of more than 32 bits")
    # What libseccomp says of numbers of more than 32 bits, all of which are above these: what the
    # first rule says, or the last whose number is above that of the first ordering of all.
    alone = [(c, rule.action) for c, rule in orderings if len(rule.conditions) == 1]
    above = [(c.value, action) for c, action in alone if _GROUPS[c.op] == _ABOVE]
    said = [action for value, action in above[1:] if value > alone[0][0].value]
    if above and (said or [above[0][1]])[-1] != max(above, key=itemgetter(0))[1]:
        raise _refusal(call, *pair, "comparisons in another order than their numbers")


def _steps(rule: Rule) -> Iterator[tuple[list[Condition], Condition]]:
    """Each condition with those that libseccomp tries before it."""
    conditions = sorted(rule.conditions)
    for at, condition in enumerate(conditions):
        yield conditions[:at], condition


def _overlap(one: Rule, other: Rule) -> bool:
    return _may_hold(one) and _may_hold(other) and possible(_tests(one) + _tests(other))


def _tests(rule: Rule) -> tuple[Test, ...]:
    conditions = _worked_out(rule).conditions
    return tuple(lower(c, c.arg, 64) for c in conditions if isinstance(c.arg, int))


def _refusal(call: str, one: Rule, other: Rule, what: str) -> FilterError:
    return FilterError(
        f"{one.label or one} and {other.label or other} on {call}: libseccomp, by which runtimes decide, has no order "
        f"for rules with {what}; make their conditions exclude each other"
    )

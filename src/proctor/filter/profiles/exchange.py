"""What our rules and other people's profiles have to agree on: order.

In the files container runtimes read (OCI, LXC) rules have no order: libseccomp, which compiles
them there, makes a tree of them.  What it does, measured with 2.5.4, and what we make of it:

* What overlaps is decided by libseccomp's own order, not the file's: reading,
  :mod:`proctor.filter.profiles.order` does the same or refuses it; writing, :func:`unordered`
  refuses rules whose meaning depends on their order.
* Two conditions on one argument of one rule are refused by libseccomp.  What the runtimes do
  about that differs; see the modules for each format.
* An architecture that is not listed, and x32 if it is not, gets libseccomp's "bad architecture"
  action: the thread is killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from proctor.errors import FilterError
from proctor.filter.conditions import FULL, Condition, possible
from proctor.filter.profiles.order import ordered
from proctor.filter.rules import Clause, Filter, Rule, expand, locate, multiplexed, narrow_tests
from proctor.syscalls import multiplex, tables
from proctor.syscalls.architectures import ARCHITECTURES, canonical
from proctor.words import quoted

#: Most bytes of a file that is a profile: a container's whole config.json fits.
MAX_BYTES: Final = 16 << 20
#: libseccomp's words for operators, used in OCI and LXC files alike.
OPERATORS: Final[dict[str, str]] = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_MASKED_EQ": "&=",
}
OPERATOR_WORDS: Final = {op: word for word, op in OPERATORS.items()}


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file.

    :raises FilterError: it cannot be read, or has more than :data:`MAX_BYTES`.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FilterError(f"{_shown(path)}: {error.strerror}") from None
    except ValueError as error:  # a NUL, or what no file name can be encoded from
        raise FilterError(f"{_shown(path)} is no path: {error}") from None
    if len(data) > MAX_BYTES:
        raise FilterError(f"{_shown(path)}: larger than {MAX_BYTES} bytes; that is no profile")
    return data


def _shown(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name if name and name.isprintable() else quoted(name)


def known(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``names`` parted into calls some architecture has, and others.

    Runtimes ignore names they do not know: profiles are written for newer kernels than one has.
    """
    have: list[str] = []
    unknown: list[str] = []
    for name in names:
        (have if tables.exists(name) else unknown).append(name)
    return tuple(have), tuple(unknown)


def unordered(source: Filter, what: str) -> list[Rule]:
    """The filter's rules as a file without order can hold them.

    Groups are spelled out, arguments are indexes, rules that only repeat the default are gone.

    :param what: the format, for messages.
    :raises FilterError: something has no place in such a file, and what to change.
    """
    _check_order(source, what)
    result: list[Rule] = []
    for index, rule in enumerate(source.rules):
        try:
            if rule.action != source.default:
                result += _spelled_out(source, index, rule)
        except FilterError as error:
            raise FilterError(f"rule {index} in {what}: {error}") from None
    try:
        ordered(result, source.default, source.arches)  # refuses what libseccomp would make of them
    except FilterError:
        # of two that it mixes up the longer one is kept where it stands first; and order says nothing of what we mean
        result.sort(key=lambda rule: -len(rule.conditions))
        ordered(result, source.default, source.arches)
    return result


def _spelled_out(source: Filter, index: int, rule: Rule) -> list[Rule]:
    """One rule by names and indexes: several if its arguments are at different places."""
    arches = tuple(
        arch for arch in source.arches if not rule.arches or arch in map(canonical, rule.arches)
    )
    if not arches:
        return []
    restricted = () if arches == source.arches else arches
    alike: dict[tuple[Condition, ...], list[str | int]] = {}
    for name, from_group in expand(rule.names):
        if not isinstance(name, str):
            raise FilterError(f"call number {name} has no name to write")
        for arch in arches:
            large = any(condition.value > 0xFFFFFFFF for condition in rule.conditions)
            if large and ARCHITECTURES[arch].bits == 32 and name in tables.numbers(arch):
                raise FilterError(
                    f"{rule}: {arch} has 32 bits in a register, and of such numbers runtimes compare the "
                    "lower half there; write a profile for the other architectures alone"
                )
        if not _decides(source, index, rule, name, arches):
            continue
        places = set()
        for arch in arches:
            if name in tables.numbers(arch):
                try:
                    places.add(tuple(_by_index(c, name, arch) for c in rule.conditions))
                except FilterError:
                    if not from_group:
                        raise
        if len(places) > 1:
            raise FilterError(
                f"{name} takes these arguments differently on {' and '.join(arches)}: "
                "write a rule for each, with arches="
            )
        if not places and not rule.conditions:
            places.add(())  # only within socketcall or ipc
        for conditions in places:
            alike.setdefault(conditions, []).append(name)
    return [
        Rule(tuple(names), rule.action, conditions, rule.label, restricted)
        for conditions, names in alike.items()
    ]


def _decides(source: Filter, index: int, rule: Rule, name: str, arches: tuple[str, ...]) -> bool:
    """Whether a rule ever decides call ``name``; earlier rules may have settled it.

    :raises FilterError: here it does and there it does not.
    """
    truths = set()
    for arch in arches:
        bodies = source.bodies()[arch]
        raw = all(isinstance(condition.arg, int) for condition in rule.conditions)
        if ARCHITECTURES[arch].bits == 32 and raw and narrow_tests(rule) is None:
            continue  # no 32-bit register can meet it: whoever reads the file finds that as well
        if name in tables.numbers(arch):
            truths.add(any(c.rule == index for c in bodies.get(tables.number(name, arch), ())))
        inner = None if rule.conditions else multiplex.member(name, arch)
        if inner is not None:
            test = multiplexed(inner)
            clauses = bodies.get(tables.number(inner.through, arch), [])
            truths.add(any(c.rule == index and c.tests == (test,) for c in clauses))
    if len(truths) > 1:
        raise FilterError(
            f"an earlier rule settles {name} on one architecture (or within socketcall "
            "or ipc) and not on another, and without an order that cannot be said"
        )
    return True in truths


def _by_index(condition: Condition, call: str, arch: str) -> Condition:
    """The condition on a register's index, with its mask spelled out."""
    index, bits = locate(condition.arg, call, arch)
    if isinstance(condition.arg, int):
        bits = 64  # readers of these files cut it to the architecture's width, as we do
    width = (1 << bits) - 1
    mask = condition.mask & width
    value = condition.value & width if condition.value < 0 else condition.value
    op = "==" if condition.op == "&=" else condition.op
    if mask == FULL:
        return Condition(index, op, value)
    if op != "==":
        raise FilterError(
            f"{condition} looks at a part of the register, and these files can do that with "
            "equality only; where the whole register will do, give the argument's index"
        )
    return Condition(index, "&=", value, mask)


def _check_order(source: Filter, what: str) -> None:
    """Refuse rules whose meaning depends on their order."""
    for arch, bodies in source.bodies().items():
        for nr, clauses in bodies.items():
            *conditional, last = clauses
            if last.tests:
                conditional = clauses
            elif all(clause.action == last.action for clause in conditional):
                continue
            elif last.action != source.default:
                raise FilterError(
                    f"rule {last.rule} is the last word on {tables.name(nr, arch) or nr} "
                    f"after rules with conditions, and in {what} a rule without conditions always "
                    "comes first: give it the opposite conditions"
                )
            _check_exclusive(conditional, nr, arch, what)


def _check_exclusive(clauses: list[Clause], nr: int, arch: str, what: str) -> None:
    for position, one in enumerate(clauses):
        for other in clauses[position + 1 :]:
            if one.action != other.action and possible(one.tests + other.tests):
                raise FilterError(
                    f"rule {one.rule} and rule {other.rule} may both match one "
                    f"{tables.name(nr, arch) or nr} and differ; {what} has no order of rules: "
                    "make their conditions exclude each other"
                )


def no_repeated_argument(rule: Rule, what: str) -> None:
    """Refuse two conditions on one argument, which libseccomp cannot have in one rule."""
    indexes = [condition.arg for condition in rule.conditions]
    if len(set(indexes)) < len(indexes):
        raise FilterError(
            f"{rule}: several conditions on one argument have no place in a rule of {what}; "
            "use one mask, or several rules"
        )

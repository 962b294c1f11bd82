"""Rules of a profile that overlap: as libseccomp decides, or refused in a sentence.

What differs in libseccomp before 2.6.1 (GHSA-4q85-33p6-j5g6: orderings of large numbers) is refused.
"""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace
from typing import Any

import pytest

from proctor.errors import FilterError
from proctor.filter.actions import ALLOW, KILL_THREAD, decoded, errno
from proctor.filter.conditions import FULL, Condition
from proctor.filter.interpreter import Machine
from proctor.filter.profiles import lxc, oci
from proctor.filter.profiles.exchange import unordered
from proctor.filter.profiles.oci import Profile
from proctor.filter.rules import Filter, Rule
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from tests.filter.conftest import Export

OPERATORS = ("EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ")
SMALL = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
LARGE = (*SMALL, 0xFFFFFFFF, 1 << 32, (1 << 32) + 5, (2 << 32) + 3, FULL)
MASKS = (1, 2, 3, 4, 7, 8, 0xF, 0x10)


def profile(*rules: tuple[int, list[tuple[Any, ...]]], arch: str = "x86_64") -> Profile:
    """personality(2) fails with a rule's number where its conditions hold."""
    return oci.load(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {
                    "names": ["personality"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": number,
                    "args": [
                        {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": two}
                        for index, op, value, two in (c if len(c) == 4 else (*c, 0) for c in args)
                    ],
                }
                for number, args in rules
            ],
        },
        arch=arch,
    )


def said(source: Profile, *args: int) -> int:
    arch = source.native
    number, audit = tables.number("personality", arch), ARCHITECTURES[arch].audit
    verdict = decoded(
        source.filter().compile().run(number, audit, (*args, *(0,) * (6 - len(args))))
    )
    return verdict.data


# By example ----------------------------------------------------------------------------------------


def test_of_orderings_the_narrowest_decides() -> None:
    above = profile((5, [(0, "GT", 128)]), (6, [(0, "GT", 256)]), (7, [(0, "GT", 512)]))
    assert [said(above, value) for value in (64, 129, 257, 513, 1 << 40)] == [0, 5, 6, 7, 7]
    below = profile((5, [(0, "LT", 512)]), (6, [(0, "LE", 256)]), (7, [(0, "LT", 128)]))
    assert [said(below, value) for value in (513, 511, 256, 127)] == [0, 5, 6, 7]


def test_equalities_come_before_orderings_and_later_arguments_before_earlier() -> None:
    mixed = profile((1, [(0, "GE", 3)]), (2, [(0, "LT", 9)]), (3, [(0, "EQ", 4)]))
    assert [said(mixed, value) for value in (4, 5, 9)] == [3, 2, 1]
    several = profile((1, [(0, "EQ", 1)]), (2, [(1, "GT", 1)]))
    assert said(several, 1, 2) == 2
    assert said(several, 1, 1) == 1


def test_rules_that_agree_or_exclude_each_other_are_no_matter_of_order() -> None:
    podman = profile((22, [(0, "EQ", 16), (2, "EQ", 9)]), (1, [(2, "NE", 9)]), (1, [(0, "NE", 16)]))
    assert [said(podman, *args) for args in ((16, 0, 9), (16, 0, 8), (2, 0, 9))] == [22, 1, 1]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([(1, [(0, "EQ", 3)]), (2, [(0, "EQ", 3)])], "no order for rules with the same conditions"),
        ([(1, [(0, "NE", 3)]), (2, [(0, "NE", 4)])], "with masks or inequalities"),
        ([(1, [(0, "MASKED_EQ", 7, 1)]), (2, [(0, "EQ", 9)])], "with masks or inequalities"),
        ([(1, [(0, "EQ", 3), (1, "EQ", 1)]), (2, [(0, "EQ", 3)])], "with several conditions"),
        ([(1, [(0, "GT", 1 << 33)]), (2, [(0, "GT", 3)])], "whose upper halves differ"),
        ([(1, [(0, "GT", 1 << 33)]), (2, [(0, "LT", 9 << 30)])], "of more than 32 bits"),
        ([(1, [(0, "LT", 5)]), (2, [(0, "GE", 5)]), (1, [(0, "GE", 3)])], "and its opposite"),
        ([(1, [(1, "EQ", 6)]), (1, [(0, "EQ", 5), (1, "NE", 6)])], "and its opposite"),
        (
            [(2, [(0, "GE", 0)]), (1, [(0, "GT", 5)]), (2, [(0, "GT", 3)])],
            "another order than their numbers",
        ),
        ([(1, [(0, "GT", 7), (1, "EQ", 1)]), (1, [(0, "GT", 2)])], "on its last argument"),
    ],
)
def test_what_libseccomp_has_no_order_for_is_refused(
    rules: list[tuple[int, list[tuple[Any, ...]]]], message: str
) -> None:
    with pytest.raises(FilterError, match=message) as refused:
        profile(*rules).filter()
    assert "syscalls[0]" in str(refused.value) or "syscalls[1]" in str(refused.value)
    assert "personality" in str(refused.value)


def test_an_lxc_profile_is_held_to_the_same_order() -> None:
    text = "2\nallowlist allow\npersonality errno {} [0,{},SCMP_CMP_GT]\npersonality errno 6 [0,8,SCMP_CMP_GT]\n"
    source = lxc.load(text.format(5, 4), arch="x86_64")
    run = source.compile().run
    assert [decoded(run(135, 0xC000003E, (value,) + (0,) * 5)).data for value in (4, 5, 9)] == [
        0,
        5,
        6,
    ]
    with pytest.raises(FilterError, match="line 3 and line 4"):
        lxc.load(text.format(5, 8), arch="x86_64")
    apart = "2\nallowlist allow\n[x86]\npersonality errno 1\n[x86_64]\npersonality errno 2\n"
    assert lxc.load(apart, arch="x86_64").compile().run(135, 0xC000003E) == 0x50002


def test_numbers_of_more_bits_than_registers_are_cut_there() -> None:
    rule = (3, [(0, "EQ", (1 << 32) + 5)])
    assert said(profile(rule, arch="i386"), 5) == 3
    assert said(profile(rule), 5) == 0
    both = profile(rule)
    both.architectures = ("SCMP_ARCH_X86",)
    run = both.filter().compile().run
    assert run(136, 0x40000003, (5, 0, 0, 0, 0, 0)) == 0x50003
    assert run(135, 0xC000003E, (5, 0, 0, 0, 0, 0)) == 0x7FFF0000


# By libseccomp -------------------------------------------------------------------------------------


def _condition(chance: random.Random, index: int, values: tuple[int, ...]) -> tuple[Any, ...]:
    op = chance.choice(OPERATORS)
    if op != "MASKED_EQ":
        return index, op, chance.choice(values)
    mask = chance.choice(MASKS)
    return index, op, mask, chance.choice(SMALL) & mask


def _rules(chance: random.Random) -> list[tuple[int, list[tuple[Any, ...]]]]:
    values = chance.choice((SMALL, SMALL, LARGE, (1, 2, 3)))
    arguments = chance.choice((1, 1, 1, 2, 3))
    most = chance.choice((1, 1, 2, 3))
    numbers = chance.choice((2, 3, 5))
    return [
        (
            chance.randint(1, numbers),
            [
                _condition(chance, index, values)
                for index in chance.sample(
                    range(arguments), min(chance.randint(1, most), arguments)
                )
            ],
        )
        for _ in range(chance.randint(2, 5))
    ]


def _near(rules: list[tuple[int, list[tuple[Any, ...]]]], chance: random.Random) -> list[Any]:
    pools = [{0, 9, 1 << 33, FULL} for _ in range(3)]
    for _, conditions in rules:
        for index, _, *numbers in conditions:
            for number in numbers:
                pools[index].update((number + far) & FULL for far in (-1, 0, 1, 7, 1 << 32))
    points = list(itertools.product(*map(sorted, pools)))
    return chance.sample(points, min(len(points), 80))


@pytest.mark.parametrize("places", [*itertools.permutations(range(3))])
def test_the_longer_of_two_that_libseccomp_mixes_up_is_written_first(
    libseccomp: Export, places: tuple[int, ...]
) -> None:
    """As docker's default profile has it of audit sockets: these exclude each other, so that their order is ours to choose."""
    rules = (
        Rule(("personality",), errno(22), (Condition(0, "==", 16), Condition(2, "==", 9))),
        Rule(("personality",), ALLOW, (Condition(2, "!=", 9),)),
        Rule(("personality",), ALLOW, (Condition(0, "!=", 16),)),
    )
    source = Filter([rules[place] for place in places], errno(38), ("x86_64",))
    written = unordered(source, "a profile")
    assert sorted(written) == sorted(source.rules)
    carrier = SimpleNamespace(
        default=source.default, foreign=KILL_THREAD, arches=("x86_64",), rules=written
    )
    run, theirs = source.compile().run, Machine(libseccomp(carrier)).run
    number, audit = tables.number("personality", "x86_64"), ARCHITECTURES["x86_64"].audit
    for first, third in itertools.product((15, 16, 17), (8, 9, 10)):
        args = (first, 0, third, 0, 0, 0)
        assert run(number, audit, args) == theirs(number, audit, args), args


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("seed", range(3))
def test_random_rules_are_decided_as_by_libseccomp_or_refused(
    libseccomp: Export, arch: str, seed: int
) -> None:
    chance = random.Random(f"{arch}{seed}")
    number, audit = tables.number("personality", arch), ARCHITECTURES[arch].audit
    bits = (1 << ARCHITECTURES[arch].bits) - 1
    decided = contested = 0
    for _ in range(1000):
        rules = _rules(chance)
        made = profile(*rules, arch=arch)
        try:
            ours = made.filter()
        except FilterError:
            continue
        decided += 1
        carrier = SimpleNamespace(
            default=made.default, foreign=KILL_THREAD, arches=(arch,), rules=made.entries
        )
        run, theirs = ours.compile().run, Machine(libseccomp(carrier)).run
        for point in _near(rules, chance):
            args = (*(value & bits for value in point), 0, 0, 0)
            verdict = run(number, audit, args)
            assert verdict == theirs(number, audit, args), (rules, args)
            matching = sum(
                all(c.holds(args[int(c.arg)], ARCHITECTURES[arch].bits) for c in entry.conditions)
                for entry in made.entries
            )
            contested += matching > 1
    assert decided > 300
    assert contested > 3000

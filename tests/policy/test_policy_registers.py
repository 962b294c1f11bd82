"""Comparisons of arguments: what they mean on registers."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctor.filter.conditions import hold
from proctor.policy.numbers import OutOfRange, compare
from proctor.syscalls.signatures import Arg

OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
RAW = st.integers(0, (1 << 64) - 1)


def argument(number: int, bits: int = 64, signed: bool = False) -> Arg:
    return Arg("x", "int", None, bits, signed, False, number)


def value_of(register: Arg, raw: int) -> int:
    """The argument as the kernel reads it."""
    value = raw & register.mask
    if register.signed and value >> (register.bits - 1):
        value -= 1 << register.bits
    return value


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[Arg, str, int]:
    register = argument(0, draw(st.sampled_from([16, 32, 64])), draw(st.booleans()))
    low = -(1 << (register.bits - 1)) if register.signed else 0
    high = register.mask >> register.signed
    number = draw(st.one_of(st.integers(low, high), st.sampled_from([low, high, 0, 1, high // 2])))
    return register, draw(st.sampled_from(sorted(OPERATORS))), number


@settings(max_examples=500, deadline=None)
@given(comparisons(), RAW, st.integers(-2, 2))
def test_a_comparison_means_what_it_says(
    comparison: tuple[Arg, str, int], garbage: int, near: int
) -> None:
    register, op, number = comparison
    tests = compare(register, op, number)
    for raw in (garbage, (number + near) & register.mask | garbage & ~register.mask):
        expected = OPERATORS[op](value_of(register, raw), number)
        assert hold(tests, (raw, 0, 0, 0, 0, 0)) == expected


@pytest.mark.parametrize(
    ("register", "op", "number"),
    [
        (argument(0, 32), "==", 1 << 32),
        (argument(0, 32), "<", -1),
        (argument(0, 32, True), "<", 1 << 31),
        (argument(0, 16), ">", 65536),
        (argument(0, 64), "==", 1 << 64),
    ],
)
def test_a_number_that_no_value_has_is_out_of_range(register: Arg, op: str, number: int) -> None:
    with pytest.raises(OutOfRange):
        compare(register, op, number)


def test_a_bit_beyond_the_width_does_not_walk_around_a_condition() -> None:
    tests = compare(argument(2, 32), "==", 0x803)
    assert hold(tests, (0, 0, 0x803 | 1 << 40, 0, 0, 0))

"""Conditions on registers: what they mean, and that simplifications are sound."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctor.policy import registers
from proctor.policy.registers import Comparison, OutOfRange, Register

OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
RAW = st.integers(0, (1 << 64) - 1)


def value_of(register: Register, raw: int) -> int:
    """The argument as the kernel reads it."""
    value = raw & register.mask
    if register.signed and value >> (register.bits - 1):
        value -= 1 << register.bits
    return value


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[Register, str, int]:
    register = Register(0, draw(st.sampled_from([16, 32, 64])), draw(st.booleans()))
    low = -(1 << (register.bits - 1)) if register.signed else 0
    high = register.mask >> register.signed
    number = draw(st.one_of(st.integers(low, high), st.sampled_from([low, high, 0, 1, high // 2])))
    return register, draw(st.sampled_from(sorted(OPERATORS))), number


@settings(max_examples=500, deadline=None)
@given(comparisons(), RAW, st.integers(-2, 2))
def test_a_comparison_means_what_it_says(
    comparison: tuple[Register, str, int], garbage: int, near: int
) -> None:
    register, op, number = comparison
    tests = registers.compare(register, op, number)
    for raw in (garbage, (number + near) & register.mask | garbage & ~register.mask):
        expected = OPERATORS[op](value_of(register, raw), number)
        assert registers.hold(tests, (raw, 0, 0, 0, 0, 0)) == expected


@pytest.mark.parametrize(
    ("register", "op", "number"),
    [
        (Register(0, 32), "==", 1 << 32),
        (Register(0, 32), "<", -1),
        (Register(0, 32, True), "<", 1 << 31),
        (Register(0, 16), ">", 65536),
        (Register(0, 64), "==", 1 << 64),
    ],
)
def test_a_number_that_no_value_has_is_out_of_range(
    register: Register, op: str, number: int
) -> None:
    with pytest.raises(OutOfRange):
        registers.compare(register, op, number)


def test_a_bit_beyond_the_width_does_not_walk_around_a_condition() -> None:
    tests = registers.compare(Register(2, 32), "==", 0x803)
    assert registers.hold(tests, (0, 0, 0x803 | 1 << 40, 0, 0, 0))


# Three-bit registers, so that everything can be enumerated.
SMALL = st.builds(
    Comparison,
    st.integers(0, 1),
    st.sampled_from(["==", "!=", "<=", ">="]),
    st.integers(0, 7),
    st.just(7),
) | st.builds(
    lambda number, mask, value: Comparison(number, "==", value & mask, mask),
    st.integers(0, 1),
    st.integers(1, 7),
    st.integers(0, 7),
)
EVERY = [(a, b, 0, 0, 0, 0) for a in range(8) for b in range(8)]


@settings(max_examples=500, deadline=None)
@given(st.lists(SMALL, max_size=5), SMALL)
def test_possible_and_implies_are_never_wrong(tests: list[Comparison], wanted: Comparison) -> None:
    chosen = tuple(tests)
    meant = [r for r in EVERY if all(test.holds(r) for test in chosen)]
    if not registers.possible(chosen):
        assert not meant
    if registers.implies(chosen, wanted):
        assert all(wanted.holds(r) for r in meant)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(SMALL, max_size=3).map(tuple), max_size=4).map(tuple),
    st.lists(st.lists(SMALL, max_size=3).map(tuple), max_size=4).map(tuple),
)
def test_both_and_either(first: registers.Alternatives, second: registers.Alternatives) -> None:
    both, either = registers.both(first, second), registers.either([first, second])
    for r in EVERY:
        one, other = registers.hold(first, r), registers.hold(second, r)
        assert registers.hold(both, r) == (one and other)
        assert registers.hold(either, r) == (one or other)
    for tests in second:
        if registers.covers(first, tests):
            assert all(
                registers.hold(first, r) for r in EVERY if all(test.holds(r) for test in tests)
            )


def test_too_many_alternatives_are_refused_not_compiled() -> None:
    many = tuple((Comparison(0, "==", i, 0xFFFF),) for i in range(40))
    other = tuple((Comparison(1, "==", i, 0xFFFF),) for i in range(40))
    with pytest.raises(registers.TooMany):
        registers.both(many, other)

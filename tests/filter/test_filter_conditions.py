"""The algebra of tests on registers: what is said to be impossible, implied or covered is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctor.filter import conditions
from proctor.filter.conditions import Condition, hold, lower, possible
from proctor.filter.conditions import Test as RegisterTest

# Three-bit registers, so that everything can be enumerated.
SMALL = st.builds(
    RegisterTest,
    st.integers(0, 1),
    st.booleans(),
    st.integers(0, 8),
    st.just(7) | st.integers(1, 7),
    st.booleans(),
)
EVERY = [(a, b, 0, 0, 0, 0) for a in range(8) for b in range(8)]


@settings(max_examples=500, deadline=None)
@given(st.lists(SMALL, max_size=5), SMALL)
def test_possible_and_implies_are_never_wrong(
    tests: list[RegisterTest], wanted: RegisterTest
) -> None:
    chosen = tuple(tests)
    meant = [r for r in EVERY if all(test.holds(r) for test in chosen)]
    if not conditions.possible(chosen):
        assert not meant
    if conditions.implies(chosen, wanted):
        assert all(wanted.holds(r) for r in meant)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(SMALL, max_size=3).map(tuple), max_size=4).map(tuple),
    st.lists(st.lists(SMALL, max_size=3).map(tuple), max_size=4).map(tuple),
)
def test_both_and_either(first: conditions.Alternatives, second: conditions.Alternatives) -> None:
    both, either = conditions.both(first, second), conditions.either([first, second])
    for r in EVERY:
        one, other = hold(first, r), hold(second, r)
        assert hold(both, r) == (one and other)
        assert hold(either, r) == (one or other)
    for tests in second:
        if conditions.covers(first, tests):
            assert all(hold(first, r) for r in EVERY if all(test.holds(r) for test in tests))


def test_too_many_alternatives_are_refused_not_compiled() -> None:
    many = tuple((RegisterTest(0, False, i, 0xFFFF, False),) for i in range(40))
    other = tuple((RegisterTest(1, False, i, 0xFFFF, False),) for i in range(40))
    with pytest.raises(conditions.TooMany):
        conditions.both(many, other)


@pytest.mark.parametrize(
    "tests",
    [
        (
            RegisterTest(0, False, 1, 3, False),
            RegisterTest(0, False, 2, 6, True),
            RegisterTest(0, False, 0, 2, True),
        ),
        # each pair of them reads the same bits of a wider register
        (
            RegisterTest(0, True, 4, 6, False),
            RegisterTest(0, False, 1, 1, False),
            RegisterTest(0, True, 3, 6, True),
        ),
        # what equality settles bounds a comparison that reads more bits
        (RegisterTest(0, False, 4, 4, False), RegisterTest(0, True, 4, 7, True)),
        (
            RegisterTest(0, True, 5, 7, False),
            RegisterTest(0, True, 6, 7, True),
            RegisterTest(0, False, 5, 7, True),
        ),
    ],
)
def test_contradictions_are_seen(tests: conditions.Alternative) -> None:
    assert not any(all(test.holds(r) for test in tests) for r in EVERY)
    assert not possible(tests)


@given(SMALL)
def test_a_test_is_the_condition_that_it_says(test: RegisterTest) -> None:
    for r in EVERY:
        assert test.condition.holds(r[test.register]) == test.holds(r)


@given(
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), st.integers(1, 6), st.sampled_from([7, 6])
)
def test_lowering_keeps_the_meaning(op: str, value: int, mask: int) -> None:
    condition = Condition(0, op, value & mask, mask)
    try:
        test = lower(condition, 0, 64)
    except conditions.FilterError:
        return  # always or never true
    for r in EVERY:
        assert test.holds(r) == condition.holds(r[0])

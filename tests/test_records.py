"""Named tuples of our own are those of typing, to whoever uses them."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
import typing
from typing import Any, Generic, TypeVar

import pytest

import proctor.records

T = TypeVar("T")


class Ours(proctor.records.NamedTuple, Generic[T]):
    """One."""

    first: int
    second: T | None = None

    @property
    def both(self) -> tuple[int, T | None]:
        return self.first, self.second


class Theirs(typing.NamedTuple, Generic[T]):
    """One."""

    first: int
    second: T | None = None

    @property
    def both(self) -> tuple[int, T | None]:
        return self.first, self.second


class Below(Ours[str]):
    """Derived."""


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_is_a_named_tuple(kind: Any) -> None:
    made = kind(1, second="x")
    assert made == (1, "x") == made.both == (made.first, made.second) == kind._make(iter(made))
    assert hash(made) == hash((1, "x")) and {made: 2}[(1, "x")] == 2
    assert kind(second=3, first=2) == (2, 3) and kind(7).second is None
    assert made._replace(first=5) == (5, "x") and type(made._replace(first=5)) is kind
    assert made._asdict() == {"first": 1, "second": "x"}
    assert repr(made) == f"{kind.__name__}(first=1, second='x')"
    assert kind._fields == kind.__match_args__ == ("first", "second")
    assert kind._field_defaults == {"second": None} and kind.__doc__ == "One."
    assert pickle.loads(pickle.dumps(made)) == copy.copy(made) == copy.deepcopy(made) == made
    assert type(pickle.loads(pickle.dumps(made))) is kind
    assert list(inspect.signature(kind).parameters) == ["first", "second"]
    assert typing.get_type_hints(kind)["first"] is int and kind[int] is not None
    match made:
        case kind(first, second):
            assert (first, second) == (1, "x")
        case _:
            pytest.fail("it is matched by position")


def _fresh() -> Any:
    class Kind(proctor.records.NamedTuple):
        first: int
        second: int
        third: int = 3

    return Kind


def test_whoever_looks_sees_a_constructor_before_there_was_any() -> None:
    assert list(inspect.signature(_fresh()).parameters) == ["first", "second", "third"]


@pytest.mark.parametrize("before", range(20))
def test_the_first_ones_and_later_ones_are_made_alike(before: int) -> None:
    def kind(*values: Any, **named: Any) -> Any:
        made = _fresh()
        for each in range(before):
            assert made(each, 2) == (each, 2, 3)
        found = made(*values, **named)
        assert type(found) is made
        return found

    assert kind(1, 2) == kind(1, second=2) == kind(second=2, first=1) == (1, 2, 3)
    assert (
        kind(1, 2, 4) == kind(1, third=4, second=2) == kind(third=4, second=2, first=1) == (1, 2, 4)
    )
    for wrong in (
        lambda: kind(1),
        lambda: kind(1, third=1),
        lambda: kind(1, 2, 3, 4),
        lambda: kind(1, 2, first=1),
        lambda: kind(1, 2, third=1, fourth=1),
        lambda: kind(1, 2, fourth=1),
    ):
        with pytest.raises(TypeError):
            wrong()


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_refuses_what_a_named_tuple_refuses(kind: Any) -> None:
    for wrong in (kind, lambda: kind(1, 2, 3), lambda: kind(1, third=3)):
        with pytest.raises(TypeError):
            wrong()
    made = kind(1)
    for name in ("first", "third"):
        with pytest.raises(AttributeError):
            setattr(made, name, 2)
    assert not hasattr(made, "__dict__")
    with pytest.raises(TypeError if sys.version_info >= (3, 13) else ValueError, match="third"):
        made._replace(third=3)
    with pytest.raises(TypeError):
        kind._make([1])


def test_what_derives_has_the_fields_of_what_it_derives_from() -> None:
    below = Below(1, "x")
    assert below.second == "x" and type(below) is Below and isinstance(below, Ours)
    assert repr(below) == "Below(first=1, second='x')" and type(Ours(2)) is Ours
    assert type(below._replace(first=2)) is Below


def test_a_field_without_a_default_comes_before_those_with_one() -> None:
    with pytest.raises(TypeError, match="without default"):
        type(Ours)(
            "Wrong", (proctor.records.NamedTuple,), {"__annotations__": {"first": 0, "second": 0}, "first": 1}
        )  # fmt: skip

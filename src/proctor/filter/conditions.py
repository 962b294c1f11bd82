"""Conditions on the six registers of a call, and what they come down to.

A register is 64 bits and compared as an unsigned number, all of it.  Two consequences:

* For an ``int`` argument the kernel ignores the upper half, and a caller may leave anything
  there: a condition ``arg == 3`` on the whole register is then evaded by ``3 | 1 << 32``.  A
  condition that names its argument (``"mode"``) is therefore cut to the width the kernel uses, as
  :mod:`proctor.syscalls.signatures` has it (16 bits for a mode, 32 for a descriptor); one that
  gives an index is raw: give it a mask.  Only for i386 and arm calls it is cut to 32 bits.
* A negative value means its two's complement in the argument's width: ``Condition("dirfd", "==",
  AT_FDCWD)`` is right.  Ordering is unsigned, so ``<`` and the like refuse negative values.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from proctor.errors import FilterError

FULL: Final = (1 << 64) - 1

OPERATORS: Final = ("==", "!=", "<", "<=", ">", ">=", "&=")


class Condition(NamedTuple):
    """``(argument & mask) op value``, unsigned.

    ``arg`` is an index (0..5) or the argument's name in the manual page of every call it is used
    with.  ``op`` is one of ``== != < <= > >= &=``; ``&=`` is libseccomp's masked equality and, as
    the mask works with every operator, the same as ``==``.
    """

    arg: int | str
    op: str
    value: int
    mask: int = FULL

    def holds(self, register: int, bits: int = 64) -> bool:
        """Whether the condition is true of ``register``, used by the kernel as ``bits`` bits."""
        width = (1 << bits) - 1
        have = register & self.mask & width
        want = self.value & width if self.value < 0 else self.value
        match self.op:
            case "==" | "&=":
                return have == want
            case "!=":
                return have != want
            case "<":
                return have < want
            case "<=":
                return have <= want
            case ">":
                return have > want
            case _:
                return have >= want

    def __str__(self) -> str:
        name = f"arg{self.arg}" if isinstance(self.arg, int) else self.arg
        op = "==" if self.op == "&=" else self.op
        if self.mask == FULL:
            return f"{name} {op} {self.value:#x}"
        return f"({name} & {self.mask:#x}) {op} {self.value:#x}"


class Test(NamedTuple):
    """A condition in the compiler's terms: ``(args[register] & mask) == value`` or, with
    ``at_least``, ``>= value``; the opposite with ``negated``."""

    register: int
    at_least: bool
    value: int
    mask: int
    negated: bool


def lower(condition: Condition, index: int, bits: int) -> Test:
    """The test for ``condition`` on register ``index``, of which the kernel uses ``bits`` bits.

    :raises FilterError: it is always true, never true or malformed.
    """
    _, op, value, mask = condition
    if not 0 <= index <= 5:
        raise FilterError(f"argument {index} does not exist; they are 0 to 5")
    if op not in OPERATORS:
        raise FilterError(f"unknown operator {op!r}; there are {' '.join(OPERATORS)}")
    width = (1 << bits) - 1
    if not 0 <= mask <= FULL:
        raise FilterError(f"{condition}: the mask does not fit in 64 bits")
    mask &= width
    if value < 0:
        if op in ("<", "<=", ">", ">="):
            raise FilterError(
                f"{condition}: registers are compared unsigned; the value is negative"
            )
        if value < -(1 << (bits - 1)):
            raise FilterError(f"{condition}: the value does not fit in {bits} bits")
        value &= width
    if value > width:
        raise FilterError(f"{condition}: the value does not fit in {bits} bits")

    negated = op in ("!=", "<", "<=")
    at_least = op not in ("==", "!=", "&=")
    if op in (">", "<="):
        value += 1  # x > v is x >= v + 1
    always = _settled(at_least, value, mask)
    if always is not None:
        raise FilterError(f"{condition}: {'always' if always != negated else 'never'} true")
    return Test(index, at_least, value, mask, negated)


def _settled(at_least: bool, value: int, mask: int) -> bool | None:
    """Whether ``(x & mask) == value`` (or ``>=``) is true or false of every x; None if neither."""
    if at_least:
        return True if not value else False if value > mask else None
    return False if value & ~mask else True if not mask else None


def settled(condition: Condition) -> bool | None:
    """Whether a condition on a whole register is always true (True) or never (False).

    Such conditions are mistakes in our rules, which refuse them; in other people's files they
    mean what they say.
    """
    _, op, value, mask = condition
    at_least = op not in ("==", "!=", "&=")
    always = _settled(at_least, value + (op in (">", "<=")), mask)
    return None if always is None else always != (op in ("!=", "<", "<="))


def contradiction(tests: tuple[Test, ...]) -> bool:
    """Whether ``tests`` can be seen never to hold together.  May miss some, never cries wolf."""
    if len(tests) < 2:
        return False
    for position, one in enumerate(tests):
        for other in tests[position + 1 :]:
            if one.register == other.register and _exclude(one, other):
                return True
    return False


def _exclude(one: Test, other: Test) -> bool:
    """Whether two tests on one register exclude each other."""
    equal_one = not one.at_least and not one.negated
    equal_other = not other.at_least and not other.negated
    if equal_one and equal_other:
        return bool((one.value ^ other.value) & one.mask & other.mask)
    if one.mask != other.mask:
        return False
    if equal_one or equal_other:
        value, rule = (one.value, other) if equal_one else (other.value, one)
        true = value >= rule.value if rule.at_least else value == rule.value
        return true == rule.negated
    if one.at_least and other.at_least and one.negated != other.negated:
        below, above = (one, other) if one.negated else (other, one)
        return below.value <= above.value
    return False

"""Conditions on the six registers of a call, what they come down to, and what they mean together.

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

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from proctor.errors import FilterError
from proctor.given import several
from proctor.records import NamedTuple

FULL: Final = (1 << 64) - 1

OPERATORS: Final = ("==", "!=", "<", "<=", ">", ">=", "&=")


class Condition(NamedTuple):
    """``(argument & mask) op value``, unsigned.

    >>> made = proctor.Condition("mode", "==", 0o020000, mask=0o170000)
    >>> str(made), made.holds(0o020666)
    ('(mode & 0xf000) == 0x2000', True)

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


def conditions_of(given: Any) -> tuple[Condition, ...]:
    """What conditions are given: one alone, or several.

    :raises FilterError: some are none, or have something in them that cannot be there.
    :raises TypeError: it is not several of anything."""
    if isinstance(given, Condition):
        given = (given,)
    conditions = several("conditions", given, "conditions")
    for each in conditions:
        if not isinstance(each, Condition):
            table = "; tables as policies have them go to proctor.families" * isinstance(
                given, Mapping
            )
            raise FilterError(
                f'{each!r} is no condition: when=proctor.Condition("mode", "==", 0){table}'
            )
        arg, op, value, mask = each
        if not (isinstance(arg, (int, str)) and isinstance(value, int) and isinstance(mask, int)):
            raise FilterError(
                f"{each!r}: an argument by name or number, an operator, a number and a mask are wanted"
            )
        if op not in OPERATORS:
            raise FilterError(f"unknown operator {op!r}; there are {' '.join(OPERATORS)}")
    return conditions


class Test(NamedTuple):
    """A condition in the compiler's terms: ``(args[register] & mask) == value`` or, with
    ``at_least``, ``>= value``; the opposite with ``negated``."""

    register: int
    at_least: bool
    value: int
    mask: int
    negated: bool

    def holds(self, registers: Sequence[int]) -> bool:
        """Whether it holds for six registers."""
        have = registers[self.register] & self.mask
        return (have >= self.value if self.at_least else have == self.value) != self.negated

    @property
    def condition(self) -> Condition:
        """The same as a rule of a filter says it."""
        op = ("<" if self.negated else ">=") if self.at_least else "!=" if self.negated else "=="
        return Condition(self.register, op, self.value, self.mask)


def lower(condition: Condition, index: int, bits: int) -> Test:
    """The test for ``condition`` on register ``index``, of which the kernel uses ``bits`` bits.

    :raises FilterError: it is always true, never true or malformed.
    """
    _, op, value, mask = condition
    if not 0 <= index <= 5:
        raise FilterError(f"argument {index} does not exist; they are 0 to 5")
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


# Tests together -----------------------------------------------------------------------------------

#: Tests that must all hold.
Alternative = tuple[Test, ...]
#: Alternatives of which one must hold: ``((),)`` always holds, ``()`` never.
Alternatives = tuple[Alternative, ...]

ALWAYS: Final[Alternatives] = ((),)
#: More alternatives than this are refused: each is a rule of a filter, whose program ends at 4096
#: instructions (``BPF_MAXINSNS``).
MAX_ALTERNATIVES: Final = 512


class TooMany(FilterError):
    """More than :data:`MAX_ALTERNATIVES`."""

    def __init__(self) -> None:
        super().__init__(f"more than {MAX_ALTERNATIVES} combinations of alternatives")


def hold(alternatives: Alternatives, registers: Sequence[int]) -> bool:
    """Whether one of the alternatives holds for six registers."""
    # Without generators, and with Test.holds written out: it is asked for every notified call.
    for tests in alternatives:
        for register, at_least, value, mask, negated in tests:
            have = registers[register] & mask
            if (have >= value if at_least else have == value) == negated:
                break
        else:
            return True
    return False


def possible(tests: Alternative) -> bool:
    """False if ``tests`` can be seen never to hold together.  May miss some, never cries wolf."""
    for register in {test.register for test in tests}:
        mine = [test for test in tests if test.register == register]
        known = value = 0  # bits that are settled, and how
        for test in mine:
            if not test.at_least and not test.negated:
                if (value ^ test.value) & known & test.mask or test.value & ~test.mask:
                    return False
                known |= test.mask
                value |= test.value
        for mask in {test.mask for test in mine}:
            # What the tests that read the same bits leave of the numbers these bits can be.
            low = value & mask
            high = low | mask & ~known
            alike = [test for test in mine if test.mask == mask]
            for test in alike:
                if test.at_least and test.negated:
                    high = min(high, test.value - 1)
                elif test.at_least:
                    low = max(low, test.value)
            if low > high:
                return False
            for test in alike:
                if test.negated and not test.at_least and low == high == test.value:
                    return False
    return True


def implies(tests: Alternative, wanted: Test) -> bool:
    """True only if ``wanted`` holds whenever ``tests`` do."""
    if wanted in tests:
        return True
    if not wanted.at_least and not wanted.negated:
        for test in tests:  # the commonest case by far, in policies that list numbers
            if test[:2] == wanted[:2] and test[3:] == wanted[3:]:
                return False
    return not possible((*tests, wanted._replace(negated=not wanted.negated)))


def covers(alternatives: Alternatives, tests: Alternative) -> bool:
    """True only if one of ``alternatives`` holds whenever ``tests`` do."""
    return any(all(implies(tests, wanted) for wanted in other) for other in alternatives)


def both(first: Alternatives, second: Alternatives) -> Alternatives:
    """The conjunction; impossible combinations fall out.

    :raises TooMany: see :data:`MAX_ALTERNATIVES`.
    """
    out: dict[Alternative, None] = {}
    for one in first:
        for other in second:
            joined = one + tuple(test for test in other if test not in one)
            if possible(joined):
                out[joined] = None
        if len(out) > MAX_ALTERNATIVES:
            raise TooMany
    return tuple(out)


def either(several: Iterable[Alternatives]) -> Alternatives:
    """The disjunction, without duplicates.

    :raises TooMany: see :data:`MAX_ALTERNATIVES`.
    """
    out: dict[Alternative, None] = {}
    for alternatives in several:
        out.update(dict.fromkeys(alternatives))
    if len(out) > MAX_ALTERNATIVES:
        raise TooMany
    return ALWAYS if () in out else tuple(out)

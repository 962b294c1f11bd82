"""Conditions on registers: what the filter can decide without us.

An argument of a system call is the low bits of a register: an ``int`` the low 32, a ``umode_t`` the
low 16.  What stands above them is the target's to choose and ignored by the kernel, so every test
here masks first; a test of all 64 bits could be walked around by setting one that nobody reads.

Conditions are kept in disjunctive form: a tuple of alternatives, each a tuple of :class:`Comparison` that
must all hold.  The compiler makes one filter rule of each alternative, the handlers evaluate the
same tests on the same registers, so the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

#: More alternatives than this in one rule are refused: each is a rule of the filter, whose
#: program ends at 4096 instructions.
MAX_ALTERNATIVES: Final = 512


class Register(NamedTuple):
    """Where an argument is: ``number`` 0..5, how many low ``bits`` the kernel reads, and whether it
    reads them as a signed number."""

    number: int
    bits: int = 64
    signed: bool = False

    @property
    def mask(self) -> int:
        """The bits that the kernel reads."""
        return (1 << self.bits) - 1


class Comparison(NamedTuple):
    """``(registers[number] & mask) OP value``, unsigned; OP is ``==``, ``!=``, ``<=`` or ``>=``."""

    number: int
    op: str
    value: int
    mask: int

    def holds(self, registers: Sequence[int]) -> bool:
        """Whether it holds for six raw registers."""
        value = registers[self.number] & self.mask
        if self.op == "==":
            return value == self.value
        if self.op == "!=":
            return value != self.value
        if self.op == "<=":
            return value <= self.value
        return value >= self.value


#: Tests that must all hold.
Alternative = tuple[Comparison, ...]
#: Alternatives of which one must hold; ``((),)`` always holds, ``()`` never.
Alternatives = tuple[Alternative, ...]

ALWAYS: Final[Alternatives] = ((),)


def hold(alternatives: Alternatives, registers: Sequence[int]) -> bool:
    """Whether one of the alternatives holds."""
    return any(all(test.holds(registers) for test in tests) for tests in alternatives)


class TooMany(ValueError):
    """More than :data:`MAX_ALTERNATIVES`."""


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
            raise TooMany(len(out))
    return tuple(out)


def either(several: Iterable[Alternatives]) -> Alternatives:
    """The disjunction, without duplicates.

    :raises TooMany: see :data:`MAX_ALTERNATIVES`.
    """
    out: dict[Alternative, None] = {}
    for alternatives in several:
        out.update(dict.fromkeys(alternatives))
    if len(out) > MAX_ALTERNATIVES:
        raise TooMany(len(out))
    return ((),) if () in out else tuple(out)


class OutOfRange(ValueError):
    """A number that the argument cannot have; ``low`` and ``high`` are the ends of its range."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__(low, high)
        self.low = low
        self.high = high


def compare(register: Register, op: str, number: int) -> Alternatives:
    """``argument OP number`` with OP one of ``== != < <= > >=``, signed if the argument is.

    For equality a number may be written with either sign (``0xffffff9c`` is ``-100``).

    :raises OutOfRange: the argument can never have the number, so that the condition would be
        always or never true.
    """
    index, mask, bits = register.number, register.mask, register.bits
    if op in ("==", "!="):
        if not -(1 << (bits - 1)) <= number <= mask:
            raise OutOfRange(-(1 << (bits - 1)) if register.signed else 0, mask >> register.signed)
        return ((Comparison(index, op, number & mask, mask),),)
    low, high = (-(1 << (bits - 1)), mask >> 1) if register.signed else (0, mask)
    if not low <= number <= high:
        raise OutOfRange(low, high)
    first, last = low, high
    if op in ("<", "<="):
        last = number - (op == "<")
    else:
        first = number + (op == ">")
    if first > last:
        return ()
    if not register.signed:
        return (_between(index, mask, first, last),)
    # Unsigned, the negative numbers lie above the others: at most two runs.
    out = []
    if first < 0:
        out.append(_between(index, mask, first & mask, min(last, -1) & mask))
    if last >= 0:
        out.append(_between(index, mask, max(first, 0), last))
    return either((tests,) for tests in out)


def _between(index: int, mask: int, first: int, last: int) -> Alternative:
    if first == last:
        return (Comparison(index, "==", first, mask),)
    tests = []
    if first > 0:
        tests.append(Comparison(index, ">=", first, mask))
    if last < mask:
        tests.append(Comparison(index, "<=", last, mask))
    return tuple(tests)


def bits_equal(register: Register, mask: int, value: int) -> Alternatives:
    """``(argument & mask) == value``.

    :raises OutOfRange: the mask has bits that the argument has not.
    """
    if mask & ~register.mask or mask < 0:
        raise OutOfRange(0, register.mask)
    if value & ~mask:
        return ()
    return ((Comparison(register.number, "==", value, mask),),) if mask else ALWAYS


def possible(tests: Alternative) -> bool:
    """False if the tests can never all hold.  May say True where they cannot (never the reverse
    for tests as made here: masks of a register, and comparisons on its full width)."""
    for index in {test.number for test in tests}:
        mine = [test for test in tests if test.number == index]
        known = value = 0  # bits that must be so
        width = 0
        for test in mine:
            if test.op == "==":
                if (value ^ test.value) & known & test.mask or test.value & ~test.mask:
                    return False
                known |= test.mask
                value |= test.value
            width |= test.mask
        low, high = value, value | (width & ~known)
        for test in mine:
            # A comparison reads its mask as a whole; only that of the full width bounds the rest.
            if test.op in ("<=", ">=") and test.mask == width:
                low = max(low, test.value) if test.op == ">=" else low
                high = min(high, test.value) if test.op == "<=" else high
        if low > high:
            return False
        for test in mine:
            if test.op != "!=":
                continue
            if test.mask & ~known == 0 and value & test.mask == test.value:
                return False
            if low == high and low & test.mask == test.value and test.mask == width:
                return False
    return True


_NEGATED: Final = {"==": "!=", "!=": "==", "<=": ">=", ">=": "<="}


def implies(tests: Alternative, wanted: Comparison) -> bool:
    """True only if ``wanted`` holds whenever ``tests`` do."""
    if wanted in tests:
        return True
    if wanted.op == "==":
        for test in tests:  # the commonest case by far, in policies that list numbers
            if (test.op, test.number, test.mask) == ("==", wanted.number, wanted.mask):
                return False
    value = wanted.value
    if wanted.op == "<=":
        if value >= wanted.mask:
            return True
        value += 1
    elif wanted.op == ">=":
        if value == 0:
            return True
        value -= 1
    return not possible(
        (*tests, Comparison(wanted.number, _NEGATED[wanted.op], value, wanted.mask))
    )


def covers(alternatives: Alternatives, tests: Alternative) -> bool:
    """True only if one of ``alternatives`` holds whenever ``tests`` do."""
    return any(all(implies(tests, wanted) for wanted in other) for other in alternatives)

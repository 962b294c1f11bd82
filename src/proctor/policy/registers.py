"""Where an argument is in the registers, and comparisons of it as tests of a filter.

An argument of a system call is the low bits of a register: an ``int`` the low 32, a ``umode_t`` the
low 16.  What stands above them is the target's to choose and ignored by the kernel, so every test
here masks first; a test of all 64 bits could be walked around by setting one that nobody reads.
The filter is made of the same tests (:mod:`proctor.filter.conditions`) that handlers evaluate, so the
two cannot disagree.
"""

from __future__ import annotations

from typing import NamedTuple

from proctor.filter.conditions import ALWAYS, Alternative, Alternatives, Test, either


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
        return ((Test(index, False, number & mask, mask, op == "!="),),)
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
        return (Test(index, False, first, mask, False),)
    tests = []
    if first > 0:
        tests.append(Test(index, True, first, mask, False))
    if last < mask:
        tests.append(Test(index, True, last + 1, mask, True))
    return tuple(tests)


def bits_equal(register: Register, mask: int, value: int) -> Alternatives:
    """``(argument & mask) == value``.

    :raises OutOfRange: the mask has bits that the argument has not.
    """
    if mask & ~register.mask or mask < 0:
        raise OutOfRange(0, register.mask)
    if value & ~mask:
        return ()
    return ((Test(register.number, False, value, mask, False),),) if mask else ALWAYS

"""Conditions on numbers and flags, as written, to comparisons of registers.

:class:`Numbers` is the half of :class:`~proctor.policy.arguments.Builder` that reads numbers,
constants, comparisons and tests of flags; the other half knows the words (``device``, ``path``…).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from proctor.errors import PolicyError
from proctor.filter import conditions
from proctor.filter.conditions import ALWAYS, Alternatives
from proctor.policy import registers
from proctor.policy.constants import constants_of, register_of
from proctor.policy.registers import OutOfRange, Register
from proctor.policy.source import KeyPath, Source
from proctor.words import did_you_mean

if TYPE_CHECKING:
    from proctor.syscalls.signatures import Arg

#: A checked value of ``when``; see :data:`proctor.policy.schema.Spec`.
Spec = int | str | Sequence[int | str] | Mapping[str, int | str | Sequence[int | str]]

_OPERATORS: Final = ("==", "!=", "<=", ">=", "<", ">")
_FLAG_WORDS: Final = ("all", "any", "none")
_TABLE_KEYS: Final = (*_OPERATORS, *_FLAG_WORDS, "mask", "is")


class Never(Exception):
    """On this architecture the condition can never hold, on another one it can."""


class Numbers:
    """Reads what is written for an argument that is a number.

    The attributes say where in the policy we are and for which call; errors name them.
    """

    source: Source
    path: KeyPath
    _key: str
    _call: str
    _abi: str
    _strict: bool

    def _never(self, message: str) -> NoReturn:
        if not self._strict:
            raise Never
        self._fail(message)

    def _error(self, message: str) -> PolicyError:
        return self.source.error(message, (*self.path, "when", self._key))

    def _fail(self, message: str) -> NoReturn:
        raise self._error(message)

    # Numbers and flags -----------------------------------------------------------------------

    def _number(self, arg: Arg, spec: Spec) -> Alternatives:
        register = register_of(arg)
        if arg.reg_high >= 0:
            return self._pair(arg, spec)
        if isinstance(spec, Mapping):
            return self._table(register, arg, spec)
        if (
            arg.role == "flags"
            and not _sub_mask(self._call, arg)
            and any(_is_name(each) for each in self._listed(spec))
        ):
            self._fail(
                f'say how the flags are meant: {arg.name} = {{ all = ["{_first_name(spec)}"] }}, '
                'any = […], none = […], or "==" = "A|B" for exactly these'
            )
        if isinstance(spec, (int, str)):
            return self._one(register, arg, spec)
        return self._any(self._one(register, arg, each) for each in self._listed(spec))

    def _pair(self, arg: Arg, spec: Spec) -> Alternatives:
        """A 64-bit value in two registers of a 32-bit architecture: equality only."""
        numbers = [] if isinstance(spec, Mapping) else self._listed(spec)
        if not numbers or not all(isinstance(each, int) for each in numbers):
            self._fail(
                f"on {self._abi} {arg.name} of {self._call} comes in two registers, so only plain numbers "
                'can be told there; leave that architecture out (arches = ["x86_64"]), or split the rule'
            )
        parts = []
        for each in numbers:
            number = int(each)
            if not -(1 << 63) <= number < 1 << 64:
                self._fail(f"{number} does not fit into 64 bits")
            low, high = number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF
            parts.append(
                conditions.both(
                    registers.bits_equal(Register(arg.reg, 32), 0xFFFFFFFF, low),
                    registers.bits_equal(Register(arg.reg_high, 32), 0xFFFFFFFF, high),
                )
            )
        return self._any(parts)

    def _one(self, register: Register, arg: Arg, spec: int | str) -> Alternatives:
        """A number, a name, or a comparison in a string such as ``">= 3"``."""
        if isinstance(spec, int):
            return self._compare(register, "==", spec)
        text = spec.strip()
        for op in _OPERATORS:
            if text.startswith(op):
                return self._compare(register, op, self._value(arg, text[len(op) :]))
        mask = _sub_mask(self._call, arg)
        value = self._value(arg, text)
        if mask and not value & ~mask:
            return self._bits(register, mask, value)
        return self._compare(register, "==", value)

    def _table(
        self, register: Register, arg: Arg, spec: Mapping[str, int | str | Sequence[int | str]]
    ) -> Alternatives:
        """Comparisons and tests of flags, all of which must hold."""
        if not spec:
            self._fail(f"an empty table says nothing; keys are {', '.join(_TABLE_KEYS)}")
        found: Alternatives = ALWAYS
        for key, value in spec.items():
            if key in _OPERATORS:
                parts = [
                    self._compare(register, key, self._value(arg, each))
                    for each in self._listed(value)
                ]
                part = self._all(parts) if key == "!=" else self._any(parts)
            elif key in _FLAG_WORDS:
                part = self._flags(register, arg, key, value)
            elif key == "mask":
                if "is" not in spec:
                    self._fail('"mask" goes with "is": { mask = 0xf, is = 1 }')
                mask = self._value(arg, self._single(value, "mask")) & register.mask
                part = self._any(
                    self._bits(register, mask, self._value(arg, each) & register.mask)
                    for each in self._listed(spec["is"])
                )
            elif key == "is":
                if "mask" not in spec:
                    self._fail(
                        '"is" goes with "mask": { mask = 0xf, is = 1 }; for equality leave the table out'
                    )
                continue
            else:
                self._fail(
                    f'no such test "{key}"{did_you_mean(key, _TABLE_KEYS) or "; there are " + ", ".join(_TABLE_KEYS)}'
                )
            found = self._both(found, part)
        if not found:
            self._never("these tests can never hold together")
        return found

    def _flags(
        self, register: Register, arg: Arg, word: str, value: int | str | Sequence[int | str]
    ) -> Alternatives:
        bits = []
        for each in self._listed(value):
            number = self._value(arg, each)
            if number == 0:
                hint = (
                    '; to test how a file is opened use access = "read"'
                    if str(each) == "O_RDONLY"
                    else ""
                )
                self._fail(f'"{each}" is 0, so whether it is set cannot be told{hint}')
            if not 0 < number <= register.mask:
                self._never(f"{each} does not fit into the {register.bits} bits of {arg.name}")
            bits.append(number)
        if word == "any":
            return self._any(self._bits(register, number, number) for number in bits)
        together = 0
        for number in bits:
            together |= number
        return self._bits(register, together, together if word == "all" else 0)

    def _compare(self, register: Register, op: str, number: int) -> Alternatives:
        try:
            found = registers.compare(register, op, number)
        except OutOfRange as error:
            if not self._strict:
                above = number > error.high
                return ALWAYS if op == "!=" or op[0] == ("<" if above else ">") else ()
            self._fail(
                f"{number} is no value of this argument of {self._call}, which goes from {error.low} to "
                f"{error.high}"
            )
        if not found and self._strict:
            self._fail(f"no value is {op} {number}")
        return found

    def _bits(self, register: Register, mask: int, value: int) -> Alternatives:
        try:
            found = registers.bits_equal(register, mask, value)
        except OutOfRange as error:
            self._never(
                f"the mask {mask:#x} has bits that this argument has not (it ends at {error.high:#x})"
            )
        if not found:
            self._never(
                f"{value:#x} has bits outside of the mask {mask:#x}, so this can never hold"
            )
        return found

    def _value(self, arg: Arg, spec: int | str) -> int:
        """A number, ``"0x1f"``, a constant, or constants joined by ``|``."""
        if isinstance(spec, int):
            return spec
        total: int | None = None
        for word in spec.split("|"):
            name = word.strip()
            number = _literal_number(name)
            if number is None:
                known = constants_of(arg, self._abi)
                if name not in known:
                    if not known:
                        self._fail(
                            f'"{name}": argument {arg.name} of {self._call} has no named values; write a number'
                        )
                    self._fail(
                        f'"{name}" is not a number and not a constant for {arg.name} of {self._call}{did_you_mean(name, known)}'
                    )
                number = known[name]
            total = number if total is None else total | number
        return total or 0

    def _listed(self, spec: int | str | Sequence[int | str]) -> Sequence[int | str]:
        if isinstance(spec, (int, str)):
            return [spec]
        if not spec:
            self._fail("an empty list can never hold")
        return spec

    def _single(self, spec: int | str | Sequence[int | str], what: str) -> int | str:
        if not isinstance(spec, (int, str)):
            self._fail(f'"{what}" is one number, not a list')
        return spec

    def _any(self, parts: Iterable[Alternatives]) -> Alternatives:
        try:
            return conditions.either(parts)
        except conditions.TooMany:
            self._fail(f"more than {conditions.MAX_ALTERNATIVES} alternatives; split the rule")

    def _all(self, parts: Iterable[Alternatives]) -> Alternatives:
        found = ALWAYS
        for part in parts:
            found = self._both(found, part)
        return found

    def _both(self, first: Alternatives, second: Alternatives) -> Alternatives:
        try:
            return conditions.both(first, second)
        except conditions.TooMany:
            self._fail(
                f"more than {conditions.MAX_ALTERNATIVES} combinations of alternatives; split the rule"
            )


def _sub_mask(call: str, arg: Arg) -> int:
    """A mask under which names of this argument are compared: SOCK_CLOEXEC and SOCK_NONBLOCK ride
    on the socket type, and a rule about SOCK_RAW means them too."""
    return 0xF if call in ("socket", "socketpair") and arg.name == "type" else 0


def _is_name(spec: int | str) -> bool:
    """Whether it is a constant, or several joined, and neither a number nor a comparison."""
    return isinstance(spec, str) and spec.strip()[:1].isalpha()


def _first_name(spec: int | str | Sequence[int | str]) -> str:
    specs = [spec] if isinstance(spec, (int, str)) else spec
    name = next(each for each in specs if _is_name(each))
    return str(name).replace("|", '", "').replace(" ", "")


def _literal_number(text: str) -> int | None:
    """An integer in TOML's spelling, None for anything else."""
    digits = text.lstrip("+-")
    if not digits[:1].isdigit() or len(text) > 80 or not text.isascii():
        return None
    try:
        return int(text, 0)
    except ValueError:
        return None

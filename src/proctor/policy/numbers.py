"""Conditions on numbers and flags, as written, to tests of registers.

An argument of a system call is the low bits of a register: an ``int`` the low 32, a ``umode_t`` the
low 16.  What stands above them is the target's to choose and ignored by the kernel, so every test
here masks first; a test of all 64 bits could be walked around by setting one that nobody reads.
The filter is made of the same tests (:mod:`proctor.filter.conditions`) that handlers evaluate, so the
two cannot disagree.

:class:`Numbers` is the half of :class:`~proctor.policy.when.Builder` that reads numbers, constants,
comparisons and tests of flags; the other half knows the words (``device``, ``path``…).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from proctor.errors import PolicyError
from proctor.filter.conditions import ALWAYS, Alternative, Alternatives, Test, TooMany, both, either
from proctor.policy.document import KeyPath, Source, Spec
from proctor.records import NamedTuple
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.words import did_you_mean

if TYPE_CHECKING:
    from proctor.syscalls.signatures import Arg

_OPERATORS: Final = ("==", "!=", "<=", ">=", "<", ">")
_FLAG_WORDS: Final = ("all", "any", "none")
_TABLE_KEYS: Final = (*_OPERATORS, *_FLAG_WORDS, "mask", "is")


class OutOfRange(ValueError):
    """A number that the argument cannot have; ``low`` and ``high`` are the ends of its range."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__(low, high)
        self.low = low
        self.high = high


class Never(Exception):
    """On this architecture the condition can never hold, on another one it can."""


def compare(arg: Arg, op: str, number: int) -> Alternatives:
    """``argument OP number`` with OP one of ``== != < <= > >=``, signed if the argument is.

    For equality a number may be written with either sign (``0xffffff9c`` is ``-100``).

    :raises OutOfRange: the argument can never have the number, so that the condition would be
        always or never true.
    """
    mask, half = arg.mask, 1 << arg.mask.bit_length() - 1
    low, high = (-half, half - 1) if arg.signed else (0, mask)
    if not (-half <= number <= mask if op in ("==", "!=") else low <= number <= high):
        raise OutOfRange(low, high)
    if op in ("==", "!="):
        return ((Test(arg.reg, False, number & mask, mask, op == "!="),),)
    first = low if op[0] == "<" else number + (op == ">")
    last = high if op[0] == ">" else number - (op == "<")
    # Unsigned, the negative numbers lie above the others: at most two runs.
    runs = ((first, min(last, -1)), (max(first, 0), last))
    return tuple(_between(arg.reg, mask, a & mask, b & mask) for a, b in runs if a <= b)


def _between(register: int, mask: int, first: int, last: int) -> Alternative:
    if first == last:
        return (Test(register, False, first, mask, False),)
    tests = (Test(register, True, first, mask, False), Test(register, True, last + 1, mask, True))
    return tests[first == 0 : 1 + (last < mask)]


def bits_equal(arg: Arg, mask: int, value: int, negated: bool = False) -> Alternatives:
    """``(argument & mask) == value``, or the opposite.

    :raises OutOfRange: the mask has bits that the argument has not.
    """
    if mask & ~arg.mask or mask < 0:
        raise OutOfRange(0, arg.mask)
    if value & ~mask:
        return ALWAYS if negated else ()
    if not mask:
        return () if negated else ALWAYS
    return ((Test(arg.reg, False, value, mask, negated),),)


def constants_of(arg: Arg, arch: str) -> Mapping[str, int]:
    """The names that may stand for numbers in this argument, with the numbers ``arch`` gives them."""
    if arg.role in ("fd", "dirfd"):
        return {"AT_FDCWD": -100}
    if arg.role not in ("flags", "cmd", "clock", "signal", "mode") or arg.family is None:
        return {}
    from proctor.syscalls import flags

    try:
        known = flags.members(arg.family, arch)
    except KeyError:
        return {}  # a family without names
    return {**known, **_MODE_MASKS} if arg.role == "mode" else known


def also(arg: Arg, name: str, arch: str) -> int | None:
    """Another number by which a call of 32 bits says a constant; None if there is none."""
    if arg.family not in ("IoctlOp", "FcntlOp") or ARCHITECTURES[arch].word != 4:
        return None
    from proctor.syscalls.flags_data import LONG

    other = LONG.get(name)
    return constants_of(arg, arch).get(other) if isinstance(other, str) else other


_MODE_MASKS: Final = {"S_IFMT": 0o170000, "S_IRWXU": 0o700, "S_IRWXG": 0o70, "S_IRWXO": 0o7}


def judged(arg: Arg, call: str, spec: Spec = 0) -> Arg:
    """An argument as conditions see it: of a mode everybody but mknod(2) reads permissions alone, and programs that pass on what
    stat(2) told have a file type in it; what makes directories takes no set-id bits, and umask(2) no sticky bit either.  Who asks for
    these bits by name may do so of all alike."""
    if arg.role != "mode" or call in _TYPED:
        return arg
    by_bit = isinstance(spec, dict) and not spec.keys().isdisjoint(_FLAG_WORDS)
    return arg._replace(bits=12 if by_bit else _READ.get(call, 12))  # S_IALLUGO


_TYPED: Final = ("mknod", "mknodat")
#: Of whose modes fewer bits (``vfs_mkdir`` of fs/namei.c, kernel/sys.c).
_READ: Final = {"mkdir": 10, "mkdirat": 10, "umask": 9}


class Written(NamedTuple):
    """What a number in a policy says."""

    value: int
    #: The bits that it is about: its own, and all of a field's where it names a value of one
    #: (``S_IFIFO``: the file type within a mode).
    mask: int
    #: Whether it is about fields only.
    field: bool


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

    def _number(self, arg: Arg, spec: Spec) -> Alternatives:
        if arg.reg_high >= 0:
            return self._pair(arg, spec)
        if isinstance(spec, Mapping):
            return self._table(arg, spec)
        return self._any(self._one(arg, each) for each in self._listed(spec))

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
            halves = ((arg.reg, number), (arg.reg_high, number >> 32))
            tests = [Test(reg, False, half & _WORD, _WORD, False) for reg, half in halves]
            parts.append((tuple(tests),))
        return self._any(parts)

    def _one(self, arg: Arg, spec: int | str) -> Alternatives:
        """A number, a name, or a comparison in a string such as ``">= 3"``."""
        if isinstance(spec, int):
            return self._compare(arg, "==", spec)
        text = spec.strip()
        op = next((op for op in _OPERATORS if text.startswith(op)), "")
        other = also(arg, text[len(op) :].strip(), self._abi)
        if other is not None and op in ("", "==", "!="):
            join = self._all if op == "!=" else self._any
            numbers = self._value(arg, text[len(op) :]).value, other
            return join([self._compare(arg, op or "==", each) for each in numbers])
        value, mask, field = self._value(arg, text[len(op) :])
        if field and op in ("", "==", "!="):
            return self._bits(arg, mask, value, op == "!=")
        named = text[len(op) :].strip()
        bits = arg.role == "flags" or (arg.role == "mode" and not value & _MODE_MASKS["S_IFMT"])
        if op in ("", "!=") and bits and named[:1].isalpha():
            name = '", "'.join(word.strip() for word in named.split("|"))
            self._fail(
                f'say how the flags are meant: {arg.name} = {{ all = ["{name}"] }}, '
                'any = […], none = […], or "==" = "A|B" for exactly these'
            )
        return self._compare(arg, op or "==", value)

    def _table(self, arg: Arg, spec: Mapping[str, int | str | Sequence[int | str]]) -> Alternatives:
        """Comparisons and tests of flags, all of which must hold."""
        if not spec:
            self._fail(f"an empty table says nothing; keys are {', '.join(_TABLE_KEYS)}")
        found: Alternatives = ALWAYS
        for key, value in spec.items():
            if key in _OPERATORS:
                parts = [
                    self._compare(arg, key, self._value(arg, each).value)
                    for each in self._listed(value)
                ]
                part = self._all(parts) if key == "!=" else self._any(parts)
            elif key in _FLAG_WORDS:
                part = self._flags(arg, key, value)
            elif key == "mask":
                if "is" not in spec:
                    self._fail('"mask" goes with "is": { mask = 0xf, is = 1 }')
                if not isinstance(value, (int, str)):
                    self._fail('"mask" is one number, not a list')
                mask = self._value(arg, value).value & arg.mask
                part = self._any(
                    self._bits(arg, mask, self._value(arg, each).value & arg.mask)
                    for each in self._listed(spec["is"])
                )
            elif key == "is":
                if "mask" not in spec:
                    self._fail(
                        '"is" goes with "mask": { mask = 0xf, is = 1 }; for equality leave the table out'
                    )
                continue
            else:
                hint = did_you_mean(key, _TABLE_KEYS) or f"; there are {', '.join(_TABLE_KEYS)}"
                self._fail(f'no such test "{key}"{hint}')
            found = self._both(found, part)
        if not found:
            self._never("these tests can never hold together")
        return found

    def _flags(self, arg: Arg, word: str, value: int | str | Sequence[int | str]) -> Alternatives:
        parts = []
        together = 0
        for each in self._listed(value):
            number, mask, _ = self._value(arg, each)
            if number == 0:
                hint = '; to test how a file is opened use access = "read"'
                self._fail(
                    f'"{each}" is 0, so whether it is set cannot be told'
                    f"{hint if str(each) == 'O_RDONLY' else ''}"
                )
            if not 0 < number <= arg.mask:
                self._never(
                    f"{each} does not fit into the {arg.mask.bit_length()} bits of {arg.name}"
                )
            if mask != number:  # the value of a field, which others share bits with
                parts.append(self._bits(arg, mask, number, word == "none"))
            elif word == "any":
                parts.append(self._bits(arg, number, number))
            else:
                together |= number
        if word == "any":
            return self._any(parts)
        if together:
            parts.append(self._bits(arg, together, together if word == "all" else 0))
        return self._all(parts)

    def _compare(self, arg: Arg, op: str, number: int) -> Alternatives:
        try:
            found = compare(arg, op, number)
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

    def _bits(self, arg: Arg, mask: int, value: int, negated: bool = False) -> Alternatives:
        try:
            found = bits_equal(arg, mask, value, negated)
        except OutOfRange as error:
            self._never(
                f"the mask {mask:#x} has bits that this argument has not (it ends at {error.high:#x})"
            )
        if not found:
            self._never(
                f"{value:#x} has bits outside of the mask {mask:#x}, so this can never hold"
            )
        return found

    def _value(self, arg: Arg, spec: int | str) -> Written:
        """A number, ``"0x1f"``, a constant, or constants joined by ``|``."""
        if isinstance(spec, int):
            return Written(spec, spec, False)
        total = mask = 0
        fields = True
        for word in spec.split("|"):
            name = word.strip()
            number = _literal_number(name)
            if number is None:
                known = constants_of(arg, self._abi)
                if not known:
                    self._fail(
                        f'"{name}": argument {arg.name} of {self._call} has no named values; write a number'
                    )
                if name not in known:
                    self._fail(
                        f'"{name}" is not a number and not a constant for {arg.name} of {self._call}'
                        f"{_octal(name) or did_you_mean(name, known)}"
                    )
                number = known[name]
            field = field_of(arg, name)
            fields = fields and field > 0
            total, mask = total | number, mask | (field or number)
        return Written(total, mask, fields)

    def _listed(self, spec: int | str | Sequence[int | str]) -> Sequence[int | str]:
        if isinstance(spec, (int, str)):
            return [spec]
        if not spec:
            self._fail("an empty list can never hold")
        return spec

    def _any(self, parts: Iterable[Alternatives]) -> Alternatives:
        try:
            return either(parts)
        except TooMany as error:
            self._fail(f"{error}; split the rule")

    def _all(self, parts: Iterable[Alternatives]) -> Alternatives:
        found = ALWAYS
        for part in parts:
            found = self._both(found, part)
        return found

    def _both(self, first: Alternatives, second: Alternatives) -> Alternatives:
        try:
            return both(first, second)
        except TooMany as error:
            self._fail(f"{error}; split the rule")


_WORD: Final = 0xFFFFFFFF


def field_of(arg: Arg, name: str) -> int:
    """The bits of the argument that ``name`` is a value of, if it is one of a part of it: the file
    type for ``S_IFIFO`` in a mode, the access mode for ``O_WRONLY`` in open's flags.  Else 0."""
    if arg.family is None or not name[:1].isalpha():
        return 0
    return sum(mask for mask, each, _ in _values_of_fields(arg.family) if each == name)


def value_of_field(arg: Arg, number: int) -> tuple[str, int]:
    """The constant that has a number in a part of the argument, and the bits of that part; 0 if there is none."""
    found = _values_of_fields(arg.family) if arg.family is not None else ()
    return next(((name, mask) for mask, name, value in found if value == number), ("", 0))


def _values_of_fields(family: str) -> Iterator[tuple[int, str, int]]:
    """The bits, the name and the number of each constant that is a value of a part of a family's arguments."""
    from proctor.syscalls import flags

    for field in flags.fields(family):
        if field.family:
            for name, number in flags.members(field.family).items():
                value = number << field.shift
                yield field.mask & ~(0 if value & field.open else field.open), name, value


def _octal(text: str) -> str:
    """What somebody meant who wrote a mode as chmod(1) takes it, or C; TOML has another way."""
    digits = text.lstrip("0")
    return (
        f"; write 0o{digits}"
        if text[:1] == "0" and digits.isdecimal() and int(digits) and not set(digits) & set("89")
        else ""
    )


def _literal_number(text: str) -> int | None:
    """An integer in TOML's spelling, None for anything else."""
    digits = text.lstrip("+-")
    if not digits[:1].isdigit() or len(text) > 80 or not text.isascii():
        return None
    try:
        return int(text, 0)
    except ValueError:
        return None

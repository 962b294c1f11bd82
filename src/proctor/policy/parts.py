"""Warnings about conditions that hardly any call meets, since they compare all of an argument with what is a part of it.

``{ "==" = "S_IFIFO" }`` on a mode leaves no permissions, ``type = 3`` of socket(2) no SOCK_CLOEXEC; and
``{ "==" = "CLONE_NEWUSER" }`` no signal for a child's end, which a call of clone(2) that makes a child has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from proctor.policy.numbers import constants_of, field_of, value_of_field
from proctor.words import toml

if TYPE_CHECKING:
    from proctor.policy.rules import Rule
    from proctor.syscalls.signatures import Arg

_OPERATORS: Final = ("==", "!=", "<", "<=", ">", ">=")
#: What a mode has besides its type and its permissions.
_SPECIAL: Final = 0o7000


def whole_fields(rules: Iterable[Rule]) -> Iterator[str]:
    """A sentence for each such condition."""
    from proctor.syscalls.signatures import signature

    for rule in rules:
        if not rule.when or rule.implied:
            continue
        said = (
            f'rule "{rule.name}": {sentence}'
            for arch, call in rule.clauses
            for key, spec in rule.when.items()
            for described in [signature(call, arch)]
            for arg in [described.arg(key) if described is not None else None]
            if arg is not None
            for sentence in _of(arg, call, arch, key, spec)
        )
        yield from dict.fromkeys(said)


def devices_of_none(rules: Iterable[Rule]) -> Iterator[str]:
    """A sentence for each rule about the device number of what has none: mknod(2) ignores it."""
    for rule in rules:
        if "device" not in rule.when or rule.implied:
            continue
        kinds = rule.when["type"]  # without which there is no device
        if not {"char", "block"}.intersection([kinds] if isinstance(kinds, str) else kinds):
            yield (
                f'rule "{rule.name}": device = … is about the number of a device, and type = {toml(kinds)} is none; leave '
                'device out, or write type = "char" (or "block")'
            )


def _of(arg: Arg, call: str, arch: str, key: str, spec: Any) -> Iterator[str]:
    known = constants_of(arg, arch)
    for op, value in _compared(spec):
        number = value if isinstance(value, int) else sum(known.get(w, 0) for w in _words(value))
        name, mask = _part_of(arg, value, number)
        if not (mask and mask != arg.mask) or op == "is":
            pass
        elif isinstance(value, int) or isinstance(spec, Mapping):
            said = f'"{value}"' if isinstance(value, str) else _number(arg, value)
            yield (
                f'{key} = {{ "{op}" = {said} }} compares all of {key}, of which {name} is only a part; '
                f"write {_instead(arg, call, key, name, mask)}"
            )
            continue
        if name == "S_IFREG" and arg.role == "mode" and call in ("mknod", "mknodat"):
            yield (
                f"{key}: {call} makes a regular file for a mode without a type as well, which is not "
                'S_IFREG; write type = "regular"'
            )
        filled = _filled(arg, number) if op == "==" else ""
        if filled:
            yield (
                f'{key} = {{ "==" = {_quoted(value)} }} holds for no call that does something: {key} has '
                f"{filled} as well; write {key} = {{ all = [{_quoted(value, ', ')}] }}"
            )


def _compared(spec: Any) -> Iterator[tuple[str, str | int]]:
    """(operator, constants or number) for each that something is compared with; a bare one is "==", and "is" where
    it is a part that is meant."""
    for op, value in spec.items() if isinstance(spec, Mapping) else [("==", spec)]:
        if op in _OPERATORS or op == "is":
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, int):
                    yield op, each
                elif isinstance(each, str):
                    text = each.strip()
                    bare = not isinstance(spec, Mapping)
                    yield ("is" if bare and text[:1].isalpha() else op), text.lstrip("=! ")


def _part_of(arg: Arg, value: str | int, number: int) -> tuple[str, int]:
    """The constants that are meant, and the bits that they are a value of; 0 if they are meant as they stand.

    A mode of nothing but S_ISUID and the like is one that hardly any call has."""
    if arg.role == "mode" and number and not number & ~_SPECIAL:
        names = {"S_ISUID": 0o4000, "S_ISGID": 0o2000, "S_ISVTX": 0o1000}
        return "|".join(name for name, bit in names.items() if number & bit), _SPECIAL
    if isinstance(value, str):
        return value, field_of(arg, value)
    return value_of_field(arg, value) if value else ("", 0)


def _filled(arg: Arg, number: int) -> str:
    """What is in a part of the argument that a number leaves 0, though no program does."""
    from proctor.syscalls import flags

    found = flags.fields(arg.family) if arg.family is not None and number else ()
    return next((each.filled for each in found if each.filled and not number & each.mask), "")


def _instead(arg: Arg, call: str, key: str, name: str, mask: int) -> str:
    if arg.family == "OpenFlag" and call in ("open", "openat"):
        return 'access = "read", "write" or "read-write"'
    if mask == _SPECIAL:
        return f"{key} = {{ all = [{_quoted(name, ', ')}] }}"
    if arg.role == "mode":
        return f'type = "…", or {key} = "{name}" without the table'
    return f'{key} = {{ mask = {mask:#x}, is = "{name}" }}'


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split("|")]


def _quoted(value: str | int, between: str = "|") -> str:
    if isinstance(value, int):
        return f"{value:#x}"
    return '"' + between.replace(", ", '", "').join(_words(value)) + '"'


def _number(arg: Arg, value: int) -> str:
    return f"0o{value:06o}" if arg.role == "mode" else str(value)

"""The shape of a policy file: what ``msgspec`` checks before meanings are looked at.

Importing this module imports ``msgspec``; :mod:`proctor.policy.loader` does so only when a policy is
loaded.  The keys are documented for users in ``docs/policy.md``.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec

from proctor.policy.source import KeyPath, Source
from proctor.words import did_you_mean

#: What a condition may be before its argument is known: see :mod:`proctor.policy.arguments`.
Spec = Union[int, str, list[Union[int, str]], dict[str, Union[int, str, list[Union[int, str]]]]]


class RuleTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One ``[[rule]]``."""

    name: str
    calls: list[str]
    when: dict[str, Spec] = {}
    deny: Union[str, int] | None = None
    return_: int | None = msgspec.field(name="return", default=None)
    perform: bool | None = None
    allow: Union[bool, str] | None = None
    kill: bool | None = None
    log: bool | None = None
    report: bool | None = None
    deadline: float | None = None


class PolicyTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A whole policy file."""

    version: int = 1
    default: str = "allow"
    on_error: str = "EPERM"
    arches: list[str] | None = None
    foreign_arch: str = "kill"
    x32: str = "ENOSYS"
    report: bool = False
    deadline: float | None = None
    on_deadline: str | None = None
    rule: list[RuleTable] = []


#: The keys that give a rule its verdict; each rule has exactly one of them.
VERDICT_KEYS = ("deny", "return", "perform", "allow", "kill", "log")


def decode(tree: dict[str, Any], source: Source) -> PolicyTable:
    """Check the shape of a parsed TOML document.

    :raises PolicyError: an unknown or missing key, a value of the wrong type.
    """
    _known_keys(tree, PolicyTable, (), source)
    rules = tree.get("rule", [])
    if isinstance(rules, dict):
        raise source.error("rules are a list: begin each with [[rule]], not [rule]", ("rule",))
    for number, rule in enumerate(rules if isinstance(rules, list) else ()):
        if isinstance(rule, dict):
            _known_keys(rule, RuleTable, ("rule", number), source)
    try:
        return msgspec.convert(tree, PolicyTable)
    except msgspec.ValidationError as error:
        raise _reworded(error, source) from None


def _known_keys(
    table: dict[str, Any], struct: type[msgspec.Struct], path: KeyPath, source: Source
) -> None:
    known = struct.__struct_encode_fields__
    for key in table:
        if key in known:
            continue
        hint = did_you_mean(key, known)
        if not hint and struct is RuleTable:
            hint = '; conditions stand inside of "when"' if key in _CONDITION_WORDS else ""
        raise source.error(f"no such key{hint or '; there are ' + ', '.join(known)}", (*path, key))


_CONDITION_WORDS = frozenset(("path", "device", "type", "mode", "flags", "address", "caller", "fd"))

_TYPE_WORDS = {
    "int": "a whole number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
    "float": "a number with a point",
    "datetime": "a date",
    "date": "a date",
    "time": "a time",
}


def _reworded(error: msgspec.ValidationError, source: Source) -> Exception:
    """msgspec's message in TOML's words, with our key path."""
    import re

    text, _, where = str(error).partition(" - at `")
    path: list[str | int] = []
    last: KeyPath | None = None
    for name, index, dots in re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]|\[(\.\.\.)\]", where):
        if dots:  # msgspec does not say under which key of a table; the table itself will do
            last = tuple(path)
            break
        path.append(name if name else int(index))
    place: KeyPath = tuple(path) if last is None else last

    if found := re.fullmatch(r"Expected `([^`]+)`, got `([^`]+)`", text):
        words = [word.strip() for word in found[1].split("|")]
        wanted = [
            "a number" if word == "float" else _TYPE_WORDS.get(word, word)
            for word in words
            if word != "null"
        ]
        got = _TYPE_WORDS.get(found[2], found[2])
        text = f"expected {' or '.join(wanted)}, got {got}"
    elif found := re.fullmatch(r"Object missing required field `([^`]+)`", text):
        text = f'"{found[1]}" is missing'
    else:
        text = text[:1].lower() + text[1:]
    return source.error(text, place)

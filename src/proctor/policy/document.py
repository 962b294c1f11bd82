"""A policy's text: read, parsed, its shape checked, and where in it a mistake stands.

Every refusal is one :class:`~proctor.errors.PolicyError` with one sentence:
``FILE:LINE: KEY: what is wrong; what would be right``.  What a value means is not looked at here:
that is :mod:`proctor.policy.loader`'s.  The keys are documented for users in ``docs/policy.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from proctor.errors import PolicyError
from proctor.words import did_you_mean, printable, quoted

#: A policy or handler file above this many bytes is refused unread: no hand-written one gets there,
#: and a wrong argument such as a device or a disk image does.
MAX_BYTES: Final = 1 << 20
#: The line of a mistake is found by parsing, which in a text above this many bytes takes too long.
_SEARCHED: Final = 1 << 17

#: A key in a policy: names and positions, outermost first, as in ``("rule", 2, "when", "mode")``.
KeyPath = tuple[str | int, ...]
#: A value of ``when``: see :mod:`proctor.policy.when`.
Spec = int | str | Sequence[int | str] | Mapping[str, int | str | Sequence[int | str]]

_WHOLE, _TEXT, _TRUTH = "a whole number", "a string", "true or false"
_LIST, _TABLE, _NUMBER = "a list", "a table", "a number"

#: The keys at the top, and what their values are.
POLICY_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "version": (_WHOLE,), "default": (_TEXT,), "on_error": (_TEXT,), "arches": (_LIST,),
    "foreign_arch": (_TEXT,), "x32": (_TEXT,), "report": (_TRUTH,), "deadline": (_NUMBER,),
    "on_deadline": (_TEXT,), "nested": (_TEXT,), "cgroup": (_TEXT,), "limit": (_WHOLE,),
    "workers": (_WHOLE,), "rate": (_NUMBER,), "in_flight": (_WHOLE,), "audit": (_TEXT,),
    "audit_rate": (_NUMBER,), "rule": (_LIST,),
}  # fmt: skip
#: The keys that give a rule its verdict; each rule has exactly one of them.
VERDICT_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "deny": (_TEXT, _WHOLE), "return": (_WHOLE,), "perform": (_TRUTH, _TABLE), "allow": (_TRUTH, _TEXT),
    "kill": (_TRUTH, _TEXT), "log": (_TRUTH,), "freeze": (_TRUTH,), "ask": (_TABLE,),
}  # fmt: skip
#: The keys of a rule.
RULE_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "name": (_TEXT,), "calls": (_LIST,), "when": (_TABLE,), **VERDICT_KEYS, "report": (_TRUTH,),
    "deadline": (_NUMBER,), "delay": (_NUMBER,),
}  # fmt: skip
#: The keys of ``ask``.
ASK_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "how": (_TEXT,), "run": (_LIST,), "at": (_TEXT,), "timeout": (_NUMBER,), "default": (_TEXT,),
    "remember": (_TEXT,), "perform": (_TRUTH, _TABLE), "unsafe": (_TEXT,),
}  # fmt: skip
#: The keys of an agent's ``containers.toml``, and of what it says of containers.
TABLE_KEYS: Final[dict[str, tuple[str, ...]]] = {"default": (_TEXT,), "container": (_LIST,)}
MATCH_KEYS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("policy", "id", "metadata", "cookie"), (_TEXT,)), "annotations": (_TABLE,),
    **dict.fromkeys(("namespace", "pod", "container", "image", "door", "socket"), (_TEXT,)),
    "uid": (_LIST,),
}  # fmt: skip
_CONDITION_WORDS = frozenset(
    ("path", "device", "type", "mode", "flags", "address", "caller", "parents", "fd")
)


def spell(path: KeyPath) -> str:
    """``("rule", 2, "when", "mode")`` as people write it: ``rule[2].when.mode``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


class Source:
    """A named text, for error messages.

    :param name: what stands before the line number: a path, or ``<string>``.
    :param text: the whole text.
    """

    __slots__ = ("name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def error(self, message: str, path: KeyPath = ()) -> PolicyError:
        """The error to raise for what stands at ``path`` (the whole policy if empty)."""
        line = self.line_of(path) if path else None
        where = self.name if line is None else f"{self.name}:{line}"
        key = f"{spell(path)}: " if path else ""
        return PolicyError(printable(f"{where}: {key}{message}"))

    def line_of(self, path: KeyPath) -> int | None:
        """The line, counted from 1, of the statement that brings ``path`` into the document, or as
        much of it as there is; None where that would take long.

        ``tomllib`` gives places for errors of syntax only.  But whatever ends with a whole statement
        is a document too: so the line is the one behind the last document that lacks the key.
        """
        tree = _document(self.text) if len(self.text) <= _SEARCHED else None
        while path and not _has(tree, path):
            path = path[:-1]
        if not path:
            return None
        lines = self.text.replace("\r\n", "\n").split("\n")
        low, end = (
            0,
            len(lines),
        )  # up to low it is a document without the key; from end on it has it
        while end - low > 1:
            middle = (low + end) // 2
            for at in range(middle, end):  # to the end of a statement of several lines
                tree = _document("\n".join(lines[:at]))
                if tree is not None:
                    break
            if tree is None or _has(tree, path):
                end = middle
            else:
                low = at
        return low + 1


def _document(text: str) -> dict[str, Any] | None:
    """The text as a document; None if it is none."""
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _has(tree: Any, path: KeyPath) -> bool:
    for part in path:
        if isinstance(part, str):
            if not isinstance(tree, dict) or part not in tree:
                return False
        elif not isinstance(tree, list) or part >= len(tree):
            return False
        tree = tree[part]
    return True


def read_text(path: str | bytes | os.PathLike[str]) -> Source:
    """Read a policy or handler file.

    :raises PolicyError: unreadable, a directory, above :data:`MAX_BYTES`, or not UTF-8.
    """
    name = os.fsdecode(path)
    shown = name if name.isprintable() else quoted(name)
    try:
        if not os.fsencode(name):
            raise ValueError
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"{shown}: cannot be read: {error.strerror or error}") from None
    except ValueError:  # nothing, a NUL, or a lone surrogate in it
        raise PolicyError(f"{shown or quoted(name)}: not a file name") from None
    if len(data) > MAX_BYTES:
        raise PolicyError(
            f"{shown}: larger than {MAX_BYTES} bytes; that is not a policy written by hand"
        )
    try:
        text = data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(
            f"{shown}:{line}: byte {data[error.start]:#04x} at offset {error.start} is not UTF-8 text"
        ) from None
    return Source(shown, text)


def parse(source: Source) -> Mapping[str, Any]:
    """The document, with the shape that a policy has: known keys, values of the right types.

    :raises PolicyError: it is no TOML, or no policy.
    """
    tree = toml(source)
    check_keys(tree, POLICY_KEYS, (), source)
    for number, rule in enumerate(tree.get("rule", ())):
        place: KeyPath = ("rule", number)
        check_keys(rule, RULE_KEYS, place, source)
        for needed in ("name", "calls"):
            if needed not in rule:
                raise source.error(f'"{needed}" is missing', place)
        _each(rule["calls"], (_TEXT,), (*place, "calls"), source)
        if "ask" in rule:
            check_keys(rule["ask"], ASK_KEYS, (*place, "ask"), source)
            _each(rule["ask"].get("run", ()), (_TEXT,), (*place, "ask", "run"), source)
        for key, spec in rule.get("when", {}).items():
            _spec(spec, (*place, "when", key), source)
    _each(tree.get("arches", ()), (_TEXT,), ("arches",), source)
    return tree


def toml(source: Source) -> dict[str, Any]:
    """The document.

    :raises PolicyError: it is no TOML."""
    import tomllib

    try:
        return tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        text, _, where = str(error).rpartition(" (at ")
        if not text:
            raise source.error(str(error)) from None
        place = where.removesuffix(")").replace("line ", "").replace(", column ", ":")
        if place == "end of document":
            place = str(source.text.count("\n") + 1)
            if not text.startswith("Cannot "):  # what was said twice, and not what is not all there
                text += "; the file ends inside of it"
        hint = ""
        if text.startswith("Unescaped '\\'"):
            hint = "; in double quotes a backslash is written twice, in single quotes once"
        elif text == "Invalid value":
            hint = '; a text is written in quotes, as "EPERM", and true and false in small letters'
        raise Source(f"{source.name}:{place}", "").error(text + hint) from None
    except RecursionError:
        raise source.error("nested too deeply to be a policy") from None
    except ValueError:  # Python's own limit on digits
        raise source.error("a number in it has thousands of digits") from None


def check_keys(
    table: Any, known: Mapping[str, tuple[str, ...]], path: KeyPath, source: Source
) -> None:
    """See that a table has known keys only, with values of the right types.

    :raises PolicyError: it has others, or is none."""
    _expect(table, (_TABLE,), path, source)
    for key, value in table.items():
        place = (*path, key)
        if key not in known:
            hint = did_you_mean(key, known)
            if not hint and path and key in _CONDITION_WORDS:
                hint = '; conditions stand inside of "when"'
            raise source.error(f"no such key{hint or '; there are ' + ', '.join(known)}", place)
        if known[key] == (_LIST,) and not path and isinstance(value, dict):
            raise source.error(f"{key}s are a list: begin each with [[{key}]], not [{key}]", place)
        _expect(value, known[key], place, source)


def _spec(spec: Any, place: KeyPath, source: Source) -> None:
    _expect(spec, (_WHOLE, _TEXT, _LIST, _TABLE), place, source)
    if isinstance(spec, dict):
        for key, value in spec.items():
            _expect(value, (_WHOLE, _TEXT, _LIST), (*place, key), source)
            if isinstance(value, list):
                _each(value, (_WHOLE, _TEXT), (*place, key), source)
    elif isinstance(spec, list):
        _each(spec, (_WHOLE, _TEXT), place, source)


def _each(values: Iterable[Any], wanted: tuple[str, ...], place: KeyPath, source: Source) -> None:
    for number, value in enumerate(values):
        _expect(value, wanted, (*place, number), source)


def _expect(value: Any, wanted: tuple[str, ...], place: KeyPath, source: Source) -> None:
    kind = next((word for kind, word in _KINDS if isinstance(value, kind)), "a date or a time")
    if kind not in wanted and not (kind in (_WHOLE, _POINT) and _NUMBER in wanted):
        raise source.error(f"expected {' or '.join(wanted)}, got {kind}", place)
    if isinstance(value, int) and value.bit_length() > _LONGEST:
        raise source.error(
            f"a number of more than {_LONGEST} bits is nothing to a system call", place
        )


_LONGEST: Final = 128  # bits; hexadecimal digits have no limit of Python's
_POINT: Final = "a number with a point"
_KINDS: Final = (
    (bool, _TRUTH), (int, _WHOLE), (float, _POINT), (str, _TEXT), (list, _LIST), (dict, _TABLE),
)  # fmt: skip

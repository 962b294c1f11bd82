"""The text of a policy, and how errors point into it.

Every refusal is one :class:`~proctor.errors.PolicyError` with one sentence:
``FILE:LINE: KEY: what is wrong; what would be right``.  ``tomllib`` gives line and column for
syntax errors only, so lines of semantic errors are found again here by looking for the key; where
that is not certain the line is left out, never guessed.
"""

from __future__ import annotations

import os
from typing import Final

from proctor.errors import PolicyError
from proctor.words import printable, quoted

#: A policy or handler file above this many bytes is refused unread: no hand-written one gets there,
#: and a wrong argument such as a device or a disk image does.
MAX_BYTES: Final = 1 << 20

#: A key in a policy: names and positions, outermost first, as in ``("rule", 2, "when", "mode")``.
KeyPath = tuple[str | int, ...]


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
        line = self.line_of(path)
        where = self.name if line is None else f"{self.name}:{line}"
        key = f"{spell(path)}: " if path else ""
        return PolicyError(printable(f"{where}: {key}{message}"))

    def line_of(self, path: KeyPath) -> int | None:
        """The line of a key, counted from 1; None where it cannot be told for certain."""
        if not path or '"""' in self.text or "'''" in self.text:
            return None  # inside a multi-line string anything may look like a key
        lines = self.text.splitlines()
        first, last = 0, len(lines)
        keys = [part for part in path if isinstance(part, str)]
        if len(path) > 1 and path[0] == "rule" and isinstance(path[1], int):
            heads = [i for i, line in enumerate(lines) if _header(line) == "[[rule]]"]
            if path[1] >= len(heads):
                return None  # written another way: rule = [ {...} ]
            first = heads[path[1]]
            last = heads[path[1] + 1] if path[1] + 1 < len(heads) else last
            keys = keys[1:]
        for depth in range(len(keys), 0, -1):
            found = _line_with(lines, first, last, keys[:depth])
            if found is not None:
                return found + 1
        return first + 1 if path[0] == "rule" and len(path) > 1 else None


def _header(line: str) -> str:
    """A table header without its comment and spaces; empty for other lines."""
    bare = line.split("#", 1)[0].replace(" ", "").replace("\t", "")
    return bare if bare.startswith("[") and bare.endswith("]") else ""


def _line_with(lines: list[str], first: int, last: int, keys: list[str]) -> int | None:
    """The only line in a range that holds ``keys``, the outer ones before the inner."""
    import re

    bare = r"""(?<![\w"'.-])["']?%s["']?\s*[=.]"""
    start = first
    for position, key in enumerate(keys):
        pattern = re.compile(bare % re.escape(key))
        header = f".{'.'.join(keys[: position + 1])}]"
        hits = [
            i
            for i in range(start, last)
            if pattern.search(_without_strings(lines[i])) or _header(lines[i]).endswith(header)
        ]
        if not hits:
            return None
        start = hits[0]
    return start


def _without_strings(line: str) -> str:
    """The line with what stands in quotes after an equals sign, and comments, blanked."""
    out = []
    quote = ""
    after_equals = False
    for char in line:
        if quote:
            quote = "" if char == quote else quote
            out.append(" " if after_equals else char)
            continue
        if char == "#":
            break
        if char in "\"'":
            quote = char
        elif char == "=":
            after_equals = True
        elif char in ",{":
            after_equals = False
        out.append(char)
    return "".join(out)


def read_text(path: str | bytes | os.PathLike[str]) -> Source:
    """Read a policy or handler file.

    :raises PolicyError: unreadable, a directory, above :data:`MAX_BYTES`, or not UTF-8.
    """
    name = os.fsdecode(path)
    shown = name if name.isprintable() else quoted(name)
    if not name or "\0" in name:
        raise PolicyError(f"{shown or quoted(name)}: not a file name")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"{shown}: cannot be read: {error.strerror or error}") from None
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

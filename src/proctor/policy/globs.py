r"""Path patterns, on bytes.

A pattern is matched against a whole absolute path, component by component:

* ``*`` any run of bytes within one component, also none; ``?`` one byte; neither matches ``/``;
* ``[abc]``, ``[a-z]``, ``[!a-z]`` one byte of (not of) a set;
* ``**`` as a whole component: any number of components; at the end at least one, so ``/dev/**`` is
  everything below ``/dev`` and not ``/dev`` itself;
* ``\xHH`` the byte with that value, ``\*`` a literal star; likewise for every other character.

Text outside of escapes stands for its UTF-8 bytes.  A leading dot is not special.

Of a path as it was passed (:data:`Kind` ``text``) a pattern may be relative, and each component counts
as it is written: ``..`` and the empty ones, too.  Names (``name``) are one component, in which ``/``
is a byte like any other.

A vector of strings such as argv (``words``) is matched string by string: a pattern has its words with
one space between, a space within one is written ``\ ``, and ``**`` is any number of words, also none.

Matching takes time in proportion to the length of the path, whatever the path: paths come from the
target, and a pattern that could be made to backtrack would let the target stall its monitor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from proctor.errors import PolicyError
from proctor.words import escaped

_SPECIAL: Final = "*?[]\\"

#: A set of bytes: whether it is negated, and its ranges, ends included.
_Set = tuple[bool, list[tuple[int, int]]]
#: Matches one component.
_Part = Callable[[bytes], object]


class GlobError(PolicyError):
    """A pattern that cannot be, or that could never match; the message says which and why."""


#: How programs of patterns begin, and what stands for ``**`` in the place of a length.
_PROGRAMS: Final = {"path": 1, "text": 2}
_ANY_NUMBER: Final = 0xFFFF

#: What is matched: a resolved path, a path as it was passed, a name (of an abstract socket, a
#: file-system type), or strings with a NUL between them.
Kind = Literal["path", "text", "name", "words"]


class Glob:
    """One compiled pattern.

    >>> Glob("/srv/**/*.key").matches(b"/srv/a/b/tls.key")
    True

    :param kind: patterns for a ``path`` begin with ``/`` or ``**/``.
    :raises GlobError: the pattern is malformed or could never match.
    """

    __slots__ = ("_groups", "_literal", "_parts", "kind", "text")

    def __init__(self, text: str, kind: Kind = "path") -> None:
        self.text = text
        self.kind: Kind = kind
        self._literal: bytes | None = None
        self._groups: list[list[_Part]] = [[]]
        try:
            text.encode()  # whatever is wrong, what is said of it has the text
            if kind == "words":
                self._parts = _words(text)
            else:
                self._parts = [text] if kind == "name" else _components(text, kind)
            parts = [None if each is None else _part(each) for each in self._parts]
        except UnicodeEncodeError:
            raise GlobError(
                "half of a character (a lone surrogate) is no text; a byte is written \\xHH"
            ) from None
        known = [part for part in parts if isinstance(part, bytes)]
        if len(known) == len(parts):
            self._literal = (b"\0" if kind == "words" else b"/").join(known)
            return
        for each in parts:
            if each is None:
                self._groups.append([])
            else:
                self._groups[-1].append(each.__eq__ if isinstance(each, bytes) else each)

    def matches(self, seen: bytes) -> bool:
        """Whether the whole of ``seen`` matches."""
        if self._literal is not None:
            return seen == self._literal
        separator = b"\0" if self.kind == "words" else b"/"
        parts = [seen] if self.kind == "name" else seen.split(separator)
        if self.kind == "path":
            if parts[0]:
                return False
            if seen == b"/":
                parts.pop()
        groups = self._groups
        head = groups[0]
        if len(groups) == 1:
            return len(parts) == len(head) and _here(head, parts, 0)
        tail = groups[-1]
        last = len(parts) - len(tail)
        if not tail and self.kind != "words":
            last -= 1  # a trailing ** takes at least one component
        if last < len(head) or not _here(head, parts, 0):
            return False
        if tail and not _here(tail, parts, last):
            return False
        # Between the first and the last ** each group is taken at its leftmost place: all gaps
        # are alike, so an earlier place never spoils a later group.
        at = len(head)
        for group in groups[1:-1]:
            while at + len(group) <= last and not _here(group, parts, at):
                at += 1
            if at + len(group) > last:
                return False
            at += len(group)
        return at <= last

    def program(self) -> bytes | None:
        """The pattern for ``_core.matches``, which does the same without the interpreter's lock; None for
        kinds that it does not know, and patterns of a monstrous length.  See ``core/usual/match.c``."""
        if self.kind not in _PROGRAMS:
            return None
        if self._literal is not None:
            return b"\0" + self._literal
        code = bytes((_PROGRAMS[self.kind],))
        for part in self._parts:
            tokens = b"" if part is None else b"".join(map(_program, _tokens(part)))
            if len(tokens) >= _ANY_NUMBER:
                return None
            code += (_ANY_NUMBER if part is None else len(tokens)).to_bytes(2, "little") + tokens
        return code

    def __repr__(self) -> str:
        return f"Glob({self.text!r})"


def _components(text: str, kind: Kind) -> list[str | None]:
    """A path pattern's components; None for ``**``."""
    if kind == "path" and (text.startswith("**/") or text == "**"):
        text = "/" + text
    if kind == "path" and not text.startswith("/"):
        raise GlobError(
            "a path pattern begins with / (it is matched against the absolute path that the "
            f"caller's would resolve to): /{text} or **/{text}"
        )
    pieces = text.split("/")
    parts: list[str | None] = []
    for number, piece in enumerate(pieces):
        if piece == "**":
            if not parts or parts[-1] is not None:  # **/** is **
                parts.append(None)
            continue
        _refuse_stars(piece, "slashes, as in /srv/**/x; within a name")
        if kind == "path" and piece in ("", ".", "..") and number and text != "/":
            what = "an empty component" if not piece else f'"{piece}"'
            raise GlobError(f"{what} never occurs in a resolved path, so this could never match")
        if any(isinstance(token, bytes) and b"\0" in token for token in _tokens(piece)):
            raise GlobError("a NUL byte cannot occur in a path")
        parts.append(piece)
    return parts


def _refuse_stars(piece: str, where: str) -> None:
    if "**" in piece.replace("\\*", ""):
        raise GlobError(f'"**" stands alone between {where} use "*"')


def _words(text: str) -> list[str | None]:
    """The words of a pattern for strings; None for ``**``."""
    words = [""]
    at = 0
    while at < len(text):
        if text[at] == " ":
            words.append("")
            at += 1
        else:
            step = 1 + (text[at] == "\\")
            words[-1] += text[at : at + step]
            at += step
    parts: list[str | None] = []
    for word in words:
        if word != "**":
            _refuse_stars(word, "spaces, as in git ** push; within a word")
            if any(isinstance(token, bytes) and b"\0" in token for token in _tokens(word)):
                raise GlobError("a NUL byte cannot occur in an argument")
            parts.append(word)
        elif not parts or parts[-1] is not None:
            parts.append(None)
    return parts


def _here(group: list[_Part], parts: list[bytes], at: int) -> bool:
    """Whether ``group`` matches the components from ``at`` on."""
    return all(part(parts[at + i]) is True for i, part in enumerate(group))


def literal(data: bytes, kind: Kind = "path") -> str:
    """A pattern that matches exactly ``data``: what is special is escaped, what is not UTF-8 or
    not printable is written ``\\xHH``."""
    if kind == "words":
        return " ".join(escaped(word, _SPECIAL + " ") for word in data.split(b"\0"))
    return escaped(data, _SPECIAL)


def _tokens(text: str) -> list[bytes | str | _Set]:
    """Literal runs as bytes, ``*`` and ``?`` as text, sets as (negated, ranges)."""
    out: list[bytes | str | _Set] = []
    run = bytearray()
    at = 0

    def flush() -> None:
        if run:
            out.append(bytes(run))
            run.clear()

    while at < len(text):
        char = text[at]
        if char == "\\":
            data, at = _escape(text, at)
            run += data
        elif char in "*?":
            flush()
            if char == "?" or not out or out[-1] != "*":
                out.append(char)
            at += 1
        elif char == "[":
            flush()
            members, at = _set(text, at)
            out.append(members)
        else:
            run += char.encode("utf-8", "surrogateescape")
            at += 1
    flush()
    return out


def _escape(text: str, at: int) -> tuple[bytes, int]:
    """The bytes of the escape at ``at``, and where it ends."""
    if at + 1 >= len(text):
        raise GlobError('a lone "\\" at the end; write "\\\\" for a backslash')
    char = text[at + 1]
    if char != "x":
        return char.encode("utf-8", "surrogateescape"), at + 2
    digits = text[at + 2 : at + 4]
    if len(digits) != 2 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise GlobError(f'"\\x{digits}": write a byte with two hexadecimal digits, as in \\xff')
    value = int(digits, 16)
    if value == ord("/"):
        raise GlobError('"\\x2f" is "/", which always separates components')
    return bytes([value]), at + 4


def _set(text: str, at: int) -> tuple[_Set, int]:
    """The set that begins at ``at``, and where it ends."""
    start = at
    at += 1
    negated = text[at : at + 1] in ("!", "^")
    at += negated
    ranges: list[tuple[int, int]] = []

    def one(at: int) -> tuple[int, int]:
        char = text[at]
        if char == "\\":
            data, at = _escape(text, at)
        else:
            data, at = char.encode("utf-8", "surrogateescape"), at + 1
        if len(data) != 1:
            raise GlobError(
                f'"{text[start:at]}": a set holds single bytes; list the whole names instead'
            )
        return data[0], at

    first = True
    while at < len(text) and (first or text[at] != "]"):
        first = False
        low, at = one(at)
        high = low
        if text[at : at + 1] == "-" and text[at + 1 : at + 2] not in ("]", ""):
            high, at = one(at + 1)
        if high < low:
            raise GlobError(f'"{text[start:at]}": the range runs backwards')
        ranges.append((low, high))
    if at >= len(text):
        raise GlobError(f'"{text[start:]}": a set without its "]"; write "\\[" for a bracket')
    return (negated, ranges), at + 1


def _part(text: str) -> bytes | _Part:
    """One component: its bytes when nothing in it is special, else a function that matches."""
    tokens = _tokens(text)
    if all(isinstance(token, bytes) for token in tokens):
        return b"".join(token for token in tokens if isinstance(token, bytes))
    import re

    runs: list[bytes] = [b""]
    width = 0  # bytes that the last run takes
    for token in tokens:
        if token == "*":
            runs.append(b"")
            width = 0
        elif isinstance(token, bytes):
            runs[-1] += re.escape(token)
            width += len(token)
        else:
            runs[-1] += b"." if isinstance(token, str) else _class(token)
            width += 1
    if len(runs) == 1:
        whole = re.compile(runs[0], re.DOTALL).fullmatch
        return lambda data: whole(data) is not None
    # Each run between two stars is taken at its leftmost place and kept (an atomic group): all
    # stars are alike, so that loses nothing, and it cannot backtrack.  The last run has a fixed
    # width, so its place is known.
    middle = b"".join(b"(?>.*?" + run + b")" for run in runs[1:-1])
    begin = re.compile(runs[0] + middle, re.DOTALL).match
    end = re.compile(runs[-1], re.DOTALL).fullmatch

    def matches(data: bytes) -> bool:
        found = begin(data)
        at = len(data) - width
        return found is not None and at >= found.end() and end(data, at) is not None

    return matches


def _program(token: bytes | str | _Set) -> bytes:
    """The same for ``_core.matches``."""
    if isinstance(token, bytes):
        runs = [token[at : at + 255] for at in range(0, len(token), 255)]
        return b"".join(bytes((1, len(run))) + run for run in runs)
    if isinstance(token, str):
        return b"\2" if token == "?" else b"\3"
    negated, ranges = token
    bits = 0
    for low, high in ranges:
        bits |= (1 << high + 1) - (1 << low)
    return b"\4" + (bits ^ negated * ((1 << 256) - 1)).to_bytes(32, "little")


def _class(members: _Set) -> bytes:
    """A set as a regular expression."""
    negated, ranges = members
    inner = b"".join(b"\\x%02x-\\x%02x" % pair for pair in ranges)
    return b"[" + (b"^" if negated else b"") + inner + b"]"

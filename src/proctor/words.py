"""How names and bytes of others are shown, and what a mistyped word was meant to be.

What is shown here may come from a target or a file: none of it can end a line, move a cursor or
pass for something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """``; did you mean "x"?`` for the known word most like ``word``, or nothing."""
    import difflib

    known = list(known)
    near = [each for each in known if each.casefold() == str(word).casefold()]
    near = near or difflib.get_close_matches(str(word), known, 1, 0.6)
    return f"; did you mean {quoted(near[0])}?" if near else ""


def listed(option: str, given: object, kind: str = "names") -> tuple[str, ...]:
    """The value of an option that is a list of texts.

    :raises ValueError: it is something else."""
    if not isinstance(given, (list, tuple)) or not all(isinstance(each, str) for each in given):
        raise ValueError(f"{option} is a list of {kind}, not {given!r}")
    return tuple(given)


def chosen(option: str, given: object, known: Iterable[str]) -> tuple[str, ...]:
    """The value of an option that is some of the known words.

    :param option: its name, a plural.
    :raises ValueError: it is no list of such words."""
    given, known = listed(option, given), list(known)
    for each in given:
        if each not in known:
            raise ValueError(f"no {option[:-1]} {quoted(each)}{did_you_mean(each, known)}")
    return given


def one_of(words: Iterable[str]) -> str:
    """``"a", "b" or "c"``."""
    listed = [quoted(word) for word in words]
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} or {listed[-1]}"


def quoted(text: str) -> str:
    """``text`` as a TOML basic string: safe to show on a terminal and to paste into a policy."""
    out = []
    for char in text:
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif char == "\n":
            out.append("\\n")
        elif char == "\t":
            out.append("\\t")
        elif code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000:
            out.append(f"\\u{code:04X}")
        elif not char.isprintable():
            out.append(f"\\U{code:08X}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


class Octal(int):
    """A mode: nobody reads one in decimal."""


def toml(value: object) -> str:
    """Texts, numbers, lists and tables of them in one line of TOML.

    >>> toml({"a": [1, "b"], "c:d": True})
    '{ a = [1, "b"], "c:d" = true }'
    """
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"0o{value:03o}" if isinstance(value, Octal) else str(value)
    if isinstance(value, Mapping):
        keys = {key: key if _bare(key) else quoted(key) for key in value}
        return f"{{ {', '.join(f'{keys[key]} = {toml(each)}' for key, each in value.items())} }}"
    assert isinstance(value, Iterable)
    return f"[{', '.join(map(toml, value))}]"


def printable(text: str) -> str:
    """The text in one line that does nothing to a terminal; what is printable stays as it is."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else quoted(char)[1:-1] for char in text)


def escaped(data: bytes, special: str = '"\\') -> str:
    """Bytes as printable text, without loss: what is not UTF-8 or not printable is ``\\xHH``, and
    characters in ``special``, among which the backslash must be, stand behind one."""
    out = []
    for char in data.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char in special:
            out.append("\\" + char)
        elif not char.isprintable():
            out.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8"))
        else:
            out.append(char)
    return "".join(out)


def c_string(data: bytes, limit: int = 1024) -> str:
    """Bytes as a C string literal of printable ASCII, as strace writes them; of more than
    ``limit`` bytes the first, and ``...`` behind the quotes."""
    shown = data[:limit]
    if _plain(shown) is not None:
        text = shown.decode()
    else:
        out = []
        for place, byte in enumerate(shown):
            if byte in (0x22, 0x5C):
                out.append("\\" + chr(byte))
            elif 0x20 <= byte < 0x7F:
                out.append(chr(byte))
            elif byte in _ESCAPES:
                out.append(_ESCAPES[byte])
            else:  # octal, and as short as what follows allows
                digit = shown[place + 1 : place + 2].isdigit()
                out.append(f"\\{byte:03o}" if digit else f"\\{byte:o}")
        text = "".join(out)
    return f'"{text}"...' if len(data) > limit else f'"{text}"'


#: Keys that TOML has without quotes.
_bare: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_plain: Final = re.compile(rb"[ !#-\[\]-~]*").fullmatch
_ESCAPES: Final = {0x09: "\\t", 0x0A: "\\n", 0x0B: "\\v", 0x0C: "\\f", 0x0D: "\\r"}

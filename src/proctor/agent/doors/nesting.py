"""Where a JSON text that has no length before it ends, found as its bytes come, each of which is looked at once."""

from __future__ import annotations

import re
from typing import Final

#: A string.  One whose end has not come is looked at once: all other quotation marks in it are behind backslashes.
_STRING: Final = re.compile(rb'(?<!\\)"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class Nesting:
    """How deep in a text it is where its bytes end so far.  Whether these are JSON is for others to say.

    >>> nesting = Nesting()
    >>> [nesting.ends_with(piece) for piece in (b'{"a": "}', b'{", "b": {}', b"}")]
    [False, False, True]
    """

    __slots__ = ("_begun", "_depth", "_string")

    def __init__(self) -> None:
        self._begun = False
        self._depth = 0
        #: What stands for the string that is not over: its mark, and a backslash whose other half has not come.
        self._string = b""

    def ends_with(self, piece: bytes | bytearray) -> bool:
        """Whether the text is over with this piece, or is none."""
        outside, mark, inside = _STRING.sub(b"", self._string + piece).partition(b'"')
        self._string = mark + b"\\" * ((len(inside) - len(inside.rstrip(b"\\"))) % 2)
        self._begun = self._begun or piece.strip() != b""
        self._depth += outside.count(b"{") + outside.count(b"[")
        self._depth -= outside.count(b"}") + outside.count(b"]")
        return self._begun and self._depth <= 0 and not self._string

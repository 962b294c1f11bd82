"""Paper to draw on: the few SVG elements that the model's pictures need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

FONT: Final = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
INK: Final = "#1b1f23"
_QUOTE: Final = {'"': "&quot;"}


class Point(NamedTuple):
    """A place on the paper."""

    x: float
    y: float


class Paper:
    """Collects SVG elements.

    :param heads: arrow heads, by id, and their colours; a path takes one as its ``marker_end``.
    """

    def __init__(self, title: str, width: int, height: int, heads: Mapping[str, str]) -> None:
        self.parts: list[str] = []
        self.title = title
        self.heads = heads
        self.width = width
        self.height = height

    def add(self, name: str, text: str | None = None, /, **attributes: object) -> None:
        """One element; underscores in names become dashes."""
        given = "".join(
            f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value), _QUOTE)}"'
            for key, value in attributes.items()
        )
        self.parts.append(
            f"<{name}{given}/>" if text is None else f"<{name}{given}>{escape(text)}</{name}>"
        )

    def text(self, at: Point, text: str, size: float = 13, **attributes: object) -> None:
        """A line of text."""
        given: dict[str, object] = {"fill": INK, "font_size": size, **attributes}
        self.add("text", text, **{"x": at.x, "y": at.y, **given})

    def box(self, at: Point, width: float, height: float, **attributes: object) -> None:
        """A rounded box, ``at`` its upper left corner."""
        self.add("rect", x=at.x, y=at.y, width=width, height=height, **attributes)

    def render(self) -> str:
        """The file."""
        heads = "".join(
            f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="11" '
            f'markerHeight="11" markerUnits="userSpaceOnUse" orient="auto">'
            f'<path d="M0 0L10 5L0 10Z" fill="{colour}"/></marker>'
            for name, colour in self.heads.items()
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" font-family="{FONT}">\n'
            f"<title>{escape(self.title)}</title>\n"
            f"<defs>{heads}</defs>\n"
            f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def extent(text: str, size: float) -> float:
    """How wide a text will be, about."""
    return len(text) * size * 0.62

"""The last events of a simulation as a sequence chart (SVG).

Lifelines are callers on the left, then the supervisor, then workers and the event loop; time goes
down, one event a row.  A call is an arrow to the supervisor that ends where it was received; an
answer is an arrow back, which ends where the caller returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from proctor.model.sim.ledger import Event

#: Most callers, and rows, that are drawn.
_CALLERS: Final = 7
_ROWS: Final = 48
_ROW: Final = 20
_COLUMN: Final = 130
_LEFT: Final = 160
_TOP: Final = 96

_STYLE: Final = """
text{font:12px system-ui,sans-serif;fill:#1b1f24}
.head{font-weight:600;text-anchor:middle}.time{fill:#6e7781;text-anchor:end;font-size:11px}
.title{font-size:15px;font-weight:600}.life{stroke:#d0d7de;stroke-width:1.5}
.call{stroke:#0969da}.answer{stroke:#1a7f37}.late{stroke:#cf222e;stroke-dasharray:5 3}
.fate{stroke:#9a6700;stroke-dasharray:2 3}.hand{stroke:#8250df;stroke-dasharray:4 3}
line{stroke-width:1.6;fill:none}.label{paint-order:stroke;stroke:#fff;stroke-width:4px;stroke-linejoin:round}
"""
_COLOURS: Final = {
    "call": "#0969da", "answer": "#1a7f37", "late": "#cf222e", "fate": "#9a6700", "hand": "#8250df",
}  # fmt: skip
_LEGEND: Final = (
    ("call", "call, until received"), ("answer", "answer"), ("late", "too late: its caller is gone"),
    ("hand", "handed to a worker"), ("fate", "signal, fork, exec (red: death)"),
)  # fmt: skip
_ENDS: Final = ("died", "VIOLATION")
_WORK: Final = ("begin", "resume", "step")


def draw(events: Sequence[Event], title: str) -> str:
    """The chart, as the text of an SVG file."""
    rows = _choose(events)
    columns = _lifelines(rows)
    width = _LEFT + _COLUMN * max(len(columns), 5) + 130
    height = _TOP + _ROW * (len(rows) + 1) + 30
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}">',
            f"<style>{_STYLE}</style>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            *_markers(),
            f'<text class="title" x="20" y="26">{escape(title)}</text>',
            *_legend(),
            *_lives(columns, height),
            *_arrows(rows, columns),
            "</svg>",
        ]
    )


def _callers(event: Event) -> str:
    """The caller an event is about; "" if it is about none."""
    name = event.other or event.who
    return name if "." in name else ""


def _choose(events: Sequence[Event]) -> list[Event]:
    """The last rows about the few callers that most happened to; of the rest, nothing."""
    recent = [event for event in events if event.kind not in _WORK][-6 * _ROWS :]
    often: dict[str, int] = {}
    for event in recent:
        caller = _callers(event)
        if caller:
            often[caller] = often.get(caller, 0) + 1
            often[caller] += 6 * (event.kind in ("too late", "signal", "died"))
    kept = set(sorted(often, key=lambda name: often[name], reverse=True)[:_CALLERS])
    calls = {event.call for event in recent if event.call and _callers(event) in kept}
    chosen = [
        event
        for event in recent
        if event.call in calls or _callers(event) in kept or event.kind == "VIOLATION"
    ]
    return chosen[-_ROWS:]


def _lifelines(rows: Sequence[Event]) -> dict[str, float]:
    """Name to where its lifeline is: callers, the supervisor, who works for it."""
    callers = sorted({_callers(event) for event in rows} - {""}, key=_natural)
    works = {event.who for event in rows if event.who.startswith(("worker", "event"))}
    names = [*callers, "supervisor", *sorted(works, key=lambda name: (name[0] == "e", name))]
    return {name: _LEFT + _COLUMN * (at + 0.5) for at, name in enumerate(names)}


def _natural(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.lstrip("c").split("."))


def _markers() -> list[str]:
    return [
        f'<marker id="to-{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
        for name, colour in _COLOURS.items()
    ]


def _legend() -> list[str]:
    made, x = [], 20
    for name, text in _LEGEND:
        if name == "fate":
            mark = _cross(x + 20, 46, _COLOURS[name])
        else:
            mark = _arrow(name, x, 46, x + 28, 46)
        made.append(f'{mark}<text x="{x + 34}" y="50">{text}</text>')
        x += 50 + 7 * len(text)
    return made


def _lives(columns: dict[str, float], height: int) -> list[str]:
    made = []
    for name, x in columns.items():
        made.append(f'<text class="head" x="{x}" y="{_TOP - 18}">{escape(name)}</text>')
        made.append(f'<line class="life" x1="{x}" y1="{_TOP - 10}" x2="{x}" y2="{height - 20}"/>')
    return made


def _arrow(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line class="{kind}" x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" '
        f'marker-end="url(#to-{kind})"/>'
    )


def _label(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text class="label" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _cross(x: float, y: float, colour: str) -> str:
    return (
        f'<path d="M{x - 5:.0f} {y - 5:.0f}l10 10m0 -10l-10 10" stroke="{colour}" '
        f'stroke-width="2"/>'
    )


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3.5" fill="{colour}"/>'


def _arrows(rows: Sequence[Event], columns: dict[str, float]) -> list[str]:
    """Arrows first, words above them."""
    lines: list[str] = []
    words: list[str] = []
    asked: dict[int, float] = {}
    said: dict[int, tuple[float, float, str]] = {}
    for at, event in enumerate(rows):
        y = _TOP + _ROW * (at + 0.7)
        words.append(f'<text class="time" x="80" y="{y + 4:.0f}">{event.now:.6f}</text>')
        x = columns.get(event.who, columns["supervisor"])
        caller = columns.get(_callers(event))
        kind, text = event.kind, event.text
        if kind == "call":
            asked[event.call] = y
            lines.append(_dot(x, y, _COLOURS["call"]))
            words.append(_label(x - 8, y + 4, f"{text} #{event.call}", "end"))
        elif kind == "receive" and caller is not None:
            lines.append(_arrow("call", caller, asked.get(event.call, y), x, y))
            words.append(_label(x + 8, y + 4, f"receive #{event.call}"))
        elif kind == "handler":
            if x != columns["supervisor"]:
                lines.append(_arrow("hand", columns["supervisor"], y, x, y))
            words.append(_label(x + 8, y + 4, f"“{text}” #{event.call}"))
        elif kind == "add fd" and caller is not None:
            # the call may return with it before the supervisor's own call is over
            said[event.call] = (x, y, "answer")
            words.append(_label(x + 8, y + 4, f"add fd #{event.call}"))
        elif kind in ("answer", "too late") and caller is not None:
            name = "answer" if kind == "answer" else "late"
            said[event.call] = (x, y, name)
            if kind == "too late":
                lines.append(_arrow(name, x, y, caller, y))
            words.append(_label(x + 8, y + 4, f"{kind} {_short(text)} #{event.call}"))
        elif kind == "return":
            from_x, from_y, name = said.get(event.call, (x, y, ""))
            if name == "answer":
                lines.append(_arrow(name, from_x, from_y, x, y))
            words.append(_label(x - 8, y + 4, f"→ {text} #{event.call}", "end"))
        else:
            place = caller if caller is not None else x
            words.append(_label(place - 10, y + 4, f"{kind} {text}"[:90], "end"))
            lines.append(_cross(place, y, _COLOURS["late" if kind in _ENDS else "fate"]))
    return lines + words


def _short(answer: str) -> str:
    """An answer in few words: (value, error, flags), or the number of a descriptor."""
    if not answer.startswith("("):
        return "" if answer == "None" else f"fd {answer}"
    value, error, flags = (int(part) for part in answer.strip("()").split(","))
    if flags:
        return "run"
    return str(error) if error else str(value)

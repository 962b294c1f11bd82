"""``python -m proctor.model.draw.life [--out FILE.svg]``: the life of a notification as a picture.

Everything that moves is taken from the model's own transition table
(:mod:`proctor.model.kernel.transitions`), and poll bits from the model's own listener, so the picture
cannot say something else than the code; an arrow that has no place here is an error, not left out.
A test holds ``docs/notification.svg`` to what the table renders now.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Final

from proctor.model.draw.paper import INK, Paper, Point, extent
from proctor.model.kernel.errors import ModelError
from proctor.model.kernel.features import FEATURES
from proctor.model.kernel.linux import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from proctor.model.kernel.listener import Notifications
from proctor.model.kernel.transitions import GONE, INIT, NEW, REPLIED, SENT, TABLE, Transition

WIDTH: Final = 1460
_BOX_W: Final = 186
_BOX_H: Final = 248
_ROW_Y: Final = 300
_GONE_Y: Final = 640
_ARC_Y: Final = 118
_LANE_INSET: Final = 22
_TABLE_Y: Final = 752
_ROW_H: Final = 43

#: Columns of the states in the row, and what a reader should know about each.
_COLUMNS: Final = {INIT: 322, SENT: 750, REPLIED: 1195}
_TITLES: Final = {
    INIT: ("INIT", "waits to be received"),
    SENT: ("SENT", "received, not answered"),
    REPLIED: ("REPLIED", "answered; the caller is yet to run"),
    GONE: ("gone", "not in the list: ioctls that name it say ENOENT"),
}
#: Colour and dashes by whose doing it is.
_WHO: Final = {
    "caller": ("#1d5fa8", "7 4"),
    "monitor": ("#b4500f", ""),
    "kernel": ("#4a5157", "2 3"),
}
_BITS: Final = ((POLLIN, "IN"), (POLLRDNORM, "RDNORM"), (POLLOUT, "OUT"), (POLLWRNORM, "WRNORM"))
_SOFT: Final = "#57606a"


def bits(mask: int) -> str:
    """Poll bits by name."""
    return " ".join(name for bit, name in _BITS if mask & bit)


def poll_bits(state: str) -> int:
    """What poll(2) says of a listener with one notification in ``state``: asked of the model."""
    listener: Any = SimpleNamespace(
        notifications={1: SimpleNamespace(state=state)},
        filter=SimpleNamespace(users=1),
        kernel=SimpleNamespace(features=frozenset()),
    )
    mask: int = Notifications.poll(listener)
    return mask


def ioctl(row: Transition) -> str:
    """The monitor's ioctl, as the row's meaning begins with it; empty for other doings."""
    found = re.match(r"(RECV|SEND|ADDFD)\b(?: with ([A-Z]+))?", row.meaning)
    return "|".join(word for word in found.groups() if word) if found else ""


def since(feature: str) -> str:
    """The first kernel with a feature, for a label; empty for what all have."""
    return FEATURES[feature].since if feature else ""


def kernels(row: Transition) -> str:
    """Which kernels have the row."""
    when = since(row.feature)
    if not when:
        return "all"
    return "a later fix" if when == "later" else f"{when} and newer"


# Arrows -------------------------------------------------------------------------------------


def arrow(
    paper: Paper, row: Transition, points: Sequence[Point], number: int, label: Point
) -> None:
    """One transition: a line with rounded corners, its number, and what it is called."""
    colour, dashes = _WHO[row.who]
    radius = 16.0
    path = f"M{points[0].x:g} {points[0].y:g}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _toward(corner, before, radius), _toward(corner, after, radius)
        path += f"L{start.x:g} {start.y:g}Q{corner.x:g} {corner.y:g} {end.x:g} {end.y:g}"
    path += f"L{points[-1].x:g} {points[-1].y:g}"
    style = {"stroke_dasharray": dashes} if dashes else {}
    paper.add(
        "path", d=path, fill="none", stroke=colour, stroke_width=1.8,
        marker_end=f"url(#{row.who})", **style,
    )  # fmt: skip
    _label(paper, row, number, label)


def _toward(corner: Point, other: Point, radius: float) -> Point:
    """The point ``radius`` away from a corner, on the way to ``other`` (straight up or across)."""
    dx, dy = other.x - corner.x, other.y - corner.y
    length = max(abs(dx), abs(dy)) or 1.0
    reach = min(radius, length / 2)
    return Point(corner.x + dx / length * reach, corner.y + dy / length * reach)


def _label(paper: Paper, row: Transition, number: int, at: Point) -> None:
    """Number, event, ioctl, and what is woken, in one line that begins at ``at``."""
    colour, _ = _WHO[row.who]
    badge(paper, Point(at.x + 8, at.y - 4), number, colour)
    x = at.x + 22
    paper.text(Point(x, at.y), row.event, 13, font_weight="bold", fill=colour)
    x += extent(row.event, 13) + 10
    if ioctl(row):
        paper.text(Point(x, at.y), ioctl(row), 11, fill=_SOFT)
        x += extent(ioctl(row), 11) + 8
    if row.wakes:
        x = chip(paper, Point(x, at.y), f"wakes {bits(row.wakes & (POLLIN | POLLOUT))}", "#dff3e4")
    if since(row.feature):
        when = since(row.feature)
        chip(paper, Point(x, at.y), "fixed" if when == "later" else f"{when}+", "#eef1f4")


def chip(paper: Paper, at: Point, text: str, colour: str) -> float:
    """A small tag; where the next one may begin."""
    width = extent(text, 10.5) + 8
    paper.box(Point(at.x, at.y - 12), width, 16, rx=8, fill=colour)
    paper.text(Point(at.x + width / 2, at.y), text, 10.5, text_anchor="middle")
    return at.x + width + 6


def badge(paper: Paper, centre: Point, number: int, colour: str) -> None:
    """A number in a circle."""
    paper.add("circle", cx=centre.x, cy=centre.y, r=9, fill=colour)
    paper.text(
        Point(centre.x, centre.y + 4), str(number), 11, fill="#ffffff", text_anchor="middle",
        font_weight="bold",
    )  # fmt: skip


def _arrows(paper: Paper) -> None:
    """Route every row of the table."""
    numbered = list(enumerate(TABLE, 1))
    groups: dict[tuple[str, str], list[tuple[int, Transition]]] = {}
    for number, row in numbered:
        groups.setdefault((row.state, row.to), []).append((number, row))
    names = list(_COLUMNS)
    done = 0
    for left, right in pairwise(names):
        lanes = groups.get((left, right), []) + groups.get((right, left), [])
        _beside(paper, left, lanes)
        done += len(lanes)
    arcs = 0
    for (state, to), rows in groups.items():
        if state == NEW and to in _COLUMNS:
            for number, row in rows:
                end = Point(_COLUMNS[to] - _BOX_W / 2, _ROW_Y)
                start = Point(60, _ROW_Y)
                arrow(paper, row, [start, end], number, Point(56, _ROW_Y - 32))
        elif state in _COLUMNS and to in _COLUMNS:
            if abs(names.index(state) - names.index(to)) == 1:
                continue
            for number, row in rows:
                _over(paper, number, row, arcs)
                arcs += 1
        elif state in _COLUMNS and to == GONE:
            _down(paper, state, rows)
        else:
            raise ModelError(f"the picture has no place for an arrow from {state!r} to {to!r}")
        done += len(rows)
    if done != len(TABLE):
        raise ModelError("the picture left a row of the table out")


def _beside(paper: Paper, left: str, lanes: list[tuple[int, Transition]]) -> None:
    """Arrows between neighbours, one above the other."""
    names = list(_COLUMNS)
    right = names[names.index(left) + 1]
    x1, x2 = _COLUMNS[left] + _BOX_W / 2, _COLUMNS[right] - _BOX_W / 2
    room = _BOX_H - 2 * _LANE_INSET
    step = min(room / max(1, len(lanes) - 1), 62.0)
    top = _ROW_Y - step * (len(lanes) - 1) / 2 + 6
    for index, (number, row) in enumerate(lanes):
        y = top + index * step
        ends = (Point(x1, y), Point(x2, y))
        arrow(paper, row, ends if row.state == left else ends[::-1], number, Point(x1 + 14, y - 9))


def _over(paper: Paper, number: int, row: Transition, index: int) -> None:
    """An arrow past a state, above it."""
    y = _ARC_Y - 34 * index
    start, end = _COLUMNS[row.state] + 20 * index, _COLUMNS[row.to] - 20 * index
    top = _ROW_Y - _BOX_H / 2
    points = [Point(start, top), Point(start, y), Point(end, y), Point(end, top)]
    arrow(paper, row, points, number, Point(_COLUMNS[SENT] - 48, y - 9))
    _centred(paper, Point(_COLUMNS[SENT], y + 18), row.meaning, 11, fill=_SOFT)


def _down(paper: Paper, state: str, rows: list[tuple[int, Transition]]) -> None:
    """Arrows from the row of states to *gone*."""
    bottom = _ROW_Y + _BOX_H / 2
    middle = _COLUMNS[SENT]
    half_w, half_h = 250, 44
    for index, (number, row) in enumerate(rows):
        x = _COLUMNS[state] + (index - (len(rows) - 1) / 2) * 96
        y = _GONE_Y + (index - (len(rows) - 1) / 2) * 36
        side = -1 if _COLUMNS[state] < middle else 1
        way = [Point(x, bottom), Point(x, y), Point(middle + side * half_w, y)]
        if state == SENT:
            way = [Point(x, bottom), Point(x, _GONE_Y - half_h)]
        # of several arrows the first has its words on its left
        left = x + 12 if index or len(rows) == 1 else x - 172
        arrow(paper, row, way, number, Point(left, bottom + 38))
        for line, words in enumerate(_wrapped(row.meaning, 25)):
            paper.text(Point(left + 22, bottom + 56 + 15 * line), words, 11, fill=_SOFT)


# The page -----------------------------------------------------------------------------------


def _states(paper: Paper) -> None:
    paper.add("circle", cx=52, cy=_ROW_Y, r=8, fill=INK)
    paper.text(Point(34, _ROW_Y + 34), "a call is made, the", 11.5, fill=_SOFT)
    paper.text(Point(34, _ROW_Y + 49), "filter says notify", 11.5, fill=_SOFT)
    for state, x in _COLUMNS.items():
        title, about = _TITLES[state]
        left, top = x - _BOX_W / 2, _ROW_Y - _BOX_H / 2
        paper.box(
            Point(left, top), _BOX_W, _BOX_H, rx=14, fill="#f6f8fa", stroke=INK, stroke_width=1.6
        )
        _centred(paper, Point(x, _ROW_Y - 34), title, 24, font_weight="bold")
        for line, words in enumerate(_wrapped(about, 22)):
            _centred(paper, Point(x, _ROW_Y - 8 + 17 * line), words, 12.5, fill=_SOFT)
        shown = bits(poll_bits(state))
        width = extent(shown or "no bit", 12) + 20
        paper.box(
            Point(x - width / 2, _ROW_Y + 52),
            width,
            22,
            rx=11,
            fill="#dff3e4" if shown else "#eef1f4",
        )
        _centred(paper, Point(x, _ROW_Y + 46), "poll(2) on the listener", 11, fill=_SOFT)
        _centred(paper, Point(x, _ROW_Y + 67), shown or "no bit", 12, font_weight="bold")
    title, about = _TITLES[GONE]
    paper.box(
        Point(_COLUMNS[SENT] - 250, _GONE_Y - 44), 500, 88, rx=44, fill="#ffffff", stroke=INK,
        stroke_width=1.6, stroke_dasharray="3 4",
    )  # fmt: skip
    _centred(paper, Point(_COLUMNS[SENT], _GONE_Y - 4), title, 24, font_weight="bold")
    _centred(paper, Point(_COLUMNS[SENT], _GONE_Y + 20), about, 12.5, fill=_SOFT)


def _centred(paper: Paper, at: Point, text: str, size: float, **attributes: object) -> None:
    paper.text(at, text, size, text_anchor="middle", **attributes)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _legend(paper: Paper) -> None:
    paper.text(Point(34, 46), "The life of a notification", 24, font_weight="bold")
    paper.text(
        Point(34, 70), "as seccomp(2) user notification has it; drawn from the model's table", 13,
        fill=_SOFT,
    )  # fmt: skip
    x = 880.0
    used = dict.fromkeys(row.who for row in TABLE)
    for who in used:
        colour, dashes = _WHO[who]
        style = {"stroke_dasharray": dashes} if dashes else {}
        paper.add(
            "path", d=f"M{x:g} 42H{x + 46:g}", stroke=colour, stroke_width=1.8, fill="none",
            marker_end=f"url(#{who})", **style,
        )  # fmt: skip
        paper.text(Point(x + 54, 46), f"the {who}'s doing", 12.5, fill=colour)
        x += 190
    end = chip(paper, Point(880, 70), "wakes IN", "#dff3e4")
    paper.text(
        Point(end, 70), "poll bits (also RDNORM or WRNORM) with which sleepers are woken", 11.5,
        fill=_SOFT,
    )  # fmt: skip
    end = chip(paper, Point(880, 92), "5.14+", "#eef1f4")
    paper.text(
        Point(end, 92),
        "only this kernel and newer ones have it (fixed: only those with a later fix)",
        11.5,
        fill=_SOFT,
    )


def _table(paper: Paper) -> None:
    columns = {"": 34, "from": 66, "to": 146, "event": 236, "what happens": 400, "wakes": 1090,
               "kernels": 1220}  # fmt: skip
    y = float(_TABLE_Y)
    for name, x in columns.items():
        paper.text(Point(x, y), name, 12, fill=_SOFT)
    paper.add("path", d=f"M34 {y + 9:g}H{WIDTH - 34}", stroke="#d0d7de", fill="none")
    y += 32
    for number, row in enumerate(TABLE, 1):
        colour, _ = _WHO[row.who]
        badge(paper, Point(43, y - 4), number, colour)
        paper.text(Point(columns["from"], y), row.state, 13)
        paper.text(Point(columns["to"], y), row.to, 13)
        paper.text(Point(columns["event"], y), row.event, 13, fill=colour, font_weight="bold")
        paper.text(Point(columns["what happens"], y), row.meaning, 13)
        paper.text(Point(columns["what happens"], y + 16), row.source, 10.5, fill=_SOFT)
        told = bits(row.wakes) or "nobody"
        paper.text(Point(columns["wakes"], y), told, 12, fill=INK if row.wakes else _SOFT)
        if row.wakes_feature:
            paper.text(
                Point(columns["wakes"], y + 16), f"{since(row.wakes_feature)} and newer", 10.5,
                fill=_SOFT,
            )  # fmt: skip
        paper.text(Point(columns["kernels"], y), kernels(row), 12)
        y += _ROW_H


def render() -> str:
    """The picture, as the text of an SVG file."""
    heads = {who: colour for who, (colour, _) in _WHO.items()}
    height = _TABLE_Y + 32 + _ROW_H * len(TABLE)
    paper = Paper("The life of a notification", WIDTH, height, heads)
    _legend(paper)
    _arrows(paper)
    _states(paper)
    _table(paper)
    return paper.render()


def main(arguments: Iterable[str] | None = None) -> int:
    """The command; the picture goes to the standard output without ``--out``."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m proctor.model.draw.life", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", metavar="FILE.svg", help="where to write it")
    given = parser.parse_args(None if arguments is None else list(arguments))
    try:
        if given.out is None:
            sys.stdout.write(render())
            sys.stdout.flush()
        else:
            with open(given.out, "w", encoding="utf-8", newline="\n") as file:
                file.write(render())
    except OSError as problem:
        if (
            given.out is None
        ):  # what could not be written is still in the buffer, and the end flushes
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(problem, BrokenPipeError):
            print(
                f"{parser.prog}: {given.out or 'standard output'}: {problem.strerror}",
                file=sys.stderr,
            )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

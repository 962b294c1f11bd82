"""``python -m proctor.model.draw.life [--out FILE.md]``: the life of a notification as a chart.

A Mermaid state diagram with a table below it.  Everything that moves is taken from the model's own
transition table (:mod:`proctor.model.kernel.transitions`), and poll bits from the model's own
listener, so the chart cannot say something else than the code.  A test holds
``docs/notification.md`` to what the table renders now.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Final

from proctor.model.kernel.features import FEATURES
from proctor.model.kernel.linux import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from proctor.model.kernel.listener import Notifications
from proctor.model.kernel.transitions import GONE, INIT, NEW, REPLIED, SENT, TABLE, Transition

#: What a reader should know about each state.
_ABOUT: Final = {
    INIT: "waits to be received",
    SENT: "received, not answered",
    REPLIED: "answered, the caller is yet to run",
    GONE: "not in the list, ioctls that name it say ENOENT",
}
_BITS: Final = ((POLLIN, "IN"), (POLLRDNORM, "RDNORM"), (POLLOUT, "OUT"), (POLLWRNORM, "WRNORM"))
_HEAD: Final = """# The life of a notification

Drawn from the model's own table: `python -m proctor.model.draw.life --out docs/notification.md`.
An arrow has its number in the table below, the event, and what is woken in poll(2).
"""


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
    return " with ".join(word for word in found.groups() if word) if found else ""


def kernels(row: Transition) -> str:
    """Which kernels have the row."""
    when = FEATURES[row.feature].since if row.feature else ""
    if not when:
        return "all"
    return "a later fix" if when == "later" else f"{when} and newer"


def _wakes(row: Transition) -> str:
    told = bits(row.wakes) or "nobody"
    return f"{told} ({FEATURES[row.wakes_feature].since} and newer)" if row.wakes_feature else told


def _arrow(number: int, row: Transition) -> str:
    start = "[*]" if row.state == NEW else _node(row.state)
    words = [f"{number} {row.event}", ioctl(row)]
    if row.wakes:
        words.append(f"wakes {bits(row.wakes & (POLLIN | POLLOUT))}")
    return f"    {start} --> {_node(row.to)} : {', '.join(word for word in words if word)}"


def _node(state: str) -> str:
    return state.upper()


def render() -> str:
    """The chart and its table, as the text of a Markdown file."""
    chart = ["stateDiagram-v2", "    direction LR"]
    for state, about in _ABOUT.items():
        shown = f", poll(2) {bits(poll_bits(state)) or 'no bit'}" if state != GONE else ""
        chart.append(f'    state "{state}: {about}{shown}" as {_node(state)}')
    chart += [_arrow(number, row) for number, row in enumerate(TABLE, 1)]
    rows = ["| | from | to | event | whose doing | what happens | wakes | kernels | source |"]
    rows.append("| --- " * 9 + "|")
    rows += [
        f"| {number} | {row.state} | {row.to} | {row.event} | the {row.who}'s | {row.meaning} "
        f"| {_wakes(row)} | {kernels(row)} | {row.source} |"
        for number, row in enumerate(TABLE, 1)
    ]
    return "\n".join([_HEAD, "```mermaid", *chart, "```", "", *rows, ""])


def main(arguments: Iterable[str] | None = None) -> int:
    """The command; the chart goes to the standard output without ``--out``."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m proctor.model.draw.life", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", metavar="FILE.md", help="where to write it")
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

"""The last events of a simulation as a Mermaid sequence diagram.

Participants are callers on the left, then the supervisor, then workers and the event loop; time goes
down, one event a row.  A call is an arrow to the supervisor where it is received, an answer an arrow
back where the caller returns; a dashed arrow with a cross is an answer that came too late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from proctor.model.sim.accounts import Event

#: Most callers, and rows, that are drawn.
_CALLERS: Final = 7
_ROWS: Final = 48
_WORK: Final = ("begin", "resume", "step")
#: What Mermaid reads as the end of a line or the beginning of an entity.
_MEANT: Final = str.maketrans({"#": "#35;", ";": "#59;", "\n": " "})


def draw(events: Sequence[Event], title: str) -> str:
    """The diagram, as the text of a ``.mmd`` file."""
    rows = _choose(events)
    lines = ["---", f"title: {title}", "---", "sequenceDiagram"]
    lines += [
        f'    participant {_id(name)} as "{name}"'
        if name != _id(name)
        else f"    participant {name}"
        for name in _participants(rows)
    ]
    return "\n".join([*lines, *_messages(rows), ""])


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


def _participants(rows: Sequence[Event]) -> list[str]:
    callers = sorted({_callers(event) for event in rows} - {""}, key=_natural)
    works = {event.who for event in rows if event.who.startswith(("worker", "event"))}
    return [*callers, "supervisor", *sorted(works, key=lambda name: (name[0] == "e", name))]


def _natural(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.lstrip("c").split("."))


def _id(name: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in name)


def _messages(rows: Sequence[Event]) -> list[str]:
    lines: list[str] = []
    names = set(_participants(rows))
    #: Call to (whose answer is on its way, its text).
    said: dict[int, tuple[str, str]] = {}

    def message(start: str, arrow: str, end: str, text: str) -> None:
        lines.append(f"    {_id(start)}{arrow}{_id(end)}: {text.translate(_MEANT)}")

    def note(over: str, text: str) -> None:
        lines.append(f"    Note over {_id(over)}: {text[:90].translate(_MEANT)}")

    for event in rows:
        who = event.who if event.who in names else "supervisor"
        caller = _callers(event)
        about, when = f"#{event.call}", f"{event.now:.6f}"
        if event.kind == "call":
            note(who, f"{when} calls {event.text} {about}")
        elif event.kind == "receive" and caller:
            message(caller, "->>", who, f"{when} received {about}")
        elif event.kind == "handler":
            message("supervisor", "-)", who, f"{when} handler {event.text} {about}")
        elif event.kind == "add fd" and caller:
            # the call may return with it before the supervisor's own call is over
            said[event.call] = (who, f"add fd {about}")
        elif event.kind == "too late" and caller:
            message(who, "--x", caller, f"{when} too late {_short(event.text)} {about}")
        elif event.kind == "answer" and caller:
            said[event.call] = (who, f"answer {_short(event.text)} {about}")
        elif event.kind == "return":
            start, text = said.get(event.call, (who, about))
            message(start, "->>", who, f"{when} {text}, returns {event.text}")
        else:
            note(caller or who, f"{when} {event.kind} {event.text}")
    return lines


def _short(answer: str) -> str:
    """An answer in few words: (value, error, flags), or the number of a descriptor."""
    if not answer.startswith("("):
        return "" if answer == "None" else f"fd {answer}"
    value, error, flags = (int(part) for part in answer.strip("()").split(","))
    if flags:
        return "run"
    return str(error) if error else str(value)

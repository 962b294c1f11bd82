"""What is asked about a call, and what is answered.

All of it may come from a target and is shown to somebody who decides: so every line is made of printable
characters (:mod:`proctor.words`), and what the target chose never stands at the beginning of one.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from typing import Any, Final, Literal

from proctor.records import NamedTuple
from proctor.words import printable, quoted

How = Literal["terminal", "command", "socket", "http"]
#: For how long an answer holds: for the call, while its container is there, or as long as the file is.
Remember = Literal["once", "container", "always"]
HOWS: Final = ("terminal", "command", "socket", "http")
REMEMBERED: Final = ("once", "container", "always")
#: Most bytes of an answer.
LONGEST: Final = 1 << 16
#: Most seconds that an answer may delay a call.
LONGEST_DELAY: Final = 3600.0


class Asking(NamedTuple):
    """What a rule says of asking."""

    how: How
    #: The command; or a path, or an address, alone; nothing for the terminal.
    where: tuple[str, ...] = ()
    #: Seconds, after which ``default`` is the answer.
    timeout: float = 30.0
    #: Errno of the answer if nobody answers; 0: the call is allowed.
    default: int = errno.EPERM
    #: The longest that answers are remembered, and for how long those are that do not say.
    remember: Remember = "once"
    #: What performing is told by whoever allows it: its family's options.
    performing: object = None


class Answer(NamedTuple):
    """What somebody said.  ``errno`` 0 lets the call through."""

    errno: int
    remember: Remember = "once"
    #: What becomes of the container.
    then: Literal["", "kill", "freeze"] = ""
    #: Seconds before the call goes on.
    delay: float = 0.0
    #: Who said so, for the log.
    by: str = "default"


class Question(NamedTuple):
    """One call, as it is shown; each text is one line that does nothing to a terminal."""

    #: As strace writes it.
    call: str
    #: Where its paths lead, by the names of their arguments.
    paths: dict[str, str]
    container: str
    policy: str
    rule: str
    #: Of the caller: pid, comm, exe, uid, as far as they are known.
    caller: dict[str, Any]
    #: Its process's parents, the next one first: (pid, comm).
    parents: Sequence[tuple[int, str]]
    #: The rule that would be added if the call were allowed for longer.
    tip: str
    asking: Asking

    def json(self) -> bytes:
        """One line, for programs (docs/ask.md)."""
        said = {
            "v": 1,
            "call": self.call,
            "paths": self.paths,
            "container": self.container,
            "policy": self.policy,
            "rule": self.rule,
            "caller": self.caller,
            "parents": [{"pid": pid, "comm": comm} for pid, comm in self.parents],
            "tip": self.tip,
            "timeout": self.asking.timeout,
            "default": spoken(self.asking.default),
            "remember": self.asking.remember,
        }
        return json.dumps(said).encode() + b"\n"

    def lines(self) -> list[str]:
        """For people."""
        who = self.caller
        name = quoted(str(who.get("comm", "?")))
        about = ", ".join(
            f"{key} {printable(str(who[key]))}" for key in ("pid", "uid") if key in who
        )
        chain = " < ".join(f"{quoted(comm)} {pid}" for pid, comm in self.parents)
        found = [f"{name} ({about}) asks for", f"  {printable(self.call)}"]
        found += [
            f"  {name} leads to {printable(path)}"
            for name, path in self.paths.items()
            if quoted(path) not in self.call
        ]
        if "exe" in who:
            found.append(f"  program: {printable(str(who['exe']))}")
        if chain:
            found.append(f"  started by: {chain}")
        if self.container:
            found.append(f"  container: {quoted(self.container)}")
        found.append(f"  by rule {quoted(self.rule)} of {printable(self.policy)}")
        if self.asking.remember != "once":
            until = "the container is gone" if self.asking.remember == "container" else "you say so"
            found.append(f"  a yes holds until {until}, as")
            found += [f"    {printable(line)}" for line in self.tip.splitlines()]
        return found


def spoken(number: int) -> str:
    """``allow`` for 0, else the errno's name."""
    return errno.errorcode.get(number, str(number)) if number else "allow"


def parse(data: bytes, asking: Asking, by: str) -> Answer:
    """An answer of a program: a JSON object, or ``allow``, ``deny`` or an errno's name alone.

    :raises ValueError: it is none, in a sentence.
    """
    if len(data) > LONGEST:
        raise ValueError(f"more than {LONGEST} bytes")
    try:
        text = data.decode().strip()
        said = json.loads(text) if text.startswith("{") else {"answer": text}
    except (ValueError, RecursionError):
        raise ValueError(f"{printable(repr(data[:80]))} is no JSON object") from None
    unknown = said.keys() - {"answer", "remember", "delay"}
    if unknown:
        raise ValueError(f"an answer has no {quoted(min(unknown))}")
    word: Any
    remember: Any
    word, remember = said.get("answer"), said.get("remember", asking.remember)
    delay = said.get("delay", 0)
    if remember not in REMEMBERED:
        raise ValueError(f"remember is one of {', '.join(REMEMBERED)}")
    if REMEMBERED.index(remember) > REMEMBERED.index(asking.remember):
        raise ValueError(f"the rule lets nothing be remembered for {remember}")
    if isinstance(delay, bool) or not isinstance(delay, (int, float)):
        raise ValueError("delay is in seconds")
    if not 0 <= delay <= LONGEST_DELAY:
        raise ValueError(f"delay is from 0 to {LONGEST_DELAY:g} seconds")
    refused = asking.default or errno.EPERM
    if word in ("kill", "freeze"):
        return Answer(refused, "once", word, 0.0, by)
    number = {"allow": 0, "deny": refused}.get(word) if isinstance(word, str) else None
    if number is None:
        number = getattr(errno, word, None) if isinstance(word, str) and word[:1] == "E" else None
    if not isinstance(number, int):
        raise ValueError(
            f"{printable(repr(word)[:80])} is none of allow, deny, kill, freeze, and no errno"
        )
    return Answer(number, remember, "", float(delay), by)

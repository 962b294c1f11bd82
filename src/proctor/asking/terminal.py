"""Asking whoever sits at the terminal, in the middle of whatever program has it.

The terminal is taken and given back as it was: who waits for its input is held
(:mod:`proctor.asking.holding`), the foreground is ours, its mode is saved and set, and of a screen that is
the alternate one (xterm's DECSET 47, 1047, 1049: the terminal itself is asked) the main one is shown.
Afterwards all of that is undone in reverse order, and whoever drew full screens is told to draw anew.

What was typed before the question stood there answers nothing, and is lost; so is what somebody goes on typing, who has
not read it yet: what can be answered is only shown, and keys only count, once there was none for a moment.
"""

from __future__ import annotations

import os
import re
import select
import signal
import termios
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from proctor.asking.holding import Holder, is_ours
from proctor.asking.question import Answer, Question

#: Seconds that a terminal has to say what it shows.
_PATIENCE: Final = 0.3
#: Seconds between looks at who waits for the terminal, and at whose foreground it is.
_LOOK: Final = 0.05
#: Seconds without a key from which on keys are answers: whoever was just typing meant something else.
_PAUSE: Final = 0.5
#: Terminals that take no such questions.
_DUMB: Final = ("", "dumb", "linux", "unknown")
#: DECRQM of the three that show the alternate screen, then DA1, which every terminal answers.
_WHAT_SCREEN: Final = b"\x1b[?47$p\x1b[?1047$p\x1b[?1049$p\x1b[c"
_DA1: Final = re.compile(rb"\x1b\[\?[0-9;]*c")
_ALTERNATE: Final = re.compile(rb"\x1b\[\?(?:47|1047|1049);1\$y")
#: What a target may have left a terminal in is ended, so that what is written is seen, and as it is written: the middle
#: of a sequence or string (CAN, ST), output to a printer instead (MC), other characters (SI, SCS), insertion, a scrolling
#: region, no wrapping, attributes.
_SANE: Final = b"\x18\x1b\\\x1b[?5i\x1b[4i\x0f\x1b(B\x1b[4l\x1b7\x1b[r\x1b8\x1b[?7h\x1b[0m"
#: Columns of a line, at most: the number that the terminal's device has is anybody's to change.
_WIDE: Final = 80
_FURTHER: Final = "proctor:   \\ "
_TO_MAIN, _TO_ALTERNATE = b"\x1b[?47l", b"\x1b[?47h"
#: One key, or a sequence that a key, a mouse or a paste sends.
_KEY: Final = re.compile(
    rb"\x1b\[200~.*?\x1b\[201~|\x1b\[M...|\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|\x1b.|[^\x1b]", re.DOTALL
)
_PATH: Final = "/dev/tty"
_LONG_PROMPT: Final = "[y]es, [n]o, only this once: [o]k or [d]eny; [k]ill or [f]reeze it: "
_PROMPT: Final = "[y]es, [n]o; [k]ill or [f]reeze it: "


class Terminal:
    """The controlling terminal, of one question at a time: since a question comes from a thread of ours, only our own
    will do."""

    def there(self) -> bool:
        """Whether there is one."""
        try:
            os.close(self._open())
        except OSError:
            return False
        return True

    def _open(self) -> int:
        return os.open(_PATH, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)

    def ask(self, question: Question, over: int) -> Answer | None:
        """Ask; None if it is over before somebody answers.

        :raises OSError: the terminal is gone.
        """
        with ExitStack() as undo:
            tty = self._open()
            undo.callback(os.close, tty)
            if not _foreground(tty, question, over):
                return None
            holder = Holder(tty)
            # In the end, since whoever goes on may do anything to it.
            undo.callback(_redraw, tty)
            undo.callback(holder.let_go)
            holder.look()
            before = os.tcgetpgrp(tty)
            if before != os.getpgrp():
                os.tcsetpgrp(tty, os.getpgrp())  # SIGTTOU is blocked in threads of ours
                undo.callback(_give_back, tty, before)
            mode = termios.tcgetattr(tty)
            undo.callback(termios.tcsetattr, tty, termios.TCSANOW, mode)
            termios.tcsetattr(tty, termios.TCSANOW, _unraw(mode))
            termios.tcflow(tty, termios.TCOON)
            termios.tcflush(tty, termios.TCIFLUSH)
            undo.callback(termios.tcflush, tty, termios.TCIFLUSH)
            _write(tty, b"\x18" if _dumb() else _SANE, over)
            if _shows_alternate(tty, over):
                _write(tty, _TO_MAIN, over)
                undo.callback(_write, tty, _TO_ALTERNATE, over)
            return _converse(tty, question, over, holder.look)


def _foreground(tty: int, question: Question, over: int) -> bool:
    """Wait until whoever has the foreground is of ours; False if it is over first."""
    said = False
    while not is_ours(os.tcgetpgrp(tty)):
        if not said:
            said = True
            line = _folded(f"proctor: {question.lines()[0]} {question.call}: fg, to answer")
            _write(tty, b"\x18" + line.replace("\n", "\r\n").encode() + b"\r\n", over)
        if select.select([over], [], [], 4 * _LOOK)[0]:
            return False
    return True


def _unraw(mode: list[Any]) -> list[Any]:
    """A mode in which one key is read at a time, and lines are written as ever."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, control = mode
    control = list(control)
    control[termios.VMIN], control[termios.VTIME] = 1, 0
    lflag &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
    iflag &= ~(termios.ICRNL | termios.INLCR | termios.IXON)
    return [iflag, oflag | termios.OPOST | termios.ONLCR, cflag, lflag, ispeed, ospeed, control]


def _give_back(tty: int, group: int) -> None:
    try:
        os.tcsetpgrp(tty, group)
    except OSError:
        pass  # all of that group ended meanwhile: its shell takes the terminal itself


def _redraw(tty: int) -> None:
    """Have a program draw its screen anew, as after a change of its size; nobody else is disturbed
    (the signal is ignored by default)."""
    if not termios.tcgetattr(tty)[3] & termios.ICANON:
        try:
            os.killpg(os.tcgetpgrp(tty), signal.SIGWINCH)
        except OSError:
            pass  # nobody is left there


def _write(tty: int, data: bytes, over: int) -> None:
    """Write it all, unless it is over first and the terminal takes nothing."""
    while data:
        _, ready, _ = select.select([], [tty], [], _LOOK)
        if ready:
            data = data[os.write(tty, data) :]
        elif select.select([over], [], [], 0)[0]:
            return


def _dumb() -> bool:
    return os.environ.get("TERM", "") in _DUMB


def _folded(line: str) -> str:
    """In rows of which the target begins none: a terminal would begin one wherever the line comes to its edge."""
    rows = [line[: _WIDE - 1]]
    rest = line[_WIDE - 1 :]
    while rest:
        room = _WIDE - 1 - len(_FURTHER)
        rows.append(_FURTHER + rest[:room])
        rest = rest[room:]
    return "\n".join(rows)


def _shows_alternate(tty: int, over: int) -> bool:
    if _dumb():
        return False
    _write(tty, _WHAT_SCREEN, over)
    heard = b""
    until = time.monotonic() + _PATIENCE
    while not _DA1.search(heard):
        left = until - time.monotonic()
        if left <= 0 or not select.select([tty], [], [], left)[0]:
            break
        heard += os.read(tty, 4096)
    return _ALTERNATE.search(heard) is not None


def _typed(tty: int, over: int, look: Callable[[], object]) -> bytes | None:
    """What was typed, nothing after a moment without a key; None if the question is over."""
    ready, _, _ = select.select([tty, over], [], [], _LOOK)
    if over in ready:
        _write(tty, b"(no answer in time)\n", over)
        return None
    look()
    if tty not in ready:
        return b""
    try:
        piece = os.read(tty, 4096)
    except BlockingIOError:
        return b""  # somebody was faster
    if not piece:
        raise OSError("the terminal hung up")
    return piece


def _converse(
    tty: int,
    question: Question,
    over: int,
    look: Callable[[], object],
    clock: Callable[[], float] = time.monotonic,
) -> Answer | None:
    lines = ["", *(_folded(f"proctor: {line}") for line in question.lines()), "proctor: "]
    _write(tty, "\n".join(lines).encode(), over)
    quiet_since = clock()
    while clock() - quiet_since < _PAUSE:
        piece = _typed(tty, over, look)
        if piece is None:
            return None
        if piece:
            quiet_since = clock()
    termios.tcflush(tty, termios.TCIFLUSH)
    remembers = question.asking.remember != "once"
    _write(tty, (_LONG_PROMPT if remembers else _PROMPT).encode(), over)
    typed = b""
    while True:
        piece = _typed(tty, over, look)
        if piece is None:
            return None
        typed = (typed + piece)[-4096:]
        while (key := _KEY.match(typed)) is not None:
            if key.end() == len(typed) and key[0] in (b"\x1b[", b"\x1bO"):
                break  # the beginning of a longer one
            typed = typed[key.end() :]
            answer = _meant(key[0], question)
            if answer is not None:
                word = "yes" if not answer.errno else answer.then or "no"
                _write(tty, f"{word}\n".encode(), over)
                return answer


def _meant(key: bytes, question: Question) -> Answer | None:
    """What a key says; None for those that say nothing."""
    asking = question.asking
    refused = Answer(asking.default or 1, asking.remember, by="terminal")
    if key in (b"y", b"Y"):
        return refused._replace(errno=0)
    if key in (b"n", b"N"):
        return refused
    if key in (b"o", b"O"):
        return refused._replace(errno=0, remember="once")
    if key in (b"d", b"D", b"\x03", b"\x04"):
        return refused._replace(remember="once")
    if key in (b"k", b"K"):
        return refused._replace(remember="once", then="kill")
    if key in (b"f", b"F"):
        return refused._replace(remember="once", then="freeze")
    return None

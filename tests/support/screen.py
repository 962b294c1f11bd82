"""A terminal with a program on it, which answers what programs ask terminals."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import termios
import time
from typing import Any

LIMIT = 30.0
_SCREEN = re.compile(r"\x1b\[\?(47|1047|1049)([hl])")


class Screen:
    """:ivar seen: what was written on it and nobody expected yet."""

    def __init__(self, argv: list[str], cwd: str, term: str = "xterm") -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(PS1="PROMPT> ", TERM=term, HISTFILE="", LESS="", LINES="24")
            os.chdir(cwd)
            os.execvp(argv[0], argv)
        self.seen = ""
        self.all = ""
        self._asked = 0
        self._status: int | None = None

    @property
    def mode(self) -> list[Any]:
        """As tcgetattr(3) has it."""
        return termios.tcgetattr(self.fd)

    @property
    def foreground(self) -> int:
        """The process group that has it."""
        return os.tcgetpgrp(self.fd)

    @property
    def alternate(self) -> bool:
        """Which screen is shown."""
        found = _SCREEN.findall(self.all)
        return bool(found) and found[-1][1] == "h"

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, text: str) -> str:
        """Wait until ``text`` appears; returns what came before it, both are then forgotten."""
        end = time.monotonic() + LIMIT
        while text not in self.seen:
            left = end - time.monotonic()
            ready = left > 0 and select.select([self.fd], [], [], left)[0]
            assert ready, f"no {text!r} on the terminal, but {self.seen!r}"
            try:
                piece = os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"closed before {text!r}: {self.seen!r}") from None
            self.seen += piece
            self.all += piece
            self._reply()
        before, _, self.seen = self.seen.partition(text)
        return before

    def _reply(self) -> None:
        """What xterm says to DECRQM and DA1."""
        questions = list(re.finditer(r"\x1b\[(\?(\d+)\$p|c)", self.all))
        for each in questions[self._asked :]:
            if each[2] is None:
                self.type("\x1b[?64;1c")
            else:
                before = _SCREEN.findall(self.all[: each.start()])
                on = any(number == each[2] and how == "h" for number, how in before[-1:])
                self.type(f"\x1b[?{each[2]};{1 if on else 2}$y")
        self._asked = len(questions)

    def close(self) -> int:
        """Wait for its end, and read on; the exit status."""
        if self._status is not None:
            return self._status
        end = time.monotonic() + LIMIT
        pidfd = os.pidfd_open(self.pid)
        while pidfd not in (ready := select.select([self.fd, pidfd], [], [], 1)[0]):
            if self.fd in ready:
                try:
                    os.read(self.fd, 65536)
                except OSError:
                    break
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
        os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        self._status = os.waitstatus_to_exitcode(status)
        return self._status

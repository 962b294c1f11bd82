"""Answers that hold for longer than a call: rules, in a file that a person can read and change.

The file is a policy without a default: what no rule of it takes is asked.  A change takes effect with
the next question; what is no policy by then is told, and what held before goes on to hold.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import PolicyError
from proctor.policy.document import Source, read_text
from proctor.policy.look import Unknowable
from proctor.policy.rules import Decision
from proctor.words import printable

if TYPE_CHECKING:
    from proctor.policy.look import Look
    from proctor.policy.policy import Policy

_HEAD: Final = """\
# What was answered when proctor asked, newest last.  The first rule that fits a call decides it;
# what none fits is asked.  To be asked again, remove a rule.
"""


class Answers:
    """The answers of one policy, or of one container of it; thread-safe.

    :param path: where they are kept; None: only here.
    :param arches: what they are for.
    :param read: makes a policy of them.
    :param trouble: told in a sentence why they are not read or written.
    """

    def __init__(
        self,
        path: str | None,
        arches: Sequence[str],
        read: Callable[[Source], Policy],
        trouble: Callable[[str], object],
    ) -> None:
        self.arches = tuple(arches)
        self._read = read
        self._path = path
        self._trouble = trouble
        self._lock = threading.Lock()
        self._text = ""
        self._policy: Policy | None = None
        self._seen: Any = None

    def judge(self, look: Look) -> Decision | None:
        """What was answered for such a call; None if nothing, or if that cannot be told."""
        with self._lock:
            self._look()
            policy = self._policy
        if policy is None:
            return None
        try:
            decision = policy.judge(look)
        except Unknowable:
            return None
        return None if decision.rule is None or decision.rule.implied else decision

    def _look(self) -> None:
        """Read the file if it changed (the lock is held)."""
        if self._path is None:
            return
        try:
            found = os.stat(self._path)
            seen = found.st_ino, found.st_mtime_ns, found.st_size
        except FileNotFoundError:
            seen = None
        except OSError as problem:
            self._trouble(f"{self._path}: {problem.strerror}")
            return
        if seen == self._seen:
            return
        self._seen = seen
        if seen is None:
            self._text, self._policy = "", None
            return
        try:
            source = read_text(self._path)
            self._policy, self._text = self._read(source), source.text
        except PolicyError as problem:
            self._trouble(f"{problem}; the answers before it still hold")

    def add(self, rule: str, note: str) -> None:
        """Let one more rule hold.

        :param rule: as TOML, with a name in its second line.
        :param note: when and why, for whoever reads it.
        :raises PolicyError: it cannot be; what holds is as before.
        :raises OSError: it cannot be written.
        """
        with self._lock:
            self._look()
            stamp = time.strftime("%Y-%m-%d %H:%M:%S %z")
            taken = () if self._policy is None else {each.name for each in self._policy.rules}
            text = self._text or _HEAD
            text += f"\n# {stamp}: {printable(note)}\n{_named(rule, taken)}"
            self._policy = self._read(Source(self._path or "answers", text))
            self._text = text
            if self._path is not None:
                self._write(text)

    def _write(self, text: str) -> None:
        assert self._path is not None
        fresh = f"{self._path}.{os.getpid()}~"
        os.makedirs(os.path.dirname(self._path) or ".", mode=0o700, exist_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            os.rename(fresh, self._path)
        except BaseException:
            os.unlink(fresh)
            raise
        found = os.stat(self._path)
        self._seen = found.st_ino, found.st_mtime_ns, found.st_size


def _named(rule: str, taken: Any) -> str:
    """The rule under a name that no other has."""
    head, line, *rest = rule.splitlines()
    name = line.removeprefix('name = "').removesuffix('"')
    number, title = 1, name
    while title in taken:
        number += 1
        title = f"{name} ({number})"
    return "\n".join([head, f'name = "{title}"', *rest]) + "\n"

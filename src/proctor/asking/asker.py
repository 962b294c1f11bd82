"""Who asks, while callers wait and nobody who decides does.

A question has a thread of its own for as long as somebody thinks about it, at most :data:`_AT_ONCE` of a container at
a time, and one for the terminal; the others wait in line, where containers have turns: one that has many is a flood to itself
alone.  The call waits as any that takes a while
(:class:`~proctor.supervisor.ports.Later`): for a descriptor, and for as long as its rule says.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.asking.question import Answer, Question
from proctor.asking.ways import WAYS
from proctor.kernel.threads import quiet_thread
from proctor.supervisor.ports import Later
from proctor.words import printable

if TYPE_CHECKING:
    from proctor.call.verdict import Verdict

#: Questions that are asked at the same time, besides that at the terminal: of one container, and of all.
_AT_ONCE: Final = 8
_ALTOGETHER: Final = 64
#: Questions that are open; further ones have the default for their answer, where their container has its share.
_MOST: Final = 1024
#: Of one container.
_MOST_OF_ONE: Final = 128

#: Seconds for whoever is asked to be told that nobody waits any more.
_GRACE: Final = 1.0
#: Seconds between looks at whether callers still wait.
_LOOK: Final = 1.0

Resume = Callable[[Answer], "Verdict | Later"]


class Pending:
    """A question that somebody is to answer.

    :ivar over: a descriptor that is readable once nobody waits for an answer any more.
    :param known: the answer, if it was given to another one meanwhile.
    :param remember: told an answer that is to hold for longer, before its call goes on.
    """

    def __init__(
        self,
        question: Question,
        known: Callable[[], Answer | None],
        remember: Callable[[Answer], object],
    ) -> None:
        self.question = question
        self.known = known
        self.remember = remember
        self.over = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            os.close(self.over)
            raise
        self.answer: Answer | None = None
        self.waits = True
        self.said = False
        self._lock = threading.Lock()
        self._asked = False

    def begin(self) -> bool:
        """Somebody is asked from now on; False if nobody waits for it any more."""
        with self._lock:
            self._asked = self.waits
            return self._asked

    def end(self, answer: Answer | None) -> None:
        """Nobody is asked any more."""
        with self._lock:
            self._asked = False
            if self.waits:
                self.answer, self.said = answer, True
                os.eventfd_write(self.fd, 1)
            else:
                os.close(self.over)

    def hurry(self) -> bool:
        """Time is over; whether somebody is just being asked, who ends that at once."""
        with self._lock:
            if self._asked:
                os.eventfd_write(self.over, 1)
            return self._asked

    def leave(self) -> Answer | None:
        """Nobody waits any more; what was answered."""
        with self._lock:
            self.waits = False
            os.close(self.fd)
            if self._asked:
                os.eventfd_write(self.over, 1)
            else:
                os.close(self.over)
            return self.answer


class _Line:
    """Questions that wait for a thread.

    :param most: threads that one container has at a time.
    :param altogether: threads.
    :ivar threads: those that there are."""

    def __init__(self, most: int, altogether: int) -> None:
        self._most = most
        self._altogether = altogether
        self._waiting: dict[object, deque[Pending]] = {}
        self._busy: Counter[object] = Counter()
        self.threads = 0

    def join(self, container: object, pending: Pending) -> bool:
        """It waits from now on; whether a thread more is to begin, which is counted."""
        self._waiting.setdefault(container, deque()).append(pending)
        more = self._busy[container] < self._most and self.threads < self._altogether
        self.threads += more
        return more

    def next(self, before: object) -> tuple[object, Pending] | None:
        """What a thread asks next: of who has fewest that are being asked, in turn.  None: it is to end.

        :param before: whose question it has done; None: it begins."""
        if before is not None:
            self._busy[before] -= 1
            if not self._busy[before]:
                del self._busy[before]
        some = [each for each in self._waiting if self._busy[each] < self._most]
        if not some:
            self.threads -= 1
            return None
        container = min(some, key=self._busy.__getitem__)
        waiting = self._waiting.pop(container)
        pending = waiting.popleft()
        if waiting:
            self._waiting[container] = waiting  # behind all others
        self._busy[container] += 1
        return container, pending


class Asker:
    """Asks for rules; thread-safe.

    :param unattended: nobody is at the terminal: what it is to be asked has its default at once.
    :param trouble: told in a sentence what went wrong with asking.
    """

    def __init__(self, *, unattended: bool = False, trouble: Callable[[str], object] = str) -> None:
        from proctor.asking.terminal import Terminal  # Linux's own; policies are read elsewhere

        self.trouble = trouble
        self._terminal = None if unattended else Terminal()
        self._lock = threading.Lock()
        self._lines = _Line(1, 1), _Line(_AT_ONCE, _ALTOGETHER)
        self._open: dict[object, int] = {}

    def ask(
        self,
        question: Question,
        container: object,
        resume: Resume,
        known: Callable[[], Answer | None],
        remember: Callable[[Answer], object],
        alive: Callable[[], bool],
    ) -> Verdict | Later:
        """Ask, and go on with the answer.

        :param container: whose questions are counted together.
        :param resume: makes the verdict of an answer.
        :param known: see :class:`Pending`; so is ``remember``.
        :param alive: whether the caller still waits.
        """
        default = Answer(question.asking.default)
        at_terminal = question.asking.how == "terminal"
        if at_terminal and (self._terminal is None or not self._terminal.there()):
            return resume(default._replace(by="default: nobody is there"))
        with self._lock:
            of_one, everybody = self._open.get(container, 0), len(self._open.keys() | {container})
            many = of_one >= _MOST_OF_ONE
            many |= sum(self._open.values()) >= _MOST and of_one >= _MOST // everybody
            if not many:
                self._open[container] = of_one + 1
        if many:
            return resume(default._replace(by="default: too many questions"))
        try:
            pending = Pending(question, known, remember)
        except OSError:
            self._closed(container)
            raise

        until = time.monotonic() + question.asking.timeout

        def wait() -> Later:
            left = max(0.0, until - time.monotonic())
            return Later(pending.fd, go_on, cancel, min(left, _LOOK))

        def go_on() -> Any:
            if not pending.said and time.monotonic() < until and alive():
                return wait()
            # Before the caller goes on the terminal is to be as it was.
            return Later(pending.fd, finish, cancel, _GRACE) if pending.hurry() else finish()

        def finish() -> Any:
            answer = pending.leave()
            self._closed(container)
            if answer is None:
                answer = default._replace(by="default: nobody answered in time")
            return resume(answer)

        def cancel() -> None:
            pending.leave()
            self._closed(container)

        line = self._lines[0 if at_terminal else 1]
        with self._lock:
            more = line.join(container, pending)
        if more:
            try:
                quiet_thread(lambda: self._work(line), "proctor-asking")
            except RuntimeError:  # no more threads for us: the default, when its time is over
                with self._lock:
                    line.threads -= 1
        return wait()

    def _closed(self, container: object) -> None:
        with self._lock:
            left = self._open[container] - 1
            if left:
                self._open[container] = left
            else:
                del self._open[container]

    def _work(self, line: _Line) -> None:
        before: object = None
        while True:
            with self._lock:
                taken = line.next(before)
            if taken is None:
                return
            before, pending = taken
            if not pending.begin():
                continue
            answer = None
            try:
                answer = pending.known()
                if answer is None:
                    answer = self._answer(pending)
                    if answer is not None and answer.remember != "once":
                        pending.remember(answer)
            except Exception as problem:
                rule = printable(pending.question.rule)
                self.trouble(f'asking for rule "{rule}": {type(problem).__name__}: {problem}')
                if answer is None:
                    answer = Answer(pending.question.asking.default, by="default: asking failed")
            finally:
                pending.end(answer)

    def _answer(self, pending: Pending) -> Answer | None:
        how = pending.question.asking.how
        if how == "terminal":
            assert self._terminal is not None
            return self._terminal.ask(pending.question, pending.over)
        return WAYS[how](pending.question, pending.over)

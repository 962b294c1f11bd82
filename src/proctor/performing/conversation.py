"""A call being performed: whoever has time moves it on, and nobody waits for it in between.

What a family does is a generator that yields each time it waits for an executor.  A conversation is
that generator with its last question: :meth:`Conversation.go_on` moves it on as far as replies are there,
:meth:`Conversation.look` sees, while there is none, whether the call has an end for another reason.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from proctor.call.verdict import Verdict
from proctor.errors import CallGone, ProctorError
from proctor.kernel.nudging import nudge
from proctor.kernel.pidfd import open_pidfd
from proctor.performing.trouble import Ended, Interrupted, Trouble
from proctor.supervisor.looks import PAUSE, Looks
from proctor.supervisor.ports import Later

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.performing.executing.requests import Reply
    from proctor.performing.executing.workers import Wait
    from proctor.performing.task import Work

#: Seconds before the first look at a caller whose call takes long.
_FIRST: Final = 0.05
#: Seconds after which a signal is sent to an executor again that was sent and of which nothing came; then twice as many.
_AGAIN: Final = 0.005
#: Looks at a caller for each look at the executor, which costs more.
_SELDOM: Final = 8
_SIGKILL: Final = 9
#: Replies with which a call goes on before others have their turn.
_IN_A_ROW: Final = 64


def converse(
    work: Work,
    call: Call,
    translate: Callable[[Call, BaseException], Verdict],
    limit: float | None,
) -> Verdict | Conversation:
    """Begin, and go on as long as replies come at once: the verdict, if that was all."""
    try:
        asked = next(work)
    except StopIteration as end:
        verdict: Verdict = end.value
        return verdict
    except BaseException as raised:
        return translate(call, raised)
    conversation = Conversation(work, asked, call, translate, limit)
    told = conversation.go_on(wait=True)
    return conversation if told is None else told


class Conversation:
    """One call on its way; in one thread at a time.

    :param work: what is done.
    :param asked: what it waits for.
    :param translate: what is answered to the call for what the work raises.
    :param limit: seconds that it may take.
    """

    __slots__ = (
        "__weakref__", "_again", "_anyones", "_asked", "_call", "_container", "_due", "_life", "_looks",
        "_next_look", "_translate", "_work", "verdict",
    )  # fmt: skip
    #: Those that are looked at now and then, of all supervisors.
    _waiting: ClassVar[Looks] = Looks()

    def __init__(
        self,
        work: Work,
        asked: Wait,
        call: Call,
        translate: Callable[[Call, BaseException], Verdict],
        limit: float | None,
    ) -> None:
        now = time.monotonic()
        self._work = work
        self._call = call
        self._container = getattr(call, "container", None)
        self._translate = translate
        self._asked: Wait | None = asked
        self._due = None if limit is None else now + limit
        self._next_look = now + _FIRST
        self._looks = 0
        #: Signals that the last look found, of which nobody knows which thread takes them.
        self._anyones = 0
        #: Seconds until its executor is interrupted once more; 0 if it was not.
        self._again = 0.0
        #: A pidfd of the caller, which tells at once that it died; -1: not yet; -2: that is known, or is not to be.
        self._life = -1
        #: What came out; None while it goes on.
        self.verdict: Verdict | None = None

    def go_on(self, *, wait: bool = False) -> Verdict | None:
        """Go on with the replies that are there; the verdict, if that was all.

        :param wait: for the first of them, for a moment."""
        if self.verdict is None:
            reply, failed = self._reply(wait=wait)
            if reply is not None or failed is not None:
                self._run(reply, failed, wait=True)
        return self.verdict

    def _reply(self, *, wait: bool) -> tuple[Reply | None, BaseException | None]:
        assert self._asked is not None
        try:
            return self._asked.worker.reply(self._asked.request, wait=wait), None
        except (Ended, Interrupted, Trouble) as failed:
            return None, failed

    def _run(
        self, reply: Reply | None, failed: BaseException | None, *, wait: bool
    ) -> Verdict | None:
        """Move the work on, as long as replies are there, and others need not wait for long."""
        work, strides = self._work, 0
        while True:
            try:
                self._asked = work.send(reply) if failed is None else work.throw(failed)  # type: ignore[arg-type]
            except StopIteration as end:
                return self._over(end.value)
            except BaseException as raised:
                return self._over(self._translate(self._call, raised))
            strides += 1
            if strides == _IN_A_ROW:
                return None  # the reply is there, or will be
            reply, failed = self._reply(wait=wait)
            if reply is None and failed is None:
                return None

    def _over(self, verdict: Verdict) -> Verdict:
        self._asked, self.verdict = None, verdict
        self._waiting.end(self, self._container)
        self._forget_life()
        return verdict

    def _forget_life(self) -> None:
        life, self._life = self._life, -2
        if life >= 0:
            os.close(life)

    def _watch_life(self) -> int:
        """What is readable once the caller is dead; -1 if that is not to be known, or is known already."""
        call = self._call
        if self._life == -1:
            try:
                self._life, _ = open_pidfd(call.tid, lambda: call.caller.tgid)
            except (OSError, ProctorError):
                self._life = -2  # it is looked at now and then
            if not call.valid():
                self._forget_life()  # it is another thread's, perhaps
                self._next_look = time.monotonic()
        return max(self._life, -1)

    def fileno(self) -> int:
        """What is readable when it can go on."""
        assert self._asked is not None
        return self._asked.worker.fileno()

    @property
    def next_look(self) -> float:
        """When :meth:`look` is to be called, by the monotonic clock."""
        return self._next_look if self._due is None else min(self._next_look, self._due)

    def look(self) -> Verdict | None:
        """See whether the caller still waits and has no signal to take, and the executor works."""
        now = time.monotonic()
        self._next_look = now + self._waiting.pause(self._container, now - self._next_look)
        assert self._asked is not None
        try:
            if self._signalled() or self._again:
                self._interrupt()
            if self._due is not None and now >= self._due:
                raise Trouble("the executor did not end in time")
            self._looks += 1
            if self._looks % _SELDOM == 1 and (hindered := self._asked.worker.hindered()):
                raise Trouble(hindered)
        except BaseException as failed:
            if isinstance(failed, CallGone):
                self._forget_life()
            self._run(None, failed, wait=True)
        return self.verdict

    def _signalled(self) -> bool:
        """Whether the caller has a signal to take.  One that is as much its as others' of its process it
        takes if none of these did from one look to the next: they all wait, as it does."""
        call, before = self._call, self._anyones
        waiting = call.caller.pending()
        self._anyones = 0
        if _SIGKILL in waiting:
            raise CallGone()
        assert self._asked is not None
        if not waiting or self._again or not self._ends():
            return False
        if call.caller.pending(its_own=True):
            return True
        self._anyones = waiting
        return bool(before & waiting) and call.valid() and nudge(call.tid)

    def wait(self) -> Verdict:
        """Go on to the end, in this thread."""
        while self.verdict is None:
            life = self._watch_life()
            left = max(0.0, self.next_look - time.monotonic())
            found = _readable(self.fileno(), life, seconds=left)
            if self.fileno() in found:
                self.go_on()
            else:
                self.look()
        return self.verdict

    def later(self) -> Later:
        """What a supervisor goes on with when a reply is there, or it is time to look: no thread waits
        for it."""

        def resume() -> Verdict | Later:
            if self.go_on() is None and (
                time.monotonic() >= self.next_look or (self._life >= 0 and _readable(self._life))
            ):
                self.look()
            return self.later() if self.verdict is None else self.verdict

        life = self._watch_life()
        self._waiting.begin(self, self._container)
        left = max(0.0, self.next_look - time.monotonic())
        return Later(
            self.fileno(), resume, self.cancel, left, life, self.interrupt if self._ends() else None
        )

    def _ends(self) -> bool:
        """Whether a signal for the caller is to end what is waited for, if it can."""
        return self._asked is not None and self._asked.worker.interruptible and not self._asked.done

    def interrupt(self) -> Verdict | Later:
        """As if a signal waited for the caller."""
        verdict = self.go_on()
        if verdict is None and self._ends():
            self._interrupt()
            verdict = self.go_on()
        return self.later() if verdict is None else verdict

    def cancel(self) -> None:
        """Have an end: nobody wants the answer any more."""
        if self.verdict is None:
            self._run(None, CallGone(), wait=False)

    def _interrupt(self) -> None:
        """A signal waits for the caller.  Where the kernel would end the call for it, it ends what the executor is at, and
        says whether it was done: nothing is done twice, and what no signal ends is waited for, as natively."""
        if self._ends():
            assert self._asked is not None
            self._asked.worker.interrupt()
            self._again = min(2 * self._again or _AGAIN, PAUSE)
            self._next_look = time.monotonic() + self._again


def _readable(*fds: int, seconds: float = 0.0) -> set[int]:
    """Which of these are, or are hung up, within that time; negative ones are nobody's."""
    poll = select.poll()
    for fd in fds:
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(seconds * 1000)}

"""A call being performed: whoever has time moves it on, and nobody waits for it in between.

What a family does is a generator that yields each time it waits for an executor.  A conversation is
that generator with its last question: :meth:`Conversation.go_on` moves it on as far as replies are there,
:meth:`Conversation.look` sees, while there is none, whether the call has an end for another reason.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Verdict, deny
from proctor.errors import CallGone
from proctor.performing.trouble import Idle, Trouble

if TYPE_CHECKING:
    from proctor.call.caller import Caller
    from proctor.performing.executors import Wait
    from proctor.performing.task import Work

#: Seconds before the first look at a caller whose call takes long, and between two.
_FIRST: Final = 0.05
_PAUSE: Final = 0.25
#: Answered to a call that a signal is to interrupt: the kernel makes EINTR or a new start of it, as the
#: signal's handler says (include/linux/errno.h; handle_signal of arch/*/kernel/signal.c).
ERESTARTSYS: Final = 512
_STOPPED: Final = (b"T", b"t")
_SIGKILL: Final = 9


class Conversation:
    """One call on its way; in one thread at a time.

    :param work: what is done.
    :param finish: called once at the end of it, whatever that is.
    :param translate: what is answered for what the work raises.
    :param caller: who is looked at when it takes long.
    :param limit: seconds that it may take.
    """

    __slots__ = (
        "_asked",
        "_caller",
        "_due",
        "_finish",
        "_next_look",
        "_translate",
        "_work",
        "verdict",
    )

    def __init__(
        self,
        work: Work,
        caller: Caller,
        finish: Callable[[], object],
        translate: Callable[[BaseException], Verdict],
        limit: float | None,
    ) -> None:
        now = time.monotonic()
        self._work = work
        self._caller = caller
        self._finish = finish
        self._translate = translate
        self._asked: Wait | None = None
        self._due = None if limit is None else now + limit
        self._next_look = now + _FIRST
        #: What came out; None while it goes on.
        self.verdict: Verdict | None = None

    def begin(self) -> Verdict | None:
        """Start, and go on as long as replies come at once; the verdict, if that was all."""
        self._move(lambda: next(self._work))
        return self.go_on(wait=True)

    def go_on(self, *, wait: bool = False) -> Verdict | None:
        """Go on with the replies that are there; the verdict, if that was all.

        :param wait: for each reply, for a moment (a tick of the kernel's clock).
        """
        while self.verdict is None:
            assert self._asked is not None
            executor, request = self._asked
            try:
                reply = executor.reply(request, wait=wait)
            except (Idle, Trouble) as failed:
                self._throw(failed)
                continue
            if reply is None:
                return None
            self._move(lambda reply=reply: self._work.send(reply))  # type: ignore[misc]
        return self.verdict

    def fileno(self) -> int:
        """What is readable when it can go on."""
        assert self._asked is not None
        return self._asked.executor.sock.fileno()

    @property
    def next_look(self) -> float:
        """When :meth:`look` is to be called, by the monotonic clock."""
        return self._next_look if self._due is None else min(self._next_look, self._due)

    def look(self) -> Verdict | None:
        """See whether the caller still waits and has no signal to take, and the executor works."""
        now = time.monotonic()
        self._next_look = now + _PAUSE
        try:
            self._caller.check()
            pending = self._caller.pending(its_own=True)
            if _SIGKILL in pending:
                self._throw(CallGone())
            elif pending:
                self._interrupt()
            elif self._due is not None and now >= self._due:
                self._throw(Trouble("the executor did not end in time"))
            elif self._asked is not None and self._asked.executor.state() in _STOPPED:
                self._throw(Trouble("the executor was stopped by somebody"))
        except BaseException as gone:
            if self.verdict is None:
                self._throw(gone)
        return self.verdict

    def wait(self) -> Verdict:
        """Go on to the end, in this thread."""
        while self.verdict is None:
            poll = select.poll()
            poll.register(self.fileno(), select.POLLIN)
            left = max(0.0, self.next_look - time.monotonic())
            if poll.poll(left * 1000 + 1):
                self.go_on()
            else:
                self.look()
        return self.verdict

    def cancel(self, why: BaseException) -> None:
        """Have an end."""
        if self.verdict is None:
            self._throw(why)

    def _interrupt(self) -> None:
        """A signal waits for the caller.  What is done already is the answer; what is not, is not done
        any more."""
        assert self._asked is not None
        executor, request = self._asked
        executor.signal()
        executor.wait_for_end(_FIRST)
        try:
            reply = executor.reply(request, wait=False)
        except (Idle, Trouble):
            reply = None
        if reply is not None:
            self._move(lambda: self._work.send(reply))
            self.go_on()
            return
        self.verdict = deny(ERESTARTSYS, "a signal waits for the caller")
        self._close()

    def _move(self, how: Callable[[], Wait]) -> None:
        try:
            self._asked = how()
        except StopIteration as end:
            self._asked, self.verdict = None, end.value
            self._close()
        except BaseException as failed:
            self._fail(failed)

    def _throw(self, error: BaseException) -> None:
        self._move(lambda: self._work.throw(error))

    def _fail(self, failed: BaseException) -> None:
        self._asked = None
        try:
            self.verdict = self._translate(failed)
        finally:
            self._close()

    def _close(self) -> None:
        try:
            self._work.close()
        finally:
            self._finish()

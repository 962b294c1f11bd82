"""Processes that work for a container: how long they are waited for, and their end."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Final

from proctor.performing.executing.requests import Reply, Request
from proctor.records import NamedTuple

#: Of who was asked for nothing.
EMPTY: Final = Reply((), (), {})
#: The limit for who helps a call for which somebody works already; the core knows it, too.
HELPING: Final = -1


class Pace:
    """How long whoever receives waits for the executors of one container before the loop does.

    A tick of the kernel's clock costs nothing to wait for: the timer that would end it is behind the
    next tick, and none is set in the machine.  A few microseconds' wait costs more than the answer that it is
    for.  But who waited in vain once (somebody opens FIFOs) waits so shortly for a while.

    :param once: they are used once, for what always takes longer than so few microseconds.  They are waited for longer, however
        often in vain, but no longer than until somebody else wants something of who receives.
    """

    __slots__ = ("_once", "patience", "soon")

    #: Which a socket waits by itself.
    TICK: Final = 4000
    _SHORT: Final = 50
    _LONG: Final = 5000
    _WHILE: Final = 64

    def __init__(self, once: bool = False) -> None:
        self._once = once
        #: For so many answers, if they come in time, it is waited shortly.
        self.soon = 0
        #: Microseconds.
        self.patience = self._LONG if once else self.TICK

    def came(self, in_time: bool) -> None:
        """Whether the answer came in time."""
        if self._once:
            return
        if not in_time:
            self.soon, self.patience = self._WHILE, self._SHORT
        elif self.soon:
            self.soon -= 1
            if not self.soon:
                self.patience = self.TICK


class Worker:
    """A process that works for a container, and counts against its limit as long as it lives.

    :ivar container: whose limit that is.
    :ivar last: whether it ends with the work that it has.
    :ivar pidfd: its process; -1 before that is known.
    """

    __slots__ = ("container", "counted", "dead", "last", "pidfd")
    #: Whether a caller's signal ends it; a deadline and the caller's death always do.
    interruptible = True

    def __init__(self, container: object) -> None:
        self.container = container
        #: Whether it counts against that one's limit just now.
        self.counted = self.last = False
        #: Whether it was seen that it is.
        self.dead = False
        self.pidfd = -1

    def fileno(self) -> int:
        """What is readable when it is time for :meth:`reply`."""
        raise NotImplementedError

    def reply(self, request: Request | None, *, wait: bool) -> Reply | None:
        """What it was asked for; None if that is not there.

        :param wait: for a moment.
        """
        raise NotImplementedError

    def hindered(self) -> str:
        """Why it cannot be counted on any more, as a clause; empty if it can."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Have what it is at end as a signal for the caller would, if that is possible, and :meth:`reply` raise Interrupted
        if nothing was done."""
        raise NotImplementedError

    def ended(self) -> bool:
        """Whether its process is dead."""
        return self.wait_for_end(0)

    def signal(self) -> None:
        """Ask for its end, whatever it is blocked in; :meth:`ended` tells when that came."""
        if self.pidfd >= 0 and not self.dead:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it was faster

    def wait_for_end(self, seconds: float) -> bool:
        """Wait for its end, so long at most: whether it is dead, or was never seen."""
        pidfd = self.pidfd
        if pidfd < 0 or self.dead:
            return True
        poll = select.poll()  # select(2) knows no descriptor beyond 1023
        poll.register(pidfd, select.POLLIN)
        self.dead = bool(poll.poll(max(0.0, seconds) * 1000))
        return self.dead

    def kill(self) -> None:
        """Ask for its end, and say no more to it."""
        self.signal()

    def close(self) -> None:
        """Let go of it.  Idempotent."""
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)


class Wait(NamedTuple):
    """What a conversation waits for: the reply of one executor to one request, or the end of a program."""

    worker: Worker
    request: Request | None = None
    #: Whether the call is done, for which something is still to be seen: no signal has it made once more.
    done: bool = False


class Dying(Worker):
    """The end of an executor that was asked for it, for who waits for that and not for what it says.

    :param seconds: how long it may take."""

    interruptible = False
    #: Seconds that somebody waits for it before the loop does.
    _MOMENT: Final = 0.001

    def __init__(self, executor: Worker, seconds: float) -> None:
        super().__init__(executor.container)
        self._executor = executor
        self._until = time.monotonic() + seconds

    def fileno(self) -> int:
        """Its process."""
        return self._executor.pidfd

    def reply(self, request: Request | None, *, wait: bool) -> Reply | None:
        """Nothing, once it is dead, or has had its time."""
        dead = self._executor.wait_for_end(self._MOMENT if wait else 0)
        return EMPTY if dead or time.monotonic() >= self._until else None

    def hindered(self) -> str:
        """Nothing keeps it: who is stopped dies, too."""
        return ""

    def interrupt(self) -> None:
        """It ends already."""

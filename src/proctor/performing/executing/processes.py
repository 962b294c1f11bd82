"""One executor, seen from the monitor: asking it, hearing it, what others did to it."""

from __future__ import annotations

import _socket as socket  # its wrapper takes two milliseconds to load
import errno
import os
import signal
import struct
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final, Literal

from proctor.kernel import _core, scm
from proctor.kernel.thread import stat_fields
from proctor.performing import scarce
from proctor.performing.executing.requests import (
    CLOSED,
    CUT,
    DONE,
    INTERRUPTED,
    NO_PROCESS,
    UNGIVEN,
    Reply,
    Request,
    state_of,
)
from proctor.performing.executing.workers import EMPTY, Pace, Worker
from proctor.performing.trouble import Died, Ended, Interrupted, Trouble

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.kernel.progress import Progress
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.beginning import Beginning
    from proctor.performing.short_ways.lending import Loan, Terms

#: Whoever is of its user, or root of its container, can do that.
LIMITED: Final = "somebody limited the executor's open files (prlimit)"
_DIED: Final = "the executor died in the middle of the call"
_NONSENSE: Final = "the executor's reply makes no sense"
#: Of include/linux/sched.h.
_PF_EXITING: Final = 4
#: Of executor.h.
INTERRUPTS: Final = signal.SIGURG


_TICK: Final = struct.pack("@ll", 0, Pace.TICK)


class Executor(Worker):
    """One executor, seen from the monitor.  Owned by whoever borrowed it.

    :ivar key: whose identity it has; equal keys may use it.
    :ivar equals: those of equal keys that wait for work.
    :ivar pid: its process id; 0 before that is known.
    :ivar begins: what it was asked first, if it was.
    :ivar number: of its socket; -1 once it is closed.
    :ivar pace: how long it is waited for.
    :ivar permitted: the capabilities that it was born with, once that is known.
    :ivar holds: whether it may still have open what came with its last reply.
    :ivar place: where it says how far it is (:mod:`proctor.kernel.progress`); 0: nowhere.
    :ivar table: its own ``/proc/PID/fd`` as an O_PATH descriptor, to be sent along where what it
        has pinned is to be named or opened.  It has none itself: a walk on a caller's word may lead
        into the walker's descriptors, so nothing of worth is among them then.
    """

    __slots__ = (
        "_disturbed", "_most", "_place", "_progress", "begins", "equals", "holds", "key", "number", "pace", "permitted", "pid",
        "place", "sock", "table",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        key: Hashable,
        container: object,
        pace: Pace | None = None,
        progress: Progress | None = None,
        place: int = 0,
    ) -> None:
        """
        :param progress: what ``place`` is in; given back by :meth:`close`."""
        super().__init__(container)
        self._progress, self.place = progress, place
        self.sock = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TICK)
        self.number = sock.fileno()
        self.pace = Pace() if pace is None else pace
        self.key = key
        self.equals: list[Executor] = []
        self.pid = self.permitted = 0
        self.table = -1
        self.begins: Beginning | None = None
        self.holds = False
        self._disturbed = False
        self._place = self._most = b""

    def belongs(self, key: Hashable, pace: Pace) -> None:
        """It was made before it was known for whom."""
        self.key, self.pace = key, pace

    def asked_next(self) -> tuple[int, int]:
        """Its place, and as which of its requests it will know the next one."""
        assert self._progress is not None
        return self.place, self._progress.next(self.place)

    def ask(self, request: Request, packet: bytes, fds: tuple[int, ...] = ()) -> Reply | None:
        """Send a request: the reply, if it comes in a moment (:class:`Pace`).

        :param packet: the request, filled in.
        :raises Ended: it ended before, and nothing has happened; :meth:`reply` says more.
        :raises Trouble: it cannot be reached, or as for :meth:`reply`.
        """
        try:
            heard = request.native.ask(self.number, packet, fds, self.pace.patience)
        except OSError as error:
            raise self._unsent(error) from None
        return self._answered(heard)

    def act_for(
        self,
        standing: Standing,
        look: int,
        call: Call,
        dirfds: tuple[int, ...],
        request: Request,
        packet: bytes,
    ) -> Reply | Literal[False] | None:
        """As :meth:`ask`, and :func:`proctor.kernel._core.act_for`."""
        listener = _listener(call)
        if listener is None:
            return False
        try:
            heard = _core.act_for(
                standing.known, look, listener, call.id, dirfds, self.number, self.table, self.pace.patience,
                request.native, packet,
            )  # fmt: skip
        except OSError as error:
            raise self._unsent(error) from None
        return heard if heard is False else self._answered(heard)

    def act_on(
        self, standing: Standing, call: Call, number: int, request: Request, packet: bytes
    ) -> tuple[Reply | None, int] | None:
        """As :meth:`ask`, and :func:`proctor.kernel._core.act_on`, whatever the caller's groups: the descriptor that went
        along is the asker's to close.  None if nothing was sent."""
        listener = _listener(call)
        if listener is None:
            return None
        try:
            found = _core.act_on(
                standing.known, 1, listener, call.id, number, self.number, self.pace.patience, request.native, packet
            )  # fmt: skip
        except OSError as error:
            raise self._unsent(error) from None
        if found is False:
            return None
        heard, fd = found
        try:
            return self._answered(heard), fd
        except BaseException:
            os.close(fd)
            raise

    def lend_for(
        self,
        standing: Standing,
        look: int,
        call: Call,
        dirfds: tuple[int, ...],
        request: Request,
        packet: bytes,
        terms: Terms,
        lender: Executor,
        loan: Loan,
    ) -> tuple[Reply | Literal[False] | bytes | None, Any, int]:
        """As :meth:`act_for`, and :func:`proctor.kernel._core.lend_for`: (what that returns, None, -1) where nothing was lent,
        else (the first part of its answer, what the lender was heard to say, what it still works at or -1)."""
        listener = call.listener_fd
        if listener < 0 and not call.valid():
            return False, None, -1
        table = lender.table if loan.table else -1
        try:
            heard = _core.lend_for(
                standing.known, look, call.valid, listener, call.id, dirfds,
                (self.number, self.table, self.pace.patience), request.native, packet, terms,
                (lender.number, table, lender.pace.patience), loan.request.native, loan.packet,
            )  # fmt: skip
        except OSError as error:
            raise self._unsent(error) from None
        if heard is False:
            return False, None, -1
        first, second, pin, closed = heard
        if second is None:
            return self._answered(first), None, -1
        if self.pace.soon:
            self.pace.came(True)
        self.holds = closed != 0
        return first, second, pin

    def answered(self, heard: Any) -> Reply | None:
        """The reply that the core has heard to a request; None if there is none yet.

        :param heard: also an errno with which it could not be sent.
        :raises Ended, Trouble: as :meth:`ask`."""
        if type(heard) is int:
            raise self._unsent(OSError(heard, os.strerror(heard)))
        return self._answered(heard)

    def _unsent(self, error: OSError) -> Ended | Trouble:
        """What is to be raised for a request that could not be sent.

        :raises Trouble: as :meth:`_last_words`."""
        if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
            self._last_words()
            return Ended()
        if error.errno == errno.EMSGSIZE:
            return Trouble("the caller has too many groups for an executor")
        return Trouble(f"cannot reach an executor: {scarce.why(error)}")

    def _answered(self, heard: tuple[Any, ...]) -> Reply | None:
        """The reply that was heard to a request that was sent; None if there is none yet."""
        if len(heard) != 3:
            self._unheard(*heard)
            self.pace.came(False)
            return None
        if self.pace.soon:
            self.pace.came(True)
        self.holds = bool(heard[2])
        return Reply(*heard)

    def fileno(self) -> int:
        """Its socket."""
        return self.sock.fileno()

    def ask_for(
        self,
        standing: Standing,
        groups: bool,
        call: Call,
        dirfd: int,
        path: int | bytes,
        forms: _core.Forms,
    ) -> tuple[bytes | None, tuple[Any, ...] | None, int] | None:
        """As :func:`proctor.kernel._core.ask_for`."""
        listener = -1 if type(path) is bytes else call.listener_fd
        return _core.ask_for(
            standing.known, groups, listener, call.id, dirfd, path, *self.at_hand, forms
        )

    @property
    def at_hand(self) -> tuple[int, int, int]:
        """What the core asks it by: its socket, its table, and how long to wait."""
        return self.number, self.table, self.pace.patience

    def heard(self, heard: tuple[Any, ...] | None) -> Reply | None:
        """What the core has heard of it, if that is a reply."""
        if heard is None:
            return None
        if len(heard) == 3:
            self.came(True)
            self.holds = bool(heard[2])
            return Reply(*heard)
        if heard[0] == errno.EAGAIN:
            self.came(False)
        return None

    def told(self, heard: tuple[Any, ...] | int) -> Reply | None:
        """As :meth:`ask`, of what the core has asked it: what that has heard, or the errno that it could not ask with."""
        if isinstance(heard, int):
            raise self._unsent(OSError(heard, os.strerror(heard))) from None
        return self._answered(heard)

    def came(self, in_time: bool) -> None:
        """Whether its answer came in time."""
        self.pace.came(in_time)

    def _last_words(self) -> None:
        """
        :raises Trouble: it said before its end why there is none, or that it could not be born."""
        state = CLOSED
        while state == CLOSED:
            try:
                packet = scm.receive(self.sock, 64, socket.MSG_DONTWAIT)
            except OSError:
                return
            packet.close()
            state, _ = state_of(packet.data)
        if packet.data:
            raise Trouble(_complaint(packet))

    def reply(self, request: Request | None, *, wait: bool) -> Reply | None:
        """The reply to ``request``; None if it is not there.

        :param request: None: an empty reply, once it has closed what came with the last one.
        :raises Ended: it ended before it saw the request.
        :raises Interrupted: it was, by :meth:`interrupt`, before anything was done.
        :raises Trouble: it died, or said nonsense, or ran out of something.
        """
        if request is None:
            return EMPTY if self.closed(wait=wait) else None
        heard = request.native.ask(self.number, None, (), self.pace.patience if wait else 0)
        if len(heard) != 3:
            self._unheard(*heard)
            return None
        self.holds = bool(heard[2])
        return Reply(*heard)

    def closed(self, *, wait: bool) -> bool:
        """Whether it has closed what came with its last reply.

        :param wait: for a moment, until it has.
        :raises Ended: it died."""
        if self.holds:
            problem = _core.hear_closed(self.number, self.pace.patience if wait else 0)
            if problem not in (0, errno.EAGAIN, errno.EINTR):
                raise Ended
            self.holds = bool(problem)
        return not self.holds

    def _unheard(self, problem: int, data: bytes) -> None:
        """No reply came; nothing may have come yet.

        :raises Ended, Interrupted, Trouble: as :meth:`reply`."""
        if problem == errno.EAGAIN:
            return
        if problem == errno.ECONNRESET:  # it ended with our request unread
            self._last_words()
            raise Ended
        state, error = state_of(data) if problem == 0 else (DONE, 0)
        if state == INTERRUPTED and self._disturbed:
            raise Interrupted(error)
        if state == CUT and self.limited():
            raise Trouble(LIMITED)
        if problem == 0 and not data:
            raise Died(_DIED)
        if problem in (0, errno.EMFILE):
            raise Trouble(_complaint(scm.Message(data, lost=bool(problem))))
        said = _NONSENSE if problem == errno.EMSGSIZE else scarce.why(OSError(problem, ""))
        raise Trouble(f"cannot hear an executor: {said}")

    def settle(self) -> None:
        """It is who it shall be: remember where it is, and what it may."""
        self._place = self._file("cgroup")
        self._most = self._limit()

    def interrupt(self) -> None:
        """By a signal, so that the kernel itself decides, as it would for the caller, whether that ends what it is at.  It
        may come just before a call that waits, and be lost: who does not hear of it says so again."""
        self._disturbed = self.last = True
        try:
            signal.pidfd_send_signal(self.pidfd, INTERRUPTS)
        except OSError:
            pass  # it is dead, or not yet known: its reply says what came of that

    def hindered(self) -> str:
        """What somebody who may (root of a container, its caller) did to it, so that it cannot be
        counted on any more, as a clause; empty if nothing."""
        if stat_fields(self._file("stat"))[:1] in ([b"T"], [b"t"]):
            return "the executor was stopped by somebody"
        place = self._file("cgroup")
        if self._place and place and place != self._place and not self._exits():
            return "the executor was moved into another cgroup by somebody, which may be frozen"
        return ""

    def _exits(self) -> bool:
        """Whether it is about to be dead, which is heard: of such a one hierarchies of version 1 say that it is in their root
        (``proc_cgroup_show`` of kernel/cgroup/cgroup.c)."""
        fields = stat_fields(self._file("stat"))
        return len(fields) < 7 or bool(int(fields[6]) & _PF_EXITING)

    def limited(self) -> bool:
        """Whether somebody took it the descriptors that it may have."""
        return self._limit() != self._most

    def _limit(self) -> bytes:
        text = self._file("limits")
        at = text.find(b"Max open files")
        return text[at : text.find(b"\n", at)]

    def _file(self, name: str) -> bytes:
        try:
            with open(f"/proc/{self.pid}/{name}", "rb") as file:
                return file.read()
        except OSError:
            return b""

    def kill(self) -> None:
        """Ask for its end, and say no more to it."""
        super().kill()
        self.number = -1
        self.sock.close()

    def close(self) -> None:
        """Close our ends; an idle executor ends then.  Idempotent."""
        super().close()
        self.number = -1
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.give_back(self.place)
        self.sock.close()
        table, self.table = self.table, -1
        if table >= 0:
            os.close(table)


def _listener(call: Call) -> int | None:
    """Where it is asked natively whether the caller waits, -1 if it was asked now; None if it does not."""
    listener = call.listener_fd
    return None if listener < 0 and not call.valid() else listener


def _complaint(packet: scm.Message) -> str:
    state, number = state_of(packet.data)
    if packet.lost:
        return scarce.lost()
    error = OSError(number, os.strerror(number))
    if state == NO_PROCESS:
        return f"an executor cannot be forked: {scarce.why(error)}"
    if state == UNGIVEN:
        return f"an executor cannot hand a descriptor over: {scarce.why(error)}"
    if state == INTERRUPTED:
        return "somebody interrupted the executor by a signal"
    if state == CUT:
        return f"an executor is out of descriptors; {scarce.open_files()}"
    return _NONSENSE

"""One supervisor below this one, and one call that is asked about there."""

from __future__ import annotations

import _socket as socket  # its wrapper takes two milliseconds to load
import errno
import os
import select
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Answer, HandOver, Perform, deny
from proctor.errors import TargetFdLimit
from proctor.kernel import abi, scm
from proctor.kernel.closing import closers
from proctor.performing import noting
from proctor.process import asking
from proctor.process.standing import Standing
from proctor.records import NamedTuple
from proctor.supervisor.ports import Later

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict

#: Seconds until a supervisor that is asked too much is asked again.
_PAUSE: Final = 0.005
#: Most of what it sent that cannot be closed.
_MOST_LEFT: Final = 256
GONE: Final = "the supervisor below that had a say about it is gone"


class Rank(NamedTuple):
    """What is known of a supervisor below."""

    pid: int
    #: About which it has a say.
    calls: frozenset[str]
    #: Filters of its own, and how many of its kind are above and with it.
    filters: int
    depth: int
    #: Where its pid namespace's numbers are among those of a process.
    level: int


class Inner:
    """One that registered.

    :param rank: what is known of it.
    :param sock: leads to it; like ``pidfd`` ours, until :meth:`let_go`.
    """

    def __init__(self, rank: Rank, sock: socket.socket, pidfd: int) -> None:
        self.rank = rank
        self.pid, self.calls, self.filters, self.depth, self.level = rank
        self.sock = sock
        self.pidfd = pidfd

    @property
    def alive(self) -> bool:
        """Whether it may still be asked."""
        if closers.left(self) > _MOST_LEFT:
            return False
        poll = select.poll()  # which only one thread may use at a time
        poll.register(self.pidfd, select.POLLIN)
        poll.register(self.sock, 0)
        return not poll.poll(0)

    def let_go(self) -> int:
        """Ask it no more: its connection, which is the asker's to close, somewhere where nobody waits."""
        os.close(self.pidfd)
        return self.sock.detach()


class Question:
    """One call, asked about below.

    :param caller: who made it.
    :param inners: who is to be asked, in order.
    :param verdict: what was decided here.
    :param begins: called before one of them performs it.
    :param then: what comes of it where they all let it run.
    :param before: the question that waits for this one.
    """

    def __init__(
        self,
        call: Call,
        caller: Standing,
        inners: Sequence[Inner],
        verdict: Verdict,
        begins: Callable[[], object],
        then: Callable[[], Verdict | Later],
        before: Question | None = None,
    ) -> None:
        self._call = call
        self._caller = caller
        self._inner, *self._others = inners
        self._verdict = verdict
        self._begins = begins
        self._then = then
        self._before = before
        self._sock, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)

    def ask(self) -> Verdict | Later:
        """Ask; the answer, if it is known at once."""
        call, note = self._call, self._call._notification
        number = self._caller.numbers[self._inner.level]
        data = abi.SECCOMP_NOTIF.pack(
            call.id, number, note.flags, note.nr, note.arch & 0xFFFFFFFF, note.ip, *note.args
        )
        try:
            scm.send(self._inner.sock, data, [self._theirs.fileno()], socket.MSG_DONTWAIT)
        except OSError as problem:
            if problem.errno in (errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS):
                return self._later(self.ask, _PAUSE)
            return self._over(deny(errno.ENOSYS, GONE))
        self._theirs.close()
        return self._later(self._heard)

    def _later(self, resume: Callable[[], Verdict | Later], wait: float | None = None) -> Later:
        return Later(self._sock.fileno(), resume, self.close, wait)

    def _heard(self) -> Verdict | Later:
        """Something came."""
        try:
            message = scm.receive(self._sock, asking.SAID.size)
        except BlockingIOError:
            return self._later(self._heard)
        except OSError:
            return self._over(deny(errno.ENOSYS, GONE))
        fds = list(message.fds)
        try:
            if len(message.data) != asking.SAID.size:
                return self._over(deny(errno.ENOSYS, GONE))
            what, value, error, flags = asking.SAID.unpack(message.data)
            return self._said(what, value, error, flags, fds)
        except OSError:
            return self._over(deny(errno.ENOSYS, GONE))  # it does not take the reply
        finally:
            closers.close(fds, self._inner)

    def _said(
        self, what: int, value: int, error: int, flags: int, fds: list[int]
    ) -> Verdict | Later:
        listener, id = self._call._listener, self._call.id
        who = f"process {self._inner.pid}, below"
        if what == asking.ANSWER and flags & abi.SECCOMP_USER_NOTIF_FLAG_CONTINUE:
            return self._goes_on()
        if what == asking.ANSWER:
            if error:
                return self._over(deny(-error if -4096 < error < 0 else errno.EPERM, who))
            return self._over(Answer(value, reason=who))
        if what == asking.PERFORM:
            if isinstance(self._verdict, Perform):
                return self._goes_on()  # whoever is outermost performs
            if self._others:
                return self._rest(self._may_perform, self)
            return self._may_perform()
        if what == asking.ADDFD and len(fds) == 1:
            at = value if value >= 0 else None
            if flags & asking.SEND:
                self._reply(0)
                return self._over(HandOver(fds.pop(), at, bool(flags & asking.CLOEXEC), reason=who))
            try:
                number = listener.addfd(id, fds[0], at=at, cloexec=bool(flags & asking.CLOEXEC))
            except (TargetFdLimit, OSError) as problem:
                self._reply(-1, problem.errno or errno.EIO)
            else:
                self._reply(-1 if number is None else number)
            return self._later(self._heard)
        if what != asking.VALID:
            return self._over(deny(errno.ENOSYS, f"{who}, says what is nothing"))
        self._reply(int(listener.id_valid(id)))
        return self._later(self._heard)

    def _goes_on(self) -> Verdict | Later:
        """It may, as far as this one is concerned."""
        self._hang_up()
        if not self._others:
            return self._then()
        return self._rest(self._then, self._before)

    def _rest(
        self, then: Callable[[], Verdict | Later], before: Question | None
    ) -> Verdict | Later:
        """Ask the others."""
        return Question(
            self._call, self._caller, self._others, self._verdict, self._begins, then, before
        ).ask()

    def _may_perform(self) -> Later:
        self._begins()
        noting.halves(self._call)  # whoever comes after us hears nothing of what is done below
        self._reply(1)
        return self._later(self._heard)

    def _reply(self, value: int, error: int = 0) -> None:
        scm.send(self._sock, asking.REPLY.pack(value, error))

    def _over(self, verdict: Verdict) -> Verdict:
        self.close()
        return verdict

    def _hang_up(self) -> None:
        if self._sock.fileno() >= 0:
            closers.close([self._sock.detach()], self._inner)

    def close(self) -> None:
        """Nobody waits for what comes of it, nor of the one that waits for it."""
        self._hang_up()
        self._theirs.close()
        if self._before is not None:
            self._before.close()

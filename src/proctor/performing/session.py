"""Speaking to one executor, for one call: :class:`Session`."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Hashable
from typing import TYPE_CHECKING

from proctor.errors import CallGone, CallOver
from proctor.performing import noting
from proctor.performing.executing.beginning import Become
from proctor.performing.executing.closing import Given
from proctor.performing.executing.executors import Executors
from proctor.performing.executing.processes import LIMITED, Executor
from proctor.performing.executing.requests import Reply, Request
from proctor.performing.executing.workers import HELPING, Dying, Wait
from proctor.performing.families import ADDED
from proctor.performing.trouble import Again, Ended, Interrupted, Trouble

if TYPE_CHECKING:
    from proctor.call.call import Call


class Session:
    """Speaks to one executor, for one call.

    :param key: whose executor it is.
    :param limit: how many of the container's may be at work.
    """

    __slots__ = (
        "_become",
        "_begun",
        "_done",
        "_executor",
        "_first",
        "_holding",
        "_key",
        "_spent",
        "_used",
        "call",
        "container",
        "executors",
        "foreign",
        "limit",
        "slow",
    )  # fmt: skip

    def __init__(
        self,
        executors: Executors,
        key: Hashable,
        container: object,
        become: Become,
        call: Call,
        limit: int,
    ) -> None:
        self.executors = executors
        self.call = call
        self.container = container
        self.limit = limit
        self._key = key
        self._become = become
        self._executor: Executor | None = None
        self._spent: list[Executor] = []
        #: Whose call it is; and of others that work for it those that may still have open what they gave.
        self._first: Session | None = None
        self._holding: list[Executor] = []
        self._used = self._done = False
        self._begun: tuple[Request, Reply | None] | None = None
        #: Whether something was opened that may not be closed at once; whether something is pinned of
        #: which that is so, and which may be opened by what is asked for next.
        self.slow = self.foreign = False

    def another(self, key: Hashable, become: Become) -> Session:
        """A session with another executor for the same call; its maker's to close."""
        made = Session(self.executors, key, self.container, become, self.call, self.limit)
        made._first = self._first or self
        return made

    def limit_now(self) -> int:
        """As :meth:`~proctor.performing.executing.executors.Executors.acquire` wants it of whoever works for the call next: a call
        counts once, however many do."""
        first = self._first or self
        return HELPING if first._executor is not None or first._spent else self.limit

    def asked(self, executor: Executor, request: Request, reply: Reply | None) -> None:
        """An executor was asked already, as :meth:`ask` is going to be asked first.

        :param reply: None if that is still to come."""
        self._executor = executor
        self._begun = request, reply

    def heard(self) -> Generator[Wait, Reply, Reply]:
        """What was asked already, and is asked no second time: its reply.

        :raises Trouble, Again: as :meth:`ask`."""
        executor, (request, reply), self._begun = self._executor, self._begun or (None, None), None
        assert executor is not None
        try:
            if reply is None:
                reply = yield Wait(executor, request)
            self._see(executor, request, reply)
        except Ended:
            self.fail()
            raise Again from None
        except BaseException:
            self.fail()
            raise
        self._used = True
        return reply

    def _see(self, executor: Executor, request: Request | None, reply: Reply) -> None:
        """See what came of a request.

        :raises Trouble: somebody took it its descriptors."""
        changed = None if request is None else request.changed(reply)
        if request is not None and request.begun(reply):
            noting.halves(self.call)
        elif request is not None:
            noting.came(self.call, request, changed)
        if -errno.EMFILE in reply.results and executor.limited():
            reply.close()
            raise Trouble(LIMITED)
        if changed is not None and self.call.name not in ADDED:
            (self._first or self)._done = True

    def answered(self, executor: Executor) -> None:
        """An executor was asked, and has answered; the rest is asked of it, too."""
        self._executor, self._used = executor, True

    def _told(self, request: Request) -> tuple[bool, Reply | None]:
        """Whether that is what was asked before, and its reply."""
        assert self._begun is not None
        asked, reply = self._begun
        if asked is request:
            self._begun = None
            return True, reply
        self._forget_asked()
        return False, None

    def _forget_asked(self) -> None:
        """Nobody wants to know that any more."""
        assert self._begun is not None
        reply, self._begun = self._begun[1], None
        if reply is None:
            self.fail()  # it is at something else
        else:
            self.executors.closers.drop(reply, self.container)

    def drop(self, reply: Reply) -> None:
        """Close what nobody took of a reply; where that may wait, nobody waits."""
        if self.slow:
            self.executors.closers.drop(reply, self.container)
        reply.close()

    def give_up(self, fd: int) -> None:
        """Close what was opened; as :meth:`drop`."""
        if self.slow:
            self.executors.closers.close_for(self.container, fd)
        else:
            os.close(fd)

    def given(self, fd: int) -> None:
        """What the call gives its caller is closed when that is over; as :meth:`drop`."""
        given, kind = Given(self.executors.closers, self.container, fd), type(self.call)
        try:
            self.call._keep(given)
        except CallOver:
            pass
        if type(self.call) is not kind:  # somebody else answered meanwhile
            given.close()

    def ask(
        self, request: Request, *values: bytes | int, fds: tuple[int, ...] = (), table: bool = False
    ) -> Generator[Wait, Reply, Reply]:
        """Have a request made; the reply.

        :param table: the executor's own descriptors go along, after ``fds``.
        :raises Trouble: the executor failed.
        :raises Again: it ended in the middle of the conversation, between two requests.
        """
        self.slow |= self.foreign
        known, reply = (False, None) if self._begun is None else self._told(request)
        while True:
            executor = self._executor
            if executor is None:
                limit = self.limit_now()
                if not self._spent:
                    executor = self.executors.borrow(self._key, self.container, limit)
                if executor is None:
                    executor = yield from self.executors.acquire(
                        self._key, self.container, limit, self._become
                    )
                self._executor = executor
            if not self.call.valid():  # all that was taken before is of a live caller only if so
                if reply is not None:
                    self.executors.closers.drop(reply, self.container)
                elif known:
                    self.fail()  # it owes an answer, which whoever has it next would take for theirs
                raise CallGone
            try:
                if not known:
                    packet = request.fill(*values)
                    noting.asks(self.call, request, executor)
                    reply = executor.ask(request, packet, (*fds, executor.table) if table else fds)
                known = False
                if reply is None:
                    reply = yield Wait(executor, request, (self._first or self)._done)
                self._see(executor, request, reply)
            except Ended:
                self.fail()
                if self._used:
                    self._used = False
                    raise Again from None
                continue
            except BaseException:
                self.fail()
                raise
            self._used = True
            return reply

    def ask_once(
        self, request: Request, *values: bytes | int, fds: tuple[int, ...] = (), table: bool = False
    ) -> Generator[Wait, Reply, Reply]:
        """As :meth:`ask`, and nothing more: the executor is given back."""
        try:
            return (yield from self.ask(request, *values, fds=fds, table=table))
        finally:
            self.close()

    def fail(self) -> None:
        """The executor is of no use any more."""
        executor, self._executor = self._executor, None
        if executor is not None:
            self.executors.discard(executor)

    def signal(self) -> None:
        """The executor has done what it was for: it is to die."""
        if self._executor is not None:
            self._executor.signal()

    def end(self, seconds: float) -> Generator[Wait, Reply, None]:
        """The executor is dead, or has had so long to die."""
        if self._executor is not None:
            yield Wait(Dying(self._executor, seconds), done=True)

    def settle(self) -> Generator[Wait, Reply, None]:
        """Wait until executors have closed what they gave, where that does not take long: who is answered is to find
        nobody else there.

        :raises CallGone: nobody waits for the answer."""
        own = [] if self.slow else [*self._spent, self._executor]
        for executor in (*own, *self._holding):
            try:
                if executor is not None and not executor.closed(wait=True):
                    yield Wait(executor, done=(self._first or self)._done)
            except (Ended, Interrupted, Trouble):
                pass  # what is dead has nothing open

    def take(self) -> Executor:
        """The executor, which is now the taker's to release or discard."""
        executor, self._executor = self._executor, None
        assert executor is not None
        return executor

    def renew(self) -> None:
        """Have another executor; this one lives until :meth:`close`."""
        if self._executor is not None:
            self._spent.append(self._executor)
        self._executor, self._used = None, False

    def close(self) -> None:
        """Give the executors back."""
        if self._begun is not None:
            self._forget_asked()
        if self._executor is not None:
            self._spent.append(self._executor)
            self._executor = None
        while self._spent:
            executor = self._spent.pop()
            if self._first is None or self.slow or not executor.holds:
                self.executors.release(executor, slow=self.slow)
            else:
                self._holding.append(executor)
        if self._first is not None:
            self._first._holding += self._holding
            self._holding.clear()
        while self._holding:
            self.executors.release(self._holding.pop())

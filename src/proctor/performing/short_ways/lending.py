"""The short way of calls that want a right lent: the caller's executor is asked, then the lender, and that was all.

As in :mod:`proctor.performing.short_ways.short`: it decides nothing that the families do not.  Whatever is in any way out of the ordinary
they do, from the beginning; then nothing has happened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

from proctor.call.verdict import answer, deny
from proctor.performing import noting, registry
from proctor.performing.executing.workers import Wait
from proctor.performing.identities import lender
from proctor.performing.short_ways.ways import PlannedWay, late
from proctor.performing.trouble import Again, Ended, Trouble
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.executors import Executors
    from proctor.performing.executing.processes import Executor
    from proctor.performing.executing.requests import Reply, Request
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later


class Loan(NamedTuple):
    """What a lender is asked about what is pinned, and what is said to its answer."""

    request: Request
    #: As of :class:`proctor.performing.identities.lender.Loan`.
    left: int
    packet: bytes
    #: Whether its own descriptors go along.
    table: bool
    #: Given that, and the first part of what the caller's executor had said.
    told: Callable[[Reply, bytes], Verdict]


class Terms(NamedTuple):
    """On what a right is lent, where nothing is out of the ordinary: for :func:`proctor.kernel._core.lend_for`."""

    #: The plan's step that counts, and what it has come to: minus an errno, 0 for none.
    step: int
    result: int
    #: Which part of the answer is of the file system (-1: no matter), and of which kinds that may be.
    system: int = -1
    kinds: bytes = b""
    #: Whether the owners of what is pinned are among these.
    owned: bool = False
    users: bytes = b""
    groups: bytes = b""


class Lending(NamedTuple):
    """A call that wants a right lent, if the caller is who it was."""

    #: Of :func:`proctor.performing.identities.lender.key_of`.
    whom: Hashable
    #: What the caller's executor is asked: it pins, and gives that.
    request: Request
    packet: bytes
    #: What of the caller's goes along, and how the caller is looked at: as :func:`proctor.kernel._core.act_for` wants it.
    dirfds: tuple[int, ...]
    look: int
    #: What is lent where it comes to that; and on which terms.
    loan: Loan
    terms: Terms
    #: What is said to its answer where nothing is lent; None where a longer way is to find out.
    then: Callable[[Reply], Verdict | None]


class LendingWay(PlannedWay):
    """That of one call's family."""

    def lending(self, call: Call, wish: Perform, standing: Standing) -> Lending | Verdict | None:
        """What the call is; None if it is nothing ordinary."""
        raise NotImplementedError

    def _go(self, call: Call, wish: Perform, standing: Standing) -> Verdict | Later | None:
        lending = self.lending(call, wish, standing)
        if not isinstance(lending, Lending):
            self._leave(standing)
            return lending
        executors, executor = self._performers.executors, self._lend(standing.kept)
        try:
            lends = executor and self._lend(standing.kept, lending.whom)
        except BaseException:
            executors.release(executor)  # type: ignore[arg-type]  # else nobody was asked
            raise
        if executor is None or lends is None:
            return self._leave(standing, executor)
        try:
            if self._begins is not None:
                self._begins(call)
        except BaseException:
            executors.set_free(executor)
            executors.set_free(lends)
            raise
        try:
            try:
                noting.asks(call, lending.loan.request, executor, lends)
                reply, heard, pin = executor.lend_for(
                    standing, lending.look, call, lending.dirfds, lending.request, lending.packet, lending.terms, lends,
                    lending.loan,
                )  # fmt: skip
                if reply is None:
                    noting.one_alone(call, lending.loan.request)
                elif not isinstance(reply, bytes):
                    done = lending.request.changed(reply) if reply else None
                    noting.came(call, lending.loan.request, done)
            except BaseException:
                executors.discard(executor)
                raise
        except Ended:  # before the lender was asked
            noting.came(call, lending.loan.request, None)
            executors.release(lends)
            return self._leave(standing)
        except BaseException:
            executors.discard(lends)  # its answer may be still to come, for the next one to take
            raise
        if isinstance(reply, bytes):
            return self._borrowed(
                call, wish, standing, executor, lends, lending.loan, reply, heard, pin
            )
        executors.release(lends)
        if reply is False:
            return self._leave(standing, executor)
        return self._alone(call, wish, standing, executor, lending.request, lending.then, reply)

    def _alone(
        self,
        call: Call,
        wish: Perform,
        standing: Standing,
        executor: Executor,
        request: Request,
        then: Callable[[Reply], Verdict | None],
        reply: Reply | None,
    ) -> Verdict | Later:
        """Go on where nobody lends.

        :param reply: None if it is still to come."""
        if reply is None:
            rest = partial(_then, executor, request, then)
            return self._later(call, wish, standing, (executor, None, None), rest)
        try:
            said = then(reply)
        except BaseException:
            self._performers.executors.release(executor)
            raise
        finally:
            reply.close()
        if said is None:
            return self._later(call, wish, standing, (executor, None, None), registry.perform)
        return self._closed(call, wish, standing, executor, said)

    def goes_on(
        self,
        call: Call,
        wish: Perform,
        standing: Standing | None,
        executor: Executor,
        which: int,
        found: Any,
        lends: Executor | None = None,
        pin: int = -1,
        closed: int = 0,
    ) -> Verdict | Later:
        """Go on from what was said to the core.

        :param standing: None if all is known.
        :param which: of the plans.
        :param found: as :meth:`_core.Request.ask` returns it, of whoever lends if that is given; the errno that it was not asked
            with; or that of the call.
        :param pin: as to :meth:`_borrowed`.
        :param closed: 0 if the executor has closed what it gave; an errno."""
        if standing is None:
            return deny(found) if found else answer(0)
        performers, said = self._performers, None
        try:
            standing.renew()
            if lends is not None:
                executor.holds = closed != 0
                loan = self.loan(call)
                said = self._borrowed(call, wish, standing, executor, lends, loan, b"", found, pin)
            else:
                try:
                    reply = executor.told(found)
                except BaseException as failed:
                    performers.executors.discard(executor)
                    if not isinstance(failed, Ended):
                        raise
                    self._leave(standing)  # it saw nothing of it
                else:
                    request = self._plans[which].request
                    return self._alone(call, wish, standing, executor, request, self.alone, reply)
        except BaseException as failed:
            performers.standings.give_back(standing)
            return performers.translate(call, failed)
        return performers(call, wish) if said is None else said

    def loan(self, call: Call) -> Loan:
        """What a lender is asked for a call, without the packet: whoever goes on has its registers alone, since its memory may say
        something else by now."""
        raise NotImplementedError

    def alone(self, reply: Reply) -> Verdict | None:
        """As :attr:`Lending.then`."""
        raise NotImplementedError

    def _borrowed(
        self,
        call: Call,
        wish: Perform,
        standing: Standing,
        executor: Executor,
        lends: Executor,
        loan: Loan,
        first: bytes,
        heard: Any,
        pin: int,
    ) -> Verdict | Later | None:
        """Say what came of it.

        :param first: what the caller's executor had said.
        :param heard: of the lender.
        :param pin: what it works at, if it takes longer; -1 if not."""
        executors = self._performers.executors
        try:
            reply = lends.answered(heard)
            said = None if reply is None else _heard(call, loan, first, reply)
        except BaseException as failed:
            if pin >= 0:
                os.close(pin)
            if isinstance(failed, Ended):  # it saw nothing, and the other one changed nothing
                noting.came(call, loan.request, None)
            executors.discard(lends)
            executors.release(executor)
            if isinstance(failed, Ended):
                return self._leave(standing)
            raise
        if said is None:
            rest = partial(_rest, executors, lends, loan, first, pin)
            return self._later(call, wish, standing, (executor, None, None), rest)
        if executor.holds:
            executors.release(lends)
            return self._closed(call, wish, standing, executor, said)
        executors.set_free(executor)
        executors.set_free(lends)
        self._performers.standings.give_back(standing)
        return said


def _then(
    executor: Executor,
    request: Request,
    then: Callable[[Reply], Verdict | None],
    task: Task,
) -> Work:
    """What is left where the caller's executor takes longer: all of it, unless that was all."""
    reply = yield from late(task, executor, request)
    try:
        said = then(reply)
    finally:
        reply.close()
    return (yield from registry.perform(task)) if said is None else said


def _heard(call: Call, loan: Loan, first: bytes, reply: Reply) -> Verdict:
    """
    :raises Trouble: a right was kept; the lender is not to be given back."""
    noting.came(call, loan.request, loan.request.changed(reply))
    if lender.kept_a_right(reply, loan.left):
        raise Trouble(lender.KEPT)
    return loan.told(reply, first)


def _rest(
    executors: Executors, lends: Executor, loan: Loan, first: bytes, pin: int, task: Task
) -> Work:
    """What is left once a lender takes longer."""
    task.hold(pin)
    try:
        said = _heard(task.call, loan, first, (yield Wait(lends, loan.request)))
        executors.release(lends)
        return said
    except BaseException as failed:
        executors.discard(lends)
        if isinstance(failed, Ended):
            raise Again from None
        raise

"""The short way of calls that want a right lent: the caller's executor is asked, then the lender, and that was all.

As in :mod:`proctor.performing.short`: it decides nothing that the families do not.  Whatever is in any way out of the ordinary
they do, from the beginning; then nothing has happened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING

from proctor.errors import CallGone
from proctor.performing import lender, registry
from proctor.performing.executors import Wait
from proctor.performing.trouble import Again, Ended, Trouble
from proctor.performing.ways import PlannedWay
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.callers import Known
    from proctor.performing.executors import Executors
    from proctor.performing.plans import Deed
    from proctor.performing.processes import Executor
    from proctor.performing.steps import Reply, Request
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later


class Loan(NamedTuple):
    """What a lender is asked about what is pinned, and what is said to its answer."""

    request: Request
    #: As of :class:`proctor.performing.lender.Loan`.
    left: int
    packet: bytes
    #: Whether its own descriptors go along.
    table: bool
    told: Callable[[Reply], Verdict]


class Lending(NamedTuple):
    """A call that wants a right lent, if the caller is who it was."""

    #: Of :func:`proctor.performing.lender.key_of`.
    whom: Hashable
    #: What the caller's executor is asked: it pins, and gives that.
    pinning: Deed
    #: What is done about its answer: a loan, a verdict, or None where a longer way is to find out.
    then: Callable[[Reply, tuple[int | bytes, ...]], Loan | Verdict | None]


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
        executors = self._performers.executors
        executor = self._ready(standing, lending.pinning)
        lends = executor and self._borrow(standing.kept, lending.whom)
        if executor is None or lends is None:
            return self._leave(standing, executor)
        try:
            plan, values, reply = self._ask(call, standing, executor, lending.pinning)
        except BaseException as failed:
            executors.release(lends)
            if isinstance(failed, Ended):
                return self._leave(standing)
            raise
        if not reply:
            executors.release(lends)
            if reply is False:
                return self._leave(standing, executor)
            then = partial(_then, executor, plan.request, lambda reply: lending.then(reply, values))
            return self._later(call, wish, standing, (executor, None, None), then)
        try:
            loan = lending.then(reply, values)
        except BaseException:
            reply.close()
            executors.release(executor)
            executors.release(lends)
            raise
        if isinstance(loan, Loan):
            pin = reply.take(plan.pin)
            return self._borrowed(call, wish, standing, executor, lends, loan, pin)
        reply.close()
        executors.release(lends)
        if loan is None:
            return self._later(call, wish, standing, (executor, None, None), registry.perform)
        return self._closed(call, wish, standing, executor, loan)

    def _borrowed(
        self,
        call: Call,
        wish: Perform,
        standing: Standing,
        executor: Executor,
        lends: Executor,
        loan: Loan,
        pin: int,
    ) -> Verdict | Later | None:
        executors = self._performers.executors
        try:
            said = _ask(call, executors, lends, loan, pin)
        except BaseException as failed:
            os.close(pin)
            executors.release(executor)
            if isinstance(failed, Ended):
                return self._leave(standing)
            raise
        if said is None:
            rest = partial(_rest, executors, lends, loan, pin)
            return self._later(call, wish, standing, (executor, None, None), rest)
        os.close(pin)
        return self._closed(call, wish, standing, executor, said)

    def _borrow(self, known: Known, whom: Hashable) -> Executor | None:
        container, performers = known.key.container, self._performers
        return performers.executors.borrow(
            whom,
            container,
            performers.option(container, "limit"),  # type: ignore[arg-type]
        )


def _then(
    executor: Executor,
    request: Request,
    then: Callable[[Reply], Loan | Verdict | None],
    task: Task,
) -> Work:
    """What is left where the caller's executor takes longer: all of it, unless that was all."""
    try:
        reply = yield Wait(executor, request)
    except BaseException as failed:
        task.session.fail()
        if isinstance(failed, Ended):
            raise Again from None
        raise
    try:
        said = then(reply)
    finally:
        reply.close()
    if said is None or isinstance(said, Loan):
        return (yield from registry.perform(task))
    return said


def _ask(call: Call, executors: Executors, lends: Executor, loan: Loan, pin: int) -> Verdict | None:
    """What is said to what came of it; None if that takes longer.  The lender is given back but then."""
    if not call.valid():
        executors.release(lends)
        raise CallGone
    try:
        fds = (pin, lends.table) if loan.table else (pin,)
        reply = lends.ask(loan.request, loan.packet, fds)
        return None if reply is None else _heard(executors, lends, loan, reply)
    except BaseException:
        executors.discard(lends)
        raise


def _heard(executors: Executors, lends: Executor, loan: Loan, reply: Reply) -> Verdict:
    """
    :raises Trouble: a right was kept; the lender is not given back."""
    if lender.kept_a_right(reply, loan.left):
        raise Trouble(lender.KEPT)
    said = loan.told(reply)
    executors.release(lends)
    return said


def _rest(executors: Executors, lends: Executor, loan: Loan, pin: int, task: Task) -> Work:
    """What is left once a lender takes longer."""
    task.hold(pin)
    try:
        return _heard(executors, lends, loan, (yield Wait(lends, loan.request)))
    except BaseException as failed:
        executors.discard(lends)
        if isinstance(failed, Ended):
            raise Again from None
        raise

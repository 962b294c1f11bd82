"""The short way of calls that want a right lent: the caller's executor is asked, then the lender, and that was all.

As in :mod:`proctor.performing.short`: it decides nothing that the families do not.  Whatever is in any way out of the ordinary
they do, from the beginning; then nothing has happened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

from proctor.errors import CallGone
from proctor.performing import lender, plans, registry
from proctor.performing.executors import Wait
from proctor.performing.short import ShortWay
from proctor.performing.trouble import Again, Ended, Trouble
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.callers import Known
    from proctor.performing.executors import Executors
    from proctor.performing.performers import Performers
    from proctor.performing.plans import Plan
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
    plan: Callable[[tuple[bool, ...]], Plan]
    #: For its holes, up to the path.
    values: tuple[int | bytes, ...]
    dirfd: int
    #: The path, and the name in it if it is an entry.
    path: tuple[bytes, ...]
    #: What is done about its answer: a loan, a verdict, or None where a longer way is to find out.
    then: Callable[[Reply, tuple[int | bytes, ...]], Loan | Verdict | None]
    #: Whether the first hole is for the caller's umask.
    umask: bool = False


class LendingWay(ShortWay):
    """That of one call's family.

    :param begins: see :meth:`proctor.performing.Performers.ordinary`."""

    def __init__(
        self, performers: Performers, family: Any, begins: Callable[[Call], object] | None
    ) -> None:
        super().__init__(performers, family)
        self._begins = begins
        self._options = getattr(family, "Options", None)

    def lending(self, call: Call, wish: Perform, standing: Standing) -> Lending | Verdict | None:
        """What the call is; None if it is nothing ordinary."""
        raise NotImplementedError

    def go(self, call: Call, wish: Perform) -> Verdict | Later | None:
        """As far as it goes at once; None if :meth:`~proctor.performing.Performers.begin` is to be called."""
        performers, options = self._performers, wish.options
        standing = performers.standings.take(call.tid)
        if standing is None:
            return None
        said = None
        try:
            if (
                wish.allow is None
                and (options is None or type(options) is self._options)
                and standing.kept.key.container is getattr(call, "container", None)
                and standing.known is not None
                and call.unseen
            ):
                lending = self.lending(call, wish, standing)
                if isinstance(lending, Lending):
                    return self._both(call, wish, standing, lending)
                said = lending
        except BaseException as failed:
            performers.standings.give_back(standing)
            return performers.translate(call, failed)
        performers.standings.give_back(standing)
        return said

    def _both(
        self, call: Call, wish: Perform, standing: Standing, lending: Lending
    ) -> Verdict | Later | None:
        """As :meth:`go`; the standing is given back, unless something is raised."""
        performers, known = self._performers, standing.kept
        executors, values, look = performers.executors, lending.values, 1 + known.groups
        executor = lends = None
        if max(map(len, lending.path)) <= plans.ROOM and (
            not lending.umask or standing.unchanged()
        ):
            executor = self._lend(known)
            lends = executor and self._borrow(known, lending.whom)
        if executor is None or lends is None:
            return self._leave(standing, executor)
        try:
            if lending.umask:
                values, look = (standing.umask, *values), 0
            relative = lending.path[0][:1] != b"/"
            plan = lending.plan((relative,))
            packet = plan.request.fill(*values, *lending.path)
            if self._begins is not None:
                self._begins(call)
        except BaseException:
            executors.release(executor)
            executors.release(lends)
            raise
        dirfds = (lending.dirfd,) if relative else ()
        try:
            reply = executor.act_for(standing, look, call, dirfds, plan.request, packet)
        except BaseException as failed:
            executors.discard(executor)
            executors.release(lends)
            if isinstance(failed, Ended):
                return self._leave(standing)
            raise
        if reply is False:
            executors.release(lends)
            return self._leave(standing, executor)
        if reply is None:
            executors.release(lends)
            then = partial(_then, executor, plan.request, lambda reply: lending.then(reply, values))
            return self._later(call, wish, standing, (executor, None, None), then)
        try:
            loan = lending.then(reply, values)
        except BaseException:
            reply.close()
            executors.release(executor)
            executors.release(lends)
            raise
        if not isinstance(loan, Loan):
            reply.close()
            executors.release(lends)
            asked = executor, None, None
            if loan is None:
                return self._later(call, wish, standing, asked, registry.perform)
            return self._closed(call, wish, standing, executor, loan)
        return self._borrowed(call, wish, standing, executor, lends, loan, reply.take(plan.pin))

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

    def _leave(self, standing: Standing, executor: Executor | None = None) -> Verdict | None:
        if executor is not None:
            self._performers.executors.release(executor)
        self._performers.standings.give_back(standing)
        return None


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

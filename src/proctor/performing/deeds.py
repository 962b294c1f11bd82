"""The short way of calls about paths that are done by one :mod:`plan <proctor.performing.plans>`, where nobody asks what
these lead to.

As in :mod:`proctor.performing.short`: it decides nothing that the families do not.  Whatever is in any way out of the ordinary
they do, from the beginning; then nothing has happened.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from proctor.performing import plans, registry
from proctor.performing.executors import Wait
from proctor.performing.short import ShortWay
from proctor.performing.trouble import Again, Ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.callers import Known
    from proctor.performing.performers import Performers
    from proctor.performing.plans import Deed, DeedOf, Plan
    from proctor.performing.processes import Executor
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later


class DeedWay(ShortWay):
    """That of one call's family.

    :param deed: what calls of the name are.
    :param begins: see :meth:`proctor.performing.Performers.ordinary`."""

    def __init__(
        self,
        performers: Performers,
        family: Any,
        deed: DeedOf,
        begins: Callable[[Call], object] | None,
    ) -> None:
        super().__init__(performers, family)
        self._deed = deed
        self._begins = begins
        self._options = getattr(family, "Options", None)

    def go(self, call: Call, wish: Perform) -> Verdict | Later | None:
        """As far as it goes at once; None if :meth:`~proctor.performing.Performers.begin` is to be called."""
        performers, options = self._performers, wish.options
        standing = performers.standings.take(call.tid)
        if standing is None:
            return None
        try:
            if (
                wish.allow is None
                and (options is None or type(options) is self._options)
                and standing.kept.key.container is getattr(call, "container", None)
                and standing.known is not None
                and call.unseen
            ):
                deed = self._deed(call)
                if deed is not None:
                    return self._do(call, wish, standing, deed)
        except BaseException as failed:
            performers.standings.give_back(standing)
            return performers.translate(call, failed)
        performers.standings.give_back(standing)
        return None

    def _do(
        self, call: Call, wish: Perform, standing: Standing, deed: Deed
    ) -> Verdict | Later | None:
        """As :meth:`go`; the standing is given back, unless something is raised."""
        known: Known = standing.kept
        executors, values, look = self._performers.executors, deed.values, 1 + known.groups
        relative = tuple([path[0][:1] != b"/" for _, path in deed.paths])
        texts = [text for _, path in deed.paths for text in path]
        executor = None
        if max(map(len, texts)) <= plans.ROOM and (not deed.umask or standing.unchanged()):
            executor = self._lend(known)
        if executor is None:
            self._performers.standings.give_back(standing)
            return None
        try:
            if deed.umask:
                values, look = (standing.umask, *values), 0
            plan = deed.plan(relative)
            dirfds = tuple([
                dirfd for (dirfd, _), each in zip(deed.paths, relative, strict=True) if each
            ])  # fmt: skip
            packet = plan.request.fill(*values, *texts)
            if self._begins is not None:
                self._begins(call)
        except BaseException:
            executors.release(executor)
            raise
        try:
            reply = executor.act_for(standing, look, call, dirfds, plan.request, packet)
        except BaseException as failed:
            executors.discard(executor)
            if isinstance(failed, Ended):
                reply, executor = False, None
            else:
                raise
        if executor is not None and reply is None:
            rest = partial(_rest, executor, plan, deed)
            return self._later(call, wish, standing, (executor, None, None), rest)
        if executor is not None:
            executors.release(executor)
        if not reply:
            self._performers.standings.give_back(standing)
            return None
        failed_with = plan.errno(reply)
        if failed_with is None:
            return self._later(call, wish, standing, None)
        said = deed.said(call, reply, failed_with)
        self._performers.standings.give_back(standing)
        return said


def _rest(executor: Executor, plan: Plan, deed: Deed, task: Task) -> Work:
    """What is left where an executor takes longer."""
    try:
        reply = yield Wait(executor, plan.request)
    except BaseException as failed:
        task.session.fail()
        if isinstance(failed, Ended):
            raise Again from None
        raise
    failed_with = plan.errno(reply)
    if failed_with is None:
        return (yield from registry.perform(task))
    return deed.said(task.call, reply, failed_with)

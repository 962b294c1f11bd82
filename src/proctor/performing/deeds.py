"""The short way of calls about paths that are done by one :mod:`plan <proctor.performing.plans>`, where nobody asks what
these lead to.

As in :mod:`proctor.performing.short`: it decides nothing that the families do not.  Whatever is in any way out of the ordinary
they do, from the beginning; then nothing has happened.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from proctor.performing import registry
from proctor.performing.trouble import Ended
from proctor.performing.ways import PlannedWay, late

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.performers import Performers
    from proctor.performing.plans import Deed, DeedOf, Plan
    from proctor.performing.processes import Executor
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later


class DeedWay(PlannedWay):
    """That of one call's family.

    :param deed: what calls of the name are, where :meth:`deed` is not another one."""

    def __init__(
        self,
        performers: Performers,
        family: Any,
        deed: DeedOf | None,
        begins: Callable[[Call], object] | None,
    ) -> None:
        super().__init__(performers, family, begins)
        self._deed = deed

    def deed(self, call: Call, wish: Perform, standing: Standing) -> Deed | None:
        """What the call is; None if it is nothing ordinary."""
        assert self._deed is not None
        return self._deed(call)

    def _go(self, call: Call, wish: Perform, standing: Standing) -> Verdict | Later | None:
        deed = self.deed(call, wish, standing)
        executor = None if deed is None else self._ready(standing, deed)
        if deed is None or executor is None:
            return self._leave(standing)
        try:
            plan, _, reply = self._ask(call, standing, executor, deed)
        except Ended:
            return self._leave(standing)
        if reply is None:
            rest = partial(_rest, executor, plan, deed)
            return self._later(call, wish, standing, (executor, None, None), rest)
        if not reply:
            return self._leave(standing, executor)
        self._performers.executors.release(executor)
        failed_with = plan.errno(reply)
        if failed_with is None:
            return self._later(call, wish, standing, None)
        said = deed.said(call, reply, failed_with)
        self._performers.standings.give_back(standing)
        return said


def _rest(executor: Executor, plan: Plan, deed: Deed, task: Task) -> Work:
    """What is left where an executor takes longer."""
    reply = yield from late(task, executor, plan.request)
    failed_with = plan.errno(reply)
    if failed_with is None:
        return (yield from registry.perform(task))
    return deed.said(task.call, reply, failed_with)

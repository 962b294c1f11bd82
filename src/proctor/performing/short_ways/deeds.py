"""The short way of calls about paths that are done by one :mod:`plan <proctor.performing.short_ways.plans>`, where nobody asks what
these lead to.

As in :mod:`proctor.performing.short_ways.short`: it decides nothing that the families do not.  Whatever is in any way out of the ordinary
they do, from the beginning; then nothing has happened.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from proctor.performing import registry
from proctor.performing.short_ways.plans import Deed, filled
from proctor.performing.short_ways.ways import PlannedWay, late
from proctor.performing.trouble import Ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.processes import Executor
    from proctor.performing.performers import Performers
    from proctor.performing.short_ways.plans import DeedOf, Plan, Sketch
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later


class DeedWay(PlannedWay):
    """That of one call's family.

    :param deed: what calls of the name are, where :meth:`deed` is not another one.
    :param sketch: the same, as the core does it."""

    def __init__(
        self,
        performers: Performers,
        family: Any,
        deed: DeedOf | None,
        begins: Callable[[Call], object] | None,
        sketch: Sketch | None = None,
    ) -> None:
        super().__init__(performers, family, begins, sketch)
        self._deed = deed
        #: What is said to one that came to something; None: 0.
        self._told = None if sketch is None or sketch.fills < 0 else partial(filled, sketch)

    def goes_on(
        self,
        call: Call,
        wish: Perform,
        standing: Standing | None,
        executor: Executor,
        which: int,
        found: Any,
    ) -> Verdict | Later:
        """Go on from what an executor has said to the core.

        :param standing: None if all is known.
        :param which: of the plans.
        :param found: as :meth:`_core.Request.ask` returns it; the errno that it was not asked with; or that of the call."""
        performers, plan = self._performers, self._plans[which]
        if standing is None:
            return self.said(found)
        try:
            reply = executor.told(found)
        except BaseException as failed:
            performers.executors.discard(executor)
            performers.standings.give_back(standing)
            if isinstance(failed, Ended):  # and saw nothing of it
                return performers(call, wish)
            return performers.translate(call, failed)
        if reply is None:
            standing.renew()
            rest = partial(_rest, executor, plan, Deed(lambda _: plan, (), (), told=self._told))
            return self._later(call, wish, standing, (executor, None, None), rest)
        performers.executors.release(executor)
        failed_with = plan.errno(reply)
        performers.standings.give_back(standing)
        if failed_with is None:
            return performers(call, wish)
        return Deed(lambda _: plan, (), (), told=self._told).said(call, reply, failed_with)

    def deed(self, call: Call, wish: Perform, standing: Standing) -> Deed | None:
        """What the call is; None if it is nothing ordinary."""
        assert self._deed is not None
        return self._deed(call)

    def _go(self, call: Call, wish: Perform, standing: Standing) -> Verdict | Later | None:
        deed = self.deed(call, wish, standing)
        apart = deed is not None and deed.itself and not standing.kept.itself
        if apart or (deed is not None and deed.mounts and not standing.in_its_mounts()):
            deed = None
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

"""The short way of a device node: the caller's executor is asked, then the lender, and that was all.

As in :mod:`proctor.performing.short`: it decides nothing that :mod:`proctor.performing.families.mknod` does not.  Whatever
is in any way out of the ordinary goes on there, from what was answered.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from proctor.errors import CallGone
from proctor.performing import acting, filestat, lender, pins
from proctor.performing.executors import Wait
from proctor.performing.short import ShortWay
from proctor.performing.trouble import Again, Ended, Trouble

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.callers import Known
    from proctor.performing.executors import Executors
    from proctor.performing.performers import Performers
    from proctor.performing.processes import Executor
    from proctor.performing.steps import Reply
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later


class NodeWay(ShortWay):
    """That of ``mknod`` and ``mknodat``.

    :param begins: see :meth:`proctor.performing.Performers.ordinary`."""

    def __init__(
        self, performers: Performers, family: Any, begins: Callable[[Call], object] | None
    ) -> None:
        super().__init__(performers, family)
        self._begins = begins

    def go(self, call: Call, wish: Perform) -> Verdict | Later | None:
        """As far as it goes at once; None if :meth:`~proctor.performing.Performers.begin` is to be called."""
        performers = self._performers
        standing = performers.standings.take(call.tid)
        if standing is None:
            return None
        try:
            if self._is_ordinary(call, wish, standing):
                head, last, slashes = pins.split(call.path)
                if last and not slashes:
                    return self._make(call, wish, standing, head, last)
        except BaseException as failed:
            performers.standings.give_back(standing)
            return performers.translate(call, failed)
        performers.standings.give_back(standing)
        return None

    def _is_ordinary(self, call: Call, wish: Perform, standing: Standing) -> bool:
        """Whether it is a device for a caller that may be lent the right, and nobody looks at its path."""
        known: Known = standing.kept
        key, performers = known.key, self._performers
        who = key.who
        family = self._family
        _, mode, device = family.decode(call)
        return (
            known.devices
            and standing.known is not None
            and key.container is getattr(call, "container", None)
            and family.wants_right(mode, device)
            and wish.allow is None
            and wish.options is None
            and not call.looks
            and call.looked_at is None
            and bool(who.effective >> family.CAP_MKNOD & 1)
            and who.namespace("user") != performers.callers.own().who.namespace("user")
            and performers.owned(call, who, standing)
            and standing.unchanged()
            and standing.in_its_cgroups()
        )

    def _make(
        self, call: Call, wish: Perform, standing: Standing, head: bytes, last: bytes
    ) -> Verdict | Later | None:
        """As :meth:`go`; the standing is given back, unless something is raised."""
        performers, key = self._performers, standing.kept.key
        executors, own, container = performers.executors, performers.callers.own(), key.container
        family = self._family
        dirfd, mode, device = family.decode(call)
        absolute, umask = head[:1] == b"/", standing.umask
        whom, node = lender.node(key.who, own, pins.room(len(last)))
        by = pins.ABSOLUTE if absolute else pins.RELATIVE
        making = acting.making(by, pins.room(max(len(head), len(last))))
        values = umask, mode, device, family.PARENT, pins.probing(0, 0), head, last
        limit = performers.option(container, "limit")
        start = None if absolute else standing.place(dirfd)
        executor = lends = None
        try:
            if not call.valid():  # all that was taken is of a live caller only if so
                raise CallGone
            if absolute or start is not None:
                executor = executors.borrow(key, container, limit)
            if executor is not None:
                lends = executors.borrow(whom, container, limit)
            if executor is None or lends is None:
                self._leave(standing, executor)
                return None
            try:
                if self._begins is not None:
                    self._begins(call)
                packet = making.request.fill(*pins.directory(start), *values)
                reply = executor.ask(making.request, packet, pins.along(start))
            except BaseException as failed:
                executors.discard(executor)
                executors.release(lends)
                if isinstance(failed, Ended):
                    self._leave(standing)
                    return None
                raise
        finally:
            if start is not None:
                os.close(start)
        if reply is None or not _lacks_right_alone(making, reply):
            executors.release(lends)
            return self._later(call, wish, standing, (executor, making.request, reply))
        parent = reply.take(making.parent)
        try:
            made = _lend(call, executors, lends, node, (umask, mode, device, last), parent)
        except BaseException as failed:
            os.close(parent)
            executors.release(executor)
            if isinstance(failed, Ended):
                self._leave(standing)
                return None
            raise
        told: Callable[[int], Verdict] = partial(family.told, own, mode, device)
        if made is None:
            first = partial(_rest, executors, lends, node, parent, told)
            return self._later(call, wish, standing, (executor, None, None), first)
        os.close(parent)
        return self._closed(call, wish, standing, executor, told(made))

    def _leave(self, standing: Standing, executor: Executor | None = None) -> None:
        if executor is not None:
            self._performers.executors.release(executor)
        self._performers.standings.give_back(standing)


def _lacks_right_alone(making: acting.Making, reply: Reply) -> bool:
    """Whether all was found good but CAP_MKNOD, and a node would work there."""
    if not reply.made(making.parent) or reply.error(making.made) != errno.EPERM:
        return False
    system = filestat.system_of(reply.parts[making.system])
    return system.hosts and not system.flags & filestat.ST_NODEV


def _lend(
    call: Call,
    executors: Executors,
    lends: Executor,
    node: lender.Node,
    values: tuple[int | bytes, ...],
    parent: int,
) -> int | None:
    """The errno of what was made, 0 for none; None if that takes longer.  The lender is given back but then."""
    if not call.valid():
        executors.release(lends)
        raise CallGone
    try:
        reply = lends.ask(node.request, node.request.fill(*values), (parent,))
        return None if reply is None else _heard(executors, lends, node, reply)
    except BaseException:
        executors.discard(lends)
        raise


def _heard(executors: Executors, lends: Executor, node: lender.Node, reply: Reply) -> int:
    """
    :raises Trouble: a right was kept; the lender is not given back."""
    if lender.kept_a_right(reply, node.left):
        raise Trouble(lender.KEPT)
    executors.release(lends)
    return node.error(reply)


def _rest(
    executors: Executors,
    lends: Executor,
    node: lender.Node,
    parent: int,
    told: Callable[[int], Verdict],
    task: Task,
) -> Work:
    """What is left once a lender takes longer."""
    task.hold(parent)
    try:
        made = _heard(executors, lends, node, (yield Wait(lends, node.request)))
    except BaseException as failed:
        executors.discard(lends)
        if isinstance(failed, Ended):
            raise Again from None
        raise
    return told(made)

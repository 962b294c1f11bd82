"""The short way of a device node: the caller's executor is asked, then the lender, and that was all."""

from __future__ import annotations

import errno
import stat
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from proctor.call.credentials import USER
from proctor.call.verdict import answer, deny
from proctor.performing.executing.steps import Place
from proctor.performing.identities import lender
from proctor.performing.paths import filestat, pins
from proctor.performing.short_ways.lending import Lending, LendingWay, Loan, Terms
from proctor.performing.short_ways.plans import REGISTER, ROOM, UMASK, Plan, Planning, Sketch, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.requests import Reply
    from proctor.performing.identities.callers import Known
    from proctor.performing.identities.who import Own
    from proctor.performing.performers import Performers

_DONE: Final = answer(0)


class NodeWay(LendingWay):
    """That of ``mknod`` and ``mknodat``."""

    def __init__(
        self,
        performers: Performers,
        family: Any,
        name: str,
        begins: Callable[[Call], object] | None,
    ) -> None:
        at = int(name == "mknodat")
        values = (UMASK, 0, 0), (REGISTER, 1 + at, 0xFFFF), (REGISTER, 2 + at, 0xFFFFFFFF)
        sketch = Sketch(_plan, ((at - 1, at, True),), values, takes=(0, 1, 2, 4), node=1 + at)
        super().__init__(performers, family, begins, sketch, self.lends)

    def lends(self, standing: Standing) -> tuple[Any, ...] | None:
        """Who lends to somebody, on which terms, and what: see :class:`proctor.kernel._core.Doing`; None: nobody does, or that is
        to be found out."""
        known: Known = standing.kept
        key, own = known.key, self._performers.callers.own()
        container: Any = key.container
        if not (
            self._may(known, own) and self._performers.known_owned(container, key.who, standing)
        ):
            return None
        node = lender.node(own, ROOM)
        terms = _terms(_plan((True,)).made.step)
        return (
            lender.whose(key, lender.NODES), terms, node.request.native, node.made.step, node.retried.step, node.left, 0,
        )  # fmt: skip

    def _may(self, known: Known, own: Own) -> bool:
        """Whether somebody may be lent the right, if its user namespace is the target's own."""
        who, right = known.key.who, self._family.CAP_MKNOD
        return (
            known.devices
            and bool(who.effective >> right & 1)
            and who.namespaces[USER] != own.who.namespaces[USER]
        )

    def loan(self, call: Call) -> Loan:
        own = self._performers.callers.own()
        _, mode, device = self._family.decode(call)
        node = lender.node(own, ROOM)
        told = partial(self._told, own, mode, device, node)
        return Loan(node.request, node.left, b"", False, told)

    def alone(self, reply: Reply) -> Verdict | None:
        return _then(reply)

    def lending(self, call: Call, wish: Perform, standing: Standing) -> Lending | None:
        """A device for a caller that may be lent the right."""
        known: Known = standing.kept
        who, family, own = known.key.who, self._family, self._performers.callers.own()
        dirfd, mode, device = family.decode(call)
        if not (
            family.wants_right(mode, device)
            and not mode & stat.S_ISGID  # which wants another right
            and self._may(known, own)
            and self._performers.owned(call, who, standing)
            and standing.in_its_cgroups()
        ):
            return None
        head, last, slashes = pins.split(call.path)
        if not last or slashes or len(head) > ROOM or len(last) > ROOM or not standing.unchanged():
            return None
        umask, relative = standing.umask, head[:1] != b"/"
        plan, loan = _plan((relative,)), self.loan(call)
        values = umask, mode, device
        return Lending(
            lender.whose(known.key, lender.NODES),
            plan.request,
            plan.request.fill(*values, head, last),
            (dirfd,) if relative else (),
            0,
            loan._replace(packet=loan.request.fill(*values, last)),
            _terms(plan.made.step),
            self.alone,
        )

    def _told(
        self, own: Own, mode: int, device: int, node: lender.Node, reply: Reply, _first: bytes
    ) -> Verdict:
        if not reply.results[node.made.step]:
            return _DONE
        said: Verdict = self._family.told(own, mode, device, node.error(reply))
        return said


def _then(reply: Reply) -> Verdict | None:
    """Nothing was lent: it was made without that, or is refused; or a node would not work there."""
    plan = _plan((True,))  # what is absolute differs in where it starts alone
    if reply.results[plan.made.step] == -errno.EPERM:
        return None
    failed = plan.errno(reply)
    return None if failed is None else deny(failed) if failed else _DONE


@cache
def _terms(step: int) -> Terms:
    """The right is lent where it alone lacks, and a node would work."""
    return Terms(step, -errno.EPERM, 0, filestat.HOSTS)


@cache
def _plan(relative: tuple[bool, ...]) -> Plan:
    """Make the node as the caller may.  Holes: umask, mode, device."""
    planning = Planning(Way(pins.O_DIRECTORY, entry=True), relative=relative)
    steps = planning.steps
    umask, mode, device = (steps.number() for _ in range(3))
    ((directory, name),) = planning.walk()
    steps.want(Place(planning.systems[0].offset, filestat.STATFS_SIZE))
    steps.give(directory)
    steps.call("umask", umask)
    return planning.freeze(steps.call("mknodat", directory, name, mode, device))

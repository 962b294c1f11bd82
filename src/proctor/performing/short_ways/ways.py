"""What short ways have in common: an executor that is there is asked, and what it takes to wait for one is begun only
where that is so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from proctor.call.verdict import Answer, Deny, answer, deny
from proctor.errors import NotPermitted
from proctor.kernel import _core
from proctor.kernel.abi import SECCOMP_NOTIF
from proctor.performing import noting
from proctor.performing.executing.workers import HELPING, Wait
from proctor.performing.paths.filestat import ALONE
from proctor.performing.short_ways import plans
from proctor.performing.trouble import Again, Ended
from proctor.performing.working import begun, later, session_of
from proctor.syscalls.architectures import native

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.processes import Executor
    from proctor.performing.executing.requests import Reply, Request
    from proctor.performing.identities.callers import Known
    from proctor.performing.performers import Performers
    from proctor.performing.short_ways.here import Here
    from proctor.performing.short_ways.plans import Deed, Plan, Sketch
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later


_DONE: Final = answer(0)


def decided(verdict: Verdict, _: Task) -> Work:
    """What is left to do where the verdict is there."""
    yield from ()
    return verdict


def plain(call: Call, wish: Perform, standing: Standing, options: type | None) -> bool:
    """Whether nobody asks what the call's paths lead to, options of its family are all that is said, and its caller is
    known in this container."""
    given = wish.options
    return (
        wish.allow is None
        and (given is None or type(given) is options)
        and standing.kept.key.container is getattr(call, "container", None)
    )


def late(task: Task, executor: Executor, request: Request) -> Generator[Wait, Reply, Reply]:
    """The reply of an executor that takes longer.

    :raises Again: it ended before it saw the request."""
    try:
        reply = yield Wait(executor, request)
        noting.came(task.call, request, request.changed(reply))
        return reply
    except BaseException as failed:
        task.session.fail()
        if isinstance(failed, Ended):
            raise Again from None
        raise


class ShortWay:
    """That of one call's family.

    :param family: a module with a short way: see :func:`proctor.performing.registry.ordinary`.
    :param begins: see :meth:`proctor.performing.Performers.ordinary`."""

    def __init__(
        self,
        performers: Performers,
        family: Any,
        begins: Callable[[Call], object] | None = None,
    ) -> None:
        self._performers = performers
        self._family = family
        self._begins = begins
        self._limit: int = performers.option(None, "limit")

    def _lend(self, known: Known, whom: Hashable = None) -> Executor | None:
        """One of its executors that waits for work.

        :param whom: another one's, who works for it."""
        key, executors, limit = known.key, self._performers.executors, self._limit
        container = key.container
        if whom is not None:
            return executors.borrow(whom, container, HELPING)  # type: ignore[no-any-return]
        if container is not None:
            limit = container.performing.get("limit", limit)  # type: ignore[attr-defined]
        return executors.borrow(key, container, limit)  # type: ignore[no-any-return]

    def _closed(
        self, call: Call, wish: Perform, standing: Standing, executor: Executor, said: Verdict
    ) -> Verdict | Later:
        """Say it when the executor has closed what it gave."""
        executors = self._performers.executors
        try:
            closed = executor.closed(wait=True)
        except Ended:  # and with it what it had open
            executors.discard(executor)
        else:
            if not closed:
                asked = executor, None, None
                return self._later(call, wish, standing, asked, partial(decided, said))
            executors.release(executor)
        self._performers.standings.give_back(standing)
        return said

    def give_up(
        self,
        standing: Standing | None,
        executor: Executor,
        which: int,
        found: object,
        lends: Executor | None = None,
        pin: int = -1,
        closed: int = 0,
    ) -> None:
        """Nobody can go on, as ``goes_on`` does: whoever was asked is of no use any more."""
        if standing is None:
            return
        standing.close()
        given = found[2].values() if isinstance(found, tuple) and len(found) == 3 else ()
        for fd in (pin, *given):
            if fd >= 0:
                os.close(fd)
        for each in (executor, lends):
            if each is not None:
                self._performers.executors.discard(each)

    def _later(
        self,
        call: Call,
        wish: Perform,
        standing: Standing,
        asked: tuple[Executor, Request | None, Reply | None] | None,
        first: Callable[[Task], Work] | None = None,
    ) -> Verdict | Later:
        """Go on by the long way, with what was asked; None begins it anew."""
        key, performers, session = standing.kept.key, self._performers, None
        if asked is not None:
            executor, request, reply = asked
            try:
                session = session_of(performers, call, key)
            except BaseException:
                performers.executors.discard(executor)  # nobody has it yet who would
                raise
            if request is None:
                session.answered(executor)
            else:
                session.asked(executor, request, reply)
        said: Verdict | Later = later(begun(performers, call, wish, standing, True, session, first))
        return said

    def _leave(self, standing: Standing, executor: Executor | None = None) -> Verdict | None:
        """Leave it to the long way: nothing has happened."""
        if executor is not None:
            self._performers.executors.release(executor)
        self._performers.standings.give_back(standing)
        return None


def _ourselves(
    performers: Performers, sketch: Sketch
) -> tuple[int, bool, Here | None, bytes, bytes]:
    """How the core does it for callers that are what the monitor is."""
    if sketch.what == plans.BY_EXECUTORS:
        return sketch.what, sketch.nofollow, None, b"", ALONE
    try:
        ours, here = performers.callers.own().rights, performers.own_place()
    except (OSError, NotPermitted):  # whoever needs it says so
        ours, here = b"", None
    return sketch.what if ours else plans.BY_EXECUTORS, sketch.nofollow, here, ours, ALONE


class PlannedWay(ShortWay):
    """A way whose first question is a plan, where nobody asks what paths lead to."""

    def __init__(
        self,
        performers: Performers,
        family: Any,
        begins: Callable[[Call], object] | None,
        sketch: Sketch | None = None,
        lends: Callable[[Standing], tuple[Any, ...] | None] | None = None,
    ) -> None:
        """
        :param sketch: the same, as the core does it.
        :param lends: see :class:`proctor.kernel._core.Doing`."""
        super().__init__(performers, family, begins)
        self._options = getattr(family, "Options", None)
        #: For the core: see :class:`proctor.kernel._core.Doing`.
        self.native: tuple[Any, ...] | None = None
        self._plans: list[Plan] = []
        if sketch is not None:
            many, plans = len(sketch.paths), [sketch.plan, *filter(None, [sketch.flagged])]
            self._plans = [
                plan(tuple([bool(way >> each & 1) for each in range(many)]))
                for plan in plans
                for way in range(1 << many)
            ]
            self.native = (
                performers.standings.known, performers.standings.give_back, performers.executors, self._limit,
                sketch.paths, sketch.values, *sketch.zero,
                tuple([(plan.request.native, plan.made.step) for plan in self._plans]),
                len(sketch.values) if sketch.own is None else sketch.own, lends, sketch.takes, sketch.node, sketch.mounts,
                (sketch.fills, sketch.cut, *sketch.within, sketch.ignored, sketch.itself),
                *_ourselves(performers, sketch),
            )  # fmt: skip
        #: Whose calls the core does: of programs of this architecture; empty: of all.
        self._abi = "" if sketch is None or sketch.fills < 0 else native()
        #: Has the core do what was received elsewhere.
        self._acts: Callable[[bytes, Any, int], Any] | None = None
        if sketch is not None and begins is None:
            nobody = None, None, None, None, None, 0
            self._acts = _core.Doing(None, {}, None, lambda: self, None, *nobody).act

    def goes_on(self, call: Call, wish: Perform, *found: Any) -> Verdict | Later:
        """Go on from what an executor, or two, have said to the core."""
        raise NotImplementedError

    def _natively(self, call: Call, listener: int) -> Answer | Deny | tuple[Any, ...] | None:
        """What came of it, or what :meth:`goes_on` goes on from; None: nothing has happened."""
        assert self._acts is not None
        seen = call._notification
        raw = SECCOMP_NOTIF.pack(
            seen.id, seen.pid, seen.flags, seen.nr, seen.arch, seen.ip, *seen.args
        )
        said = self._acts(raw, getattr(call, "container", None), listener)
        return self.said(said) if type(said) is int else said

    @staticmethod
    def said(came: int) -> Answer | Deny:
        """What the core says came of it: an errno, or minus a value."""
        return deny(came) if came > 0 else _DONE if not came else answer(-came)

    def __call__(self, call: Call, wish: Perform) -> Verdict | Later | None:
        return self.go(call, wish)

    def go(self, call: Call, wish: Perform) -> Verdict | Later | None:
        """As far as it goes at once; None if :meth:`~proctor.performing.Performers.begin` is to be called."""
        performers = self._performers
        acts = self._acts is not None and self._abi in ("", call.abi)
        if acts and wish.allow is None and wish.options is None and call.unseen:
            listener = call.listener_fd
            try:
                said = None if listener < 0 else self._natively(call, listener)
            except BaseException as failed:
                return performers.translate(call, failed)
            if said is not None:
                if isinstance(said, (Answer, Deny)):
                    return said
                return self.goes_on(call, wish, *said)
        standing = performers.standings.take(call.tid)
        if standing is None:
            return None
        try:
            if plain(call, wish, standing, self._options) and call.unseen:
                return self._go(call, wish, standing)
        except BaseException as failed:
            performers.standings.give_back(standing)
            return performers.translate(call, failed)
        performers.standings.give_back(standing)
        return None

    def _go(self, call: Call, wish: Perform, standing: Standing) -> Verdict | Later | None:
        """As :meth:`go`; the standing is given back, unless something is raised."""
        raise NotImplementedError

    def _ready(self, standing: Standing, deed: Deed) -> Executor | None:
        """Who can be asked at once, if there is room for the paths."""
        if deed.umask and not standing.unchanged():
            return None
        longest = max([len(text) for _, path in deed.paths for text in path], default=0)
        return self._lend(standing.kept) if longest <= plans.ROOM else None

    def _ask(
        self, call: Call, standing: Standing, executor: Executor, deed: Deed
    ) -> tuple[Plan, tuple[int | bytes, ...], Reply | Literal[False] | None]:
        """The plan, its values, and the answer: False if nothing was asked, since somebody is gone or was changed; None
        if it takes longer.  If something is raised, the executor is given back."""
        plan, values, look, dirfds, packet = self._question(call, standing, executor, deed)
        try:
            noting.asks(call, plan.request, executor)
            reply = executor.act_for(standing, look, call, dirfds, plan.request, packet)
            if reply is not None:
                done = plan.request.changed(reply) if reply else None
                noting.came(call, plan.request, done)
        except BaseException:
            self._performers.executors.discard(executor)
            raise
        return plan, values, reply

    def _question(
        self, call: Call, standing: Standing, executor: Executor, deed: Deed
    ) -> tuple[Plan, tuple[int | bytes, ...], int, tuple[int, ...], bytes]:
        """The plan, its values, how to look at the caller and what goes along of it, and the request, filled in; it begins
        now.  If something is raised, the executor is given back."""
        known: Known = standing.kept
        values, look = deed.values, 1 + known.groups
        try:
            if deed.umask:
                values, look = (standing.umask, *values), 0
            relative = tuple([path[0][:1] != b"/" for _, path in deed.paths])
            plan = deed.plan(relative)
            dirfds = tuple([
                dirfd for (dirfd, _), each in zip(deed.paths, relative, strict=True) if each
            ])  # fmt: skip
            texts = [text for _, path in deed.paths for text in path]
            packet = plan.request.fill(*values, *texts)
            if self._begins is not None:
                self._begins(call)
        except BaseException:
            self._performers.executors.release(executor)
            raise
        return plan, values, look, dirfds, packet

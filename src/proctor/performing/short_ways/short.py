"""The short way of ordinary calls, which supervisors try first: what is done in most cases, in few steps.

It decides nothing that the long one (:meth:`~proctor.performing.Performers.begin`) does not: where it is unsure it
says so, and nothing has happened, or goes on from what an executor has answered as from its own first question.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from proctor.call.call import Call
from proctor.call.verdict import HandOver, Perform, Verdict, deny
from proctor.errors import CallGone, NotPermitted
from proctor.kernel import _core
from proctor.performing.executing.processes import LIMITED
from proctor.performing.executing.requests import SKIPPED
from proctor.performing.paths import acting, filestat, pinning
from proctor.performing.paths.opening import reopen
from proctor.performing.paths.permitting import act_on, file_of, permit
from proctor.performing.paths.wanted import O_CLOEXEC
from proctor.performing.short_ways.here import LOCAL
from proctor.performing.short_ways.ways import ShortWay
from proctor.performing.trouble import Ended, Moved, Trouble
from proctor.records import NamedTuple
from proctor.syscalls.architectures import ARCHITECTURES, native

if TYPE_CHECKING:
    from proctor.call.path.located import FileId
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.processes import Executor
    from proctor.performing.executing.requests import Reply
    from proctor.performing.executing.steps import Result
    from proctor.performing.identities.callers import Known
    from proctor.performing.paths.pins import Named
    from proctor.performing.performers import Performers
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later

#: What supervisors ask first; a number is the errno with which the call is answered, 0 if it was given a descriptor.
Ordinary = Callable[["Call", Perform], "Verdict | Later | int | None"]


def _rest(call: Call, path: bytes | None, fd: int, cloexec: bool) -> Verdict | None:
    """What the native way leaves: what was read is kept, and what was opened is to be given."""
    call.memory_read = True
    if path is not None:
        call.took_path(path)
    return _given(fd, cloexec) if fd >= 0 else None


def _given(fd: int, cloexec: bool) -> Verdict:
    """What was opened, which is nobody's if this raises."""
    try:
        return HandOver(fd, None, cloexec)
    except BaseException:
        os.close(fd)
        raise


class Foreseen(NamedTuple):
    """What a path led to when a rule allowed that."""

    name: bytes
    #: See :func:`proctor.performing.paths.pinning.expectation`.
    expected: bytes
    file: FileId


#: Kinds of first questions, and how many paths are foreseen.
_RULED, _FORESEEN = 1, 2
_MOST_FORESEEN: Final = 1024


def _allowed(call: Call, foreseen: Foreseen, fd: int, cloexec: bool) -> Verdict:
    """A rule's word holds, natively: what it has allowed is to be given."""
    try:
        call.acts_on("path", foreseen.name, foreseen.file)
    except BaseException:
        os.close(fd)
        raise
    return _given(fd, cloexec)


class OpenWay(ShortWay):
    """That of one call's family."""

    def __init__(self, performers: Performers, family: Any) -> None:
        super().__init__(performers, family)
        #: By path: what that led to when a rule allowed it.
        self._foreseen: dict[bytes, Foreseen] = {}

    def way(self, name: str, listener: Any) -> Ordinary:
        """What is asked first about calls of a name: in one native call up to the answer, if they come from the
        kernel."""
        performers = self._performers
        flags = self._family.natively(name)
        if flags is None or not hasattr(listener, "give"):
            return self.go
        try:
            ours, here = performers.callers.own().rights, performers.own_place()
        except (OSError, NotPermitted):
            return self.go  # whoever needs it says so
        if not ours:
            return self.go
        known, back = performers.standings.known, performers.standings.give_back
        audit = ARCHITECTURES[native()].audit
        return _core.Short(
            self.go,
            _rest,
            known,
            back,
            here,
            ours,
            LOCAL,
            performers.executors,
            self._limit,
            self._plan,
            self._goes_on,
            self._foreseen,
            self._allows,
            _allowed,
            partial(self._meet, listener),
            listener,
            audit,
            *flags,
        )

    def _meet(self, listener: Any, notification: Any, container: Any) -> None:
        """Find out who calls, as far as that can be known."""
        performers = self._performers
        call = Call(notification, listener, container=container)
        try:
            cgroup = performers.option(container, "cgroup")
            performers.standings.give_back(performers.callers.meet(call, container, cgroup))
        except Exception:
            pass  # whoever is asked next says so
        finally:
            call.expire()

    def go(self, call: Call, wish: Perform) -> Verdict | Later | None:
        """As far as it goes at once; None if :meth:`~proctor.performing.Performers.begin` is to be called."""
        performers = self._performers
        standing = performers.standings.take(call.tid)
        if standing is None:
            return None
        known: Known = standing.kept
        here, said = performers.here, None
        try:
            if known.key.container is getattr(call, "container", None):
                if not known.here:
                    return self._ask_ahead(call, wish, standing)
                if here is not None:
                    ours = performers.callers.own().rights
                    said = self._family.ordinary(call, wish, standing, here, ours)
        except Moved:
            pass  # whoever is asked next sees it, too
        except BaseException as failed:
            try:
                said = performers.translate(call, failed)
            except BaseException:  # a rule's own mistake
                standing.close()
                raise
        performers.standings.give_back(standing)
        return said

    def _ask_ahead(self, call: Call, wish: Perform, standing: Standing) -> Verdict | Later | None:
        """Ask an executor what the family would ask it first, before all that it takes to go on from
        there: in most cases that is all."""
        known: Known = standing.kept
        wanted = self._family.ahead(call, wish) if known.devices else None
        executor = None if wanted is None else self._lend(known)
        if wanted is None or executor is None:
            self._performers.standings.give_back(standing)
            return None
        dirfd, path, flags = wanted
        ruled = wish.allow is not None
        forms, _ = self._family.forms(flags, ruled)
        found = executor.ask_for(standing, known.groups, call, dirfd, path, forms)
        return self._asked(call, wish, standing, executor, found, flags, ruled)

    def _openings(self, flags: int, kind: int) -> tuple[_core.Forms, tuple[Any, ...]]:
        """Forms of the first question, and what they are.

        :param kind: there is no rule (0), there is one (1), which has allowed what is foreseen (2)."""
        family = self._family
        said: tuple[_core.Forms, tuple[Any, ...]] = (
            family.foreseeing(flags) if kind == _FORESEEN else family.forms(flags, kind == _RULED)
        )
        return said

    def _plan(self, flags: int, kind: int) -> _core.Forms:
        return self._openings(flags, kind)[0]

    def _allows(self, call: Call, wish: Perform, path: bytes, foreseen: Foreseen) -> bool:
        """Whether a rule allows what a path has led to before; it is asked again if that is not so any more."""
        call.memory_read = True
        call.took_path(path)
        try:
            allowed = wish.refusal("path", foreseen.name) is None
            if allowed and call.contradiction("path", foreseen.name, foreseen.file) is None:
                return True
        except Exception:
            pass  # which is said when it is asked again
        self._foreseen.pop(path, None)
        return False

    def _foresee(self, path: bytes, name: bytes, look: pinning.Look, reply: Reply) -> None:
        """That was allowed."""
        if len(path) >= pinning.FORESEEN or len(name) >= pinning.FORESEEN:
            return
        first, known = look.name.first, self._foreseen
        if len(known) >= _MOST_FORESEEN:
            known.clear()
        expected = pinning.expectation(reply.parts[first + 1], reply.parts[first], name)
        known[path] = Foreseen(name, expected, file_of(filestat.status_of(reply.parts[first])))

    def _goes_on(self, told: tuple[Any, ...]) -> Verdict | Later | None:
        """As :meth:`_asked`, from the core; it begins without memory, so that nothing is lost before."""
        call, wish, standing, executor, found, flags, kind = told
        try:
            return self._asked(call, wish, standing, executor, found, flags, kind)
        except BaseException as failed:
            standing.close()
            return self._performers.translate(call, failed)

    def _asked(
        self,
        call: Call,
        wish: Perform,
        standing: Standing,
        executor: Executor,
        found: tuple[bytes | None, Any, int] | None,
        flags: int,
        kind: int,
    ) -> Verdict | Later | None:
        """Go on from what an executor has said, or has not.

        :param found: as :func:`proctor.kernel._core.ask_for` returns it.
        :param kind: as for :meth:`_openings`."""
        performers, family = self._performers, self._family
        path, heard, which = found if found is not None else (None, None, -1)
        call.memory_read = True
        if path is not None:
            call.took_path(path)
        reply = executor.heard(heard)
        if which < 0 or (reply is None and not (heard and heard[0] == errno.EAGAIN)):
            performers.standings.give_back(standing)
            if which < 0:
                performers.executors.release(executor)
            else:
                performers.executors.discard(executor)  # it has died
            return None
        opening = self._openings(flags, kind)[1][which]
        said: Verdict | None = None if reply is None else family.plain(opening, reply, flags)
        if said is not None:
            return self._closed(call, wish, standing, executor, said)
        if reply is not None and kind == _FORESEEN:
            assert path is not None
            if reply.results[opening.opened.step] != SKIPPED:
                said = self._as_foreseen(call, opening, reply, executor, flags)
                return self._closed(call, wish, standing, executor, said)
            self._foreseen.pop(path, None)
        named = None if reply is None else family.seen(opening, reply)
        if reply is not None and named is not None:
            assert path is not None
            again = partial(self._foresee, path, named.path, opening, reply)
            pin = reply.take(opening.given)
            return self._once_more(call, wish, standing, executor, pin, named, flags, again)
        first = partial(family.foreseen, opening, flags) if kind == _FORESEEN else None
        return self._later(call, wish, standing, (executor, opening.request, reply), first)

    def _as_foreseen(
        self, call: Call, look: pinning.Look, reply: Reply, executor: Executor, flags: int
    ) -> Verdict:
        """What came of opening what a rule had allowed."""
        assert look.opened is not None
        act_on(call, look.name.read(reply))
        try:
            return self._made(look.opened, reply, executor, flags)
        except Trouble as failed:
            return self._performers.translate(call, failed)

    def _once_more(
        self,
        call: Call,
        wish: Perform,
        standing: Standing,
        executor: Executor,
        pin: int,
        named: Named,
        flags: int,
        foresee: Callable[[], None],
    ) -> Verdict | Later:
        """Ask the policy about what is pinned, and have that opened.

        :param foresee: called if it is."""
        performers, act = self._performers, acting.reopening(False)
        how, free, late = self._family.how_again(flags), True, False
        said: Verdict | None = None
        try:
            permit(call, wish, "path", named.path, named.status)
            if not call.valid():
                raise CallGone
            free = False
            reply = executor.ask(act.request, act.request.fill(how), (pin, executor.table))
            late = reply is None
            if reply is not None:
                said, free = self._made(act.fd, reply, executor, flags), True
                if isinstance(said, HandOver):
                    foresee()
        except Ended:
            pass  # and nothing has happened
        except BaseException as failed:
            try:
                said = performers.translate(call, failed)
            finally:
                if free and said is None:  # a rule's own mistake
                    performers.executors.release(executor)
        finally:
            if not late:
                os.close(pin)
            if not (free or late):
                performers.executors.discard(executor)
        if free and said is not None:
            return self._closed(call, wish, standing, executor, said)
        if said is not None:
            performers.standings.give_back(standing)
            return said
        if not late:
            return self._later(call, wish, standing, None)

        def first(task: Task) -> Work:
            fd = yield from reopen(task, task.hold(pin), how)
            return HandOver(fd, cloexec=flags & O_CLOEXEC != 0)

        return self._later(call, wish, standing, (executor, act.request, None), first)

    def _made(self, fd: Result, reply: Reply, executor: Executor, flags: int) -> Verdict:
        if reply.made(fd):
            return HandOver(reply.take(fd), None, flags & O_CLOEXEC != 0)
        failed = reply.error(fd)
        if failed == errno.EMFILE and executor.limited():
            raise Trouble(LIMITED)
        return deny(failed)

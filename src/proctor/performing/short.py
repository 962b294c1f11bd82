"""The short way of ordinary calls, which supervisors try first: what is done in most cases, in few steps.

It decides nothing that the long one (:meth:`~proctor.performing.Performers.begin`) does not: where it is unsure it
says so, and nothing has happened, or goes on from what an executor has answered as from its own first question.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from proctor.call.verdict import HandOver, Perform, Verdict
from proctor.errors import NotPermitted
from proctor.kernel import _core
from proctor.performing.conversation import Conversation
from proctor.performing.here import LOCAL
from proctor.performing.steps import Reply
from proctor.performing.trouble import Moved
from proctor.syscalls.architectures import ARCHITECTURES, native

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.kernel.standing import Standing
    from proctor.performing.callers import Known
    from proctor.performing.performers import Performers
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later

#: What supervisors ask first; a number is the errno with which the call is answered.
Ordinary = Callable[["Call", Perform], "Verdict | Later | int | None"]


def _rest(call: Call, path: bytes | None, fd: int, cloexec: bool) -> Verdict | None:
    """What the native way leaves: what was read is kept, and what was opened is to be given."""
    call.memory_read = True
    if path is not None:
        call.took_path(path)
    return HandOver(fd, None, cloexec) if fd >= 0 else None


def _known(verdict: Verdict, _: Task) -> Work:
    """What is left to do where the verdict is there."""
    yield from ()
    return verdict


class ShortWay:
    """That of one call's family.

    :param family: a module with ``ordinary``: see :func:`proctor.performing.registry.ordinary`.
    """

    def __init__(self, performers: Performers, family: Any) -> None:
        self._performers = performers
        self._family = family

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
            self.go, _rest, known, back, here, ours, LOCAL, listener.fileno(), audit, *flags
        )

    def go(self, call: Call, wish: Perform) -> Verdict | Later | None:
        """As far as it goes at once; None if :meth:`~proctor.performing.Performers.begin` is to be called."""
        performers = self._performers
        standing = performers.standings.take(call.tid)
        if standing is None:
            return None
        known: Known = standing.kept
        here, said = performers.here, None
        try:
            if known.key.container is getattr(call, "container", None) and standing.known:
                if not known.here:
                    return self._ask_ahead(call, wish, standing)
                if here is not None:
                    ours = performers.callers.own().rights
                    said = self._family.ordinary(call, wish, standing, here, ours)
        except Moved:
            pass  # whoever is asked next sees it, too
        except BaseException as failed:
            said = performers.translate(call, failed)
        performers.standings.give_back(standing)
        return said

    def _ask_ahead(self, call: Call, wish: Perform, standing: Standing) -> Verdict | Later | None:
        """Ask an executor what the family would ask it first, before all that it takes to go on from
        there: in most cases that is all."""
        known: Known = standing.kept
        container = getattr(call, "container", None)
        wanted = self._family.ahead(call, wish) if known.devices else None
        executor = (
            None
            if wanted is None
            else self._performers.executors.borrow(
                known.key, container, self._performers.option(container, "limit")
            )
        )
        if wanted is None or executor is None:
            self._performers.standings.give_back(standing)
            return None
        found = executor.ask_for(standing, known.groups, call, *wanted[:3])
        path, heard, which = found if found is not None else (None, None, -1)
        if path is not None:
            call.took_path(path)
        if which < 0 or not (isinstance(heard, Reply) or (heard and heard[0] == errno.EAGAIN)):
            self._performers.standings.give_back(standing)
            if which < 0:
                self._performers.executors.release(executor)
            else:
                self._performers.executors.discard(executor)  # it has died
            return None
        opening, reply = wanted[3][which], heard if isinstance(heard, Reply) else None
        said: Verdict | None = (
            None if reply is None else self._family.plain(opening, reply, wanted[4])
        )
        if said is not None and executor.closed(wait=True):
            self._performers.executors.release(executor)
            self._performers.standings.give_back(standing)
            return said
        session = self._performers.session(
            call,
            known.key,
            self._performers.callers.own(),
            self._performers.option(container, "limit"),
        )
        first: Callable[[Task], Work] | None = None
        if said is not None:
            first = partial(_known, said)
        elif reply is not None:
            first = self._family.after(opening, reply, wanted[4])
        if first is None:
            session.asked(executor, opening.request, reply)
        else:
            session.answered(executor)
        conversation = Conversation(
            self._performers.work(call, wish, standing, True, session, first),
            call,
            self._performers.translate,
            self._performers.deadline,
        )
        verdict = conversation.begin()
        return conversation.later() if verdict is None else verdict

"""The work on one call, from who calls to what is closed in the end."""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import HandOver, Stated, close_unused, deny
from proctor.errors import CallGone
from proctor.performing import registry
from proctor.performing.conversation import Conversation, converse
from proctor.performing.identities.identity import becoming
from proctor.performing.session import Session
from proctor.performing.trouble import Again, CannotJoin, Moved, Refused, Said, Trouble

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.requests import Reply
    from proctor.performing.executing.workers import Wait
    from proctor.performing.identities.who import Key
    from proctor.performing.performers import Performers
    from proctor.performing.task import Task, Work

_TRIES: Final = 5


def begun(
    performers: Performers,
    call: Call,
    wish: Perform,
    standing: Standing | None,
    met: bool,
    session: Session | None = None,
    first: Callable[[Task], Work] | None = None,
    act: Callable[[Task], Generator[Wait, Reply, Any]] = registry.perform,
) -> Any:
    """Perform a call as far as executors answer at once, once more where its executor ended or its caller has moved: the
    verdict, or what else ``act`` comes to; or a conversation to go on with.

    :param standing: of whoever is taken for its caller, closed or given back here; None where nobody is.
    :param met: whether that one was met just now.
    :param session: with who was asked for it already; closed here.
    :param first: what is done at first in the place of ``act``."""
    work = _work(performers, call, wish, standing, met, session, first, act)
    return converse(work, call, performers.translate, performers.deadline)


def later(begun: Any) -> Any:
    """What a supervisor takes of that."""
    return begun.later() if isinstance(begun, Conversation) else begun


def session_of(performers: Performers, call: Call, key: Key) -> Session:
    """With an executor in the caller's identity; its taker's to close."""
    become = becoming(call.caller, key.who, performers.callers.own())
    limit = performers.option(getattr(call, "container", None), "limit")
    return Session(performers.executors, key, key.container, become, call, limit)


def _work(
    performers: Performers,
    call: Call,
    wish: Perform,
    standing: Standing | None,
    met: bool,
    session: Session | None,
    first: Callable[[Task], Work] | None,
    act: Callable[[Task], Generator[Wait, Reply, Any]],
) -> Generator[Wait, Reply, Any]:
    if act is registry.perform and call.name not in registry.SUPPORTED:
        return deny(errno.ENOSYS, Stated(f"nothing here performs {call.name}"))
    from proctor.performing.task import Task

    container = getattr(call, "container", None)
    own, devices = performers.callers.own(), True
    whoever = act is registry.perform and not registry.asks_who(call.name, wish.options)
    task = None
    try:
        # who is met for the monitor's own sake was not looked at as an executor is to be like
        if standing is not None and not (
            whoever or (met and not standing.kept.here) or standing.unchanged()
        ):
            standing.close()
            standing = None
        for _ in range(_TRIES):
            if standing is None:
                cgroup = performers.option(container, "cgroup")
                standing = performers.callers.meet(call, container, cgroup, devices)
            key, devices, *_ = standing.kept
            if session is None:
                session = session_of(performers, call, key)
            o_path = performers.option(container, "o_path")
            task = Task(performers, call, key, own, session, wish, standing, devices, o_path)
            try:
                perform, first = first or act, None
                verdict: Any = yield from perform(task)
            except (Refused, Said) as said:  # which says nothing of who calls
                verdict = performers.translate(call, said)
            except Again:
                yield from task.buried()
                continue
            except (CallGone, CannotJoin, Moved) as other:
                if isinstance(other, CallGone) and not (whoever and call.valid()):
                    raise
                whoever = False  # it was another thread of this number that is gone
                task.close()
                session.close()
                if standing is not None:
                    standing.close()
                session = standing = None
                devices = devices and not isinstance(other, CannotJoin)
                continue
            finally:
                task.let_go()
            if type(verdict) is HandOver and verdict.close and session.slow:
                session.given(verdict.fd)
                verdict = verdict._replace(close=False)
            try:
                yield from session.settle()
                if key.lasting:
                    performers.standings.give_back(standing)
                    standing = None
                yield from task.buried()
            except BaseException:
                close_unused(verdict)
                raise
            return verdict
    finally:
        if task is not None:
            task.close()
        if session is not None:
            session.close()
        if standing is not None:
            standing.close()
    raise Trouble("executors end in the middle of the call")

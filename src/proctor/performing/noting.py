"""Saying in the journal whom a call's requests go to, so that the next monitor knows what came of them, should this one die:
see :mod:`proctor.kernel.progress`.

That is done for calls that are done by one change, and are what that gives (``NOTED`` of :mod:`proctor.performing.families`), where
the executor that is asked may make it.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from proctor.call.done import done
from proctor.call.verdict import deny
from proctor.errors import CallOver
from proctor.kernel import journal, progress
from proctor.performing import registry
from proctor.performing.families import ADDED, NOTED

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.kernel.progress import Progress
    from proctor.performing.executing.processes import Executor
    from proctor.performing.executing.requests import Request

_COME_TO: Final = {
    progress.UNKNOWN: "perhaps performed",
    progress.NOTHING: "not performed",
    progress.DONE: "performed",
}


def _place(call: Call) -> tuple[Any, int]:
    """The memory of its journal, and where notes of it are there; None where there are none, or it is over and its slot another's."""
    slot = getattr(call._notification, "slot", -1)
    if slot < 0:
        return None, 0
    try:
        memory = getattr(call._listener, "journal", None)
    except CallOver:
        return None, 0
    if memory is None or journal.id_at(memory, slot) != call.id:
        return None, 0
    return memory, journal.notes_at(slot)


def is_noted(call: Call) -> bool:
    """Whether it is written down somewhere how far it is, so that what changes something is to be done by who outlives us."""
    return _place(call)[0] is not None


def asks(call: Call, request: Request, *executors: Executor) -> None:
    """These are going to be asked."""
    if not request.noted:
        return
    memory, at = _place(call)
    if memory is not None and call.name in NOTED:
        known = all(each.place for each in executors)
        to = [each.asked_next() for each in executors] if known else ()
        progress.asks(memory, at, call.id, *to, adds=call.name in ADDED)


def one_alone(call: Call, request: Request) -> None:
    """Of two executors the second is not asked, and is free for another call from here on; the first may be at it.

    :param request: as to :func:`asks`."""
    if not request.noted:
        return
    memory, at = _place(call)
    if memory is not None and call.name in NOTED:
        progress.one_alone(memory, at, call.id)


def came(call: Call, request: Request, result: int | None) -> None:
    """What came of them, also if they were not asked after all.  Before one of them is asked for another call.

    :param request: as to :func:`asks`.
    :param result: of :meth:`~proctor.performing.executing.requests.Request.changed`."""
    if not request.noted:
        return
    memory, at = _place(call)
    if memory is not None and call.name in NOTED:
        progress.came(memory, at, call.id, result)


def found(call: Call, table: Progress | None) -> tuple[int, int]:
    """What is known of it once somebody died who was asked, as the next monitor would know it: UNKNOWN, NOTHING or DONE of
    :mod:`proctor.kernel.progress`, and what it is to be answered with."""
    memory, at = _place(call)
    if memory is None or table is None:
        return progress.UNKNOWN, 0
    notes = bytes(memory[at : at + progress.NOTES.size])
    return progress.read(notes, call.id, partial(table.found, waits=False))


def died(call: Call, table: Progress | None, why: str) -> tuple[Verdict, str]:
    """What a call is answered with whose executor died at it, and that in words: what it has come to, if that is known, as the
    next monitor would say it; EINTR, if it was not done or can be done again; or EIO, since programs take EINTR for that."""
    known, number = found(call, table)
    come_to = _COME_TO[known]
    if known == progress.DONE:
        return done(number, call), come_to
    again = known == progress.NOTHING or registry.is_harmless_again(call)
    return deny(errno.EINTR if again else errno.EIO, f"{come_to}: {why}"), come_to


def halves(call: Call) -> None:
    """It takes more than one change from here on: nobody is to think that it is done with the first."""
    memory, at = _place(call)
    if memory is not None:
        progress.asks(memory, at, call.id)

"""Carrying a verdict out: a :class:`~proctor.call.verdict.Verdict` becomes bytes, once.

Descriptors given away by a hand-over are closed here exactly once on every path (C129).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from proctor.call.verdict import (
    Answer,
    Deny,
    HandOver,
    LetRun,
    Perform,
    Verdict,
    close_unused,
    deny,
)
from proctor.errors import (
    AlreadyAnswered,
    CallGone,
    MemoryUnwritable,
    RacyVerdict,
    TargetFdLimit,
    Unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proctor.call.call import Call
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.ports import ListenerPort

_KINDS = (Deny, Answer, HandOver, LetRun, Perform)


def check(verdict: object, call: Call, who: str, asked: Sequence[Handler] = ()) -> Verdict:
    """A verdict fit to be carried out for this call.

    :param who: whose it is: a handler's label, "default"...
    :param asked: the handlers of the call.
    :raises TypeError: for what is no verdict.
    :raises RacyVerdict: for ``let_run()`` after the caller's memory was looked at.
    """
    if not isinstance(verdict, _KINDS):
        raise TypeError(
            f"{who} returned {verdict!r}: return proctor.deny(), answer(), hand_over(), perform(), "
            "let_run(), or None for the next handler"
        )
    if isinstance(verdict, LetRun) and not verdict.unsafe and call.memory_read:
        asked = [each for each in asked if each.applies(call)]
        raise RacyVerdict(_racy(who, asked)).about(
            pid=call.tid, syscall=call.name, notif_id=call.id
        )
    return owned(verdict, call)


def _racy(who: str, asked: Sequence[Handler]) -> str:
    why = "a thread of the target can swap what was read before the kernel reads it again"
    if who != "default":
        where = next((each.where for each in asked if each.label == who), who)
        return (
            f"the caller's memory was looked at, and then {where} let the call run: {why}. Perform the call "
            "(return proctor.perform()), deny it, or, where the race does not matter, say so: "
            'proctor.let_run_unsafe("why")'
        )
    those = " and ".join(each.where for each in asked) or "whoever was asked"
    return (
        f"the caller's memory was looked at, {those} had no verdict, and the default let the call run: {why}. "
        "Have it performed (proctor.perform(), or a family without conditions, last), deny it, or, where the "
        'race does not matter, return proctor.let_run_unsafe("why"), or give that as the default'
    )


def owned(verdict: Verdict, call: Call) -> Verdict:
    """The verdict, with the one who closes its descriptor settled: a hand-over takes over what it is
    given, also from the call; what was the call's and went with it is nobody's."""
    if isinstance(verdict, HandOver) and verdict.close and not call.give_away(verdict.fd):
        return verdict._replace(close=False)
    return verdict


def carry_out(
    listener: ListenerPort,
    call: Call,
    verdict: Verdict,
    fallback: Deny,
    close: Callable[[int], object],
) -> tuple[bool, Verdict]:
    """Answer the call: (False if the caller is gone, what was answered in the end).

    Whoever calls this has claimed the answer: writes to the caller's memory cannot be taken back, and
    must not come when somebody else let it go on.  They can wait as long as that memory likes.

    :param fallback: answered if the verdict cannot be carried out (a descriptor that is none...);
        the error is raised after that, so that it is seen and the caller does not hang.
    :param close: closes a descriptor that was given away (:meth:`World.close`).
    """
    try:
        id = call.id
        if isinstance(verdict, (Answer, HandOver)):
            for address, data in verdict.writes:
                call.memory.write(address, data)
        if isinstance(verdict, (Deny, Answer, LetRun)):
            return _send(listener, id, *verdict.wire), verdict
        if isinstance(verdict, HandOver):
            give = getattr(listener, "give", None) if verdict.close else None
            slot = call._notification.slot
            given = give and give(
                id, verdict.fd, call.tid, at=verdict.at, cloexec=verdict.cloexec, slot=slot
            )
            if given is not None:
                verdict = verdict._replace(close=False)  # it is closed
                return given, verdict
            return _hand_over(listener, id, verdict), verdict
        raise TypeError(f"{verdict!r} cannot be carried out as it is")
    except CallGone:
        return False, verdict
    except TargetFdLimit as limit:
        # what open(2), socket(2)... themselves say when the table is full (C068)
        instead = deny(limit.errno or errno.EMFILE)
        return _send(listener, call.id, *instead.wire), instead
    except MemoryUnwritable as fault:
        if fault.errno != errno.EFAULT:  # not the caller's fault
            _send(listener, call.id, *fallback.wire)
            raise
        instead = deny(errno.EFAULT, str(fault))
        return _send(listener, call.id, *instead.wire), instead
    except BaseException:
        # if it was answered after all, the first answer stands
        _send(listener, call.id, *fallback.wire)
        raise
    finally:
        close_unused(verdict, close)


def _hand_over(listener: ListenerPort, id: int, verdict: HandOver) -> bool:
    try:
        number = listener.addfd(id, verdict.fd, at=verdict.at, cloexec=verdict.cloexec, send=True)
    except Unsupported:
        # Linux 5.9 to 5.13: two steps.  If a signal cancels the call in between, the descriptor
        # stays in the target (C070); nothing in user space can prevent that there.
        number = listener.addfd(id, verdict.fd, at=verdict.at, cloexec=verdict.cloexec)
        return number is not None and _send(listener, id, number, 0, 0)
    return number is not None


def _send(listener: ListenerPort, id: int, value: int, error: int, flags: int) -> bool:
    try:
        return listener.send(id, value, error, flags)
    except AlreadyAnswered:
        # Only an answer that went past us (a raw ioctl, an agent's proxy) can be behind this.
        return False

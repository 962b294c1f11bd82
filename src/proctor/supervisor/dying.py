"""Callers that die as soon as their calls are answered, and not before.

A signal whose default is death ends a thread at once, even one that waits for a monitor, but for two kinds: one that
dumps core, and one that comes while another one waits there (``complete_signal`` and ``wants_signal`` of
kernel/signal.c).  These wait for the answer, and whoever sent them for an end that natively comes at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.call.caller import Caller
from proctor.errors import ProctorError

if TYPE_CHECKING:
    from proctor.call.call import Call


def is_dying(call: Call) -> bool:
    """Whether the call's caller meets a signal that ends it when the call is answered.  One of its process's that may be
    meant for another thread, which waits likewise, is made this one's.

    Nothing of the call is touched, which its handler uses meanwhile."""
    from proctor.kernel.nudging import nudge  # fakes have no core, and no signals

    try:
        with Caller(call.tid, call._listener, call.id) as caller:
            if not caller.deadly():
                return False
            return bool(caller.deadly(its_own=True)) or nudge(call.tid)
    except (OSError, ProctorError):
        return False  # it is gone, or may not be looked at

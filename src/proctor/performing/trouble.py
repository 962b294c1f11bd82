"""What can go wrong while a call is performed, and what is answered then."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from proctor.call.verdict import Deny, Verdict, deny
from proctor.errors import (
    CallerInvisible,
    CallGone,
    CallOver,
    MemoryUnreadable,
    NotPermitted,
    ProctorError,
    Unsupported,
)
from proctor.performing import scarce

#: Answered to a call that a signal is to interrupt: the kernel makes EINTR or a new start of it, as the
#: signal's handler says (include/linux/errno.h; handle_signal of arch/*/kernel/signal.c).
ERESTARTSYS: Final = 512


class Trouble(ProctorError):
    """An executor could not be had, or failed; the text says how, in one clause."""


class Died(Trouble):
    """An executor died over a request: what it was asked for may be done."""


class TooMany(Trouble):
    """A container has as many calls performed as its limit says."""


class CannotJoin(Trouble):
    """A caller's cgroup cannot be joined."""


class Powerless(Exception):
    """The monitor itself has not got the right that a call needs."""


class Ended(Exception):
    """The executor had ended before it saw the request: somebody killed it."""


class Again(Exception):
    """Nothing happened yet, and all must be begun anew, with another executor."""


class Said(Exception):
    """What the kernel says to the caller: the errno of its call.

    (An OSError that comes out of performing is one of the monitor's own.)
    """

    def __init__(self, number: int, reason: str = "") -> None:
        super().__init__(number, reason)
        self.errno = number or errno.EIO
        self.reason = reason


class Handed(Exception):
    """The caller has what was opened for it already.

    :param number: by which it knows that, and which is to be its call's result."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupted(Exception):
    """A signal waits for the caller, and the executor was ended in what it did.

    :param number: what the kernel says to that: ERESTARTSYS, or EINTR, with which nobody begins anew.
    """

    def __init__(self, number: int = ERESTARTSYS) -> None:
        super().__init__(number)
        self.errno = number


class Moved(Exception):
    """The caller is somewhere else than where it was at its last call; nothing happened yet."""


class Refused(Exception):
    """The policy's rule about paths said no, in this verdict."""

    def __init__(self, verdict: Deny) -> None:
        super().__init__(verdict)
        self.verdict = verdict


def verdict_for(
    failed: BaseException, trouble: Callable[[str], Deny], died: Callable[[str], Verdict]
) -> Verdict:
    """What is answered for what was raised on the way; what is no trouble of this kind is raised again.

    :param trouble: tells of a failure of our own, and gives the answer to it.
    :param died: the same where somebody died at it.
    """
    if isinstance(failed, Died):
        return died(str(failed))
    if isinstance(failed, Refused):
        return failed.verdict
    if isinstance(failed, Said):
        return deny(failed.errno, failed.reason)
    if isinstance(failed, Interrupted):
        return deny(failed.errno, "a signal waits for the caller")
    if isinstance(failed, (CallGone, CallOver)):
        return deny(errno.EINTR, "the caller is gone")
    if isinstance(failed, MemoryUnreadable):
        if failed.errno == errno.EPERM:  # not what the kernel says: the monitor may not look
            return trouble(str(failed))
        return deny(failed.errno or errno.EFAULT)
    if isinstance(failed, TooMany):
        trouble(str(failed))
        return deny(errno.ENOMEM, str(failed))
    if isinstance(failed, (Trouble, CallerInvisible, NotPermitted, Unsupported)):
        return trouble(str(failed))
    if isinstance(failed, OSError):  # out of descriptors, of processes...
        return trouble(scarce.why(failed))
    if isinstance(
        failed, ImportError
    ):  # modules are loaded when first used, which takes a descriptor
        return trouble(f"the monitor cannot load its own code: {failed}; {scarce.open_files()}")
    raise failed

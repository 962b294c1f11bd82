"""What can go wrong while a call is performed."""

from __future__ import annotations

import errno

from proctor.call.verdict import Deny
from proctor.errors import ProctorError


class Trouble(ProctorError):
    """An executor could not be had, or failed; the text says how, in one clause."""


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


class Interrupted(Exception):
    """A signal waits for the caller, and the executor was ended in what it did."""


class Moved(Exception):
    """The caller is somewhere else than where it was at its last call; nothing happened yet."""


class Refused(Exception):
    """The policy's rule about paths said no, in this verdict."""

    def __init__(self, verdict: Deny) -> None:
        super().__init__(verdict)
        self.verdict = verdict

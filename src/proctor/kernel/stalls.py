"""The role of receiving: how threads wait for it, and who is told when one loses it."""

from __future__ import annotations

from typing import Any, Final, Protocol

#: Seconds from one look at whoever has the role to the next.  One that is found at the same call twice
#: has stalled.
LOOK: Final = 0.002
#: Seconds for which one that stalls keeps the role as long as nobody needs it.
PATIENCE: Final = 0.02
#: How to wait for the role: for a stall only; for a stall, or until nobody has it; it is wanted now,
#: and whoever has it is asked to resign.
HELP, SERVE, INSIST = range(3)


class Stalls(Protocol):
    """Who is told when the thread that routes a listener's call loses the role over it.

    The two come from two threads, in any order.
    """

    def overtaken(self, notification: Any) -> object:
        """The call is still being routed, or was a moment ago; another thread receives from now on.
        Called on that."""
        ...

    def settle(self, notification: Any, wire: tuple[int, int, int] | bool | None) -> object:
        """The call was routed to its end: ``wire`` was returned, and is not sent, or True, if that is done.  Called on the thread
        that lost the role."""
        ...

    def amend(self, notification: Any, number: int) -> object:
        """A performed call that was counted as given a descriptor got this errno instead: its caller's table was full.
        It has been answered so."""
        ...

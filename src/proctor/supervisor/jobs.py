"""Calls that are being decided, and what became of calls that were."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.ports import ListenerPort


class Outcome(NamedTuple):
    """What became of one call; given to observers, before the call object dies."""

    #: The call; alive only while the observer runs.
    call: Call
    #: What was answered (for a performed call: its outcome).
    verdict: Verdict
    #: Label of the handler that decided, or "default", "deadline", "close", "error".
    decided_by: str
    #: False if the caller was gone when the answer came: an ordinary event.
    delivered: bool
    #: World clock, seconds: when it was received and when it was answered.
    received: float
    answered: float
    #: Whether the verdict was reached by performing the call.
    performed: bool = False
    #: What a handler raised, if that decided.
    error: BaseException | None = None
    #: Name under which the listener was added.
    listener: str = ""
    #: The call as strace would write it; "" unless the supervisor was asked to describe calls.
    text: str = ""


class Served:
    """One listener in the supervisor's care."""

    __slots__ = ("busy", "closing", "handlers", "keep", "listener", "name", "on_end", "running")

    def __init__(
        self,
        listener: ListenerPort,
        handlers: Sequence[Handler],
        name: str,
        on_end: Callable[[], object] | None,
    ) -> None:
        self.listener = listener
        self.handlers = tuple(handlers)
        self.name = name
        self.on_end = on_end
        #: tid → that caller's calls: the one being decided, then those that wait for it.
        self.busy: dict[int, deque[Job]] = {}
        #: Jobs that still may speak to the listener; it is closed after the last of them.
        self.running = 0
        self.closing = False
        #: Given back by ``drop``: not ours to close.
        self.keep = False


class Job:
    """One call on its way to a verdict.  ``claimed`` is set once, by whoever answers."""

    __slots__ = (
        "call",
        "chain",
        "claimed",
        "due",
        "error",
        "index",
        "performed",
        "received",
        "served",
        "slow",
        "text",
        "tid",
    )

    def __init__(
        self, call: Call, chain: Sequence[Handler], served: Served, received: float
    ) -> None:
        self.call = call
        self.tid = call.tid
        self.chain = chain
        self.served = served
        self.received = received
        self.index = 0
        self.claimed = False
        #: Whether it left the receiving thread (and is therefore known to the supervisor).
        self.slow = False
        self.performed = False
        self.text = ""
        self.due: float | None = None
        self.error: BaseException | None = None

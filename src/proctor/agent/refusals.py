"""What was refused to each container lately, and why: for ``proctor why``."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proctor.call.verdict import Deny, Verdict
from proctor.observe.events import ContainerEnded, Outcome

if TYPE_CHECKING:
    from proctor.call.call import Call

#: Seconds after which one that was seen is looked at again.
_FRESH: Final = 1.0
#: Different refusals that are remembered of one container; the longest not seen again goes first.
_EACH: Final = 32
#: Containers that are over and of which something is remembered.
_OVER: Final = 256
#: Most characters of a call or a reason.
_LONG: Final = 600


class Refusal(msgspec.Struct):
    """One kind of call that was refused."""

    #: The call as strace would write it, as it was lately: not each of a flood is looked at.
    call: str
    verdict: str
    reason: str
    #: The rule to add, if one would let it through; "" otherwise.
    tip: str
    times: int
    #: Seconds since the epoch.
    last: float


class _Row:
    """One such kind, and how many of it there were, which others count, too."""

    __slots__ = ("call", "cell", "reason", "tip", "verdict")

    def __init__(self, verdict: str, reason: str, tip: str) -> None:
        self.call = ""
        self.verdict = verdict
        self.reason = reason
        self.tip = tip
        #: How many, and when the last was: in seconds since the epoch.
        self.cell: list[Any] = [0, 0.0]

    def shown(self) -> Refusal:
        times, last = self.cell
        return Refusal(self.call, self.verdict, self.reason, self.tip, times, last)


class Refusals:
    """An observer that remembers, in bounds, what was refused with a reason.

    Of what is like others it is told now and then: all that is counted where it is answered (:meth:`cell`)."""

    events = (Outcome, ContainerEnded)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By container, while it is served; and by name once it is over.
        self._now: dict[object, dict[tuple[str, str], _Row]] = {}
        self._over: OrderedDict[str, list[Refusal]] = OrderedDict()

    @staticmethod
    def wants(verdict: Verdict) -> bool:
        """A refusal with a reason."""
        return isinstance(verdict, Deny) and bool(verdict.reason)

    def wants_text(self, call: Call, verdict: Verdict) -> bool:
        """Of one that is not known, or was not seen for a moment; of others each time that it was seen twice as often: the
        text costs more than all that is done besides."""
        if not self.wants(verdict):
            return False
        known = self._now.get(call.container)
        key = (call.name, str(verdict.reason)[:_LONG])
        found = None if known is None else known.get(key)
        if found is None or time.time() - found.cell[1] > _FRESH:
            return True
        times: int = found.cell[0]
        return not times & (times + 1)

    def __call__(self, event: Outcome | ContainerEnded) -> None:
        if isinstance(event, ContainerEnded):
            self._end(event.container)
            return
        verdict: Any = event.verdict
        reason = str(verdict.reason)[:_LONG]
        key = (event.call.name, reason)
        with self._lock:
            known = self._now.setdefault(event.container, {})
            found = known.get(key)
            if found is None:
                if len(known) >= _EACH:
                    oldest = min(known, key=lambda each: known[each].cell[1])
                    known.pop(oldest).cell.clear()  # nobody counts there any more
                tip = str(getattr(verdict.reason, "tip", ""))
                found = known[key] = _Row(str(verdict), reason, tip[:_LONG])
            if event.text or not found.call:
                found.call = (event.text or event.call.name)[:_LONG]
            found.cell[0] += 1
            found.cell[1] = time.time()

    def cell(self, event: Outcome) -> list[Any] | None:
        """Where one of which it was told is counted, and what is like it in all that is shown of it."""
        with self._lock:
            known = self._now.get(event.container, {})
            found = known.get((event.call.name, str(event.verdict.reason)[:_LONG]))
            return None if found is None else found.cell

    def _end(self, container: Any) -> None:
        with self._lock:
            known = self._now.pop(container, None)
            if not known:
                return
            self._over.pop(container.name, None)
            self._over[container.name] = _shown(known)
            if len(self._over) > _OVER:
                self._over.popitem(last=False)

    def of(self, container: object) -> list[Refusal]:
        """Those of a container that is served, the latest last."""
        with self._lock:
            return _shown(self._now.get(container, {}))

    def of_ended(self, name: str) -> list[Refusal] | None:
        """Those of one that is over; None if nothing is known of it."""
        with self._lock:
            return self._over.get(name)


def _shown(rows: dict[tuple[str, str], _Row]) -> list[Refusal]:
    """The latest last."""
    return sorted((each.shown() for each in rows.values()), key=lambda each: each.last)

"""What the ledger keeps of a call: as its program sees it, and as the supervisor does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proctor.model.kernel.notify import Knotif
from proctor.model.kernel.transitions import SENT
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.verdict import Wire
    from proctor.model.sim.listener import SimListener

#: Whose calls must be decided in order: listener, thread id, and when that became the thread's.
Lane = tuple[int, int, float]


class Event(NamedTuple):
    """Something that happened; for reports and charts."""

    now: float
    kind: str
    who: str
    """Which lifeline: a caller, a worker, "supervisor" or "world"."""
    call: int
    """Serial number of the call it is about; 0 for none."""
    text: str
    other: str = ""
    """The caller it is about, if that is not ``who``."""


class Asked:
    """One call as its program sees it; a restart is the same one."""

    __slots__ = (
        "answer", "at", "caller", "container", "givers", "name", "performed", "script", "serial",
        "signalled", "wires",
    )  # fmt: skip

    def __init__(
        self,
        serial: int,
        caller: str,
        container: Any,
        name: str,
        script: Any,
        wires: Any,
        at: float,
    ) -> None:
        self.serial = serial
        self.caller = caller
        self.container = container
        self.name = name
        #: What the handler will do.
        self.script = script
        #: The answers that follow from that.
        self.wires: frozenset[Wire] = wires
        self.at = at
        #: The last answer that reached the kernel; an int is the number of a descriptor.
        self.answer: Wire | int | None = None
        #: How many are about to answer with a descriptor; of a restarted call, several may be.
        self.givers = 0
        self.performed = 0
        self.signalled = False


class Received:
    """One notification from its reception until its answer."""

    __slots__ = (
        "asked", "at", "begun", "due", "dying", "first", "halfway", "handlers", "id", "inherited", "knotif",
        "lane", "latest", "left", "port",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        lane: Lane | None,
        asked: Asked,
        port: SimListener,
        knotif: Knotif,
        at: float,
    ) -> None:
        self.id = id
        self.lane = lane
        self.asked = asked
        self.port = port
        self.knotif = knotif
        self.at = at
        #: Since when no earlier call of its caller's is before it.
        self.first = at
        self.due: float | None = None
        #: When it has to be answered: then, unless its monitor died.
        self.latest: float | None = None
        #: A monitor that died had received it.
        self.inherited = False
        #: Or has left it on purpose, and nothing of it was done.
        self.left = False
        #: It has been begun to perform it; and whoever did so was killed.
        self.begun = self.halfway = False
        #: Since when its caller was seen to have a signal to die of.
        self.dying: float | None = None
        #: Labels of the handlers that were asked.
        self.handlers: list[str] = []

    def lives(self) -> bool:
        """Whether its caller still waits for the answer."""
        return self.knotif.state == SENT

"""What happened in a simulation, and what must never: the invariants.

The ledger sees both sides of every call: what its caller asked and saw (:class:`Asked`), and what
the supervisor received and answered (:class:`Received`).  It knows what each handler was going to
say, since the seed chose it, and so which answers can be right.

A broken invariant is kept, not raised: the supervisor survives whatever its handlers and ports
raise, which is its job.  The world stops at the next opportunity.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from proctor.kernel.abi import SECCOMP_USER_NOTIF_FLAG_CONTINUE
from proctor.model.kernel.linux import EINTR, ENOSYS, EPERM, ERESTARTNOINTR
from proctor.model.kernel.signals import ends
from proctor.model.sim.accounts import Asked, Event, Lane, Received
from proctor.supervisor.share import LONGEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proctor.call.verdict import Wire
    from proctor.model.sim.listener import SimListener

#: What the rules of a simulated supervisor answer; no handler says these.
ON_ERROR: Final = EPERM
ON_DEADLINE: Final = 110  # ETIMEDOUT
AT_CLOSE: Final = 108  # ESHUTDOWN
#: Seconds of virtual time by which an answer may be late for its deadline: the supervisor can be
#: kept from running for some time in each of two rounds.
SLACK: Final = 0.1
#: Seconds of virtual time after which nobody may still wait for an answer.
PATIENCE: Final = 120.0
#: Seconds of virtual time for which a listener may be kept after its end.
KEPT: Final = 5.0
#: Seconds of virtual time by which a call may be overtaken by others.
AT_ONCE: Final = 1.0
#: Seconds of virtual time for which a caller may wait that has a signal to die of.
DYING: Final = 0.5
#: Seconds that it takes to find that a thread stalls, and a little more.
STALL: Final = 0.01
#: Stands for the number of a descriptor that is on its way to the caller.
SOME: Final = -1
#: Events that are remembered for a report.
_REMEMBERED: Final = 400


class Violation(Exception):
    """An invariant does not hold."""


class Ledger:
    """The book of one simulated machine.

    :param deadline: of the supervisor.
    :param deadlines: of the handlers, by the name of the call.
    :param slack: seconds by which an answer may be late for them.
    :param quota: most workers of one container.
    :param workers: most workers, but for the first of each container.
    :param containers: most of them.
    """

    def __init__(
        self,
        deadline: float | None,
        deadlines: dict[str, float],
        slack: float,
        *,
        quota: int,
        workers: int,
        containers: int,
    ) -> None:
        #: How long a call waits at most for which there is a thread: others may be received with it,
        #: and a first one of each container stall.
        self._fair = 10 * slack + containers * STALL
        self._slack = slack
        self.now = 0.0
        self._deadline = deadline
        self._deadlines = deadlines
        self.counts: Counter[str] = Counter()
        self._noted: deque[tuple[float, str, str, int, str, str]] = deque(maxlen=_REMEMBERED)
        self.violation: str | None = None
        #: Calls that programs wait in, by serial number.
        self.asked: dict[int, Asked] = {}
        #: Unanswered notifications, by listener and id.
        self.open: dict[tuple[int, int], Received] = {}
        #: Unanswered notifications of one caller, oldest first.
        self.order: dict[Lane, deque[int]] = {}
        #: The supervisor is being closed.
        self.closing = False
        #: Descriptors of the monitor that handlers gave away and that are open.
        self.given: set[int] = set()
        #: Most workers of one container, and of all, but for the first of each.
        self._quota, self._workers = quota, workers
        #: How many workers are busy with calls of a listener, and when that was last all they may be.
        self._busy: Counter[SimListener] = Counter()
        self._full: dict[SimListener, float] = {}
        #: When the latest of all calls of a listener that workers took up became the first of its
        #: caller, and the callers on whose calls workers spent time.
        self._latest: dict[SimListener, float] = {}
        self._served: set[Lane] = set()
        self.received = 0
        self.settled = 0

    @property
    def events(self) -> list[Event]:
        """The last that happened."""
        return [Event(*noted) for noted in self._noted]

    def note(self, kind: str, who: str, call: int = 0, text: str = "", other: str = "") -> None:
        """Write down that something happened."""
        self.counts[kind] += 1
        self._noted.append((self.now, kind, who, call, text, other))

    def broken(self, what: str) -> None:
        """An invariant does not hold; the first one counts."""
        if self.violation is None:
            self.violation = what
            self.note("VIOLATION", "world", 0, what)

    # The caller's side ----------------------------------------------------------------------------
    def performs(self, asked: Asked) -> int:
        """The kernel runs the call: somebody must have let it."""
        asked.performed += 1
        answer = asked.answer
        if not isinstance(answer, tuple) or not answer[2] & SECCOMP_USER_NOTIF_FLAG_CONTINUE:
            self.broken(f"call {asked.serial} ran although nobody let it: {answer}")
        return 0

    def returned(self, asked: Asked, value: int, closed: bool) -> None:
        """A program sees ``value``.

        :param closed: its listener is.
        """
        self.note("return", asked.caller, asked.serial, str(value))
        self.asked.pop(asked.serial, None)
        if asked.signalled and (value == -EINTR or (value == -ENOSYS and closed)):
            return  # interrupted; or made again, when nobody listened any more
        answer = asked.answer
        if answer is None:
            if not (value == -ENOSYS and closed):
                self.broken(f"call {asked.serial} returned {value} and nobody answered it")
            return
        if answer == SOME:
            expected = max(value, 0)
        else:
            expected = answer if isinstance(answer, int) else answer[1] or answer[0]
        if value != expected:
            self.broken(f"call {asked.serial} returned {value}, its answer was {answer}")
        elif isinstance(answer, tuple) and answer[2] and not asked.performed:
            self.broken(f"call {asked.serial} was let run and did not")

    def died(self, asked: Asked) -> None:
        """The caller died in its call."""
        self.note("died", asked.caller, asked.serial)
        self.asked.pop(asked.serial, None)

    # The supervisor's side ------------------------------------------------------------------------
    def receive(self, received: Received, who: str) -> None:
        """RECV gave a notification."""
        asked = received.asked
        self.received += 1
        asked.answer = None  # a restarted call: an earlier answer came to nothing
        received.due = self._deadlines.get(asked.name, self._deadline)
        if received.due is not None:
            received.due += self.now
        received.latest = received.due
        number = received.port.number
        self.open[number, received.id] = received
        lane = received.lane
        if lane is not None:
            queue = self.order.get(lane)
            if queue is None:
                self.order[lane] = deque((received.id,))
            else:
                queue.append(received.id)
        self.note("receive", who, asked.serial, asked.name, asked.caller)

    def handler(self, port: SimListener, id: int, label: str, who: str) -> Received | None:
        """A handler is asked about a notification: in the caller's order, once, unanswered."""
        received = self.open.get((port.number, id))
        self.note("handler", who, received.asked.serial if received is not None else 0, label)
        if received is None:
            return None  # answered by a deadline a moment ago
        given_back = port.given_back
        if given_back is not None and self.now > given_back + self._slack and not received.handlers:
            self.broken(
                f"call {received.asked.serial}: its listener was given back, and {label} asked"
            )
        if label in received.handlers:
            self.broken(f"call {received.asked.serial}: {label} was asked twice")
        if not received.handlers:
            self._latest[port] = max(self._latest.get(port, 0.0), received.first)
        received.handlers.append(label)
        self._forget_gone()
        if received.lane in self.order and self.order[received.lane][0] != id:
            self.broken(
                f"call {received.asked.serial} of {received.asked.caller} is decided before an "
                "earlier one of the same caller"
            )
        return received

    def begins(self, port: SimListener) -> None:
        """A thread begins with something for one of its calls."""
        self._busy[port] += 1
        mine, of_all = self._busy[port], self._busy.total()
        if mine > 2 * self._quota + 1:  # whoever has the role may be at one more
            self.broken(f"{port.name} has {mine} threads, and may have {self._quota} twice")
        if mine > 1 and of_all > 2 * self._workers + len(self._busy):
            self.broken(f"there are {of_all} threads, and may be {self._workers} twice")
        self._look_full()

    def ends(self, port: SimListener, received: Received | None) -> None:
        """The thread is done with it."""
        self._look_full()
        self._busy[port] -= 1
        if not self._busy[port]:
            del self._busy[port]
        if received is not None and received.lane is not None:
            self._served.add(received.lane)

    def _look_full(self) -> None:
        all_busy = self._busy.total() >= self._workers
        for port, count in self._busy.items():
            if all_busy or count >= self._quota:
                self._full[port] = self.now

    def answering(self, port: SimListener, id: int) -> Received | None:
        """Somebody speaks about a notification: it must be received and unanswered."""
        received = self.open.get((port.number, id))
        if received is None:
            self.broken(f"{port.name}: an answer for {id:#x}, which was answered or never received")
        return received

    def settle(
        self, received: Received, answer: Wire | int | None, delivered: bool, who: str
    ) -> None:
        """The one answer was given; or, if not ``delivered``, the caller was gone."""
        number, id, asked = received.port.number, received.id, received.asked
        if self.open.pop((number, id), None) is None:
            self.broken(f"call {asked.serial} was answered twice at the same time")
            return
        self.settled += 1
        lane = received.lane
        if lane is not None:
            queue = self.order[lane]
            ahead = queue[0] == id
            queue.remove(id)
            if not queue:
                del self.order[lane]
            elif ahead:
                self.open[number, queue[0]].first = self.now
        self.note(
            "answer" if delivered else "too late", who, asked.serial, str(answer), asked.caller
        )
        if delivered:
            asked.answer = answer
            asked.performed = 0
        due, latest = received.due, received.latest
        if latest is not None and self.now > latest + self._slack:
            self.broken(
                f"call {asked.serial}: answered {self.now - latest:.3f} s after its deadline"
            )
        if answer == (0, -ON_DEADLINE, 0):
            if due is None or self.now < due - 1e-8:
                self.broken(f"call {asked.serial}: answered as too late before its deadline")
        elif answer == (0, -AT_CLOSE, 0):
            if not self.closing and not received.port.detached:
                self.broken(f"call {asked.serial}: answered as at the end, which it was not")
        elif not delivered:
            pass  # whatever it was: a handler that finds its caller gone says something else
        elif (
            answer == (0, -EINTR, 0)
            and received.inherited
            and not received.left
            and asked.script.kind == "perform"
        ):
            pass  # nobody knows how far that came
        elif asked.script.noted and answer == asked.script.given and not received.begun:
            self.broken(f"call {asked.serial} was answered as done, and was not")
        elif answer == (0, -ERESTARTNOINTR, 0) and ends(received.knotif.task):
            pass  # whatever it is, its program does not see it
        elif isinstance(answer, tuple) and answer not in asked.wires:
            # before ADDFD knew how to answer, the number of a descriptor was sent by itself
            if not (asked.script.kind == "hand over" and answer[0] >= 0 and answer[1:] == (0, 0)):
                self.broken(f"call {asked.serial}: {asked.script} was answered with {answer}")
        elif isinstance(answer, int) and asked.script.kind != "hand over":
            self.broken(f"call {asked.serial}: {asked.script} was answered with a descriptor")

    def performing(self, port: SimListener, id: int) -> Received | None:
        """Somebody begins to perform a call: nobody ever does so again."""
        received = self.open.get((port.number, id))
        if received is not None:
            if received.begun:
                self.broken(f"call {received.asked.serial} was performed twice")
            received.begun = True
        return received

    def puts_back(self, port: SimListener, id: int) -> None:
        """A monitor that leaves is done with a call, unanswered: nothing of it was done."""
        received = self.open.get((port.number, id))
        if received is not None:
            received.left = True

    def leaves(self, still: int) -> None:
        """The monitor has left everything to the next one.

        :param still: how many calls it says that it performs all the same.
        """
        begun = [one for one in self.open.values() if one.begun and not one.halfway and one.lives()]
        if len(begun) > still:
            self.broken(f"call {begun[0].asked.serial} is performed, and its monitor leaves")

    def died_with(self, leaving: bool) -> None:
        """The monitor was killed, or ended when it had left all.  What it had received is the next one's, but for
        what it had answered in the same moment."""
        for received in self.open.values():
            received.left = leaving and not received.begun
            received.halfway = received.begun
        for box in (self.given, self._busy, self._full, self._latest):
            box.clear()
        for received in list(self.open.values()):
            asked = received.asked
            asked.givers = 0
            received.handlers = []
            received.inherited = True
            if received.lives():
                asked.answer = None
        self._forget_gone()
        for received in list(self.open.values()):
            if received.asked.answer == SOME:
                del self.open[received.port.number, received.id]

    def _forget_gone(self) -> None:
        """What a dead monitor had received, or one that leaves is done with, is nobody's if its caller is gone: the
        next one need not know of it, or will be told that it is too late."""
        for received in self.open.values():
            nobodys = received.inherited or received.left
            if nobodys and received.lane is not None and not received.lives():
                queue = self.order[received.lane]
                queue.remove(received.id)
                if not queue:
                    del self.order[received.lane]
                received.lane = received.latest = None

    def moved(self, ports: Mapping[SimListener, SimListener]) -> None:
        """The next monitor has the listeners: their calls have all their time once more, from there on."""
        mine, self.open, self.order = list(self.open.values()), {}, {}
        for received in mine:
            port = ports.get(received.port)
            if port is None:  # its end was told
                if received.lives():
                    self.broken(f"call {received.asked.serial}: nobody has its listener any more")
                continue
            received.port, received.first = port, self.now
            self.open[received.port.number, received.id] = received
            if received.due is not None:
                received.latest = self.now + received.due - received.at
            if received.lane is not None:
                received.lane = (received.port.number, *received.lane[1:])
                self.order.setdefault(received.lane, deque()).append(received.id)

    def close_given(self, fd: int) -> None:
        """Somebody closes a descriptor that a handler opened."""
        if fd in self.given:
            self.given.discard(fd)
        else:
            self.broken(f"descriptor {fd} was closed twice, or is not the supervisor's to close")

    def closes(self, port: SimListener) -> None:
        """The supervisor closes a listener: whoever it received from must have been answered.
        Those of one that was given back are its new owner's."""
        if port.detached:
            for received in [one for one in self.open.values() if one.port is port]:
                del self.open[port.number, received.id]
                if received.lane is not None:
                    self.order.pop(received.lane, None)
        for received in self.open.values():
            if received.port is port and received.lives():
                self.broken(f"call {received.asked.serial} was received and its listener closed")

    # Looking around -------------------------------------------------------------------------------
    def overdue(self) -> None:
        """Nobody waits too long; to be looked at now and then."""
        self._forget_gone()
        for received in self.open.values():
            latest = received.latest
            if latest is not None and self.now > latest + self._slack:
                self.broken(f"call {received.asked.serial}: its deadline passed unheeded")
            if received.begun or not received.lives() or not ends(received.knotif.task):
                received.dying = None
            elif received.dying is None:
                received.dying = self.now
            elif self.now > max(received.dying, received.first) + DYING + self._slack:
                asked = received.asked
                self.broken(f"call {asked.serial}: {asked.caller} waits for it, and would die")
        for asked in self.asked.values():
            if self.now > asked.at + PATIENCE and not asked.container.unserved():
                self.broken(f"call {asked.serial} of {asked.caller} waits since {asked.at:.3f} s")

    def overtaken(self) -> None:
        """Nobody waits for a thread without a reason, and newcomers are not overtaken."""
        self._look_full()
        self._forget_gone()
        callers = Counter(received.port for received in self.open.values())
        for received in self.open.values():
            before = received.first + AT_ONCE
            if received.handlers or before >= self.now:
                continue
            lane, port, asked = received.lane, received.port, received.asked
            if lane is not None and self.order[lane][0] != received.id:
                continue
            fair = self._fair + LONGEST * callers[port]  # each of them may burn
            if max(received.first, self._full.get(port, 0.0)) + fair < self.now:
                self.broken(
                    f"call {asked.serial} of {asked.caller} waits, and nothing is before it"
                )
            elif (
                lane not in self._served
                and before < self._latest.get(port, 0.0)
                and self._full.get(port, 0.0) < received.first
            ):
                self.broken(
                    f"call {asked.serial} of {asked.caller}, who had nothing yet, is overtaken"
                )

    def nothing_left(self) -> None:
        """After the end: every call that was received was answered, and nobody waits."""
        for received in self.open.values():
            if received.lives():
                self.broken(f"call {received.asked.serial} was received and never answered")
        for asked in self.asked.values():
            self.broken(f"call {asked.serial} of {asked.caller} never returned")
        if self.given:
            self.broken(f"{len(self.given)} descriptors were given away and never closed")

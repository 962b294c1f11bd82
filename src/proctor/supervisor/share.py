"""What one container has of the supervisor: its calls that wait, whose turn it is, and its threads.

A call that stalls keeps its thread: the container *holds* it, at most as many as its quota says.  Beyond
that its calls wait, but for those of numbers that are not known for stalling: they are begun all the same,
and if they do stall, up to the quota once more.  So what is decided at once is, whatever else hangs.
What goes on with a call (when something became readable, when a coroutine said something) asks for a thread
as calls do, and is known for stalling by itself: its beginning may be quick and its end slow, or the reverse.

While a held thread is burning processor time others wait, too: with one interpreter lock for all,
several that compute are no faster than one, and everybody is slower.  For that they wait a moment only,
longer the more of them burn.  One that would if it had a processor is counted, or a busy machine would have as many
of them as there may be.  One that is blocked (in hostile memory, a FIFO, a handler that asks somebody) is waited for
by nobody.

Callers share what their container has by what they took, not by arrival: each has an account of the
seconds that were spent on its calls that waited or stalled, and the lowest account is served first.  Those in which
its thread was blocked are counted where there is no other thread for anybody, those in which it had no processor never: on a
busy machine the shortest call takes as long as others.
Whoever comes anew, or comes back, starts where the container's *virtual time* stands, which goes on by
what is spent, divided by the callers that want something: so a newcomer goes before all who took more
than their part, and nobody waits for ever (weighted fair queueing, all weights equal).

An account goes by the number of a thread, which another thread can have by now.  So it remembers since when it is
kept, and whoever was born since comes anew (:meth:`Share.doubted`).
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proctor.supervisor.container import Quotas
    from proctor.supervisor.jobs import Job
    from proctor.supervisor.world_port import Pulse

#: Accounts, and places in the queue, that may be left lying about.
_SPARE: Final = 64
#: Seconds from one look at what a thread does to the next.
LOOK: Final = 0.002
#: The part of that which it spends computing if it burns.
_BURNS: Final = 0.125
#: The part of the time that it is kept after which it is looked at again.
_SELDOM: Final = 0.06
#: Seconds that others wait after a stall for one thread that burns; for n of them, n * n times that, but
#: no longer than the other one.
_PAUSE: Final = 0.02
LONGEST: Final = 0.5

#: Seconds of a rate that may be taken at once.
_BURST: Final = 0.1

#: Quick calls of a number after which it is no longer known for stalling, for each that stalled; and of
#: how many that is remembered.
_STALL: Final = 8
_STALLS: Final = 64
#: Numbers of which it is.
_NUMBERS: Final = 1024

#: Whose account: the listener's number and the thread's.
_Account = tuple[int, int]
#: Seconds spent, and when the first of the calls was received on which.
_Spent = tuple[float, float]
#: (account, arrival, job).
_Place = tuple[float, int, "Job"]
_NONE: Final[tuple[float, int, None]] = (0.0, 0, None)
_NEW: Final[_Spent] = (0.0, 0.0)
#: What is known for stalling: calls of an architecture and a number, or what goes on with them.
Number = tuple[object, ...]


class Kind(NamedTuple):
    """What waits for a turn, as far as that matters for when it comes."""

    #: It is known for stalling.
    slow: bool
    #: It goes on with a call that was begun: whatever the rate is.
    begun: bool


KINDS: Final = tuple(Kind(slow, begun) for slow in (True, False) for begun in (True, False))


class Mark:
    """How far a thread was when it began what it is at."""

    __slots__ = ("_pulse", "_queued", "_used", "counted", "since")

    def __init__(self, pulse: Pulse, now: float) -> None:
        self._pulse = pulse
        self.since = now
        self._used, self._queued = pulse(), pulse.queued()
        #: That this is on somebody's account, or will be.
        self.counted = False

    def of(self, pulse: Pulse) -> bool:
        """Whether it is that thread's, and not counted."""
        return self._pulse is pulse and not self.counted

    def used(self) -> float:
        """Seconds that it has computed since."""
        return self._pulse() - self._used

    def took(self, now: float) -> float:
        """Seconds since then in which it did not wait for a processor.  On a machine that has none to spare each call takes
        long, and all would be taken for slow for ever, and whoever makes a short one for who had most."""
        return max(0.0, now - self.since - (self._pulse.queued() - self._queued))


class Hold:
    """A thread that a call keeps: one of its own, since several may have been at the same call, which the
    first of them has left to others and cannot leave itself, having no processor."""

    __slots__ = (
        "_at", "_burns", "_used", "began", "expected", "job", "known", "number", "pulse",
    )  # fmt: skip

    def __init__(self, job: Job, pulse: Pulse, now: float, began: Mark | None = None) -> None:
        self.job = job
        self.number = number_of(job)
        self.pulse = pulse
        #: Who gave the role up said so when it did: whoever takes it may be long in coming.
        self.began = began or Mark(pulse, now)
        self.began.counted = True
        self._used, self._at = pulse(), now
        self._burns = True  # as long as nobody has looked
        #: That its call's number stalls.
        self.known = False
        #: That this was to be expected: it gave the role up before it stalled, if it does.
        self.expected = False

    def burns(self, now: float) -> bool:
        """Whether it computes, or would; looked at less often the longer it is kept."""
        if now >= self._at + max(LOOK, _SELDOM * (now - self.began.since)):
            used = self.pulse()
            burnt = used - self._used > _BURNS * (now - self._at)
            self._burns = burnt or self.pulse.runs()
            self._used, self._at = used, now
        return self._burns


class Share:
    """See the module.  The supervisor's lock guards all of it."""

    __slots__ = (
        "_accounts",
        "_arrivals",
        "_due",
        "_held",
        "_queues",
        "_stalled",
        "_time",
        "_waiting",
        "calls",
        "listeners",
        "most_calls",
        "rate",
        "slow",
        "watchful",
        "workers",
    )

    def __init__(self, quotas: Quotas) -> None:
        #: When the next call would be due if all came as evenly as the rate has them.
        self._due = 0.0
        #: How many of its listeners are served.
        self.listeners = 0
        #: Calls that are known beyond the thread that decides them.
        self.calls = 0
        #: Whether a call that comes may have to wait for its turn: otherwise it goes the shortest way, unless its number
        #: is known for stalling, or an earlier call of its caller is known (:attr:`Served.busy`).
        self.watchful = False
        #: Those numbers, and for how many quick calls they are.
        self.slow: dict[Number, int] = {}
        self._held: dict[Hold, None] = {}
        #: When it last came to hold one more.
        self._stalled = 0.0
        #: (account, arrival, job); and which of these jobs still wait, and where.
        self._queues: dict[Kind, list[_Place]] = {kind: [] for kind in KINDS}
        self._waiting: dict[Job, Kind] = {}
        self._arrivals = 0
        self._time = 0.0
        self._accounts: dict[_Account, _Spent] = {}
        self.limit(quotas)

    def limit(self, quotas: Quotas) -> None:
        """These hold from now on."""
        self.workers = quotas.workers
        self.most_calls = quotas.calls
        self.rate = quotas.rate
        self._watch()

    def __len__(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether it has as many calls as it may have."""
        return self.most_calls is not None and self.calls >= self.most_calls

    # Threads --------------------------------------------------------------------------------
    @property
    def held(self) -> int:
        """How many threads its calls keep."""
        return len(self._held)

    def hold(self, job: Job, pulse: Pulse, now: float, began: Mark | None = None) -> Hold:
        """A thread is kept by ``job`` from now on.

        :param pulse: that thread's.
        :param began: how far it was when it gave the role up for it.
        """
        hold = Hold(job, pulse, now, began)
        self._held[hold] = None
        self._stalled = now
        # One that runs had no processor, perhaps, and stalls no longer once it has.  One of a number that
        # is known for it gave the role up before it stalled, if it does: a short wait is no stall.
        if hold.number in self.slow:
            hold.expected = True
        elif not pulse.runs():
            hold.known = True
            self._is_known(hold.number)
        self._watch()
        return hold

    def _is_known(self, number: Number) -> None:
        """It is known for stalling."""
        if len(self.slow) >= _NUMBERS:
            self.slow.clear()
        self.slow[number] = min(self.slow.get(number, 0) + _STALL, _STALLS)

    def is_slow(self, job: Job) -> bool:
        """Whether calls of its number are known for stalling, or what goes on with them if it goes on."""
        return bool(self.slow) and number_of(job) in self.slow

    def was_quick(self, number: Number) -> None:
        """A call did not stall of whose number that was to be expected."""
        left = self.slow.get(number, 0) - 1
        if left > 0:
            self.slow[number] = left
        else:
            self.slow.pop(number, None)

    def _watch(self) -> None:
        self.watchful = bool(self._waiting or self._held or self.rate)

    def let_go(self, hold: Hold, now: float) -> None:
        """The thread is done with what kept it."""
        scarce = len(self._held) >= self.workers
        del self._held[hold]
        self._watch()
        took, used = hold.began.took(now), hold.began.used()
        # Either it computed for long, or what was to be expected came: it waited for long
        if not hold.known and (used > LOOK or (hold.expected and took - used > LOOK)):
            self._is_known(hold.number)
        self.spent(hold.job, took if scarce else min(took, used))

    def delay(self, now: float, kind: Kind) -> float | None:
        """Seconds until one more of its calls may be begun, or gone on with, which perhaps stalls, or until
        that is to be asked again; None: not before a thread was let go."""
        early = 0.0 if kind.begun else self.early(now)
        if not self._held:
            return early
        if len(self._held) >= self.workers * (1 if kind.slow else 2):
            return None
        burning = sum(hold.burns(now) for hold in self._held)
        left = self._stalled + min(_PAUSE * burning * burning, LONGEST) - now
        return max(early, min(max(0.0, left), LOOK))

    # Rate: the generic cell rate algorithm (ITU-T I.371)
    def early(self, now: float) -> float:
        """Seconds until the rate lets one more be begun."""
        if self.rate is None:
            return 0.0
        return max(0.0, self._due - max(_BURST, 1 / self.rate) - now)

    def begin(self, kind: Kind, now: float) -> None:
        """One more is begun, unless it goes on."""
        if self.rate is not None and not kind.begun:
            self._due = max(self._due, now) + 1 / self.rate

    # Turns ----------------------------------------------------------------------------------
    def doubted(self, job: Job) -> float | None:
        """If what was spent under its caller's number puts a call behind others: since when that was.  If its caller
        was born since, it was spent on another one.  None if there is nothing to be asked: less than a look takes
        decides nobody's turn."""
        spent, since = self._accounts.get(_account(job), _NEW)
        return since if job.tid and spent > self._time + LOOK and since < job.received else None

    def put(self, job: Job, anew: bool = False) -> None:
        """A call waits for its turn from now on.

        :param anew: nothing that was spent under its caller's number was spent on that one.
        """
        if anew:
            self._accounts.pop(_account(job), None)
        account = max(self._accounts.get(_account(job), _NEW)[0], self._time)
        self._arrivals += 1
        kind = self._waiting[job] = self.kind(job)
        self.watchful = True
        queue = self._queues[kind]
        heapq.heappush(queue, (account, self._arrivals, job))
        if len(queue) > 2 * len(self._waiting) + _SPARE:
            queue[:] = [each for each in queue if each[2] in self._waiting]
            heapq.heapify(queue)

    def kind(self, job: Job) -> Kind:
        """Of which it is now."""
        return Kind(self.is_slow(job), job.begun)

    def first(self, kind: Kind) -> _Place | None:
        """The first of a kind; None if none waits."""
        queue = self._queues[kind]
        while queue and queue[0][2] not in self._waiting:
            heapq.heappop(queue)
        return queue[0] if queue else None

    def waits_for_long(self) -> bool:
        """Whether something waits that is taken for slow."""
        return any(self.first(kind) is not None for kind in KINDS if kind.slow)

    def take(self, kinds: Iterable[Kind] = KINDS) -> Job | None:
        """The call of these kinds whose turn it is; None if none waits."""
        places = map(self.first, kinds)
        account, _, job = min((place for place in places if place is not None), default=_NONE)
        if job is not None:
            heapq.heappop(self._queues[self._waiting.pop(job)])
            # which may have grown since: callers without a number share one
            self._charge(job, account, 0.0)
            self._watch()
        return job

    def take_out(self, job: Job) -> bool:
        """It was answered, and wants no turn; whether it did."""
        waited = self._waiting.pop(job, None) is not None
        self._watch()
        return waited

    def spent(self, job: Job, seconds: float) -> None:
        """So long was spent on it."""
        seconds = max(0.0, seconds)
        self._time += seconds / (len(self._waiting) + len(self._held) + 1)
        self._charge(job, self._time, seconds)
        if len(self._accounts) > 2 * (len(self._waiting) + len(self._held)) + _SPARE:
            self._settle()

    def _charge(self, job: Job, least: float, seconds: float) -> None:
        """Its caller's account is so much higher, and at least so high."""
        whose = _account(job)
        spent, since = self._accounts.get(whose, (0.0, job.received))
        # Who is dead may be charged late: with that, what a later one has spent is not only its own
        self._accounts[whose] = max(spent, least) + seconds, min(since, job.received)

    def _settle(self) -> None:
        """Forget the accounts that a newcomer's equals; of very many, the lowest."""
        left = sorted(
            ((value, key) for key, value in self._accounts.items() if value[0] > self._time),
            reverse=True,
        )
        self._accounts = {key: value for value, key in left[: len(self._waiting) + _SPARE]}


def number_of(job: Job) -> Number:
    """By what it is known, if it is known for stalling."""
    number = job.call.arch, job.call.nr
    return (*number, "goes on") if job.begun else number


def _account(job: Job) -> _Account:
    return (job.served.number, job.tid)

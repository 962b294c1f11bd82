"""What one container has of the supervisor: its calls that wait for a worker, and whose turn it is.

Callers share their container's workers by what they took, not by arrival: each has an account of the
seconds that workers spent on its calls, and the lowest account is served first.  Whoever comes anew,
or comes back, starts where the container's *virtual time* stands, which goes on by what is spent,
divided by the callers that want something: so a newcomer goes before all who took more than their
part, and nobody waits for ever (weighted fair queueing, all weights equal).
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proctor.supervisor.container import Quotas
    from proctor.supervisor.jobs import Job

#: Accounts, and places in the queue, that may be left lying about.
_SPARE: Final = 64

#: Whose account: the listener's number and the thread's.
_Account = tuple[int, int]


class Share:
    """See the module.  The supervisor's lock guards all of it."""

    __slots__ = (
        "_accounts",
        "_arrivals",
        "_queue",
        "_time",
        "_waiting",
        "asked",
        "calls",
        "listeners",
        "most_calls",
        "running",
        "workers",
    )

    def __init__(self, quotas: Quotas) -> None:
        self.workers = quotas.workers
        self.most_calls = quotas.calls
        #: How many of its listeners are served.
        self.listeners = 0
        #: Calls known beyond the receiving thread.
        self.calls = 0
        #: Workers that were asked for and did not come yet, and those that are at work.
        self.asked = self.running = 0
        #: (account, arrival, job), and which of these jobs still wait.
        self._queue: list[tuple[float, int, Job]] = []
        self._waiting: dict[Job, float] = {}
        self._arrivals = 0
        self._time = 0.0
        self._accounts: dict[_Account, float] = {}

    def __len__(self) -> int:
        """How many calls wait for a worker."""
        return len(self._waiting)

    @property
    def lacks(self) -> bool:
        """Whether one more worker could take something up."""
        return self.asked < min(len(self._waiting), self.workers - self.running)

    @property
    def full(self) -> bool:
        """Whether it has as many calls as it may have."""
        return self.most_calls is not None and self.calls >= self.most_calls

    def put(self, job: Job) -> None:
        """A call waits for a worker from now on."""
        account = max(self._accounts.get(_account(job), 0.0), self._time)
        self._arrivals += 1
        self._waiting[job] = account
        heapq.heappush(self._queue, (account, self._arrivals, job))
        if len(self._queue) > 2 * len(self._waiting) + _SPARE:
            self._queue[:] = [each for each in self._queue if each[2] in self._waiting]
            heapq.heapify(self._queue)

    def take(self) -> Job | None:
        """The call whose turn it is, for a worker; None if none waits."""
        while self._queue:
            account, _, job = heapq.heappop(self._queue)
            if self._waiting.pop(job, None) is not None:
                self._accounts[_account(job)] = account
                return job
        return None

    def take_out(self, job: Job) -> bool:
        """It was answered: no worker is wanted.  Whether one was."""
        return self._waiting.pop(job, None) is not None

    def spent(self, job: Job, seconds: float) -> None:
        """A worker was busy with it for so long."""
        self._time += seconds / (len(self._waiting) + self.running + 1)
        account = _account(job)
        self._accounts[account] = max(self._accounts.get(account, 0.0), self._time) + seconds
        if len(self._accounts) > 2 * (len(self._waiting) + self.running) + _SPARE:
            self._settle()

    def _settle(self) -> None:
        """Forget the accounts that a newcomer's equals; of very many, the lowest."""
        left = sorted(
            ((value, key) for key, value in self._accounts.items() if value > self._time),
            reverse=True,
        )
        self._accounts = {key: value for value, key in left[: len(self._waiting) + _SPARE]}


def _account(job: Job) -> _Account:
    return (job.served.number, job.tid)

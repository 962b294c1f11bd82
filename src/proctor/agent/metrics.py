"""Metrics for Prometheus: what was decided, how many are served, how long performing takes.

Calls are counted by their container's policy, not by container: a machine has a bounded number of
policies, and no bounded number of containers.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from proctor.observe.counters import Counters
from proctor.observe.events import Dropped, Outcome, TakenOver, Trouble
from proctor.supervisor.ports import Later

if TYPE_CHECKING:
    from proctor.agent.agent import Agent
    from proctor.call.call import Call
    from proctor.call.ports import ContainerPort
    from proctor.call.verdict import Perform, Verdict
    from proctor.process.performing import LazyPerformer

_BUCKETS: Final = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
)  # fmt: skip
_BOUNDS: Final = [*map(str, _BUCKETS), "+Inf"]


def policy_of(container: ContainerPort) -> str:
    """What its calls are counted under."""
    return container.labels.get("policy", "")


class Times:
    """How long calls waited for their answers, by policy: a histogram at less than a tenth of the library's cost,
    which counts what several threads tell as :meth:`Counters.cell` does."""

    def __init__(self) -> None:
        #: By policy: how many in each bucket, and their sum in the end.
        self._rows: dict[str, list[float]] = {}

    def __call__(self, outcome: Outcome) -> None:
        seconds = outcome.answered - outcome.received
        row = self._rows.setdefault(policy_of(outcome.container), [0.0] * (len(_BOUNDS) + 1))
        row[bisect_left(_BUCKETS, seconds)] += 1
        row[-1] += seconds

    def metric(self) -> Metric:
        """As Prometheus has it."""
        made = HistogramMetricFamily(
            "proctor_answer_seconds",
            "Time from a call's reception to its answer; what is answered on the spot is not timed unless it is told.",
            labels=["policy"],
        )
        for policy, row in list(self._rows.items()):
            counts = accumulate(row[:-1])
            made.add_metric([policy], list(zip(_BOUNDS, counts, strict=True)), row[-1])
        return made


class Metrics:
    """Counts, and answers Prometheus.

    :param asked: somebody asks how long things take: that is measured for nobody else.
    :ivar observers: for the supervisor.
    :ivar timed: has the work of a performer timed; None if nobody asks.
    """

    def __init__(self, *, asked: bool) -> None:
        self.registry = CollectorRegistry()
        self._times = Times()
        self._counters = Counters(policy_of, self._times if asked else None)
        self.timed = self._timed if asked else None
        self._trouble = Counter(
            "proctor_trouble",
            "Things that went wrong; callers were answered.",
            registry=self.registry,
        )
        self._dropped = Counter(
            "proctor_dropped_lines", "Log lines that nobody took.", registry=self.registry
        )
        self._taken_over = Counter(
            "proctor_taken_over_calls",
            "Calls that an earlier monitor left unanswered.",
            registry=self.registry,
        )
        self._performing = Gauge(
            "proctor_performing", "Calls that are being performed.", registry=self.registry
        )
        self._seconds = Histogram(
            "proctor_performing_seconds",
            "Time from the decision to perform a call to its result; what is performed on the spot is not timed.",
            ["policy"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

        def tell(event: Trouble | Dropped | TakenOver) -> None:
            if isinstance(event, Trouble):
                self._trouble.inc()
            elif isinstance(event, Dropped):
                self._dropped.inc(event.lines)
            else:
                self._taken_over.inc(event.calls)

        tell.events = (Trouble, Dropped, TakenOver)  # type: ignore[attr-defined]
        self.observers: list[Callable[[Any], object]] = [self._counters, tell]

    def table(self) -> dict[tuple[str, str, str], int]:
        """How many calls there were, by policy, call and verdict."""
        return self._counters.table()

    def _timed(self, performer: LazyPerformer) -> TimedPerformer:
        """The performer, whose work is timed."""
        return TimedPerformer(performer, self._performing, self._seconds)

    def show(self, agent: Agent) -> None:
        """Show what an agent has, too."""
        self.registry.register(_State(self._counters, self._times, agent))


class TimedPerformer:
    """A performer whose work is timed, but for what it does on the spot.

    :ivar is_harmless_again: the performer's."""

    def __init__(self, performer: LazyPerformer, gauge: Gauge, seconds: Histogram) -> None:
        self.is_harmless_again = performer.is_harmless_again
        self._performer = performer
        self._gauge = gauge
        self._seconds = seconds

    def __call__(self, call: Call, verdict: Perform) -> Verdict | Later:
        over = self.begun(call, time.monotonic())
        return _until(lambda: self._performer(call, verdict), over)

    def ordinary(
        self, name: str, listener: object = None, begins: Callable[[Call], object] | None = None
    ) -> _Ordinary:
        """The performer's."""
        return _Ordinary(self, self._performer.ordinary(name, listener, begins))

    def begun(self, call: Call, began: float) -> Callable[[], object]:
        """One more is being performed; what says that it is over."""
        seconds = self._seconds.labels(policy_of(call.container))
        self._gauge.inc()

        def over() -> None:
            self._gauge.dec()
            seconds.observe(time.monotonic() - began)

        return over


class _Ordinary:
    """Performs ordinary calls of a name; of those only what takes a while is timed.

    :ivar found: as the performer's has it."""

    __slots__ = ("_timed", "_way", "found")

    def __init__(self, timed: TimedPerformer, way: Any) -> None:
        self.found = way.found
        self._timed = timed
        self._way = way

    def __call__(self, call: Call, wish: Perform) -> Verdict | Later | int | None:
        began = time.monotonic()
        said: Verdict | Later | int | None = self._way(call, wish)
        if not isinstance(said, Later):
            return said
        later = said
        return _until(lambda: later, self._timed.begun(call, began))


def _until(work: Callable[[], Verdict | Later], over: Callable[[], object]) -> Verdict | Later:
    """Do it, and tell when all of it is over."""
    try:
        done = work()
    except BaseException:
        over()
        raise
    if not isinstance(done, Later):
        over()
        return done
    later = done

    def cancel() -> None:
        over()
        later.cancel()

    interrupt = later.interrupt
    return later._replace(
        resume=lambda: _until(later.resume, over),
        cancel=cancel,
        interrupt=None if interrupt is None else lambda: _until(interrupt, over),
    )


class _State(Collector):
    """What is counted elsewhere."""

    def __init__(self, counters: Counters, times: Times, agent: Agent) -> None:
        self._counters = counters
        self._times = times
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "proctor_calls", "Calls that were decided.", labels=["policy", "call", "verdict"]
        )
        for key, count in self._counters.table().items():
            calls.add_metric(key, count)
        yield calls
        yield self._times.metric()
        yield from self._taken()
        yield GaugeMetricFamily(
            "proctor_policy_generation",
            "Times that policies changed on disk and were taken.",
            value=self._agent.book.generation,
        )

    def _taken(self) -> Iterator[Metric]:
        """What containers take, by policy."""
        gauges = [
            GaugeMetricFamily(name, text, labels=["policy"])
            for name, text in (
                ("proctor_containers", "Containers that are served."),
                ("proctor_listeners", "Listeners that are served."),
                ("proctor_in_flight", "Calls that were received and are not answered yet."),
                ("proctor_threads", "Threads that calls keep busy."),
            )
        ]
        by_policy: dict[str, list[int]] = {}
        for held in self._agent.containers:
            found = by_policy.setdefault(policy_of(held.container), [0, 0, 0, 0])
            calls, threads = self._agent.supervisor.taken(held.container)
            more = 1, len(held.listeners) + held.connections, calls, threads
            found[:] = map(add, found, more)
        for policy, values in by_policy.items():
            for gauge, value in zip(gauges, values, strict=True):
                gauge.add_metric([policy], value)
        yield from gauges

"""Metrics for Prometheus: what was decided, how many are served, how long performing takes.

Calls are counted by their container's policy, not by container: a machine has a bounded number of
policies, and no bounded number of containers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proctor.observe.counters import Counters
from proctor.observe.events import Dropped, TakenOver, Trouble
from proctor.supervisor.ports import Later

if TYPE_CHECKING:
    from proctor.agent.agent import Agent
    from proctor.call.call import Call
    from proctor.call.ports import ContainerPort
    from proctor.call.verdict import Perform, Verdict
    from proctor.supervisor.deciding import Performer

_BUCKETS: Final = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
)  # fmt: skip


def policy_of(container: ContainerPort) -> str:
    """What its calls are counted under."""
    return container.labels.get("policy", "")


class Metrics:
    """Counts, and answers Prometheus.

    :ivar observers: for the supervisor.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = Counters(policy_of)
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
            "Time from the decision to perform a call to its result.",
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

    def timed(self, performer: Performer) -> TimedPerformer:
        """The performer, whose work is timed."""
        return TimedPerformer(performer, self._performing, self._seconds)

    def show(self, agent: Agent) -> None:
        """Show what an agent has, too."""
        self.registry.register(_State(self._counters, agent))


class TimedPerformer:
    """A performer whose work is timed."""

    def __init__(self, performer: Performer, gauge: Gauge, seconds: Histogram) -> None:
        self._performer = performer
        self._gauge = gauge
        self._seconds = seconds

    def __call__(self, call: Call, verdict: Perform) -> Verdict | Later:
        began = time.monotonic()
        seconds = self._seconds.labels(policy_of(call.container))
        self._gauge.inc()

        def over() -> None:
            self._gauge.dec()
            seconds.observe(time.monotonic() - began)

        return _until(lambda: self._performer(call, verdict), over)


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

    return later._replace(resume=lambda: _until(later.resume, over), cancel=cancel)


class _State(Collector):
    """What is counted elsewhere."""

    def __init__(self, counters: Counters, agent: Agent) -> None:
        self._counters = counters
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "proctor_calls", "Calls that were decided.", labels=["policy", "call", "verdict"]
        )
        for key, count in self._counters.table().items():
            calls.add_metric(key, count)
        yield calls
        containers = GaugeMetricFamily(
            "proctor_containers", "Containers that are served.", labels=["policy"]
        )
        listeners = GaugeMetricFamily(
            "proctor_listeners", "Listeners that are served.", labels=["policy"]
        )
        by_policy: dict[str, list[int]] = {}
        for held in self._agent.containers:
            found = by_policy.setdefault(policy_of(held.container), [0, 0])
            found[0] += 1
            found[1] += len(held.listeners) + held.connections
        for policy, (one, other) in by_policy.items():
            containers.add_metric([policy], one)
            listeners.add_metric([policy], other)
        yield containers
        yield listeners
        yield GaugeMetricFamily(
            "proctor_policy_generation",
            "Times that policies changed on disk and were taken.",
            value=self._agent.book.generation,
        )

"""What kind of machine a simulated one is: drawn by the seed."""

from __future__ import annotations

from random import Random
from typing import Final, Literal

from proctor.records import NamedTuple

#: Kernels on which a supervisor can hand descriptors over and learn of a listener's end.
_PROFILES: Final = ("6.18", "6.18", "6.18", "6.18", "6.11", "6.6", "6.1", "5.19", "5.14", "5.9")

#: How many episodes are preemptive.
_PREEMPTIVE: Final = 0.2
#: How many are malicious.
_MALICIOUS: Final = 0.06


#: How many have monitors that die.
_MORTAL: Final = 0.04


class Settings(NamedTuple):
    """What kind of machine an episode has."""

    profile: str
    fixed: bool
    """Whether an interrupted ADDFD leaves the call answerable."""
    calls: int
    containers: int
    think: float
    """Seconds between the calls of a caller, on average."""
    trouble: float
    """How likely each call brings a signal."""
    weather: float
    """Seconds between one container's fate and the next one's, on average."""
    workers: int
    quota: int
    """Workers that one container may have."""
    preempt: float
    laziness: float
    deadline: float | None
    observed: bool
    apart: bool
    as_thread: bool
    """Driven as the supervisor's own thread drives it, not by ``step``."""
    abrupt: bool
    """Closed in the middle of everything."""
    steps: float
    """Lines of the supervisor's code, or bytecodes, from one preemption to the next; 0: threads
    are left at ports only."""
    bytecodes: bool
    deaths: float
    """Seconds from one death of the monitor to the next, on average; 0: it lives."""
    malice: float
    """How likely a worker is kept busy on purpose; if not 0, most callers do not wait for it."""


#: Kinds of machines: of all sizes; small, on which threads are left anywhere; with callers that are
#: up to no good; with monitors that are killed.
Kind = Literal["ordinary", "preemptive", "malicious", "mortal"]
KINDS: Final[tuple[Kind, ...]] = ("ordinary", "preemptive", "malicious", "mortal")


def draw_settings(random: Random, kind: Kind | None) -> Settings:
    """What the seed wants.

    :param kind: None for any.
    """
    if kind is None:
        draw = random.random()
        if draw < _PREEMPTIVE + _MALICIOUS + _MORTAL:
            kind = "preemptive" if draw < _PREEMPTIVE else "malicious"
            kind = kind if draw < _PREEMPTIVE + _MALICIOUS else "mortal"
    if kind == "preemptive":
        return _preemptive(random)
    if kind == "malicious":
        return _malicious(random)
    if kind == "mortal":
        return _mortal(random)
    containers = random.choice((2, 8, 25, 60, 200))
    return Settings(
        profile=random.choice(_PROFILES),
        fixed=random.random() < 0.5,
        calls=random.choice((300, 1500, 4000)) if containers < 200 else 6000,
        containers=containers,
        think=random.choice((0.001, 0.02, 0.3)),
        trouble=random.choice((0.0, 0.05, 0.05, 0.3)),
        weather=random.choice((0.02, 0.1, 1.0)),
        workers=random.choice((2, 4, 16, 16)),
        quota=random.choice((1, 2, 16)),
        preempt=random.choice((0.0, 0.02, 0.1, 0.3)),
        laziness=random.choice((0.1, 0.5, 0.9, 0.97)),
        deadline=random.choice((None, None, 0.3, 3.0)),
        observed=random.random() < 0.5,
        apart=random.random() < 0.1,
        as_thread=random.random() < 0.4,
        abrupt=random.random() < 0.4,
        steps=0,
        bytecodes=False,
        deaths=0.0,
        malice=0.0,
    )


def _preemptive(random: Random) -> Settings:
    """A small machine, on which anybody can be left anywhere: that is slow."""
    return Settings(
        profile=random.choice(_PROFILES),
        fixed=random.random() < 0.5,
        calls=random.choice((100, 250, 500)),
        containers=random.choice((2, 4, 8)),
        think=random.choice((0.0001, 0.001, 0.02)),
        trouble=random.choice((0.0, 0.05, 0.3)),
        weather=random.choice((0.01, 0.05, 0.2)),
        workers=random.choice((2, 4, 16)),
        quota=random.choice((1, 2, 16)),
        preempt=random.choice((0.0, 0.02, 0.1)),
        laziness=random.choice((0.1, 0.5, 0.9)),
        deadline=random.choice((None, 0.05, 0.3)),
        observed=random.random() < 0.5,
        apart=random.random() < 0.1,
        as_thread=random.random() < 0.7,
        abrupt=random.random() < 0.6,
        steps=random.choice((3.0, 10.0, 30.0)),
        bytecodes=random.random() < 0.5,
        deaths=0.0,
        malice=random.choice((0.0, 0.0, 0.3)),
    )


def _mortal(random: Random) -> Settings:
    """The monitor is killed again and again, wherever its threads are, and another one takes over."""
    return _preemptive(random)._replace(
        apart=False, observed=False, malice=0.0, deaths=random.choice((0.01, 0.05, 0.3))
    )


def _malicious(random: Random) -> Settings:
    """Somebody wants the supervisor's memory to grow: calls without callers, workers without time."""
    return Settings(
        profile=random.choice(_PROFILES),
        fixed=random.random() < 0.5,
        calls=4000,
        containers=random.choice((2, 6)),
        think=random.choice((0.0005, 0.002)),
        trouble=0.02,
        weather=1.0,
        workers=random.choice((2, 4, 16)),
        quota=random.choice((1, 2, 16)),
        preempt=0.02,
        laziness=random.choice((0.1, 0.5)),
        deadline=random.choice((None, None, None, 3.0)),
        observed=random.random() < 0.5,
        apart=random.random() < 0.1,
        as_thread=random.random() < 0.7,
        abrupt=True,
        steps=0,
        bytecodes=False,
        deaths=0.0,
        malice=random.choice((0.1, 0.5)),
    )

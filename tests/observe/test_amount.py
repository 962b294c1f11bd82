"""How much of a container's calls a log has."""

from __future__ import annotations

import errno
import json
import sys
import threading
from typing import Any

import proctor
from proctor.observe.amount import Amount
from proctor.observe.events import ContainerEnded, Dropped
from proctor.observe.jsonlog import JsonLog
from proctor.observe.observers import Observers
from proctor.observe.writer import Writer
from proctor.policy import loads
from proctor.supervisor.container import Container

PROGRAM = "import os\nfor n in range({}): os.getppid(); os.getuid()"


class Kept(list[dict[str, Any]]):
    def __call__(self, lines: list[str]) -> None:
        self.extend(map(json.loads, "".join(lines).splitlines()))


def logged(amount: Amount | None, times: int = 1) -> tuple[Kept, list[Dropped]]:
    kept, dropped = Kept(), list[Dropped]()
    writer = Writer(kept, "a list")
    ended = threading.Event()

    def tell(event: Dropped | ContainerEnded) -> None:
        if isinstance(event, Dropped):
            dropped.append(event)
        else:
            ended.set()

    tell.events = (Dropped, ContainerEnded)  # type: ignore[attr-defined]
    handlers = [
        proctor.Handler(["getppid"], lambda call: proctor.answer(7)),
        proctor.Handler(["getuid"], lambda call: proctor.deny(errno.EPERM, "why")),
    ]
    command = [sys.executable, "-IS", "-c", PROGRAM.format(times)]
    proctor.run(command, handlers, observers=[JsonLog(writer), tell], logging=amount)
    assert ended.wait(60) and writer.close(30)  # who answered last tells of the end
    return kept, dropped


def calls(kept: Kept) -> set[str]:
    return {each["syscall"] for each in kept if each["event"] == "call"}


def test_levels() -> None:
    assert calls(logged(None)[0]) == {"getppid", "getuid"}
    assert calls(logged(Amount())[0]) == {"getppid", "getuid"}
    assert calls(logged(Amount("performed"))[0]) == {"getuid"}
    assert calls(logged(Amount("refused"))[0]) == {"getuid"}
    assert calls(logged(Amount("none"))[0]) == set()


def test_what_is_beyond_the_rate_is_counted() -> None:
    kept, dropped = logged(Amount(rate=1), times=200)
    shown = [each for each in kept if each["event"] == "call"]
    left_out = [each for each in kept if each["event"] == "dropped"]
    assert 1 <= len(shown) < 400
    assert len(shown) + sum(each["lines"] for each in left_out) >= 400
    assert sum(each.lines for each in dropped) == sum(each["lines"] for each in left_out)
    assert all(each["container"] == "" for each in left_out)


def test_a_flood_takes_nothing_of_others_lines() -> None:
    kept = Kept()
    log = JsonLog(Writer(kept, "a list"))
    told: list[Any] = []
    log.tell = told.append
    loud = Container("loud", logging=Amount(rate=1))
    quiet = Container("quiet", logging=Amount(rate=1))
    verdict = proctor.answer(1)
    taken = [log._limits.take(loud, verdict, False) for _ in range(1000)]
    assert log._limits.take(quiet, verdict, False) == 0
    assert log._limits.wants(loud, verdict) is False
    log(ContainerEnded(loud, "ended"))
    (event,) = told
    assert (event.container, event.lines) == (loud, sum(each is None for each in taken))


def test_nobody_is_looked_at_for_what_is_not_logged() -> None:
    observers = Observers([JsonLog(Writer(Kept(), "a list"))], threading.Lock())
    refused, run = proctor.deny(errno.EPERM), proctor.let_run()
    part, whole = Container("part", logging=Amount("refused")), Container("whole")
    looks = [
        observers.looks(None, verdict, box) for box in (part, whole) for verdict in (refused, run)
    ]
    assert looks == [True, False, True, True]


def test_policies_say_it() -> None:
    settings = loads('audit = "refused"\naudit_rate = 5\nrate = 100\nin_flight = 7').settings
    assert settings.audit == Amount("refused", 5)
    quotas = settings.quotas()
    assert quotas is not None
    assert (quotas.rate, quotas.calls, quotas.workers) == (100, 7, 16)
    assert loads("").settings.quotas() is None

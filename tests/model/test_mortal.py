"""Monitors that are killed, at any moment, and those that take over from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from errno import ENOSYS
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from proctor.kernel import progress
from proctor.kernel.abi import SECCOMP_NOTIF
from proctor.kernel.journal import FREE, Journal
from proctor.kernel.notification import Notification
from proctor.kernel.progress import DONE, NOTHING
from proctor.model.kernel.transitions import REPLIED, SENT
from proctor.model.sim import handlers, keeper, simulate
from proctor.model.sim.accounts import Asked, Received
from proctor.model.sim.episode import Episode
from proctor.model.sim.settings import draw_settings
from proctor.supervisor import deciding, leaving, listeners, pyengine
from proctor.supervisor.deciding import Decider, Left
from proctor.supervisor.listeners import Listeners
from proctor.supervisor.pyengine import PyEngine

Patch = pytest.MonkeyPatch
#: Slots of a journal that has room for what a container has in flight, and for little more.
FEW = 16


@pytest.mark.timeout(300)
def test_every_call_is_answered_once_whoever_is_there() -> None:
    counts: Counter[str] = Counter()
    for seed in (5, 8):  # how many monitors end in one alone is chance
        report = simulate.simulate(seed, 400, kind="mortal")
        assert report.failed is None, report.failed.violation
        counts.update(report.counts)
    assert counts["take over"] > 5
    assert counts["end of a monitor"] > 2


@pytest.mark.timeout(300)
def test_few_slots_are_enough(monkeypatch: Patch) -> None:
    monkeypatch.setattr(keeper, "_SLOTS", FEW)
    report = simulate.simulate(1, 400, kind="mortal")
    assert report.failed is None, report.failed.violation


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_any_line(seed: int) -> None:
    """One death in each episode, a few lines later each time, until one ends before that."""
    step, at, deaths = 101, 1 + seed, 0
    while True:
        episode = Episode(seed, 0, "mortal", kill_at=at)
        episode.run()
        assert episode.violation is None, f"killed after {at} lines: {episode.violation}"
        if not episode.ledger.counts["death"]:
            break
        deaths += 1
        at += step
    assert deaths > 20


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_what_is_left_and_whose_caller_is_gone_is_before_none_of_its_calls(
    left: bool, gone: bool
) -> None:
    """A monitor that leaves goes on with the caller's next call, which came after a signal."""
    episode = Episode(1, 0, "mortal")
    ledger, container = episode.ledger, episode.town.start()
    episode._keeper.keep(container)  # type: ignore[union-attr]
    port = container.port
    states = [SimpleNamespace(state=SENT) for _ in range(2)]
    for id, knotif in enumerate(states):
        asked = Asked(id, "c1.1", container, "mkdir", None, frozenset(), 0.0)
        received = Received(id, (port.number, 9, 0.0), asked, port, knotif, 0.0)  # type: ignore[arg-type]
        ledger.receive(received, "supervisor")
    ledger.handler(port, 0, "plain", "supervisor")
    if left:
        container.journal.left(Notification(0, 9, 83, 0xC000003E))  # type: ignore[union-attr]
    if gone:
        states[0].state = REPLIED
    ledger.handler(port, 1, "plain", "supervisor")
    assert (ledger.violation is None) is (left and gone), ledger.violation


# Faults: each with a word of what the simulation says --------------------------------------------------


def leave(listener: Any) -> None:
    """Here the thread is left for a while."""
    listener._world.schedule.pause(0.05)


def frees_a_slot_before_the_answer(patch: Patch) -> None:
    def reply(served: Any, notification: Any, wire: Any) -> None:
        if served.journal is not None:
            served.journal.clear(notification)
        leave(served.listener)
        if not isinstance(wire, bool):
            served.listener.send(notification.id, *wire)

    patch.setattr(pyengine, "reply", reply)


def writes_down_what_it_has_received_afterwards(patch: Patch) -> None:
    def _recv(self: Any, served: Any) -> Any:
        notification = served.listener.recv()
        if notification is None:
            return None
        leave(served.listener)
        slot, place = served.journal.place()
        id, pid, nr, arch, args, ip, flags, _ = notification
        place[:] = SECCOMP_NOTIF.pack(id, pid, flags, nr, arch, ip, *args)
        served.journal.received(slot, self._clock())
        return notification._replace(slot=slot)

    patch.setattr(PyEngine, "_recv", _recv)


def forgets_what_was_just_being_received(patch: Patch) -> None:
    real = Journal.pending
    patch.setattr(
        Journal, "received", lambda self, slot, when: None
    )  # it comes no further than this
    patch.setattr(
        Journal, "pending", lambda self: (each for each in real(self) if each.received is not None)
    )


def takes_everything_for_unanswered(patch: Patch) -> None:
    patch.setattr(Journal, "adopt", lambda self, valid: list(self.pending()))


def takes_nothing_over(patch: Patch) -> None:
    patch.setattr(Listeners, "_take_over", lambda self, served, journal, handlers: None)


def performs_again(patch: Patch) -> None:
    patch.setattr(Journal, "performs", lambda self, notification: None)


def frees_no_slot(patch: Patch) -> None:
    """A journal of few slots is full soon, and what finds no room there is lost."""
    patch.setattr(keeper, "_SLOTS", FEW)
    patch.setattr(Journal, "clear", lambda self, notification: None)


def frees_what_it_takes_over(patch: Patch) -> None:
    """It may die, too, before it has answered."""
    real = Journal.adopt

    def adopt(self: Any, valid: Any) -> Any:
        left = real(self, valid)
        for each in left:
            self.mark(each.slot, FREE)
        return left

    patch.setattr(Journal, "adopt", adopt)


# Of those that leave all to the next one


def leaves_in_the_midst(patch: Patch) -> None:
    patch.setattr(leaving, "_performed", lambda decider: [])


def begins_though_it_leaves(patch: Patch) -> None:
    def _begin(self: Any, notification: Any, journal: Any) -> None:
        if journal is not None:
            journal.performs(notification)

    patch.setattr(Decider, "_begin", _begin)


def looks_before_it_says_that_it_begins(patch: Patch) -> None:
    """Whoever leaves looks in between."""

    def _begin(self: Any, notification: Any, journal: Any) -> None:
        if self.leaving:
            raise Left
        leave(self)
        if journal is not None:
            journal.performs(notification)

    patch.setattr(Decider, "_begin", _begin)


def does_not_say_that_nothing_was_done(patch: Patch) -> None:
    patch.setattr(Journal, "left", lambda self, notification: None)


def tells_callers_that_nothing_was_done(patch: Patch) -> None:
    patch.setattr(deciding, "_is_left", lambda said: isinstance(said, Left))


def receives_though_it_leaves(patch: Patch) -> None:
    """And nobody decides it."""
    patch.setattr(leaving, "_left", lambda notification: (0, -ENOSYS, 0))


# Of those that have performed by executors which outlive monitors


def says_not_whom_it_asks(patch: Patch) -> None:
    patch.setattr(progress, "asks", lambda buffer, at, id, *requests: None)


def believes_no_executor(patch: Patch) -> None:
    patch.setattr(keeper.Executors, "found", lambda self, place, serial: (NOTHING, 0))


def does_not_say_that_it_is_done(patch: Patch) -> None:
    real = progress.came
    patch.setattr(progress, "came", lambda buffer, at, id, result: real(buffer, at, id, None))


def says_that_it_is_done_when_it_is_asked(patch: Patch) -> None:
    real = progress.asks

    def asks(buffer: Any, at: int, id: int, *requests: Any) -> None:
        real(buffer, at, id, *requests)
        progress.came(buffer, at, id, 0)

    patch.setattr(progress, "asks", asks)


def has_performed_what_is_done(patch: Patch) -> None:
    patch.setattr(listeners, "DONE", NOTHING)
    patch.setattr(listeners, "NOTHING", DONE)


def forgets_what_it_gave(patch: Patch) -> None:
    real = listeners._telling
    patch.setattr(listeners, "_telling", lambda call, number: real(call, 0))


#: A call that nobody answers: it waits for good, or its listener is closed under it, whichever is seen first.
LOST = ("calls that wait", "was received and its listener closed")
FAULTS: tuple[tuple[Callable[[Patch], None], tuple[str, ...]], ...] = (
    (frees_a_slot_before_the_answer, LOST),
    (writes_down_what_it_has_received_afterwards, LOST),
    # no time is written down either, so that its deadline may be reckoned from another one
    (forgets_what_was_just_being_received, (*LOST, "before its deadline")),
    (takes_everything_for_unanswered, ("answered or never received",)),
    (takes_nothing_over, LOST),
    (performs_again, ("performed twice",)),
    (frees_no_slot, LOST),
    (frees_what_it_takes_over, LOST),
)
#: On machines on which most calls are performed.
OF_LEAVING: tuple[tuple[Callable[[Patch], None], tuple[str, ...]], ...] = (
    (leaves_in_the_midst, ("is performed, and its monitor leaves",)),
    # which may wait for what it began until nobody answers any more
    (begins_though_it_leaves, ("is performed, and its monitor leaves", "deadline passed unheeded")),
    (looks_before_it_says_that_it_begins, ("is performed, and its monitor leaves",)),
    (does_not_say_that_nothing_was_done, ("was answered with",)),
    # or, where its caller goes on to wait, for longer than it may
    (tells_callers_that_nothing_was_done, ("was answered with", "its deadline passed unheeded")),
    (receives_though_it_leaves, ("was answered with",)),
)
PERFORMED = ("perform", "perform", "perform", "deny")
#: On machines on which most are so by executors that say what they did.
OF_EXECUTORS: tuple[tuple[Callable[[Patch], None], tuple[str, ...]], ...] = (
    (says_not_whom_it_asks, ("performed twice",)),
    (believes_no_executor, ("performed twice",)),
    (does_not_say_that_it_is_done, ("performed twice",)),
    (says_that_it_is_done_when_it_is_asked, ("as done, and was not", "was answered with")),
    # and what was not begun gets an EINTR that nothing explains
    (forgets_what_it_gave, ("was answered with",)),
    (has_performed_what_is_done, ("performed twice", "as done, and was not", "was answered with")),
)
NOTED = ("note", "note", "note", "deny")


@pytest.mark.timeout(300)
def test_what_executors_did_is_known_to_the_next_monitor(monkeypatch: Patch) -> None:
    monkeypatch.setattr(handlers, "_TABLE", NOTED)
    monkeypatch.setattr(handlers, "_PAUSES", 1.0)
    report = simulate.simulate(3, 400, kind="mortal")
    assert report.failed is None, report.failed.violation
    assert report.counts["take over"] > 5


@pytest.mark.timeout(300)
def test_nothing_that_is_performed_is_left_in_the_midst(monkeypatch: Patch) -> None:
    monkeypatch.setattr(handlers, "_TABLE", PERFORMED)
    monkeypatch.setattr(leaving, "_GRACE", 0.0)
    report = simulate.simulate(3, 400, kind="mortal")
    assert report.failed is None, report.failed.violation
    assert report.counts["end of a monitor"] > 2


#: Seeds of machines on which few calls are made: what is lost shows at the end, and theirs comes soon.
SMALL = [
    seed
    for seed in range(1, 200)
    if (drawn := draw_settings(Random(f"{seed}/0"), "mortal")).calls == 100 and not drawn.bytecodes
]


def machines() -> Iterator[simulate.Report]:
    for seed in SMALL:
        yield simulate.simulate(seed, 1, kind="mortal", only=0)
    for seed in range(1, 60):
        yield simulate.simulate(seed, 400, kind="mortal")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("fault", "said", "kinds"),
    [(*each, handlers._TABLE) for each in FAULTS]
    + [(*each, PERFORMED) for each in OF_LEAVING]
    + [(*each, NOTED) for each in OF_EXECUTORS],
    ids=lambda it: getattr(it, "__name__", ""),
)
def test_a_fault_is_found(
    fault: Callable[[Patch], None], said: tuple[str, ...], kinds: tuple[str, ...]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        patch.setattr(handlers, "_TABLE", kinds)
        if kinds in (PERFORMED, NOTED):
            patch.setattr(handlers, "_PAUSES", 1.0)
        patch.setattr(leaving, "_GRACE", 0.0)  # so that something is interrupted
        failed = next((report.failed for report in machines() if report.failed), None)
    assert failed is not None, "no invariant noticed it"
    assert any(each in failed.violation for each in said), failed.violation

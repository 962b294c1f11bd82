"""Executors that are used once: the next one is begun before somebody wants it; and waiting for the end of one."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from proctor.errors import CallGone
from proctor.kernel.stalls import PATIENCE
from proctor.performing.executing.beginning import PLAINLY, Beginning, Once
from proctor.performing.executing.executors import Executors
from proctor.performing.executing.processes import Executor
from proctor.performing.executing.requests import NO_PROCESS, Reply
from proctor.performing.executing.spares import Spare
from proctor.performing.executing.steps import Steps
from proctor.performing.executing.workers import Dying, Pace, Wait
from proctor.performing.session import Session
from proctor.performing.trouble import Ended, Trouble
from tests.support.processes import eventually


@pytest.fixture
def executors() -> Iterator[Executors]:
    made = Executors(idle=60)
    yield made
    made.close()


def ended(work: Generator[Wait, Reply, Any]) -> Any:
    """Drive it to its end."""
    reply: Any = None
    failed: Trouble | Ended | None = None
    while True:
        try:
            asked = work.send(reply) if failed is None else work.throw(failed)
        except StopIteration as end:
            return end.value
        reply = failed = None
        while reply is None and failed is None:
            try:
                reply = asked.worker.reply(asked.request, wait=True)
            except (Trouble, Ended) as said:
                failed = said


def one(executors: Executors, container: object = "container", limit: int = 4) -> Executor:
    made: Executor = ended(executors.acquire(Once(), container, limit, lambda *_: None))
    return made


def ask_its_number(executor: Executor) -> int:
    steps = Steps()
    me = steps.call("getpid")
    request = steps.freeze()
    reply = executor.ask(request, request.fill())
    while reply is None:
        reply = executor.reply(request, wait=True)
    return reply.results[me.step]


def spare(executors: Executors) -> Executor:
    eventually("one is begun", lambda: executors._spare.waiting is not None)
    assert executors._spare.waiting is not None
    made = executors._spare.waiting[0]
    if made.pidfd < 0:  # the machine has much to do
        assert made.begins is not None
        reply = made.reply(made.begins.request, wait=True)
        while reply is None:
            reply = made.reply(made.begins.request, wait=True)
        made.begins.begun(made, reply)
    return made


def test_the_next_one_is_there_before_it_is_wanted(executors: Executors) -> None:
    first = one(executors)
    assert executors._spare.waiting is None, "nobody needs one until one was used"
    executors.discard(first)
    waiting = spare(executors)
    assert waiting.pid not in (0, first.pid)
    assert not executors._taken.get("other"), "it is nobody's"
    second = one(executors, "other")
    assert second is waiting and ask_its_number(second) == waiting.pid
    assert executors._spare.waiting is None and executors._taken["other"] == 1
    executors.discard(second)
    third = spare(executors)
    assert third is not second and third.pid != second.pid, "what was used is used no more"
    assert second.key is not third.key


def test_others_do_not_get_it(executors: Executors) -> None:
    executors.discard(one(executors))
    waiting = spare(executors)
    other = ended(executors.acquire("key", "container", 4, lambda *_: None))
    assert other is not waiting and executors._spare.waiting is not None
    executors.release(other)


def test_it_counts_for_who_has_it(executors: Executors) -> None:
    first = one(executors, limit=1)
    executors.discard(first)
    spare(executors)
    assert first.wait_for_end(10)
    second = one(executors, limit=1)
    with pytest.raises(Trouble):
        one(executors, limit=1)
    executors.discard(second)


def test_one_that_was_killed_is_seen_by_the_first_question(executors: Executors) -> None:
    executors.discard(one(executors))
    waiting = spare(executors)
    os.kill(waiting.pid, signal.SIGKILL)
    assert waiting.wait_for_end(10)
    got = one(executors)
    with pytest.raises(Ended):
        ask_its_number(got)
    executors.discard(got)
    assert ask_its_number(one(executors))


def test_it_ends_where_nobody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], Spare.prepare
    executors = Executors(idle=0.05)

    def prepared(self: Spare) -> None:
        real(self)
        made.append(os.pidfd_open(spare(executors).pid))

    monkeypatch.setattr(Spare, "prepare", prepared)
    try:
        executors.discard(one(executors))
        eventually("it is nobody's business any more", lambda: made and executors._reaper is None)
        assert executors._spare.waiting is None
        number = made.pop()
        eventually("it is dead", lambda: _dead(number))
        os.close(number)
    finally:
        executors.close()


def test_one_that_is_wanted_while_others_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[Spare] = []

    def prepare(spare: Spare) -> None:
        prepared.append(spare)

    monkeypatch.setattr(Spare, "prepare", prepare)
    executors = Executors(idle=0.05)
    wait, wanted = executors._over.wait, []

    def wait_and_want(seconds: float) -> bool:
        if not wanted:  # somebody's time is over just now
            wanted.append(seconds)
            with executors._lock:
                executors._spare.want(PLAINLY)
        return wait(seconds)

    monkeypatch.setattr(executors._over, "wait", wait_and_want)
    try:
        executors.release(ended(executors.acquire("key", "container", 4, lambda *_: None)))
        eventually("the next one is begun", lambda: prepared)
        assert wanted == [0]
    finally:
        executors.close()


def _dead(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    return False


def test_one_that_takes_its_time_to_begin(
    executors: Executors, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            Executor, "ask", lambda self, _, packet, fds: self.sock.send(packet) and None
        )
        executors._spare.prepare()
    assert executors._spare.waiting is not None
    waiting = executors._spare.waiting[0]
    assert waiting.pidfd < 0, "nobody has heard of it yet"
    got = one(executors)
    assert got is waiting and ask_its_number(got) == got.pid
    executors.discard(got)


def test_the_end_is_its_end_too() -> None:
    executors = Executors(idle=60)
    executors.discard(one(executors))
    number = os.pidfd_open(spare(executors).pid)
    executors.close()
    assert executors._spare.waiting is None
    eventually("it is dead", lambda: _dead(number))
    os.close(number)
    executors._spare.prepare()
    assert executors._spare.waiting is None, "none is begun behind the end"


def test_one_that_cannot_be_begun_is_nobodys_trouble(
    executors: Executors, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = one(executors)

    def refused(*_: object) -> None:
        raise Trouble("no more processes")

    with monkeypatch.context() as patched:
        patched.setattr(Pace, "TICK", 900_000)  # it is heard on a busy machine, too
        patched.setattr(Beginning, "begun", refused)
        executors._spare.prepare()
        assert executors._spare.waiting is None
        patched.setattr(executors.mother, "bear", refused)
        executors._spare.prepare()
        assert executors._spare.waiting is None
    executors.discard(first)
    assert ask_its_number(one(executors))


def test_one_that_was_not_born_is_nobodys_trouble_either(
    executors: Executors, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with monkeypatch.context() as patched:
        patched.setattr(executors.mother, "bear", lambda: ours)
        patched.setattr(
            Executor, "ask", lambda self, _, packet, fds: self.sock.send(packet) and None
        )
        executors._spare.prepare()
    assert executors._spare.waiting is not None
    theirs.send(struct.pack("=HHi", NO_PROCESS, 0, errno.EAGAIN))
    got = one(executors)
    assert got.sock is not ours and ask_its_number(got) == got.pid
    executors.discard(got)
    theirs.close()


def test_paces_are_not_shared(executors: Executors) -> None:
    """What is used once takes long: the container's other executors are waited for as ever."""
    once = one(executors)
    other = ended(executors.acquire("key", "container", 4, lambda *_: None))
    assert once.pace is not other.pace
    once.came(False)
    executors.discard(once)
    later = one(executors)
    assert later.pace is once.pace
    executors.discard(later)
    executors.release(other)
    executors.forget("container")
    assert not executors._paces


def test_who_is_used_once_is_waited_for_as_long_each_time() -> None:
    """It never answers within a few microseconds: one mount that took long would have all later ones wait shortly, and in vain."""
    once, others = Pace(once=True), Pace()
    before = once.patience
    assert Pace.TICK < before < PATIENCE * 1e6, "who is waited for alone costs nobody the role"
    assert others.patience == Pace.TICK
    for pace in (once, others):
        pace.came(False)
    assert once.patience == before and others.patience < Pace.TICK
    for _ in range(1000):
        others.came(False)
        assert others.patience < Pace.TICK, (
            "others that never come in time are never waited for so long"
        )
    for _ in range(1000):
        others.came(True)
    assert others.patience == Pace.TICK


def test_who_waits_for_an_end_hears_nothing_else(executors: Executors) -> None:
    executor = one(executors)
    waits = Dying(executor, 3600)
    assert waits.reply(None, wait=True) is None and waits.fileno() == executor.pidfd
    assert Dying(executor, 0).reply(None, wait=False) is not None, "it has had its time"
    executor.signal()
    assert executor.wait_for_end(10)
    assert waits.reply(None, wait=False) is not None
    assert not waits.interruptible and not waits.hindered()
    executors.discard(executor)


def test_who_is_free_again_is_kept_unless_it_was_the_last_time(executors: Executors) -> None:
    def idle(key: str) -> Executor:
        made: Executor = ended(executors.acquire(key, "container", 4, lambda *_: None))
        return made

    both = idle("caller"), idle("lender")
    for each in both:
        executors.keep(each)
    assert set(executors._idle) == set(both) and not executors._taken
    assert executors.borrow("caller", "container", 1) is both[0]
    assert executors.borrow("lender", "container", 1) is None, "there is room for one"
    assert executors.borrow("lender", "container", 2) is both[1]
    assert not executors._idle and executors._taken == {"container": 2}
    both[0].last = True
    for each in both:
        executors.set_free(each)
    assert list(executors._idle) == [both[1]] and not executors._taken
    assert both[0].sock.fileno() < 0, "what ends with its work is kept by nobody"


class Gone:
    """A call whose caller is gone."""

    name = "mkdir"
    _notes = None

    def valid(self) -> bool:
        return False


def test_who_owes_an_answer_works_for_nobody_else(executors: Executors) -> None:
    """Whoever came next would take the answer to the last call for theirs."""
    first: Executor = ended(executors.acquire("who", "container", 4, lambda *_: None))
    reader, writer = os.pipe()
    steps = Steps()
    steps.call("read", steps.sent(), steps.scratch(8), 1)
    request = steps.freeze()
    assert first.ask(request, request.fill(), (reader,)) is None
    gone: Any = Gone()
    session = Session(executors, "who", "container", lambda *_: None, gone, 4)
    session.asked(first, request, None)
    with pytest.raises(CallGone):
        next(session.ask(request))
    session.close()
    assert executors.borrow("who", "container", 4) is None
    eventually("it is dead", first.ended)
    os.close(reader)
    os.close(writer)

"""What a listener says of an answer that comes too early or twice: the kernel has one errno for both."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

import pytest

import proctor
from proctor.errors import AlreadyAnswered, NotReceived
from proctor.kernel import abi
from proctor.kernel.killable import waits_killably
from proctor.kernel.listener import Listener
from proctor.kernel.seccomp import flag_problem
from tests.support import bpf
from tests.support.lab import Lab
from tests.support.waiting import IN, wait_events

from .conftest import listener_knows

GETPPID = bpf.notify("getppid")
Attempt = Callable[[Listener, int], None]


def send(listener: Listener, id: int) -> None:
    listener.send(id, 0, 0, 0)


def addfd(listener: Listener, id: int) -> None:
    listener.addfd(id, 0)


def addfd_send(listener: Listener, id: int) -> None:
    if not listener_knows("ADDFD with SEND"):
        pytest.skip("Linux 5.14 has it")
    listener.addfd(id, 0, send=True)


ATTEMPTS = pytest.mark.parametrize("attempt", [send, addfd, addfd_send])


@pytest.fixture
def held_back() -> Iterator[Callable[[int], None]]:
    """Keep a thread off the processor while ours runs: what we answer it goes on with later."""
    mine = os.sched_getaffinity(0)
    one = {min(mine)}

    def hold(tid: int) -> None:
        os.sched_setaffinity(tid, one)
        os.sched_setaffinity(0, one)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError:
            pytest.skip("real-time priority takes CAP_SYS_NICE")

    try:
        yield hold
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, mine)


@ATTEMPTS
def test_a_call_that_is_queued_was_not_received(lab: Lab, attempt: Attempt) -> None:
    victim, fd = lab.listener(GETPPID)
    other = victim.thread()
    with Listener(os.dup(fd)) as listener:
        one = victim.begin("getppid")
        first = listener.recv()
        assert first is not None
        two = other.begin("getppid")
        wait_events(fd, IN)
        with pytest.raises(NotReceived) as caught:
            attempt(listener, first.id + 1)
        assert caught.value.notif_id == first.id + 1
        # It is there as before.
        second = listener.recv()
        assert second is not None
        assert second.id == first.id + 1
        assert listener.send(second.id, 2, 0, 0)
        assert listener.send(first.id, 1, 0, 0)
        assert (one.result(), two.result()) == ((1, 0), (2, 0))


@ATTEMPTS
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_call_that_was_answered_and_is_not_gone_yet(
    lab: Lab,
    held_back: Callable[[int], None],
    attempt: Attempt,
    queued: bool,
    elsewhere: bool,
) -> None:
    """Whether others are queued meanwhile or not, and also if it was received through another copy."""
    victim, fd = lab.listener(GETPPID)
    other = victim.thread()
    with Listener(os.dup(fd)) as listener, Listener(os.dup(fd)) as copy:
        pending = victim.begin("getppid")
        received = (copy if elsewhere else listener).recv()
        assert received is not None
        if queued:
            another = other.begin("getppid")
            wait_events(fd, IN)
        held_back(received.pid)
        assert listener.send(received.id, 1, 0, 0)
        with pytest.raises(AlreadyAnswered) as caught:
            attempt(listener, received.id)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        assert caught.value.notif_id == received.id
        assert pending.result() == (1, 0)
        if queued:
            last = listener.recv()
            assert last is not None
            assert listener.send(last.id, 3, 0, 0)
            assert another.result() == (3, 0)


def test_a_later_id_that_was_received_elsewhere(lab: Lab, held_back: Callable[[int], None]) -> None:
    """Nothing is queued: so it is not that."""
    victim, fd = lab.listener(GETPPID)
    other = victim.thread()
    with Listener(os.dup(fd)) as listener, Listener(os.dup(fd)) as copy:
        one = victim.begin("getppid")
        first = listener.recv()
        two = other.begin("getppid")
        second = copy.recv()
        assert first is not None
        assert second is not None
        assert second.id == first.id + 1
        held_back(second.pid)
        assert copy.send(second.id, 2, 0, 0)
        with pytest.raises(AlreadyAnswered):
            listener.send(second.id, 0, 0, 0)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        assert listener.send(first.id, 1, 0, 0)
        assert (one.result(), two.result()) == ((1, 0), (2, 0))


def test_a_copy_is_taken_out_of_whoever_has_it() -> None:
    """With pidfd_getfd(2); both are the same listener, and each is closed by itself."""
    rule = proctor.Rule(("mkdir", "mkdirat"), proctor.actions.NOTIFY)
    program = proctor.Filter([rule]).compile().code
    with proctor.launch(["mkdir", "x"], program=program) as target:
        fd, pidfd = target.take_listener(), os.pidfd_open(os.getpid())
        try:
            with Listener.from_pidfd(pidfd, fd) as copy:
                os.close(fd)
                call = copy.recv()
                assert call is not None
                copy.send(call.id, 0, -errno.EROFS, 0)
                assert target.wait(30) == 1
        finally:
            os.close(pidfd)


@pytest.mark.parametrize("wanted", [True, False])
def test_how_its_callers_wait_is_seen(lab: Lab, wanted: bool) -> None:
    """No call tells whether a filter has WAIT_KILLABLE_RECV."""
    if wanted and flag_problem("WAIT_KILLABLE_RECV"):
        pytest.skip("Linux 5.19 has it")
    victim, fd = lab.listener(GETPPID, abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV if wanted else 0)
    fds = os.listdir(f"/proc/{victim.pid}/fd")
    with Listener(os.dup(fd)) as listener:
        for _ in range(100):
            pending = victim.begin("getppid")
            one = listener.recv()
            assert one is not None
            assert waits_killably(fd, one.id, one.pid) is wanted
            assert waits_killably(fd, one.id, 0) is None  # nobody that we see
            listener.send(one.id, 7, 0, 0)
            assert waits_killably(fd, one.id, one.pid) is None  # it is gone
            assert pending.result() == (7, 0)
    assert os.listdir(f"/proc/{victim.pid}/fd") == fds


def test_what_is_given_is_closed_on_every_path(lab: Lab) -> None:
    victim, fd = lab.listener(GETPPID)
    with Listener(os.dup(fd)) as listener:
        pending = victim.begin("getppid")
        one = listener.recv()
        assert one is not None
        given = os.open("/dev/null", os.O_RDONLY)
        closed = os.dup(given)
        os.close(closed)
        assert listener.give(one.id, closed, one.pid) is None  # EBADF: nothing has happened
        assert listener.give(one.id, given, one.pid, at=50, cloexec=True) is True
        assert pending.result() == (50, 0)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(given)
        given = os.open("/dev/null", os.O_RDONLY)
        assert listener.give(one.id, given, one.pid) is None
        os.close(given)  # it is the giver's still

"""C050-C060: answering."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct

import pytest

from tests.support import bpf
from tests.support.harness import Result
from tests.support.kernel import (
    CONTINUE,
    ID_VALID,
    ID_VALID_WRONG_DIR,
    SET_FLAGS,
    Kernel,
    errno_of,
    ioctl_address,
)
from tests.support.lab import Lab
from tests.support.processes import descriptors
from tests.support.waiting import IN, OUT, events, wait_events

GETPPID = bpf.notify("getppid")


def test_c050_send_before_recv(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    first = kernel.recv(listener).id
    kernel.send(listener, first, 1)
    assert pending.result() == (1, 0)
    pending = victim.begin("getppid")
    wait_events(listener, IN)
    assert errno_of(kernel.send, listener, first + 1, 2) == errno.EINPROGRESS
    assert errno_of(kernel.send, listener, first + 2, 2) == errno.ENOENT
    assert errno_of(kernel.send, listener, first, 2) == errno.ENOENT
    # It was not answered by that.
    notification = kernel.recv(listener)
    assert notification.id == first + 1
    kernel.send(listener, notification.id, 3)
    assert pending.result() == (3, 0)


def test_c051_second_send(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    notification = kernel.recv(listener)
    kernel.send(listener, notification.id, 1)
    # EINPROGRESS until the target ran and took its notification away.
    at_once = errno_of(kernel.send, listener, notification.id, 2)
    assert at_once in (errno.EINPROGRESS, errno.ENOENT)
    assert pending.result() == (1, 0)
    assert errno_of(kernel.send, listener, notification.id, 2) == errno.ENOENT


def answered(lab: Lab, kernel: Kernel, value: int, error: int) -> Result:
    """What the target makes of an answer."""
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    kernel.send(listener, kernel.recv(listener).id, value, error)
    return pending.result()


@pytest.mark.parametrize("value", [0, 7, 2**40, 2**63 - 1, -(2**63)])
def test_c052_values(lab: Lab, kernel: Kernel, value: int) -> None:
    assert answered(lab, kernel, value, 0) == (value, 0)


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (-1, Result(-1, errno.EPERM)),
        (-13, Result(-1, errno.EACCES)),
        (-4095, Result(-1, 4095)),
        (-4096, Result(-4096, 0)),
    ],
)
def test_c053_negative_values(lab: Lab, kernel: Kernel, value: int, result: Result) -> None:
    assert answered(lab, kernel, value, 0) == result


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (-2, Result(-1, errno.ENOENT)),
        (-4095, Result(-1, 4095)),
        (-4096, Result(-4096, 0)),
        (-5000, Result(-5000, 0)),
    ],
)
def test_c054_errors(lab: Lab, kernel: Kernel, error: int, result: Result) -> None:
    assert answered(lab, kernel, 0, error) == result


def test_c055_a_positive_error_is_a_value(lab: Lab, kernel: Kernel) -> None:
    assert answered(lab, kernel, 0, 5) == (5, 0)


@pytest.mark.parametrize(
    ("value", "error", "result"),
    [
        (7, -13, Result(-1, errno.EACCES)),
        (7, 5, Result(5, 0)),
        # ERESTARTSYS, ERESTARTNOHAND, ERESTART_RESTARTBLOCK: only signal delivery hides them.
        (0, -512, Result(-1, 512)),
        (0, -514, Result(-1, 514)),
        (0, -516, Result(-1, 516)),
    ],
)
def test_c056_error_beats_value_and_restart_codes_leak(
    lab: Lab, kernel: Kernel, value: int, error: int, result: Result
) -> None:
    assert answered(lab, kernel, value, error) == result


def test_c057_refused_answers_leave_the_call_unanswered(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    for value, error, flags in [
        (0, 0, 2),
        (0, 0, 4),
        (0, 0, 1 << 31),
        (0, 0, CONTINUE | 2),
        (1, 0, CONTINUE),
        (0, -1, CONTINUE),
        (1, -1, CONTINUE),
    ]:
        assert errno_of(kernel.send, listener, ident, value, error, flags) == errno.EINVAL
        # EINVAL comes before the id is looked for.
        assert errno_of(kernel.send, listener, ident + 9, value, error, flags) == errno.EINVAL
        assert kernel.id_valid(listener, ident)
        assert events(listener) == OUT
    kernel.send(listener, ident, 4)
    assert pending.result() == (4, 0)


def test_c058_continue_runs_the_call(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(bpf.notify("dup"))
    pending = victim.begin("dup", 199)
    kernel.send(listener, kernel.recv(listener).id, flags=CONTINUE)
    fd, number = pending.result()
    assert number == 0
    found = descriptors(victim.pid)
    assert found[fd] == found[199]
    assert found[fd].startswith("pipe:")


@pytest.mark.parametrize("request_number", [ID_VALID, ID_VALID_WRONG_DIR], ids=hex)
def test_c059_id_valid(lab: Lab, kernel: Kernel, request_number: int) -> None:
    victim, listener = lab.listener(GETPPID)

    def valid(ident: int) -> bool:
        if kernel.name != "raw":  # the core knows by itself which number to use
            return kernel.id_valid(listener, ident)
        failure = errno_of(fcntl.ioctl, listener, request_number, struct.pack("=Q", ident))
        assert failure in (0, errno.ENOENT)
        return failure == 0

    victim.on_signal(signal.SIGUSR1, "count")
    pending = victim.begin("getppid")
    first = kernel.recv(listener).id
    assert valid(first)
    kernel.send(listener, first)
    assert pending.result() == (0, 0)
    assert not valid(first)

    pending = victim.begin("getppid")
    wait_events(listener, IN)
    assert not valid(first + 1), "waiting, not yet received"
    assert kernel.recv(listener).id == first + 1
    assert valid(first + 1)
    victim.signal(signal.SIGUSR1)
    assert pending.result() == (-1, errno.EINTR)
    assert not valid(first + 1), "its caller was interrupted"

    child = victim.fork()
    child.begin("getppid")
    ident = kernel.recv(listener).id
    assert valid(ident)
    os.kill(child.pid, signal.SIGKILL)
    victim.reap(child)
    assert not valid(ident), "its caller is dead"


def test_c060_set_flags_goes_by_value(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    if errno_of(ioctl_address, listener, SET_FLAGS, 1) == errno.EINVAL:
        pytest.skip("this kernel does not know SET_FLAGS (Linux 6.6)")
    for word in (1, 0, 1):
        kernel.set_flags(listener, word)
    for word in (2, 3, 0xFFFFFFFF):
        assert errno_of(kernel.set_flags, listener, word) == errno.EINVAL
    pointer = bytearray(struct.pack("=Q", 1))
    assert errno_of(fcntl.ioctl, listener, SET_FLAGS, pointer) == errno.EINVAL
    # Synchronous wake-up changes nothing but speed.
    pending = victim.begin("getppid")
    kernel.send(listener, kernel.recv(listener).id, 6)
    assert pending.result() == (6, 0)

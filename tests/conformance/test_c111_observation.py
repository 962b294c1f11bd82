"""C111-C113: what can be observed beside notifications."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import bpf, tracing
from tests.support.constants import NR
from tests.support.kernel import CONTINUE, NEW_LISTENER, WAIT_KILLABLE, Kernel, Raw, errno_of
from tests.support.lab import Lab
from tests.support.waiting import events

STOPS = [tracing.attach, tracing.seize_and_interrupt]


def test_c111_the_vdso_is_never_notified(lab: Lab, kernel: Kernel) -> None:
    source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    clock = source.read_text().strip() if source.exists() else "unknown"
    if clock != "tsc":
        pytest.skip(f"the clock source is {clock}: its clock_gettime may enter the kernel")
    victim, listener = lab.listener(bpf.notify("clock_gettime"))
    assert victim.command("clock").result() == (0, 0)
    assert events(listener) == 0
    # The system call itself is notified.
    pending = victim.begin("clock_gettime", 1, victim.room(16))
    notification = kernel.recv(listener)
    assert notification.nr == NR["clock_gettime"]
    kernel.send(listener, notification.id)
    assert pending.result() == (0, 0)


@pytest.mark.parametrize("stop", STOPS, ids=["attach", "seize"])
def test_c112_the_value_of_a_continued_call(
    lab: Lab, kernel: Kernel, stop: Callable[[int], None]
) -> None:
    if errno_of(Raw().seccomp, 1, NEW_LISTENER | WAIT_KILLABLE, None) == errno.EINVAL:
        pytest.skip("this kernel does not know WAIT_KILLABLE_RECV (Linux 5.19)")
    victim, listener = lab.listener(bpf.notify("getppid"), WAIT_KILLABLE)
    pending = victim.begin("getppid")
    notification = kernel.recv(listener)
    stop(victim.tid)
    victim.wait_state("D")
    assert not tracing.stopped(victim.tid)
    kernel.send(listener, notification.id, flags=CONTINUE)
    assert tracing.wait_stopped(victim.tid) == os.getpid()
    assert not pending.done()
    tracing.detach(victim.tid)
    assert pending.result() == (os.getpid(), 0)


@pytest.mark.parametrize("stop", STOPS, ids=["attach", "seize"])
def test_c113_without_wait_killable_the_stop_cancels(
    lab: Lab, kernel: Kernel, stop: Callable[[int], None]
) -> None:
    victim, listener = lab.listener(bpf.notify("getppid"))
    pending = victim.begin("getppid")
    notification = kernel.recv(listener)
    stop(victim.tid)
    # ERESTARTSYS; elsewhere than on x86 the first argument is back before a tracer is told (do_signal of arm64,
    # arch_do_signal_or_restart of riscv).
    restarting = -512 if platform.machine() == "x86_64" else 0
    assert tracing.wait_stopped(victim.tid) == restarting
    assert errno_of(kernel.send, listener, notification.id, 0, 0, CONTINUE) == errno.ENOENT
    tracing.detach(victim.tid)
    again = kernel.recv(listener)
    assert again.id == notification.id + 1
    kernel.send(listener, again.id, 4)
    assert pending.result() == (4, 0)

"""Poll bits of a listener."""

from __future__ import annotations

import select
import time

from .processes import PATIENCE, TookTooLong

IN = select.POLLIN | select.POLLRDNORM
OUT = select.POLLOUT | select.POLLWRNORM
HUP = select.POLLHUP


def events(fd: int) -> int:
    """The bits that poll(2) shows now, of all that a listener can have; 0 for none."""
    poller = select.poll()
    poller.register(fd, IN | OUT)
    ready = poller.poll(0)
    return ready[0][1] if ready else 0


def wait_events(fd: int, wanted: int, patience: float = PATIENCE) -> int:
    """Wait until poll shows one of these bits (HUP always counts); all bits it shows then."""
    poller = select.poll()
    poller.register(fd, wanted & ~HUP)
    give_up = time.monotonic() + patience
    while not poller.poll(50):
        if time.monotonic() > give_up:
            raise TookTooLong(f"poll bits {wanted:#x} never appear; now {events(fd):#x}")
    return events(fd)

"""Wait queues, and what a sleeping task waits for.

A task sleeps with a :class:`Wait` in ``task.wait``.  Somebody wakes it; later, when the scheduler
lets it run, :meth:`Wait.resume` looks whether what it waited for has come: waking and running are
two steps, and everything may happen in between, as on a machine.

Sources: ``kernel/sched/wait.c`` 6.12; ``fs/select.c`` 6.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.tasks import Task


class WaitQueue:
    """``wait_queue_head_t``: callbacks that are told poll bits when something happens.

    Sources: ``kernel/sched/wait.c``, ``fs/select.c`` (pollwake), ``fs/eventpoll.c`` (6.12).
    """

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: list[Callable[[int], None]] = []

    def wake(self, key: int) -> None:
        """``wake_up_poll``: call everybody who waits; each looks whether ``key`` concerns him."""
        if self.entries:
            for entry in self.entries.copy():
                entry(key)

    def add(self, entry: Callable[[int], None]) -> None:
        """Wait here."""
        self.entries.append(entry)

    def remove(self, entry: Callable[[int], None]) -> None:
        """Wait here no more; harmless if it did not."""
        if entry in self.entries:
            self.entries.remove(entry)


class Wait:
    """What a task sleeps on.  ``killable`` sleeps are ended by death only (state D)."""

    __slots__ = ("killable",)

    #: Whether news of children wakes it (wait4).
    for_children = False

    def __init__(self) -> None:
        self.killable = False

    def resume(self, kernel: Kernel, task: Task) -> None:
        """The woken task runs: finish the call, or sleep on."""
        raise NotImplementedError

    def abandon(self, kernel: Kernel, task: Task) -> None:
        """The task is torn out of the wait by its end; leave every queue."""

"""poll(2) and epoll(7) on listeners.

* What is there is level-triggered state, worked out when asked (``seccomp_notify_poll``).
* A sleeper is woken only by what the wait queue is told: IN for each new notification, OUT for
  each RECV, HUP when nobody uses the filter any more.  A cancelled notification, an answer and a
  close tell nobody (C085).
* An edge-triggered item reports once per telling whose bits it asked for (C092).

Sources: ``fs/select.c`` (``do_pollfd``, ``pollwake``), ``fs/eventpoll.c`` (``ep_insert``,
``ep_poll_callback``, ``ep_send_events``), Linux 6.12; ``kernel/seccomp.c`` 5.9 (99cdb8b9a573).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from proctor.model.kernel.files import File
from proctor.model.kernel.linux import (
    EBADF,
    EINTR,
    EINVAL,
    ENOENT,
    EPERM,
    EPOLLET,
    EPOLLONESHOT,
    ERESTART_RESTARTBLOCK,
    POLLERR,
    POLLHUP,
    POLLNVAL,
)
from proctor.model.kernel.waits import Wait, WaitQueue

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.tasks import Task

_ALWAYS = POLLERR | POLLHUP
EEXIST = 17


def revents(task: Task, fd: int, events: int) -> int:
    """What poll(2) says about ``fd`` now: bits asked for, ERR and HUP always, NVAL if not open."""
    file = task.files.get(fd)
    if file is None:
        return POLLNVAL
    bits = file.inside.poll() if file.inside is not None else 0
    return bits & (events | _ALWAYS)


class Poll(Wait):
    """A poll(2) that sleeps.

    ``found`` maps descriptors to bits once it is over.
    """

    __slots__ = ("entries", "found", "over", "until", "wanted")

    def __init__(self, wanted: list[tuple[int, int]]) -> None:
        super().__init__()
        self.wanted = wanted
        self.found: dict[int, int] = {}
        self.over = False
        #: When its time is over; None: never.
        self.until: float | None = None
        self.entries: list[tuple[File, WaitQueue, Callable[[int], None]]] = []

    def left(self, kernel: Kernel) -> float | None:
        """Seconds left; None for ever."""
        return None if self.until is None else max(0.0, self.until - kernel.now)

    def look(self, task: Task) -> int:
        """How many descriptors have something; which is in ``found``.

        Source: ``fs/select.c`` 6.12 ``do_poll``.
        """
        self.found = {}
        for fd, events in self.wanted:
            bits = revents(task, fd, events)
            if bits:
                self.found[fd] = bits
        return len(self.found)

    def enqueue(self, kernel: Kernel, task: Task) -> None:
        """Wait on every descriptor's queue, for the bits asked for (``pollwake``).

        The files are held meanwhile (``__pollwait``): a listener that a thread polls outlives its
        close.

        Source: ``fs/select.c`` 6.12 ``__pollwait``, ``pollwake``.
        """
        for fd, events in self.wanted:
            file = task.files.get(fd)
            queue = file.inside.queue() if file is not None and file.inside is not None else None
            if file is None or queue is None:
                continue
            mask = events | _ALWAYS

            def told(key: int, mask: int = mask) -> None:
                if key & mask:
                    kernel.wake(task)

            queue.add(told)
            self.entries.append((file.get(), queue, told))

    def resume(self, kernel: Kernel, task: Task) -> None:
        """Something was told, time is over, or a signal came.

        Source: ``fs/select.c`` 6.12 ``do_poll``.
        """
        count = self.look(task)
        if count or self.over:
            self.abandon(kernel, task)
            kernel.finish(task, count)
        elif task.sigpending or task.killed:
            self.abandon(kernel, task)
            task.restart = lambda: poll(kernel, task, self, self.left(kernel))
            kernel.finish(task, -ERESTART_RESTARTBLOCK)

    def abandon(self, kernel: Kernel, task: Task) -> None:
        """Leave the queues, and let the files go.

        Source: ``fs/select.c`` 6.12 ``poll_freewait``.
        """
        entries, self.entries = self.entries, []
        for file, queue, entry in entries:
            queue.remove(entry)
            file.put()


def poll(kernel: Kernel, task: Task, waiting: Poll, timeout: float | None) -> int:
    """poll(2): how many descriptors have something (``waiting.found``), or BLOCKED.

    More descriptors than RLIMIT_NOFILE are EINVAL (``do_sys_poll``).  Interrupted without a
    handler it goes on as restart_syscall(2), which the filters see (``do_restart_poll``).

    :param timeout: seconds; 0 does not sleep, None sleeps for ever.

    Source: ``fs/select.c`` 6.12 ``do_sys_poll``.
    """
    if len(waiting.wanted) > task.process.nofile:
        return -EINVAL
    count = waiting.look(task)
    if count or timeout == 0:
        return count
    waiting.enqueue(kernel, task)
    if timeout is not None:
        waiting.until = kernel.now + timeout
        _ring(kernel, task, waiting, timeout)
    return kernel.sleep(task, waiting)


def _ring(kernel: Kernel, task: Task, waiting: Poll | EpollWait, timeout: float) -> None:
    """A timer for one that waits, unless it waits for ever.

    Source: ``fs/select.c`` 6.12 ``poll_schedule_timeout``.
    """

    def ring() -> None:
        waiting.over = True
        if task.wait is waiting:
            kernel.wake(task)

    kernel.at(kernel.now + timeout, ring)


class Item:
    """One descriptor in an epoll (``struct epitem``)."""

    __slots__ = ("armed", "entry", "events", "file", "key")

    def __init__(self, key: int, file: File, events: int, entry: Callable[[int], None]) -> None:
        self.key = key
        self.file = file
        self.events = events
        self.armed = True
        self.entry = entry

    def bits(self) -> int:
        """What it would report now."""
        if not self.armed or self.file.refs == 0:  # the kernel forgets closed files by itself
            return 0
        inside = self.file.inside
        return inside.poll() & (self.events | _ALWAYS) if inside is not None else 0


class Epoll:
    """An epoll instance (``struct eventpoll``)."""

    __slots__ = ("items", "kernel", "ready", "waiters")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        #: By file and descriptor number, as in ``ep_find``.
        self.items: dict[tuple[File, int], Item] = {}
        self.ready: deque[Item] = deque()
        self.waiters: deque[Task] = deque()

    def poll(self) -> int:
        """Whether something is ready; the bits of what an epoll inside an epoll would say."""
        return 0x041 if any(item.bits() for item in self.ready) else 0

    def queue(self) -> WaitQueue | None:
        """Nested epolls are not modelled."""
        return None

    def add(self, file: File, fd: int, events: int) -> int:
        """EPOLL_CTL_ADD: EEXIST, EPERM for what cannot be polled; reports what is there already.

        Source: ``fs/eventpoll.c`` 6.12 ``ep_insert``.
        """
        queue = file.inside.queue() if file.inside is not None else None
        if queue is None:
            return -EPERM
        if (file, fd) in self.items:
            return -EEXIST
        item = Item(fd, file, events, lambda told: self._told(item, told))
        self.items[file, fd] = item
        queue.add(item.entry)
        if item.bits():
            self._enqueue(item)
        return 0

    def modify(self, file: File, fd: int, events: int) -> int:
        """EPOLL_CTL_MOD: arms a ONESHOT item again, and reports what is there.

        Source: ``fs/eventpoll.c`` 6.12 ``ep_modify``.
        """
        item = self.items.get((file, fd))
        if item is None:
            return -ENOENT
        item.events, item.armed = events, True
        if item.bits():
            self._enqueue(item)
        return 0

    def delete(self, file: File, fd: int) -> int:
        """EPOLL_CTL_DEL.

        Source: ``fs/eventpoll.c`` 6.12 ``ep_remove``.
        """
        item = self.items.pop((file, fd), None)
        if item is None:
            return -ENOENT
        queue = item.file.inside.queue() if item.file.inside is not None else None
        if queue is not None:
            queue.remove(item.entry)
        if item in self.ready:
            self.ready.remove(item)
        return 0

    def _told(self, item: Item, key: int) -> None:
        """``ep_poll_callback``: nothing if none of the bits were asked for."""
        if item.armed and key & (item.events | _ALWAYS):
            self._enqueue(item)

    def _enqueue(self, item: Item) -> None:
        """What was told is ready, and whoever waits for the epoll looks.

        Source: ``fs/eventpoll.c`` 6.12 ``ep_poll_callback``.
        """
        if item not in self.ready:
            self.ready.append(item)
        if self.waiters:
            self.kernel.wake(self.waiters.popleft())

    def collect(self, limit: int) -> list[tuple[int, int]]:
        """``ep_send_events``: (key, bits) of at most ``limit`` items; level-triggered ones stay.

        Source: ``fs/eventpoll.c`` 6.12.
        """
        found: list[tuple[int, int]] = []
        again: list[Item] = []
        while self.ready and len(found) < limit:
            item = self.ready.popleft()
            bits = item.bits()
            if not bits:
                continue
            found.append((item.key, bits))
            if item.events & EPOLLONESHOT:
                item.armed = False
            elif not item.events & EPOLLET:
                again.append(item)
        self.ready.extend(again)
        return found

    def release(self) -> None:
        """Closed."""
        for file, fd in list(self.items):
            self.delete(file, fd)


class EpollWait(Wait):
    """An epoll_wait(2) that sleeps; ``found`` is what it reports."""

    __slots__ = ("epoll", "found", "limit", "over")

    def __init__(self, epoll: Epoll, limit: int) -> None:
        super().__init__()
        self.epoll = epoll
        self.limit = limit
        self.found: list[tuple[int, int]] = []
        self.over = False

    def resume(self, kernel: Kernel, task: Task) -> None:
        """Something may be ready, time is over, or a signal came (EINTR, never restarted).

        Source: ``fs/eventpoll.c`` 6.12 ``ep_poll``.
        """
        self.found = self.epoll.collect(self.limit)
        if self.found or self.over:
            self.abandon(kernel, task)
            kernel.finish(task, len(self.found))
        elif task.sigpending or task.killed:
            self.abandon(kernel, task)
            kernel.finish(task, -EINTR)
        elif task not in self.epoll.waiters:
            self.epoll.waiters.append(task)

    def abandon(self, kernel: Kernel, task: Task) -> None:
        """Wait no more.

        Source: ``fs/eventpoll.c`` 6.12 ``ep_poll``.
        """
        if task in self.epoll.waiters:
            self.epoll.waiters.remove(task)


def epoll_wait(kernel: Kernel, task: Task, waiting: EpollWait, timeout: float | None) -> int:
    """epoll_wait(2): how many (``waiting.found``), or BLOCKED.

    Source: ``fs/eventpoll.c`` 6.12 ``do_epoll_wait``.
    """
    waiting.found = waiting.epoll.collect(waiting.limit)
    if waiting.found or timeout == 0:
        return len(waiting.found)
    waiting.epoll.waiters.append(task)
    if timeout is not None:
        _ring(kernel, task, waiting, timeout)
    return kernel.sleep(task, waiting)


def epoll_of(task: Task, fd: int) -> Epoll | int:
    """The epoll behind a descriptor, or -EBADF."""
    file = task.files.get(fd)
    inside = file.inside if file is not None else None
    return inside if isinstance(inside, Epoll) else -EBADF

"""Waiting, for the engine in plain Python."""

from __future__ import annotations

from typing import Final, Protocol

#: Poll bits; the same numbers as :data:`select.POLLIN` and so on, which Windows lacks.
POLLIN: Final = 0x001
POLLERR: Final = 0x008
POLLHUP: Final = 0x010
POLLNVAL: Final = 0x020


class Poller(Protocol):
    """Level-triggered waiting for IN and HUP on listeners, by their number."""

    def register(self, fd: int) -> None:
        """Start to watch."""
        ...

    def unregister(self, fd: int) -> None:
        """Stop to watch; an unknown number is no error."""
        ...

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """(number, poll bits) of everything ready; empty after :meth:`wake` or in time."""
        ...

    def ready(self, fd: int) -> bool:
        """Whether POLLIN is set on one listener right now."""
        ...

    def wake(self) -> None:
        """Make a waiting :meth:`wait`, or the next one, return."""
        ...

    def rung(self) -> int:
        """How often :meth:`ring` was called: to be read before what decides whether to :meth:`look`."""
        ...

    def look(self, seconds: float | None, rung: int) -> None:
        """Let the time pass from one look at whoever receives to the next; None: until :meth:`ring`.

        Nothing passes if it rang since :meth:`rung` said ``rung``."""
        ...

    def some(self, seconds: float) -> bool:
        """Let time pass until :meth:`wait` would find something, at most so much: whether it would."""
        ...

    def ring(self) -> None:
        """End every :meth:`look`, also those that are about to begin."""
        ...

    def close(self) -> None:
        """Give up what is held."""
        ...


class Bell:
    """What :class:`Poller` rings; a ring between a decision to wait and the wait is not missed."""

    def __init__(self) -> None:
        import threading

        self._condition = threading.Condition()
        self.rung = 0

    def wait(self, seconds: float | None, rung: int) -> None:
        """Until :attr:`rung` is another than ``rung``, or ``seconds`` have passed (None: without limit)."""
        with self._condition:
            self._condition.wait_for(lambda: self.rung != rung, seconds)

    def ring(self) -> None:
        """Wake all."""
        with self._condition:
            self.rung += 1
            self._condition.notify_all()


class EpollPoller:
    """:class:`Poller` over epoll(7) and an eventfd."""

    def __init__(self) -> None:
        import os
        import select
        import threading

        self._os = os
        self._select = select
        self._epoll = select.epoll()
        #: Nobody writes to a number that is being closed: it may be another file's then.
        self._lock = threading.Lock()
        self._waits = self._closed = False
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._event, POLLIN)
        self._bell = Bell()

    def register(self, fd: int) -> None:
        self._epoll.register(fd, POLLIN)

    def unregister(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass  # closed already: the kernel forgot it by itself

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        with self._lock:
            self._waits = True
        try:
            found = self._epoll.poll(timeout, 64)
            for at, (fd, _) in enumerate(found):
                if fd == self._event:
                    try:
                        self._os.eventfd_read(fd)
                    except BlockingIOError:
                        pass
                    del found[at]
                    break
            return found
        finally:
            with self._lock:
                self._waits = False
                if self._closed:
                    self._give_back()

    def ready(self, fd: int) -> bool:
        one = self._select.poll()
        one.register(fd, POLLIN)
        return any(bits & POLLIN for _, bits in one.poll(0))

    def wake(self) -> None:
        with self._lock:
            self._wake()

    def _wake(self) -> None:
        if self._event >= 0:
            try:
                self._os.eventfd_write(self._event, 1)
            except BlockingIOError:
                pass  # the counter is full: it is awake enough

    def rung(self) -> int:
        return self._bell.rung

    def look(self, seconds: float | None, rung: int) -> None:
        self._bell.wait(seconds, rung)

    def some(self, seconds: float) -> bool:
        one = self._select.poll()
        try:
            one.register(self._epoll.fileno(), POLLIN)
        except ValueError:  # it is closed
            return True
        return bool(one.poll(seconds * 1000))

    def ring(self) -> None:
        self._bell.ring()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._waits:
                self._wake()  # what is closed under a wait does not end it: the waiting thread closes
            else:
                self._give_back()

    def _give_back(self) -> None:
        self._epoll.close()
        event, self._event = self._event, -1
        if event >= 0:
            self._os.close(event)

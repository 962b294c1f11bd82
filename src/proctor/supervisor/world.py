"""The real world: monotonic time, the native engine, worker threads, an event loop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from proctor.call.verdict import close_unused
from proctor.kernel.threads import quiet_thread

if TYPE_CHECKING:
    import asyncio

    from proctor.kernel.journal import Journal
    from proctor.supervisor.ports import Engine, ListenerPort, Route


def _do(work: Callable[[], object]) -> None:
    """Work answers for itself; should it raise all the same, whoever does it must live on."""
    try:
        work()
    except BaseException as problem:
        from proctor.observe.events import Trouble
        from proctor.observe.logger import log

        log(Trouble("error on a worker", error=problem))


def _run_loop(loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]]) -> None:
    """An event loop of ours, from its first instruction until its descriptors are given back."""
    import asyncio

    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(asyncio.sleep(0))  # what was on its way begins, to be cancelled
        for task in list(tasks):
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(list(tasks)))
    finally:
        loop.close()


class _Started:
    """A coroutine on its way to an event loop, on it, or past it: ``done`` is told once."""

    __slots__ = ("_begun", "_close", "_coroutine", "_done", "_told", "over")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
        close: Callable[[int], None],
    ) -> None:
        self._coroutine = coroutine
        self._done = done
        self._close = close
        self._begun = False
        self._told = threading.Lock()
        #: Called with this when all is told.
        self.over: Callable[[_Started], object] = _nothing

    def begin(self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]]) -> None:
        """On the loop."""
        if self._told.locked():
            return  # given up, since the loop did not run
        self._begun = True
        task = loop.create_task(self._watched())
        tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(lambda task: self._ended(task, tasks))

    async def _watched(self) -> None:
        result, error = None, None
        try:
            result = await self._coroutine
        except BaseException as raised:
            error = raised
        self._tell(result, error)

    def _ended(self, task: asyncio.Task[Any], tasks: set[asyncio.Task[Any]]) -> None:
        tasks.discard(task)
        self._coroutine.close()
        self._tell(None, RuntimeError("the event loop cancelled the handler before it began"))

    def give_up(self, error: BaseException) -> None:
        """Nobody is going to run it."""
        self._tell(None, error)
        if not self._begun:
            self._coroutine.close()

    def _tell(self, result: Any, error: BaseException | None) -> None:
        if self._told.acquire(blocking=False):
            self.over(self)
            self._done(result, error)
        else:
            close_unused(result, self._close)  # what it says so late, nobody wants


def _nothing(started: _Started) -> None:
    """It was not entered anywhere."""


class NativeEngine:
    """The native engine behind the :class:`~proctor.supervisor.ports.Engine` door."""

    __slots__ = ("_engine", "after_fork", "close", "run", "run_once", "wake")

    def __init__(self) -> None:
        from proctor.kernel.engine import Engine as KernelEngine

        self._engine = engine = KernelEngine()
        self.run_once: Callable[[float | None], int] = engine.run_once
        self.run: Callable[[float | None], int] = engine.run
        self.wake: Callable[[], None] = engine.wake
        self.close: Callable[[], None] = engine.close
        self.after_fork: Callable[[], None] = engine.after_fork

    def add(
        self,
        listener: ListenerPort,
        routes: Mapping[int, Route],
        fallback: Route,
        ended: Callable[[], object],
        *,
        journal: Journal | None = None,
    ) -> None:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        memory = None if journal is None else journal.buffer
        self._engine.add(listener.fileno(), routes, fallback, ended, journal=memory)

    def reroute(self, listener: ListenerPort, routes: Mapping[int, Route], fallback: Route) -> None:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        self._engine.reroute(listener.fileno(), routes, fallback)

    def remove(self, listener: ListenerPort, late: Route | None = None) -> None:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        self._engine.remove(listener.fileno(), late)


class KernelWorld:
    """:class:`~proctor.supervisor.ports.World` on the machine we run on.

    :param workers: most threads for slow handlers and performing, all containers together (one for
        each there may always be); they are started as needed.
    :param native: False takes the engine in plain Python instead of the native one.
    :param loop: the running event loop for ``async def`` handlers; one of its own, on a thread of
        its own, is made at the first such call if None.
    """

    def __init__(
        self,
        *,
        workers: int = 256,
        native: bool = True,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers}: at least one is needed")
        #: See :class:`~proctor.supervisor.ports.World`.
        self.workers = workers
        self._native = native
        self._loop = loop
        self._own_loop = False
        self._tasks: set[Any] = set()
        #: Coroutines that were given to the loop and did not end.
        self._started: set[_Started] = set()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._over = False

    clock = staticmethod(time.monotonic)
    lock = staticmethod(threading.Lock)
    close = staticmethod(os.close)

    def engine(self) -> Engine:
        """See :class:`~proctor.supervisor.ports.World`."""
        if self._native:
            return NativeEngine()
        from proctor.supervisor.pyengine import EpollPoller, PyEngine

        return PyEngine(EpollPoller(), self.clock)

    def born_since(self, tid: int, when: float) -> bool:
        """See :class:`~proctor.supervisor.ports.World`."""
        from proctor.kernel.thread import ProcFiles

        # In this order: a pause between the two makes threads look older, never younger
        now = time.monotonic()
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - now
        try:
            with ProcFiles(tid) as files:
                return files.started() >= when + since_boot
        except (OSError, ValueError, IndexError):
            return False  # no such thread, or no procfs in which the number is its own

    def submit(self, work: Callable[[], None]) -> None:
        """See :class:`~proctor.supervisor.ports.World`."""
        with self._lock:
            here = self._over  # nobody would take it; what comes so late only cleans up
            if not here:
                self._work.put(work)
                if self._idle:
                    self._idle -= 1  # one that waits will take it
                    return
                self._threads += 1
        if here:
            _do(work)
            return
        try:
            quiet_thread(self._worker, "proctor-worker")
        except RuntimeError:
            # No more threads for us (RLIMIT_NPROC, a full pids cgroup), which a target can bring
            # about.  Those we have take the work; without any it is done here, slow but sure.
            with self._lock:
                self._threads -= 1
                here = self._threads == 0
            while here:
                try:
                    late = self._work.get_nowait()
                except Empty:
                    return
                if late is not None:
                    _do(late)

    def _worker(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                return
            _do(work)
            with self._lock:
                if self._work.empty():
                    self._idle += 1
                # otherwise: what is queued was counted on a busy worker like us

    def start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """See :class:`~proctor.supervisor.ports.World`.

        A loop of the user's that does not run is as good as none: ``done`` is told so at once, for
        all that it was to do.  One that stops later is noticed when the next coroutine comes.
        """
        started = _Started(coroutine, done, self.close)
        try:
            loop = self._event_loop()
        except RuntimeError as impossible:
            started.give_up(impossible)
            return
        if not self._own_loop and not loop.is_running():
            self._loop_stands(loop, started)
            return
        with self._lock:
            self._started.add(started)
        started.over = self._forget
        try:
            loop.call_soon_threadsafe(lambda: started.begin(loop, self._tasks))
        except RuntimeError as closed:
            started.give_up(closed)

    def _forget(self, started: _Started) -> None:
        with self._lock:
            self._started.discard(started)

    def _loop_stands(self, loop: asyncio.AbstractEventLoop, last: _Started) -> None:
        with self._lock:
            left = [*self._started, last]
            self._started.clear()
        for started in left:
            started.give_up(
                RuntimeError(
                    f"the event loop for async handlers {'is closed' if loop.is_closed() else 'does not run'}"
                    ": whoever gives a loop to KernelWorld keeps it running until the supervisor is closed"
                )
            )

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                if self._over:
                    raise RuntimeError("the supervisor is closed")
                import asyncio

                loop = asyncio.new_event_loop()
                try:
                    quiet_thread(lambda: _run_loop(loop, self._tasks), "proctor-asyncio")
                except RuntimeError:  # no more threads for us; the next call tries again
                    loop.close()
                    raise
                self._loop, self._own_loop = loop, True
            return self._loop

    def shutdown(self) -> None:
        """See :class:`~proctor.supervisor.ports.World`."""
        with self._lock:
            self._over = True
            for _ in range(self._threads):
                self._work.put(None)
            loop, self._loop = (self._loop, None) if self._own_loop else (None, self._loop)
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

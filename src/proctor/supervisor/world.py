"""The real world: monotonic time, the native engine, worker threads, an event loop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from proctor.call.verdict import close_unused
from proctor.given import whole
from proctor.kernel.thread import stat_fields
from proctor.kernel.threads import quiet_thread
from proctor.supervisor.ports import Later

if TYPE_CHECKING:
    import asyncio

    from proctor.call.call import Call
    from proctor.supervisor.ports import Engine
    from proctor.supervisor.world_port import Pulse


def _do(work: Callable[[], object]) -> None:
    """Work answers for itself; should it raise all the same, whoever does it must live on."""
    try:
        work()
    except BaseException as problem:
        from proctor.observe.events import Trouble
        from proctor.observe.logger import log

        log(Trouble("error on a thread", error=problem))


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
            if isinstance(result, Later):
                _do(result.cancel)


class _Pulse:
    """:class:`~proctor.supervisor.world_port.Pulse` of the thread that makes it."""

    __slots__ = ("_clock", "_place")

    def __init__(self) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._place = f"/proc/self/task/{threading.get_native_id()}/"

    def __call__(self) -> float:
        """See there."""
        try:
            return time.clock_gettime(self._clock)
        except OSError:
            return 0.0  # it is gone: it uses nothing

    def runs(self) -> bool:
        """See there; false where it cannot be told."""
        text = self._read("stat")
        return bool(text) and stat_fields(text)[0] == b"R"

    def queued(self) -> float:
        """See there; of a thread that is in the queue just now without this time (``sched_info`` in
        kernel/sched/stats.h; kernels without CONFIG_SCHED_INFO have no such file)."""
        fields = self._read("schedstat").split()
        return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0

    def _read(self, name: str) -> bytes:
        try:
            with open(self._place + name, "rb", buffering=0) as file:
                return file.read(256)
        except OSError:
            return b""


def _nothing(started: _Started) -> None:
    """It was not entered anywhere."""


class KernelWorld:
    """:class:`~proctor.supervisor.world_port.World` on the machine we run on.

    :param workers: most threads that calls may keep which stall, all containers together (one for
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
        whole("workers", workers)
        #: See :class:`~proctor.supervisor.world_port.World`.
        self.workers = workers
        self._native = native
        self._loop = loop
        self._own_loop = False
        self._tasks: set[Any] = set()
        #: Coroutines that were given to the loop and did not end.
        self._started: set[_Started] = set()
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        #: Threads that wait for work.
        self._idle = 0
        self._over = False

    clock = staticmethod(time.monotonic)
    lock = staticmethod(threading.Lock)
    close = staticmethod(os.close)

    def engine(self) -> Engine:
        if self._native:
            from proctor.kernel.engine import Engine as NativeEngine

            return NativeEngine()
        from proctor.supervisor.poller import EpollPoller
        from proctor.supervisor.pyengine import PyEngine

        return PyEngine(EpollPoller(), self.clock, self.lock)

    def born_since(self, tid: int, when: float) -> bool:
        from proctor.kernel.thread import ProcFiles

        # In this order: a pause between the two makes threads look older, never younger
        now = time.monotonic()
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - now
        try:
            with ProcFiles(tid) as files:
                return files.started() >= when + since_boot
        except (OSError, ValueError, IndexError):
            return False  # no such thread, or no procfs in which the number is its own

    def dying(self, call: Call) -> bool:
        from proctor.supervisor.dying import is_dying

        return is_dying(call)

    def thread(self, work: Callable[[], object]) -> bool:
        """See :class:`~proctor.supervisor.world_port.World`.  Threads that are done wait for more."""
        with self._lock:
            if self._over:
                return False
            if self._idle:
                self._idle -= 1
                self._work.put(work)
                return True
        try:
            quiet_thread(lambda: self._worker(work), "proctor-worker")
        except RuntimeError:
            # No more threads for us (RLIMIT_NPROC, a full pids cgroup), which a target can bring about
            return False
        return True

    def _worker(self, work: Callable[[], object] | None) -> None:
        here = os.getpid()
        while work is not None:
            _do(work)
            if os.getpid() != here:  # a child of a handler's that came back has nothing to do here
                os._exit(0)
            with self._lock:
                if self._over:
                    return
                self._idle += 1
            work = self._work.get()

    def pulse(self) -> Pulse:
        return _Pulse()

    def start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """See :class:`~proctor.supervisor.world_port.World`.

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
        with self._lock:
            self._over = True
            for _ in range(self._idle):
                self._work.put(None)
            self._idle = 0
            loop, self._loop = (self._loop, None) if self._own_loop else (None, self._loop)
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

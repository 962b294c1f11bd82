"""An event loop in virtual time: ``await asyncio.sleep(60)`` takes no time, and counts as a minute."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from proctor.testing.process import Process

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Real seconds that a coroutine may wait for something outside (a thread, a socket) in silence.
PATIENCE: Final = 10.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs one coroutine after another; when nothing is left to do but wait, time passes."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._selector_of_time = _Selector(self)
        #: Real threads that work for the loop: then time is real.
        self.elsewhere = 0
        #: Whether whoever waits now is still owed an answer.
        self.needed: Callable[[], bool] = lambda: True
        #: The coroutine was given up: nothing could ever have continued it.
        self.stuck = False
        self._main: asyncio.Task[None] | None = None
        super().__init__(self._selector_of_time)

    def time(self) -> float:
        """Virtual seconds."""
        return self._process.clock

    def pass_time(self, seconds: float) -> None:
        """Nothing happens before ``seconds`` have passed."""
        self._process.advance(seconds)

    def until_due(self) -> float | None:
        """Virtual seconds until a deadline of the supervisor's; None if there is none."""
        process = self._process
        dues = [supervisor.next_due() for supervisor in process.supervisors]
        return min((max(0.0, due - process.clock) for due in dues if due is not None), default=None)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """See :meth:`asyncio.loop.run_in_executor`."""
        future = super().run_in_executor(executor, func, *args)
        self.elsewhere += 1
        future.add_done_callback(self._back)
        return future

    def _back(self, _: object) -> None:
        self.elsewhere -= 1

    def complete(self, coroutine: Coroutine[Any, Any, None], needed: Callable[[], bool]) -> None:
        """Run a coroutine to its end, or until nothing can continue it."""
        self.needed = needed
        self.stuck = False
        self._main = self.create_task(coroutine)
        try:
            self.run_until_complete(self._main)
        finally:
            self._main = None

    def give_up(self) -> None:
        """Nothing can continue the coroutine: end it."""
        self.stuck = self.needed()
        if self._main is not None:
            self._main.cancel()


class _Selector(selectors.BaseSelector):
    """The real selector for descriptors, virtual time for waiting."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; where nothing is, virtual time passes."""
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        loop = self._loop
        if not loop.elsewhere:
            due = loop.until_due()
            if due is not None:
                timeout = due if timeout is None else min(timeout, due)
        if timeout is None or loop.elsewhere:
            wait = PATIENCE if loop.needed() or loop.elsewhere else 0
            ready = self._real.select(wait if timeout is None else min(wait, timeout))
            if timeout is None:
                if not ready:
                    loop.give_up()
                return ready
            if ready:
                return ready
        loop.pass_time(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

"""What a supervisor is given besides its listeners: time, engines, locks, threads and a loop for coroutines.

:class:`World` is that of the kernel in production (:mod:`proctor.supervisor.world`), of the executable model in
simulation (:mod:`proctor.model.sim`), and of one thread in tests of handlers (:mod:`proctor.testing`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.supervisor.ports import Engine


class Lock(Protocol):
    """Mutual exclusion, as :class:`threading.Lock`: held briefly, over nothing that can take long."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, or with ``blocking`` False try to."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...

    def __enter__(self) -> bool: ...

    def __exit__(self, kind: Any, value: Any, tb: Any, /) -> None: ...


class Pulse(Protocol):
    """What tells, on any thread, what a thread does."""

    def __call__(self) -> float:
        """How many seconds of processor time it has used."""
        ...

    def runs(self) -> bool:
        """Whether it has a processor now, or would have if there were one more: it waits for nothing."""
        ...

    def queued(self) -> float:
        """How many seconds it has waited for a processor that others had; 0 where nobody counts them."""
        ...


class Still:
    """:class:`Pulse` of one who does nothing."""

    def __call__(self) -> float:
        """See there."""
        return 0.0

    def runs(self) -> bool:
        """See there."""
        return False

    def queued(self) -> float:
        """See there."""
        return 0.0


class World(Protocol):
    """What time it is, who waits, and where slow work runs."""

    def clock(self) -> float:
        """Seconds, monotonic."""
        ...

    def engine(self) -> Engine:
        """A new engine."""
        ...

    def lock(self) -> Lock:
        """A new lock, which the threads of this world respect."""
        ...

    def close(self, fd: int) -> None:
        """close(2) on a descriptor that a handler gave away.

        :raises OSError: as close(2)."""
        ...

    def born_since(self, tid: int, when: float) -> bool:
        """Whether the thread ``tid`` came into being after ``when`` (as :meth:`clock`): then whoever
        had that number before is dead.  False where that cannot be told."""
        ...

    def dying(self, call: Call) -> bool | None:
        """Whether its caller has a signal to take that ends it as soon as the call is answered; None where that cannot be
        told, and will not be later."""
        ...

    @property
    def workers(self) -> int:
        """How many threads calls that stall may keep at the same time, all containers together; the
        first of each container is allowed beyond that."""
        ...

    def thread(self, work: Callable[[], object]) -> bool:
        """Run ``work`` on a thread of its own, soon, with every signal blocked; False if there are no
        threads for us."""
        ...

    def pulse(self) -> Pulse:
        """Of the calling thread."""
        ...

    def start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Run a coroutine on an event loop; ``done(result, exception)`` is called once, from any
        thread."""
        ...

    def shutdown(self) -> None:
        """No more threads will be wanted; what runs may be abandoned."""
        ...

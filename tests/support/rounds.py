"""An engine whose one thread takes the role for some rounds at a time."""

from __future__ import annotations

from proctor.kernel import engine
from proctor.kernel.stalls import SERVE


class Engine(engine.Engine):
    """See the module; errors are those of :meth:`serve`."""

    __slots__ = ()

    def run_once(self, timeout: float | None) -> int:
        """One round: how many notifications were received.

        :raises ValueError: also if it runs in another thread."""
        return self._run(timeout, 1)

    def run(self, timeout: float | None) -> int:
        """Rounds without end, until :meth:`wake`, a listener's end, an exception, or until ``timeout``
        seconds are over."""
        return self._run(timeout, 0)

    def _run(self, timeout: float | None, rounds: int) -> int:
        with self._lock:
            if self._closed or self._running:
                raise ValueError("this engine is closed, or runs in another thread")
        token = self.lead(SERVE, lambda *_: None)
        try:
            return self.serve(token, timeout, rounds)
        finally:
            self.resign(token)

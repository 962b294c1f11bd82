"""Joins the supervisor to the built-in performers, started when the first call needs them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.emulate import Performers


class LazyPerformer:
    """A performer for :class:`~proctor.supervisor.supervisor.Supervisor`; closes what it started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._performers: Performers | None = None
        self._closed = False

    def __call__(self, call: Call, verdict: Perform) -> Verdict:
        with self._lock:
            if self._closed:
                raise RuntimeError("the performers are closed")
            if self._performers is None:
                from proctor.emulate import Performers

                self._performers = Performers(on_trouble=_tell)
        return self._performers.perform(call, allow=verdict.allow)

    def close(self) -> None:
        """End the performer processes; idempotent."""
        with self._lock:
            self._closed = True
            performers, self._performers = self._performers, None
        if performers is not None:
            performers.close()


def _tell(trouble: str) -> None:
    """A performer could not do its work; the caller was denied, and somebody should know why."""
    try:
        import logging

        logging.getLogger("proctor").warning("%s", trouble)
    except Exception:
        pass  # as in proctor.supervisor.deciding.log: the caller's answer matters more

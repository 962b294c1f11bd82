"""Who called, for a log: pid, name and program of threads, which call again and again.

The native core remembers those that were met lately (``core/callers/callers.c``, which says how one is told from
another); here is what is said of them.
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from proctor.call.structured import json_text
from proctor.kernel.thread import ProcFiles

if TYPE_CHECKING:
    from proctor.call.call import Call


class Callers:
    """Those that were met lately; thread-safe."""

    __slots__ = ("_native",)

    def __init__(self) -> None:
        self._native: Any = None

    @property
    def native(self) -> Any:
        """``_core.Callers``; None where threads have no numbers that are ours."""
        if self._native is None:
            try:
                from proctor.kernel import _core

                ProcFiles.check()
            except (ImportError, OSError):  # where there are fakes alone there is no core
                return None
            self._native = _core.Callers(_said)
        return self._native

    def told(self, call: Call) -> str:
        """``pid``, ``comm`` and ``exe`` of a caller that still waits, as members of a JSON object; ""
        where that cannot be known: it is gone, has no number here, or may not be looked at."""
        native = self.native
        return "" if native is None else native.told(call.tid, call.valid) or ""

    def close(self) -> None:
        """Forget them all."""
        if self._native is not None:
            self._native.close()


def _said(pid: int, comm: bytes, exe: bytes) -> str:
    """Members of a JSON object."""
    # as in /proc/TID/status
    comm = comm.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    name = quoted(comm.decode("utf-8", "surrogateescape"))
    return f'"pid": {pid}, "comm": {name}, "exe": {json_text(exe)}'

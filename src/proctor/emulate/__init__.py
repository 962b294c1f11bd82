"""Calls performed on the caller's behalf, with the caller's rights plus the one it lacks.

The monitor never becomes the container: processes of their own, the *performers*, take on the
caller's identity.  A path is walked and every right is checked by the kernel itself, in the caller's
namespaces; nothing of the kernel's rules is re-implemented where the kernel can be asked.

* :class:`~proctor.emulate.performers.Performers` — what a monitor holds: ``perform(call) → Verdict``;
* :data:`~proctor.emulate.supported.SUPPORTED` — the calls that can be performed;
* :mod:`proctor.emulate.identity` — everything that decides what a caller may do;
* :mod:`proctor.emulate.mknod`, :mod:`proctor.emulate.open` — one module per family of calls;
* :mod:`proctor.emulate.pool`, :mod:`proctor.emulate.wire` — the processes and what is said to them;
* :mod:`proctor.emulate._performer`, ``become``, ``work``, ``walk``, ``apart`` — what runs in those
  processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proctor.emulate.supported import SUPPORTED

if TYPE_CHECKING:
    from proctor.emulate.performers import Performers as Performers

__all__ = ["SUPPORTED", "Performers"]


def __getattr__(name: str) -> Any:
    if name == "Performers":  # Linux alone has what it imports
        from proctor.emulate.performers import Performers

        return Performers
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

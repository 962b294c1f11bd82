"""Calls performed on the caller's behalf, with the caller's rights plus the one it lacks.

The monitor never becomes the container: processes of their own, the *executors*, take on the caller's
identity.  A path is walked and every right is checked by the kernel itself, in the caller's namespaces;
nothing of the kernel's rules is re-implemented where the kernel can be asked.

* :class:`~proctor.performing.performers.Performers` — what a monitor holds: ``perform(call) → Verdict``;
* :data:`~proctor.performing.registry.SUPPORTED` — the calls that can be performed;
* :mod:`.families` — one module per family of calls, found by the registry; what they work with is :mod:`.task`, and in
  :mod:`.paths`, :mod:`.mounts`, :mod:`.loop_devices`, :mod:`.networks` and :mod:`.limits`;
* :mod:`.identities` — who calls, and becoming a caller; the one right that it lacks;
* :mod:`.executing` — which executors there are, and what they are asked; ``executor.c`` is the executor, and
  ``executor_steps.c`` what it makes of requests;
* :mod:`.short_ways` — what is done of ordinary calls before all that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proctor.performing.performers import Performers as Performers
    from proctor.performing.registry import SUPPORTED as SUPPORTED

__all__ = ["SUPPORTED", "Performers"]


def __getattr__(name: str) -> Any:
    if name == "SUPPORTED":
        from proctor.performing.registry import SUPPORTED

        return SUPPORTED
    if name == "Performers":  # Linux alone has what it imports
        from proctor.performing.performers import Performers

        return Performers
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

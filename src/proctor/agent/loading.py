"""Code that a first call has loaded, where nobody waits for it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Final

from proctor.syscalls.signatures import signature

if TYPE_CHECKING:
    from proctor.policy import Policy
    from proctor.process.performing import LazyPerformer

#: To decide it, and to say why it was refused; to perform it.
_DECIDING: Final = (
    "proctor.call.decode.frame",
    "proctor.call.strace.line",
    "proctor.kernel.alikes",
    "proctor.performing.suggesting",
)
_PERFORMING: Final = ("proctor.performing.task",)


def load_early(policies: Iterable[Policy], performer: LazyPerformer) -> None:
    """Load what calls take that are decided by these policies."""
    signature("read")  # by which the table of all calls is read
    for module in _DECIDING:
        import_module(module)
    if any(rule.performs for policy in policies for rule in policy.rules):
        for module in _PERFORMING:
            import_module(module)
        performer.load()

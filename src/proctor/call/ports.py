"""What a :class:`~proctor.call.Call` needs from outside, as small interfaces.

``MemoryPort`` is the kernel room's own (:mod:`proctor.kernel.memory`).  The kernel stands behind them in production (:class:`proctor.kernel.memory.Memory`,
:class:`proctor.kernel.thread.ProcFiles`, :class:`proctor.kernel.listener.Listener`), dictionaries in
tests of handlers and in the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Protocol

from proctor.kernel import memory
from proctor.kernel.memory import MemoryPort

__all__ = ["ContainerPort", "MemoryPort", "ProcPort", "ValidityPort"]


class ValidityPort(memory.ValidityPort, Protocol):
    """Who knows whether a notification still stands, and gives its caller descriptors: a listener."""

    def addfd(
        self, id: int, srcfd: int, *, at: int | None = None, cloexec: bool = False
    ) -> int | None:
        """Install a descriptor in the caller's table; its number there, None if the caller is gone."""
        ...


class ContainerPort(Protocol):
    """What a call's listener belongs to: see :class:`proctor.supervisor.container.Container`."""

    @property
    def name(self) -> str:
        """For logs and metrics; "" if it was given none."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """What its owner calls it besides."""
        ...

    @property
    def state(self) -> dict[str, Any]:
        """What its handlers keep from one call to the next."""
        ...

    @property
    def logging(self) -> Any:
        """How much of its calls logs have (:class:`proctor.observe.amount.Amount`); None: all."""
        ...

    @property
    def performing(self) -> Mapping[str, Any]:
        """Options for whoever performs its calls."""
        ...

    @property
    def owner_userns(self) -> Set[int]:
        """Inode numbers of the user namespaces that its owner made it with."""
        ...


class ProcPort(Protocol):
    """The files of ``/proc/TID`` of one caller, by their names relative to it.

    Errors are :class:`OSError` with the kernel's errno.
    """

    def read(self, name: str) -> bytes:
        """Everything in a file ("status", "cgroup")."""
        ...

    def link(self, name: str) -> bytes:
        """The text of a symbolic link ("exe", "ns/user")."""
        ...

    def size(self, name: str) -> int:
        """``st_size`` of a file or directory ("fd")."""
        ...

    def names(self, name: str) -> list[str]:
        """What is in a directory ("fd")."""
        ...

    def open(self, name: str, flags: int) -> int:
        """A new descriptor, always CLOEXEC, of what ``name`` leads to; the receiver owns it."""
        ...

    def close(self) -> None:
        """Give up what is held; idempotent."""
        ...

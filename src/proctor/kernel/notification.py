"""One notification as plain data (``struct seccomp_notif``)."""

from __future__ import annotations

from typing import Protocol

from proctor.records import NamedTuple


class NotificationLike(Protocol):
    """What the native ``_core.Notification`` and :class:`Notification` have in common.

    ``pid`` is the *thread* id of the caller as the reader of the listener sees it, 0 if it
    sees none (C040, C041, C046).  ``nr`` is signed, ``args`` are six full 64-bit registers.
    """

    @property
    def id(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def nr(self) -> int: ...
    @property
    def arch(self) -> int: ...
    @property
    def ip(self) -> int: ...
    @property
    def args(self) -> tuple[int, int, int, int, int, int]: ...
    @property
    def slot(self) -> int:
        """Where the listener's journal has it; -1 for nowhere."""
        ...


class Notification(NamedTuple):
    """A notification made in Python: by the model, by tests, by recordings.

    >>> proctor.Notification(id=1, pid=4711, nr=39, arch=0xC000003E).args
    (0, 0, 0, 0, 0, 0)
    """

    id: int
    pid: int
    nr: int
    arch: int
    args: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    ip: int = 0
    flags: int = 0
    slot: int = -1

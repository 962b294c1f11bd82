"""Contexts of file systems that callers have, as fsopen(2) and fspick(2) make them, and mounts that are nowhere yet; see
:mod:`proctor.performing.families.fsmount`.

The caller's descriptor is its own; what is made of it, with the host's rights, is kept here, since nobody can be handed it.  When a
caller closes its descriptor the kernel does not tell: it is looked for where that matters.
"""

from __future__ import annotations

import os
import select
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.mounts.mount_words import Option

#: Contexts of one container that are known at the same time; the oldest goes.
_MOST: Final = 16
#: Of a process that has more descriptors open it is not looked which.
_MOST_LOOKED_AT: Final = 4096


class Maker(NamedTuple):
    """A process, by its number and a pidfd of it."""

    tgid: int
    pidfd: int

    def has(self, fd: int) -> bool:
        """Whether it lives and has open what this descriptor of ours is."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        try:
            numbers = os.listdir(f"/proc/{self.tgid}/fd")
        except OSError:
            return False
        found = len(numbers) > _MOST_LOOKED_AT or any(map(partial(self._is, fd), numbers))
        return found and not poll.poll(0)  # else the number may be another's by now

    def _is(self, fd: int, number: str) -> bool:
        from proctor.kernel.raw import kcmp_file  # policies are looked over where it is not

        try:
            return kcmp_file(self.tgid, int(number), fd)
        except OSError:
            return False  # closed meanwhile


class Context:
    """A caller's context.  Who holds it closes it.

    :param maker: a pidfd of the process that made it.
    """

    def __init__(self, fd: int, container: object, kind: str, maker: Maker) -> None:
        #: The caller's own descriptor.
        self.fd = fd
        self.maker = maker
        self.container = container
        self.kind = kind
        #: Held by the one call that works on it.
        self.used = threading.Lock()
        self.source = b""
        self.options: list[Option] = []
        #: The mount that was made of it, unlocked; -1 until then.
        self.mount = -1
        #: The number of the mount that it was picked of; 0 for a new one.
        self.picked = 0
        #: Whether its source was opened for writing.
        self.writable = False
        #: Whether it was mounted: then :attr:`fd` is its root, and :attr:`mount` what keeps it.
        self.mounted = False
        #: Whether it was tried to make a superblock, and there is none: it is of no use any more.
        self.failed = False

    def let_go(self) -> None:
        """What was made of it keeps nothing busy any more."""
        mount, self.mount, self.failed = self.mount, -1, True
        if self.mounted:  # its root; somebody may be comparing it
            os.dup2(self.maker.pidfd, self.fd, inheritable=False)
        if mount >= 0:
            os.close(mount)

    def close(self) -> None:
        """Let go of it."""
        for fd in (self.fd, self.mount, self.maker.pidfd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.mount = -1
        self.maker = Maker(0, -1)


class Contexts:
    """All that are known; thread-safe.  One that is forgotten is closed when nobody uses it."""

    def __init__(self) -> None:
        self._known: list[Context] = []
        self._used: list[Context] = []
        self._lock = threading.Lock()

    def add(self, context: Context) -> None:
        """Know it, and forget its container's oldest if there are too many."""
        with self._lock:
            self._known.append(context)
            own = [each for each in self._known if each.container is context.container]
            self._forget(own[:-_MOST])

    def borrow(self, container: object) -> list[Context]:
        """Those of a container, the newest first, until they are given back."""
        with self._lock:
            own = [each for each in self._known if each.container is container][::-1]
            self._used += own
        return own

    def give_back(self, contexts: list[Context]) -> None:
        """They are not used any more by whoever borrowed them."""
        with self._lock:
            for each in contexts:
                self._used.remove(each)
                self._end(each)

    def drop(self, context: Context) -> None:
        """One has done its work."""
        with self._lock:
            self._forget([context])

    def sweep(self, container: object, *, mounted: bool) -> bool:
        """Let go of what was made of contexts that their makers have closed, or died with; whether there was any.

        :param mounted: also of mounts, which makers give to others."""
        swept = False
        for each in (known := self.borrow(container)):
            if each.mount >= 0 and each.mounted <= mounted and each.used.acquire(blocking=False):
                if not each.maker.has(each.fd):
                    each.let_go()
                    self.drop(each)
                    swept = True
                each.used.release()
        self.give_back(known)
        return swept

    def forget(self, container: object) -> None:
        """A container is over."""
        with self._lock:
            self._forget([each for each in self._known if each.container is container])

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            self._forget(self._known)

    def _forget(self, contexts: list[Context]) -> None:
        self._known = [each for each in self._known if each not in contexts]
        for each in contexts:
            self._end(each)

    def _end(self, context: Context) -> None:
        if context not in self._known and context not in self._used:
            context.close()

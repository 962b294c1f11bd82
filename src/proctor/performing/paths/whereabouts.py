"""Where a walk is, and where in a procfs that is: whose part, and that it is not the executor's own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator
from typing import Any, Final

from proctor.call.caller import Caller
from proctor.performing.executing.requests import Reply
from proctor.performing.executing.steps import Result
from proctor.performing.paths import strides
from proctor.performing.paths.filestat import PROC_ROOT_INO, Status
from proctor.performing.paths.pins import AT_FDCWD, HOW, NO_XDEV, O_DIRECTORY, PIN
from proctor.performing.trouble import Said
from proctor.records import NamedTuple

#: Makes a request, with what goes along; raises what an executor can fail with.
Ask = Callable[..., Generator[Any, Reply, Reply]]


class Itself(Exception):
    """The walk came to the executor itself: another one must walk."""


class Spot(NamedTuple):
    """Where in a procfs a directory is."""

    #: A descriptor of the root of that procfs; None for "not on procfs, or in no process's part".
    root: int | None
    #: Status of what is directly below that root, on the way; None at the root itself.
    top: Status | None
    #: Whether that is a process's directory.
    process: bool


OUT: Final = Spot(None, None, False)


class Whereabouts:
    """Of one walk for one caller.

    :param ask: makes requests, always by the same executor.
    :ivar here: an O_PATH descriptor; None for "/", before it is looked up, or where a walk does not begin.
    :ivar status: of that, once it is known.
    :ivar spot: where in a procfs that is.
    :ivar procfs: whether the walk came to a procfs at all.
    """

    def __init__(self, ask: Ask, caller: Caller, here: int | None) -> None:
        self._ask = ask
        self._caller = caller
        self._held: list[int] = []
        self.here = here
        self.status: Status | None = None
        self.spot = OUT
        self.procfs = False

    def back(self, here: int | None) -> None:
        """It begins again."""
        self.here, self.status, self.spot = here, None, OUT

    def hold(self, fd: int) -> None:
        """It is closed when it is not needed any more."""
        self._held.append(fd)

    def close(self) -> None:
        """Close what was pinned on the way."""
        while self._held:
            os.close(self._held.pop())

    def let_go(self, end: int) -> None:
        """Close what is behind: a path has thousands of components, the monitor some descriptors."""
        needed = {self.here, self.spot.root, end}
        for fd in self._held:
            if fd not in needed:
                os.close(fd)
        self._held = [fd for fd in self._held if fd in needed]

    def take(self, reply: Reply, step: Result) -> int:
        """A descriptor that is held as long as it is needed."""
        fd = reply.take(step)
        self._held.append(fd)
        return fd

    def move(self, fd: int, status: Status) -> None:
        """There it is now: on no procfs, as far as that is known."""
        self.here, self.status, self.spot = fd, status, OUT

    def enter(
        self, name: bytes, fd: int, status: Status, proc: bool
    ) -> Generator[Any, Reply, None]:
        """Into a directory, by one component."""
        before, spot = self.status, self.spot
        assert before is not None
        self.move(fd, status)
        if not proc:
            return
        self.procfs = True
        if status.inode == PROC_ROOT_INO:
            self.spot = Spot(fd, None, False)
        elif status.mount != before.mount:
            yield from self.settle(fd, status)
        elif spot.root is not None and spot.top is None and name != b"..":
            self.spot = Spot(spot.root, status, name.isdigit())
        else:
            self.spot = spot

    def settle(self, fd: int, status: Status) -> Generator[Any, Reply, None]:
        """Find out where in a procfs a directory is."""
        self.procfs = True
        if status.inode == PROC_ROOT_INO:
            self.spot = Spot(fd, None, False)
            return
        top, below = status, fd
        while True:
            above = strides.above()
            reply = yield from self._ask(above.request, fds=(fd,))
            try:
                for level in above.levels:
                    if not reply.made(level.step):
                        self.refuse_part(status.mount)
                        self.spot = OUT
                        return
                    found, _ = level.read(reply)
                    if found.place == top.place:  # the root directory: nobody can say whose it is
                        raise Said(errno.EACCES)
                    fd = self.take(reply, level.step)
                    if found.inode == PROC_ROOT_INO:
                        name = os.readlink(f"/proc/self/fd/{below}").rpartition("/")[2]
                        self.spot = Spot(fd, top, name.isdigit())
                        return
                    top, below = found, fd
            finally:
                reply.close()

    def refuse_part(self, mount: int) -> None:
        """A part of a procfs is mounted there: it must not be a part of a process's.

        :raises Said: EACCES."""
        for line in self._caller.mountinfo.split(b"\n"):
            fields = line.split(b" ", 4)
            if len(fields) == 5 and fields[0] == b"%d" % mount:
                if fields[3][1:2].isdigit():
                    break
                return
        raise Said(errno.EACCES)

    def not_itself(self) -> Generator[Any, Reply, None]:
        """
        :raises Itself: where the walk is, is the executor's own directory."""
        if self.spot.root is None or self.spot.top is None:
            return
        one = strides.one(64)
        how = HOW.pack(PIN | O_DIRECTORY, 0, NO_XDEV)
        reply = yield from self._ask(one.request, how, b"self", fds=(self.spot.root,))
        reply.close()
        if reply.made(one.seen.step) and one.seen.read(reply)[0].place == self.spot.top.place:
            raise Itself

    def look_up(self) -> Generator[Any, Reply, int]:
        """A descriptor of where the walk is."""
        if self.here is not None:
            return self.here
        stride, how = strides.stride(False, 64), HOW.pack(PIN, 0, 0)
        reply = yield from self._ask(
            stride.request, AT_FDCWD, how, how, b"/", *[b""] * strides.SINGLES
        )
        try:
            if not reply.made(stride.whole.step):
                raise Said(reply.error(stride.whole.step))
            return self.take(reply, stride.whole.step)
        finally:
            reply.close()

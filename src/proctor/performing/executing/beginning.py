"""The first requests to an executor: who it is, what it may, and what else it does before anybody wants it; then what makes
it what it shall be."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final

from proctor.performing.executing.requests import SKIPPED, Reply, Request
from proctor.performing.executing.steps import Result, Steps
from proctor.performing.executing.workers import Wait
from proctor.performing.trouble import CannotJoin, Trouble
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.executing.processes import Executor

#: What the steps are for that join cgroups: all else goes without them.
JOINING: Final = "joining the caller's cgroup"


class Beginning:
    """One such request, which any number of executors begin with.

    :param more: adds steps, all of which must come out well: what they are for, by their numbers; the subjects of sentences if
        they fail.
    :param fds: what goes along with it, somebody else's to close, once no executor begins so any more.
    """

    def __init__(
        self, more: Callable[[Steps], dict[int, str]] | None = None, fds: tuple[int, ...] = ()
    ) -> None:
        steps = Steps()
        where = steps.bytes(b"/proc/self/fd")
        version = steps.bytes(
            struct.pack("=Ii", 0x20080522, 0)
        )  # _LINUX_CAPABILITY_VERSION_3, itself
        placed = steps.bytes(bytes(24))
        self._me = steps.call("getpid")
        self._pidfd = steps.call("pidfd_open", self._me, 0)
        self._table = steps.call("openat", -100, where, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        steps.call("capget", version, placed)
        self._words = {} if more is None else more(steps)
        steps.give(self._pidfd)
        steps.give(self._table)
        self._caps = steps.want(placed)
        self._fds = fds
        self.request: Request = steps.freeze()

    def ask(self, executor: Executor) -> Reply | None:
        """As :meth:`~proctor.performing.executing.processes.Executor.ask`."""
        return executor.ask(self.request, self.request.fill(), self._fds)

    def begun(self, executor: Executor, reply: Reply) -> None:
        """It has said who it is.

        :raises Trouble: there was no room for that, or something else did not come about."""
        needed = {self._pidfd.step: "", self._table.step: "", **self._words}
        for step, what in needed.items():
            result = reply.results[step]
            if result < 0:
                reply.close()
                why = os.strerror(-result) if result >= -4095 else "it did not come about"
                raise Trouble(f"an executor cannot begin: {what and f'{what}: '}{why}")
        words = struct.unpack("=6I", reply.parts[self._caps])
        executor.pid, executor.permitted = reply.results[self._me.step], words[1] | words[4] << 32
        executor.pidfd = reply.take(self._pidfd)
        executor.table = reply.take(self._table)


#: That of all that begin with nothing else.
PLAINLY = Beginning()


class Once:
    """The key of an executor that is used once and is in nobody's identity: each is another one.  Who had one is likely to want
    the next, which is begun ahead.

    :param begins: how."""

    lasting = False

    def __init__(self, begins: Beginning = PLAINLY) -> None:
        self.begins = begins


class Start(NamedTuple):
    """The last step of an executor's making: the request that gives it its identity."""

    request: Request
    values: tuple[bytes, ...]
    fds: tuple[int, ...]
    #: What each step is for; the subject of a sentence if it fails.
    words: dict[int, str]
    #: What is done when it has been made, or has failed.
    over: Callable[[], None] | None = None


#: From (its capabilities, permitted; the number of its mother) to how it is made what it shall be; None if it is
#: that, as it is born.
Become = Callable[[int, int], Start | None]


def make(executor: Executor, become: Become, mother: int) -> Generator[Wait, Reply, None]:
    """Have it begun, unless it is, and made what it shall be.

    :param mother: the number of its mother.
    :raises Trouble: that did not come about."""
    if executor.pidfd < 0:
        begins, reply = executor.begins, None
        if begins is None:
            begins = executor.key.begins if isinstance(executor.key, Once) else PLAINLY
            reply = begins.ask(executor)
        if reply is None:
            reply = yield Wait(executor, begins.request)
        begins.begun(executor, reply)
    start = become(executor.permitted, mother)
    if start is None:
        return
    try:
        try:
            reply = executor.ask(start.request, start.request.fill(*start.values), start.fds)
        finally:
            for fd in start.fds:
                os.close(fd)
        if reply is None:
            reply = yield Wait(executor, start.request)
    finally:
        if start.over is not None:
            start.over()
    last = max(step for step, result in enumerate(reply.results) if result != SKIPPED)
    if last + 1 < len(reply.results) or not reply.made(Result(last)):
        number = reply.error(Result(last))
        what = start.words.get(last, "taking on an identity")
        kind = CannotJoin if what == JOINING else Trouble
        raise kind(f"{what}: {os.strerror(number) if number else 'it did not come about'}")
    executor.settle()

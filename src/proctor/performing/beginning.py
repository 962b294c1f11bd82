"""The first request to an executor: who it is, what it may, and what else it does before anybody wants it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from proctor.performing.steps import Request, Steps
from proctor.performing.trouble import Trouble

if TYPE_CHECKING:
    from proctor.performing.processes import Executor
    from proctor.performing.steps import Reply


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
        """As :meth:`~proctor.performing.processes.Executor.ask`."""
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

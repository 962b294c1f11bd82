"""The keeper: parent of the monitor, so small that nothing in it can fail, which holds what the next
monitor needs.

It starts monitors, one after another, and keeps what they give it (:mod:`proctor.agent.keeping`).  When
one dies, the next is given all of it: listeners, so that nobody's call fails, and journals, so that it
knows what the dead one had received.  A monitor is replaced on purpose in the same way (SIGHUP): the next
one is started first, and once it is ready the old one is told to leave all to it (``HAND_OVER``), and ends.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from proctor.agent.keeping import (
    HAND_OVER,
    LONGEST,
    VERSION,
    Item,
    otherwise,
    raise_limits,
    together,
)
from proctor.agent.lingering import lingers
from proctor.kernel import scm

#: Seconds between a monitor's death and the next attempt, if it had hardly begun.
_PAUSES: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
#: Seconds that a monitor lives before its death is no sign that the next will die as well.
_SETTLED: Final = 1.0
#: Seconds that a monitor has to take what it is sent.
_PATIENCE: Final = 5.0
#: Seconds between looks whether a monitor has ended but for what the kernel does not end, and that it must be so.
_LOOK: Final = 1.0
_LINGERS: Final = 0.1
#: Descriptors that are left free for starting monitors.
_RESERVE: Final = 32


class _Monitor:
    """One monitor, as its keeper sees it."""

    def __init__(self, command: Sequence[str], *, first: bool, replaces: bool) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            try:
                words = [*command, "--kept-by", str(number)]
                self.process = subprocess.Popen(words, pass_fds=[number])
            except OSError:
                self.sock.close()
                raise
        self.sock.settimeout(_PATIENCE)
        try:
            self.pidfd = os.pidfd_open(self.process.pid)
        except OSError:
            self.sock.close()
            self.process.kill()
            self.process.wait()
            raise
        #: Whether whoever serves is to be ended once this one is ready.
        self.replaces = replaces
        self.replaced = False
        #: Whether it speaks otherwise than we do: the next of its program would, too.
        self.strange = False
        #: When it is killed that did not end by itself.
        self.ends_at: float | None = None
        self.ready = False
        self.serves = False
        self.began = time.monotonic()
        #: Since when it is over but for that.
        self.lingers_since: float | None = None
        self.send({"first": first, "version": VERSION, "accepts": True})

    def send(self, word: dict[str, object], fds: Sequence[int] = ()) -> None:
        """Send; who takes nothing is ended."""
        try:
            scm.send(self.sock, json.dumps(word).encode(), fds)
        except OSError:
            self.process.kill()

    def lingers(self, now: float) -> bool:
        """Whether it is over, and was so when last looked at, but for what the kernel does not end."""
        if lingers(self.process.pid) is None:
            self.lingers_since = None
        elif self.lingers_since is None:
            self.lingers_since = now
        return self.lingers_since is not None and now - self.lingers_since >= _LINGERS

    def close(self) -> int:
        """It has ended: its exit status."""
        self.sock.close()
        os.close(self.pidfd)
        if self.lingers_since is not None and (status := lingers(self.process.pid)) is not None:
            return status  # init, or the garbage collector, waits for the rest
        return self.process.wait()


class Keeper:
    """Keeps, and starts monitors, until it is told to stop.

    :param command: what starts a monitor; ``--kept-by FD`` is added.
    :param items: what is there at the beginning; the keeper's from now on.
    :param tell: told what is worth a line.
    :param spare: whether a monitor is kept ready that takes over at once.
    :param give_up: seconds without a monitor that serves, after which all is let go.
    :param drain: seconds that a monitor may take to leave what it serves to the next one.
    :param ready: told once that the first monitor serves.
    """

    def __init__(
        self,
        command: Sequence[str],
        items: Sequence[Item],
        tell: Callable[[str], object],
        *,
        spare: bool = False,
        give_up: float = 60.0,
        drain: float = 5.0,
        ready: Callable[[], object] = bool,
    ) -> None:
        self._command = command
        self._kept = {item.name: item for item in items}
        self._tell = tell
        self._spare = spare
        self._give_up = give_up
        self._drain = drain
        self._ready = ready
        self._monitors: list[_Monitor] = []
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._first = True
        self._deaths = 0
        #: When the next monitor is started; None if one is there, or on its way.
        self._start_at: float | None = time.monotonic()
        self._alone_since = time.monotonic()
        self._status: int | None = None
        self._most = sys.maxsize

    def run(self) -> int:
        """Until SIGTERM or SIGINT and the monitor's end, or until a monitor cannot be had; the exit
        status."""
        self._most = raise_limits() - _RESERVE
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, frame: None)  # what counts comes by the descriptor
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._signals(ours.recv(64)))
        try:
            while self._status is None:
                self._step()
            return self._status
        finally:
            signal.set_wakeup_fd(-1)
            for monitor in self._monitors:
                monitor.process.kill()
                monitor.close()
            for item in self._kept.values():
                item.close()
            self._selector.close()
            ours.close()
            theirs.close()

    def _step(self) -> None:
        now = time.monotonic()
        serves = self._serving() is not None
        if not serves and not self._stopping and now - self._alone_since > self._give_up:
            self._tell(f"no monitor serves for {self._give_up:g} seconds: everything is let go")
            self._status = 1
            return
        if self._start_at is not None and now >= self._start_at:
            self._start(replaces=False)
        for monitor in self._monitors:
            if monitor.ends_at is not None and now >= monitor.ends_at:
                monitor.process.kill()
        for monitor in [each for each in self._monitors if each.lingers(now)]:
            self._tell(
                f"monitor {monitor.process.pid} is over, but for a file system that does not answer"
            )
            self._died(monitor)
        timeout = _LOOK if self._start_at is None else self._start_at - now
        if any(each.lingers_since is not None for each in self._monitors):
            timeout = _LINGERS
        for key, _ in self._selector.select(timeout):
            # not since given up, nor is its number another's
            if self._selector.get_map().get(key.fd) is key:
                key.data()

    def _signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGHUP:
                self._renew()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stopping = True
                self._start_at = None
                for monitor in self._monitors:
                    # who does not serve has nothing to end in order
                    monitor.process.send_signal(
                        signal.SIGTERM if monitor.serves else signal.SIGKILL
                    )
                if not self._monitors:
                    self._status = 0

    def _renew(self) -> None:
        if self._stopping:  # SendSIGHUP= of systemd sends SIGTERM, and SIGHUP at once
            return
        self._tell("a new monitor is started, to take over")
        for spare in [each for each in self._monitors if not each.serves]:
            self._forget(spare)
        self._start(replaces=True)

    # Monitors -------------------------------------------------------------------------------

    def _serving(self) -> _Monitor | None:
        return next((each for each in self._monitors if each.serves), None)

    def _start(self, *, replaces: bool) -> None:
        self._start_at = None
        first = self._first and not self._monitors
        try:
            monitor = _Monitor(self._command, first=first, replaces=replaces)
        except OSError as problem:  # no more processes, or descriptors, for now
            self._tell(f"no monitor can be started: {problem.strerror}")
            self._deaths += 1
            if not replaces or not self._monitors:
                self._start_at = time.monotonic() + max(_pause(self._deaths), _LINGERS)
            return
        self._monitors.append(monitor)
        self._selector.register(monitor.sock, selectors.EVENT_READ, lambda: self._heard(monitor))
        self._selector.register(monitor.pidfd, selectors.EVENT_READ, lambda: self._died(monitor))

    def _heard(self, monitor: _Monitor) -> None:
        if not self._message(monitor):
            self._selector.unregister(monitor.sock)  # its end is told by its pidfd

    def _message(self, monitor: _Monitor) -> bool:
        """One message; False if there will be no more."""
        try:
            message = scm.receive(monitor.sock, LONGEST, socket.MSG_DONTWAIT)
        except OSError:
            return False
        if not message.data:
            return False
        word = json.loads(message.data)
        number = word.get("number")
        if message.lost or any(fd >= self._most for fd in message.fds):
            message.close()
            monitor.send({"kept": False, "number": number})
        elif "keep" in word:
            self._let_go(word["keep"])
            self._kept[word["keep"]] = Item(word["keep"], message.fds)
            monitor.send({"kept": True, "number": number})
        elif "accept" in word:
            self._accept(monitor, word)
        elif "forget" in word:
            self._let_go(word["forget"])
            monitor.send({"forgotten": True, "number": number})
        elif "serves" in word:
            if self._first:
                self._ready()
            self._first = False
        elif "renew" in word:
            self._renew()
        elif "refuses" in word:
            monitor.strange = True
        elif "ready" in word and word.get("version") != VERSION:
            monitor.strange = True
            self._tell(
                otherwise(f"monitor {monitor.process.pid}", word.get("version"), "its keeper")
                + ": it is given nothing, and ended"
            )
            monitor.process.kill()
        elif "ready" in word and not self._stopping:
            monitor.ready = True
            serving = self._serving()
            if serving is None:
                self._give(monitor)
            elif monitor.replaces:
                serving.replaced = True
                serving.ends_at = time.monotonic() + self._drain + _PATIENCE
                serving.process.send_signal(HAND_OVER)  # and all is given on at its end
        return True

    def _accept(self, monitor: _Monitor, word: dict[str, Any]) -> None:
        """Accept a connection for a monitor: should that end before it has heard, the next one is given it."""
        answer = {**word, "accepted": 0}
        try:
            with socket.socket(fileno=os.dup(self._kept[word["accept"]].fds[0])) as listening:
                listening.setblocking(False)
                connection = listening.accept()[0].detach()
        except (KeyError, OSError) as problem:
            monitor.send({**answer, "accepted": getattr(problem, "errno", errno.EBADF)})
            return
        if connection < self._most:
            self._kept[word["as"]] = Item(word["as"], (connection,))
            monitor.send(answer, [connection])
        else:
            monitor.send({**answer, "kept": False}, [connection])
            os.close(connection)

    def _let_go(self, name: str) -> None:
        item = self._kept.pop(name, None)
        if item is not None:
            item.close()

    def _give(self, monitor: _Monitor) -> None:
        """It serves from now on, with all that is kept."""
        for some in together(self._kept.values()):
            names = [(item.name, len(item.fds)) for item in some]
            monitor.send({"items": names}, [fd for item in some for fd in item.fds])
        monitor.send({"go": True})
        monitor.serves = True
        if self._spare and len(self._monitors) == 1:
            self._start(replaces=False)

    def _forget(self, monitor: _Monitor) -> int:
        """End it, if it has not ended; its exit status."""
        self._monitors.remove(monitor)
        for each in (monitor.pidfd, monitor.sock):
            if each in self._selector.get_map():
                self._selector.unregister(each)
        monitor.process.kill()
        return monitor.close()

    def _died(self, monitor: _Monitor) -> None:
        monitor.sock.setblocking(False)
        while self._message(monitor):  # what it said before
            pass
        status = self._forget(monitor)
        if self._stopping:
            if not self._monitors:
                self._status = 0
            return
        ended = monitor.serves and status == 0 and not monitor.replaced
        if (self._first and status > 0) or ended:
            self._status = status  # it could not begin, and said why; or it was ended in order
            return
        how = "is replaced" if monitor.replaced else f"ended with status {status}"
        self._tell(f"monitor {monitor.process.pid} {how}")
        if monitor.serves:
            self._alone_since = time.monotonic()
        hardly = time.monotonic() - monitor.began < _SETTLED
        self._deaths = self._deaths + 1 if hardly else 0
        ready = next((each for each in self._monitors if each.ready), None)
        if monitor.serves and ready is not None:
            self._give(ready)
        elif not self._monitors or (self._spare and not monitor.serves and not monitor.strange):
            self._start_at = time.monotonic() + _pause(self._deaths)


def _pause(deaths: int) -> float:
    return _PAUSES[min(max(deaths - 1, 0), len(_PAUSES) - 1)]

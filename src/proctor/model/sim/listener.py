"""A listener of the model as the supervisor's :class:`~proctor.supervisor.ports.ListenerPort`.

Each method goes through the descriptor table of the modelled monitor, as an ioctl would: a number
that was closed and used again leads to somebody else's listener here too.  Each is a port, where
others may have their turn (:mod:`proctor.model.sim.schedule`), and tells the ledger what was done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.errors import AlreadyAnswered, ListenerClosed, TargetFdLimit, Unsupported
from proctor.kernel import abi
from proctor.kernel.notification import Notification
from proctor.model.kernel import listener
from proctor.model.kernel.ioctl import ioctl
from proctor.model.kernel.linux import (
    BLOCKED,
    EBADF,
    EINPROGRESS,
    EINVAL,
    EMFILE,
    ENOENT,
    ESRCH,
    NR,
    O_CLOEXEC,
)
from proctor.model.kernel.listener import Notifications
from proctor.model.sim.accounts import Received
from proctor.model.sim.ledger import SOME, Violation

if TYPE_CHECKING:
    from proctor.model.sim.world import SimWorld

#: Descriptors of the modelled monitor have these numbers for code outside the model, so that none
#: of them is ever one of the machine's that runs it.
FIRST_FD: Final = 1 << 28


class SimListener:
    """:class:`proctor.supervisor.ports.ListenerPort` over a listener of the model."""

    __slots__ = (
        "_got",
        "_world",
        "changing",
        "closed",
        "dead",
        "detached",
        "given_back",
        "journal",
        "name",
        "number",
        "served",
    )

    def __init__(self, world: SimWorld, number: int, name: str) -> None:
        self._world = world
        self.number = number
        self.name = name
        #: As of :class:`proctor.kernel.listener.Listener`.
        self.journal: memoryview | None = None
        self.closed = False
        #: Its monitor was killed.
        self.dead = False
        #: Given to the supervisor, and not back.
        self.served = False
        #: It is just being given, or given back, by somebody's thread.
        self.changing = False
        #: Is being given back by it, or was once.
        self.detached = False
        #: Since when it has no business with it.
        self.given_back: float | None = None
        self._got: Notification | None = None

    @property
    def inside(self) -> Notifications | None:
        """What the number leads to in the monitor's table; None for no listener."""
        file = self._world.monitor.files.slots.get(self.number)
        inside = file.inside if file is not None else None
        return inside if isinstance(inside, Notifications) else None

    def fileno(self) -> int:
        if self.closed:
            raise ListenerClosed
        return self.number

    def _pass(self) -> Notifications:
        """A port is passed: others may have their turn, then the kernel looks at the number."""
        world = self._world
        world.pass_port()
        if self.dead:
            raise OSError(EBADF, "of this monitor nothing is left")
        world.ledger.now = world.schedule.now
        if self.closed:
            raise ListenerClosed
        file = world.monitor.files.slots.get(self.number)
        if file is None or not isinstance(file.inside, Notifications):
            raise OSError(EBADF, "this listener's number leads nowhere")
        return file.inside

    def recv(self, into: memoryview | None = None, slot: int = -1) -> Notification | None:
        notif = self._pass()
        world = self._world
        world.fairness.served(self)
        world.moved = True
        value = listener.recv(world.kernel, world.task(), notif, lambda got: self._write(got, into))
        if value == -ENOENT:
            world.ledger.note("receive nothing", world.who(), 0, self.name)
            return None
        got = self._got
        if value or got is None:
            world.ledger.broken(f"RECV on {self.name} gave {value}: the supervisor hangs in it")
            raise Violation(self.name)
        asked = world.ledger.asked[got.args[0]]
        knotif = notif.notifications[got.id]
        world.ledger.receive(
            Received(got.id, world.lane(self, got.pid), asked, self, knotif, world.schedule.now),
            world.who(),
        )
        return got._replace(slot=slot)

    def _write(self, got: Notification, into: memoryview | None) -> bool:
        self._got = got
        if into is not None:
            into[:] = abi.SECCOMP_NOTIF.pack(
                got.id, got.pid, got.flags, got.nr, got.arch, got.ip, *got.args
            )
        return True

    def send(self, id: int, value: int, error: int, flags: int) -> bool:
        notif = self._pass()
        world = self._world
        received = world.ledger.answering(self, id)
        code = listener.send(world.kernel, notif, id, value, error, flags)
        if code not in (0, -ENOENT):
            if code == -EINPROGRESS:
                raise AlreadyAnswered("this call was answered already, or never received")
            raise OSError(-code, "the answer was refused")
        if received is not None:
            world.ledger.settle(received, (value, error, flags), code == 0, world.who())
        return code == 0

    def id_valid(self, id: int) -> bool:
        return listener.id_valid(self._pass(), id) == 0

    def addfd(
        self,
        id: int,
        srcfd: int,
        *,
        at: int | None = None,
        cloexec: bool = False,
        send: bool = False,
    ) -> int | None:
        self._pass()
        world = self._world
        kernel, ledger, task = world.kernel, world.ledger, world.task()
        received = ledger.answering(self, id)
        flags = (abi.SECCOMP_ADDFD_FLAG_SETFD if at is not None else 0) | (
            abi.SECCOMP_ADDFD_FLAG_SEND if send else 0
        )
        raw = abi.SECCOMP_NOTIF_ADDFD.pack(
            id, flags, (srcfd - FIRST_FD) & 0xFFFFFFFF, at or 0, O_CLOEXEC if cloexec else 0
        )
        if send and received is not None:
            received.asked.answer = SOME  # the caller may have returned before we know
            received.asked.givers += 1
            ledger.note("add fd", world.who(), received.asked.serial, "", received.asked.caller)
        value = kernel.enter(
            task,
            NR["ioctl"],
            perform=lambda: ioctl(kernel, task, self.number, abi.SECCOMP_IOCTL_NOTIF_ADDFD, raw),
        )
        if value == BLOCKED:
            world.schedule.until(lambda: task.result is not None)
            if self.dead:
                raise OSError(EBADF, "of this monitor nothing is left")
            value = task.result if task.result is not None else -EBADF
        world.tick()
        if send and received is not None:
            received.asked.givers -= 1
            if value < 0 and received.asked.answer == SOME and not received.asked.givers:
                received.asked.answer = None
        if value in (-ENOENT, -ESRCH):
            if received is not None:
                ledger.settle(received, None, False, world.who())
            return None
        if value < 0:
            raise self._refused(value, srcfd, at, send)
        if send and received is not None:
            ledger.settle(received, value, True, world.who())
        ledger.counts["descriptor"] += 1
        return value

    def _refused(self, value: int, srcfd: int, at: int | None, send: bool) -> Exception:
        """The errors of ADDFD told apart, as :mod:`proctor.kernel.listener` does."""
        if value == -EMFILE:
            return TargetFdLimit(EMFILE, "the target is at its limit of open files")
        if value == -EBADF and at is not None:
            if self._world.monitor.files.get(srcfd - FIRST_FD, path_too=True) is not None:
                return TargetFdLimit(EBADF, f"number {at} is beyond the target's limit")
        elif value == -EINPROGRESS:
            return AlreadyAnswered("this call was answered already")
        elif value == -EINVAL and send:
            return Unsupported("SECCOMP_ADDFD_FLAG_SEND", "5.14", "two steps")
        return OSError(-value, "the descriptor was refused")

    def close(self) -> None:
        world = self._world
        if not self.closed:
            world.pass_port()
        if self.closed or self.dead:  # perhaps by another thread, right now
            return
        world.tick()
        world.ledger.closes(self)
        self.closed = True
        self.served = False
        world.ledger.note("close", world.who(), 0, self.name)
        world.ports.remove(self)
        if world.monitor.files.close(self.number):
            world.ledger.broken(f"{self.name}: its number was closed by somebody else")

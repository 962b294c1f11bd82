"""One call on its way: what the families work with."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from proctor.call.credentials import NAMESPACES
from proctor.call.verdict import Perform, Verdict
from proctor.performing.executing.requests import Reply
from proctor.performing.executing.workers import Wait
from proctor.performing.identities.who import Key, Own, Who
from proctor.performing.paths import filestat, pins
from proctor.performing.paths.finding import Finding, Pin
from proctor.performing.paths.permitting import permit
from proctor.performing.session import Session
from proctor.performing.trouble import (
    Ended,
    Interrupted,
    Moved,
    Refused,
    Trouble,
)

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.kernel.standing import Standing
    from proctor.performing.performers import Performers

T = TypeVar("T")
#: What a family does: yields what it waits for and returns the verdict.
Work = Generator[Wait, Reply, Verdict]

#: Seconds for an executor to die, on a machine that has much to do: what it mounted is somebody else's alone then.
_DEATH: Final = 1.0
NO_CGROUP: Final = "the caller's cgroup cannot be joined, so its rules for devices would not hold"


class Task(Finding):
    """One call: who makes it, what it may, what its paths lead to, and the executor that acts for it.

    :param wish: what the handler said: with the policy's rule about paths, if there is one.
    :param standing: the caller, as far as every call asks after it.
    :param devices: whether devices may be opened and made: not so where the caller's cgroup has rules
        for them and cannot be joined.
    :param host: what of the performers families ask for.
    """

    __slots__ = (
        "_dying",
        "_wish",
        "asked",
        "devices",
        "host",
        "key",
        "o_path",
        "own",
    )

    def __init__(
        self,
        host: Performers,
        call: Call,
        key: Key,
        own: Own,
        session: Session,
        wish: Perform,
        standing: Standing,
        devices: bool,
        o_path: str,
    ) -> None:
        super().__init__(call, session, standing)
        self.host = host
        self.key = key
        self.own = own
        self.devices = devices
        self.o_path = o_path
        #: Whether somebody wants to see what is pinned.
        self.asked = wish.allow is not None or bool(call.looks)
        self._wish = wish
        self._dying: list[Session] = []

    @property
    def given(self) -> object:
        """The options of its rule, of whatever family; None for that of the call's first."""
        return self._wish.options

    def options(self, kind: type[T]) -> T:
        """How it is to be performed: the options of its rule, or the family's own.

        :param kind: the family's ``Options``.
        :raises TypeError: they are another family's."""
        given = self._wish.options
        if given is None:
            return kind()
        if not isinstance(given, kind):
            raise TypeError(
                f"{self.call.name} is performed with options of another family: {given!r}"
            )
        return given

    @property
    def who(self) -> Who:
        """Whose rights these are."""
        return self.key.who

    @property
    def cgroups(self) -> bytes:
        """The text of the caller's ``/proc/TID/cgroup``, as it is now.

        :raises CallGone: it is dead."""
        return self.standing.cgroups()

    @property
    def umask(self) -> int:
        """The caller's file mode creation mask."""
        return self.standing.umask

    def has_room(self) -> bool:
        """Whether the caller can have one more descriptor."""
        return self.standing.has_room(self._counted_room)

    def _counted_room(self) -> bool:
        return self.call.caller.has_room()

    def owned(self) -> bool:
        """Whether the caller's user namespace is the target's own."""
        return self.host.owned(self.call, self.who, self.standing)

    def shares_pids(self) -> bool:
        """Whether the caller is in the pid namespace that its executor is in, which is the monitor's."""
        ours: int = self.own.key.namespaces[NAMESPACES.index("pid")]
        return self.caller.namespace("pid") == ours

    def outlive(self, session: Session) -> None:
        """Go on while the executor of a session dies; :meth:`buried` waits for that."""
        self._dying.append(session)

    def buried(self) -> Generator[Wait, Reply, None]:
        """Wait for who dies: who is answered is to find what they mounted in nobody else's hands."""
        while self._dying:
            try:
                yield from self._dying[0].end(_DEATH)
            except (Ended, Interrupted, Trouble):
                pass  # nobody waits for that any longer
            self._dying.pop(0).fail()  # as who was used last the next one begins

    def close(self) -> None:
        """Let go of what was pinned, and wait for nobody who dies.  Idempotent."""
        while self._dying:
            self._dying.pop().fail()
        self.let_go()

    def let_go(self) -> None:
        """Let go of what was pinned."""
        self._let_go(0)

    @contextmanager
    def briefly(self) -> Iterator[None]:
        """Let go of what is pinned from here on: another part of the call pins its own, and as many."""
        before = len(self._fds)
        try:
            yield
        finally:
            gone = {None, *self._fds[before:]}
            self._taken = {at: fd for at, fd in self._taken.items() if fd not in gone}
            self._let_go(before)

    def _let_go(self, kept: int) -> None:
        session, slow = self.session, []
        while len(self._fds) > kept:
            fd = self._fds.pop()
            if fd in self._slow or (self.flushes and not pins.only_a_path(fd)):
                slow.append(fd)
                continue
            with suppress(OSError):  # which a server of somebody's may say
                os.close(fd)
        self._slow.difference_update(slow)
        session.executors.closers.close_shortly(session.container, *slow)

    def permit(
        self, path: bytes, status: filestat.Status | None = None, argument: str = "path"
    ) -> None:
        """Ask about what is pinned: the policy, and the looks that led to it.

        :param path: of what is there or would be made.
        :param status: of what is there; None if nothing is.
        :raises Refused: it may not be."""
        permit(self.call, self._wish, argument, path, status)

    def permit_further(self, path: bytes) -> None:
        """Ask about what the kernel comes to from what was pinned, and nobody looked at before.

        :raises Refused: it may not be."""
        refused = self._wish.refusal("path", path)
        if refused is not None:
            raise Refused(refused)

    def refuse_device(self, status: filestat.Status) -> None:
        """
        :raises Trouble: it is a device, and the rules about those would not hold.
        :raises Moved: it is one, and the caller's rules for those are others now."""
        if status.is_device:
            self.expect_device()

    def expect_device(self) -> None:
        """As :meth:`refuse_device`, of what will be a device."""
        if not self.devices:
            raise Trouble(NO_CGROUP)
        if self.elsewhere():
            raise Moved

    def expect_node(self) -> None:
        """As :meth:`expect_device`, of what is made and not opened: cgroups alone have rules for that."""
        if not self.devices:
            raise Trouble(NO_CGROUP)
        if not self.standing.in_its_cgroups():
            raise Moved

    def file(self, path: bytes) -> Generator[Wait, Reply, Pin]:
        """Pin the socket file that an address names, if the policy has nothing against it.

        :raises Said: what the kernel says.
        :raises Refused: what the policy says."""
        pin = yield from self.pin(self.start(pins.AT_FDCWD, path), path, 0, 0)
        assert self.call.signature is not None
        named = (
            self.call.signature.first("sockaddr") or self.call.signature.args[1]
        )  # sendmsg's header
        self.permit(pin.named.path, pin.named.status, named.name)
        return pin

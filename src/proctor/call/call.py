"""One notified system call, decoded lazily and typed.

Making a :class:`Call` keeps two references and decodes nothing; every attribute is worked out when
first read, and memory is copied at most once per argument, so that whatever is decided is decided
about *our* copy.  See :class:`Call`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.call.looking import Looking
from proctor.call.reading import Reading
from proctor.errors import CallGone, CallOver

if TYPE_CHECKING:
    from proctor.call.caller import Caller
    from proctor.call.ports import ContainerPort, MemoryPort, ValidityPort
    from proctor.call.verdict import Verdict
    from proctor.kernel.notification import NotificationLike


class Call(Reading, Looking):
    """One notified system call.

    ::

        call = FakeTarget(cwd="/srv").call("mkdir", "new", 0o755)
        assert isinstance(call, proctor.Call)
        assert (call.name, call.path, call.mode) == ("mkdir", b"new", 0o755)
        assert call.resolve().path == b"/srv/new"

    Arguments are attributes by their names in :mod:`proctor.syscalls.signatures` (``call.mode``,
    ``call.flags``, ``call.dev``), and what follows a command by what it is there (``call.flock`` of
    fcntl's F_SETLK, ``call.optval`` of setsockopt as the option's type); the few that share a name with something below (``fd``, ``name``,
    ``id``, ``args``) are read through :attr:`args`, where every argument is (``call.args.fd``).

    A Call dies with its handler: once the verdict is given, everything but the plain facts of the
    notification (``id tid nr arch abi name registers words signature container memory_read``, ``repr``) raises
    :class:`~proctor.errors.CallOver`.

    Descriptors that are taken through it (:meth:`fd`, :meth:`resolve`, the members of :attr:`caller`)
    belong to the call and are closed when it is over; whoever closes one earlier may hit another file.
    Only what :meth:`take_fd` returns is the asker's, and :func:`~proctor.hand_over` takes over what it
    is given, also from the call.

    :param notification: what was received.
    :param listener: where it was received: asked whether the notification is still valid, and
        named in one-step memory reads.
    :param memory: stands in for the caller's memory; made from ``listener`` when first needed.
    :param caller: stands in for the caller's identity; made when first needed.
    :param container: what the listener belongs to.

    :ivar memory_read: whether anything was looked at that another thread of the target can change
        (memory, descriptors, working directory): from then on plain ``let_run()`` is refused.
    :ivar begun: an earlier monitor had begun to perform this call, and died: nobody knows how far that
        came.  ``perform()`` does it again if it only looks or opens what is there, or is known to have
        changed nothing (:attr:`untouched`), and gives EINTR for all else; a handler that knows better answers.
    :ivar untouched: of such a one, that nothing was changed which is made known by who performs it
        (docs/journal.md).
    :ivar container: what the call's listener belongs to: name, labels, and a ``state`` that its
        handlers share (:class:`proctor.Container`).
    """

    # Class attributes, not slots: the supervisor makes calls without running __init__, and what a
    # handler never asks for is never set.
    _caller: Caller | None = None
    _kept: list[Any] | None = None
    begun: bool = False
    untouched: bool = False
    container: ContainerPort
    #: Whether a rule saw, of an address that is none (0.0.0.0), the one that this leads to: who makes the call names that.
    names_reached: bool = False
    #: A verdict, and what has all its reason, at a price: asked before the answer, if anybody is told.
    explains: tuple[Verdict, Callable[[], str]] | None = None

    def __init__(
        self,
        notification: NotificationLike,
        listener: ValidityPort,
        *,
        memory: MemoryPort | None = None,
        caller: Caller | None = None,
        container: ContainerPort | None = None,
    ) -> None:
        self._notification = notification
        self._listener = listener
        if memory is not None:
            self._memory = memory
        if caller is not None:
            self._caller = caller
        if container is not None:
            self.container = container

    # The caller -----------------------------------------------------------------------------

    @property
    def looked_at(self) -> Caller | None:
        """:attr:`caller`, if somebody asked after it: what it pinned for whoever looked binds whoever acts."""
        return self._caller

    @property
    def caller(self) -> Caller:
        """Who is calling.

        :raises CallerInvisible: it has no pid here (pid 0)."""
        caller: Caller | None = self._caller
        if caller is None:
            if not self.tid:
                raise self._invisible("who it is cannot be found out")
            from proctor.call.caller import Caller

            caller = Caller(self.tid, self._listener, self.id, looked=self._looked)
            self._caller = caller
            self._keep(caller)
        return caller

    def _looked(self) -> None:
        self.memory_read = True

    def valid(self) -> bool:
        """Whether the caller still waits for the answer."""
        try:
            return self._listener.id_valid(self.id)
        except CallGone:  # the listener was closed here
            return False

    def place(self, fd: int, at: int, *, cloexec: bool = False) -> None:
        """Put a copy of ``fd`` at a number of the caller's, in the place of what is open there, now; the
        verdict follows.

        ::

            call.place(log.fileno(), at=1)      # from here on its standard output
            return proctor.let_run()

        :raises CallGone: nobody waits any more.
        :raises TargetFdLimit: the number is beyond the caller's limit.
        """
        if self._listener.addfd(self.id, fd, at=at, cloexec=cloexec) is None:
            raise CallGone().about(pid=self.tid, syscall=self.name, notif_id=self.id)

    def give_away(self, fd: int) -> bool:
        """Own a descriptor no more, if the call does: from now on it is the asker's.  False if the
        call did and is over: then it is closed already.  Works after the verdict, too."""
        caller = self._caller
        return caller is None or caller.give_away(fd)

    def _keep(self, closable: Any) -> None:
        """Close ``closable`` when the call is over."""
        if self._kept is None:
            # The call itself is in it: whoever counts its references sees that it must be expired.
            self._kept = [self]
        self._kept.append(closable)

    # End ------------------------------------------------------------------------------------

    def expire(self) -> None:
        """The verdict was given: close what was taken, refuse further use.  Idempotent."""
        kept = self._kept
        if self.explains is not None:
            self.explains = None  # it holds us
        self.__class__ = _Over
        if kept:
            self._kept = None
            for each in kept[1:]:
                try:
                    each.close()
                except OSError:
                    pass  # a handler closed it against the contract; the others are still ours

    # Text -----------------------------------------------------------------------------------

    def __repr__(self) -> str:
        """Like strace's line, from what is known already: no memory is read."""
        over = " over" if type(self) is _Over else ""
        return f"<Call {self._line(False)} tid={self.tid} id={self.id:#x}{over}>"

    def describe(self, read: bool = True) -> str:
        """Like strace's line: ``openat(AT_FDCWD, "/etc/hosts", O_RDONLY|O_CLOEXEC)``.

        Safe to log: one line of printable ASCII, at most 26 000 characters and mostly far less, for
        at most 20 KiB of memory read.  It never raises for hostile memory.  What cannot be read has the
        reason behind its address: ``open(0x1000 (EFAULT), O_RDONLY)``.  Structures show what is asked
        for, and buffers the first 32 bytes of what is written; what only the kernel writes is an address.

        :param read: whether memory may be read for it (which counts as looking at it).
        """
        return self._line(read)

    def _line(self, read: bool) -> str:
        from proctor.call.strace.line import line

        frame = self.frame
        if frame is None:
            return f"{self.name}({', '.join(f'{number:#x}' for number in self.registers)})"
        return line(frame, read=read)


#: What stays readable when a call is over: facts of the notification, for logs; and what performers tell it, who then
#: have a descriptor in their hands.
_FACTS: Final = frozenset(
    (
        "id", "tid", "nr", "arch", "abi", "name", "registers", "words", "signature", "memory_read", "container",
        "begun", "untouched", "expire", "explains", "give_away", "took_path", "frame", "_line", "_notification", "_values", "_kept",
        "_caller", "_kind", "_look_up",
    )
)  # fmt: skip


class _Over(Call):
    """What a Call becomes when it is over."""

    def __getattribute__(self, name: str) -> Any:
        if name in _FACTS or name[:2] == "__":
            return super().__getattribute__(name)
        raise CallOver(
            f"call.{name} was used after the verdict; copy what is needed before the handler returns"
        ).about(pid=self.tid, syscall=self.name, notif_id=self.id)

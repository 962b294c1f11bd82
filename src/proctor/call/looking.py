"""The part of a call that looks at what other threads of the target can change: who calls, what it has
open, where its paths lead."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, cast

from proctor.call.path import quick
from proctor.call.path.following import Way, resolve, way_of
from proctor.call.path.located import Look, not_resolved
from proctor.call.verdict import Deny, deny
from proctor.kernel.memory import Memory
from proctor.words import escaped

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.caller import Caller
    from proctor.call.path.located import FileId, Located
    from proctor.call.ports import MemoryPort, ValidityPort
    from proctor.kernel.notification import NotificationLike

_REAL = (type(None), Memory)


class Looking:
    """See :class:`proctor.call.call.Call`, which has the rest."""

    #: (argument, path, file, whether it binds)
    _looks: list[tuple[str, bytes, FileId | None, bool]] | None = None

    if TYPE_CHECKING:
        _caller: Caller | None
        _notification: NotificationLike
        _values: dict[str, Any] | None
        memory_read: bool
        _listener: ValidityPort
        _memory: MemoryPort | None

        @property
        def caller(self) -> Caller: ...
        def _keep(self, closable: Any) -> None: ...

    @property
    def exe(self) -> bytes:
        """The caller's program, as the kernel names it: :attr:`proctor.call.caller.Caller.exe`.

        Counts as looking (:attr:`memory_read`): whoever may rename files changes the name."""
        return self.caller.exe

    @property
    def comm(self) -> str:
        """The calling thread's name: :attr:`proctor.call.caller.Caller.comm`.

        Counts as looking (:attr:`memory_read`): any thread of the process can change it."""
        return self.caller.comm

    def fd(self, number: int) -> int:
        """A duplicate of the caller's descriptor ``number``.  It belongs to the call, which closes it
        when it is over; the same number gives the same duplicate.

        It is the same open file description, so offset and status flags are shared.  Counts as
        looking (:attr:`memory_read`): another thread can put another file under that number.

        ::

            if call.name == "write" and os.isatty(call.fd(call.args.fd)):
                return proctor.deny(errno.EIO, "not on a terminal")

        :raises OSError: EBADF for a number that is not open.
        :raises NotPermitted: the kernel does not let us (ptrace access is needed).
        """
        return self.caller.fd(number)

    def take_fd(self, number: int) -> int:
        """As :meth:`fd`, but a new duplicate that belongs to whoever asked and outlives the call.  While
        a duplicate of a pipe's writing end is open, whoever reads the pipe sees no end of it: run() with
        ``capture_output=True`` then waits for it to be closed.

        ::

            with socket.socket(fileno=call.take_fd(call.args.fd)) as theirs:
                ...
        """
        return self.caller.take_fd(number)

    def fd_path(self, number: int) -> bytes:
        """How the kernel names what the caller has open as ``number``: a path, as the monitor's root
        sees it, or text such as ``pipe:[4711]``.  Counts as looking, as :meth:`fd`.

        :raises OSError: EBADF for a number that is not open."""
        return self.caller.fd_path(number)

    def resolve(
        self,
        argument: str | None = None,
        *,
        follow: bool | None = None,
        binds: bool = True,
    ) -> Located:
        """Where a path argument leads, in the caller's view: its root, working directory, dirfd.

        This is resolution *for naming* with the monitor's rights: see :mod:`proctor.call.path.resolve`.
        What it returns is closed with the call.  It counts as looking (:attr:`memory_read`), and binds
        :func:`~proctor.perform`: what is performed after this look is what was found, or is refused
        (:meth:`contradiction`).

        :param argument: name of the path argument; the first one if None.
        :param follow: whether a symbolic link at the end is followed; None for what the call does.
            A look at something else than the call means binds nothing.
        :param binds: False for whoever decides again about what is pinned, by ``perform(allow=...)``.
        :raises NotResolved: it cannot be followed; what the monitor met is not for the caller.
        """
        name, located, meant = resolve(cast("Call", self), argument, follow)
        self._keep(located)
        file = self.caller.file_id(located.pin) if located.pin >= 0 else None
        if self._looks is None:
            self._looks = []
        self._looks.append((name, located.path, file, meant and binds))
        return located

    def where(self, argument: str | None = None) -> bytes | None:
        """:attr:`Located.path` of what :meth:`resolve` finds, for whoever wants no more: it pins nothing,
        binds nothing, and costs much less.

        ::

            if call.where() == b"/etc/passwd":
                return proctor.deny(errno.EROFS)

        :returns: None for a NULL that does not mean the descriptor beside it.  Errors as for
            :meth:`resolve`."""
        call = cast("Call", self)
        way = way_of(call, argument)
        # What stands in for memory or caller is asked, not the thread of that number.
        if self._caller is None and not way.in_struct and type(self._memory) in _REAL:
            found = self._where(call, way)
            if found is not None:
                if self._looks is None:
                    self._looks = []
                self._looks.append((way.name, found, None, False))
                return found
        if call.args[way.name] is None and not way.meaning(call, call.registers)[3]:
            return None
        with self.resolve(argument, binds=False) as located:
            return located.path

    def _where(self, call: Call, way: Way) -> bytes | None:
        """In the usual case, where path and caller are looked at in one go."""
        notification = self._notification
        registers = notification.args
        values = self._values
        known: bytes | None = None if values is None else values.get(way.name)
        path = known or registers[way.reg] & way.mask
        if not (path and notification.pid) or self._listener.fileno() < 0:
            return None
        self.memory_read = True
        base, follows, entry, _ = way.meaning(call, registers)
        try:
            text, found = quick.where(
                notification.pid, path, base, follows, entry,
                self._listener.fileno(), notification.id,
            )  # fmt: skip
        except OSError:
            return None  # it comes out again, in words, step by step
        if known is None:
            if values is None:
                values = self._values = {}
            values[way.name] = text
        if type(found) is int:
            raise not_resolved(found, text).about(pid=call.tid, notif_id=call.id)
        return found  # type: ignore[return-value]  # bytes or None

    @property
    def is_real(self) -> bool:
        """For policies: whether it is a call of a thread that can be looked at, and nothing stands in for it."""
        caller = self._caller
        if not self._notification.pid or type(self._memory) not in _REAL:
            return False
        if caller is None:
            return True
        from proctor.call.caller import Caller

        return type(caller) is Caller  # somebody has asked after it

    def found(self, argument: str, path: bytes) -> None:
        """For policies: where a path leads, by another's word: what :attr:`looks` has, which binds nothing."""
        if self._looks is None:
            self._looks = []
        self._looks.append((argument, path, None, False))

    @property
    def unseen(self) -> bool:
        """For performers: whether nobody has looked at what it is about, nor at who calls."""
        return self._looks is None and self._caller is None

    @property
    def looks(self) -> dict[str, Look]:
        """What path arguments led to when they were looked at, by their names; the last look of each,
        which is what was acted on if the call was performed.  Nothing is looked at for it."""
        return {name: Look(path, file) for name, path, file, _ in self._looks or ()}

    def acts_on(self, argument: str, path: bytes, file: FileId | None) -> None:
        """For performers: what is pinned, or would be made, and will be acted on if it may be.  That is
        what :attr:`looks` has from now on, and a log shows."""
        if self._looks is None:
            self._looks = []
        self._looks.append((argument, path, file, False))

    def contradiction(self, argument: str, path: bytes, file: FileId | None) -> Deny | None:
        """What the looks at ``argument`` have against its being performed on something; for performers.

        :param path: of what is pinned, or would be made, as the caller's root shows it.
        :param file: what is pinned; None where nothing is there.
        :returns: a denial (EACCES) if it is not what every binding look found: another path, or
            something else in its place.  Something that came where nothing was is no contradiction.
        """
        for name, seen, there, binds in self._looks or ():
            if name == argument and binds:
                if seen == path and (there is None or there == file):
                    continue
                return deny(
                    errno.EACCES,
                    f"{argument} led to {escaped(seen)} when it was looked at, and to "
                    f"{'something else there' if seen == path else escaped(path)} then",
                )
        return None

"""One notified system call, decoded lazily and typed.

Making a :class:`Call` keeps two references and decodes nothing; every attribute is worked out when
first read, and memory is copied at most once per argument, so that whatever is decided is decided
about *our* copy.  See :class:`Call`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.call.arguments import Args
from proctor.call.decode.copies import COPIES
from proctor.call.looking import Looking
from proctor.call.notified import Notified
from proctor.errors import (
    CallerInvisible,
    CallGone,
    CallOver,
    MemoryUnreadable,
    ProctorError,
)
from proctor.kernel.memory import PATH_MAX, Memory, read_string, read_together

if TYPE_CHECKING:
    from proctor.call.caller import Caller
    from proctor.call.decode.frame import Frame
    from proctor.call.decode.sockaddr import SocketAddress
    from proctor.call.ports import ContainerPort, MemoryPort, ValidityPort
    from proctor.call.verdict import Verdict, Write
    from proctor.kernel.notification import NotificationLike


class Call(Notified, Looking):
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
    notification (``id tid nr arch abi name registers signature container memory_read``, ``repr``) raises
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
        came, and it is not performed again.  ``perform()`` gives EINTR; a handler that knows better
        answers.
    :ivar container: what the call's listener belongs to: name, labels, and a ``state`` that its
        handlers share (:class:`proctor.Container`).
    """

    # Class attributes, not slots: the supervisor makes calls without running __init__, and what a
    # handler never asks for is never set.
    _listener: ValidityPort
    _memory: MemoryPort | None = None
    _caller: Caller | None = None
    _values: dict[str, Any] | None = None
    _kept: list[Any] | None = None
    memory_read: bool = False
    begun: bool = False
    container: ContainerPort
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

    # Arguments ------------------------------------------------------------------------------

    @property
    def args(self) -> Args:
        """All arguments by name: a read-only mapping with attributes."""
        return Args(self)

    @property
    def path(self) -> bytes:
        """The first path argument, without its NUL; empty for a NULL that the kernel takes.

        Handlers of a group such as ``%file`` meet calls without one (getcwd): they ask
        ``getattr(call, "path", None)``.

        :raises MemoryUnreadable: EFAULT (also for NULL), ENAMETOOLONG.
        :raises AttributeError: the call has no path argument.
        """
        # By a shorter way than other arguments: it is what most handlers read first.
        notification = self._notification
        where = (self._kind or self._look_up())[3]
        if where is None or self._values is not None:
            return self._path(0)
        address = notification.args[where[0]] & where[1]
        if not address:
            return self._path(0)
        path = self._string(address)
        self._values = {where[2]: path}
        return path

    def _string(self, address: int) -> bytes:
        notification = self._notification
        self.memory_read = True
        try:
            if self._memory is None and notification.pid:
                return read_string(notification.pid, address, self._listener, notification.id)
            return self.memory.string(address)
        except (MemoryUnreadable, CallGone) as error:
            raise self._about(error) from None

    @property
    def untaken_path(self) -> int | bytes:
        """For performers: the address of what :attr:`path` would read, if nobody has read any memory yet;
        otherwise :attr:`path`.  Whoever reads it there says what it was (:meth:`took_path`)."""
        notification = self._notification
        where = (self._kind or self._look_up())[3]
        if where is None or self._values is not None or self._memory is not None:
            return self.path
        self.memory_read = True
        return notification.args[where[0]] & where[1] or self.path

    def text(self, argument: str, address: int, most: int = PATH_MAX) -> bytes:
        """For performers: an argument that is text, at an address that is known to be its; by a shorter way than others,
        and read once as they are.

        :param most: bytes that it may have; of what is longer nothing is kept, and it is seen to be wrong in another way.
        :raises MemoryUnreadable: as for :attr:`path`."""
        values = self._values
        if values is None:
            values = self._values = {}
        found: bytes | None = values.get(argument)
        if found is None:
            found = self._string(address)
            if 0 < len(found) <= most:
                values[argument] = found
        return found

    def texts(
        self, texts: Sequence[tuple[str, int, int]], address: int = 0, size: int = 0
    ) -> tuple[bytes, ...]:
        """For performers: several arguments that are text, each as :meth:`text`, and after them what :meth:`copied` says
        of so many bytes; by one look where nobody looked yet.

        :param texts: (argument, address, most bytes that it may have).
        :raises MemoryUnreadable: as for these."""
        notification, number = self._notification, self.listener_fd
        if self._memory is None and self._values is None and notification.pid and number >= 0:
            wanted = [(at, PATH_MAX, True) for _, at, _ in texts]
            if size:
                wanted.append((address, size, False))
            self.memory_read = True
            try:
                found = read_together(notification.pid, number, notification.id, tuple(wanted))
            except OSError:
                pass  # what is wrong is seen one by one, and nothing of it was kept
            else:
                values: dict[str, Any] = {
                    text[0]: read
                    for text, read in zip(texts, found, strict=False)
                    if 0 < len(read) <= text[2]
                }
                if size:
                    values[COPIES] = {address: found[-1]}
                self._values = values
                return found if size else (*found, b"")
        each = [self.text(argument, at, most) for argument, at, most in texts]
        return (*each, self.copied(address, size) if size else b"")

    def took_path(self, path: bytes) -> None:
        """What was read there is what :attr:`path` is from now on."""
        if self._values is None:
            where = (self._kind or self._look_up())[3]
            assert where is not None
            self._values = {where[2]: path}

    @property
    def listener_fd(self) -> int:
        """For performers: where it is asked natively whether the caller still waits; -1 if that is to be had from
        :meth:`valid` only."""
        fileno = getattr(self._listener, "fileno", None)
        return -1 if fileno is None else fileno()

    @property
    def path2(self) -> bytes:
        """The second path argument (rename, link, pivot_root...)."""
        notification, values = self._notification, self._values
        where = (self._kind or self._look_up())[4]
        address = 0 if where is None else notification.args[where[0]] & where[1]
        if where is None or values is None or where[2] in values or not address:
            return self._path(1)
        path = values[where[2]] = self._string(address)
        return path

    @property
    def sockaddr(self) -> SocketAddress:
        """The socket address that is read: by connect, bind, sendto, or in sendmsg's header."""
        frame = self.frame
        for arg in frame.signature.args if frame is not None else ():
            if arg.role == "sockaddr" or (arg.role == "struct" and arg.family == "msghdr"):
                value = self._by_name(arg.name)
                address: SocketAddress = value if arg.role == "sockaddr" else value.address
                return address
        raise AttributeError(f"{self.name} has no socket address that is read")

    def __getattr__(self, name: str) -> Any:
        # Only what is not found otherwise comes here: arguments by name.
        if name[:1] == "_":
            raise AttributeError(name)
        return self._by_name(name)

    @property
    def frame(self) -> Frame | None:
        """What decoding and writing down need of the call, with the signature that its registers make
        (fcntl's by its command, what socketcall stands for); None if its arguments are unknown.

        It is made anew each time and shares what was decoded: a call refers to nothing that refers
        to it."""
        from proctor.call.decode.frame import Frame

        known = (self._kind or self._look_up())[2]
        if known is None:
            return None
        if self._values is None:
            self._values = {}
        return Frame(known, self._notification.args, lambda: self.memory, self._values)

    def _by_name(self, name: str) -> Any:
        values = self._values
        if values is None:
            notification = self._notification
            where = (self._kind or self._look_up())[3]
            if where is not None and where[2] == name and notification.args[where[0]] & where[1]:
                return self.path
        elif name in values:
            return values[name]
        frame = self.frame
        if frame is not None:
            try:
                arg = frame.settled(name)
                if arg is not None:
                    return frame.value(arg)
                for each in frame.signature.args:
                    # openat2 and clone3 carry their flags (and mode) in a structure.
                    if each.family in ("open_how", "clone_args"):
                        inner = frame.value(each)
                        if name in inner._fields:
                            return getattr(inner, name)
            except (MemoryUnreadable, CallGone) as error:
                raise self._about(error) from None
        have = ", ".join(a.name for a in frame.signature.args) if frame is not None else ""
        raise AttributeError(f"{self.name} has no argument {name!r}; it has {have or 'none'}")

    def copied(self, address: int, size: int, *, some: bool = False) -> bytes:
        """What was at an address of the caller's memory when it was first asked for: for arguments that
        the table does not describe.

        :param some: as much of it as can be read, at least one byte.
        :raises MemoryUnreadable: EFAULT.
        """
        frame = self.frame
        memory = self.memory if frame is None else frame.memory
        try:
            return memory.read_some(address, size) if some else memory.read(address, size)
        except (MemoryUnreadable, CallGone) as error:
            raise self._about(error) from None

    def address(self, argument: str) -> int:
        """Where an argument points, which is not looked at; 0 for NULL.

        :raises AttributeError: the call has no such argument."""
        frame = self.frame
        arg = frame.settled(argument) if frame is not None else None
        if frame is None or arg is None:
            raise AttributeError(f"{self.name} has no argument {argument!r}")
        return frame.register(arg)

    def fill(self, argument: str, value: Any = None, /, **fields: Any) -> tuple[Write, ...]:
        """What to write so that an argument is filled, for :func:`~proctor.answer` and
        :func:`~proctor.hand_over`: as the kernel would, for the caller's machine.

        ::

            call.fill("buf", b"some bytes")                      # read, getrandom, getcwd...
            call.fill("buf", sysname="Linux", release="6.6.6")   # uname: a structure by its fields
            call.fill("statbuf", os.stat("/etc/hosts"))          # stat
            call.fill("ruid", 1000)                              # a number
            call.fill("addr", ("192.0.2.1", 80))                 # accept, getsockname: and its length
            call.fill("msg", data=b"...", address=None, control=b"", flags=0)   # recvmsg
            call.fill("iov", b"...")                             # readv: scattered

        :param argument: one that the call fills (``out`` and ``inout`` in
            :mod:`proctor.syscalls.signatures`).
        :param value: bytes, a number, a sequence of what an array has, a structure as it is decoded, a
            socket address (of :mod:`proctor.call.decode.sockaddr`, or ``(host, port)``), an
            :class:`os.stat_result`.
        :param fields: of a structure, the others 0.
        :returns: nothing where the caller passed NULL and may; several where the kernel writes at
            several places.  Socket addresses are cut to the length that the caller gave, and their
            own is written there, as ``move_addr_to_user`` does.  That length is read now.
        :raises TypeError: the call does not fill that, or such a value means nothing there.
        :raises ValueError: more than there is room for, or a number that does not fit.
        :raises MemoryUnreadable: a length that the caller passed by address cannot be read.
        """
        from proctor.call.filling import fill

        frame = self.frame
        if frame is None:
            raise TypeError(f"the arguments of {self.name} are not known")
        try:
            return fill(frame, argument, value, fields)
        except (MemoryUnreadable, CallGone) as error:
            raise self._about(error) from None

    def room(self, address: int, size: int) -> int:
        """For performers: how many of so many bytes of the caller's memory can be written to, from the first on, as its
        mappings are now.

        :raises CallGone: nobody calls any more."""
        room: Callable[[int, int], int] | None = getattr(self.memory, "room", None)
        return (
            size if room is None else room(address, size)
        )  # what stands in for memory has all of it

    def _path(self, index: int) -> bytes:
        frame = self.frame
        paths = frame.signature.with_role("path") if frame is not None else ()
        if index >= len(paths):
            which = "a second path argument" if index else "a path argument"
            raise AttributeError(f"{self.name} does not have {which}")
        assert frame is not None
        try:
            value = frame.value(paths[index])
        except (MemoryUnreadable, CallGone) as error:
            raise self._about(error) from None
        if value is None:  # where the kernel takes NULL: utimensat(fd, NULL) is about fd itself
            return b""
        assert isinstance(value, bytes)
        return value

    def _about(self, error: ProctorError) -> ProctorError:
        return error.about(pid=self.tid, syscall=self.name, notif_id=self.id)

    # The caller -----------------------------------------------------------------------------

    @property
    def memory(self) -> MemoryPort:
        """The caller's memory.  Handing it out counts as looking at it (:attr:`memory_read`).

        :raises CallerInvisible: the caller has no pid here, so there is nothing to read by."""
        self.memory_read = True
        memory: MemoryPort | None = self._memory
        if memory is None:
            if not self.tid:
                raise self._invisible("its memory cannot be read")
            memory = Memory(self.tid, self._listener, self.id)
            self._memory = memory
        return memory

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
        return self._listener.id_valid(self.id)

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

    def _invisible(self, consequence: str) -> CallerInvisible:
        error = CallerInvisible(
            f"the caller has no number in our pid namespace, so {consequence}; it can only be "
            "answered (run the monitor in the caller's pid namespace or one above it)"
        )
        error.about(syscall=self.name, notif_id=self.id)
        return error

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
        "id", "tid", "nr", "arch", "abi", "name", "registers", "signature", "memory_read", "container",
        "begun", "expire", "explains", "give_away", "took_path", "frame", "_line", "_notification", "_values", "_kept",
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

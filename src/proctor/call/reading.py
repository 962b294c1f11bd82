"""The part of a call that reads its arguments: each is copied once from the caller's memory, and what is decided is
decided about that copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from proctor.call.arguments import Args
from proctor.call.decode.copies import COPIES
from proctor.call.notified import Notified
from proctor.errors import CallerInvisible, CallGone, MemoryUnreadable, ProctorError
from proctor.kernel.memory import PATH_MAX, Memory, read_string, read_together

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.decode.frame import Frame
    from proctor.call.decode.sockaddr import SocketAddress
    from proctor.call.ports import MemoryPort, ValidityPort
    from proctor.call.verdict import Write


class Reading(Notified):
    """See :class:`proctor.call.call.Call`, which has the rest."""

    _listener: ValidityPort
    _memory: MemoryPort | None = None
    _values: dict[str, Any] | None = None
    memory_read: bool = False

    @property
    def args(self) -> Args:
        """All arguments by name: a read-only mapping with attributes."""
        return Args(cast("Call", self))

    @property
    def path(self) -> bytes:
        """The first path argument, without its NUL; empty for a NULL that the kernel takes.

        Handlers of a group such as ``%file`` meet calls without one (getcwd): they ask
        ``getattr(call, "path", None)``.

        :raises MemoryUnreadable: EFAULT (also for NULL), ENAMETOOLONG.
        :raises AttributeError: the call has no path argument.
        """
        # By a shorter way than other arguments: it is what most handlers read first.
        notification, values = self._notification, self._values
        where = (self._kind or self._look_up())[3]
        address = 0 if where is None else notification.args[where[0]] & where[1]
        if where is None or not address:
            return self._path(0)
        path: bytes | None = None if values is None else values.get(where[2])
        if path is None:
            path = self._string(address)
            if values is None:
                self._values = {where[2]: path}
            else:
                values[where[2]] = path
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

    def _invisible(self, consequence: str) -> CallerInvisible:
        error = CallerInvisible(
            f"the caller has no number in our pid namespace, so {consequence}; it can only be "
            "answered (run the monitor in the caller's pid namespace or one above it)"
        )
        error.about(syscall=self.name, notif_id=self.id)
        return error

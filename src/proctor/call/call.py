"""One notified system call, decoded lazily and typed.

Making a :class:`Call` keeps two references and decodes nothing; every attribute is worked out when
first read, and memory is copied at most once per argument, so that whatever is decided is decided
about *our* copy.  See :class:`Call`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from proctor.filter import tables
from proctor.filter.signatures import Arg, Signature, signature
from proctor.kernel.errors import CallerInvisible, CallGone, CallOver, MemoryUnreadable

if TYPE_CHECKING:
    from proctor.call.caller import Caller
    from proctor.call.paths import Located
    from proctor.call.ports import MemoryPort, ValidityPort
    from proctor.call.sockaddr import SocketAddress
    from proctor.kernel.notification import NotificationLike


class Call:
    """One notified system call.

    Arguments are attributes by their names in :mod:`proctor.filter.signatures` (``call.mode``,
    ``call.flags``, ``call.dev``); the few that share a name with something below (``fd``, ``name``,
    ``id``, ``args``) are read through :attr:`args`, where every argument is (``call.args.fd``).

    A Call dies with its handler: once the verdict is given, everything but the plain facts of the
    notification (``id tid nr arch abi name raw signature memory_read``, ``repr``) raises
    :class:`~proctor.kernel.errors.CallOver`.  Descriptors that were taken through it are closed
    then.

    :param notification: what was received.
    :param listener: where it was received: asked whether the notification is still valid, and
        named in one-step memory reads.
    :param memory: stands in for the caller's memory; made from ``listener`` when first needed.
    :param caller: stands in for the caller's identity; made when first needed.
    :param target: whatever the owner of the listener wants handlers to see as :attr:`target`.

    :ivar id: the notification's id.
    :ivar tid: thread id of the caller as we see it; 0 if it has none in our pid namespace.
    :ivar nr: system call number, signed.
    :ivar arch: AUDIT_ARCH_* number.
    :ivar raw: the six registers, all 64 bits of them.
    :ivar abi: architecture by name ("x86_64", "i386", "x32"...).
    :ivar name: the call's name, or ``syscall_0x1f4`` for a number that has none.
    :ivar signature: its arguments' names and roles; None if they are unknown.
    :ivar args: all arguments by name, a read-only mapping with attributes.
    :ivar path: the first path argument, bytes without NUL.
    :ivar path2: the second one (rename, link, pivot_root...).
    :ivar sockaddr: the socket address that is read.
    :ivar memory: the caller's memory; handing it out counts as looking at it.
    :ivar caller: who is calling.
    :ivar memory_read: whether anything was looked at that another thread of the target can change
        (memory, descriptors, working directory): from then on plain ``let_run()`` is refused.
    """

    __slots__ = (
        "__weakref__",
        "_caller",
        "_kept",
        "_listener",
        "_memory",
        "_notification",
        "_values",
        "abi",
        "arch",
        "args",
        "caller",
        "id",
        "memory_read",
        "name",
        "nr",
        "path",
        "raw",
        "signature",
        "sockaddr",
        "target",
        "tid",
    )

    id: int
    tid: int
    nr: int
    arch: int
    abi: str
    name: str
    signature: Signature | None
    raw: tuple[int, int, int, int, int, int]
    args: Args
    path: bytes
    sockaddr: SocketAddress
    caller: Caller
    memory_read: bool
    target: object

    def __init__(
        self,
        notification: NotificationLike,
        listener: ValidityPort,
        *,
        memory: MemoryPort | None = None,
        caller: Caller | None = None,
        target: object = None,
    ) -> None:
        self._notification = notification
        self._listener = listener
        self._memory = memory
        self._caller = caller
        self._values: dict[str, Any] | None = None
        self._kept: list[Any] | None = None
        self.memory_read = False
        self.target = target

    def __getattr__(self, name: str) -> Any:
        # Reached for slots that are not filled yet, and for arguments by name.
        make = _LAZY.get(name)
        if make is not None:
            value = make(self)
            setattr(self, name, value)
            return value
        if name[:1] == "_":
            raise AttributeError(name)
        return self._by_name(name)

    # Arguments ------------------------------------------------------------------------------

    def _by_name(self, name: str) -> Any:
        known = self.signature
        arg = known.arg(name) if known is not None else None
        if arg is not None:
            return self._value(arg)
        if known is not None:
            for each in known.args:
                # openat2 and clone3 carry their flags (and mode) in a structure.
                if each.family in ("open_how", "clone_args"):
                    inner = self._value(each)
                    if name in inner._fields:
                        return getattr(inner, name)
        have = ", ".join(a.name for a in known.args) if known is not None else ""
        raise AttributeError(f"{self.name} has no argument {name!r}; it has {have or 'none'}")

    def _value(self, arg: Arg) -> Any:
        values = self._values
        if values is None:
            values = self._values = {}
        name = arg.name
        if name in values:
            return values[name]
        from proctor.call import decode

        number = arg.value(self.raw)
        if decode.needs_memory(arg):
            try:
                value = decode.pointed(arg, number, self._frame())
            except (MemoryUnreadable, CallGone) as error:
                error.about(pid=self.tid, syscall=self.name, notif_id=self.id)
                raise
        else:
            value = decode.plain(arg, number, self.abi)
        values[name] = value
        return value

    def _frame(self) -> Any:
        from proctor.call.structures import Frame

        assert self.signature is not None
        order = "big" if self.abi in tables.BIG_ENDIAN else "little"
        return Frame(self.memory, self.signature, self.raw, order)

    @property
    def path2(self) -> bytes:
        """The second path argument."""
        return self._path(1)

    def _path(self, index: int) -> bytes:
        known = self.signature
        paths = known.with_role("path") if known is not None else ()
        if index >= len(paths):
            which = "a second path argument" if index else "a path argument"
            raise AttributeError(f"{self.name} does not have {which}")
        value = self._value(paths[index])
        if value is None:
            raise MemoryUnreadable(errno.EFAULT, f"{paths[index].name} is NULL").about(
                pid=self.tid, syscall=self.name, notif_id=self.id
            )
        assert isinstance(value, bytes)
        return value

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
            from proctor.kernel.memory import Memory

            memory = Memory(self.tid, self._listener, self.id)
            self._memory = memory
        return memory

    def valid(self) -> bool:
        """Whether the caller still waits for the answer."""
        return self._listener.id_valid(self.id)

    def fd(self, number: int) -> int:
        """A duplicate of the caller's descriptor ``number``; it belongs to whoever asked.

        It is the same open file description, so offset and status flags are shared.  Counts as
        looking (:attr:`memory_read`): another thread can put another file under that number.

        :raises OSError: EBADF for a number that is not open.
        :raises NotPermitted: the kernel does not let us (ptrace access is needed).
        """
        self.memory_read = True
        return self.caller.descriptor(number)

    def resolve(
        self,
        argument: str | None = None,
        *,
        follow: bool | None = None,
    ) -> Located:
        """Where a path argument leads, in the caller's view: its root, working directory, dirfd.

        This is resolution *for naming* with the monitor's rights: see :mod:`proctor.call.paths`.
        The result's descriptor is closed with the call.

        :param argument: name of the path argument; the first one if None.
        :param follow: whether a symbolic link at the end is followed; None for what the call does.
        :raises OSError: the errno the kernel would give.
        """
        from proctor.call.following import resolve

        located = resolve(self, argument, follow)
        self._keep(located)
        return located

    def _keep(self, closable: Any) -> None:
        """Close ``closable`` when the call is over."""
        if self._kept is None:
            self._kept = []
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
        self.__class__ = _Over
        if kept:
            self._kept = None
            for each in kept:
                each.close()

    # Text -----------------------------------------------------------------------------------

    def __repr__(self) -> str:
        """Like strace's line, from what is known already: no memory is read."""
        from proctor.call.text import line

        over = " over" if type(self) is _Over else ""
        return f"<Call {line(self, read=False)} tid={self.tid} id={self.id:#x}{over}>"

    def describe(self, read: bool = True) -> str:
        """Like strace's line: ``openat(AT_FDCWD, "/etc/hosts", O_RDONLY|O_CLOEXEC)``.

        Safe to log: bytes are escaped and cut.  It never raises for hostile memory.

        :param read: whether memory may be read for it (which counts as looking at it).
        """
        from proctor.call.text import line

        return line(self, read=read)


#: What stays readable when a call is over: facts of the notification, for logs.
_FACTS: Final = frozenset(
    (
        "id", "tid", "nr", "arch", "abi", "name", "raw", "signature", "memory_read", "target",
        "expire", "_notification", "_values", "_kept", "_by_name",
    )
)  # fmt: skip


class _Over(Call):
    """What a Call becomes when it is over."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name in _FACTS or name[:2] == "__":
            return super().__getattribute__(name)
        raise CallOver(
            f"call.{name} was used after the verdict; copy what is needed before the handler returns"
        ).about(pid=self.tid, syscall=self.name, notif_id=self.id)

    def __getattr__(self, name: str) -> Any:
        if name in _FACTS:
            value = _LAZY[name](self)
            setattr(self, name, value)
            return value
        return self.__getattribute__(name)


class Args:
    """The arguments of one call by name: ``args.mode``, ``args["mode"]``, in the call's order.

    Decoded when read; iterating gives names, so listing reads no memory.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def _args(self) -> tuple[Arg, ...]:
        known = self._call.signature
        return known.args if known is not None else ()

    def __getattr__(self, name: str) -> Any:
        return self._call._by_name(name)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._call._by_name(name)
        except AttributeError as error:
            raise KeyError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter([a.name for a in self._args()])

    def __len__(self) -> int:
        return len(self._args())

    def __contains__(self, name: object) -> bool:
        return any(a.name == name for a in self._args())

    def keys(self) -> list[str]:
        """The names, in order."""
        return [a.name for a in self._args()]

    def number(self, name: str) -> int:
        """The argument as the plain number the kernel sees: width and sign as the kernel's."""
        for arg in self._args():
            if arg.name == name:
                return arg.value(self._call.raw)
        raise KeyError(f"{self._call.name} has no argument {name!r}")

    def __repr__(self) -> str:
        return f"<Args of {self._call!r}>"


# What is known about a (architecture, number) pair; hostile numbers are not remembered for ever.
# The last item is where the first path is: register and width.
_Kind = tuple[str, str, "Signature | None", "tuple[int, int, str] | None"]
_kinds: dict[tuple[int, int], _Kind] = {}
_KINDS_KEPT: Final = 4096


def _kind(call: Call) -> _Kind:
    notification = call._notification
    nr, arch = notification.nr, notification.arch
    found = _kinds.get((arch, nr))
    if found is None:
        abi = tables.arch_of(arch, nr)
        name = tables.name(nr, abi)
        known = signature(name, abi) if name is not None and abi in tables.ARCHES else None
        path = known.first("path") if known is not None else None
        where = (path.reg, path.mask, path.name) if path is not None else None
        found = (abi, name or f"syscall_{nr & 0xFFFFFFFF:#x}", known, where)
        if len(_kinds) < _KINDS_KEPT:
            _kinds[arch, nr] = found
    return found


def _first_path(call: Call) -> bytes:
    """``call.path``: what most handlers read first, so by a shorter way than other arguments."""
    where = _kind(call)[3]
    values = call._values
    if where is None or (values is not None and where[2] in values):
        return call._path(0)
    notification = call._notification
    address = notification.args[where[0]] & where[1]
    memory: MemoryPort | None = call._memory
    if not address or (memory is None and not notification.pid):
        return call._path(0)
    call.memory_read = True
    try:
        if memory is None:
            from proctor.kernel.memory import Memory

            memory = Memory(notification.pid, call._listener, notification.id)
            call._memory = memory
        path = memory.string(address, 4096)
    except (MemoryUnreadable, CallGone) as error:
        error.about(pid=call.tid, syscall=call.name, notif_id=call.id)
        raise
    if values is None:
        values = call._values = {}
    values[where[2]] = path
    return path


def _caller(call: Call) -> Caller:
    given = call._caller
    if given is not None:
        return given
    if not call.tid:
        raise call._invisible("who it is cannot be found out")
    from proctor.call.caller import Caller

    def looked() -> None:
        call.memory_read = True

    made = Caller(call.tid, call._listener, call.id, looked=looked)
    call._keep(made)
    return made


def _sockaddr(call: Call) -> SocketAddress:
    known = call.signature
    arg = known.first("sockaddr") if known is not None else None
    if arg is not None:
        value: SocketAddress = call._value(arg)
        return value
    if known is not None:
        for each in known.args:
            if each.family == "msghdr":
                address: SocketAddress = call._value(each).address
                return address
    raise AttributeError(f"{call.name} has no socket address that is read")


_LAZY: Final[dict[str, Any]] = {
    "id": lambda call: call._notification.id,
    "tid": lambda call: call._notification.pid,
    "nr": lambda call: call._notification.nr,
    "arch": lambda call: call._notification.arch,
    "raw": lambda call: call._notification.args,
    "abi": lambda call: _kind(call)[0],
    "name": lambda call: _kind(call)[1],
    "signature": lambda call: _kind(call)[2],
    "args": Args,
    "path": _first_path,
    "sockaddr": _sockaddr,
    "caller": _caller,
}

"""A target on paper, and its calls: see :class:`FakeTarget`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from proctor.call.call import Call
from proctor.call.path.walk import walk
from proctor.call.verdict import Deny, Verdict
from proctor.errors import CallOver
from proctor.kernel.notification import Notification
from proctor.supervisor.container import Container
from proctor.supervisor.deciding import Performer
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.signatures import signature
from proctor.testing.caller import (
    INITIAL_NAMESPACES,
    CapsLike,
    FakeCaller,
    IdsLike,
    capabilities,
    ids,
)
from proctor.testing.encode import registers
from proctor.testing.performer import FakePerformer, Performed, read_all
from proctor.testing.process import OpenFile, Process
from proctor.testing.running import FakeListener, FakeOutcome, Handlers, run
from proctor.testing.space import FakeMemory, View
from proctor.testing.tree import Entry, Node, Tree, TreeFiles, encoded


class FakeTarget:
    """A process that exists on paper, for testing handlers on any platform.

    ::

        handler = proctor.Handler(["openat"], lambda call: proctor.deny(errno.EACCES))
        target = FakeTarget(uid=1000, files={"/etc/passwd": b"root:x:0:0"}, cwd="/etc")
        call = target.call("openat", AT_FDCWD, "passwd", os.O_RDONLY)
        assert handler(call) == proctor.deny(errno.EACCES)    # just the handler, or
        outcome = target.run(handler, call)                   # what the supervisor makes of it
        assert outcome.errno == errno.EACCES

    Calls are real :class:`~proctor.call.call.Call` objects: decoded by the same code from a
    notification, with memory and ``/proc/TID`` of the test's making.  One that looked at memory
    knows it, one that is over refuses to be used, and so on.

    :param files: the file-system tree: absolute paths to content, None for a directory, or a
        :class:`~proctor.testing.Node` (symbolic links, devices, owners, modes).
    :param root: the caller's root directory, a path of the tree: as after chroot(2).
    :param cwd: its working directory, a path of the *tree*; outside of ``root`` it is unreachable.
        Both are made if they are missing.
    :param uid: one number, or (real, effective, saved, file system).
    :param gid: the same; ``uid`` if None.
    :param groups: supplementary groups.
    :param caps: capabilities: names such as ``["CAP_MKNOD"]``, a mask, all sets
        (:class:`~proctor.call.identity.Capabilities`), or None: all for uid 0, none for others.
    :param umask: file mode creation mask.
    :param tid: thread id as the monitor sees it; 0 is a caller in a foreign pid namespace, whom
        nobody can look at.  By default a number no real process has.
    :param inside: its ids in nested pid namespaces, the outer ones first.
    :param namespaces: inode numbers by kind ("user", "mnt"...) where they are not the initial ones.
    :param exe: path of the program.
    :param cmdline: its arguments.
    :param comm: the thread's name.
    :param cgroup: path of its control group.
    :param label: of the security module; empty for none.
    :param dumpable: False makes memory, descriptors and places unreadable, as for a program that
        has more rights than the monitor.
    :param nofile: RLIMIT_NOFILE: how many descriptors the target can have.
    :param container: what handlers see as ``call.container``; an empty one by default.

    Whoever makes a target closes it (``with FakeTarget(...) as target:``, or the ``fake_target``
    fixture of :mod:`proctor.testing.fixtures`).

    :ivar performed: calls that ``perform()`` was said to, in order.
    :ivar no_new_privs: whether execve(2) can give it nothing.
    :ivar pending: signals that wait for it and are not blocked.
    """

    def __init__(
        self,
        files: Mapping[str, Entry] | Tree | None = None,
        *,
        root: str = "/",
        cwd: str = "/",
        uid: IdsLike = 1000,
        gid: IdsLike | None = None,
        groups: Iterable[int] = (),
        caps: CapsLike = None,
        umask: int = 0o022,
        tid: int | None = None,
        inside: Iterable[int] = (),
        namespaces: Mapping[str, int] | None = None,
        exe: str | bytes = "/usr/bin/target",
        cmdline: Iterable[str | bytes] = ("target",),
        comm: str = "target",
        cgroup: str | bytes = "/",
        label: str | bytes = "",
        dumpable: bool = True,
        nofile: int = 1024,
        container: Container | None = None,
    ) -> None:
        if container is not None and container.handlers is not None:
            raise ValueError("a fake target's container has no handlers: run() is given them")
        self.container = Container("fake") if container is None else container
        self.process = Process(files if isinstance(files, Tree) else Tree(files), nofile)
        self.tid = self.process.next_tid() if tid is None else tid
        self.pid = self.tid
        self.inside = tuple(inside)
        self.uids = ids(uid)
        self.gids = ids(uid if gid is None else gid)
        self.groups = tuple(groups)
        self.caps = capabilities(caps, self.uids.effective)
        self.umask = umask
        self.namespaces = {**INITIAL_NAMESPACES, **(namespaces or {})}
        self.exe = encoded(exe)
        self.cmdline = tuple(encoded(word) for word in cmdline)
        self.comm = comm
        self.cgroup = encoded(cgroup)
        self.label = encoded(label)
        self.dumpable = dumpable
        self.no_new_privs = True
        self.pending: set[int] = set()
        self.performed: list[Performed] = []
        self._ended = False
        for path in (root, cwd):
            if path not in self.files:
                self.files[path] = None
        self.process.root = self._directory(root)
        self.process.cwd = self._directory(cwd)

    def _directory(self, path: str) -> Node:
        node = self.files[path]
        if not node.is_directory:
            raise ValueError(f"{path} is not a directory of the tree")
        return node

    # What it has ------------------------------------------------------------------------------

    @property
    def files(self) -> Tree:
        """The file-system tree: ``target.files["/etc/motd"] = b"..."``."""
        return self.process.tree

    @property
    def memory(self) -> FakeMemory:
        """Its memory; values of calls are placed there."""
        return self.process.memory

    @property
    def clock(self) -> float:
        """Virtual seconds that have passed: sleeps of coroutines, and :meth:`advance`."""
        return self.process.clock

    def advance(self, seconds: float) -> None:
        """Let time pass, also from inside a handler: deadlines that come due are kept."""
        self.process.advance(seconds)

    def chdir(self, path: str) -> None:
        """Change the working directory to another path of the tree."""
        self.process.cwd = self._directory(path)

    def chroot(self, path: str) -> None:
        """Change the root directory to another path of the tree; the working directory stays."""
        self.process.root = self._directory(path)

    # Descriptors ------------------------------------------------------------------------------

    def open(self, path: str | bytes, *, follow: bool = True, at: int | None = None) -> int:
        """Open something of the tree in the target and return the target's number for it.

        :param path: as the target would write it: from its root or working directory.
        :param at: the number to get; the lowest free one (3 at first) if None.
        :raises OSError: ENOENT and so on, as for the target.
        """
        process = self.process
        files = TreeFiles(process.root, lambda _: process.cwd)
        place = walk(files, encoded(path), follow=follow)
        if place.pin is None:
            raise FileNotFoundError(2, os.strerror(2), path)
        return process.install(OpenFile(place.pin), at)

    def give(self, fd: int, *, at: int | None = None) -> int:
        """Put a descriptor of the test's (a socket, a pipe) into the target; returns the target's
        number.  ``fd`` stays the test's."""
        file = OpenFile(None, os.dup(fd))
        try:
            return self.process.install(file, at)
        except OSError:
            file.close()
            raise

    def close_fd(self, number: int) -> None:
        """close(2) in the target."""
        self.process.close_fd(number)

    def read(self, number: int) -> bytes:
        """What the target can read from its descriptor, from the position where that stands."""
        return read_all(self.process.file(number).fileno())

    @property
    def fds(self) -> tuple[int, ...]:
        """The target's open descriptors, sorted."""
        return tuple(sorted(self.process.open))

    # Calls ------------------------------------------------------------------------------------

    def call(
        self, name: str | int, /, *arguments: Any, abi: str = "x86_64", **named: Any
    ) -> FakeCall:
        """A call that this target makes and that waits for its verdict.

        :param name: of the system call; a number for one that has no name.
        :param arguments: in the call's order: numbers, and where the call takes an address also
            what is to be there: text or bytes for paths and strings, lists of them for argv,
            ``(host, port)`` or a value of :mod:`proctor.call.decode.sockaddr` for socket addresses, values
            of :mod:`proctor.call.decode.structures` for structures, bytes for buffers, lists of bytes for
            vectors, None for NULL.  Missing lengths and counts are filled in, other missing
            arguments are 0.
        :param abi: of the caller: "x86_64", "i386", "x32", "aarch64"...
        :param named: arguments by name.
        :raises FilterError: the ABI has no such call.
        :raises TypeError: a value means nothing in its place.
        """
        return FakeCall(name, *arguments, target=self, abi=abi, named=named)

    def thread(
        self,
        *,
        tid: int | None = None,
        inside: Iterable[int] | None = None,
        uid: IdsLike | None = None,
        gid: IdsLike | None = None,
        caps: CapsLike = None,
        comm: str | None = None,
    ) -> FakeTarget:
        """One more thread of the same process: memory, tree, places and descriptors are shared,
        credentials are its own (the leader's where not given)."""
        made = object.__new__(FakeTarget)
        made.__dict__.update(self.__dict__)
        made.tid = self.process.next_tid() if tid is None else tid
        made.inside = self.inside if inside is None else tuple(inside)
        made.uids = self.uids if uid is None else ids(uid)
        made.gids = self.gids if gid is None else ids(gid)
        if caps is not None or uid is not None:
            made.caps = capabilities(caps, made.uids.effective)
        made.comm = self.comm if comm is None else comm
        made._ended = False
        return made

    def run(
        self,
        handlers: Handlers,
        call: Call,
        *,
        default: Verdict | None = None,
        on_error: Deny | None = None,
        deadline: float | None = None,
        on_deadline: Verdict | None = None,
        performer: Performer | Verdict | None = None,
        describe: bool = False,
    ) -> FakeOutcome:
        """Decide a call as the supervisor would, with the supervisor's own code.

        Handlers that want the call are asked in order and the first verdict wins; what raises, is
        no verdict or is racy gives ``on_error`` (and :attr:`FakeOutcome.error` says why); slow
        handlers, coroutines and deadlines run in virtual time; a descriptor that is handed over is
        closed on our side and can be read from the outcome.  Afterwards the call is over.

        :param handlers: made by :func:`proctor.on`, or plain functions, which get every call.
        :param performer: carries ``perform()`` out: a function ``(call, verdict) -> verdict``, or
            the verdict it would have come to.  By default
            :class:`~proctor.testing.performer.FakePerformer`, on the tree.
        :param describe: whether the outcome has the call as strace would write it.

        The other parameters are those of :class:`~proctor.supervisor.supervisor.Supervisor`.

        :raises CallOver: the call was decided before.
        :raises TimeoutError: the handler never ends, and no deadline ends it.
        """
        listener = call._listener if isinstance(call, FakeCall) else None
        if not isinstance(listener, FakeListener):
            raise CallOver(
                "this call was decided already; make another one with target.call()"
            ).about(pid=call.tid, syscall=call.name, notif_id=call.id)
        return run(
            self,
            handlers,
            call,
            listener,
            FakePerformer(self) if performer is None else performer,
            describe,
            {
                "default": default,
                "on_error": on_error,
                "deadline": deadline,
                "on_deadline": on_deadline,
            },
        )

    # End --------------------------------------------------------------------------------------

    @property
    def dead(self) -> bool:
        """Whether this thread, or its whole process, is gone."""
        return self._ended or self.process.dead

    def die(self) -> None:
        """The thread is gone, and with it its pending calls; the first thread takes the process
        with it."""
        self._ended = True
        if self.tid == self.pid:
            self.process.dead = True

    def interrupt(self, call: Call) -> None:
        """A signal ends one pending call: its notification is gone, its caller lives on."""
        listener = call._listener
        assert isinstance(listener, FakeListener)
        listener.cancelled = True

    def close(self) -> None:
        """End every call and give all descriptors back; idempotent."""
        self.process.close()

    def __enter__(self) -> FakeTarget:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FakeTarget tid={self.tid} uid={self.uids.effective}>"


class FakeCall(Call):
    """A real :class:`~proctor.call.call.Call` of a :class:`FakeTarget`.

    ``target.call(...)`` makes them; on its own it brings a target of its own, whose options are
    given by name::

        call = FakeCall("mkdir", "/srv/x", 0o755, uid=0)
        assert call.made_by.run(lambda call: proctor.let_run(), call).ran

    :param name: see :meth:`FakeTarget.call`, as for the rest.
    :param named: arguments of the call by name.
    :param options: of the :class:`FakeTarget` that is made where none is given.
    """

    made_by: FakeTarget

    def __init__(
        self,
        name: str | int,
        /,
        *arguments: Any,
        target: FakeTarget | None = None,
        abi: str = "x86_64",
        named: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if target is None:
            target = FakeTarget(**options)
        elif options:
            raise TypeError(f"{', '.join(options)}: options of a target that exists already")
        number = tables.number(name, abi) if isinstance(name, str) else name
        known = signature(name, abi) if isinstance(name, str) else None
        if known is not None:
            raw = registers(target.memory, known, arguments, named or {})
        else:
            raw = _plain(name, arguments, named)
        id = target.process.next_id()
        listener = FakeListener(target, id)
        notification = Notification(id, target.tid, number, ARCHITECTURES[abi].audit, raw)
        asked = target
        order = "big" if ARCHITECTURES[abi].big_endian else "little"
        memory = View(target.memory, target.tid, listener, id, lambda: asked.dumpable, order)
        super().__init__(
            notification,
            listener,
            memory=memory if target.tid else None,
            container=target.container,
        )
        self.made_by = target
        if target.tid:
            self._caller = FakeCaller(target, self)
            self._keep(self._caller)
        target.process.calls.append(self)


def _plain(
    name: str | int, arguments: tuple[Any, ...], named: Mapping[str, Any] | None
) -> tuple[int, int, int, int, int, int]:
    """Registers of a call nobody has a signature for."""
    if named or len(arguments) > 6 or not all(isinstance(each, int) for each in arguments):
        raise TypeError(f"the arguments of {name} are not known: pass up to six numbers")
    made = [each & 0xFFFFFFFFFFFFFFFF for each in arguments] + [0] * (6 - len(arguments))
    return made[0], made[1], made[2], made[3], made[4], made[5]

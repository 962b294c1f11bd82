"""connect: see :mod:`proctor.performing.families.connect`.

Where a socket stays the caller's own and its address is no file's, the executor is asked one question: :class:`ConnectWay`
asks it without all that it takes to wait, as :mod:`proctor.performing.short_ways.short` has it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from proctor.call.messages import address as address_of
from proctor.call.messages import named
from proctor.call.verdict import answer, deny
from proctor.errors import CallGone, MemoryUnreadable
from proctor.kernel import _core
from proctor.performing import noting
from proctor.performing.executing.single import Single
from proctor.performing.executing.steps import Place, Steps
from proctor.performing.networks import sockets
from proctor.performing.networks.routes import AF_INET, AF_INET6, AF_UNIX, Route
from proctor.performing.networks.sockets import Network, Socket
from proctor.performing.paths import pins
from proctor.performing.short_ways.ways import ShortWay
from proctor.performing.trouble import Ended, Interrupted, Said
from proctor.syscalls.architectures import ARCHITECTURES, native

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.closing import Counting
    from proctor.performing.executing.processes import Executor
    from proctor.performing.executing.requests import Reply
    from proctor.performing.executing.workers import Wait
    from proctor.performing.session import Session
    from proctor.performing.short_ways.short import Ordinary
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later

_F_SETFL: Final = 4
_NATIVE: Final = ARCHITECTURES[native()].audit


def perform(task: Task, route: Route, fd: int, number: int) -> Work:
    """Connect the caller's socket."""
    address = address_of(task.call)
    one = sockets.known(fd, number)  # what is none may be what no executor can be passed
    if route.plain and not _of_unix(address):
        return (yield from _own(task.session, fd, address))
    path = sockets.file_name(one, address)
    if path is not None:
        pin = yield from task.file(path)
        return (yield from _own(task.session, fd, address, pin.fd))
    if not sockets.reroutable(task, route, one, address):
        return (yield from _own(task.session, fd, address))
    with Network(task, route.network) as network:
        return (yield from _elsewhere(task, network, one, address, route))


def unread(task: Task, fd: int, number: int) -> Work:
    """What the kernel has against an address that is too short or too long for its family.  Sockets of these families connect to none
    such (``inet_dgram_connect``, ``tcp_v4_connect``, ``tcp_v6_connect``, ``unix_validate_addr``), others may not look at its family.

    :raises Said: EINVAL, of those."""
    address = address_of(task.call)
    if sockets.known(fd, number).domain not in (AF_UNIX, AF_INET, AF_INET6):
        raise Said(errno.EINVAL, "no rule can read the socket address")
    return (yield from _own(task.session, fd, address))


def _of_unix(address: bytes) -> bool:
    return int.from_bytes(address[:2], sys.byteorder) == AF_UNIX


@cache
def _connecting(to_file: bool, sets: int) -> Single:
    """Holes: the status flags that the socket is given before (``sets`` of them: where connecting goes on,
    with the last); the address and its length (not of a socket file).  Sent: the socket; of a socket file that
    and the executor's table, too."""
    steps = Steps()
    flags = [steps.number() for _ in range(sets)]
    address = sockets.file_address(steps) if to_file else steps.hole(sockets.STORAGE)
    length = address.size if to_file else steps.number()
    root = steps.bytes(b"/") if to_file else 0
    given = steps.sent()
    if sets:
        steps.call("fcntl", given, _F_SETFL, flags[0])
    if to_file:
        pinned, table = steps.sent(), steps.sent()
        steps.call("fchdir", table)
        steps.put_text(Place(address.offset + 2, 16), steps.call("dup", pinned))
    for last in flags[1:]:
        steps.call("connect", given, address, length, want=-errno.EINPROGRESS)
        steps.call("fcntl", given, _F_SETFL, last)
    made = steps.call("connect", given, address, length, bad=0)
    if to_file:
        steps.call("chdir", root)
    return Single(steps.freeze(), made)


def _connect(
    session: Session,
    fd: int,
    address: bytes,
    *,
    file: int | None = None,
    flags: tuple[int, ...] = (),
) -> Generator[Wait, Reply, int]:
    """0, or an errno."""
    to = _connecting(file is not None, len(flags))
    values: tuple[bytes | int, ...] = () if file is not None else (address, len(address))
    fds = (fd,) if file is None else (fd, file)
    return (yield from to.ask(session, *flags, *values, fds=fds, table=file is not None))


def _own(
    session: Session, fd: int, address: bytes, file: int | None = None
) -> Generator[Wait, Reply, Verdict]:
    """On the caller's own socket, by the kernel's own rules: what is interrupted goes on by itself."""
    try:
        failed = yield from _connect(session, fd, address, file=file)
    except Interrupted:
        if sockets.patience(fd) >= 0:  # sock_intr_errno of include/net/sock.h
            raise Said(errno.EINTR) from None
        raise
    return deny(failed) if failed else answer(0)


def _elsewhere(
    task: Task, network: Network, one: Socket, address: bytes, route: Route
) -> Generator[Wait, Reply, Verdict]:
    """On a socket that the caller has from then on."""
    noting.halves(task.call)
    moved, address = yield from sockets.replacement(task, network, one, address, route)
    if moved.carried is None:
        return (yield from _own(network.session, one.fd, address))
    fd, flags = moved.fd, moved.carried.flags
    waits = not flags & os.O_NONBLOCK
    at_once = flags if one.domain == AF_UNIX else flags | os.O_NONBLOCK
    goes_on = (flags,) if waits and at_once != flags else ()
    try:
        failed = yield from _connect(network.session, fd, address, flags=(at_once, *goes_on))
    except Interrupted:
        if not goes_on:
            raise
        sockets.put_in_place(task, one, moved)
        if sockets.patience(fd) >= 0:
            raise Said(errno.EINTR) from None
        raise
    if failed in (0, errno.EINPROGRESS):
        sockets.put_in_place(task, one, moved)
    return deny(failed) if failed else answer(0)


class ConnectWay(ShortWay):
    """The short way of what stays as the caller has it, and is no socket file."""

    def way(self, listener: Any) -> Ordinary:
        """What is asked first: in one native call up to the answer, if calls come from the kernel, nobody looked at them, and no later
        monitor is to know how far they are."""
        if not hasattr(listener, "give") or getattr(listener, "journal", None) is not None:
            return self.go
        standings, request = self._performers.standings, _connecting(False, 0).request
        return _core.Connect(
            self.go, standings.known, standings.give_back, self._performers.executors, self._limit, self._goes_on,
            self._plain, listener, request.native, _NATIVE,
        )  # fmt: skip

    def _plain(self, options: object) -> bool:
        """Whether options leave all as the caller has it."""
        return isinstance(options, self._family.Options) and options.plain

    def _goes_on(
        self,
        call: Call,
        wish: Perform,
        standing: Standing,
        executor: Executor,
        heard: Any,
        fd: int,
        address: bytes,
    ) -> Verdict | Later | None:
        """From what the core has heard, or has not."""
        performers, call.memory_read = self._performers, True
        try:
            try:
                reply = executor.answered(heard)
            except BaseException:
                performers.executors.discard(executor)
                performers.executors.closers.close_copy(standing.kept.key.container, fd)
                raise
            return self._asked(call, wish, standing, executor, (reply, fd), address)
        except BaseException as failed:
            performers.standings.give_back(standing)
            return None if isinstance(failed, Ended) else performers.translate(call, failed)

    def go(self, call: Call, wish: Perform) -> Verdict | Later | None:
        """As far as it goes at once; None if :meth:`~proctor.performing.Performers.begin` is to be called."""
        performers, route = self._performers, wish.options
        if route is not None and not self._plain(route):
            return None
        standing = performers.standings.take(call.tid)
        if standing is None:
            return None
        said = None
        try:
            number, looked = pins.signed(call.registers[0]), call.looked_at
            known = standing.kept.key.container is getattr(call, "container", None)
            seen = looked is not None and looked.shown(number, copy=True) is not None
            if known and not seen:
                try:
                    address = _short_address(call)
                except MemoryUnreadable as failed:
                    said = _unread(call, standing, failed, performers.executors.closers)
                else:
                    if not _of_unix(address):
                        return self._connect(call, wish, standing, address)
        except BaseException as failed:
            performers.standings.give_back(standing)
            return performers.translate(call, failed)
        performers.standings.give_back(standing)
        return said if said is None else performers.translate(call, said)

    def _connect(
        self, call: Call, wish: Perform, standing: Standing, address: bytes
    ) -> Verdict | Later | None:
        """Have an executor do it.  If something is raised, the standing is not given back."""
        performers, request = self._performers, _connecting(False, 0).request
        packet, executor = request.fill(address, len(address)), self._lend(standing.kept)
        found = None
        if executor is not None:
            try:
                if self._begins is not None:
                    self._begins(call)
                number = pins.signed(call.registers[0])
                noting.asks(call, request, executor)
                # the groups of who connects decide nothing but which files it may get at
                found = executor.act_on(standing, call, number, request, packet)
                if found is None:  # nothing was sent
                    noting.came(call, request, None)
                elif found[0] is not None:
                    noting.came(call, request, request.changed(found[0]))
            except BaseException as failed:
                performers.executors.discard(executor)
                if not isinstance(failed, Ended):
                    raise
            else:
                if found is None:
                    performers.executors.release(executor)
                    if not call.valid():
                        raise CallGone
        if executor is None or found is None:  # and nothing has happened
            performers.standings.give_back(standing)
            return None
        return self._asked(call, wish, standing, executor, found, address)

    def _asked(
        self,
        call: Call,
        wish: Perform,
        standing: Standing,
        executor: Executor,
        found: tuple[Reply | None, int],
        address: bytes,
    ) -> Verdict | Later:
        """Go on from what an executor has said, or has not, of a descriptor that went along."""
        performers, request = self._performers, _connecting(False, 0).request
        (reply, fd), close = found, performers.executors.closers.close_copy
        failure = None if reply is None else reply.error(_connecting(False, 0).made)
        if failure is None or failure == errno.EMFILE:
            asked, left = (executor, request, reply), [fd]
            try:
                return self._later(call, wish, standing, asked, partial(_on, left, address))
            finally:
                for mine in left:  # nobody went on: its caller is gone
                    close(standing.kept.key.container, mine)
        close(standing.kept.key.container, fd)
        performers.standings.give_back(standing)
        performers.executors.release(executor)
        return deny(failure) if failure else answer(0)


def _short_address(call: Call) -> bytes:
    """The address, by the shortest way where there is nothing to say about it.

    :raises MemoryUnreadable: as :func:`address_of`."""
    length = pins.signed(call.registers[2])
    if call.arch != _NATIVE or not 0 < length <= sockets.STORAGE:
        return address_of(call)
    return named(call, call.texts((), call.words[1], length)[-1])


def _unread(
    call: Call, standing: Standing, failed: MemoryUnreadable, closers: Counting
) -> MemoryUnreadable | None:
    """What is to be said of an address, if the socket is one: of that the kernel hears first."""
    fd = (
        _taken(standing, pins.signed(call.registers[0]))
        if standing.unchanged(groups=False)
        else None
    )
    if fd is None:
        return None
    closers.close_copy(standing.kept.key.container, fd)
    return failed


def _taken(standing: Standing, number: int) -> int | None:
    """A duplicate of a caller's descriptor; None where whoever is asked next says what is wrong with that."""
    try:
        fd = standing.take_fd(number)
    except OSError:
        return None
    if fd is None or not pins.only_a_path(fd):
        return fd
    os.close(fd)
    return None


def _on(left: list[int], address: bytes, task: Task) -> Work:
    """What is left once it takes longer, of a descriptor that is taken out of the list."""
    return (yield from _own(task.session, task.hold_copy(left.pop()), address))

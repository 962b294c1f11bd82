"""Where a path leads for its caller, found out and named in the caller's identity.

It is what a policy's rules are asked about where the kernel runs the call, or nobody performs it: no more is
seen for it than the caller sees.  As :func:`proctor.call.path.resolve.locate` has it, whose words are used.
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Generator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.path.procfs import TOO_LONG
from proctor.call.verdict import Deny, deny
from proctor.errors import CallGone
from proctor.performing import scarce
from proctor.performing.executing.requests import together
from proctor.performing.executing.steps import END, Place, Steps
from proctor.performing.paths import pins
from proctor.performing.paths.filestat import STATFS_SIZE, system_of
from proctor.performing.trouble import Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.path.following import Sought
    from proctor.call.ports import ContainerPort
    from proctor.kernel import _core
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.processes import Executor
    from proctor.performing.executing.requests import Reply, Request
    from proctor.performing.executing.steps import Argument, Result
    from proctor.performing.identities.callers import Known
    from proctor.performing.performers import Performers
    from proctor.performing.task import Task
    from proctor.supervisor.ports import Loan

#: Paths that are longer are sought by the long way.
_ROOM: Final = pins.SHORT[-1]
_LOOKS: Final = struct.Struct("=13i")
#: What became of a question: less, there was none; more, it is open.
_ANSWERED: Final = 1
_MOST_LINKS: Final = 40  # MAXSYMLINKS of the kernel


def seek(what: Sought, task: Task) -> Generator[Any, Any, bytes | int | Deny]:
    """The path by which the caller's root shows it, of something that is not there as well, or the caller's errno:
    a denial where that is not the kernel's own, which may come to something if it walks itself."""
    while True:
        try:
            found = yield from _led(task, what)
            too_long = found.startswith(pins.UNSAID)
            return deny(errno.EACCES, TOO_LONG) if too_long else found
        except Said as said:
            if task.stepped:
                return deny(said.errno, "a path through /proc that cannot be followed")
            if said.errno in scarce.OURS:
                return deny(said.errno, "there is no room to follow its path")
            if task.strict or said.errno not in pins.OWN:
                return said.errno
        task.strict = True  # it may be on a procfs, which lets the caller alone in


def _led(task: Task, what: Sought) -> Generator[Any, Any, bytes]:
    path, resolve = what.path, what.resolve & ~pins.CACHED
    if not path:
        if not what.empty:
            raise Said(errno.ENOENT)
        return (yield from task.itself(what.dirfd)).named.path
    start = task.start(what.dirfd, path, resolve)
    head, last, slashes = pins.split(path)
    follow = what.follow or bool(slashes)
    if what.entry and last not in (b"", b".", b".."):
        # a name in a directory that may be searched
        inside = head + (b"." if head.endswith(b"/") else b"/.")
        pin = yield from task.pin(start, inside, pins.O_DIRECTORY, resolve)
        return _in(pin.named.path, last)
    for _ in range(_MOST_LINKS + 1):
        try:
            pin = yield from task.pin(start, path, 0 if follow else pins.O_NOFOLLOW, resolve)
            return pin.named.path
        except Said as said:
            head, last, _ = pins.split(path)
            if said.errno != errno.ENOENT or last in (b"", b".", b".."):
                raise
            try:
                here = yield from task.entry(start, head, last, resolve)
            except Said:  # nor is there a directory in which it would be
                raise said from None
        if here.found is None:
            return _in(here.parent.named.path, last)
        if follow and stat.S_ISLNK(
            here.found.named.status.mode
        ):  # it dangles: another name is meant
            start, path = task.led(start, here, head, resolve)
    raise Said(errno.ELOOP)


def _in(directory: bytes, name: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/" + name


# The short way ------------------------------------------------------------------------------------


def seek_shortly(performers: Performers, call: Call, what: Sought) -> bytes | int | None:
    """As :func:`seek`, of what is ordinary, by one question to an executor that waits for work; None where that is
    not enough, and nothing has happened.

    :raises CallGone: nobody calls any more."""
    lookout = performers.lookout
    taken = None
    if what.path and not what.resolve:
        taken = lookout.take(call.tid, getattr(call, "container", None))
    if taken is None:
        return None
    standing, executor = taken
    asking = _Asking(executor, call, standing, standing.kept.groups, what.dirfd)
    found: bytes | int | None = None
    try:
        found = asking.led(what)
    finally:
        lookout.free(taken, asking.answered)
    if found is not None and not call.valid():
        raise CallGone
    return found


class Lookout:
    """Lends executors that wait for work, to be asked where the paths of calls lead."""

    def __init__(self, performers: Performers) -> None:
        self._performers = performers

    def take(self, tid: int, container: ContainerPort | None) -> tuple[Standing, Executor] | None:
        """Who calls, if that is known, and who is what it is, if that is not what the monitor is."""
        performers = self._performers
        standing = performers.standings.take(tid)
        if standing is None:
            return None
        known: Known = standing.kept
        executor = None
        if not known.here and known.key.container is container:
            limit = performers.option(container, "limit")
            executor = performers.executors.borrow(known.key, container, limit)
        if executor is None:
            performers.standings.give_back(standing)
            return None
        return standing, executor

    def lend(self, tid: int, container: Any, follow: bool) -> Loan | None:
        """The same, as ``_core.Usual`` wants it."""
        taken = self.take(tid, container)
        if taken is None:
            return None
        standing, executor = taken
        forms, _ = _forms(0 if follow else pins.O_NOFOLLOW)
        return taken, standing.known, standing.kept.groups, *executor.at_hand, forms

    def took_back(self, taken: tuple[Standing, Executor], became: int) -> None:
        """It was not asked (0), or it has answered (1), or has died or is at it still."""
        if became:
            taken[1].came(became == _ANSWERED)
        self.free(taken, became <= _ANSWERED)

    def free(self, taken: tuple[Standing, Executor], answered: bool) -> None:
        """It may be asked by others, if it has answered."""
        standing, executor = taken
        executors = self._performers.executors
        (executors.release if answered else executors.discard)(executor)
        self._performers.standings.give_back(standing)


class _Asking:
    """One executor, asked about one path."""

    __slots__ = ("_about", "_executor", "answered")

    def __init__(
        self, executor: Executor, call: Call, standing: Standing, groups: bool, dirfd: int
    ) -> None:
        self._executor = executor
        self._about = standing, groups, call, dirfd
        #: Whether it is free.
        self.answered = True

    def led(self, what: Sought) -> bytes | int | None:
        """Where it leads, or an errno that is the kernel's."""
        path = what.path
        head, last, slashes = pins.split(path)
        inside = head + (b"." if head.endswith(b"/") else b"/.")
        plain = last not in (b"", b".", b"..")
        if what.entry and plain:
            found, _ = self._name(inside, pins.O_DIRECTORY)
            return found if found is None or isinstance(found, int) else _in(found, last)
        follow = what.follow or slashes
        found, missing = self._name(path, 0 if follow else pins.O_NOFOLLOW, plain)
        if found != errno.ENOENT or not plain:
            return found
        if not missing:
            return None  # a link may dangle
        above, _ = self._name(inside, pins.O_DIRECTORY)
        return above if above is None or isinstance(above, int) else _in(above, last)

    def _name(
        self, path: bytes, bits: int, missing: bool = False
    ) -> tuple[bytes | int | None, bool]:
        """What a path leads to, or an errno; whether there is no link on the way, where that is ENOENT.

        :param missing: whether it is seen to in another way that what is missing would be so for the caller."""
        standing, groups, call, dirfd = self._about
        forms, looks = _forms(bits)
        _, heard, which = self._executor.ask_for(standing, groups, call, dirfd, path, forms) or (
            None,
            None,
            -1,
        )
        if which < 0:
            return None, False
        self.answered = False
        reply = self._executor.heard(heard)
        if reply is None:
            return None, False
        self.answered = True
        return _read(looks[which], reply, path, missing)


def _read(look: _Look, reply: Reply, path: bytes, missing: bool) -> tuple[bytes | int | None, bool]:
    if look.direct is not None and reply.made(look.direct):
        return (None if system_of(reply.parts[look.kind]).proc else path), False
    if reply.made(look.pin):
        named, name = look.name.read(reply), look.name
        return (None if named.proc or name.unsure(reply) else named.path), False
    failed = reply.error(look.pin)
    strictly = not (missing and failed == errno.ENOENT)
    if failed in scarce.OURS or not pins.stands(failed, reply, look.probe, 0, strictly):
        return None, False
    return failed, reply.error(look.probe.plain) == errno.ENOENT


class _Look(NamedTuple):
    """Pin and name."""

    request: Request
    #: What needs no link is its own name, and on which file system it is.
    direct: Result | None
    kind: int
    pin: Result
    name: pins.Name
    probe: pins.Probe
    #: The directory of what is not there, its name and the part that has it.
    above: Result
    upper: pins.Name
    text: int

    def native(self, offset: int) -> bytes:
        """``struct looks`` of ``core/asking/posing.h``.

        :param offset: in the packet, of the directory's path."""
        steps = (
            self.name.link, self.name.again, self.probe.plain,
        )  # fmt: skip
        link, again, plain = (each.step for each in steps)
        direct = -1 if self.direct is None else self.direct.step
        upper = self.text, self.upper.link.step, self.upper.again.step
        return _LOOKS.pack(
            direct, self.kind, self.pin.step, self.name.first, link, again, plain, self.above.step, *upper, offset, _ROOM,
        )  # fmt: skip


def _look(bits: int, relative: bool, own_name: bool) -> _Look:
    """Holes: how to probe, the path of its directory (or nothing), path.  Sent: the directory where these start (if
    ``relative``), the executor's table.

    :param own_name: whether the path has no dots and empty names."""
    steps = Steps()
    where: Argument = steps.sent() if relative else pins.AT_FDCWD
    table = steps.sent()
    straight = steps.bytes(pins.HOW.pack(pins.PIN | bits, 0, pins.NO_SYMLINKS))
    how = steps.bytes(pins.HOW.pack(pins.PIN | bits, 0, pins.NO_MAGICLINKS))
    inside = steps.bytes(pins.HOW.pack(pins.PIN | pins.O_DIRECTORY, 0, pins.NO_MAGICLINKS))
    probing, naming = pins.Probing(steps), pins.Naming(steps)
    directory, path = steps.hole(_ROOM), steps.hole(_ROOM)
    direct, kind = None, 0
    if own_name:
        system = steps.scratch(128)
        direct = steps.call("openat2", where, path, straight, pins.HOW.size, bad=1)
        steps.call("fstatfs", direct, system, good=END)
        kind = steps.want(Place(system.offset, STATFS_SIZE))
    pin = steps.call("openat2", where, path, how, pins.HOW.size)
    name = naming.add(pin, table)
    steps.end(name.last)
    steps.jump(pin, bad=True)
    probe = probing.add(where, path)
    steps.jump(probe.plain, bad=True)
    above = steps.call("openat2", where, directory, inside, pins.HOW.size)
    upper, text = naming.add_another(above, table)
    return _Look(steps.freeze(), direct, kind, pin, name, probe, above, upper, text)


@lru_cache(4)
def _forms(bits: int) -> tuple[_core.Forms, tuple[_Look, ...]]:
    looks = tuple(
        _look(bits, relative, own_name)
        for relative, own_name in ((False, True), (False, False), (True, False))
    )
    probing = pins.probing(bits, 0)
    forms = [
        look.request.form(
            probing, b"", room=_ROOM, relative=look is looks[2], table=True, looks=look.native
        )
        for look in looks
    ]
    return together(forms), looks

"""Loop devices of the host's for images of a container's.

A container never has a descriptor of a loop device that is not bound to its own image: whatever is bound
to it later, somebody else's, would be read through that.  What it opens while nothing is bound is a
*stand-in*, an empty file in memory that says which device it stands for; when the container binds an image to
that, the device takes the stand-in's place (:mod:`proctor.performing.families.loop`).  While somebody
has a bound device open the kernel keeps it bound.

All are bound with LO_FLAGS_AUTOCLEAR: they go with their last user, and none outlives its container.  Where
a program did not ask for that the monitor is a user, too, until LOOP_CLR_FD or the container's end.

That a device still is what it was is told by its sequence number (BLKGETDISKSEQ, Linux 5.15), which each
binding changes.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import threading
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.performing.executing.requests import Request
from proctor.performing.executing.single import Single
from proctor.performing.executing.steps import Place, Result, Steps
from proctor.performing.identities.identity import Becoming
from proctor.performing.session import Session
from proctor.performing.trouble import Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.executing.beginning import Start
    from proctor.performing.paths.filestat import Status
    from proctor.performing.task import Task

_AT_FDCWD: Final = -100
_MAJOR: Final = 7
_CONTROL: Final = (10, 237)
_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)
#: include/uapi/linux/loop.h, include/uapi/linux/fs.h
GET_FREE, CONFIGURE, CHANGE_FD = 0x4C82, 0x4C0A, 0x4C06
_GET_DISKSEQ: Final = 0x80081280
CONFIG_SIZE, INFO_SIZE = 304, 232
#: What stands for /dev/loop-control.
CONTROL: Final = -1
_NAME: Final = "loop device "
_STANDS: Final = re.compile(r"/memfd:" + _NAME + r"(-1|[0-9]{1,7}) \(deleted\)")
#: F_SEAL_SEAL, _SHRINK, _GROW, _WRITE: nothing is kept in it.
_ADD_SEALS, _SEALS = 1033, 15


class Bound(NamedTuple):
    """A device that a container bound to an image."""

    sequence: int
    #: The monitor's own descriptor of it, if it is to stay without a user; else -1.
    held: int


class Loops:
    """Those that are bound, by container; thread-safe."""

    def __init__(self) -> None:
        self._bound: dict[object, dict[int, Bound]] = {}
        #: How many are being bound now.
        self._begun: dict[object, int] = {}
        self._lock = threading.Lock()

    def add(self, container: object, number: int, bound: Bound) -> None:
        """Know one; its descriptor is given away."""
        with self._lock:
            own = self._bound.setdefault(container, {})
            old = own.pop(number, None)
            own[number] = bound
        _close(old)

    def bound(self, container: object, number: int) -> None:
        """Know one that goes with its last user, as it is bound now."""
        self.add(container, number, Bound(_sequence(number), -1))

    def get(self, container: object, number: int) -> Bound | None:
        """One of a container's."""
        with self._lock:
            return self._bound.get(container, {}).get(number)

    def renumber(self, container: object, number: int, sequence: int) -> None:
        """One is bound to another image of the same container's."""
        with self._lock:
            own = self._bound.get(container, {})
            if number in own:
                own[number] = own[number]._replace(sequence=sequence)

    def let_go(self, container: object, number: int) -> None:
        """One goes with its last user."""
        with self._lock:
            own = self._bound.get(container, {})
            old = own.get(number)
            if old is not None:
                own[number] = old._replace(held=-1)
        _close(old)

    def begin(self, container: object, most: int) -> bool:
        """Whether one more may be bound, which counts until :meth:`end`, and then as what came of it.  Where there
        is no room, those that are bound no more are forgotten."""
        with self._lock:
            own, begun = self._bound.get(container, {}), self._begun.get(container, 0)
            for number in list(own) if len(own) + begun >= most else ():
                now = _sequence(number)
                if now < 0 or now != own[number].sequence:
                    _close(own.pop(number))
            if len(own) + begun >= most:
                return False
            self._begun[container] = begun + 1
            return True

    def end(self, container: object) -> None:
        """It is bound, or was not."""
        with self._lock:
            left = self._begun.pop(container) - 1
            if left:
                self._begun[container] = left

    def forget(self, container: object) -> None:
        """A container is over."""
        with self._lock:
            own = self._bound.pop(container, {})
        for each in own.values():
            _close(each)

    def close(self) -> None:
        """All are."""
        for container in list(self._bound):
            self.forget(container)


def _close(bound: Bound | None) -> None:
    if bound is not None and bound.held >= 0:
        os.close(bound.held)


def _sequence(number: int) -> int:
    """Of a device as it is bound now; -1 if it is not, and 0 where the kernel does not number that (before Linux 5.15)."""
    try:
        os.stat(f"/sys/block/loop{number}/loop")
    except OSError:
        return -1
    try:
        with open(f"/sys/block/loop{number}/diskseq") as file:
            return int(file.read())
    except OSError:
        return 0


def known(task: Task) -> Loops:
    """All that are known here."""
    loops = task.host.kept.setdefault("loop", Loops())
    assert isinstance(loops, Loops)
    return loops


def images(task: Task) -> Loops:
    """Those of images that were mounted, which containers have no other part in."""
    mounted = task.host.kept.setdefault("images", Loops())
    assert isinstance(mounted, Loops)
    return mounted


def device(status: Status) -> int | None:
    """Which loop device a node is: its number, :data:`CONTROL`, or None if it is none."""
    if stat.S_ISBLK(status.mode) and status.rdev[0] == _MAJOR:
        return status.rdev[1]
    return CONTROL if stat.S_ISCHR(status.mode) and status.rdev == _CONTROL else None


# Stand-ins ------------------------------------------------------------------------------------------


def stand_in(number: int, access: int) -> int:
    """A descriptor that stands for a device, or for /dev/loop-control; the asker's to close.

    :param access: O_RDONLY, O_WRONLY or O_RDWR."""
    import fcntl

    made = os.memfd_create(f"{_NAME}{number}", 0x0001 | 0x0002)  # MFD_CLOEXEC | MFD_ALLOW_SEALING
    try:
        fcntl.fcntl(made, _ADD_SEALS, _SEALS)
        return os.open(f"/proc/self/fd/{made}", access | _CLOEXEC)
    finally:
        os.close(made)


def stands_for(fd: int) -> int | None:
    """What a descriptor stands for: a number, :data:`CONTROL`, or None.  Whoever makes a file of such a
    name gains nothing: what may be done with one may be done with any of them."""
    found = _STANDS.fullmatch(os.readlink(f"/proc/self/fd/{fd}"))
    return int(found[1]) if found else None


def opened(task: Task, status: Status, access: int) -> Generator[Any, Any, int]:
    """A descriptor for a container that opens a loop device or their control; -1 if it is neither."""
    number = device(status)
    if number is None:
        return -1
    bound = None if number == CONTROL else known(task).get(task.session.container, number)
    if bound is not None:
        fd = yield from open_bound(task, number, access)
        if fd >= 0:
            return fd
    return stand_in(number, access)


# On the host ----------------------------------------------------------------------------------------


def session(task: Task) -> Session:
    """With an executor that is the monitor's user, in its namespaces, and has no capability at all: who
    owns loop devices needs none.  Its maker's to close."""

    def become(capable: int, mother: int) -> Start:
        with Becoming() as made:
            made.capabilities(0, 0, "dropping capabilities")
            return made.settle(mother)

    return task.session.another(("loop",), become)


class _Opening(NamedTuple):
    request: Request
    fd: Result
    configured: Result | None
    numbered: Result
    sequence: int


@cache
def _opening(configures: bool) -> _Opening:
    """Holes: the path, flags; and what a device is to be, if ``configures``, with the image sent along."""
    steps = Steps()
    path, flags = steps.hole(32), steps.number()
    config = steps.hole(CONFIG_SIZE) if configures else None
    number = steps.scratch(8)
    fd = steps.call("openat", _AT_FDCWD, path, flags)
    configured = None
    if config is not None:
        steps.put(config, 0, steps.sent(), 4)
        configured = steps.call("ioctl", fd, CONFIGURE, config)
    numbered = steps.call("ioctl", fd, _GET_DISKSEQ, number)
    steps.give(fd)
    part = steps.want(number)
    return _Opening(steps.freeze(), fd, configured, numbered, part)


def open_bound(task: Task, number: int, access: int) -> Generator[Any, Any, int]:
    """A descriptor of a device that the container bound, the asker's to close; -1 if it is not bound to that
    image any more.

    :raises Said: it is about to be let go of (ENXIO)."""
    bound = known(task).get(task.session.container, number)
    opening = _opening(False)
    path = b"/dev/loop%d" % number
    reply = yield from session(task).ask_once(opening.request, path, access | _CLOEXEC)
    try:
        if reply.error(opening.fd) == errno.ENXIO:
            raise Said(errno.ENXIO)
        (seen,) = struct.unpack("=Q", reply.parts[opening.sequence])
        if bound is None or not reply.made(opening.numbered) or seen != bound.sequence:
            return -1
        return reply.take(opening.fd)
    finally:
        reply.close()


def bind(
    task: Task, number: int, access: int, config: bytes, image: int, *, stays: bool
) -> Generator[Any, Any, int]:
    """Bind a device to an image: a descriptor of it, the asker's to close.

    :param stays: whether it stays bound without a user.
    :raises Said: what the kernel says."""
    opening = _opening(True)
    path = b"/dev/loop%d" % number
    reply = yield from session(task).ask_once(
        opening.request, path, access | _CLOEXEC, config, fds=(image,)
    )
    try:
        assert opening.configured is not None
        failed = reply.error(opening.fd) or reply.error(opening.configured)
        if failed:
            raise Said(failed)
        if not reply.made(opening.numbered):
            raise Said(
                errno.EPERM, "this kernel does not number what is bound to loop devices (5.15)"
            )
        fd: int = reply.take(opening.fd)
        (sequence,) = struct.unpack("=Q", reply.parts[opening.sequence])
        held = os.dup(fd) if stays else -1
        known(task).add(task.session.container, number, Bound(sequence, held))
        return fd
    finally:
        reply.close()


@cache
def _asking(size: int | None) -> Single:
    """Holes: the command; its argument, which comes back, or a number, if it has no size.  Sent: the device."""
    steps = Steps()
    command = steps.number()
    argument = steps.number() if size is None else steps.hole(size)
    made = steps.call("ioctl", steps.sent(), command, argument)
    part = steps.want(argument) if isinstance(argument, Place) else -1
    return Single(steps.freeze(), made, found=part)


def ask(task: Task, fd: int, command: int, argument: bytes | int) -> Generator[Any, Any, bytes]:
    """Have an ioctl(2) made on a container's device: what its argument is then.

    :param fd: opened as the caller has it, since what may be done depends on that.
    :raises Said: what the kernel says."""
    asking = _asking(len(argument) if isinstance(argument, bytes) else None)
    reply = yield from session(task).ask_once(asking.request, command, argument, fds=(fd,))
    if not reply.made(asking.made):
        raise Said(reply.error(asking.made))
    return reply.parts[asking.found] if asking.found >= 0 else b""


@cache
def _changing() -> Single:
    """Sent: the device, the image."""
    steps = Steps()
    number = steps.scratch(8)
    device, image = steps.sent(), steps.sent()
    changed = steps.call("ioctl", device, CHANGE_FD, image)
    steps.call("ioctl", device, _GET_DISKSEQ, number)
    wanted = steps.want(number)
    return Single(steps.freeze(), changed, found=wanted)


def change(task: Task, number: int, fd: int, image: int) -> Generator[Any, Any, None]:
    """Have a device read from another image from now on.

    :raises Said: what the kernel says."""
    changing = _changing()
    reply = yield from session(task).ask_once(changing.request, fds=(fd, image))
    if not reply.made(changing.made):
        raise Said(reply.error(changing.made))
    (sequence,) = struct.unpack("=Q", reply.parts[changing.found])
    known(task).renumber(task.session.container, number, sequence)


class _Free(NamedTuple):
    request: Request
    control: Result
    number: Result


@cache
def _free() -> _Free:
    steps = Steps()
    path = steps.bytes(b"/dev/loop-control")
    control = steps.call("openat", _AT_FDCWD, path, os.O_RDWR | _CLOEXEC)
    number = steps.call("ioctl", control, GET_FREE, 0)
    return _Free(steps.freeze(), control, number)


def free(task: Task) -> Generator[Any, Any, int]:
    """The number of a device that is free now.

    :raises Said: what the kernel says."""
    asking = _free()
    reply = yield from session(task).ask_once(asking.request)
    failed = reply.error(asking.control) or reply.error(asking.number)
    if failed:
        raise Said(failed)
    return reply.results[asking.number.step]


def is_bound(task: Task, number: int, fd: int) -> bool:
    """Whether a descriptor of a loop device is of one that the container bound to its image."""
    import fcntl

    bound = known(task).get(task.session.container, number)
    room = bytearray(8)
    try:
        fcntl.ioctl(fd, _GET_DISKSEQ, room)
    except OSError:
        return False
    return bound is not None and struct.unpack("=Q", room) == (bound.sequence,)

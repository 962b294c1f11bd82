"""fsopen, fsconfig, fsmount, move_mount: what the family ``mount`` does, by the calls that took mount's place
(Linux 5.2).

The caller's context is its own: fsopen(2) is made by its executor, and each option is given to that context,
so that what is wrong with it is said at once, and can be read from it.  The kernel would not make a superblock
of it.  That is made by the mounter, of the options that were taken; the caller's descriptor stands for it.
fsmount(2) makes the mount, ``nodev`` locked.  Its own descriptors are O_PATH ones, which nobody can hand over
(C064), so the caller gets an open directory, its root; move_mount(2) of that is performed, since what keeps
a mount that is nowhere is the descriptor that was not handed over.

Which context a descriptor is the kernel says (kcmp(2)); one that is not known here is the kernel's.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny, hand_over, let_run_unsafe
from proctor.performing import pins, sourcing
from proctor.performing.families import mount
from proctor.performing.steps import Request, Result, Steps
from proctor.performing.trouble import Powerless
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work


class Options(mount.Options):
    """What may be mounted, by the kernel."""

    def check(self) -> None:
        super().check()
        if self.fuse or self.options or self.remote:
            raise ValueError(
                "fuse and remote are of mount alone; mount(8) calls that if fsopen says ENOSYS"
            )


_KERNELS: Final = "the kernel decides about this context, by the caller's own rights"
_POWERLESS: Final = "that needs the host's root, which the monitor is not"
#: enum fsconfig_command of include/uapi/linux/mount.h.
_SET_FLAG, _SET_STRING, _CREATE, _CREATE_EXCL = 0, 1, 6, 8
_SETS: Final = range(6)
#: Command, value and aux: the register, and what of it counts.
_REGISTERS: Final = ((1, 0xFFFFFFFF), (3, (1 << 64) - 1), (4, 0xFFFFFFFF))
_TEXT: Final = 256
_ATIME: Final = 0x70
#: MOVE_MOUNT_* flags.
_FROM_EMPTY, _TO_SYMLINKS, _TO_EMPTY, _MOVES = 0x4, 0x10, 0x40, 0x377
_MOVED: Final = answer(0)
_FSMOUNT: Final = 0x1 | 0x2 | 0x4 | 0x8 | _ATIME | 0x80 | 0x200000
#: Attributes that are locked with the mount, and those that the caller can change later.
_TIMES, _OTHERS = 0xF0, 0x1 | 0x2 | 0x8 | 0x200000
#: Contexts of one container that are known at the same time; the oldest goes.
_MOST: Final = 16


class Context:
    """A caller's context.  Who holds it closes it."""

    def __init__(self, fd: int, container: object, kind: str) -> None:
        #: The caller's own descriptor.
        self.fd = fd
        self.container = container
        self.kind = kind
        #: Held by the one call that works on it.
        self.used = threading.Lock()
        self.source = b""
        self.options: list[mount.Option] = []
        #: The mount that was made of it, unlocked; -1 until then.
        self.mount = -1
        #: Whether it was mounted: then :attr:`fd` is its root, and :attr:`mount` what keeps it.
        self.mounted = False

    def close(self) -> None:
        """Let go of it."""
        for fd in (self.fd, self.mount):
            if fd >= 0:
                os.close(fd)
        self.fd = self.mount = -1


class Contexts:
    """All that are known; thread-safe.  One that is forgotten is closed when nobody uses it."""

    def __init__(self) -> None:
        self._known: list[Context] = []
        self._used: list[Context] = []
        self._lock = threading.Lock()

    def add(self, context: Context) -> None:
        """Know it, and forget its container's oldest if there are too many."""
        with self._lock:
            self._known.append(context)
            own = [each for each in self._known if each.container is context.container]
            self._forget(own[:-_MOST])

    def borrow(self, container: object) -> list[Context]:
        """Those of a container, the newest first, until they are given back."""
        with self._lock:
            own = [each for each in self._known if each.container is container][::-1]
            self._used += own
        return own

    def give_back(self, contexts: list[Context]) -> None:
        """They are not used any more by whoever borrowed them."""
        with self._lock:
            for each in contexts:
                self._used.remove(each)
                self._end(each)

    def drop(self, context: Context) -> None:
        """One has done its work."""
        with self._lock:
            self._forget([context])

    def forget(self, container: object) -> None:
        """A container is over."""
        with self._lock:
            self._forget([each for each in self._known if each.container is container])

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            self._forget(self._known)

    def _forget(self, contexts: list[Context]) -> None:
        self._known = [each for each in self._known if each not in contexts]
        for each in contexts:
            self._end(each)

    def _end(self, context: Context) -> None:
        if context not in self._known and context not in self._used:
            context.close()


def perform(task: Task) -> Work:
    """Open, configure or mount."""
    options = task.options(Options)
    contexts = task.host.kept.setdefault("fsmount", Contexts())
    assert isinstance(contexts, Contexts)
    if task.call.name == "fsopen":
        return (yield from _open(task, options, contexts))
    try:
        fd = task.caller.fd(pins.signed(task.call.registers[0]))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return let_run_unsafe(_KERNELS)
    own = contexts.borrow(task.session.container)
    try:
        moving = task.call.name == "move_mount"
        known = [each for each in own if each.mounted == moving]
        context = yield from _which(task, known, fd)
        if context is None or (moving and not task.call.registers[4] & _FROM_EMPTY):
            return let_run_unsafe(_KERNELS)
        if not context.used.acquire(blocking=False):
            return deny(errno.EBUSY, "another thread is at it")
        try:
            if task.call.name == "fsconfig":
                return (yield from _configure(task, options, context))
            if not moving:
                return (yield from _mount(task, contexts, context))
            moved = yield from _move(task, context)
            if moved == _MOVED:
                contexts.drop(context)
            return moved
        finally:
            context.used.release()
    finally:
        contexts.give_back(own)


# fsopen -------------------------------------------------------------------------------------------


class _Opening(NamedTuple):
    request: Request
    fd: Result


@cache
def _opening(size: int) -> _Opening:
    steps = Steps()
    name = steps.hole(size)
    fd = steps.call("fsopen", name, 1)
    steps.give(fd)
    return _Opening(steps.freeze(), fd)


def _open(task: Task, options: mount.Options, contexts: Contexts) -> Work:
    flags = task.call.registers[1] & 0xFFFFFFFF
    if flags & ~1:
        return let_run_unsafe(_KERNELS)
    name: bytes = task.call.args["fsname"]
    kind = name.decode("ascii", "replace")
    if not mount.wanted(task, options, kind):
        return let_run_unsafe(_KERNELS)
    mount.may(task)
    if not task.has_room():
        return deny(errno.EMFILE)
    opening = _opening(pins.room(len(name)))
    reply = yield from task.session.ask(opening.request, name)
    if not reply.made(opening.fd):
        return deny(reply.error(opening.fd))
    fd = reply.take(opening.fd)
    contexts.add(Context(os.dup(fd), task.session.container, kind))
    return hand_over(fd, cloexec=bool(flags & 1))


# fsconfig -----------------------------------------------------------------------------------------


class _Comparing(NamedTuple):
    request: Request
    same: Result


@cache
def _comparing() -> _Comparing:
    steps = Steps()
    one, other = steps.sent(), steps.sent()
    me = steps.call("getpid")
    same = steps.call("kcmp", me, me, 0, one, other)
    return _Comparing(steps.freeze(), same)


def _which(task: Task, known: list[Context], fd: int) -> Generator[Any, Any, Context | None]:
    """Whose descriptor it is."""
    comparing = _comparing()
    for each in known:
        reply = yield from task.session.ask(comparing.request, fds=(each.fd, fd))
        if reply.results[comparing.same.step] == 0:
            return each
    return None


class _Setting(NamedTuple):
    request: Request
    set: Result


@cache
def _setting(flag: bool) -> _Setting:
    steps = Steps()
    key, value = steps.hole(_TEXT), steps.hole(_TEXT)
    context = steps.sent()
    command = _SET_FLAG if flag else _SET_STRING
    made = steps.call("fsconfig", context, command, key, 0 if flag else value, 0)
    return _Setting(steps.freeze(), made)


def _configure(task: Task, options: mount.Options, context: Context) -> Work:
    args = task.call.args
    command, address, aux = (task.call.registers[at] & mask for at, mask in _REGISTERS)
    key = args["key"] if task.call.registers[2] else None
    if command in (_CREATE, _CREATE_EXCL):
        if key is not None or address or aux:
            return deny(errno.EINVAL)
        return (yield from _create(task, options, context))
    if command not in _SETS or key is None or bool(address) == (command == _SET_FLAG):
        return deny(errno.EOPNOTSUPP if command not in _SETS else errno.EINVAL)
    if command not in (_SET_FLAG, _SET_STRING):
        return deny(errno.EPERM, "what an option names would be looked up on the host")
    if aux:
        return deny(errno.EINVAL)
    value = args["value"] if command == _SET_STRING else None
    if context.mount >= 0:
        return deny(errno.EBUSY)
    given = mount.option(key, value)
    setting = _setting(value is None)
    reply = yield from task.session.ask(setting.request, key, value or b"", fds=(context.fd,))
    failed = reply.error(setting.set)
    if failed:
        return deny(failed)
    if key == b"source":
        context.source = value or b""
    else:
        context.options.append(given)
    return answer(0)


def _create(task: Task, options: mount.Options, context: Context) -> Work:
    from proctor.performing import mounter

    if context.mount >= 0:
        return deny(errno.EBUSY)
    mount.may(task)
    if not context.source:
        return deny(errno.EINVAL, "No source specified")
    read_only = (b"ro", None) in context.options
    source = yield from sourcing.opened(task, options, context.source, read_only)
    given = context.options
    if source.read_only and not read_only:
        given = [*given, (b"ro", None)]
    try:
        made = yield from mounter.make(
            task,
            mounter.Filesystem(
                context.kind, source.shown, mount.careful(context.kind, given), 0, source.image,
                source.read_only, source.joins, options.idmap, locked=False,
            ),
            source.fd,
        )  # fmt: skip
    except Powerless:
        return deny(errno.EPERM, _POWERLESS)
    if made.status is None:
        return deny(made.errno, made.reason)
    context.mount = made.fd
    return answer(0)


# fsmount ------------------------------------------------------------------------------------------


class _Changing(NamedTuple):
    request: Request
    changed: Result
    root: Result


@cache
def _changing() -> _Changing:
    """As the caller: change a detached mount's attributes, and open its root.

    Holes: the attributes.  Sent: the mount."""
    steps = Steps()
    attributes, empty, dot = steps.hole(32), steps.bytes(b""), steps.bytes(b".")
    given = steps.sent()
    changed = steps.call("mount_setattr", given, empty, 0x1000, attributes, 32)
    root = steps.call("openat", given, dot, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    steps.give(root)
    return _Changing(steps.freeze(), changed, root)


def _mount(task: Task, contexts: Contexts, context: Context) -> Work:
    from proctor.performing import mounter

    flags, attributes = (register & 0xFFFFFFFF for register in task.call.registers[1:3])
    if flags & ~1 or attributes & ~_FSMOUNT or attributes & _ATIME not in (0, 0x10, 0x20):
        return deny(errno.EINVAL)
    if context.mount < 0:
        return deny(errno.EINVAL, "no superblock was made of this context")
    if not task.has_room():
        return deny(errno.EMFILE)
    try:
        failed, fd = yield from mounter.lock(task, context.mount, attributes & _TIMES)
    except Powerless:
        return deny(errno.EPERM, _POWERLESS)
    if failed:
        return deny(failed)
    task.hold(fd)
    changing = _changing()
    wanted = struct.pack("=QQQQ", attributes & _OTHERS, 0, 0, 0)
    reply = yield from task.session.ask(changing.request, wanted, fds=(fd,))
    failed = reply.error(changing.changed) or reply.error(changing.root)
    if failed:
        return deny(failed)
    root = reply.take(changing.root)
    mounted = Context(os.dup(root), context.container, context.kind)
    mounted.mounted, mounted.mount = True, os.dup(fd)
    contexts.add(mounted)
    contexts.drop(context)
    return hand_over(root, cloexec=bool(flags & 1))


# move_mount ---------------------------------------------------------------------------------------


class _Moving(NamedTuple):
    request: Request
    moved: Result


@cache
def _moving() -> _Moving:
    """As the caller.  Holes: flags.  Sent: the mount, where it goes."""
    steps = Steps()
    flags, empty = steps.number(), steps.bytes(b"")
    given, target = steps.sent(), steps.sent()
    moved = steps.call("move_mount", given, empty, target, empty, flags, bad=0)
    steps.call("close", given)  # so that nobody uses it when the caller goes on
    return _Moving(steps.freeze(), moved)


def _move(task: Task, context: Context) -> Work:
    flags = task.call.registers[4] & 0xFFFFFFFF
    if flags & ~_MOVES:
        return deny(errno.EINVAL)
    if task.call.args["from_path"]:
        return let_run_unsafe(_KERNELS)
    dirfd, path = pins.signed(task.call.registers[2]), task.call.args["to_path"]
    if not path and flags & _TO_EMPTY:
        target = yield from task.itself(dirfd)
    else:
        follow = 0 if flags & _TO_SYMLINKS else pins.O_NOFOLLOW
        target = yield from task.pin(task.start(dirfd, path), path, follow, 0)
    task.permit(target.named.path, target.named.status, "to_path")
    moving = _moving()
    reply = yield from task.session.ask(
        moving.request, flags | _TO_EMPTY | _FROM_EMPTY, fds=(context.mount, target.fd)
    )
    failed = reply.error(moving.moved)
    return deny(failed) if failed else _MOVED

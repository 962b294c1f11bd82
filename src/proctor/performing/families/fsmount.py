"""fsopen, fspick, fsconfig, fsmount, move_mount: what the family ``mount`` does, by the calls that took mount's place
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
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny, hand_over, let_run_unsafe
from proctor.performing.executing.requests import Request
from proctor.performing.executing.single import SENT, Hole, Shape, Single
from proctor.performing.executing.steps import Result, Steps
from proctor.performing.families import mount
from proctor.performing.mounts import mount_words, sourcing
from proctor.performing.mounts.contexts import Context, Contexts, Maker
from proctor.performing.paths import pins
from proctor.performing.paths.filestat import STATX_SIZE, UNIQUE, statx
from proctor.performing.trouble import Powerless, Said
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
_SET_FLAG, _SET_STRING, _SET_BINARY, _SET_FD, _CREATE, _RECONFIGURE, _CREATE_EXCL = (
    0,
    1,
    2,
    5,
    6,
    7,
    8,
)
_SETS: Final = range(6)
#: Command, value and aux: the register, and what of it counts.
_REGISTERS: Final = ((1, 0xFFFFFFFF), (3, (1 << 64) - 1), (4, 0xFFFFFFFF))
_TEXT: Final = 256
_MOST_BINARY: Final = 1 << 20
_ATIME: Final = 0x70
#: MOVE_MOUNT_* flags.
_FROM_EMPTY, _TO_SYMLINKS, _TO_EMPTY, _MOVES = 0x4, 0x10, 0x40, 0x377
_MOVED: Final = answer(0)
_FSMOUNT: Final = 0x1 | 0x2 | 0x4 | 0x8 | _ATIME | 0x80 | 0x200000
#: Attributes that are locked with the mount, and those that the caller can change later.
_TIMES, _OTHERS = 0xF0, 0x1 | 0x2 | 0x8 | 0x200000


def perform(task: Task) -> Work:
    """Open, configure or mount."""
    options = task.options(Options)
    contexts = task.host.kept.setdefault("fsmount", Contexts())
    assert isinstance(contexts, Contexts)
    if task.call.name == "fsopen":
        return (yield from _open(task, options, contexts))
    if task.call.name == "fspick":
        return (yield from _pick(task, contexts))
    fd = task.taken(pins.signed(task.call.registers[0]))  # and let go of before the answer
    if fd is None:
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
                return (yield from _configure(task, options, contexts, context))
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


@cache
def _opening(size: int) -> Single:
    steps = Steps()
    name = steps.hole(size)
    fd = steps.call("fsopen", name, 1)
    steps.give(fd)
    return Single(steps.freeze(), fd)


def _open(task: Task, options: mount.Options, contexts: Contexts) -> Work:
    flags = task.call.registers[1] & 0xFFFFFFFF
    if flags & ~1 or not task.who.effective >> mount.CAP_SYS_ADMIN & 1:
        return let_run_unsafe(_KERNELS)  # which reads no name then
    name: bytes = task.call.args["fsname"]
    kind = name.decode("ascii", "replace")
    if not mount.wanted(task, options, kind):
        return let_run_unsafe(_KERNELS)
    from proctor.performing import newer

    if not newer.has("mount_setattr"):  # mount(8) calls mount(2) then
        return deny(errno.ENOSYS, "what is mounted so gets its flags since Linux 5.12")
    mount.may(task)
    return (yield from _new(task, contexts, name, bool(flags & 1)))


def _pick(task: Task, contexts: Contexts) -> Work:
    from proctor.performing.mounts import picking

    picked = yield from picking.pick(task)
    if picked is not None:
        cloexec = bool(task.call.registers[2] & picking.CLOEXEC)
        return (yield from _new(task, contexts, picked.kind, cloexec, picked.number))
    if task.asked:
        raise Said(
            errno.EPERM,
            "the kernel would pick this itself, and the rule's paths could be others by then",
        )
    return let_run_unsafe(_KERNELS)


def _new(task: Task, contexts: Contexts, name: bytes, cloexec: bool, picked: int = 0) -> Work:
    """A context for the caller."""
    if not task.has_room():
        return deny(errno.EMFILE)
    opening = _opening(pins.room(len(name)))
    reply = yield from task.session.ask(opening.request, name)
    if not reply.made(opening.made):
        return deny(reply.error(opening.made))
    tgid = task.caller.tgid
    try:
        process = task.hold(os.pidfd_open(tgid))
        kept, pidfd = pins.copies(reply.fds[opening.made.step], process)
    except OSError:
        reply.close()
        raise
    context = Context(
        kept, task.session.container, name.decode("ascii", "replace"), Maker(tgid, pidfd)
    )
    context.picked = picked
    contexts.add(context)
    return hand_over(reply.take(opening.made), cloexec=cloexec)


# fsconfig -----------------------------------------------------------------------------------------


@cache
def _comparing() -> Single:
    steps = Steps()
    one, other = steps.sent(), steps.sent()
    me = steps.call("getpid")
    same = steps.call("kcmp", me, me, 0, one, other)
    return Single(steps.freeze(), same)


def _which(task: Task, known: list[Context], fd: int) -> Generator[Any, Any, Context | None]:
    """Whose descriptor it is."""
    comparing = _comparing()
    for each in known:
        reply = yield from task.session.ask(comparing.request, fds=(each.fd, fd))
        if reply.results[comparing.made.step] == 0:
            return each
    return None


_FLAG: Final = Shape("fsconfig", SENT, _SET_FLAG, Hole(_TEXT), 0, 0)
_STRING: Final = Shape("fsconfig", SENT, _SET_STRING, Hole(_TEXT), Hole(_TEXT), 0)


def _is_formed(command: int, key: int, value: int, aux: int) -> bool:
    """Whether arguments go together, as ``SYSCALL_DEFINE5(fsconfig)`` of fs/fsopen.c has it."""
    if command not in _SETS:
        return not (key or value or aux)
    if not key or bool(value) == (command in (_SET_FLAG, _SET_FD)):
        return False
    if command in (_SET_FLAG, _SET_STRING):
        return not aux
    if command == _SET_BINARY:
        return 0 < aux <= _MOST_BINARY
    return aux >= 0 or (command != _SET_FD and aux == pins.AT_FDCWD)


def _configure(task: Task, options: mount.Options, contexts: Contexts, context: Context) -> Work:
    args, registers = task.call.args, task.call.words
    command, address, aux = (registers[at] & mask for at, mask in _REGISTERS)
    from proctor.performing import newer

    known = command in _SETS or command in (_CREATE, _RECONFIGURE, _CREATE_EXCL)
    if not known or (command == _CREATE_EXCL and not newer.creates_exclusively()):
        return deny(errno.EOPNOTSUPP)
    if not _is_formed(command, registers[2], address, pins.signed(aux)):
        return deny(errno.EINVAL)
    if command in (_CREATE, _CREATE_EXCL):
        return (yield from _create(task, options, contexts, context))
    if command == _RECONFIGURE:
        from proctor.performing.mounts import picking

        return (yield from picking.reconfigure(task, context))
    key = args["key"]
    if command == _SET_FD and task.taken(pins.signed(aux)) is None:
        return deny(errno.EBADF)
    value = args["value"] if command == _SET_STRING else None
    if context.mount >= 0 or context.failed:
        return deny(errno.EBUSY)
    if command not in (_SET_FLAG, _SET_STRING):
        return deny(errno.EPERM, "what an option names would be looked up on the host")
    given = mount_words.option(key, value)
    if context.picked and given == (b"idmapped", None):  # see _remount of the family mount
        return answer(0)
    setting, values = (_FLAG, (key,)) if value is None else (_STRING, (key, value))
    if failed := (yield from setting().ask(task.session, *values, fds=(context.fd,))):
        return deny(failed)
    if key == b"source":
        context.source = value or b""
    else:
        context.options.append(given)
    return answer(0)


def _create(task: Task, options: mount.Options, contexts: Contexts, context: Context) -> Work:
    if context.mount >= 0 or context.failed or context.picked:
        return deny(errno.EBUSY)
    mount.may(task)
    context.failed = True  # FS_CONTEXT_FAILED of fs/fsopen.c, unless it comes out well
    verdict = yield from _made(task, options, contexts, context)
    context.failed = context.mount < 0
    return verdict


def _made(task: Task, options: mount.Options, contexts: Contexts, context: Context) -> Work:
    from proctor.performing.mounts import mounter

    if not context.source:
        return deny(errno.EINVAL, "No source specified")
    given = context.options
    read_only = mount_words.reads_only(0, given)
    source = yield from sourcing.opened(task, options, context.source, read_only)
    if source.read_only:  # last, so that nothing else is
        given = [*given, (b"ro", None)]
    wanted = mounter.Filesystem(
        context.kind, source.shown, mount_words.careful(context.kind, given), 0, source.image, source.read_only,
        source.joins, options.idmap, locked=False,
    )  # fmt: skip
    contexts.sweep(context.container, mounted=False)
    try:
        made = yield from mounter.make(task, wanted, source.fd)
        if made.errno == errno.EBUSY and contexts.sweep(context.container, mounted=True):
            made = yield from mounter.make(task, wanted, source.fd)
    except Powerless:
        return deny(errno.EPERM, _POWERLESS)
    if made.status is None:
        return deny(made.errno, made.reason)
    context.mount, context.writable = made.fd, not source.read_only
    return answer(0)


# fsmount ------------------------------------------------------------------------------------------


class _Changing(NamedTuple):
    request: Request
    changed: Result
    root: Result
    status: int


@cache
def _changing() -> _Changing:
    """As the caller: change a detached mount's attributes, see which it is, and open its root.

    Holes: the attributes.  Sent: the mount."""
    steps = Steps()
    attributes, empty, dot = steps.hole(32), steps.bytes(b""), steps.bytes(b".")
    status = steps.scratch(STATX_SIZE)
    given = steps.sent()
    changed = steps.call("mount_setattr", given, empty, 0x1000, attributes, 32)
    root = steps.call("openat", given, dot, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    statx(steps, given, status, empty, UNIQUE)
    steps.give(root)
    part = steps.want(status)
    return _Changing(steps.freeze(), changed, root, part)


def _mount(task: Task, contexts: Contexts, context: Context) -> Work:
    from proctor.performing.mounts import mounter, remounting

    flags, attributes = (register & 0xFFFFFFFF for register in task.call.registers[1:3])
    if flags & ~1 or attributes & ~_FSMOUNT or attributes & _ATIME not in (0, 0x10, 0x20):
        return deny(errno.EINVAL)
    if context.picked:
        return deny(errno.EBUSY)
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
    try:
        root, keeps, pidfd = pins.copies(reply.fds[changing.root.step], fd, context.maker.pidfd)
    except OSError:
        reply.close()
        raise
    mounted = Context(root, context.container, context.kind, context.maker._replace(pidfd=pidfd))
    mounted.mounted, mounted.mount = True, keeps
    number = remounting.number_in(reply.parts[changing.status])
    if number:  # before anybody can put it somewhere
        remounting.mounts(task).add(context.container, number, context.writable)
    contexts.add(mounted)
    contexts.drop(context)
    return hand_over(reply.take(changing.root), cloexec=bool(flags & 1))


# move_mount ---------------------------------------------------------------------------------------


@cache
def _moving() -> Single:
    """As the caller.  Holes: flags.  Sent: the mount, where it goes."""
    steps = Steps()
    flags, empty = steps.number(), steps.bytes(b"")
    given, target = steps.sent(), steps.sent()
    moved = steps.call("move_mount", given, empty, target, empty, flags, bad=0)
    steps.call("close", given)  # so that nobody uses it when the caller goes on
    return Single(steps.freeze(), moved)


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
    failed = reply.error(moving.made)
    return deny(failed) if failed else _MOVED

"""The mounter: a process of the host's that makes one detached mount, and ends.

A superblock belongs to whoever makes it, so what the kernel mounts for the host's root alone (disks, and
images of them) is made with the host's rights: in the monitor's namespaces, from what was pinned or opened
as the caller, by fsopen(2) and its kin, which touch no directory.  What comes of it is a descriptor of a
mount that is nowhere; the caller's own executor puts it where the caller wants it, and the kernel checks that
right then.

Such a mount is made in a mount namespace of the mounter's own and then looked at from a copy of that which
belongs to the caller's user namespace.  There the kernel locks its flags (``lock_mnt_tree`` in
fs/namespace.c): root of the container cannot take ``nodev`` away, and so open the device nodes of an image
that it wrote.

A mounter is in nobody's identity, and gives its rights up with the step that enters the user namespace; so
it is used once.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from proctor.performing.executing.requests import Request
from proctor.performing.executing.steps import Argument, Place, Result, Sent, Steps
from proctor.performing.loop_devices import loops
from proctor.performing.mounts.mounters import (
    AT_FDCWD,
    CLONE_NEWNS,
    OPEN_TREE,
    Mounting,
    ask,
    rights,
    small,
)
from proctor.performing.mounts.remounting import number_in
from proctor.performing.paths.filestat import UNIQUE, Status, status_of, statx
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.task import Task

_MS_NOSUID_NOEXEC: Final = 2 | 8
_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)
#: include/uapi/linux/mount.h
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC = 1, 1
_SET_FLAG, _SET_STRING, _CREATE, _RECONFIGURE = 0, 1, 6, 7
_FSPICK: Final = 1 | 4 | 8  # CLOEXEC, NO_AUTOMOUNT, EMPTY_PATH
_MOVE_FROM_FD, _MOVE_TO_FD = 0x4, 0x40
_AT_EMPTY_PATH: Final = 0x1000
_MNT_DETACH: Final = 2
_ATTR: Final = struct.Struct("=QQQQ")
NODEV, _ATIME, _IDMAP = 0x4, 0x70, 0x100000
#: include/uapi/linux/loop.h
_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
_LOOP_FLAGS, _LOOP_NAME, _LOOP_SIZE = 8 + 52, 8 + 56, 304
_LOOP_TRIES: Final = 8
#: Most images of a container that are mounted at the same time: each is a device of the host's, and has it some threads (those of the
#: device, of the file system and of its journal), which count for nobody.
IMAGES: Final = 256
#: Messages of a superblock that are read, and how long one can be.
_MESSAGES, _MESSAGE = 4, 256


class Filesystem(NamedTuple):
    """What is to be mounted."""

    kind: str
    #: What it is shown as, and looked up by; empty for what was opened, by its number.
    source: bytes
    #: (name, value); no value for those that are flags.
    options: tuple[tuple[bytes, bytes | None], ...]
    #: MOUNT_ATTR_* bits that are the mount's for good.
    attributes: int
    #: Whether it is a file, for a loop device.
    image: bool
    read_only: bool
    #: Whether the rules for devices of the caller's cgroups are about it.
    joins: bool
    #: Whether its ids are those of the caller's user namespace.
    idmap: bool
    #: Whether its flags are locked for that one; False where :func:`lock` comes later.
    locked: bool = True
    #: Whether it is made in the caller's network namespace, and by its host name.
    inside: bool = False
    #: Whether it may come from anywhere on the host, as what a policy names.
    anywhere: bool = False


class Made(NamedTuple):
    """What became of it."""

    #: A descriptor of the detached mount, the receiver's; -1 if there is none.
    fd: int
    #: Of its root.
    status: Status | None
    #: That of the mount, as :func:`proctor.performing.mounts.remounting.number_in` has it.
    number: int
    errno: int
    #: What failed, and what the file system had to say.
    reason: str


class _Locking:
    """The steps that lock a mount's flags for a container, and take it out again.

    A namespace of the container's user namespace is its root's for as long as the mounter lives: who has CAP_SYS_ADMIN there has the
    kernel list the mounts (listmount(2)), and before Linux 7.0 opens it by its neighbour (NS_MNT_GET_NEXT).  So nothing is in it but
    what is mounted, and the empty directory where that is done.  A mounter that began among the host's mounts makes what is mounted their
    root; where pivot_root(2) cannot leave the host's root (an initramfs) all is in it."""

    def __init__(self, steps: Mounting) -> None:
        self.steps = steps
        self.empty = steps.bytes(b"")
        #: As the place of mounts, and becomes "/" where the mount does.
        self._where = steps.place if steps.apart else steps.bytes(b"/proc")
        self._root = steps.bytes(b"/")

    def add(self, mount: Argument, userns: Argument) -> list[Result]:
        """The last of these gives the descriptor."""
        steps, place = self.steps, self.steps.place
        made = [
            steps.call(
                "move_mount", mount, self.empty, AT_FDCWD, place, _MOVE_FROM_FD, changes=False
            )
        ]
        if not steps.apart:
            # by name: to go there takes a right that a mounter has not got
            alone = steps.call("pivot_root", place, place)
            steps.put(self._where, 1, alone, 4)  # zeros
            made.append(steps.call("umount2", self._root, _MNT_DETACH))
            steps.jump(alone, bad=True)
        return [
            *made,
            steps.call("setns", userns, 0),
            steps.call("unshare", CLONE_NEWNS),
            steps.call("open_tree", AT_FDCWD, self._where, OPEN_TREE),
        ]


def make(task: Task, wanted: Filesystem, opened: int) -> Generator[Any, Any, Made]:
    """Make a mount, locked for the caller's user namespace.

    :param opened: its source, opened as the caller.

    :raises Powerless: the monitor has not got the right.
    :raises Trouble: it was not performed."""
    if not wanted.image:
        return (yield from _make(task, wanted, opened))
    images, container = loops.images(task), task.session.container
    if not images.begin(container, IMAGES):
        why = f"the container has {IMAGES} images mounted, as many as it may"
        return Made(-1, None, 0, errno.EBUSY, why)
    try:
        for _ in range(_LOOP_TRIES):
            made = yield from _make(task, wanted, opened)
            if made.errno != errno.EBUSY or "loop" not in made.reason:
                break  # else somebody else took that loop device meanwhile
        return made
    finally:
        images.end(container)


def _stated(steps: Steps, name: bytes, value: bytes | None) -> tuple[int, Place, Place | int]:
    """Command, name and value of an option, as fsconfig(2) takes them; one that is empty is a string (``vfs_parse_fs_string`` of
    fs/fs_context.c), which not every file system takes that takes none."""
    named = steps.bytes(name)
    return (_SET_FLAG, named, 0) if value is None else (_SET_STRING, named, steps.bytes(value))


class _Making(NamedTuple):
    request: Request
    words: dict[int, str]
    last: Result
    status: int
    #: What the file system says: (the part, as long as the result of a step).
    said: list[tuple[int, Result]]
    #: The number of its loop device.
    device: Result | None


@lru_cache(64)
def _making(wanted: Filesystem, rights: int, apart: bool) -> _Making:
    """Sent: the user namespace, the source; network and UTS namespace, if it is made in there.  Hole: the umask, which is the modes of
    what knows none (``fat_init_fs_context`` of fs/fat/inode.c; exfat, ntfs3 and hfsplus)."""
    steps = Mounting(rights, apart)
    words, step = steps.words, steps.step
    steps.call("umask", steps.number())
    locking = _Locking(steps)
    kind = steps.bytes(wanted.kind.encode())
    source_key, source = steps.bytes(b"source"), steps.bytes(wanted.source)
    options = [_stated(steps, *option) for option in wanted.options]
    idmap = steps.bytes(_ATTR.pack(_IDMAP, 0, 0, 0)) if wanted.idmap else None
    loop = _Loop(steps, wanted) if wanted.image else None
    link = steps.bytes(b"/proc/self/fd/" + bytes(12))
    status = steps.scratch(256)
    messages = [steps.scratch(_MESSAGE) for _ in range(_MESSAGES)]
    userns, opened = steps.sent(), steps.sent()

    if wanted.inside:
        step("entering the caller's network", "setns", steps.sent(), 0)
        # whose name NFS gives as the client's (rpc_new_client of net/sunrpc/clnt.c)
        step("entering the caller's UTS namespace", "setns", steps.sent(), 0)
    if loop is not None:
        source = loop.add(step, opened)
    elif not wanted.source:
        steps.put_text(
            Place(link.offset + len(b"/proc/self/fd/"), 12),
            step("source", "dup", opened),
        )
        source = link
    context = step(f"no file system {wanted.kind}", "fsopen", kind, _FSOPEN_CLOEXEC)
    tries = [step("source", "fsconfig", context, _SET_STRING, source_key, source, 0)]
    for stated, (written, _) in zip(options, wanted.options, strict=True):
        what = f"option {written.decode(errors='replace')}"
        tries.append(step(what, "fsconfig", context, *stated, 0))
    tries.append(step("making the superblock", "fsconfig", context, _CREATE, 0, 0, 0))
    tries.append(step("mounting", "fsmount", context, _FSMOUNT_CLOEXEC, wanted.attributes | NODEV))
    mount = tries[-1]
    if idmap is not None:
        steps.put(idmap, 24, userns, 8)
        step(
            f"{wanted.kind} has no id-mapped mounts here (idmap = false shows ids as they are on disk)",
            "mount_setattr", mount, locking.empty, _AT_EMPTY_PATH, idmap, _ATTR.size,
        )  # fmt: skip
    last = mount
    for last in locking.add(mount, userns) if wanted.locked else ():
        words[last.step] = "locking its flags"
    steps.end(statx(steps, last, status, locking.empty, UNIQUE))
    for each in tries:
        steps.jump(each, bad=True)
    said = [steps.call("read", context, room, _MESSAGE) for room in messages]
    steps.give(last)
    part = steps.want(status)
    parts = [(steps.want(room, read), read) for room, read in zip(messages, said, strict=True)]
    return _Making(steps.freeze(), words, last, part, parts, None if loop is None else loop.number)


def _make(task: Task, wanted: Filesystem, opened: int) -> Generator[Any, Any, Made]:
    own = rights(task)
    begins = None if wanted.anywhere else (yield from small(task))
    making = _making(wanted, own, begins is not None)
    words, last = making.words, making.last
    fds = (task.hold(task.standing.namespace(b"user")), opened)
    inside = [task.caller.namespace_fd(kind) for kind in ("net", "uts") if wanted.inside]
    reply = yield from ask(
        task, wanted.joins, making.request, (*fds, *inside), task.umask, begins=begins
    )
    if reply.made(last):  # so all before it came out well
        said = reply.parts[making.status]
        if making.device is not None:
            device = reply.results[making.device.step]
            loops.images(task).bound(task.session.container, device)
        return Made(reply.take(last), status_of(said), number_in(said), 0, "")
    reply.close()
    failed = next((each for each in words if reply.error(Result(each))), None)
    told = [
        reply.parts[each].decode(errors="replace").strip()
        for each, read in making.said
        if reply.made(read)
    ]
    number = reply.error(Result(failed)) if failed is not None else errno.EIO
    if number == errno.ENOSYS:  # mount_setattr(2) is there since Linux 5.12
        number = errno.EINVAL
    return Made(-1, None, 0, number, ": ".join([words.get(failed or 0, "nothing was made"), *told]))


def lock(task: Task, mount: int, attributes: int) -> Generator[Any, Any, tuple[int, int]]:
    """(errno, mount): one that was made unlocked, with these MOUNT_ATTR_* bits, locked for the caller's user
    namespace.

    :raises Powerless: the monitor has not got the right.
    :raises Trouble: it was not performed."""
    own, begins = rights(task), (yield from small(task))
    steps = Mounting(own, begins is not None)
    locking = _Locking(steps)
    change = steps.bytes(_ATTR.pack(attributes | NODEV, _ATIME, 0, 0))
    given, userns = steps.sent(), steps.sent()
    steps.call("mount_setattr", given, locking.empty, _AT_EMPTY_PATH, change, _ATTR.size)
    last = locking.add(given, userns)[-1]
    steps.give(last)
    fds = mount, task.caller.namespace_fd("user")
    reply = yield from ask(task, False, steps.freeze(), fds, begins=begins)
    if reply.made(last):
        return 0, reply.take(last)
    return next(-result for result in reply.results if -4095 <= result < 0), -1


def reconfigure(
    task: Task, mount: int, options: Sequence[tuple[bytes, bytes | None]]
) -> Generator[Any, Any, tuple[int, str]]:
    """(errno, what failed): the superblock of what is pinned has these options from here on.

    :raises Powerless: the monitor has not got the right.
    :raises Trouble: it was not performed."""
    return (yield from _configure(task, options, mount=mount))


def parse(
    task: Task, kind: str, options: Sequence[tuple[bytes, bytes | None]]
) -> Generator[Any, Any, tuple[int, str]]:
    """(errno, what failed): whether there is a file system of this kind, and takes these options, of which the kernel hears before it looks
    where one comes from.

    :raises Powerless: the monitor has not got the right.
    :raises Trouble: it was not performed."""
    return (yield from _configure(task, options, kind=kind))


def _configure(
    task: Task,
    options: Sequence[tuple[bytes, bytes | None]],
    *,
    kind: str = "",
    mount: int | None = None,
) -> Generator[Any, Any, tuple[int, str]]:
    own, begins = rights(task), (yield from small(task))
    steps = Mounting(own, begins is not None)
    what = steps.bytes(kind.encode())  # no name where a mount is picked
    given = [_stated(steps, *option) for option in options]
    message = steps.scratch(_MESSAGE)
    if mount is None:
        tries = [steps.call("fsopen", what, _FSOPEN_CLOEXEC)]
    else:
        tries = [steps.call("fspick", steps.sent(), what, _FSPICK)]
    context = tries[0]
    tries += [steps.call("fsconfig", context, *each, 0) for each in given]
    if mount is not None:
        tries.append(steps.call("fsconfig", context, _RECONFIGURE, 0, 0, 0))
    steps.end(tries[-1])
    for each in tries:
        steps.jump(each, bad=True)
    said = steps.call("read", context, message, _MESSAGE)
    part = steps.want(message, said)
    fds = () if mount is None else (mount,)
    reply = yield from ask(task, False, steps.freeze(), fds, begins=begins)
    failed = next((number for number in map(reply.error, tries) if number), 0)
    return failed, reply.parts[part].decode(errors="replace").strip() if failed else ""


class Node(NamedTuple):
    """A device node, as the host counts."""

    mode: int
    device: int
    uid: int
    gid: int


def make_node(task: Task, node: Node) -> Generator[Any, Any, tuple[int, int]]:
    """(errno, mount): a detached mount that is one device node, on a file system of its own where it works.

    :raises Powerless: the monitor has not got the right.
    :raises Trouble: it was not performed."""
    own, begins = rights(task), (yield from small(task))
    steps = Mounting(own, begins is not None)
    path = steps.bytes(b"proc/node" if steps.apart else b"/proc/node")
    kind, options = steps.bytes(b"tmpfs"), steps.bytes(b"mode=755,nr_inodes=2,size=4k")
    steps.call("umask", 0)
    steps.call("mount", kind, steps.place, kind, _MS_NOSUID_NOEXEC, options)
    steps.call("mknodat", AT_FDCWD, path, node.mode, node.device)
    steps.call("fchownat", AT_FDCWD, path, node.uid, node.gid, 0)
    last = steps.call("open_tree", AT_FDCWD, path, OPEN_TREE)
    steps.give(last)
    reply = yield from ask(task, True, steps.freeze(), (), begins=begins)
    if reply.made(last):
        return 0, reply.take(last)
    return next(-result for result in reply.results if -4095 <= result < 0), -1


class _Loop:
    """A loop device of the host's for an image, which goes with its last user."""

    def __init__(self, steps: Steps, wanted: Filesystem) -> None:
        self._steps = steps
        self._control = steps.bytes(b"/dev/loop-control")
        self._device = steps.bytes(b"/dev/loop" + bytes(12))
        config = bytearray(_LOOP_SIZE)
        struct.pack_into(
            "=I", config, _LOOP_FLAGS, _AUTOCLEAR | (_READ_ONLY if wanted.read_only else 0)
        )
        name = wanted.source[:63]
        config[_LOOP_NAME : _LOOP_NAME + len(name)] = name
        self._config = steps.bytes(bytes(config))
        self._mode = os.O_RDONLY if wanted.read_only else os.O_RDWR
        #: Of the device, once it is set up.
        self.number: Result | None = None

    def add(self, step: Any, image: Argument) -> Place:
        """Set it up; its path.  It stays as long as this request or what it mounts."""
        what = "a loop device of the host's"
        control = step(what, "openat", AT_FDCWD, self._control, os.O_RDWR | _CLOEXEC)
        self.number = free = step(what, "ioctl", control, _GET_FREE, 0)
        self._steps.put_text(Place(self._device.offset + len(b"/dev/loop"), 12), free)
        device = step(what, "openat", AT_FDCWD, self._device, self._mode | _CLOEXEC)
        assert isinstance(image, Sent)
        self._steps.put(self._config, 0, image, 4)
        step(what, "ioctl", device, _CONFIGURE, self._config)
        return self._device

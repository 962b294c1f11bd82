"""mount: of file systems that the kernel mounts for the host's root alone.

A user namespace's root may mount what the kernel holds for harmless (tmpfs, proc, overlay, FUSE...), bind,
move, remount and unmount in its own mount namespace: all of that is left to the kernel.  What is performed is
a new mount of a file system on an allow-list, from a block device on an allow-list or from an image, in the
order of ``path_mount`` and ``do_new_mount`` of fs/namespace.c: where it goes is pinned and where it comes from
is opened by an executor in the caller's identity; the mounter (:mod:`proctor.performing.mounts.mounter`) makes the
mount, which is nowhere yet; the executor puts it where the caller wants it.  ``nodev`` is not to be taken
away.

Options of file systems that name something else (another device, a file) would be looked up on the host,
and ``errors=panic`` would be its end: these are refused.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.call.credentials import MNT, USER
from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.errors import MemoryUnreadable
from proctor.performing.given import Given, would
from proctor.performing.mounts import remounting, sourcing
from proctor.performing.mounts.mount_words import (
    BIND,
    NOSUID,
    NOUSER,
    RDONLY,
    REMOUNT,
    Option,
    careful,
    flags_of,
    is_new,
    options_in,
    others,
    reads_only,
    remounted,
    superblock,
    times,
)  # fmt: skip
from proctor.performing.mounts.remote import Remote, read
from proctor.performing.paths import pins
from proctor.performing.trouble import Powerless, Said
from proctor.syscalls.architectures import PAGE_SIZE
from proctor.words import listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.arguments import Args
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.performing.identities.who import Who
    from proctor.performing.paths.finding import Pin
    from proctor.performing.performers import Performers
    from proctor.performing.short_ways.short import Ordinary
    from proctor.performing.task import Task, Work

CAP_SYS_ADMIN: Final = 21
_KERNELS: Final = "the kernel decides about this mount, by the caller's own rights"


class Options(Given):
    """What may be mounted.

    :param filesystems: types of file systems: ``ext4``, ``squashfs``...  None, if nothing is said.
    :param devices: block devices, as ``"8:16"``, ``"8:*"`` or a path on the host.
    :param images: whether files may be mounted, through a loop device of the host's.
    :param idmap: whether what root owns on disk is the caller's root's; False shows ids as they are.
    :param fuse: types that a program of the host's serves, by its name or path, instead of the kernel.
    :param options: names of options that callers may give such a program.
    :param remote: by the source that a caller names, what is mounted then, as
        ``{"media:/films": {"type": "nfs4", "options": "vers=4.2,addr=192.0.2.7"}}``.
    """

    filesystems: Sequence[str] = ()
    devices: Sequence[str] = ()
    images: bool = False
    idmap: bool = True
    fuse: Mapping[str, str] = {}
    options: Sequence[str] = ()
    remote: Mapping[str, Mapping[str, str]] = {}

    def check(self) -> None:
        for option in ("filesystems", "devices", "options"):
            listed(option, getattr(self, option), "words")
        if not isinstance(self.fuse, Mapping) or not all(
            isinstance(each, str) and each for each in self.fuse.values()
        ):
            raise ValueError(
                'fuse says which program serves a file system, as { ext4 = "fuse2fs" }'
            )
        for option, truth in (("images", self.images), ("idmap", self.idmap)):
            if not isinstance(truth, bool):
                raise ValueError(f"{option} is true or false")
        for each in self.devices:
            major, _, minor = each.partition(":")
            if not each.startswith("/") and not (
                major.isdecimal() and (minor.isdecimal() or minor == "*")
            ):
                raise ValueError(f'devices has {each!r}: it is "8:16", "8:*" or a path on the host')
        for each in (*self.filesystems, *self.fuse, *(one.kind for one in self.remotes.values())):
            if each in self.filesystems and each in self.fuse:
                raise ValueError(f"{each} is the kernel's (filesystems) or a program's (fuse)")
            if each in KERNELS_OWN:
                raise ValueError(
                    f"filesystems, fuse or remote has {each!r}, which the kernel lets a container mount by itself"
                )

    @property
    def remotes(self) -> dict[bytes, Remote]:
        """:attr:`remote`, read."""
        return read(self.remote)

    def allows(self, device: tuple[int, int]) -> bool:
        """Whether a block device may be mounted."""
        for each in self.devices:
            if each.startswith("/"):
                try:
                    found = os.stat(each)
                except OSError:
                    continue
                if stat.S_ISBLK(found.st_mode) and found.st_rdev == os.makedev(*device):
                    return True
            elif each in (f"{device[0]}:{device[1]}", f"{device[0]}:*"):
                return True
        return False


#: FS_USERNS_MOUNT of the kernel's file systems.
KERNELS_OWN: Final = frozenset((
    "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "devpts", "fuse", "mqueue", "overlay", "proc",
    "ramfs", "sysfs", "tmpfs",
))  # fmt: skip


#: What the first mount would load.
WAYS: Final = (
    "proctor.performing.loop_devices.loops",
    "proctor.performing.mounts.mounter",
    "proctor.performing.short_ways.mounting",
    "proctor.performing.mounts.placing",
    "proctor.performing.mounts.remounting",
)


def is_harmless_again(call: Call) -> bool:
    """Whether it is a remount: wherever an earlier monitor was at that, doing all of it once more is doing it once."""
    return flags_of(call.registers[3]) & (REMOUNT | BIND) == REMOUNT


def short_way(
    performers: Performers, name: str, listener: object, begins: Callable[[Call], object] | None
) -> Ordinary:
    """What supervisors ask first."""
    from proctor.performing.short_ways.mounting import MountWay

    return MountWay(performers, sys.modules[__name__], begins).go


def perform(task: Task) -> Work:
    """Mount it, or leave it to the kernel."""
    options, call = task.options(Options), task.call
    flags = flags_of(call.registers[3])
    # copy_mount_string and copy_mount_options come first
    args = call.args
    kind = args["fstype"]
    source = _copied(args, "source")
    address = args["data"]
    data = call.copied(address, PAGE_SIZE, some=True) if address else b""
    new = is_new(flags)
    name = (kind or b"").decode("ascii", "replace")
    away = elsewhere(task)
    if away and flags & (REMOUNT | BIND) == REMOUNT:
        remounted = yield from _remount(task, flags, data)
        if remounted is not None:
            return remounted
        if call.begun and not remounting.mounts(task).lasts:
            return deny(
                errno.EINTR, "an earlier monitor may have mounted this, and had begun to remount it"
            )
    program = options.fuse.get(name) if away else None
    far = options.remotes.get(source or b"") if away and options.remote else None
    if far is not None and far.kind != name:
        far = None
    if not new or not (program or far or (away and name in options.filesystems)):
        return (yield from _left(task, new, name))
    path = args["target"]
    target = yield from task.pin(task.start(pins.AT_FDCWD, path), path, 0, 0)
    task.permit(target.named.path, target.named.status, "target")
    if flags & NOUSER:
        return deny(errno.EINVAL)
    may(task)
    if far is not None:
        assert source  # the policy's options, whatever the caller said
        opened = sourcing.Source(target.fd, source, False, False, joins=False)
        return (yield from made(task, None, name, opened, flags, far.options, target, far.inside))
    given = options_in(data)
    try:
        if not source:
            raise Said(errno.EINVAL, f"{name} is mounted from something")
        opened = yield from sourcing.opened(
            task, options, source, reads_only(flags, given), served=bool(program)
        )
    except Said:
        if not program:
            yield from _parsed(task, name, given)
        raise
    if program:
        return (yield from _serve(task, options, program, opened, flags, given, target))
    return (yield from made(task, options.idmap, name, opened, flags, given, target))


def _parsed(task: Task, name: str, given: Sequence[Option]) -> Generator[Any, Any, None]:
    """See that a file system takes these options: in ``do_new_mount`` of fs/namespace.c it hears of them first, and
    of its source when it makes the superblock.

    :raises Said: it does not."""
    from proctor.performing.mounts import mounter

    try:
        failed, said = yield from mounter.parse(task, name, given)
    except Powerless:
        return
    if failed:
        raise Said(failed, said)


def _copied(args: Args, argument: str) -> bytes | None:
    """A string that ``copy_mount_string`` of fs/namespace.c copies.

    :raises Said: EINVAL, for what is too long.
    :raises MemoryUnreadable: EFAULT."""
    try:
        found: bytes | None = args[argument]
    except MemoryUnreadable as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Said(errno.EINVAL) from None
        raise
    return found


def wanted(task: Task, options: Options, name: str) -> bool:
    """Whether a file system is the rule's to mount, for a caller in namespaces of its own."""
    return name in options.filesystems and elsewhere(task)


def elsewhere(task: Task) -> bool:
    """Whether the caller is in a user namespace and a mount namespace of its own."""
    return apart(task.who, task.own.who)


def apart(who: Who, own: Who) -> bool:
    """As :func:`elsewhere`."""
    theirs, ours = who.namespaces, own.namespaces
    return theirs[USER] != ours[USER] and theirs[MNT] != ours[MNT]


def may(task: Task) -> None:
    """
    :raises Said: the caller has no right to mount anything."""
    if not task.who.effective >> CAP_SYS_ADMIN & 1:
        raise Said(errno.EPERM, "the caller has no CAP_SYS_ADMIN in its user namespace")
    if not task.owned():
        raise Said(
            errno.EPERM,
            "the caller is in a user namespace of its own making, where CAP_SYS_ADMIN comes for free "
            '(nested = "allow" would let it)',
        )


def _left(task: Task, new: bool, name: str) -> Work:
    """To the kernel; where a rule is about paths, on what was pinned."""
    if not task.asked:
        if new and name and name not in KERNELS_OWN and elsewhere(task):
            return let_run_unsafe(f"{_KERNELS} {would(filesystems=[name])}")
        return let_run_unsafe(_KERNELS)
    yield from ()
    raise Said(
        errno.EPERM,
        "the kernel would make this mount itself, and the rule's paths could be others by then: leave such "
        "calls to the kernel by a rule before"
        + (
            ""
            if new
            else ', as when = { flags = { any = ["MS_BIND", "MS_REMOUNT"] } } allow = true'
        ),
    )


# Making it ------------------------------------------------------------------------------------------


def made(
    task: Task,
    idmap: bool | None,
    name: str,
    source: sourcing.Source,
    flags: int,
    given: Sequence[Option],
    target: Pin,
    inside: bool = False,
) -> Work:
    """
    :param idmap: None for what is the policy's alone: it is not remounted for the caller."""
    from proctor.performing import newer
    from proctor.performing.mounts.mounter import Filesystem, make
    from proctor.performing.mounts.placing import put

    given = [*superblock(flags), *given]
    if source.read_only:  # last, so that nothing else is
        flags |= RDONLY
        given = [*given, (b"ro", None)]
    for_good, later = times(flags), others(flags)
    if not newer.has("mount_setattr"):
        for_good, later = for_good | later, 0
    try:
        made = yield from make(
            task,
            Filesystem(
                name, source.shown, careful(name, given), for_good,
                source.image, source.read_only, source.joins, bool(idmap), inside=inside, anywhere=idmap is None,
            ),
            source.fd,
        )  # fmt: skip
    except Powerless:
        return deny(
            errno.EPERM,
            f"mounting {name} needs the host's root, which the monitor is not: start it as root, outside "
            "of any container",
        )
    if made.status is None:
        return deny(made.errno, made.reason)
    task.hold(made.fd)
    if made.status.place[:2] == target.named.status.place[:2]:
        return deny(errno.EBUSY, "it is mounted there already")
    if not target.named.status.is_directory:
        return deny(errno.ENOTDIR)
    container, known = task.session.container, made.number and idmap is not None
    if known:  # before it is anywhere: whoever comes after us may find it done
        remounting.mounts(task).add(container, made.number, not source.read_only)
    verdict = yield from put(task, made.fd, target.fd, later)
    if known and verdict != answer(0):
        remounting.mounts(task).drop(container, made.number)
    return verdict


def _serve(
    task: Task,
    options: Options,
    program: str,
    source: sourcing.Source,
    flags: int,
    given: list[Option],
    target: Pin,
) -> Work:
    """By a FUSE server: its superblock is the caller's user namespace's, and all later is the kernel's."""
    from proctor.performing import noting
    from proctor.performing.mounts import fuse, placing

    noting.halves(task.call)
    words = [b"ro"] if flags & RDONLY or source.read_only else []
    for key, value in given:
        if os.fsdecode(key) not in options.options or (value and b"\\" in value):
            return deny(
                errno.EPERM,
                f"option {os.fsdecode(key)}: a server is given those of the rule's options only",
            )
        words.append(key if value is None else key + b"=" + value)
    if not target.named.status.is_directory:
        return deny(errno.ENOTDIR)
    # an image can be in a file system that tells us nothing; a device that can be opened is in none
    device = None if source.image else os.fstat(source.fd).st_rdev
    joins = source.image or source.joins
    served = fuse.Served(program, tuple(words), source.fd, device, source.shown, joins)
    try:
        mount = yield from fuse.serve(task, served)
    except Powerless:
        return deny(errno.EPERM, "that needs the host's root, which the monitor is not")
    return (
        yield from placing.put(task, mount, target.fd, others(flags), 0 if flags & NOSUID else 0x2)
    )


def _remount(task: Task, flags: int, data: bytes) -> Generator[Any, Any, Verdict | None]:
    """Of a mount that was made here, in the order of ``do_remount``; None for all others."""
    from proctor.performing.mounts import mounter, placing

    path = task.call.args["target"]
    target = yield from task.pin(task.start(pins.AT_FDCWD, path), path, 0, 0)
    number = yield from remounting.number(task, target.fd)
    writable = remounting.mounts(task).writable(task.session.container, number)
    if writable is None:
        return None
    task.permit(target.named.path, target.named.status, "target")
    if flags & NOUSER:
        return deny(errno.EINVAL)
    may(task)
    # mount(8) gives back what it read in mountinfo, the kernel's word for what we made of the mount
    given = [each for each in options_in(data) if each != (b"idmapped", None)]
    if not writable and not reads_only(flags, given):
        return deny(errno.EACCES, "its source was opened for reading only")
    try:
        failed, said = yield from mounter.reconfigure(task, target.fd, [*remounted(flags), *given])
    except Powerless:
        return deny(errno.EPERM, "that needs the host's root, which the monitor is not")
    if failed:
        return deny(failed, said)
    wished = others(flags)
    unwished = others(~0) & ~wished
    failed = yield from placing.change(task, target.fd, wished, unwished)
    return deny(failed) if failed else answer(0)

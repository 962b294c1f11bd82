"""mknod, mknodat: made by the kernel for the caller, with CAP_MKNOD lent for the last step.

The whole call is first made in the caller's own identity.  FIFOs, sockets, regular files and
whiteouts (character device 0:0, since Linux 5.8) need no right and are done then; every error but one
is the kernel's answer to the caller.  The one is EPERM for a device: the kernel looks at CAP_MKNOD
*over the host* last, so everything else was found good, and what is asked here is

* whether the caller holds CAP_MKNOD over its own user namespace (as Linux would ask if devices were
  namespaced), and whether that namespace is the target's own;
* whether a node would work there at all (no ``nodev``);

then the lender (:mod:`proctor.performing.identities.lender`) makes this one name in that one pinned directory,
owned as the caller would own it.  On a file system that belongs to a user namespace (the /dev of every
runtime) no node works, so there one is mounted (:mod:`proctor.performing.mounts.mounter`).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Deny, answer, deny
from proctor.performing.entitled import lacking, owners
from proctor.performing.executing.requests import Request
from proctor.performing.executing.steps import Steps
from proctor.performing.paths import acting, filestat, pinning, pins
from proctor.performing.trouble import Powerless, Said

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.performing.identities.who import Own
    from proctor.performing.performers import Performers
    from proctor.performing.short_ways.short import Ordinary
    from proctor.performing.task import Task, Work

#: See :func:`proctor.performing.registry.load`.
WAYS: Final = ("proctor.performing.short_ways.nodes",)
_KINDS: Final = (0, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
CAP_MKNOD: Final = 27
#: How the directory is walked to.
_PARENT: Final = pins.HOW.pack(pins.PIN | pins.O_DIRECTORY, 0, pins.NO_MAGICLINKS)
_NODES: Final = (stat.S_IFCHR, stat.S_IFBLK)


def perform(task: Task) -> Work:
    """Make the node for the caller."""
    dirfd, mode, device = decode(task.call)
    # may_mknod of fs/namei.c, before any path is looked at
    kind = stat.S_IFMT(mode)
    if kind not in _KINDS:
        return deny(errno.EPERM if stat.S_ISDIR(mode) else errno.EINVAL)
    path = task.call.path
    if not path:
        return deny(errno.ENOENT)
    head, last, slashes = pins.split(path)
    start = task.start(dirfd, path)
    if not last:
        yield from task.pin(start, head, pins.O_DIRECTORY, 0)
        return deny(errno.EEXIST)
    if wants_right(mode, device):
        task.expect_node()
    parent: int | None = None
    if task.asked:
        here = yield from task.entry(start, head, last, 0)
        found = here.found.named.status if here.found is not None else None
        task.permit(here.parent.named.path.rstrip(b"/") + b"/" + last, found)
        parent = here.parent.fd
    name = last + slashes
    directory, system = yield from _as_caller(task, start, head, name, mode, device, parent)
    if directory is None:
        return answer(0)
    return (yield from _with_right(task, directory, system, name, mode, device))


def short_way(
    performers: Performers, name: str, listener: object, begins: Callable[[Call], object] | None
) -> Ordinary:
    """What supervisors ask first."""
    from proctor.performing.short_ways.nodes import NodeWay

    return NodeWay(performers, sys.modules[__name__], name, begins)


def decode(call: Call) -> tuple[int, int, int]:
    """(dirfd, mode, device); mode is a umode_t of 16 bits."""
    registers, at = call.registers, int(call.name == "mknodat")
    dirfd = pins.signed(registers[0]) if at else pins.AT_FDCWD
    return dirfd, registers[1 + at] & 0xFFFF, registers[2 + at] & 0xFFFFFFFF


def wants_right(mode: int, device: int) -> bool:
    """Whether it is a device, and no whiteout."""
    kind = stat.S_IFMT(mode)
    return kind in _NODES and not (kind == stat.S_IFCHR and not device)


def _as_caller(
    task: Task,
    start: int | None,
    head: bytes,
    name: bytes,
    mode: int,
    device: int,
    parent: int | None,
) -> Any:
    """Made with the caller's rights: (None, its file system), or (the directory, its file system) if only
    CAP_MKNOD is missing.

    :raises Said: what the kernel says.
    """
    if parent is None:
        by = pinning.RELATIVE if pins.has(start) else pinning.ABSOLUTE
        making = acting.making(by, pins.room(max(len(head), len(name))))
        reply = yield from task.session.ask(
            making.request,
            *pins.directory(start),
            task.umask,
            mode,
            device,
            _PARENT,
            pins.probing(0, 0),
            head,
            name,
            fds=pins.along(start),
        )
        try:
            failed = reply.error(making.parent)
            if failed and pins.stands(failed, reply, making.probe, 0):
                raise Said(failed)
            system = filestat.system_of(reply.parts[making.system])
            if not failed and not system.proc:
                return _made(task, reply, making, mode, device), system
        finally:
            reply.close()
        pin = yield from task.walk(start, head, pins.O_DIRECTORY, 0, failed)
        parent = pin.fd
    making = acting.making(pinning.PINNED, pins.room(len(name)))
    reply = yield from task.session.ask(
        making.request, task.umask, mode, device, name, fds=(parent,)
    )
    try:
        if reply.error(making.made) == errno.EACCES:
            raise Said((yield from _among_its_own(task, parent, name, mode, device)))
        return _made(task, reply, making, mode, device), filestat.system_of(
            reply.parts[making.system]
        )
    finally:
        reply.close()


def _among_its_own(task: Task, parent: int, name: bytes, mode: int, device: int) -> Any:
    """What is said of a name in the caller's own directories of procfs: see :func:`.own_links.names`."""
    from proctor.performing.paths import own_links  # policies are looked over where the core is not

    args = parent, name, mode, device
    return (yield from own_links.names(task, (parent,), "mknodat", *args))


def _made(task: Task, reply: Any, making: acting.Making, mode: int, device: int) -> int | None:
    failed = reply.error(making.made)
    if not failed:
        return None
    if failed != errno.EPERM or not wants_right(mode, device):
        raise Said(failed)
    return task.keep(reply, making.parent)


def _with_right(
    task: Task, directory: int, system: filestat.System, name: bytes, mode: int, device: int
) -> Work:
    """All but CAP_MKNOD over the host is there."""
    from proctor.performing.identities import lender

    if why := lacking(task, CAP_MKNOD, "CAP_MKNOD"):
        return _refused(mode, device, errno.EPERM, why)
    if system.flags & filestat.ST_NODEV:
        why = "the file system is mounted nodev; a node would not work"
        return _refused(mode, device, errno.EPERM, why)
    works, made = True, None
    try:
        works = system.hosts or (yield from lender.works(task, directory, name, mode))
        if works:
            made = yield from lender.make_node(task, directory, name, mode, device)
    except Powerless:
        pass
    if not works:
        return (yield from _mounted(task, directory, name, mode, device))
    return told(task.own, mode, device, errno.EPERM if made is None else made)


def _refused(mode: int, device: int, number: int, why: str) -> Verdict:
    kind = "block" if stat.S_ISBLK(mode) else "char"
    return deny(number, f"{kind} {os.major(device)}:{os.minor(device)}: {why}")


def told(own: Own, mode: int, device: int, made: int) -> Verdict:
    """For what came of it with the right lent: 0, or an errno."""
    if not made:
        return answer(0)
    why = "the kernel refuses it even with CAP_MKNOD"
    if made == errno.EPERM and not (own.initial and own.who.permitted >> CAP_MKNOD & 1):
        why = (
            "making device nodes needs the host's root, which the monitor is not: start it as root, "
            "outside of any container"
        )
    return _refused(mode, device, made, why)


def _mounted(task: Task, directory: int, name: bytes, mode: int, device: int) -> Work:
    """On a file system that was mounted inside a user namespace a node would not work: an empty file is made
    there as the caller would make the node, and a node of that owner and mode mounted on it."""
    from proctor.performing import noting
    from proctor.performing.mounts import mounter, placing

    noting.halves(task.call)
    file, _ = yield from _as_caller(
        task, None, b"", name, stat.S_IFREG | mode & 0o7777, 0, directory
    )
    assert file is None
    act = acting.opening_in(pins.room(len(name)))
    how = pins.HOW.pack(pins.PIN | pins.O_NOFOLLOW, 0, pins.NO_MAGICLINKS)
    reply = yield from task.session.ask(act.request, task.umask, how, name, fds=(directory,))
    if not reply.made(act.fd):
        return _refused(mode, device, reply.error(act.fd), "the file for it is gone")
    place = task.keep(reply, act.fd)
    made = filestat.status_of(reply.parts[act.status])
    ids = owners(task.standing, place, made)
    if len(ids) != 2:
        return _refused(mode, device, errno.EPERM, "the file for it belongs to nobody there")
    node = mounter.Node(stat.S_IFMT(mode) | stat.S_IMODE(made.mode), device, *ids)
    failed, mounted = yield from mounter.make_node(task, node)
    verdict: Verdict
    if failed:
        verdict = told(task.own, mode, device, failed)
    else:
        verdict = yield from placing.put(task, task.hold(mounted), place, 0)
    if isinstance(verdict, Deny):
        removing = _removing(pins.room(len(name)))
        (yield from task.session.ask(removing, name, fds=(directory,))).close()
    return verdict


@cache
def _removing(size: int) -> Request:
    steps = Steps()
    name, directory = steps.hole(size), steps.sent()
    steps.call("unlinkat", directory, name, 0)
    return steps.freeze()

"""mknod, mknodat: made by the kernel for the caller, with CAP_MKNOD lent for the last step.

The whole call is first made in the caller's own identity.  FIFOs, sockets, regular files and
whiteouts (character device 0:0, since Linux 5.8) need no right and are done then; every error but one
is the kernel's answer to the caller.  The one is EPERM for a device: the kernel looks at CAP_MKNOD
*over the host* last, so everything else was found good, and what is asked here is

* whether the caller holds CAP_MKNOD over its own user namespace (as Linux would ask if devices were
  namespaced), and whether that namespace is the target's own;
* whether a node would work there at all (no ``nodev``, no file system of a user namespace);

then one process makes this one name in that one pinned directory, owned as the caller would own it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Verdict, answer, deny
from proctor.emulate import raw, wire
from proctor.emulate.identity import Identity
from proctor.emulate.paths import split
from proctor.emulate.pool import Allow, CallerLeft, Performer, PerformerTrouble, text_of

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.emulate.performers import Performers

_DEADLINE: Final = 30.0
_KINDS: Final = (0, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)


def perform_mknod(host: Performers, call: Call, allow: Allow | None) -> Verdict:
    """Make the node for the caller."""
    registers = call.registers
    if call.name == "mknodat":
        dirfd = registers[0] & 0xFFFFFFFF
        dirfd -= (dirfd >> 31) << 32
        mode, device = registers[2] & 0xFFFF, registers[3] & 0xFFFFFFFF
    else:
        dirfd, mode, device = raw.AT_FDCWD, registers[1] & 0xFFFF, registers[2] & 0xFFFFFFFF
    # may_mknod of fs/namei.c, before any path is looked at; mode is a umode_t of 16 bits.
    if stat.S_IFMT(mode) not in _KINDS:
        return deny(errno.EPERM if stat.S_ISDIR(mode) else errno.EINVAL)
    path = call.path
    caller = Identity(call.tid, host.own())
    try:
        packet, refused = _as_caller(host, call, caller, dirfd, path, mode, device, allow)
        kind, number = wire.REPLY.unpack_from(packet.data)
        if kind == wire.NEEDS_RIGHT:
            try:
                nodev = bool(number & wire.ON_NODEV)
                return _with_right(host, call, caller, packet.fds[0], nodev, path, mode, device)
            finally:
                os.close(packet.fds[0])
        if kind != wire.DONE:
            raise PerformerTrouble("the performer's reply makes no sense")
    finally:
        caller.close()
    if refused:
        return deny(errno.EACCES)  # said by allow(), whose reason it has
    return deny(number) if number else answer(0)


def _as_caller(
    host: Performers,
    call: Call,
    caller: Identity,
    dirfd: int,
    path: bytes,
    mode: int,
    device: int,
    allow: Allow | None,
) -> tuple[wire.Packet, bool]:
    options = host.options(caller, allow)
    start: int | None = None
    if not path.startswith(b"/"):
        start = caller.start(dirfd)
        options |= wire.BAD_DIR if start is None else wire.HAS_DIR
    pids = caller.pids
    head = wire.REQUEST.pack(wire.OP_MKNOD, options, caller.umask, len(pids), mode, device, 0)
    try:
        fds = [] if start is None else [start]
        return host.converse(call, caller, head + pids + path, fds, allow)
    finally:
        if start is not None:
            os.close(start)


def _with_right(
    host: Performers,
    call: Call,
    caller: Identity,
    directory: int,
    nodev: bool,
    path: bytes,
    mode: int,
    device: int,
) -> Verdict:
    """All but CAP_MKNOD over the host is there."""
    what = f"{'block' if stat.S_ISBLK(mode) else 'char'} {os.major(device)}:{os.minor(device)}"
    if not caller.effective >> raw.CAP_MKNOD & 1:
        return deny(errno.EPERM, f"{what}: the caller has no CAP_MKNOD in its user namespace")
    if caller.in_own_user_namespace:
        return deny(errno.EPERM, f"{what}: the kernel refuses it to the caller, who has CAP_MKNOD")
    if host.nested == "deny" and not _is_targets_own(host, caller):
        return deny(
            errno.EPERM,
            f"{what}: the caller is in a user namespace of its own making, where CAP_MKNOD comes for "
            'free (nested = "allow" in the policy, or --nested allow, would let it)',
        )
    if nodev:
        return deny(errno.EPERM, f"{what}: the file system is mounted nodev; a node would not work")
    _, last, slashes = split(path)
    spec, fds = caller.spec(host.cgroup == "join")
    try:
        for fd in _not_for_nodes(spec, fds):
            os.close(fd)
        spec |= {
            "job": "mknod",
            "fds": ["parent", *spec["fds"]],
            "name": last + slashes,
            "mode": mode,
            "device": device,
            "idmapped": caller.mount_is_idmapped(directory),
        }
        packet = _order(host, call, spec, [directory, *fds])
    finally:
        for fd in fds:
            os.close(fd)
    kind, number = wire.REPLY.unpack_from(packet.data)
    if kind == wire.TROUBLE:
        raise PerformerTrouble(text_of(packet))
    if kind == wire.USELESS:
        return deny(
            errno.EPERM,
            f"{what}: the file system was mounted inside a user namespace; a node would not work",
        )
    if kind == wire.POWERLESS or (number == errno.EPERM and not host.own().is_initial):
        return deny(
            errno.EPERM,
            f"{what}: making device nodes needs the host's root, which the monitor is not: start it as "
            "root, outside of any container",
        )
    if kind != wire.DONE:
        raise PerformerTrouble("the performer's reply makes no sense")
    if number:
        return deny(number, f"{what}: the kernel refuses it even with CAP_MKNOD")
    return answer(0)


def _is_targets_own(host: Performers, caller: Identity) -> bool:
    if host.owners:
        inode = int(caller.user_namespace.rpartition("[")[2].rstrip("]"))
        return inode in host.owners
    above = caller.parent_and_owner()
    if above is None:
        return False
    parent, owner = above
    return f"user:[{parent}]" == host.own().namespaces["user"] and owner == os.geteuid()


def _not_for_nodes(spec: dict[str, Any], fds: list[int]) -> list[int]:
    """Take the namespaces and the root out of the spec: the last step enters none of them."""
    keep = [name.startswith("cgroup") for name in spec["fds"]]
    unneeded = [fd for fd, kept in zip(fds, keep, strict=True) if not kept]
    fds[:] = [fd for fd, kept in zip(fds, keep, strict=True) if kept]
    spec["fds"] = [name for name, kept in zip(spec["fds"], keep, strict=True) if kept]
    return unneeded


def _order(host: Performers, call: Call, spec: dict[str, Any], fds: list[int]) -> wire.Packet:
    if not call.valid():
        raise CallerLeft
    maker = Performer(host.pool.order(spec, fds), None)
    due = time.monotonic() + (host.deadline or _DEADLINE)
    try:
        packet = maker.reply(None, due)
        if packet.data[0] != wire.READY:
            return packet
        if packet.fds:  # else there is no number left for it here; it acts all the same
            maker.pidfd = packet.fds[0]
        return maker.reply(None, due)
    finally:
        maker.kill()  # it has said its last word, or must not do anything later

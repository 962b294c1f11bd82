"""Handlers that have a family of calls performed: what a rule with ``perform`` is in a policy.

::

    from pathlib import Path
    from proctor import families

    Path("note").write_text("read")
    handlers = [families.open(when={"path": "**/note"}), families.open(), families.mknod()]
    assert proctor.run(["cat", "note"], handlers, capture_output=True).stdout == b"read"

Each takes ``when``, the conditions of a rule as a policy has them (docs/policy.md), and the options of
its family (docs/families.md).  Calls for which the conditions do not hold are the next handler's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.policy.document import Spec
    from proctor.supervisor.handlers import Handler

    When = Mapping[str, Spec] | None

__all__ = [
    "accept", "attributes", "bind", "bpf", "connect", "exec", "fsflags", "fsmount", "loop", "mknod",
    "modules", "mount", "names", "open", "perf", "quiet", "quota", "resources", "scheduling",
    "send", "served", "setsockopt", "socket", "stat", "streams", "userns", "xattr",
]  # fmt: skip


def accept(*, when: When = None) -> Handler:
    """listen, accept and accept4, on the caller's own socket.

    >>> proctor.families.accept()
    <Handler families.accept for listen, accept, accept4, socketcall>
    """
    return _performed("accept", when)


def attributes(*, when: When = None) -> Handler:
    """chmod, chown and utime by path, in all their forms, done as the caller to what its path led to.

    >>> proctor.families.attributes(when={"path": "/srv/**"}).wants("fchownat")
    True
    """
    return _performed("attributes", when)


def bind(
    *,
    when: When = None,
    network: str | None = None,
    to: str | None = None,
    privileged: bool | None = None,
) -> Handler:
    """bind, on the caller's own socket.

    >>> proctor.families.bind(when={"address": "inet:0.0.0.0:80"}, network="host", privileged=True)
    <Handler families.bind for bind, socketcall>

    :param network: as for :func:`connect`: the socket serves there then.
    :param to: as for :func:`connect`.
    :param privileged: whether low ports are bound also for who has no CAP_NET_BIND_SERVICE.
    """
    return _performed("bind", when, network=network, to=to, privileged=privileged)


def bpf(*, when: When = None) -> Handler:
    """bpf, for device programs of the container's own cgroups.

    >>> proctor.families.bpf()
    <Handler families.bpf for bpf>
    """
    return _performed("bpf", when)


def connect(*, when: When = None, network: str | None = None, to: str | None = None) -> Handler:
    """connect, on the caller's own socket.

    >>> proctor.families.connect(when={"address": "inet:10.0.0.0/8:443"}, network="host")
    <Handler families.connect for connect, socketcall>

    :param network: "host" (the monitor's) or the path of a network namespace, where the socket is
        replaced by one of that network.
    :param to: ``inet:HOST:PORT`` or ``inet6:[HOST]:PORT``, in the place of the caller's address.
    """
    return _performed("connect", when, network=network, to=to)


def mknod(*, when: When = None) -> Handler:
    """mknod and mknodat, with ``CAP_MKNOD`` lent for devices.

    >>> proctor.families.mknod(when={"type": "char", "device": ["1:3", "1:5"]})
    <Handler families.mknod for mknod, mknodat>
    """
    return _performed("mknod", when)


def modules(
    *,
    when: When = None,
    modules: Sequence[str],
    parameters: Sequence[str] | None = None,
    unload: bool | None = None,
) -> Handler:
    """finit_module, init_module and delete_module: the host's module of the name in the caller's image.

    >>> proctor.families.modules(modules=["nf_tables", "dummy"], parameters=["dummy.numdummies"])
    <Handler families.modules for delete_module, finit_module, init_module>

    :param modules: names of modules that may be loaded.
    :param parameters: ``"MODULE.PARAMETER"`` that a caller may set.  None, usually.
    :param unload: whether they may be taken away again.  False, usually.
    """
    return _performed("modules", when, modules=modules, parameters=parameters, unload=unload)


def exec(*, when: When = None, freeze: bool | None = None) -> Handler:
    """execve and execveat, let run where program, interpreters and words are what the conditions want.

    >>> proctor.families.exec(when={"path": "/usr/bin/*"})
    <Handler families.exec for execve, execveat>

    :param freeze: whether the caller is held until it was seen that the kernel took the same; True, usually.
    """
    return _performed("exec", when, freeze=freeze)


def fsflags(*, when: When = None, flags: Sequence[str]) -> Handler:
    """ioctl, for FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR, and file_setattr (Linux 6.17): what chattr does.

    >>> proctor.families.fsflags(flags=["immutable", "append"])
    <Handler families.fsflags for file_getattr, file_setattr, ioctl>

    :param flags: "immutable" and "append", or one of them: what CAP_LINUX_IMMUTABLE is lent for.
    """
    return _performed("fsflags", when, flags=flags)


def fsmount(
    *,
    when: When = None,
    filesystems: Sequence[str],
    devices: Sequence[str] | None = None,
    images: bool | None = None,
    idmap: bool | None = None,
) -> Handler:
    """fsopen, fspick, fsconfig, fsmount and move_mount, for what :func:`mount` does; parameters as there.

    >>> proctor.families.fsmount(filesystems=["ext4", "squashfs"], images=True)
    <Handler families.fsmount for fsconfig, fsmount, fsopen, fspick, move_mount>
    """
    return _performed(
        "fsmount", when, filesystems=filesystems, devices=devices, images=images, idmap=idmap
    )


def loop(*, most: int | None = None) -> Handler:
    """ioctl of loop devices: losetup and ``mount -o loop`` on images of the container's own, with
    :func:`open` for the devices and :func:`mount` or :func:`fsmount`.

    >>> loops = proctor.families.open(when={"path": "/dev/loop*"}, loops=True)
    >>> proctor.families.loop(most=4), loops
    (<Handler families.loop for ioctl>, <Handler families.open for open, openat, openat2, creat>)

    :param most: how many loop devices a container may have at the same time.  8, usually.
    """
    from proctor.performing.families.loop import COMMANDS

    return _performed("loop", {"op": list(COMMANDS)}, most=most)


def mount(
    *,
    when: When = None,
    filesystems: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    images: bool | None = None,
    idmap: bool | None = None,
    fuse: Mapping[str, str] | None = None,
    options: Sequence[str] | None = None,
    remote: Mapping[str, Mapping[str, str]] | None = None,
) -> Handler:
    """New mounts of file systems that the kernel mounts for the host's root alone.

    >>> proctor.families.mount(filesystems=["ext4", "squashfs"], images=True)
    <Handler families.mount for mount>
    >>> proctor.families.mount(fuse={"ext4": "fuse2fs"}, images=True, options=["norecovery"])
    <Handler families.mount for mount>

    :param filesystems: their types.
    :param devices: block devices that may be mounted, where the caller can open them: ``"8:16"``,
        ``"8:*"`` or a path on the host.  None, usually.
    :param images: whether files may be, through a loop device of the host's.  False, usually.
    :param idmap: whether the caller's root owns what root owns on disk.  True, usually.
    :param fuse: types that are served by a program of the host's, its name or path, instead.  None, usually.
    :param options: names of options that callers may give such a program.  None, usually.
    :param remote: file systems without a device, by the source that callers name: ``type``, ``options`` and
        ``network`` (``"host"``, usually, or ``"container"``).  None, usually.
    """
    return _performed(
        "mount", when, filesystems=filesystems, devices=devices, images=images, idmap=idmap, fuse=fuse, options=options,
        remote=remote,
    )  # fmt: skip


def names(*, when: When = None) -> Handler:
    """mkdir, rmdir, unlink, rename, link and symlink, in all their forms, done as the caller.

    >>> proctor.families.names(when={"path": "/srv/**"}).wants("renameat2")
    True
    """
    return _performed("names", when)


def open(*, when: When = None, sync: bool | None = None, loops: bool | None = None) -> Handler:
    """open, openat, openat2 and creat, as the caller.

    >>> proctor.families.open(when={"path": "/srv/**"})
    <Handler families.open for open, openat, openat2, creat>

    :param sync: False has O_SYNC and O_DSYNC left out, also of openat2.
    :param loops: whether loop devices are opened, for what :func:`loop` does.  False, usually.
    """
    return _performed("open", when, sync=sync, loops=loops)


def perf(*, when: When = None, events: Sequence[str]) -> Handler:
    """perf_event_open, for threads of the container.

    >>> proctor.families.perf(events=["cpu-cycles", "instructions"])
    <Handler families.perf for perf_event_open>

    :param events: which, by perf(1)'s names.
    """
    return _performed("perf", when, events=events)


def quiet(*, when: When = None) -> Handler:
    """fsync, fdatasync, sync, syncfs, msync and sync_file_range, said to be done.

    >>> proctor.families.quiet().wants("fdatasync"), proctor.families.open(sync=False).wants("openat2")
    (True, True)
    """
    return _performed("quiet", when)


def quota(*, when: When = None, commands: Sequence[str] | None = None) -> Handler:
    """quotactl and quotactl_fd: quotas of the ids that the container has.

    >>> proctor.families.quota(commands=["Q_GETQUOTA", "Q_SETQUOTA"])
    <Handler families.quota for quotactl, quotactl_fd>

    :param commands: what CAP_SYS_ADMIN is lent for: Q_GETQUOTA, Q_GETNEXTQUOTA, Q_XGETQUOTA and Q_XGETNEXTQUOTA
        if nothing is said; besides these there are Q_SETQUOTA and Q_XSETQLIM.
    """
    return _performed("quota", when, commands=commands)


def socket(*, when: When = None, network: str | None = None) -> Handler:
    """socket, made in another network from the start.

    >>> proctor.families.socket(when={"domain": ["AF_INET", "AF_INET6"]}, network="host")
    <Handler families.socket for socket>

    :param network: as for :func:`connect`.
    """
    return _performed("socket", when, network=network)


def resources(
    *,
    when: When = None,
    seed: str | None = None,
    sysname: str | None = None,
    nodename: str | None = None,
    release: str | None = None,
    version: str | None = None,
    machine: str | None = None,
) -> Handler:
    """sysinfo, sched_getaffinity, uname and getrandom: what a program sees of its machine.

    >>> proctor.families.resources(release="6.1.0", seed="the same each time")
    <Handler families.resources for sysinfo, sched_getaffinity, uname, getrandom>

    :param seed: what random bytes are made of.
    :param sysname: for uname, as the others.
    """
    return _performed(
        "resources", when, seed=seed, sysname=sysname, nodename=nodename, release=release, version=version, machine=machine
    )  # fmt: skip


def scheduling(
    *,
    when: When = None,
    nice: int | None = None,
    priority: int | None = None,
    io: bool | None = None,
) -> Handler:
    """sched_setscheduler, sched_setparam, sched_setattr, setpriority and ioprio_set, for threads of the container.

    >>> proctor.families.scheduling(nice=-5, priority=10).wants("sched_setattr")
    True

    :param nice: least nice value that CAP_SYS_NICE is lent for; 0 if nothing is said.
    :param priority: greatest real-time priority that it is lent for; 0, which is none, if nothing is said.
    :param io: whether it is lent for the real-time class of input and output.  False, usually.
    """
    return _performed("scheduling", when, nice=nice, priority=priority, io=io)


def send(*, when: When = None, network: str | None = None, to: str | None = None) -> Handler:
    """sendto, sendmsg and sendmmsg, on the caller's own socket; options as for :func:`connect`.

    >>> proctor.families.send(when={"address": ["inet:10.0.0.53:53", "none"]}, network="host")
    <Handler families.send for sendto, sendmsg, sendmmsg, socketcall>
    """
    return _performed("send", when, network=network, to=to)


def served(
    *,
    when: When = None,
    content: bytes | str | Callable[[Call], bytes | str] | None = None,
    file: str | None = None,
    limits: bool | None = None,
    mode: int | None = None,
    writable: bool | None = None,
) -> Handler:
    """Files that are what is said here: open, stat, access and readlink, in all their forms.

    ::

        motd = proctor.families.served(content="Welcome.\\n", when={"path": "/etc/motd"})
        machine = proctor.families.served(limits=True)
        others = [proctor.families.open(), proctor.families.stat()]
        done = proctor.run(["cat", "/etc/motd"], [motd, machine, *others], capture_output=True)
        assert done.stdout == b"Welcome.\\n"

    :param content: what is in the file, or a function that tells it for each call.
    :param file: path of a file of the host's, as the monitor sees it.
    :param limits: /proc/meminfo and its like, with what the caller's cgroups leave of the machine; without
        ``when`` all those that are known.
    :param mode: permission bits that are shown; 0o444 if nothing is said, the host's file has its own.
    :param writable: whether the host's file may be written to.  False, usually.
    """
    if limits and when is None:
        from proctor.performing.limits.machine import FILES

        when = {"path": [path.decode() for path in FILES]}
    return _performed(
        "served", when, content=content, file=file, limits=limits, mode=mode, writable=writable
    )


def setsockopt(*, when: When = None, privileged: bool | None = None) -> Handler:
    """setsockopt of the options that need CAP_NET_ADMIN or CAP_NET_RAW.

    >>> proctor.families.setsockopt(when={"level": "SOL_SOCKET", "optname": 36})
    <Handler families.setsockopt for setsockopt>

    :param privileged: whether they are set also for who has no such capability at home.
    """
    return _performed("setsockopt", when, privileged=privileged)


def stat(*, when: When = None) -> Handler:
    """stat, access and readlink, in all their forms by path, done as the caller.

    >>> proctor.families.stat(when={"path": "/srv/**"}).wants("faccessat2")
    True
    """
    return _performed("stat", when)


def streams(
    *,
    file: str,
    when: When = None,
    size: int | None = None,
    keep: int | None = None,
    instead: int | None = None,
) -> Handler:
    """write and writev: what is written to is replaced by a log first, and again when that is rotated.

    >>> proctor.families.streams(when={"fd": 1}, file="/var/log/app.log", size=1 << 20, keep=3)
    <Handler families.streams for write, writev>

    :param file: path of the log, as the monitor sees it.
    :param size: bytes after which it is left for a new one; never if nothing is said.
    :param keep: how many older ones are kept then; one if nothing is said.
    :param instead: which descriptor of the monitor's the target inherited, if it is not the one of the same
        number.
    """
    return _performed("streams", when, file=file, size=size, keep=keep, instead=instead)


def userns(*, when: When = None, most: int) -> Handler:
    """unshare, clone and clone3: user namespaces are counted.

    >>> proctor.families.userns(most=8)
    <Handler families.userns for unshare, clone, clone3>

    :param most: how many a container may make.
    """
    return _performed("userns", when, most=most)


def xattr(
    *, when: When = None, names: Sequence[str] | None = None, apart: Sequence[str] | None = None
) -> Handler:
    """Extended attributes that the kernel wants the host's CAP_SYS_ADMIN for, on the caller's own files.

    >>> marks = proctor.families.xattr(names=["trusted.overlay.opaque"], apart=["trusted.backup.*"])
    >>> marks.wants("lsetxattr"), marks.wants("flistxattr")
    (True, True)

    :param names: attributes of ``trusted.*`` that are what they are on the host, too; ``*`` at the end
        stands for any rest.  ``trusted.overlay.*`` if nothing is said.
    :param apart: those that each container has for itself: no other one sees them.  None, usually.
    """
    return _performed("xattr", when, names=names, apart=apart)


def _performed(family: str, when: When, **how: Any) -> Handler:
    """
    :raises PolicyError: a condition that the calls do not have, or an option that cannot be so."""
    from proctor.policy.single import performed

    given = {key: value for key, value in how.items() if value is not None}
    return performed(f"families.{family}", family, when or {}, given)

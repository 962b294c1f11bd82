"""The parent of all performers: a process of its own, started by :mod:`proctor.emulate.pool`.

Execed (so that nothing of the monitor's memory is in it, and so that its memory belongs to the
monitor's user namespace: a target may not ptrace it), single-threaded (setns(2) wants that), with no
descriptors but its control socket.  It only forks: one performer per identity, which lives on and
answers calls, and one per device node, which makes it and ends.  It never touches anything of a
target itself.  It ends when the monitor's end of the control socket is closed, and every performer is
killed with it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import errno
import marshal
import os
import resource
import select
import signal
import socket
import stat
import struct
from typing import Any, Final

from proctor.emulate import raw, scarce, wire
from proctor.emulate.apart import NO_CGROUP, join_cgroups
from proctor.emulate.become import Trouble, become, label_file, take_label
from proctor.emulate.paths import read_protected
from proctor.emulate.work import Worker

_OUTSIDER: Final = 0xFFFFFFFE  # a uid that no container is given


def main(control_fd: int, monitor: int) -> None:
    """Serve the control socket until it ends, or the monitor does (it may have forked, and its child
    then holds the other end of the socket as well)."""
    control = socket.socket(fileno=control_fd)
    os.closerange(3, control_fd)
    os.closerange(control_fd + 1, 1 << 20)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for performers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _widen()
    raw.hide()
    raw.name_process(b"proctor-perform")
    os.chdir(b"/")
    me = os.getpid()
    alive = os.pidfd_open(monitor)
    if os.getppid() != monitor:
        os._exit(0)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(alive, select.POLLIN)
    while True:
        if any(fd == alive for fd, _ in poll.poll()):
            os._exit(0)
        packet = wire.receive(control, wire.LONGEST)
        if not packet.data:
            os._exit(0)
        try:
            child = os.fork()
        except OSError as error:
            _refuse(packet, f"a performer cannot be forked: {scarce.why(error)}")
            continue
        if child == 0:
            try:
                control.close()
                os.close(alive)
                _child(packet, me)
            finally:
                os._exit(1)
        for fd in packet.fds:
            os.close(fd)


def _widen() -> None:
    """Take all the descriptors that we may have: they are few, but the monitor's own limit holds
    for us, and what a performer opens must not fail for it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _refuse(packet: wire.Packet, text: str) -> None:
    """Answer an order that nobody can carry out."""
    for place, fd in enumerate(packet.fds):
        if place == 0:
            with socket.socket(fileno=fd) as sock:
                _say(sock, wire.TROUBLE, text)
        else:
            os.close(fd)


def _child(packet: wire.Packet, parent: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if packet.cut:
        _refuse(packet, f"a performer is out of descriptors; {scarce.open_files()}")
        return
    spec, fds = marshal.loads(packet.data), packet.fds
    sock = socket.socket(fileno=fds[0])
    named = dict(zip(spec["fds"], fds[1:], strict=True))
    cgroups = [fd for name, fd in named.items() if name.startswith("cgroup")]
    groups = None if spec["cgroup"] is None else cgroups
    try:
        if spec["job"] == "mknod":
            raw.die_with_parent(parent)
            pidfd = os.pidfd_open(os.getpid())
            wire.send(sock, wire.REPLY.pack(wire.READY, 0), [pidfd])
            _make_node(sock, spec, named["parent"], groups)
        else:
            _perform(sock, spec, named, groups, parent)
    except Trouble as trouble:
        _say(sock, wire.TROUBLE, str(trouble))
    except OSError as error:
        _say(sock, wire.TROUBLE, f"performer: {scarce.why(error)}")


def _say(sock: socket.socket, kind: int, text: str) -> None:
    try:
        wire.send(sock, wire.REPLY.pack(kind, 0) + text.encode(errors="replace"))
    except OSError:
        pass  # the monitor gave up on us meanwhile


def _perform(
    sock: socket.socket,
    spec: dict[str, Any],
    named: dict[str, int],
    cgroups: list[int] | None,
    parent: int,
) -> None:
    """Become the caller, then serve."""
    proc = os.open(b"/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    own_fds = os.open(b"/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    pidfd = os.pidfd_open(os.getpid())
    read_protected(proc)
    become(spec, named)
    raw.hide()
    raw.die_with_parent(parent)
    os.chdir(b"/")
    for name, fd in named.items():
        if not name.startswith("cgroup"):
            os.close(fd)
    idle = spec["idle"]
    sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(idle), int(idle % 1 * 1e6))
    )
    wire.send(sock, wire.REPLY.pack(wire.READY, 0), [pidfd])
    os.close(pidfd)
    Worker(sock, own_fds, proc, cgroups).serve()
    os._exit(0)


def _make_node(
    sock: socket.socket, spec: dict[str, Any], directory: int, cgroups: list[int] | None
) -> None:
    """The one step that needs the host's rights: mknodat(2) of one name in one pinned directory.

    The kernel has already agreed to everything but CAP_MKNOD, in the caller's own identity.  This
    process stays in the monitor's namespaces, but owns what it makes as the caller would (fsuid,
    fsgid, groups, umask; the kernel applies set-group-id directories and default ACLs), is subject to
    the caller's device cgroup, and holds CAP_MKNOD alone (and CAP_FSETID if the caller has it).
    CAP_DAC_OVERRIDE is added only where the caller got into the directory by a right over its own
    user namespace that the host does not know it to have.
    """
    effective, permitted, _ = raw.capget()
    right = 1 << raw.CAP_MKNOD
    if not permitted & right:
        wire.send(sock, wire.REPLY.pack(wire.POWERLESS, 0))
        return
    if cgroups is None or not join_cgroups(cgroups):
        raise Trouble(NO_CGROUP)
    name, mode, device = spec["name"], spec["mode"], spec["device"]
    os.umask(spec["umask"])
    raw.keep_capabilities()
    os.setgroups(spec["groups"])
    raw.setfsgid(spec["gids"][3])
    extra = spec["effective"] & permitted & 1 << raw.CAP_FSETID
    foreign = _belongs_to_userns(directory, name, mode, device, effective)
    raw.setfsuid(spec["uids"][3])
    take_label(label_file(spec["label"]), spec["label"])
    if foreign and not spec["idmapped"]:
        wire.send(sock, wire.REPLY.pack(wire.USELESS, 0))
        return
    number = 0
    for allowed in (right | extra, right | extra | 1 << raw.CAP_DAC_OVERRIDE):
        raw.capset(allowed & permitted, permitted)
        try:
            os.mknod(name, mode, device, dir_fd=directory)
            number = 0
        except OSError as error:
            number = error.errno or errno.EIO
        if number != errno.EACCES:
            break
    wire.send(sock, wire.REPLY.pack(wire.DONE, number))


def _belongs_to_userns(directory: int, name: bytes, mode: int, device: int, effective: int) -> bool:
    """Whether the file system belongs to a user namespace: devices made there cannot be opened.

    The kernel shows that nowhere, but says EOVERFLOW to whoever has no number in that namespace,
    before it looks at rights; without CAP_MKNOD the attempt ends in EPERM everywhere else.
    """
    try:
        raw.setfsuid(_OUTSIDER)
    except PermissionError:
        return False  # the monitor is in a user namespace itself; the kernel will say EPERM
    raw.capset(effective & ~(1 << raw.CAP_MKNOD), raw.capget()[1])
    try:
        os.mknod(name, stat.S_IFMT(mode), device, dir_fd=directory)
    except OSError as error:
        return error.errno == errno.EOVERFLOW
    finally:
        raw.capset(effective, raw.capget()[1])
    return False

"""Descriptors that go from one process to another: SCM_RIGHTS and pidfd_getfd(2)."""

from __future__ import annotations

import struct

from proctor.model.kernel import pidfds
from proctor.model.kernel.files import Socket
from proctor.model.kernel.linux import EBADF
from tests.model.operations.choices import Choices, a_descriptor
from tests.model.twins import KEPT, Difference, Twin, World

#: More descriptors than the victims of some comparisons at a time ever have in flight.
SAFELY_IN_FLIGHT = 64


def _sockets(twin: Twin, with_messages: bool) -> list[int]:
    slots = twin.task.files.slots
    found = []
    for fd in sorted(slots):
        inside = slots[fd].inside
        if isinstance(inside, Socket):
            if with_messages and inside.messages:
                found.append(fd)
            if not with_messages and len(inside.peer.messages) < 4 and not inside.peer.closed:
                found.append(fd)
    return found


def op_pass(world: World, choices: Choices) -> bool:
    """Descriptors through a socket (SCM_RIGHTS) and by pidfd_getfd(2)."""
    idle = world.idle()
    if not idle:
        return False
    receivers = [t for t in idle if _sockets(t, True)]
    if receivers and choices.chance(60):
        return _recvmsg(world, choices.one(receivers), choices)
    senders = [t for t in idle if _sockets(t, False)]
    if senders and choices.chance(60):
        return _sendmsg(world, choices.one(senders), choices)
    return _getfd(world, choices)


def _sendmsg(world: World, twin: Twin, choices: Choices) -> bool:
    socket_fd = choices.one(_sockets(twin, False))
    fd = a_descriptor(twin, choices)
    task = twin.task
    # A socket in flight to itself keeps itself alive until the kernel's own collector comes.
    carried = task.files.get(fd, path_too=True)
    if carried is not None and isinstance(carried.inside, Socket):
        return False
    # ETOOMANYREFS counts what all processes of a user on the machine have in flight.
    if not task.cap_sys_admin and task.process.nofile < SAFELY_IN_FLIGHT:
        return False
    at = twin.actor.region

    def perform() -> int:
        socket = task.files.slots[socket_fd].inside
        file = task.files.get(fd, path_too=True)
        assert isinstance(socket, Socket)
        failed = socket.failed()  # unix_seqpacket_sendmsg asks before scm_send
        if failed:
            return failed
        if file is None:
            return -EBADF
        socket.peer.messages.append((b"x", [file.get()]))
        return 1

    world.step(
        twin, "pass", "sendmsg", (socket_fd, at, 0),
        pokes=[(at, _msghdr(at, fd))], perform=perform,
    )  # fmt: skip
    return True


def _msghdr(at: int, fd: int, room: int = 24) -> bytes:
    """struct msghdr at ``at`` with one byte and one descriptor."""
    iov, control, byte = at + 56, at + 72, at + 128
    header = struct.pack("=QIxxxxQQQQi4x", 0, 0, iov, 1, control, room, 0)
    body = header + struct.pack("=QQ", byte, 1) + struct.pack("=Qiii4x", 20, 1, 1, fd)
    return body.ljust(128, b"\0") + b"x"


def _recvmsg(world: World, twin: Twin, choices: Choices) -> bool:
    socket_fd = choices.one(_sockets(twin, True))
    cloexec = choices.chance(50)
    task = twin.task
    at = twin.actor.region
    got: list[int] = []

    def perform() -> int:
        socket = task.files.slots[socket_fd].inside
        assert isinstance(socket, Socket)
        failed = socket.failed()
        if failed:
            return failed
        data, files = socket.messages.pop(0)
        for file in files:
            got.append(task.files.receive(file, task.process.nofile, cloexec))
            file.put()
        return len(data)

    def then() -> None:
        raw = world.real.peek(twin.actor, at, 96)
        if twin.task.result is None or twin.task.result < 0:
            return
        length = struct.unpack_from("=Q", raw, 40)[0]
        real = struct.unpack_from("=i", raw, 72 + 16)[0] if length else -1
        want = got[0] if got and got[0] >= 0 else -1
        if real != want:
            raise Difference(f"recvmsg gave descriptor {real}, the model {want}")

    # MSG_CMSG_CLOEXEC | MSG_DONTWAIT
    world.step(
        twin, "pass", "recvmsg", (socket_fd, at, (0x40000000 if cloexec else 0) | 0x40),
        pokes=[(at, _msghdr(at, 0))], perform=perform, then=then,
    )  # fmt: skip
    return True


def _pidfds(twin: Twin) -> list[int]:
    slots = twin.task.files.slots
    return [fd for fd in sorted(slots) if isinstance(slots[fd].inside, pidfds.Pidfd)]


def _getfd(world: World, choices: Choices) -> bool:
    idle = world.idle()
    twin = choices.one(idle)
    have = _pidfds(twin)
    if have and choices.chance(70):
        pidfd = choices.one(have)
        inside = twin.task.files.slots[pidfd].inside
        assert isinstance(inside, pidfds.Pidfd)
        target = world.twin_of(inside.task) if inside.task is not None else None
        fd = 3 if target is None else a_descriptor(target, choices)
        if fd in KEPT:
            return False
        world.step(
            twin, "pass", "pidfd_getfd", (pidfd, fd, 0),
            perform=lambda: pidfds.getfd(world.kernel, twin.task, pidfd, fd),
        )  # fmt: skip
        return True
    level = twin.task.process.namespace.level
    seen = [t for t in world.living() if t.task.seen_from(twin.task.process.namespace)]
    other = choices.one(seen)
    flags = choices.one((0, 0, 0o200, 1))
    model_pid = other.task.seen_from(twin.task.process.namespace)
    world.step(
        twin, "pass", "pidfd_open", (other.numbers[level], flags),
        perform=lambda: pidfds.open_pidfd(world.kernel, twin.task, model_pid, flags),
    )  # fmt: skip
    return True

"""What a monitor does with a listener: receive, answer, continue, ask, hand over, set flags."""

from __future__ import annotations

from collections.abc import Callable

from proctor.kernel import abi
from proctor.kernel.notification import Notification
from proctor.model.kernel import poll
from proctor.model.kernel.ioctl import ioctl
from proctor.model.kernel.linux import NR, O_CLOEXEC, O_NONBLOCK
from proctor.model.kernel.listener import Notifications
from tests.model.operations.choices import Choices, a_descriptor, a_listener
from tests.model.twins import Difference, Twin, World

_RECV = abi.SECCOMP_IOCTL_NOTIF_RECV


def op_receive(world: World, choices: Choices) -> bool:
    """NOTIF_RECV, into good and bad buffers."""
    chosen = a_listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    notif = world.listener(twin, fd)
    assert notif is not None
    if notif.requests <= 0 and (len(world.idle()) < 3 or choices.chance(75)) and notif.filter.users:
        return False
    would_sleep = notif.requests <= 0 and notif.filter.users
    if would_sleep and any(
        isinstance(t.task.wait, poll.Poll | poll.EpollWait) for t in world.twins
    ):
        return False  # who of both is first when something comes is the kernel's secret
    at = twin.actor.region
    buffer = bytearray(80)
    bad = choices.chance(10)
    if bad:
        buffer[choices.one((0, 8, 12, 16, 79))] = 1
    null = choices.chance(5)

    def then() -> None:
        if twin.task.result == 0 and not null:
            compare_notification(world, twin, notif, bytes(buffer), at)

    listener_ioctl(world, twin, "receive", fd, _RECV, None if null else buffer, then)
    return True


def compare_notification(world: World, twin: Twin, notif: object, model: bytes, at: int) -> None:
    assert isinstance(notif, Notifications)
    real = _parse(world.real.peek(twin.actor, at, 80))
    ours = _parse(model)
    pid = world.real_number(twin.task.process.namespace, ours.pid)
    if ours.arch == abi.AUDIT_ARCH_I386:
        ours = ours._replace(args=(*ours.args[:5], real.args[5]))
    if ours.nr == NR["execve"]:
        ours = ours._replace(args=real.args)  # where the victim keeps its strings is its business
    if (real.pid, real.flags, real.nr, real.arch, real.args) != (
        pid, ours.flags, ours.nr, ours.arch, ours.args,
    ):  # fmt: skip
        raise Difference(f"received {real}, the model {ours} (pid should be {pid})")
    if not real.ip:
        raise Difference("no instruction pointer")
    world.learn(notif, ours.id, real.id)


def _parse(raw: bytes) -> Notification:
    id, pid, flags, nr, arch, ip, *args = abi.SECCOMP_NOTIF.unpack(raw)
    return Notification(id, pid, nr, arch, tuple(args), ip, flags)


def listener_ioctl(
    world: World, twin: Twin, what: str, fd: int, request: int,
    buffer: bytearray | int | None, then: Callable[[], None] | None = None,
    real_buffer: bytes | None = None,
) -> None:  # fmt: skip
    """ioctl(2) in both worlds; ``real_buffer`` if ids have to be translated."""
    at = twin.actor.region
    address = buffer if isinstance(buffer, int) else at if buffer is not None else 0
    data = (
        real_buffer
        if real_buffer is not None
        else bytes(buffer)
        if isinstance(buffer, bytearray)
        else b""
    )
    world.step(
        twin,
        what,
        "ioctl",
        (fd, request, address),
        pokes=[(at, data)],
        perform=lambda: ioctl(world.kernel, twin.task, fd, request, buffer),
        then=then,
    )


def _an_id(world: World, notif: object, choices: Choices) -> tuple[int, int]:
    """(model, real) id of a notification: mostly a live one, sometimes an old or invented one."""
    assert isinstance(notif, Notifications)
    live = list(notif.notifications.values())
    sent = [k.id for k in live if k.state == "sent"]
    if notif not in world.shift:
        return 12345, 12345  # nobody can know an id yet
    old = world.old_ids.get(notif, [])
    kind = choices.number(100)
    if sent and kind < 80:
        id = choices.one(sent)
    elif live and kind < 90:
        id = choices.one(live).id
    elif old:
        id = choices.one(old)
    else:
        id = 12345
    return id, world.real_id(notif, id)


VALUES = (0, 0, 7, 1 << 40, -1, -13, -4095, -4096, 116983961184613)
ERRORS = (0, 0, 0, -1, -2, -4095, -4096, -5000, 5, -512, -513, -514)


def op_answer(world: World, choices: Choices) -> bool:
    """NOTIF_SEND with values, errors, and flags that are none."""
    chosen = a_listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    notif = world.listener(twin, fd)
    model, real = _an_id(world, notif, choices)
    val, error = choices.one(VALUES), choices.one(ERRORS)
    flags = choices.one((0, 0, 0, 0, 0, 0, 0, 2, 4))
    pack = abi.SECCOMP_NOTIF_RESP.pack
    listener_ioctl(
        world, twin, "answer", fd, abi.SECCOMP_IOCTL_NOTIF_SEND,
        bytearray(pack(model, val, error, flags)),
        real_buffer=pack(real, val, error, flags),
    )  # fmt: skip
    return True


def op_continue(world: World, choices: Choices) -> bool:
    """NOTIF_SEND with CONTINUE, mostly as it should be."""
    chosen = a_listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    model, real = _an_id(world, world.listener(twin, fd), choices)
    val, error = choices.one(((0, 0),) * 6 + ((1, 0), (0, -1)))
    pack = abi.SECCOMP_NOTIF_RESP.pack
    listener_ioctl(
        world, twin, "continue", fd, abi.SECCOMP_IOCTL_NOTIF_SEND,
        bytearray(pack(model, val, error, 1)),
        real_buffer=pack(real, val, error, 1),
    )  # fmt: skip
    return True


def op_id_valid(world: World, choices: Choices) -> bool:
    """NOTIF_ID_VALID under both numbers, and what is no ioctl at all."""
    chosen = a_listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    model, real = _an_id(world, world.listener(twin, fd), choices)
    request = choices.one(
        (
            abi.SECCOMP_IOCTL_NOTIF_ID_VALID,
            abi.SECCOMP_IOCTL_NOTIF_ID_VALID_WRONG_DIR,
            abi.SECCOMP_IOCTL_NOTIF_ID_VALID,
            0x5401,
            0xC0582100,
            0xC0202101,
        )
    )
    listener_ioctl(
        world, twin, "id valid", fd, request, bytearray(model.to_bytes(8, "little").ljust(96, b"\0")),
        real_buffer=real.to_bytes(8, "little").ljust(96, b"\0"),
    )  # fmt: skip
    return True


def op_add_fd(world: World, choices: Choices) -> bool:
    """NOTIF_ADDFD in all its sizes, flags, numbers and sources."""
    chosen = a_listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    model, real = _an_id(world, world.listener(twin, fd), choices)
    flags = choices.one((0, 0, 1, 1, 2, 2, 3, 4))
    newfd = choices.one((0, 5, 42, 60, 10**6, 1 << 31, (1 << 32) - 1)) if flags & 1 else 0
    newfd = 5 if not flags & 1 and choices.chance(4) else newfd
    newfd_flags = choices.one((0, 0, O_CLOEXEC, O_CLOEXEC, O_NONBLOCK if choices.chance(20) else 0))
    srcfd = a_descriptor(twin, choices)
    size, dirty = choices.one(
        ((24, 0),) * 8 + ((20, 0), (25, 0), (32, 0), (32, 1), (64, 0), (4096, 0))
    )
    pack = abi.SECCOMP_NOTIF_ADDFD.pack
    tail = bytearray(size - 24) if size > 24 else bytearray()
    if dirty:
        tail[-1] = 1
    request = 0x40002103 | size << 16 if choices.chance(90) else 0x2103 | size << 16
    null = choices.chance(2)
    listener_ioctl(
        world, twin, "add fd", fd, request,
        None if null else bytearray(pack(model, flags, srcfd, newfd, newfd_flags)) + tail,
        real_buffer=b"" if null else pack(real, flags, srcfd, newfd, newfd_flags) + bytes(tail),
    )  # fmt: skip
    return True


def op_set_flags(world: World, choices: Choices) -> bool:
    """NOTIF_SET_FLAGS; the word goes by value."""
    chosen = a_listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    word = choices.one((0, 1, 2, 0xFFFFFFFF))
    listener_ioctl(world, twin, "set flags", fd, abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, word)
    return True

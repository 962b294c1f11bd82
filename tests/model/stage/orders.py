"""What can be ordered: system calls with what the model does for them, and what is compared."""

from __future__ import annotations

import struct
from collections.abc import Callable

from proctor.kernel import abi
from proctor.model.kernel import install, life, reaping, signals
from proctor.model.kernel.calls import arguments, sleep_until
from proctor.model.kernel.ioctl import ioctl
from proctor.model.kernel.linux import NR, WNOHANG
from proctor.model.kernel.listener import Notifications
from proctor.model.kernel.tasks import DEFAULT, IGNORE
from proctor.model.ptrace import numbers as pt
from proctor.model.ptrace import registers, tracing
from proctor.model.ptrace import requests as ptrace
from tests.model.stage.playing import BLOCKED, Difference, Order, Player, Stage
from tests.model.stage.real import PROGRAM_FD

#: A number nobody has.
NOBODY = (1 << 22) - 1
_SECONDS = 1000.0


def _memory(stage: Stage, player: Player, model: bytearray, mask: Callable[[bytes], bytes]) -> None:
    """Whether the actor's data is what the model wrote."""
    got = stage.real.read(player.slot, len(model))
    if mask(got) != mask(bytes(model)):
        raise Difference(
            f"{player!r} got {mask(got).hex()}, the model says {mask(bytes(model)).hex()}"
        )


def _same(raw: bytes) -> bytes:
    return raw


def number_as_model(stage: Stage, raw: bytes) -> bytes:
    """A word that may be a thread's number."""
    return stage.back(int.from_bytes(raw, "little")).to_bytes(8, "little")


def _known_registers(stage: Stage, outside: bool) -> Callable[[bytes], bytes]:
    """Only the registers that the model has; outside of a call no more than the number."""
    words = (registers.ORIG_RAX,) if outside else (15, 14, 13, 12, 7, 9, 8)

    def mask(raw: bytes) -> bytes:
        result = b"" if outside else number_as_model(stage, raw[80:88])
        return result + b"".join(raw[n * 8 : n * 8 + 8] for n in words)

    return mask


def _information(stage: Stage) -> Callable[[bytes], bytes]:
    """``ptrace_syscall_info`` without instruction and stack pointer."""

    def mask(raw: bytes) -> bytes:
        first = raw[24:32] if raw[0] != pt.PTRACE_SYSCALL_INFO_EXIT else b""
        return raw[:8] + (first or number_as_model(stage, raw[24:32])) + raw[32:]

    return mask


def simple(what: str, name: str | int, *args: int) -> Order:
    """A call that the model knows by its number."""
    return Order(what, NR[name] if isinstance(name, str) else name, arguments(*args))


def sleep(stage: Stage, player: Player) -> Order:
    """A clock_nanosleep(2) that does not end by itself."""
    kernel = stage.kernel
    return Order(
        "sleep", NR["clock_nanosleep"], arguments(1, 0, player.data, 0),
        lambda: sleep_until(kernel, player.task, kernel.now + _SECONDS),
        data=struct.pack("=qq", int(_SECONDS), 0),
    )  # fmt: skip


def raise_signal(stage: Stage, player: Player, number: int) -> Order:
    """tgkill(2) of itself."""

    def perform() -> int:
        signals.send(stage.kernel, number, player.task, False)
        return 0

    return Order("raise", NR["tgkill"], arguments(player.pid, player.tid, number), perform)


def set_action(player: Player, number: int, ignore: bool) -> Order:
    """rt_sigaction(2): ignored, or the default."""

    def perform() -> int:
        life.sigaction(player.task.process, number, IGNORE if ignore else DEFAULT)
        return 0

    data = struct.pack("=4Q", int(ignore), 0, 0, 0)
    return Order("sigaction", 13, arguments(number, player.data, 0, 8), perform, data=data)


def set_mask(stage: Stage, player: Player, mask: int) -> Order:
    """rt_sigprocmask(2) SIG_SETMASK; bit n of ``mask`` is signal n."""

    def perform() -> int:
        signals.set_blocked(stage.kernel, player.task, mask)
        return 0

    data = struct.pack("=Q", mask >> 1)
    return Order("sigmask", 14, arguments(2, player.data, 0, 8), perform, data=data)


def drop(player: Player) -> Order:
    """setresuid(2) to nobody: no rights, and the memory is not dumpable any more."""

    def perform() -> int:
        task = player.task
        if task.uid != 65534:
            task.process.dumpable = False
        task.uid, task.cap_sys_admin = 65534, False
        return 0

    return Order("drop", 117, arguments(65534, 65534, 65534), perform)


def dumpable(player: Player) -> Order:
    """prctl(PR_SET_DUMPABLE, 1)."""

    def perform() -> int:
        player.task.process.dumpable = True
        return 0

    return Order("dumpable", NR["prctl"], arguments(4, 1), perform)


# Processes ------------------------------------------------------------------------------------
def born(stage: Stage, player: Player, thread: bool) -> Order:
    """clone(2): a process, or a thread more."""
    slot = stage.free_slot()
    kernel, parent = stage.kernel, player.task
    event = pt.PTRACE_EVENT_CLONE if thread else pt.PTRACE_EVENT_FORK
    make = life.thread if thread else life.fork

    def perform() -> int:
        child = stage.born(player, slot, lambda: make(kernel, parent))
        if isinstance(child, int):
            return child
        number = child.seen_from(parent.process.namespace)
        return tracing.bore(kernel, parent, child, event, number)

    flags = 0x50F00 if thread else 17
    stack = stage.stacks + (slot + 1) * 4096 - 16
    what = "thread" if thread else "fork"
    return Order(what, NR["clone"], arguments(flags, stack), perform, newborn=slot)


def execute(stage: Stage, player: Player) -> Order:
    """execveat(2) of the actor's own program: it begins anew, in the same slot."""

    def perform() -> int:
        player.order, player.doing = None, "exec"
        if player.tid != player.pid:
            for other in stage.players:
                if other.tid == player.pid:
                    other.tid = 0  # the leader, whose number this thread has now
            player.tid = player.pid
        value = life.execve(stage.kernel, player.task)
        player.task.process.memory.map(stage.page, bytes(4096))
        return value

    at = player.data
    data = bytearray(128)
    struct.pack_into("=QQQ", data, 16, at + 100, at + 110, 0)
    data[100:106] = b"actor\0"
    data[110] = ord("a") + player.slot
    args = arguments(PROGRAM_FD, at, at + 16, at + 64, 0x1000)
    return Order("exec", 322, args, perform, data=bytes(data))


def wait(stage: Stage, player: Player, target: Player | None, options: int) -> Order:
    """wait4(2), for one or for any."""
    task = player.task
    wanted = None if target is None else reaping.whom(target.task)

    def check(result: int) -> None:
        if result > 0:
            status = struct.unpack("=I", stage.real.read(player.slot, 4))[0]
            if status != task.wait_status:
                raise Difference(
                    f"{player!r}: wait4 said {status:#x}, the model says {task.wait_status:#x}"
                )

    number = -1 if target is None else target.tid
    return Order(
        "wait" if options & WNOHANG else "wait long",
        NR["wait4"], arguments(number, player.data, options, 0),
        lambda: reaping.wait4(stage.kernel, task, wanted, options), check,
    )  # fmt: skip


# ptrace(2) ------------------------------------------------------------------------------------
def trace(
    stage: Stage, player: Player, what: str, request: int, target: Player | None,
    addr: int = 0, data: int | bytes | None = 0, mask: Callable[[bytes], bytes] = _same,
) -> Order:  # fmt: skip
    """ptrace(2); bytes for ``data`` are memory, before and, compared with ``mask``, after."""
    pid = NOBODY if target is None else target.task.tid
    buffer = bytearray(data) if isinstance(data, bytes) else None
    number = data if isinstance(data, int) else 0

    def perform() -> int:
        argument: ptrace.Data = buffer if buffer is not None else data  # type: ignore[assignment]
        return ptrace.ptrace(stage.kernel, player.task, request, pid, addr, argument)

    def check(result: int) -> None:
        if buffer is not None and result >= 0:
            _memory(stage, player, buffer, mask)

    args = arguments(
        request,
        NOBODY if target is None else target.tid,
        addr,
        player.data if buffer is not None else number,
    )
    return Order(what, NR["ptrace"], args, perform, check, data if isinstance(data, bytes) else b"")


def get_registers(stage: Stage, player: Player, target: Player) -> Order:
    """PTRACE_GETREGS."""
    mask = _known_registers(stage, target.task.frame is None)
    size = bytes(registers.SIZE)
    return trace(stage, player, "getregs", pt.PTRACE_GETREGS, target, 0, size, mask)


def set_registers(stage: Stage, player: Player, target: Player, words: dict[int, int]) -> None:
    """PTRACE_GETREGS, some words changed, PTRACE_SETREGS: both steps."""
    stage.tell(player, get_registers(stage, player, target))
    if player.order is not None or player.result != 0:
        return
    raw = bytearray(stage.real.read(player.slot, registers.SIZE))
    for index, value in words.items():
        raw[index * 8 : index * 8 + 8] = (value & (1 << 64) - 1).to_bytes(8, "little")
    stage.tell(player, trace(stage, player, "setregs", pt.PTRACE_SETREGS, target, 0, bytes(raw)))


def get_info(stage: Stage, player: Player, target: Player, size: int) -> Order:
    """PTRACE_GET_SYSCALL_INFO."""
    what, request, mask = "get info", pt.PTRACE_GET_SYSCALL_INFO, _information(stage)
    return trace(stage, player, what, request, target, size, bytes(96), mask)


def set_info(
    stage: Stage, player: Player, target: Player, change: Callable[[bytearray], None]
) -> None:
    """PTRACE_GET_SYSCALL_INFO, changed, PTRACE_SET_SYSCALL_INFO: both steps."""
    stage.tell(player, get_info(stage, player, target, 88))
    if player.order is not None or player.result < 0:
        return
    raw = bytearray(stage.real.read(player.slot, 88))
    change(raw)
    what, request = "set info", pt.PTRACE_SET_SYSCALL_INFO
    stage.tell(player, trace(stage, player, what, request, target, 88, bytes(raw)))


def signal_info(stage: Stage, player: Player, target: Player) -> Order:
    """PTRACE_GETSIGINFO: the number, and the code where it says more than who sent it."""
    at = target.task.stop
    says = at is not None and bool(at.info)

    def mask(raw: bytes) -> bytes:
        return raw[:4] + (raw[8:12] if says else b"")

    what, request = "getsiginfo", pt.PTRACE_GETSIGINFO
    return trace(stage, player, what, request, target, 0, bytes(128), mask)


def get_filter(stage: Stage, player: Player, target: Player, offset: int, null: bool) -> Order:
    """PTRACE_SECCOMP_GET_FILTER."""
    what, request = "get filter", pt.PTRACE_SECCOMP_GET_FILTER
    return trace(stage, player, what, request, target, offset, None if null else bytes(2048))


def get_metadata(stage: Stage, player: Player, target: Player, offset: int, size: int) -> Order:
    """PTRACE_SECCOMP_GET_METADATA."""
    data = struct.pack("=QQ", offset, 0xFFFF)
    what, request = "get metadata", pt.PTRACE_SECCOMP_GET_METADATA
    return trace(stage, player, what, request, target, size, data)


# seccomp --------------------------------------------------------------------------------------
def seccomp(stage: Stage, player: Player, program: bytes, flags: int) -> Order:
    """SECCOMP_SET_MODE_FILTER."""
    at = player.data
    data = struct.pack("=HxxxxxxQ", len(program) // 8, at + 16) + program
    listens = bool(flags & abi.SECCOMP_FILTER_FLAG_NEW_LISTENER)
    return Order(
        "listen" if listens else "install", NR["seccomp"],
        arguments(abi.SECCOMP_SET_MODE_FILTER, flags, at),
        lambda: install.seccomp(
            stage.kernel, player.task, abi.SECCOMP_SET_MODE_FILTER, flags, program
        ),
        data=data,
    )  # fmt: skip


def listener_at(player: Player, fd: int) -> Notifications | None:
    """The listener behind a descriptor."""
    file = player.task.files.get(fd)
    inside = file.inside if file is not None else None
    return inside if isinstance(inside, Notifications) else None


def receive(stage: Stage, player: Player, fd: int, shifts: dict[Notifications, int]) -> Order:
    """NOTIF_RECV; ids are as far apart in both worlds as the listener's first ones."""
    buffer = bytearray(abi.SECCOMP_NOTIF.size)
    notif = listener_at(player, fd)
    request = abi.SECCOMP_IOCTL_NOTIF_RECV

    def check(result: int) -> None:
        if result != 0 or notif is None:
            return
        got = list(abi.SECCOMP_NOTIF.unpack(stage.real.read(player.slot, len(buffer))))
        want = list(abi.SECCOMP_NOTIF.unpack(bytes(buffer)))
        shift = shifts.setdefault(notif, got[0] - want[0])
        want[0] += shift
        want[1] = stage.numbers.get(want[1], want[1])
        got[5] = want[5] = 0  # the instruction pointer
        if got != want:
            raise Difference(f"{player!r} received {got}, the model says {want}")

    return Order(
        "receive", NR["ioctl"], arguments(fd, request, player.data),
        lambda: ioctl(stage.kernel, player.task, fd, request, buffer), check, bytes(buffer),
    )  # fmt: skip


def send(
    stage: Stage, player: Player, fd: int, id: int, shift: int, answer: tuple[int, int, int]
) -> Order:
    """NOTIF_SEND of (val, error, flags)."""
    request = abi.SECCOMP_IOCTL_NOTIF_SEND
    model = bytearray(abi.SECCOMP_NOTIF_RESP.pack(id, *answer))
    data = abi.SECCOMP_NOTIF_RESP.pack((id + shift) & (1 << 64) - 1, *answer)
    return Order(
        "send", NR["ioctl"], arguments(fd, request, player.data),
        lambda: ioctl(stage.kernel, player.task, fd, request, model), data=data,
    )  # fmt: skip


__all__ = ["BLOCKED", "NOBODY"]

"""The operations that the comparison draws from.

Each takes the world and a source of choices, picks somebody who can do it, and makes one step; or
says False if nobody can just now.  :data:`OPERATIONS` has them with their weights.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from model.twins import KEPT, Twin, World, does, has_several_waiting
from proctor.kernel import abi
from proctor.kernel.notification import Notification
from proctor.model import install, life, pidfds, poll, signals
from proctor.model.calls import Sleep, sleep_until
from proctor.model.files import File, Socket, socketpair
from proctor.model.filters import is_ancestor
from proctor.model.ioctl import ioctl
from proctor.model.linux import (
    EBADF,
    EFAULT,
    EPOLLET,
    ERESTARTNOHAND,
    NR,
    O_CLOEXEC,
    O_NONBLOCK,
    O_PATH,
    POLLIN,
    POLLOUT,
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGQUIT,
    SIGSTOP,
    SIGSYS,
    SIGTERM,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
)
from proctor.model.tasks import DEFAULT, IGNORE, ZOMBIE, Disposition

T = TypeVar("T")
Op = Callable[[World, "Choices"], bool]

#: Invented numbers, and real ones, that filters here speak about.
INVENTED = range(5000, 5008)
HANDLED = (SIGUSR1, SIGUSR2, SIGWINCH)
ACTIONS = tuple(abi.ACTIONS.values())


class Choices:
    """A source of choices; a step has its own, so that steps can be left out."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one(self, of: Sequence[T]) -> T:
        """Any of these."""
        return of[self._random.randrange(len(of))]

    def chance(self, percent: int) -> bool:
        """True in that many of a hundred cases."""
        return self._random.randrange(100) < percent

    def number(self, below: int) -> int:
        """0 .. below - 1."""
        return self._random.randrange(below)


def _listeners(world: World) -> list[tuple[Twin, int]]:
    """(idle twin, descriptor) of every listener that somebody could use now."""
    return [
        (twin, fd)
        for twin in world.idle()
        for fd in sorted(twin.task.files.slots)
        if world.listener(twin, fd) is not None
    ]


def _listener(world: World, choices: Choices) -> tuple[Twin, int] | None:
    """One of them; one with something to do more often than not."""
    every = _listeners(world)
    if not every:
        return None
    busy = [(twin, fd) for twin, fd in every if world.listener(twin, fd).notifications]
    return choices.one(busy if busy and choices.chance(85) else every)


def _fd(twin: Twin, choices: Choices) -> int:
    """A descriptor of a twin that may be touched, or sometimes one that is not there."""
    have = sorted(set(twin.task.files.slots) - KEPT)
    return 77 if not have or choices.chance(4) else choices.one(have)


# Filters --------------------------------------------------------------------------------------
def _row(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    return abi.SOCK_FILTER.pack(code, jt, jf, k & 0xFFFFFFFF)


def _ret(action: int) -> bytes:
    return _row(0x06, action)


def _notifier(choices: Choices) -> bytes:
    """A filter that mostly notifies, and never what an actor needs to take commands."""
    program = _row(0x20, 0)
    for nr in (NR["getppid"], NR["dup"], NR["nanosleep"], NR["restart_syscall"], 5000, 5001, 5002):
        if choices.chance(60):
            program += _row(0x15, nr, 0, 1) + _ret(abi.SECCOMP_RET_USER_NOTIF | choices.number(3))
    if choices.chance(15):
        program += _row(0x15, NR["execve"], 0, 1) + _ret(abi.SECCOMP_RET_USER_NOTIF)
    return program + _ret(abi.SECCOMP_RET_ALLOW)


def _mixed(choices: Choices) -> bytes:
    """Every action for some invented number, sometimes depending on an argument."""
    program = _row(0x20, 0)
    for nr in INVENTED:
        if choices.chance(25):
            action = choices.one(ACTIONS)
            if action in (abi.SECCOMP_RET_KILL_PROCESS, abi.SECCOMP_RET_KILL_THREAD):
                action = action if choices.chance(30) else abi.SECCOMP_RET_ERRNO
            data = choices.one((0, 7, 4095, 4096, 65535))
            if choices.chance(30):
                program += _row(0x15, nr, 0, 4) + _row(0x20, 16 + 8 * choices.number(5))
                program += _row(0x45, 1, 0, 1) + _ret(action | data) + _ret(abi.SECCOMP_RET_ALLOW)
            else:
                program += _row(0x15, nr, 0, 1) + _ret(action | data)
    return program + _ret(abi.SECCOMP_RET_ALLOW)


def _broken(choices: Choices) -> bytes:
    """Something the kernel refuses, or takes without liking it."""
    allow = _ret(abi.SECCOMP_RET_ALLOW)
    return choices.one(
        (
            b"",
            allow * 4097,
            _row(0x20, 64) + allow,
            _row(0x20, 2) + allow,
            _row(0x28, 0) + allow,
            _row(0x94, 3) + allow,
            _row(0x34, 0) + allow,
            _row(0x64, 32) + allow,
            _row(0x20, 0),
            _row(0x15, 1, 1, 0) + allow,
            _row(0x60, 0) + allow,
            _row(0x02, 15) + _row(0x60, 15) + allow,
            allow * 4096,
        )
    )


_FLAGS = (
    (abi.SECCOMP_FILTER_FLAG_NEW_LISTENER, 55),
    (abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 30),
    (abi.SECCOMP_FILTER_FLAG_TSYNC, 10),
    (abi.SECCOMP_FILTER_FLAG_TSYNC_ESRCH, 10),
    (abi.SECCOMP_FILTER_FLAG_LOG, 5),
    (abi.SECCOMP_FILTER_FLAG_SPEC_ALLOW, 10),
    (64, 1),
)


def op_install(world: World, choices: Choices) -> bool:
    """seccomp(2), SET_MODE_FILTER."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    kind = choices.number(100)
    program = (
        _notifier(choices) if kind < 70 else _mixed(choices) if kind < 90 else _broken(choices)
    )
    flags = sum(flag for flag, percent in _FLAGS if choices.chance(percent))
    null = choices.chance(3)
    at = twin.actor.region
    sock_fprog = struct.pack("=HxxxxxxQ", len(program) // 8, at + 16)
    argument = None if null else program
    operation = 7 if choices.chance(1) else abi.SECCOMP_SET_MODE_FILTER

    def perform() -> int:
        return install.seccomp(world.kernel, twin.task, operation, flags, argument)

    tsync = bool(flags & abi.SECCOMP_FILTER_FLAG_TSYNC)
    world.step(
        twin,
        "install",
        "seccomp",
        (operation, flags, 0 if null else at),
        pokes=[(at, sock_fprog), (at + 16, program)],
        perform=perform,
        gives_pid=tsync and not flags & abi.SECCOMP_FILTER_FLAG_NEW_LISTENER,
    )
    return True


def op_ask(world: World, choices: Choices) -> bool:
    """The operations of seccomp(2) that ask, and prctl(2)."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    task = twin.task
    at = twin.actor.region
    which = choices.number(5)
    if which == 0:
        action = choices.one((*ACTIONS, 0x10000000, abi.SECCOMP_RET_USER_NOTIF | 1))
        flags = int(choices.chance(10))
        world.step(
            twin, "ask", "seccomp", (2, flags, at), pokes=[(at, struct.pack("=I", action))],
            perform=lambda: install.seccomp(world.kernel, task, 2, flags, action),
        )  # fmt: skip
    elif which == 1:
        null = choices.chance(30)
        world.step(
            twin, "ask", "seccomp", (3, 0, 0 if null else at),
            perform=lambda: install.seccomp(world.kernel, task, 3, 0, None if null else b""),
        )  # fmt: skip
    elif which == 2 and (task.mode or choices.chance(3)):
        argument = choices.one((0, 0, at))
        world.step(
            twin, "ask", "seccomp", (0, 0, argument),
            perform=lambda: install.seccomp(world.kernel, task, 0, 0, argument or None),
        )  # fmt: skip
    else:
        option = choices.one((21, 38, 39))
        value = 1 if option == 38 else 0
        world.step(
            twin, "ask", "prctl", (option, value, 0, 0, 0),
            perform=lambda: install.prctl(world.kernel, task, option, value),
        )  # fmt: skip
    return True


def _unhindered(world: World) -> list[Twin]:
    """Idle twins for commands that must be answered: not in strict mode, no signal waiting."""
    return [
        twin
        for twin in world.idle()
        if twin.task.mode != 1 and not twin.task.process.pending & ~twin.task.blocked
    ]


# Tasks ----------------------------------------------------------------------------------------
def op_fork(world: World, choices: Choices) -> bool:
    """fork(2), or clone(2) with CLONE_FILES."""
    idle = _unhindered(world)
    if not idle or not world.real.free_slots or len(world.living()) > 9:
        return False
    born(world, choices.one(idle), "fork", choices.chance(25))
    return True


def op_thread(world: World, choices: Choices) -> bool:
    """A thread more."""
    idle = [twin for twin in _unhindered(world) if len(twin.task.process.alive()) < 4]
    if not idle or not world.real.free_slots or len(world.living()) > 9:
        return False
    born(world, choices.one(idle), "thread", False)
    return True


def born(world: World, twin: Twin, kind: str, share: bool) -> Twin:
    """``twin`` makes a process ("fork") or a thread ("thread") in both worlds; the new twin, or
    ``twin`` itself if there is none.

    :param share: the child shares its descriptor table (CLONE_FILES).
    """
    slot = world.real.free_slots.pop()
    thread = kind == "thread"
    world.note(
        kind, f"{twin.actor.slot}: {kind}{' sharing descriptors' if share else ''} -> {slot}"
    )
    before = set() if thread else _children(twin)
    reply = world.real.ask(twin.actor, kind, slot, *([] if thread else [0x400 if share else 0]))
    value = twin.program.call(
        "clone",
        perform=lambda: _keep(
            life.thread(world.kernel, twin.task)
            if thread
            else life.fork(world.kernel, twin.task, share)
        ),
    )
    _born(world, twin, slot, (int(reply[1]), int(reply[2])), value, before, thread=thread)
    return world.twins[-1]


_NEWBORN: list[object] = []


def _keep(made: object) -> int:
    _NEWBORN.clear()
    if isinstance(made, int):
        return made
    _NEWBORN.append(made)
    return 0


def _children(twin: Twin) -> set[int]:
    try:
        with open(f"/proc/{twin.actor.gpid}/task/{twin.actor.gtid}/children") as file:
            return {int(word) for word in file.read().split()}
    except FileNotFoundError:
        return set()


def _born(
    world: World, twin: Twin, slot: int, real: tuple[int, int], model: int,
    before: set[int], thread: bool,
) -> None:  # fmt: skip
    from model.twins import Difference, as_libc
    from proctor.model.program import Program
    from proctor.model.tasks import Task

    failed = real[0] < 0
    if failed or model < 0:
        world.real.free_slots.append(slot)
        if real != as_libc(model):
            raise Difference(f"{twin!r}: clone gave {real}, the model {model}")
        return
    (task,) = _NEWBORN
    assert isinstance(task, Task)
    if thread:
        # What is returned is its number in its own namespace; ours is in /proc.
        gpid = twin.actor.gpid
        known = {other.actor.gtid for other in world.twins}
        import os

        gtid = next(int(t) for t in os.listdir(f"/proc/{gpid}/task") if int(t) not in known)
    else:
        (gpid,) = _children(twin) - before
        gtid = gpid
    made = world.meet(Program(world.kernel, task), world.real.meet(slot, gpid, gtid))
    level = task.process.namespace.level
    if (
        len(made.numbers) != level + 1
        or list(made.numbers[1:])
        != [number for ns, number in sorted(task.numbers.items(), key=lambda i: i[0].level)][1:]
    ):
        raise Difference(f"{made!r}: its numbers are {made.numbers}, not {task.numbers}")
    if not thread:
        world.handlers(task.process).update(world.handlers(twin.task.process))
        if twin.task.process in world.execed:
            world.execed.add(task.process)
    world.settle()


def op_unshare(world: World, choices: Choices) -> bool:
    """unshare(CLONE_NEWPID)."""
    idle = [t for t in world.idle() if t.task.process.namespace.level < 3 and t is not world.main]
    if not idle:
        return False
    twin = choices.one(idle)

    def perform() -> int:
        return life.unshare_pids(twin.task) if twin.task.cap_sys_admin else -1  # EPERM

    world.step(twin, "unshare", "unshare", (0x20000000,), perform=perform)
    return True


def op_drop(world: World, choices: Choices) -> bool:
    """Become nobody: no CAP_SYS_ADMIN any more."""
    idle = [t for t in world.idle() if t is not world.main and t.task.cap_sys_admin]
    if not idle:
        return False
    twin = choices.one(idle)

    def perform() -> int:
        twin.task.uid, twin.task.cap_sys_admin = 65534, False
        twin.task.process.dumpable = False  # commit_creds: another euid
        return 0

    world.step(twin, "drop privileges", 117, (65534, 65534, 65534), perform=perform)
    return True


def op_exec(world: World, choices: Choices) -> bool:
    """execve(2) of itself."""
    # A process whose leader has exited has no /proc/self/exe.
    idle = [t for t in world.idle() if not t.task.process.leader.exiting]
    if not idle:
        return False
    twin = choices.one(idle)
    world.note("exec", f"{twin.actor.slot}: exec")
    twin.then, twin.busy = lambda: _execed(world, twin), True
    twin.raw, twin.execs, twin.gives_pid = False, True, False
    world.real.tell(twin.actor, "exec", pokes=[])

    def perform() -> int:
        twin.execs = False
        return life.execve(world.kernel, twin.task)

    twin.program.call("execve", perform=perform)
    world.settle()
    return True


def _execed(world: World, twin: Twin) -> None:
    from model.twins import _numbers

    reply = twin.actor.reply
    if reply is not None and reply[0] == "h":
        twin.numbers = _numbers(twin.actor.gpid, twin.actor.gtid)
        world.handlers(twin.task.process).clear()
        world.execed.add(twin.task.process)


def op_exit(world: World, choices: Choices) -> bool:
    """exit(2) of a thread, exit_group(2) of a process."""
    idle = [t for t in world.idle() if t.task.process is not world.main.task.process]
    if not idle:
        return False
    twin = choices.one(idle)
    thread = choices.chance(40)
    world.step(twin, "exit", "exit" if thread else "exit_group", (choices.number(100),))
    return True


def op_wait(world: World, choices: Choices) -> bool:
    """wait4(2) for a child."""
    able = [t for t in world.idle() if t.task.process.children]
    if not able:
        return False
    twin = choices.one(able)
    dead = [c for c in twin.task.process.children if c.code is not None]
    child = choices.one(dead if dead and choices.chance(95) else twin.task.process.children)
    if child.code is None and len(world.idle()) < 3:
        return False
    if any(isinstance(t.task.wait, life.Wait4) and t.task.wait.child is child for t in world.twins):
        return False  # which of two waiting threads reaps it is the kernel's secret
    other = world.twin_of(child.leader)
    if other is None:
        return False
    wait_for(world, twin, other)
    return True


def wait_for(world: World, twin: Twin, other: Twin) -> None:
    """wait4(2) by ``twin`` for its child ``other``."""
    child = other.task.process
    at = twin.actor.region
    # The number as the parent sees it.
    level = twin.task.process.namespace.level
    number = other.numbers[level]

    def then() -> None:
        from model.twins import Difference

        if twin.task.result is None or twin.task.result <= 0:
            return
        status = int.from_bytes(world.real.peek(twin.actor, at, 4), "little") & ~0x80
        if status != child.code:
            raise Difference(f"child ended with {status:#x}, the model says {child.code}")

    world.step(
        twin, "wait", "wait4", (number, at, 0x40000000, 0),
        perform=lambda: life.wait4(world.kernel, twin.task, child), then=then, gives_pid=True,
    )  # fmt: skip


# Calls ----------------------------------------------------------------------------------------
def op_call(world: World, choices: Choices) -> bool:
    """A call that a filter may have something to say about."""
    idle = world.idle()
    filtered = [t for t in idle if t.task.filter is not None]
    if not idle:
        return False
    twin = choices.one(filtered if filtered and choices.chance(90) else idle)
    if twin is world.main and len(idle) == 1:
        return False
    which = choices.number(12)
    args = tuple(choices.one((0, 1, 2, (1 << 64) - 1, 1 << 40, 0x1234)) for _ in range(6))
    if which < 6:
        if choices.chance(8):
            nr = choices.one((5000, 5001, 5002))
            # The sixth would be in ebp, which is the compiler's.
            world.step(twin, "call", nr, (*args[:5],), verb="call-i386",
                       arch=abi.AUDIT_ARCH_I386)  # fmt: skip
            return True
        nr = choices.one((*INVENTED, *INVENTED, -1, 5001 | 0x40000000))
        world.step(twin, "call", nr, args)
    elif which < 8:
        fd = _fd(twin, choices)
        world.step(twin, "call", "dup", (fd, *args[1:]))
    elif which < 10:
        task = twin.task
        parent = task.process.parent

        def getppid() -> int:
            ns = task.process.namespace
            mine = task.process.parent
            if mine is None:
                return 0
            number = mine.leader.seen_from(ns)
            real = world.real_number(ns, number)
            return -99 if real is None else real

        assert parent is None or parent.leader
        world.step(twin, "call", "getppid", args, perform=getppid)
    elif which == 10:
        at = twin.actor.region
        kernel, task = world.kernel, twin.task
        world.step(
            twin, "call", "nanosleep", (at, 0), pokes=[(at, struct.pack("=qq", 100000, 0))],
            perform=lambda: sleep_until(kernel, task, kernel.now + 100000),
        )  # fmt: skip
    else:
        kernel, task = world.kernel, twin.task
        if len(idle) < 3:
            return False
        world.step(
            twin, "call", "pause", perform=lambda: kernel.sleep(task, Sleep(-ERESTARTNOHAND))
        )
    return True


# The listener ---------------------------------------------------------------------------------
_RECV = abi.SECCOMP_IOCTL_NOTIF_RECV


def op_receive(world: World, choices: Choices) -> bool:
    """NOTIF_RECV, into good and bad buffers."""
    chosen = _listener(world, choices)
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
    from model.twins import Difference
    from proctor.model.listener import Notifications

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
    return Notification(id, pid, nr, arch, tuple(args), ip, flags)  # type: ignore[arg-type]


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
    from proctor.model.listener import Notifications

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
    chosen = _listener(world, choices)
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
    chosen = _listener(world, choices)
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
    chosen = _listener(world, choices)
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
    chosen = _listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    model, real = _an_id(world, world.listener(twin, fd), choices)
    flags = choices.one((0, 0, 1, 1, 2, 2, 3, 4))
    newfd = choices.one((0, 5, 42, 60, 10**6, 1 << 31, (1 << 32) - 1)) if flags & 1 else 0
    newfd = 5 if not flags & 1 and choices.chance(4) else newfd
    newfd_flags = choices.one((0, 0, O_CLOEXEC, O_CLOEXEC, O_NONBLOCK if choices.chance(20) else 0))
    srcfd = _fd(twin, choices)
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
    chosen = _listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    word = choices.one((0, 1, 2, 0xFFFFFFFF))
    listener_ioctl(world, twin, "set flags", fd, abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, word)
    return True


# Waiting --------------------------------------------------------------------------------------
def op_poll(world: World, choices: Choices) -> bool:
    """poll(2) of one descriptor, sometimes sleeping."""
    chosen = _listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    fd = fd if choices.chance(97) else 77
    events = choices.one((POLLIN | POLLOUT, POLLIN, POLLOUT, 0x145))
    for_ever = choices.chance(20) and _may_wait(world)
    poll_once(world, twin, fd, events, for_ever)
    return True


def poll_once(
    world: World, twin: Twin, fd: int, events: int = POLLIN | POLLOUT, for_ever: bool = False
) -> None:
    """poll(2) of one descriptor by ``twin``."""
    waiting = poll.Poll([(fd, events)])
    at = twin.actor.region

    def then() -> None:
        from model.twins import Difference

        if twin.task.result is None or twin.task.result < 0:
            return
        shown = struct.unpack("=ihh", world.real.peek(twin.actor, at, 8))[2]
        want = waiting.found.get(fd, 0)
        if shown != want:
            raise Difference(f"poll shows {shown:#x}, the model {want:#x}")

    world.step(
        twin, "poll", "poll", (at, 1, MASK if for_ever else 0),
        pokes=[(at, struct.pack("=ihh", fd, events, 0))],
        perform=lambda: poll.poll(world.kernel, twin.task, waiting, None if for_ever else 0),
        then=then,
    )  # fmt: skip


MASK = (1 << 64) - 1


def _may_wait(world: World) -> bool:
    """Whether somebody may sleep in poll: not beside a sleeping RECV, and not the last ones."""
    return len(world.idle()) > 3 and not _in_call(world, "ioctl")


def _in_call(world: World, *names: str) -> bool:
    """Whether somebody is in one of these calls, or will be again once continued."""
    numbers = {NR[name] for name in names}
    return any(t.task.frame is not None and t.task.frame.nr in numbers for t in world.twins)


def _epolls(twin: Twin) -> list[int]:
    slots = twin.task.files.slots
    return [fd for fd in sorted(slots) if isinstance(slots[fd].inside, poll.Epoll)]


def op_epoll(world: World, choices: Choices) -> bool:
    """epoll_create1, epoll_ctl ADD with and without EPOLLET, epoll_wait."""
    able = [t for t in world.idle() if _epolls(t)]
    if able and choices.chance(70):
        twin = choices.one(able)
        return _epoll_wait(world, twin, choices.one(_epolls(twin)), choices)
    chosen = _listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    have = _epolls(twin)
    if not have:
        task, kernel = twin.task, world.kernel
        world.step(
            twin, "epoll", "epoll_create1", (O_CLOEXEC,),
            perform=lambda: task.files.receive(
                File("epoll", inside=poll.Epoll(kernel)), task.process.nofile, True
            ),
        )  # fmt: skip
        return True
    return _epoll_add(world, twin, choices.one(have), fd, choices)


def _epoll_add(world: World, twin: Twin, epoll: int, fd: int, choices: Choices) -> bool:
    events = choices.one((POLLIN, POLLIN | POLLOUT, POLLOUT)) | choices.one((0, EPOLLET))
    at = twin.actor.region
    file = twin.task.files.get(fd)
    instance = poll.epoll_of(twin.task, epoll)

    def perform() -> int:
        if isinstance(instance, int) or file is None:
            return -EBADF
        return instance.add(file, fd, events)

    world.step(
        twin, "epoll", "epoll_ctl", (epoll, 1, fd, at),
        pokes=[(at, struct.pack("=IQ", events, fd))], perform=perform,
    )  # fmt: skip
    return True


def _epoll_wait(world: World, twin: Twin, epoll: int, choices: Choices) -> bool:
    instance = poll.epoll_of(twin.task, epoll)
    assert isinstance(instance, poll.Epoll)
    waiting = poll.EpollWait(instance, 16)
    at = twin.actor.region
    for_ever = choices.chance(15) and _may_wait(world) and not _in_call(world, "epoll_wait")

    def then() -> None:
        from model.twins import Difference

        count = twin.task.result
        if count is None or count < 0:
            return
        raw = world.real.peek(twin.actor, at, 12 * count) if count else b""
        real = sorted((fd, bits) for bits, fd in struct.iter_unpack("=IQ", raw))
        if real != sorted(waiting.found):
            raise Difference(f"epoll_wait gave {real}, the model {sorted(waiting.found)}")

    world.step(
        twin, "epoll", "epoll_wait", (epoll, at, 16, MASK if for_ever else 0),
        perform=lambda: poll.epoll_wait(
            world.kernel, twin.task, waiting, None if for_ever else 0
        ),
        then=then,
    )  # fmt: skip
    return True


# Descriptors ----------------------------------------------------------------------------------
def op_close(world: World, choices: Choices) -> bool:
    """close(2); listeners too."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    fd = _fd(twin, choices)
    if world.listener(twin, fd) is not None and choices.chance(60):
        return False
    world.step(twin, "close", "close", (fd,))
    return True


def op_dup(world: World, choices: Choices) -> bool:
    """dup2(2) and dup3(2), onto free and taken numbers."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    old = _fd(twin, choices)
    new = choices.one((old, 3, 8, 30, 42, 500, 1 << 20))
    if choices.chance(40):
        world.step(twin, "dup", "dup3", (old, new, choices.one((0, O_CLOEXEC, 1))))
    else:
        world.step(twin, "dup", "dup2", (old, new))
    return True


def op_open(world: World, choices: Choices) -> bool:
    """openat(2) of a file, sometimes with O_PATH; socketpair(2)."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    task = twin.task
    at = twin.actor.region
    if choices.chance(25):

        def pair() -> int:
            one, two = socketpair()
            limit = task.process.nofile
            first = task.files.receive(one, limit, False)
            if first < 0:
                return first
            second = task.files.receive(two, limit, False)
            if second < 0:
                task.files.close(first)
            return min(second, 0)

        world.step(twin, "open", 53, (1, 5, 0, at), perform=pair)  # AF_UNIX, SOCK_SEQPACKET
        return True
    flags = choices.one((0, 0, O_CLOEXEC, O_PATH, O_PATH | O_CLOEXEC))
    world.step(
        twin, "open", "openat", ((1 << 64) - 100, at, flags), pokes=[(at, b"/dev/null\0")],
        perform=lambda: task.files.receive(
            File("null", flags & O_PATH), task.process.nofile, bool(flags & O_CLOEXEC)
        ),
    )  # fmt: skip
    return True


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
    fd = _fd(twin, choices)
    task = twin.task
    # A socket in flight to itself keeps itself alive until the kernel's own collector comes.
    carried = task.files.get(fd, path_too=True)
    if carried is not None and isinstance(carried.inside, Socket):
        return False
    at = twin.actor.region

    def perform() -> int:
        socket = task.files.slots[socket_fd].inside
        file = task.files.get(fd, path_too=True)
        assert isinstance(socket, Socket)
        if file is None:
            return -EBADF
        failed = socket.failed()
        if failed:
            return failed
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
        from model.twins import Difference

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
        fd = 3 if target is None else _fd(target, choices)
        if fd in KEPT:
            return False
        world.step(
            twin, "pass", "pidfd_getfd", (pidfd, fd, 0),
            perform=lambda: pidfds.getfd(twin.task, pidfd, fd),
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


def op_limits(world: World, choices: Choices) -> bool:
    """setrlimit(RLIMIT_NOFILE), soft."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    soft = choices.one((0, 1, 4, 64, 300, 300, 300, 1024))
    at = twin.actor.region

    def perform() -> int:
        twin.task.process.nofile = soft
        return 0

    world.step(
        twin, "limits", 160, (7, at), pokes=[(at, struct.pack("=QQ", soft, 1024))], perform=perform
    )
    return True


# Signals --------------------------------------------------------------------------------------
def op_sigaction(world: World, choices: Choices) -> bool:
    """sigaction(2): default, ignore, a handler with and without SA_RESTART."""
    idle = _unhindered(world)
    if not idle:
        return False
    twin = choices.one(idle)
    number = choices.one((*HANDLED, *HANDLED, SIGTERM, SIGQUIT, SIGSYS, SIGCHLD))
    mode = choices.one(("count", "count-restart", "count", "count-restart", "ignore", "default"))
    if number == SIGCHLD:
        mode = choices.one(("ignore", "default"))
        return False if twin is world.main else _sigaction(world, twin, number, mode)
    return _sigaction(world, twin, number, mode)


def _sigaction(world: World, twin: Twin, number: int, mode: str) -> bool:
    world.note("sigaction", f"{twin.actor.slot}: sigaction {number} {mode}")
    world.real.ask(twin.actor, "sig", number, mode)
    process = twin.task.process
    does = {"ignore": IGNORE, "default": DEFAULT}.get(
        mode, Disposition("handler", mode.endswith("restart"))
    )
    life.sigaction(process, number, does)
    world.handlers(process)[number] = 0
    world.settle()
    return True


def op_sigmask(world: World, choices: Choices) -> bool:
    """rt_sigprocmask(2)."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    numbers = [n for n in (SIGUSR1, SIGUSR2, SIGTERM) if choices.chance(25)]
    mask = sum(1 << (n - 1) for n in numbers)
    at = twin.actor.region

    def perform() -> int:
        signals.set_blocked(world.kernel, twin.task, signals.bit(*numbers))
        return 0

    world.step(
        twin, "sigmask", 14, (2, at, 0, 8), pokes=[(at, struct.pack("=Q", mask))], perform=perform
    )
    return True


def op_signal(world: World, choices: Choices) -> bool:
    """A signal from outside: handled, ignored or deadly; to waiting callers more often."""
    living = [t for t in world.living() if t is not world.main or choices.chance(30)]
    waiting = [t for t in living if t.task.frame is not None]
    pool = waiting if waiting and choices.chance(75) else living
    if not pool:
        return False
    twin = choices.one(pool)
    alone = len(twin.task.process.alive()) == 1
    number = choices.one((*HANDLED * 4, SIGTERM, SIGQUIT, SIGCHLD))
    does = signals.disposition(twin.task.process, number)
    deadly = does.kind == "default" and number not in (SIGWINCH, SIGCHLD)
    if deadly and (twin.task.process is world.main.task.process or choices.chance(70)):
        return False
    if deadly and not alone and any(t.state == "T" for t in twin.task.process.tasks):
        return False  # of what do they die when continued?
    # Which of several threads takes a process's signal is the kernel's secret.
    if not alone and number == SIGCHLD:
        return False
    world.signal(twin, number, not alone or choices.chance(30), "signal")
    return True


def op_count(world: World, choices: Choices) -> bool:
    """How often a handler ran, as the victim itself counted."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    number = choices.one((*HANDLED, SIGSYS))
    world.note("count handlers", f"{twin.actor.slot}: count {number}")
    shown = int(world.real.ask(twin.actor, "count", number)[1])
    want = world.handlers(twin.task.process)[number]
    if shown != want:
        from model.twins import Difference

        raise Difference(f"{twin!r}: handler of {number} ran {shown} times, the model says {want}")
    return True


def op_stop(world: World, choices: Choices) -> bool:
    """SIGSTOP, or SIGCONT for who is stopped."""
    main = world.main.task.process
    able = [t for t in world.living() if t.task.process is not main]
    stopped = [t for t in able if t.task.state == "T"]
    if stopped and choices.chance(60):
        world.signal(choices.one(stopped), SIGCONT, False, "continue stopped")
        return True
    able = [t for t in able if not has_several_waiting(t.task.process)]
    if not able:
        return False
    waiting = [t for t in able if t.task.frame is not None]
    twin = choices.one(waiting if waiting and choices.chance(70) else able)
    world.signal(twin, SIGSTOP, False, "stop")
    return True


def op_kill(world: World, choices: Choices) -> bool:
    """SIGKILL."""
    main = world.main.task.process
    able = [t for t in world.living() if t.task.process is not main]
    if not able:
        return False
    waiting = [t for t in able if t.task.frame is not None]
    twin = choices.one(waiting if waiting and choices.chance(60) else able)
    world.signal(twin, SIGKILL, choices.chance(20), "kill")
    return True


def op_leave(world: World, choices: Choices) -> bool:
    """A process under a filter whose listener somebody outside holds ends: HUP comes nearer."""
    under: list[Twin] = []
    for holder, fd in _listeners(world):
        notif = world.listener(holder, fd)
        assert notif is not None
        users = [t for t in world.living() if is_ancestor(notif.filter, t.task.filter)]
        if users and holder not in users and world.main not in users:
            under += users
    if not under:
        return False
    twin = choices.one(under)
    if does(twin.task) == "idle" and choices.chance(50):
        world.step(twin, "leave", "exit_group", (choices.number(100),))
    else:
        world.signal(twin, SIGKILL, False, "leave")
    return True


def op_kill_call(world: World, choices: Choices) -> bool:
    """kill(2) and tgkill(2) from one actor to another, across namespaces."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    namespace = twin.task.process.namespace
    main = world.main.task.process
    seen = [
        t
        for t in world.twins
        if t.task.seen_from(namespace)
        and t.task.process is not main
        and t.task.state != "X"
        and t.task.process.namespace.init is not None
    ]
    if not seen:
        return False
    other = choices.one(seen)
    number = choices.one((0, 0, SIGUSR1, SIGUSR2, SIGWINCH, 65))
    if twin.task.uid and not other.task.uid:
        return False
    does = signals.disposition(other.task.process, number)
    if number in (SIGUSR1, SIGUSR2) and does.kind == "default":
        number = 0
    if len(other.task.process.alive()) > 1 or other.task.state == ZOMBIE:
        number = 0
    model, real = other.task.seen_from(namespace), other.numbers[namespace.level]
    kernel, task = world.kernel, twin.task

    def perform() -> int:
        from proctor.model import calls
        from proctor.model.tasks import Frame

        frame = Frame(NR["kill"], (model, number, 0, 0, 0, 0), abi.AUDIT_ARCH_X86_64, 0, None)
        return calls.perform(kernel, task, frame)

    world.step(twin, "kill call", "kill", (real, number), perform=perform)
    return True


def op_inspect(world: World, choices: Choices) -> bool:
    """Compare what /proc shows of everybody."""
    world.note("inspect", "inspect")
    world.inspect()
    return True


OPERATIONS: tuple[tuple[Op, int], ...] = (
    (op_install, 7),
    (op_ask, 3),
    (op_fork, 6),
    (op_thread, 3),
    (op_unshare, 1),
    (op_drop, 1),
    (op_exec, 2),
    (op_exit, 2),
    (op_wait, 4),
    (op_call, 22),
    (op_receive, 18),
    (op_answer, 10),
    (op_continue, 5),
    (op_id_valid, 5),
    (op_add_fd, 10),
    (op_set_flags, 1),
    (op_poll, 7),
    (op_epoll, 6),
    (op_close, 2),
    (op_dup, 3),
    (op_open, 3),
    (op_pass, 6),
    (op_limits, 1),
    (op_sigaction, 4),
    (op_sigmask, 1),
    (op_signal, 8),
    (op_count, 2),
    (op_stop, 5),
    (op_kill, 1),
    (op_leave, 5),
    (op_kill_call, 2),
    (op_inspect, 1),
)

__all__ = ["EFAULT", "OPERATIONS", "Choices"]

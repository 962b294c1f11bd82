"""Processes and threads: fork, thread, unshare, exec, exit, wait, and less privilege."""

from __future__ import annotations

import os

from proctor.model.kernel import life, reaping
from proctor.model.kernel.program import Program
from proctor.model.kernel.tasks import Task
from tests.model.operations.choices import Choices, unhindered
from tests.model.twins import Difference, Twin, World, as_libc, numbers_of


def op_fork(world: World, choices: Choices) -> bool:
    """fork(2), or clone(2) with CLONE_FILES."""
    idle = unhindered(world)
    if not idle or not world.real.free_slots or len(world.living()) > 9:
        return False
    born(world, choices.one(idle), "fork", choices.chance(25))
    return True


def op_thread(world: World, choices: Choices) -> bool:
    """A thread more."""
    idle = [twin for twin in unhindered(world) if len(twin.task.process.alive()) < 4]
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
    made: list[Task] = []

    def perform() -> int:
        child = (
            life.thread(world.kernel, twin.task)
            if thread
            else life.fork(world.kernel, twin.task, share)
        )
        if isinstance(child, int):
            return child
        made.append(child)
        return 0

    value = twin.program.call("clone", perform=perform)
    real = (int(reply[1]), int(reply[2]))
    if real[0] < 0 or value < 0:
        world.real.free_slots.append(slot)
        if real != as_libc(value):
            raise Difference(f"{twin!r}: clone gave {real}, the model {value}")
        return twin
    return _born(world, twin, slot, made[0], before, thread)


def _children(twin: Twin) -> set[int]:
    try:
        with open(f"/proc/{twin.actor.gpid}/task/{twin.actor.gtid}/children") as file:
            return {int(word) for word in file.read().split()}
    except FileNotFoundError:
        return set()


def _born(world: World, twin: Twin, slot: int, task: Task, before: set[int], thread: bool) -> Twin:
    """Meet who was born: ``task`` in the model, who is new in /proc in the real world."""
    if thread:
        # What is returned is its number in its own namespace; ours is in /proc.
        gpid = twin.actor.gpid
        known = {other.actor.gtid for other in world.twins}
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
    return made


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
    reply = twin.actor.reply
    if reply is not None and reply[0] == "h":
        twin.numbers = numbers_of(twin.actor.gpid, twin.actor.gtid)
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
    if any(
        isinstance(t.task.wait, reaping.Wait4) and t.task.wait.child is child for t in world.twins
    ):
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
        if twin.task.result is None or twin.task.result <= 0:
            return
        status = int.from_bytes(world.real.peek(twin.actor, at, 4), "little") & ~0x80
        if status != child.code:
            raise Difference(f"child ended with {status:#x}, the model says {child.code}")

    world.step(
        twin, "wait", "wait4", (number, at, 0x40000000, 0),
        perform=lambda: reaping.wait4(world.kernel, twin.task, child), then=then, gives_pid=True,
    )  # fmt: skip

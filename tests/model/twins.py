"""The model and the real kernel side by side: every step is made on both and compared.

A :class:`Twin` is one thread, as a model :class:`~proctor.model.kernel.program.Program` and as an
:class:`~model.real.Actor` of a victim.  A step gives one idle twin something to do (or sends a
signal); then both worlds settle, the model in the order in which the real one was seen to finish,
and what every twin does, and what every finished call returned, has to be the same.

Numbers that cannot be equal are translated: pids by whose they are, ids by how far they are from
the first one of their listener.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable

from proctor.kernel import abi
from proctor.model.kernel import signals
from proctor.model.kernel.files import File
from proctor.model.kernel.linux import BLOCKED
from proctor.model.kernel.listener import Notifications
from proctor.model.kernel.machine import Kernel
from proctor.model.kernel.notify import Knotif
from proctor.model.kernel.program import Program
from proctor.model.kernel.tasks import DEAD, STOPPED, Process, Task
from tests.model.real import Actor, Real
from tests.support.processes import children, end_all, set_subreaper

MASK64 = (1 << 64) - 1
#: Descriptors by which the harness drives a victim; no step may touch them.
KEPT = frozenset({199, *range(200, 216)})
#: Seconds that the kernel may be behind the model although everybody sleeps: in a grace period of
#: RCU (dup2 in a shared table, expand_fdtable), with a page from a disk; and a thread that ended may
#: still be letting go of its number, for which the end of its pid namespace waits, when it is seen
#: no more (release_task, free_pids: only where victims do not go first, see :mod:`tests.model.turns`).
LATE = 0.5


class Difference(AssertionError):
    """The model and the kernel do not agree."""


class Twin:
    """One thread, in both worlds."""

    def __init__(self, program: Program, actor: Actor) -> None:
        self.program = program
        self.actor = actor
        #: Real numbers in each pid namespace it is in, outermost (ours) first.
        self.numbers = numbers_of(actor.gpid, actor.gtid)
        #: What to do once the call it is in is over: compare more than the value.
        self.then: Callable[[], None] | None = None
        #: The call lets its value be translated: it is a pid.
        self.gives_pid = False
        #: The reply is the raw 32-bit register, not libc's errno.
        self.raw = False
        #: It tries to exec, and the kernel has not been asked to.
        self.execs = False
        self.busy = False
        #: Signals whose handlers ran, already counted for its process.
        self.counted = 0

    @property
    def task(self) -> Task:
        return self.program.task

    def __repr__(self) -> str:
        return f"<twin {self.actor.slot} {self.task!r}>"


def numbers_of(gpid: int, gtid: int) -> list[int]:
    """A thread's numbers in the pid namespaces it is in, outermost first."""
    try:
        with open(f"/proc/{gpid}/task/{gtid}/status") as file:
            for line in file:
                if line.startswith("NSpid:"):
                    return [int(word) for word in line.split()[1:]]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return [gtid]


def does(task: Task) -> str:
    """What a model task does, in the words of :meth:`model.real.Actor.look`."""
    if task.exiting:
        return "dead"
    if task.state == STOPPED:
        return "stopped"
    if task.frame is not None:
        return f"blocked {task.state}"
    return "idle"


def as_libc(value: int) -> tuple[int, int]:
    """A kernel's return value as libc's (value, errno)."""
    return (-1, -value) if -4095 <= value < 0 else (value, 0)


def signed(value: int) -> int:
    """A register as a signed number."""
    value &= MASK64
    return value - (1 << 64) if value >> 63 else value


class World:
    """One episode: a victim, a modelled machine, and the twins on them."""

    def __init__(
        self,
        profile: str = "6.18",
        seed: int = 0,
        counts: Counter[str] | None = None,
        remove: tuple[str, ...] = (),
    ) -> None:
        set_subreaper(True)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        self._spare = children()
        self.counts = Counter[str]() if counts is None else counts
        self.log: list[str] = []
        self.real = Real()
        self.kernel = Kernel(profile, remove=remove, seed=seed)
        #: Us: what sends signals from outside.
        self.harness = Program(self.kernel)
        self.harness.settles = False
        self.twins: list[Twin] = []
        #: Real id minus model id, by listener, once one was received.
        self.shift: dict[Notifications, int] = {}
        #: Ids that notifications had, by listener, for steps about the dead.
        self.old_ids: dict[Notifications, list[int]] = {}
        #: How often which handler should have run, by process.
        self.handled: dict[Process, Counter[int]] = {}
        #: Processes whose image was replaced: their memory was, too.
        self.execed: set[Process] = set()
        main = self.harness.fork()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        main.limit_fds(limit)
        for fd in sorted({0, 1, 2} | KEPT):
            main.task.files.install(fd, File(f"kept {fd}"))
        self.main = self.meet(main, self.real.main)

    def close(self) -> None:
        """End everything."""
        self.real.close()
        end_all(self._spare)
        set_subreaper(False)

    # Twins ------------------------------------------------------------------------------------
    def meet(self, program: Program, actor: Actor) -> Twin:
        """A new twin."""
        program.settles = False
        twin = Twin(program, actor)
        self.twins.append(twin)
        return twin

    def living(self) -> list[Twin]:
        """Twins that are not dead."""
        return [twin for twin in self.twins if not twin.task.exiting]

    def idle(self) -> list[Twin]:
        """Twins that take commands."""
        return [twin for twin in self.twins if does(twin.task) == "idle"]

    def twin_of(self, task: Task) -> Twin | None:
        """The twin of a model task."""
        return next((twin for twin in self.twins if twin.task is task), None)

    def real_number(self, process_namespace: object, number: int) -> int | None:
        """The real pid for a model pid in a namespace; None if nobody has it."""
        if number == 0:
            return 0
        for twin in self.twins:
            for namespace, mine in twin.task.numbers.items():
                if namespace is process_namespace and mine == number:
                    return (
                        twin.numbers[namespace.level]
                        if namespace.level < len(twin.numbers)
                        else None
                    )
        owner = getattr(process_namespace, "tasks", {}).get(number)
        if owner in (self.harness.task, self.kernel.init):
            return os.getpid()
        return None

    # Listeners --------------------------------------------------------------------------------
    def listener(self, twin: Twin, fd: int) -> Notifications | None:
        """The model's listener behind a descriptor."""
        file = twin.task.files.get(fd)
        inside = file.inside if file is not None else None
        return inside if isinstance(inside, Notifications) else None

    def real_id(self, notif: Notifications, id: int) -> int:
        """The real id for a model id; itself as long as no notification was received."""
        return (id + self.shift.get(notif, 0)) & MASK64

    def learn(self, notif: Notifications, model: int, real: int) -> None:
        """An id was received in both worlds: the distance must always be the same."""
        shift = (real - model) & MASK64
        known = self.shift.setdefault(notif, shift)
        if known != shift:
            raise Difference(f"id {real:#x} is not where the model's {model:#x} is")
        self.old_ids.setdefault(notif, []).append(model)

    # A step -----------------------------------------------------------------------------------
    def step(
        self,
        twin: Twin,
        what: str,
        name: str | int,
        args: tuple[int, ...] = (),
        *,
        real_args: tuple[int, ...] | None = None,
        pokes: list[tuple[int, bytes]] | None = None,
        perform: Callable[[], int] | None = None,
        then: Callable[[], None] | None = None,
        gives_pid: bool = False,
        verb: str = "acall",
        arch: int = abi.AUDIT_ARCH_X86_64,
    ) -> None:
        """``twin`` makes a system call in both worlds; everything is compared."""
        from proctor.model.kernel.linux import NR

        nr = NR[name] if isinstance(name, str) else name
        self.note(what, f"{twin.actor.slot}: {what} {name}{tuple(hex(a) for a in args)}")
        twin.then, twin.gives_pid, twin.busy = then, gives_pid, True
        twin.execs = False
        twin.raw = verb == "call-i386"
        words = real_args if real_args is not None else args
        self.real.tell(twin.actor, verb, nr, *[str(word) for word in words], pokes=pokes or [])
        twin.program.call(name, *args, perform=perform, arch=arch)
        self.settle()

    def note(self, what: str, text: str) -> None:
        """Count a step and remember it for the report of a difference."""
        self.counts[what] += 1
        self.log.append(text)

    def settle(self) -> None:
        """Let both worlds come to rest, and compare them."""
        looks = self.real.settle()
        runnable = self.kernel.runnable
        while runnable:
            first = runnable[0]
            if len(runnable) > 1:
                # Of several who were woken for one thing, he runs first who got it there.
                for task in runnable:
                    twin = self.twin_of(task)
                    if twin is not None and looks.get(twin.actor.slot) == "idle":
                        first = task
                        break
            runnable.remove(first)
            self.kernel.run(first)
        give_up = time.monotonic() + LATE
        while self._behind(looks) and time.monotonic() < give_up:
            self.real.news()
            looks = self.real.settle()
        self.compare(looks)

    def _behind(self, looks: dict[int, str]) -> bool:
        """Whether somebody does something else than in the model, where the kernel may be late."""
        return any(
            looks[twin.actor.slot] != does(twin.task)
            for twin in self.twins
            if twin.actor.slot in self.real.actors
            and not (twin.task.process.lingers and twin.task.exiting)
        )

    def compare(self, looks: dict[int, str]) -> None:
        """Whether every twin does the same, and every finished call returned the same."""
        for twin in self.twins:
            if twin.actor.slot not in self.real.actors:
                continue
            model, real = does(twin.task), looks[twin.actor.slot]
            if twin.task.process.lingers and twin.task.exiting:
                continue  # one of its threads sleeps in its end; which one nobody can foretell
            if model != real:
                raise Difference(f"{twin!r}: the model is {model}, the kernel {real}")
            if model == "idle" and twin.busy:
                self._finished(twin)
        self._count_handlers()
        self._bury()

    def _finished(self, twin: Twin) -> None:
        twin.busy = False
        reply = twin.actor.reply
        value = twin.task.result
        if reply is None or value is None:
            raise Difference(f"{twin!r}: one returned and the other did not")
        if reply[0] == "h":
            if value != 0:
                raise Difference(f"{twin!r}: execve worked, the model says {value}")
        else:
            got = (int(reply[1]), int(reply[2]))
            if twin.execs and not -4095 <= signed(value) < 0:
                got = (
                    value,
                    0,
                )  # answered with a value: the victim reports no more than "not execed"
            want = as_libc(signed(value)) if not twin.raw else (signed(value << 32) >> 32, 0)
            if twin.gives_pid and value > 0:
                number = self.real_number(twin.task.process.namespace, value)
                want = (number if number is not None else -99, 0)
            if got != want:
                raise Difference(f"{twin!r}: the model returned {want}, the kernel {got}")
        then, twin.then = twin.then, None
        if then is not None:
            then()

    def _count_handlers(self) -> None:
        for twin in self.twins:
            new = twin.task.handled[twin.counted :]
            if new:
                twin.counted = len(twin.task.handled)
                self.handlers(twin.task.process).update(new)

    def handlers(self, process: Process) -> Counter[int]:
        """How often which handler ran in a process."""
        return self.handled.setdefault(process, Counter())

    def _bury(self) -> None:
        """Give up what is dead in both worlds and cannot be asked about any more."""
        for twin in list(self.twins):
            process = twin.task.process
            if process.lingers:
                continue
            gone = twin.task.state == DEAD and (twin.task is not process.leader or process.reaped)
            if gone and twin.actor.slot in self.real.actors:
                self.real.forget(twin.actor.slot)

    # Signals ----------------------------------------------------------------------------------
    def signal(self, twin: Twin, number: int, thread: bool, what: str) -> None:
        """We, from outside, send a signal to a twin's process or thread."""
        self.note(what, f"harness: {what} {number} to {twin!r}{' (thread)' if thread else ''}")
        pid = twin.actor.gpid
        if thread:
            from tests.support.processes import tgkill

            tgkill(pid, twin.actor.gtid, number)
        else:
            os.kill(pid, number)
        target = twin.task if thread else twin.task.process.leader
        above = target.process.namespace is not self.kernel.namespace
        signals.send(self.kernel, number, target, not thread, above)
        self.settle()

    # Looking deeper ---------------------------------------------------------------------------
    def inspect(self) -> None:
        """Compare what /proc shows of everybody: descriptors, close-on-exec, mode, filters."""
        for twin in self.living():
            self._inspect(twin)

    def _inspect(self, twin: Twin) -> None:
        base = f"/proc/{twin.actor.gpid}/task/{twin.actor.gtid}"
        real = {int(name) for name in os.listdir(f"{base}/fd")}
        model = set(twin.task.files.slots)
        if real != model:
            raise Difference(f"{twin!r}: descriptors {sorted(real ^ model)} are in one world only")
        for fd in sorted(real - KEPT):
            with open(f"{base}/fdinfo/{fd}") as file:
                flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
            if bool(flags & 0o2000000) != (fd in twin.task.files.cloexec):
                raise Difference(f"{twin!r}: close-on-exec of {fd} differs")
        with open(f"{base}/status") as file:
            shown = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        want = {
            "NoNewPrivs": int(twin.task.no_new_privs),
            "Seccomp": twin.task.mode,
            "Seccomp_filters": twin.task.filter_count,
        }
        if "Seccomp_filters" not in shown:  # before Linux 5.9
            del want["Seccomp_filters"]
        for key, value in want.items():
            if int(shown[key]) != value:
                raise Difference(f"{twin!r}: {key} is {shown[key]}, the model says {value}")


def has_several_waiting(process: Process) -> bool:
    """Whether two threads of a process wait for answers: stopping it makes them ask again in an
    order nobody can foretell."""
    return sum(isinstance(task.wait, Knotif) for task in process.tasks) > 1


__all__ = ["BLOCKED", "KEPT", "Difference", "Twin", "World", "signal"]

"""One thread in both worlds, and a step: an order, both worlds come to rest, all is compared."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from proctor.kernel.abi import AUDIT_ARCH_X86_64
from proctor.model.kernel import signals
from proctor.model.kernel.files import File
from proctor.model.kernel.linux import BLOCKED, EBADF, EINVAL, ERESTARTSYS, NR, SIGCHLD
from proctor.model.kernel.machine import Kernel
from proctor.model.kernel.programs import Arguments
from proctor.model.kernel.reaping import Wait4
from proctor.model.kernel.tasks import DEAD, RUNNING, ZOMBIE, Process, Task
from proctor.model.kernel.waits import Wait
from tests.model.stage import real
from tests.model.stage.real import (
    DATA,
    FIRST_FD,
    SHARED,
    SHARED_FD,
    SLOT_SIZE,
    SLOTS,
    Real,
    slot_address,
)
from tests.model.twins import Difference, signed
from tests.support.processes import children, end_all, set_subreaper, tgkill

PATIENCE = 10.0
_MMAP: Arguments = (SHARED, SLOTS * SLOT_SIZE, 3, 0x11, SHARED_FD, 0)


class LeftOpen(Exception):
    """The kernel leaves open what happens next: nothing to compare, the episode ends.

    A traced process got two SIGCHLD at once: whether the second one comes before the first one was
    shown to the tracer, nobody can foretell.  Or a tracer's end let several threads go at once,
    which then stop, end or wait for one another in any order, or one while somebody waits.
    """


class Order(NamedTuple):
    """A system call that an actor is to make."""

    what: str
    nr: int
    args: Arguments = (0, 0, 0, 0, 0, 0)
    perform: Callable[[], int] | None = None
    """What the model does for it; None looks it up by number."""
    check: Callable[[int], None] | None = None
    """Compares more than the result, which it gets, once it is done on both sides."""
    data: bytes = b""
    """Put where pointers go, before."""
    newborn: int = 0
    """The slot of the child."""


class Reading(Wait):
    """An actor's read(2) of its pipe.

    Source: ``fs/pipe.c`` 6.12 ``pipe_read``.
    """

    __slots__ = ("count", "player")

    def __init__(self, player: Player, count: int) -> None:
        super().__init__()
        self.player = player
        self.count = count

    def resume(self, kernel: Kernel, task: Task) -> None:
        if self.player.bytes:
            kernel.finish(task, self.player.take(self.count))
        elif task.sigpending or task.killed:
            kernel.finish(task, -ERESTARTSYS)


class Player:
    """One thread: the model's task, and the real one with its slot; both run ``actor.c``."""

    def __init__(self, stage: Stage, task: Task, slot: int, pid: int, tid: int) -> None:
        self.stage = stage
        self.task = task
        self.slot = slot
        self.pid, self.tid = pid, tid
        #: The order it was given and has not finished.
        self.order: Order | None = None
        self.pending = False
        #: What is in its pipe.
        self.bytes = 0
        self.doing = "being born"
        self.done = 0
        self.result = 0
        task.returned = self.returned

    def __repr__(self) -> str:
        return f"<{self.slot}: {self.task!r}, really {self.tid}>"

    def begin(self) -> None:
        """A child's first call, unless it stops on its way out of the one that made it."""
        if self.task.frame is None:
            self.returned(self.task, 0)

    def returned(self, task: Task, value: int) -> None:
        """In user space: what ``actor.c`` does next."""
        kernel, order = self.stage.kernel, self.order
        if self.doing == "order" and order is not None:
            self.result = value
            self.done += 1
        if self.doing == "exec":
            self.doing = "mmap"
            kernel.enter(task, 9, _MMAP, ip=0, perform=lambda: SHARED)
        elif self.doing == "read" and self.pending and order is not None:
            self.pending = False
            self.doing = "order"
            kernel.enter(task, order.nr, order.args, perform=order.perform)
        else:
            self.doing = "read"
            args = (FIRST_FD + self.slot, slot_address(self.slot) + 4096, 1, 0, 0, 0)
            kernel.enter(task, NR["read"], args, perform=self._read)

    def _read(self) -> int:
        """read(2), whose arguments a tracer may have changed; all but the pipe is /dev/null."""
        assert self.task.frame is not None
        fd, _, count, *_ = self.task.frame.args
        file = self.task.files.get(fd & 0xFFFFFFFF)
        if file is None:
            return -EBADF
        if file.inside is not None:
            return -EINVAL
        if fd != FIRST_FD + self.slot or not count:
            return 0
        if self.bytes:
            return self.take(count)
        return self.stage.kernel.sleep(self.task, Reading(self, count))

    def take(self, count: int) -> int:
        """Take what is in the pipe."""
        taken = min(count, self.bytes)
        self.bytes -= taken
        return taken

    def idle(self) -> bool:
        """Whether it waits for an order."""
        return self.order is None and isinstance(self.task.wait, Reading)

    @property
    def data(self) -> int:
        """The address of its data."""
        return slot_address(self.slot) + DATA

    def letter(self) -> str:
        """The state that /proc should show."""
        if self.task.state == DEAD:
            return ""
        return ZOMBIE if self.task.exiting else self.task.state

    def call_of(self) -> tuple[int, ...]:
        """The call that /proc should show."""
        frame = self.task.frame
        if frame is None or frame.nr < 0:
            return (-1 if frame is None else frame.nr,)
        return (frame.nr, *frame.args)


class Stage:
    """One episode."""

    def __init__(
        self,
        counts: Counter[str] | None = None,
        remove: tuple[str, ...] = (),
        grace: float = 2.0,
    ) -> None:
        """For ``remove`` and ``grace`` see :func:`model.stage.drawing.play`."""
        set_subreaper(True)
        self.grace = grace
        self._spare = children()
        self.counts = Counter[str]() if counts is None else counts
        self.log: list[str] = []
        self.kernel = Kernel(remove=remove)
        #: How often which process was sent SIGCHLD in this step.
        self.told = Counter[Process]()
        #: Who traces whom, and whether anybody sleeps in wait4(2), before this step.
        self._traced: list[tuple[Task, list[Task]]] = []
        self._waits = False
        self._send = signals.send
        signals.send = self._counting
        self.real = Real()
        task = self.kernel.spawn()
        for fd in (0, 1, 2, SHARED_FD, real.PROGRAM_FD, *range(FIRST_FD, FIRST_FD + SLOTS)):
            task.files.install(fd, File(f"kept {fd}"))
        self.players: list[Player] = []
        first = Player(self, task, 0, self.real.pid, self.real.pid)
        self.players.append(first)
        #: Model numbers to real ones, of everybody who ever was.
        self.numbers = {self.kernel.init.tid: os.getpid(), task.tid: first.tid}
        first.doing = "exec"
        first.returned(task, 0)
        self.settle()
        #: Where the page lies that tracers may write to, and the stacks: in every actor.
        self.page, self.stacks = self.real.word(0, 11), self.real.word(0, 12)
        task.process.memory.map(self.page, bytes(4096))

    def close(self) -> None:
        """End everybody."""
        signals.send = self._send
        self.real.close()
        end_all(self._spare)
        set_subreaper(False)

    def _counting(
        self, kernel: Kernel, number: int, target: Task, shared: bool, from_above: bool = False
    ) -> None:
        if number == SIGCHLD:
            self.told[target.process] += 1
        self._send(kernel, number, target, shared, from_above)

    # Who there is -----------------------------------------------------------------------------
    def living(self) -> list[Player]:
        """Those who have not begun to exit."""
        return [player for player in self.players if not player.task.exiting]

    def player_of(self, task: Task) -> Player | None:
        """Whose task that is."""
        return next((player for player in self.players if player.task is task), None)

    def free_slot(self) -> int:
        """A slot nobody plays; 0 if there is none."""
        taken = {player.slot for player in self.players}
        return next((slot for slot in range(1, SLOTS) if slot not in taken), 0)

    def back(self, number: int) -> int:
        """A real number as the model's; what is nobody's stays as it is."""
        return next((mine for mine, really in self.numbers.items() if really == number), number)

    # A step -----------------------------------------------------------------------------------
    def tell(self, player: Player, order: Order) -> None:
        """Give an order, and compare what comes of it."""
        self.counts[order.what] += 1
        shown = ", ".join(hex(arg) for arg in order.args)
        self.log.append(f"{player!r}: {order.what} {order.nr}({shown})")
        if order.data:
            self.real.write(player.slot, order.data)
        player.order, player.pending = order, True
        player.bytes += 1
        self.real.order(player.slot, order.nr, order.args, order.newborn)
        if isinstance(player.task.wait, Reading):
            self.kernel.wake(player.task)
        self.settle()

    def signal(self, player: Player, number: int, thread: bool) -> None:
        """We send a signal, to a process or a thread."""
        self.counts["signal"] += 1
        self.log.append(f"harness: signal {number} to {player!r}{' (thread)' if thread else ''}")
        if thread:
            tgkill(player.pid, player.tid, number)
        else:
            os.kill(player.pid, number)
        target = player.task if thread else player.task.process.leader
        signals.send(self.kernel, number, target, not thread)
        self.settle()

    def born(self, parent: Player, slot: int, make: Callable[[], Task | int]) -> Task | int:
        """The model's clone(2) makes a child: find the real one, and let it play its slot."""
        kin = [player for player in self.players if player.pid == parent.pid]
        known = {player.tid for player in self.players}
        task = make()
        if isinstance(task, int):
            return task
        is_thread = task.process is parent.task.process
        give_up = time.monotonic() + PATIENCE / 5
        found: set[int] = set()
        while len(found) != 1:
            if is_thread:
                found = real.threads(parent.pid) - known
            else:
                every = [real.children(player.pid, player.tid) for player in kin]
                found = set().union(*every) - known
            if time.monotonic() > give_up:
                raise Difference(f"{parent!r} has one child in the model, the kernel {found}")
        (tid,) = found
        child = Player(self, task, slot, parent.pid if is_thread else tid, tid)
        self.players.append(child)
        self.numbers[task.tid] = tid
        child.begin()
        return task

    # Coming to rest, and comparing ------------------------------------------------------------
    def _looks(self) -> dict[Player, str]:
        seen = {}
        for player in self.players:
            if player.task.process.leader is player.task or player.task.exiting:
                try:
                    os.waitpid(player.pid, os.WNOHANG)
                except ChildProcessError:
                    pass
            seen[player] = real.letter(player.pid, player.tid)
        return seen

    def settle(self) -> None:
        """Let both worlds come to rest; then everything has to be the same.

        Time may cure a difference, if the machine is busy: for a while.
        """
        self.kernel.settle()
        for process, times in self.told.items():
            if times > 1 and any(task.tracing is not None for task in process.tasks):
                raise LeftOpen
        self.told.clear()
        for tracer, tracees in self._traced:
            if tracer.exiting and len(tracees) > (0 if self._waits else 1):
                raise LeftOpen
        self._traced = [
            (player.task, [task for task in player.task.tracees if not task.exiting])
            for player in self.players
        ]
        self._waits = any(isinstance(player.task.wait, Wait4) for player in self.players)
        began = time.monotonic()
        before: dict[Player, str] = {}
        while True:
            seen = self._looks()
            quiet = "R" not in seen.values() and seen == before
            problem = self._compare(seen) if quiet else "never quiet"
            if not problem:
                break
            waited = time.monotonic() - began
            if waited > (self.grace if quiet else PATIENCE):
                raise Difference(problem)
            if quiet:
                time.sleep(0.002)
            else:
                os.sched_yield()
            before = seen
        self._finish()

    def _compare(self, seen: dict[Player, str]) -> str:
        """What differs first, "" for nothing."""
        for player, letter in seen.items():
            want = player.letter()
            if want == RUNNING:
                return f"{player!r} runs on in the model"
            if letter.replace("X", "") != want:
                return f"{player!r}: the model is {want!r}, the kernel {letter!r}"
            if player.task.exiting:
                continue
            call = real.call_of(player.pid, player.tid)
            if call != player.call_of():
                return f"{player!r}: the model is in {player.call_of()}, the kernel in {call}"
            problem = self._compare_status(player)
            if problem:
                return problem
            if player.done != self.real.word(player.slot, 9):
                return f"{player!r}: only one world carried out its order"
        return ""

    def _compare_status(self, player: Player) -> str:
        shown = real.status(player.pid, player.tid)
        task = player.task
        tracing = task.tracing
        tracer = self.player_of(tracing.tracer) if tracing is not None else None
        want = {
            "TracerPid": str(0 if tracer is None else tracer.tid),
            "SigPnd": f"{task.pending >> 1:016x}",
            "ShdPnd": f"{task.process.pending >> 1:016x}",
            "SigBlk": f"{task.blocked >> 1:016x}",
            "Seccomp": str(task.mode),
            "Seccomp_filters": str(task.filter_count),
        }
        for key, value in want.items():
            if shown.get(key) != value:
                return f"{player!r}: {key} is {shown.get(key)}, the model says {value}"
        return ""

    def _finish(self) -> None:
        """Compare what was carried out, and forget the dead."""
        for player in list(self.players):
            if player.order is not None and not player.pending and player.doing != "order":
                order, player.order = player.order, None
                if player.doing == "read" and not player.task.exiting:
                    self._compare_result(player, order)
            if player.task.state == DEAD:
                self.players.remove(player)
                self.real.clear(player.slot)

    def _compare_result(self, player: Player, order: Order) -> None:
        got, want = signed(self.real.word(player.slot, 10)), player.result
        if got not in (want, self.numbers.get(want, want)):
            raise Difference(f"{player!r}: {order.what} returned {got}, the model says {want}")
        if order.check is not None:
            order.check(want)


__all__ = ["AUDIT_ARCH_X86_64", "BLOCKED", "Difference", "LeftOpen", "Order", "Player", "Stage"]

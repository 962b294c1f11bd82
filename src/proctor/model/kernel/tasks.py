"""Tasks, processes and pid namespaces.

A :class:`Task` is a thread (``struct task_struct``), a :class:`Process` a thread group
(``struct signal_struct``).  A task is known under one number in its own pid namespace and one in
every namespace above it; anybody else sees 0 (``task_pid_vnr``).

Sources: ``include/linux/sched.h``, ``include/linux/sched/signal.h``, ``kernel/pid.c``,
``kernel/pid_namespace.c`` (Linux 6.12); ``Documentation/userspace-api/seccomp_filter.rst`` 5.0 ("pid ... may be 0 if the task is
in a pid ns not visible from the listener's pid namespace").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proctor.model.kernel.linux import ENOSYS
from proctor.model.kernel.memory import Memory
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.model.kernel.delivery import Delivery
    from proctor.model.kernel.files import FdTable, File
    from proctor.model.kernel.filters import Filter
    from proctor.model.kernel.programs import Arguments
    from proctor.model.kernel.waits import Wait
    from proctor.model.ptrace.tracing import Stop, Tracing

RUNNING: Final = "R"
SLEEPING: Final = "S"
DISK_SLEEP: Final = "D"
STOPPED: Final = "T"
TRACED: Final = "t"
ZOMBIE: Final = "Z"
DEAD: Final = "X"

MODE_DISABLED: Final = 0
MODE_STRICT: Final = 1
MODE_FILTER: Final = 2
#: A verdict killed it, and nothing is to bring it back (Linux 5.17).
MODE_DEAD: Final = 3


class Disposition(NamedTuple):
    """What a process does with a signal: ``kind`` is "default", "ignore" or "handler"."""

    kind: str = "default"
    restart: bool = False
    """SA_RESTART; only for handlers."""
    mask: int = 0
    """Signals held back while the handler runs, as a bit mask (1 << number); itself always is."""


DEFAULT: Final = Disposition()
IGNORE: Final = Disposition("ignore")


class Frame:
    """One system call in progress: registers as the filter sees them, and what would run it."""

    __slots__ = ("arch", "args", "ax", "holds", "ip", "nr", "perform")

    def __init__(
        self,
        nr: int,
        args: Arguments,
        arch: int,
        ip: int,
        perform: Callable[[], int] | None,
    ) -> None:
        self.nr = nr
        self.args = args
        self.arch = arch
        self.ip = ip
        #: What happens if the call is let through; None looks it up by number.
        self.perform = perform
        #: The result register: -ENOSYS until the call is over, unless a tracer writes it.
        self.ax = -ENOSYS
        #: A file that cannot go away while the call lasts (``fdget``).
        self.holds: File | None = None


class PidNamespace:
    """Numbers for tasks; nested (``struct pid_namespace``)."""

    __slots__ = ("closed", "init", "last", "level", "limit", "parent", "tasks")

    def __init__(self, parent: PidNamespace | None = None, limit: int = 1 << 22) -> None:
        self.parent = parent
        self.level: int = 0 if parent is None else parent.level + 1
        self.limit = limit
        self.last = 0
        self.tasks: dict[int, Task] = {}
        #: The process with number 1; its end is the end of all in here.
        self.init: Process | None = None
        #: Its init is gone: nobody can be born here any more.
        self.closed = False

    def allocate(self, task: Task | None) -> None:
        """Number ``task`` here and in every namespace above (``alloc_pid``), going round.

        With None the numbers are taken and given back: what a fork(2) does that fails here because
        the namespace has lost its init.

        Source: ``kernel/pid.c`` 6.12.
        """
        namespace: PidNamespace | None = self
        while namespace is not None:
            number = namespace.last
            while True:
                number = number + 1 if number + 1 < namespace.limit else 2
                if number not in namespace.tasks:
                    break
            namespace.last = number
            if task is not None:
                namespace.tasks[number] = task
                task.numbers[namespace] = number
            namespace = namespace.parent

    def free(self, task: Task) -> None:
        """The numbers may be used again (``free_pid``).

        Source: ``kernel/pid.c`` 6.12.
        """
        for namespace, number in task.numbers.items():
            if namespace.tasks.get(number) is task:
                del namespace.tasks[number]


class Process:
    """A thread group: what its threads share."""

    __slots__ = (
        "children", "code", "dispositions", "dumpable", "exiting_code", "immutable", "leader",
        "lingers", "memory", "mother", "namespace", "nofile", "parent", "pending", "reaped",
        "stop_code", "stop_count", "stop_news", "stopped", "tasks", "unkillable",
    )  # fmt: skip

    def __init__(self, namespace: PidNamespace, parent: Process | None) -> None:
        self.namespace = namespace
        self.parent = parent
        #: The thread that made it; PTRACE_TRACEME makes that one the tracer.
        self.mother: Task | None = None
        self.children: list[Process] = []
        self.tasks: list[Task] = []
        self.leader: Task
        self.dispositions: dict[int, Disposition] = {}
        #: Signals pending for the process as a whole, as a bit mask.
        self.pending = 0
        #: Signals whose default death nobody can stop any more, as a bit mask (SA_IMMUTABLE).
        self.immutable = 0
        self.memory = Memory()
        #: Whether its memory may be looked at by its own user (PR_SET_DUMPABLE).
        self.dumpable = True
        #: RLIMIT_NOFILE, soft.
        self.nofile = 1024
        #: The code all threads die with, once one of them ended the process; None before.
        self.exiting_code: int | None = None
        #: How it ended, as wait4(2) says: code << 8, or the signal; None while it lives.
        self.code: int | None = None
        self.reaped = False
        #: The init of a pid namespace, dying: it waits until everybody else in there is reaped.
        self.lingers = False
        #: Whether it is the init of its namespace (SIGNAL_UNKILLABLE).
        self.unkillable = False
        # A stop of the whole process (job control)
        #: Threads that still have to take part in it (``group_stop_count``).
        self.stop_count = 0
        #: All did, and no SIGCONT came since (SIGNAL_STOP_STOPPED).
        self.stopped = False
        #: The signal that stopped it, until a parent was told by wait4(2); then 0.
        self.stop_code = 0
        #: A SIGCONT ended a stop, and the parents are to be told (SIGNAL_CLD_MASK).
        self.stop_news = False

    def ends_with(self, code: int) -> None:
        """All threads end, and no stop counts any more (SIGNAL_GROUP_EXIT replaces its flags).

        Source: ``kernel/exit.c`` 6.12 ``do_group_exit``; ``kernel/signal.c`` ``complete_signal``.
        """
        self.exiting_code = code
        self.stop_count, self.stopped = 0, False

    def alive(self) -> list[Task]:
        """The threads that have not begun to exit."""
        return [task for task in self.tasks if not task.exiting]


class Task:
    """A thread."""

    __slots__ = (
        "blocked", "cap_sys_admin", "exit_code", "exiting", "files", "filter",
        "filter_count", "frame", "handled", "held", "killed", "mode", "namespace_for_children",
        "no_new_privs", "numbers", "parked", "pending", "process", "queued", "restart", "result",
        "returned", "sigpending", "state", "stop", "stop_consume", "stop_dequeued", "stop_pending",
        "stop_signal", "tracees", "tracing", "trap_notify", "trap_stop", "uid", "wait",
        "wait_status",
    )  # fmt: skip

    def __init__(self, process: Process, files: FdTable) -> None:
        self.process = process
        self.files = files
        self.numbers: dict[PidNamespace, int] = {}
        #: Where its children will live; differs from its own after unshare(CLONE_NEWPID).
        self.namespace_for_children = process.namespace
        self.state = RUNNING
        #: The call it is in; None in user space.
        self.frame: Frame | None = None
        #: What it sleeps on.
        self.wait: Wait | None = None
        #: Already told to run.
        self.queued = False
        #: Where a stopped task, or a traced one that was just born, goes on from.
        self.parked: Delivery | None = None
        #: Stopped or traced, and nobody let it go on (JOBCTL_STOPPED, JOBCTL_TRACED).
        self.held = False
        #: What restart_syscall(2) goes on with (``restart_block``); None after a handler ran.
        self.restart: Callable[[], int] | None = None
        #: What the last call returned; None while one is in progress.
        self.result: int | None = None
        #: Called with (task, value) when a call returns to user space.
        self.returned: Callable[[Task, int], None] | None = None
        # seccomp
        self.mode = MODE_DISABLED
        self.filter: Filter | None = None
        self.filter_count = 0
        self.no_new_privs = False
        # credentials, as far as they matter
        self.uid = 0
        self.cap_sys_admin = True
        # signals
        self.blocked = 0
        self.pending = 0
        self.sigpending = False
        self.killed = False
        #: It has to take part in a stop of its process (JOBCTL_STOP_PENDING).
        self.stop_pending = False
        #: Its part in that is counted in the process's ``stop_count`` (JOBCTL_STOP_CONSUME).
        self.stop_consume = False
        #: It took a stop signal, and no SIGCONT came since (JOBCTL_STOP_DEQUEUED).
        self.stop_dequeued = False
        #: The signal of the last stop (JOBCTL_STOP_SIGMASK).
        self.stop_signal = 0
        self.exiting = False
        self.exit_code = 0
        #: Numbers of the signals whose handlers ran, in order.
        self.handled: list[int] = []
        # ptrace
        #: Who traces it, and how; None: nobody does.
        self.tracing: Tracing | None = None
        #: The stop in which it waits for its tracer; None outside of one.
        self.stop: Stop | None = None
        #: Whom it traces, the newest first (``list_add`` in ``__ptrace_link``).
        self.tracees: list[Task] = []
        #: It has to stop for its tracer (JOBCTL_TRAP_STOP), or to tell it news (JOBCTL_TRAP_NOTIFY).
        self.trap_stop = False
        self.trap_notify = False
        #: What its last wait4(2) said of a child.
        self.wait_status = 0

    @property
    def tid(self) -> int:
        """Its number in its own pid namespace."""
        return self.numbers[self.process.namespace]

    def seen_from(self, namespace: PidNamespace) -> int:
        """Its number in ``namespace``, 0 if it has none there (``task_pid_nr_ns``)."""
        return self.numbers.get(namespace, 0)

    def __repr__(self) -> str:
        return f"<task {self.numbers.get(self.process.namespace, '?')} {self.state}>"

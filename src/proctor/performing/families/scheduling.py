"""sched_setscheduler, sched_setparam, sched_setattr, setpriority, ioprio_set: for threads of the container, by the
caller's numbers, with CAP_SYS_NICE lent within bounds.

The call is first made in the caller's own identity, of the thread that its number means in its pid namespace.
Where the kernel says that a right is missing, and the caller has that right over its own user namespace, it is lent
for this one call, if the rule's bounds and the thread are such.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Generator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.errors import MemoryUnreadable
from proctor.performing import too_big
from proctor.performing.entitled import lacking
from proctor.performing.executing.lent import Lent
from proctor.performing.executing.single import Single
from proctor.performing.executing.steps import Argument, Number, Result, Steps
from proctor.performing.given import Given, would
from proctor.performing.paths import pins
from proctor.performing.threads import dead, thread
from proctor.performing.trouble import Powerless, Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.performing.task import Task, Work

_KERNELS: Final = (
    "it is about more than one process, or none; the kernel decides, by the caller's own rights"
)
_CAP_SYS_NICE: Final = 23
_OTHER, _FIFO, _RR, _BATCH, _IDLE = 0, 1, 2, 3, 5
_RESET_ON_FORK: Final = 0x40000000
_IO_REALTIME: Final = 1
_KEEP_POLICY, _KEEP = 0x8, 0x18  # SCHED_FLAG_KEEP_POLICY, SCHED_FLAG_KEEP_ALL
_NOBODY: Final = (1 << 31) - 1  # beyond PID_MAX_LIMIT
_ROOM: Final = 128


class Options(Given):
    """See docs/families/scheduling.md.

    :param nice: least nice value that is lent for, -20 to 0.
    :param priority: greatest real-time priority that is lent for, 0 to 99.
    :param io: whether the real-time class of input and output is.
    """

    nice: int = 0
    priority: int = 0
    io: bool = False

    def check(self) -> None:
        for name, least, most in (("nice", -20, 0), ("priority", 0, 99)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} is a number from {least} to {most}, not {value!r}")
        if not isinstance(self.io, bool):
            raise ValueError(f"io is true or false, not {self.io!r}")


class _Wish(NamedTuple):
    """What is asked for."""

    #: Of a thread, in the caller's pid namespace; 0 for the caller.
    number: int
    values: tuple[bytes | int, ...]
    #: Whether the right may be lent for it.
    lent: bool


def perform(task: Task) -> Work:
    """Make it so, for a thread of the container."""
    name = task.call.name
    try:
        wish = _wish(task, task.options(Options))
    except MemoryUnreadable as error:
        if error.errno != errno.E2BIG:
            raise
        return (yield from too_big.told(task, task.call.address("attr")))
    if wish is None:
        return let_run_unsafe(_KERNELS)
    asking = _asking(name)
    try:
        tid, pidfd = thread(task, wish.number)
    except Said:
        if name in ("ioprio_set", "sched_setattr"):  # what is wrong with the rest comes first
            failed = yield from asking.ask(task.session, _NOBODY, *wish.values)
            if failed == errno.EPERM and not _why_not(task, wish):  # nothing is, to who has it
                failed = errno.ESRCH
            return deny(failed or errno.ESRCH)
        raise
    failed = yield from asking.ask(task.session, tid, *wish.values)
    if failed in (errno.EPERM, errno.EACCES):
        if why := _why_not(task, wish, tid):
            return deny(failed, why)
        failed = yield from _lend(task, name, tid, pidfd, wish)
    if dead(pidfd):
        return deny(errno.ESRCH)
    return deny(failed) if failed else answer(0)


def _why_not(task: Task, wish: _Wish, tid: int = 0) -> str:
    """Why the right is not lent; empty if it may be."""
    if wish.lent:
        return lacking(task, _CAP_SYS_NICE, "CAP_SYS_NICE", tid)
    why = "it is out of the bounds of its rule"
    return f"{why} {would(**options)}" if (options := needed(task.call)) else why


def _wish(task: Task, options: Options) -> _Wish | None:
    """None for what is not about one thread.

    :raises Said: what the kernel says to such arguments."""
    call = task.call
    numbers = [pins.signed(each) for each in call.registers]
    if call.name == "setpriority":
        if numbers[0] != 0:  # PRIO_PROCESS
            return None
        nice = _nice(numbers[2])
        return _Wish(numbers[1], (nice,), nice >= options.nice)
    if call.name == "ioprio_set":
        if numbers[0] != 1:  # IOPRIO_WHO_PROCESS
            return None
        realtime = numbers[2] >> 13 & 7 == _IO_REALTIME
        return _Wish(numbers[1], (numbers[2],), options.io or not realtime)
    argument = "attr" if call.name == "sched_setattr" else "param"
    # before anything is read (do_sched_setscheduler and others of kernel/sched/syscalls.c)
    if (
        numbers[0] < 0
        or not call.address(argument)
        or (call.name == "sched_setattr" and numbers[2])
        or (call.name == "sched_setscheduler" and numbers[1] < 0)
    ):
        raise Said(errno.EINVAL)
    param = call.args[argument]
    if call.name == "sched_setattr":
        data = bytearray(param.pack())
        struct.pack_into("=I", data, 0, min(param.size, len(data)))
        return _Wish(numbers[0], (bytes(data),), _attr_within(param, options))
    priority = struct.pack("=i", int(param))
    if call.name == "sched_setparam":
        return _Wish(numbers[0], (priority,), 0 <= int(param) <= options.priority)
    fine = _within(numbers[1] & ~_RESET_ON_FORK, int(param), 0, options)
    return _Wish(numbers[0], (numbers[1], priority), fine)


def needed(call: Call) -> dict[str, Any]:
    """Options that the right is lent by for a call; empty if none has to be said.

    :raises MemoryUnreadable: what it asks for cannot be read."""
    numbers = [pins.signed(each) for each in call.registers]
    if call.name == "setpriority":
        return {"nice": _nice(numbers[2])} if numbers[2] < 0 else {}
    if call.name == "ioprio_set":
        return {"io": True} if numbers[2] >> 13 & 7 == 1 else {}
    if call.name == "sched_setattr":
        attr = call.args["attr"]
        priority, nice = int(attr.sched_priority), _nice(int(attr.sched_nice))
    else:
        priority, nice = int(call.args["param"]), 0
    return {"priority": priority} if priority > 0 else {"nice": nice} if nice < 0 else {}


def _nice(value: int) -> int:
    """What the kernel takes a nice value for (setpriority of kernel/sys.c, sched_copy_attr of kernel/sched/syscalls.c)."""
    return max(-20, min(19, value))


def _within(policy: int, priority: int, nice: int, options: Options) -> bool:
    if policy in (_FIFO, _RR):
        return priority <= options.priority
    return policy == _IDLE or (policy in (_OTHER, _BATCH) and nice >= options.nice)


def _attr_within(param: Any, options: Options) -> bool:
    """The same of sched_setattr(2), which may leave a thread's policy or its parameters as they are (``__sched_setscheduler`` of
    kernel/sched/syscalls.c)."""
    flags, policy = int(param.sched_flags), int(param.sched_policy)
    priority, nice = int(param.sched_priority), _nice(int(param.sched_nice))
    if flags & ~(_KEEP | 1):
        return False
    if flags & _KEEP == 0:
        return _within(policy, priority, nice, options)
    if flags & _KEEP == _KEEP_POLICY:  # whichever it has; a deadline's needs times
        return priority <= options.priority and nice >= options.nice and not param.sched_runtime
    return flags & _KEEP == _KEEP or policy in (_OTHER, _BATCH, _IDLE)


# Requests ---------------------------------------------------------------------------------------


def _lend(task: Task, name: str, tid: int, pidfd: int, wish: _Wish) -> Generator[Any, Any, int]:
    from proctor.performing.identities.lender import Lender

    try:
        lender = Lender(task, 1 << _CAP_SYS_NICE)
    except Powerless:
        return errno.EPERM
    with lender:
        asking = _lending(lender.permitted, name)
        return (yield from lender.made(asking, tid, *wish.values, fds=(pidfd,)))


def _call(steps: Steps, name: str, tid: Number, holes: Sequence[Argument]) -> Result:
    before = {"setpriority": 0, "ioprio_set": 1}.get(name)
    after = (0,) if name == "sched_setattr" else ()
    return steps.call(name, *(() if before is None else (before,)), tid, *holes, *after, bad=0)


def _holes(steps: Steps, name: str) -> list[Argument]:
    if name in ("setpriority", "ioprio_set"):
        return [steps.number()]
    if name == "sched_setscheduler":
        return [steps.number(), steps.hole(4)]
    return [steps.hole(_ROOM if name == "sched_setattr" else 4)]


@cache
def _asking(name: str) -> Single:
    """Holes: the thread, then what is set."""
    steps = Steps()
    made = _call(steps, name, steps.number(), _holes(steps, name))
    return Single(steps.freeze(), made)


@lru_cache(256)
def _lending(permitted: int, name: str) -> Single:
    """The same with the right lent, once more for as long as nobody else can have the thread's number: until it
    is gone, which the kernel tells by its pidfd.  Sent: that."""
    steps = Steps()
    tid, holes = steps.number(), _holes(steps, name)
    with Lent(steps, permitted, 1 << _CAP_SYS_NICE) as lent:
        gone = steps.call("pidfd_send_signal", steps.sent(), 0, 0, 0, want=-errno.ESRCH, bad=0)
        made = _call(steps, name, tid, holes)
        steps.jump(gone, good=True)
    return Single(steps.freeze(), made, lent.left)

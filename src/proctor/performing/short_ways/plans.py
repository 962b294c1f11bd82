"""Plans: walking to what a call is about, and doing it, in one request to an executor.

Where nobody asks what a path leads to, nothing has to be said between the two.  A plan is frozen once for each
kind of call, and filled with paths and numbers::

    planning = Planning(Way(pins.O_DIRECTORY, entry=True), relative=(True,))
    mode = planning.steps.number()
    ((directory, name),) = planning.walk()
    plan = planning.freeze(planning.steps.call("mkdirat", directory, name, mode))
    packet = plan.request.fill(0o755, b"some/where/.", b"new")

What a path leads to is pinned as ever.  Nothing is done to what is on a procfs: its links mean the executor to an
executor, so such paths go step by step (:mod:`proctor.performing.paths.walk`), and a plan says nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import answer, deny
from proctor.errors import MemoryUnreadable
from proctor.performing import scarce
from proctor.performing.executing.requests import SKIPPED, is_error
from proctor.performing.executing.steps import END, Place, Sent, Steps
from proctor.performing.paths import pins
from proctor.performing.paths.filestat import KIND_AT, PROC_SUPER_MAGIC
from proctor.records import NamedTuple
from proctor.syscalls.architectures import native

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.performing.executing.requests import Reply, Request
    from proctor.performing.executing.steps import Argument, Result

#: The longest paths and names that a plan takes.
ROOM: Final = pins.SHORT[-1]
_DONE: Final = answer(0)


class Way(NamedTuple):
    """One path of a plan."""

    #: O_NOFOLLOW, O_DIRECTORY or neither.
    bits: int = 0
    #: Whether it is of a directory with a name in it.
    entry: bool = False


class _Walked(NamedTuple):
    where: Argument
    path: Place
    probing: pins.Probing
    pin: Result


class Plan:
    """A request that walks and acts; immutable.

    Holes: what the family wants, then for each way its path, and the name in it.  Sent: the directories where relative
    paths start, and the executor's table, where there is anything to do with it."""

    __slots__ = ("_walks", "made", "pin", "request")

    def __init__(
        self, request: Request, made: Result, walks: Sequence[tuple[Result, pins.Probe]]
    ) -> None:
        self.request = request
        #: The step that acts.
        self.made = made
        self._walks = walks

    def errno(self, reply: Reply) -> int | None:
        """The errno that came of it, 0 for none; None if it is to be found out in another way, and nothing was done."""
        results = reply.results
        made = results[self.made.step]
        if made != SKIPPED:
            return -made if is_error(made) else 0
        for pin, probe in self._walks:
            failed = -results[pin.step]
            if is_error(-failed):
                if failed == -SKIPPED or failed in scarce.OURS:
                    return None
                strictly = probe.may_be_own(failed, reply)
                return failed if pins.stands(failed, reply, probe, 0, strictly) else None
        return None


class Planning:
    """A plan in the making.

    :ivar steps: for what the family adds: bytes and holes before :meth:`walk`; scratch space and steps after it.
    :ivar systems: where there is what fstatfs(2) says of the pins, after :meth:`walk`.
    """

    def __init__(self, *ways: Way, relative: tuple[bool, ...]) -> None:
        self.steps = steps = Steps()
        self._ways = ways
        self._wheres = [steps.sent() if each else pins.AT_FDCWD for each in relative]
        self.systems: list[Place] = []
        self._walked: list[_Walked] = []

    @cached_property
    def table(self) -> Sent:
        """The executor's own descriptors, which go along if somebody asks for them: behind all others."""
        return self.steps.sent()

    def walk(self) -> list[tuple[Result, Place]]:
        """Walk: for each way the pin, and the name in it (the path itself, where it is no entry)."""
        steps, parts = self.steps, []
        for way in self._ways:
            how = steps.bytes(pins.HOW.pack(pins.PIN | way.bits, 0, pins.NO_MAGICLINKS))
            probing = pins.Probing(steps, pins.probing(way.bits, 0))
            path = steps.hole(ROOM)
            parts.append((how, probing, path, steps.hole(ROOM) if way.entry else path))
        systems = self.systems = [steps.scratch(128) for _ in self._ways]
        made = []
        for where, system, (how, probing, path, name) in zip(
            self._wheres, systems, parts, strict=True
        ):
            pin = steps.call("openat2", where, path, how, pins.HOW.size)
            steps.call("fstatfs", pin, system, bad=0)  # what does not tell (FUSE) is not procfs
            steps.load(system, KIND_AT, want=PROC_SUPER_MAGIC, good=END, bad=0)
            self._walked.append(_Walked(where, path, probing, pin))
            made.append((pin, name))
        return made

    def freeze(self, made: Result) -> Plan:
        """
        :param made: what acts, the last step."""
        steps, walks = self.steps, []
        steps.end(made)
        for where, path, probing, pin in self._walked:
            steps.jump(pin, bad=True)
            walks.append((pin, probing.add(where, path)))
        return Plan(steps.freeze(), made, walks)


class Deed(NamedTuple):
    """A call, as a plan does it."""

    #: The plan, by which of the paths are relative.
    plan: Callable[[tuple[bool, ...]], Plan]
    #: For its holes, up to the paths.
    values: tuple[int | bytes, ...]
    #: What goes along of the caller's where paths are relative, and what is walked to, with names.
    paths: tuple[tuple[int, tuple[bytes, ...]], ...]
    #: Whether the first hole is for the caller's umask.
    umask: bool = False
    #: Whether it matters what is mounted where the caller is.
    mounts: bool = False
    #: Whether it is of a caller as whom access(2) looks.
    itself: bool = False
    #: What is said when it is done.
    told: Callable[[Call, Reply], Verdict] | None = None

    def said(self, call: Call, reply: Reply, failed: int) -> Verdict:
        """The answer, once it is known what came of it."""
        if failed:
            return deny(failed)
        return _DONE if self.told is None else self.told(call, reply)


#: How a sketch has a value: a number, itself; of a register, of which these bits count; the caller's umask; or the text that
#: a register points to, at most :data:`ROOM` bytes.
CONSTANT, REGISTER, UMASK, TEXT = range(4)
#: What a sketch is of, where the core can do it without an executor for callers that are what the monitor is
#: (``kernel/core/acting/ourselves.c``).
BY_EXECUTORS, MKDIR, UNLINK, RENAME, LINK, SYMLINK, CHMOD, CHOWN, STAT, STATX, ACCESS = range(11)


class Sketch(NamedTuple):
    """Calls of one name, as the core does them (:class:`proctor.kernel._core.Doing`): as the :class:`Deed` of each."""

    plan: Callable[[tuple[bool, ...]], Plan]
    #: Of each: registers, of the directory where it starts (-1: the working directory) and of its address; :attr:`Way.entry`.
    paths: tuple[tuple[int, int, bool], ...]
    #: Of each hole before the paths: how, a register, itself or bits.
    values: tuple[tuple[int, int, int], ...]
    #: A register that is to be 0, but for these bits; -1: none.
    zero: tuple[int, int] = (-1, 0)
    #: The plan where one of these bits is set, if that is another one.
    flagged: Callable[[tuple[bool, ...]], Plan] | None = None
    #: How many of the values, the last ones, are the plan's.
    own: int | None = None
    #: Where a right is lent: which of all values, and of the plan's paths and names behind these, the lender is given.
    takes: tuple[int, ...] = ()
    #: The register of a mode, before that of a number, where only devices are made so that are no whiteouts and not set-group-ID; -1: of none.
    node: int = -1
    #: Whether it matters what is mounted where the caller is: a name that is a mount point there is neither removed nor moved
    #: (``is_local_mountpoint`` of fs/namei.c).
    mounts: bool = False
    #: The register of where the plan's one part is written to, for programs of our own architecture; -1: none.
    fills: int = -1
    #: The register of how much of that is wanted, which is the answer then; -1: none.
    cut: int = -1
    #: A register, and between which numbers of 32 bits with a sign it is; -1: none.
    within: tuple[int, int, int] = (-1, 0, 0)
    #: Whether it is of a caller as whom access(2) looks, unless it is flagged.
    itself: bool = False
    #: Bits of the register that is to be 0 that say nothing.
    ignored: int = 0
    #: What it does, in the core's words.
    what: int = BY_EXECUTORS
    #: Whether a link at the end of a path that is no entry is not followed, where none of these bits is set; with one it is the
    #: other way round.
    nofollow: bool = False


#: What a call is as a deed; None if it is none.
DeedOf = Callable[["Call"], "Deed | None"]


def filled(sketch: Sketch, call: Call, reply: Reply) -> Verdict:
    """What is said to a call whose memory is filled."""
    data = reply.parts[0]
    if sketch.cut >= 0:
        data = data[: call.registers[sketch.cut] & 0xFFFFFFFF]
    return answer(len(data) if sketch.cut >= 0 else 0, writes=((call.words[sketch.fills], data),))


def deed_of(sketch: Sketch) -> DeedOf:
    """The same in Python: what raises MemoryUnreadable is what the kernel reads before all else."""
    zero, bits = sketch.zero
    narrow, least, most = sketch.within
    told, abi = (None, "") if sketch.fills < 0 else (partial(filled, sketch), native())
    umask = any(how == UMASK for how, _, _ in sketch.values)
    values = [each for each in sketch.values if each[0] != UMASK]
    first, *second = [(directory, entry) for directory, _, entry in sketch.paths]
    fixed: tuple[int | bytes, ...] = ()
    if all(how == CONSTANT for how, *_ in values):
        fixed = tuple(each[2] for each in values)
    known: dict[int, str] = {}  # the name of the text's argument, once somebody asked

    def value(call: Call, how: int, register: int, itself: int) -> int | bytes:
        if how == REGISTER:
            return call.registers[register] & itself
        if how == CONSTANT:
            return itself
        text: bytes = call.args[known.get(0) or known.setdefault(0, call.args.keys()[register])]
        return text

    def place(call: Call, path: bytes, start: int, entry: bool) -> tuple[int, tuple[bytes, ...]]:
        number = pins.AT_FDCWD if start < 0 else pins.signed(call.registers[start])
        return number, pins.within(path) if entry else (path,)

    def deed(call: Call) -> Deed | None:
        flags = call.registers[zero] & 0xFFFFFFFF if zero >= 0 else 0
        if flags & ~(bits | sketch.ignored):  # which the kernel says before it looks at any path
            return None
        if narrow >= 0 and not least <= pins.signed(call.registers[narrow]) <= most:
            return None  # so is this
        if told is not None and call.abi != abi:
            return None
        given = fixed or tuple([value(call, *each) for each in values])
        text = given[0] if given else 0
        if type(text) is bytes and not 0 < len(text) <= ROOM:
            return None  # which the kernel says whatever the path is
        path = call.path
        if not path or (
            sketch.cut >= 0 and path[-1:] == b"/"
        ):  # a link is followed there, and not read
            return None
        paths: tuple[tuple[int, tuple[bytes, ...]], ...] = (place(call, path, *first),)
        for each in second:
            try:
                path = call.path2
            except MemoryUnreadable:  # which the kernel says behind what it says of the first one
                return None
            if not path:
                return None
            paths = (*paths, place(call, path, *each))
        plan = sketch.flagged if flags & bits and sketch.flagged is not None else sketch.plan
        itself = sketch.itself and not flags
        return Deed(plan, given, paths, umask, sketch.mounts, itself, told)

    return deed

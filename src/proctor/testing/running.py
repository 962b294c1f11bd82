"""A handler's verdict, carried out: the supervisor's own deciding, on a listener made of paper."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Union

from proctor.call.verdict import HandOver, Verdict, Wire
from proctor.errors import AlreadyAnswered
from proctor.kernel.abi import SECCOMP_USER_NOTIF_FLAG_CONTINUE
from proctor.kernel.notification import NotificationLike
from proctor.observe.events import Outcome, outcomes
from proctor.records import NamedTuple
from proctor.supervisor.deciding import Performer
from proctor.supervisor.driver import Driver
from proctor.supervisor.handlers import Handler, HandlerFunction
from proctor.supervisor.supervisor import Supervisor
from proctor.supervisor.world_port import Still
from proctor.testing.process import OpenFile, Process, is_path_descriptor

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.kernel.journal import Pending
    from proctor.supervisor.ports import Engine
    from proctor.supervisor.world_port import Lock, Pulse
    from proctor.testing.space import Written
    from proctor.testing.target import FakeTarget

#: What :meth:`~proctor.testing.FakeTarget.run` takes: a handler, a plain function, or several.
Handlers = Union[Handler, HandlerFunction, Iterable[Union[Handler, HandlerFunction]]]


class FakeListener:
    """:class:`~proctor.supervisor.ports.ListenerPort` for one call of a fake target.

    :ivar wire: what was sent, once something was: (value, error, flags).
    :ivar cancelled: the caller was interrupted: the notification is gone.
    """

    def __init__(self, target: FakeTarget, id: int) -> None:
        self._target = target
        self._id = id
        self.wire: Wire | None = None
        self.cancelled = False

    @property
    def waiting(self) -> bool:
        """Whether the caller is there and waits."""
        return not (self.cancelled or self._target.dead) and self.wire is None

    def fileno(self) -> int:
        """See :class:`~proctor.supervisor.ports.ListenerPort`; there is no descriptor."""
        return -1

    def recv(self, into: memoryview | None = None, slot: int = -1) -> NotificationLike | None:
        """See :class:`~proctor.supervisor.ports.ListenerPort`; the call was received already."""
        return None

    def id_valid(self, id: int) -> bool:
        return id == self._id and self.waiting

    def send(self, id: int, value: int, error: int, flags: int) -> bool:
        if self.wire is not None:
            raise AlreadyAnswered("this call was answered already")
        if not self.id_valid(id):
            return False
        if flags & SECCOMP_USER_NOTIF_FLAG_CONTINUE and (value or error):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.wire = (value, error, flags)
        return True

    def addfd(
        self,
        id: int,
        srcfd: int,
        *,
        at: int | None = None,
        cloexec: bool = False,
        send: bool = False,
    ) -> int | None:
        if is_path_descriptor(srcfd):
            raise OSError(errno.EBADF, "a descriptor opened with O_PATH cannot be handed over")
        if not self.id_valid(id):
            return None
        process = self._target.process
        file = OpenFile(None, os.dup(srcfd))
        try:
            number = process.install(file, at)
        except OSError:
            file.close()
            raise
        if send:
            self.wire = (number, 0, 0)
        return number

    def close(self) -> None:
        """See :class:`~proctor.supervisor.ports.ListenerPort`."""


class _NoEngine:
    """:class:`~proctor.supervisor.ports.Engine` that has nothing to wait for."""

    standing = True
    wanted = False

    def add(self, *_: object, **__: object) -> None: ...
    def reroute(self, *_: object, **__: object) -> None: ...
    def adopt(self, *_: object) -> list[Pending]:
        return []

    def remove(self, *_: object) -> None: ...
    def watch(self, fd: int, callback: Callable[[], object]) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def lead(self, *_: object) -> int:
        return 1

    def serve(self, token: int, timeout: float | None, rounds: int) -> int:
        return 0

    def attend(self, token: int, work: Callable[[], object]) -> bool:
        work()
        return True

    def has(self, token: int) -> bool:
        return True

    def makers(self, listener: object) -> None: ...
    def resign(self, token: int) -> None: ...
    def surrender(self) -> None: ...
    def claim(self) -> bool:
        return False

    def wake(self) -> None: ...
    def after_fork(self) -> None: ...
    def close(self) -> None: ...


class FakeWorld:
    """:class:`~proctor.supervisor.world_port.World` in one thread: virtual time, work one after another."""

    workers = 1

    def __init__(self, process: Process) -> None:
        self._process = process
        self._coroutines: deque[Callable[[], None]] = deque()
        #: Whether the call still has no answer.
        self.needed: Callable[[], bool] = lambda: True

    def clock(self) -> float:
        return self._process.clock

    def engine(self) -> Engine:
        return _NoEngine()

    def lock(self) -> Lock:
        return threading.Lock()

    def close(self, fd: int) -> None:
        os.close(fd)

    def born_since(self, tid: int, when: float) -> bool:
        """See :class:`~proctor.supervisor.world_port.World`; calls come one at a time here."""
        return False

    def dying(self, call: Call) -> None:
        """See :class:`~proctor.supervisor.world_port.World`; nobody sends signals here."""

    def thread(self, work: Callable[[], object]) -> bool:
        """See :class:`~proctor.supervisor.world_port.World`; there is only this one."""
        return False

    def pulse(self) -> Pulse:
        return Still()

    def start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        async def watched() -> None:
            result, error = None, None
            try:
                result = await coroutine
            except BaseException as raised:
                error = raised
            done(result, error)

        def run() -> None:
            loop = self._process.loop()
            _outside_of_loops(lambda: loop.complete(watched(), self.needed))
            if loop.stuck:
                raise TimeoutError(
                    "the handler waits for something that never comes, and without a deadline its "
                    "caller would wait with it"
                )

        self._coroutines.append(run)

    def shutdown(self) -> None:
        """See :class:`~proctor.supervisor.world_port.World`."""

    def run(self, supervisor: Supervisor, driver: Driver) -> None:
        """Do everything that is to be done."""
        while driver.waiting or self._coroutines:
            if driver.waiting:
                supervisor.step(0)
            else:
                self._coroutines.popleft()()


def _outside_of_loops(work: Callable[[], None]) -> None:
    """Run ``work``, on a thread of its own if an event loop runs on this one (an async test)."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        work()
        return
    problems: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]


class FakeOutcome(NamedTuple):
    """What the supervisor would have done, and what the target sees of it.

    >>> target = FakeTarget()
    >>> outcome = target.run(lambda call: proctor.answer(7), target.call("getpid"))
    >>> isinstance(outcome, FakeOutcome), outcome.value, outcome.delivered
    (True, 7, True)
    """

    #: What was answered; for a performed call, its outcome.
    verdict: Verdict
    #: Label of the handler that decided, or "default", "deadline".
    decided_by: str
    #: False if the caller was gone when the answer came.
    delivered: bool
    #: Whether the verdict was reached by performing the call.
    performed: bool
    #: What a handler (or carrying its verdict out) raised, if that decided; None if all went well.
    error: BaseException | None
    #: The call as strace would write it, if ``describe`` was asked for.
    text: str
    #: (value, error, flags) as the kernel got them; None if nobody was left to get them.
    wire: Wire | None
    #: Virtual seconds from the call's reception to its answer.
    seconds: float
    #: Whose call it was.
    target: FakeTarget
    #: What the verdict wrote into the target's memory, in order.
    written: tuple[Written, ...] = ()

    @property
    def errno(self) -> int:
        """The errno that the call failed with; 0 if it did not fail."""
        return -self.wire[1] if self.wire is not None else 0

    @property
    def ran(self) -> bool:
        """Whether the kernel ran the call."""
        return self.wire is not None and bool(self.wire[2] & SECCOMP_USER_NOTIF_FLAG_CONTINUE)

    @property
    def value(self) -> int | None:
        """What the call returned: -1 for a denied one; None if the kernel ran it or the caller was
        gone."""
        if self.wire is None or self.ran:
            return None
        return -1 if self.wire[1] else self.wire[0]

    @property
    def reason(self) -> str:
        """The reason the verdict came with."""
        return self.verdict.reason

    @property
    def fd(self) -> int:
        """The target's number of the descriptor that was handed over.

        :raises AttributeError: none was."""
        if not isinstance(self.verdict, HandOver) or self.value is None or self.value < 0:
            raise AttributeError(f"no descriptor was handed over: {self.verdict}")
        return self.value

    @property
    def content(self) -> bytes:
        """What the target can read from the descriptor that was handed over."""
        return self.target.read(self.fd)


def run(
    target: FakeTarget,
    handlers: Handlers,
    call: Call,
    listener: FakeListener,
    performer: Performer | Verdict,
    describe: bool,
    options: dict[str, Any],
) -> FakeOutcome:
    """See :meth:`proctor.testing.FakeTarget.run`."""
    process = target.process
    world = FakeWorld(process)
    told: list[Outcome] = []
    before = len(process.memory.written)
    perform = performer if callable(performer) else (lambda _call, _verdict: performer)
    supervisor = Supervisor(
        _handlers(handlers, call.name),
        world=world,
        observers=[outcomes(told.append, text=describe)],
        performer=perform,
        **options,
    )
    world.needed = lambda: not told
    driver = Driver(supervisor)
    process.supervisors.append(driver)
    try:
        supervisor.submit(call, listener, target.container)
        world.run(supervisor, driver)
    finally:
        process.supervisors.remove(driver)
        supervisor.close()
    outcome = told[0]
    return FakeOutcome(
        outcome.verdict,
        outcome.decided_by,
        outcome.delivered,
        outcome.performed,
        outcome.error,
        outcome.text,
        listener.wire,
        outcome.answered - outcome.received,
        target,
        tuple(process.memory.written[before:]),
    )


def _handlers(given: Handlers, name: str) -> list[Handler]:
    if isinstance(given, Handler) or callable(given):
        given = [given]
    return [each if isinstance(each, Handler) else Handler((name,), each) for each in given]

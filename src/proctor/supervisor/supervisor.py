"""The supervisor: listeners in, verdicts out.

What it promises, whatever handlers do:

* every received call is answered at most once and, unless its caller is gone, at least once;
* a handler that raises, or returns nonsense, or lets a call run after looking at its memory, gives
  ``on_error`` (deny, EPERM) and a logged traceback; one that takes too long gives ``on_deadline``;
* calls of one caller (thread) are decided in order, also when a signal makes it call again while
  the first handler still runs;
* receiving never waits for a slow handler, so queued calls become uninterruptible as soon as the
  kernel can make them (WAIT_KILLABLE_RECV; C080, G14);
* a listener whose filter nobody uses any more is forgotten and closed; closing answers what is
  pending.

It is the same code on the native engine, on the Python one, and on the executable model.
"""

from __future__ import annotations

import errno
import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from proctor.call.call import Call
from proctor.call.verdict import (
    Answer,
    Deny,
    LetRun,
    Perform,
    Verdict,
    Wire,
    close_unused,
    deny,
    let_run,
)
from proctor.filter import tables
from proctor.kernel.errors import CallGone, RacyVerdict
from proctor.supervisor.carry import carry_out, check
from proctor.supervisor.jobs import Job, Outcome, Served
from proctor.supervisor.ports import Route, route_key

if TYPE_CHECKING:
    from types import TracebackType

    from proctor.kernel.notification import NotificationLike
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.ports import ListenerPort, World

#: Performs a call: (call, the Perform verdict) → what to answer.
Performer = Callable[[Call, Perform], Verdict]


class Supervisor:
    """Answers the calls of any number of listeners.

    :param handlers: for every listener that is added without handlers of its own.  Tried in order;
        the first verdict wins.
    :param default: for calls that no handler wants.
    :param on_error: when a handler raises or returns nonsense.
    :param on_deadline: when ``deadline`` (seconds, per call, from its reception; a handler's own
        one goes first) has passed.  A handler on the receiving thread (``quick``) cannot be
        overtaken; deadlines are for workers, coroutines and performers.
    :param close_verdict: for what is pending when the supervisor closes; ENOSYS is what the kernel
        itself says when a listener goes away.
    :param performer: carries :func:`~proctor.call.verdict.perform` out.
    :param observer: told of every outcome, from whichever thread decided; it must be quick, and
        what it raises is logged and forgotten.
    :param world: clock, engine and workers; the kernel's by default.
    """

    def __init__(
        self,
        handlers: Iterable[Handler] = (),
        *,
        default: Verdict | None = None,
        on_error: Deny | None = None,
        deadline: float | None = None,
        on_deadline: Verdict | None = None,
        close_verdict: Deny | None = None,
        performer: Performer | None = None,
        observer: Callable[[Outcome], object] | None = None,
        world: World | None = None,
    ) -> None:
        if world is None:
            from proctor.supervisor.world import KernelWorld

            world = KernelWorld()
        self._world = world
        self._handlers = tuple(handlers)
        self._default = default if default is not None else let_run()
        self._on_error = on_error if on_error is not None else deny(errno.EPERM)
        self._on_deadline = on_deadline if on_deadline is not None else deny(errno.EPERM)
        self._close_verdict = close_verdict if close_verdict is not None else deny(errno.ENOSYS)
        self._deadline = deadline
        self._performer = performer
        self._observer = observer
        self._engine = world.engine()
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._served: dict[int, Served] = {}
        self._jobs: set[Job] = set()
        self._dues: list[tuple[float, int, Job]] = []
        self._due_count = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._at_close: list[Callable[[], object]] = []

    # Listeners ------------------------------------------------------------------------------

    def add(
        self,
        listener: ListenerPort,
        handlers: Iterable[Handler] | None = None,
        *,
        name: str = "",
        on_end: Callable[[], object] | None = None,
    ) -> None:
        """Serve one more listener; also while running, from any thread.

        Ownership moves here: it is closed at its end or by :meth:`close`, unless :meth:`drop`
        gives it back.

        :param handlers: for this listener; the supervisor's own if None.
        :param on_end: called once when nobody uses its filter any more.
        """
        served = Served(listener, self._handlers if handlers is None else tuple(handlers), name, on_end)
        with self._lock:
            if self._closed:
                raise RuntimeError("this supervisor is closed; make another one")
            if listener.fileno() in self._served:
                raise ValueError("this listener is served already")
            self._served[listener.fileno()] = served
        routes: dict[int, Route] = {}
        try:
            self._engine.add(
                listener,
                routes,
                lambda notification: self._first_sight(served, routes, notification),
                lambda: self._end(served),
            )
        except BaseException:
            with self._lock:
                del self._served[listener.fileno()]
            raise
        self._engine.wake()

    def drop(self, listener: ListenerPort) -> None:
        """Stop serving a listener and give it back, open.  What is being decided for it is answered
        with ``close_verdict``; what it has not received waits for whoever reads it next."""
        with self._lock:
            served = self._served.pop(listener.fileno(), None)
            if served is None:
                raise ValueError("this listener is not served here")
            served.keep = True
            self._ended.notify_all()
        self._engine.remove(listener)
        self._abandon(served)
        self._engine.wake()

    @property
    def listeners(self) -> int:
        """How many listeners are served now."""
        return len(self._served)

    # Running --------------------------------------------------------------------------------

    def start(self) -> Supervisor:
        """Serve on a thread of its own, with every signal blocked there (C074); returns self."""
        from proctor.supervisor.world import quiet_thread

        if self._thread is not None or self._closed:
            raise RuntimeError("this supervisor was started already")
        self._thread = quiet_thread(self._loop, "proctor-supervisor")
        return self

    def step(self, timeout: float | None = None) -> int:
        """One round: wait (at most ``timeout`` seconds), receive, decide, answer, expire.

        For those who bring their own loop instead of :meth:`start`; always from one thread.
        Returns how many calls were received.
        """
        if self._dues:
            left = max(0.0, self._dues[0][0] - self._world.clock())
            timeout = left if timeout is None else min(timeout, left)
        count = self._engine.run_once(timeout)
        if self._dues:
            self._expire()
        return count

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no listener is left; False if time was over first."""
        with self._lock:
            return self._ended.wait_for(lambda: not self._served or self._closed, timeout)

    def close(self) -> None:
        """Answer what is pending, close every listener, stop the threads; idempotent.

        Callers that were not received yet get ENOSYS from the kernel.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._ended.notify_all()
        self._engine.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            left = list(self._served.values())
            self._served.clear()
        for served in left:
            self._engine.remove(served.listener)
            self._abandon(served)
            self._release(served, ended=True)
        self._engine.close()
        self._world.shutdown()
        for action in self._at_close:
            action()

    def on_close(self, action: Callable[[], object]) -> None:
        """Run ``action`` at the end of :meth:`close`."""
        self._at_close.append(action)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _loop(self) -> None:
        while not self._closed:
            try:
                self.step()
            except Exception:
                # Our own fault or an observer's: the caller was answered by the engine.
                _log("error while supervising; the call was denied, supervision goes on")

    # One call -------------------------------------------------------------------------------

    def _first_sight(
        self, served: Served, routes: dict[int, Route], notification: NotificationLike
    ) -> Wire | None:
        """The first call of its number: find its handlers, remember the way, go it."""
        arch, nr = notification.arch, notification.nr
        name = tables.name(nr, tables.arch_of(arch, nr))
        chain = tuple(h for h in served.handlers if name is not None and h.wants(name))
        route = self._route(served, chain)
        if len(routes) < 4096:  # numbers that exist nowhere can be notified too (C035)
            routes[route_key(arch, nr)] = route
        return route(notification)

    def _route(self, served: Served, chain: tuple[Handler, ...]) -> Route:
        """The way of all calls of one number.  With one quick handler and nobody watching, it is
        short: this is what a notification costs beyond the kernel's own price."""
        listener = served.listener
        busy = served.busy
        clock = self._world.clock
        observed = self._observer is not None

        def route(notification: NotificationLike) -> Wire | None:
            job = Job(Call(notification, listener), chain, served, clock())
            if self._must_wait(job):
                return None
            self._advance(job, receiving=True)
            return None

        if len(chain) != 1 or not chain[0].quick or chain[0].conditions or observed:
            return route
        function = chain[0].function

        def short(notification: NotificationLike) -> Wire | None:
            if busy:
                return route(notification)
            call = Call(notification, listener)
            try:
                verdict: Any = function(call)
            except BaseException as raised:
                verdict = raised
            kind = type(verdict)
            if kind is Deny or kind is Answer or (kind is LetRun and not call.memory_read):
                call.expire()
                wire: Wire = verdict.wire
                return wire
            job = Job(call, chain, served, clock())
            job.index = 1
            self._decided(job, verdict, chain[0].label, receiving=True)
            return None

        return short

    def _must_wait(self, job: Job) -> bool:
        """Queue the call behind an earlier one of the same caller, if that is still being decided."""
        if not job.served.busy or not job.call.tid:
            return False
        with self._lock:
            queue = job.served.busy.get(job.call.tid)
            if queue is None:
                return False
            queue.append(job)
            self._register(job)
        return True

    def _register(self, job: Job) -> None:
        """Know a job beyond the receiving thread, and its deadline (the lock is held)."""
        if job.slow:
            return
        job.slow = True
        job.served.running += 1
        self._jobs.add(job)
        limit = min(
            (h.deadline for h in job.chain if h.deadline is not None), default=self._deadline
        )
        if limit is not None:
            job.due = job.received + limit
            self._due_count += 1
            heapq.heappush(self._dues, (job.due, self._due_count, job))

    def _leave(self, job: Job) -> None:
        """The job leaves the receiving thread: from now on its caller's next calls queue up."""
        with self._lock:
            if not job.slow:
                self._register(job)
                if job.call.tid:
                    job.served.busy.setdefault(job.call.tid, deque())

    def _advance(self, job: Job, *, receiving: bool) -> None:
        """Ask handler after handler until one has a verdict; move to where the next must run."""
        while job.index < len(job.chain):
            handler = job.chain[job.index]
            if handler.conditions and not handler.applies(job.call):
                job.index += 1
                continue
            if receiving and not handler.quick:
                self._leave(job)
                if not handler.is_async:
                    self._world.submit(lambda: self._advance(job, receiving=False))
                    return
            if job.claimed:
                return  # overtaken by its deadline, or by close()
            job.index += 1
            try:
                if handler.is_async:
                    self._world.start(
                        handler.function(job.call),  # type: ignore[arg-type]
                        lambda result, error, label=handler.label: self._resume(  # type: ignore[misc]
                            job, result, error, label
                        ),
                    )
                    return
                verdict: Any = handler.function(job.call)
            except BaseException as raised:  # whatever it is, a caller waits for an answer
                verdict = raised
            if verdict is not None:
                self._decided(job, verdict, handler.label, receiving=receiving)
                return
        self._decided(job, self._default, "default", receiving=receiving)

    def _resume(self, job: Job, result: Any, error: BaseException | None, label: str) -> None:
        """A coroutine ended: go on on a worker, so that no loop of the user's waits for us."""
        outcome = error if error is not None else result

        def go_on() -> None:
            if outcome is None:
                self._advance(job, receiving=False)
            else:
                self._decided(job, outcome, label, receiving=False)

        self._world.submit(go_on)

    def _decided(self, job: Job, verdict: Any, who: str, *, receiving: bool) -> None:
        """A handler spoke: check what it said, perform if asked to, answer."""
        if isinstance(verdict, Perform) and receiving:
            self._leave(job)
            self._world.submit(lambda: self._decided(job, verdict, who, receiving=False))
            return
        try:
            if isinstance(verdict, BaseException):
                raise verdict
            checked = check(verdict, job.call, who)
            if isinstance(checked, Perform) and not job.claimed:
                checked = check(self._perform(job, checked), job.call, "the performer")
        except CallGone as gone:
            job.error = gone
            checked = self._on_error  # nobody is left to hear it; the bookkeeping still runs
        except RacyVerdict as racy:
            job.error, checked = racy, self._on_error
            _log(str(racy), trace=False)
        except BaseException as raised:
            job.error, checked = raised, self._on_error
            _log(f"{who} failed on {job.call!r}; answered: {self._on_error}")
        self._answer(job, checked, who)
        if receiving and isinstance(job.error, KeyboardInterrupt):
            raise job.error  # Ctrl-C while the user's own thread ran step()

    def _perform(self, job: Job, verdict: Perform) -> Verdict:
        if self._performer is None:
            return deny(errno.ENOSYS, "nothing here performs calls")
        job.performed = True
        done = self._performer(job.call, verdict)
        if isinstance(done, Perform):
            raise TypeError("a performer answers; it cannot ask for a performer")
        return done

    def _answer(self, job: Job, verdict: Verdict, who: str) -> None:
        """Answer, unless somebody did; then let the caller's next call go on."""
        if not self._claim(job):
            close_unused(verdict)
            return
        delivered = False
        try:
            delivered = carry_out(job.served.listener, job.call.id, verdict, self._on_error)
        except Exception as problem:
            job.error = problem
            _log(f"the verdict of {who} could not be carried out; answered: {self._on_error}")
            verdict = self._on_error
        self._finish(job, verdict, who, delivered)

    def _claim(self, job: Job) -> bool:
        with self._lock:
            if job.claimed:
                return False
            job.claimed = True
            return True

    def _finish(self, job: Job, verdict: Verdict, who: str, delivered: bool) -> None:
        if self._observer is not None:
            outcome = Outcome(
                job.call, verdict, who, delivered, job.received, self._world.clock(),
                job.performed, job.error, job.served.name,
            )  # fmt: skip
            try:
                self._observer(outcome)
            except Exception:
                _log("the observer failed")
        job.call.expire()
        if not job.slow:
            return
        served = job.served
        follower: Job | None = None
        with self._lock:
            self._jobs.discard(job)
            served.running -= 1
            queue = served.busy.get(job.call.tid)
            if queue is not None:
                while queue and queue[0].claimed:
                    queue.popleft()
                if queue:
                    follower = queue.popleft()
                else:
                    del served.busy[job.call.tid]
        if follower is not None:
            self._world.submit(lambda: self._advance(follower, receiving=False))
        if served.closing:
            self._release(served, ended=False)

    # Ends -----------------------------------------------------------------------------------

    def _expire(self) -> None:
        """Answer in the place of handlers that took too long."""
        now = self._world.clock()
        while self._dues and (self._dues[0][0] <= now or self._dues[0][2].claimed):
            _, _, job = heapq.heappop(self._dues)
            self._answer(job, self._on_deadline, "deadline")

    def _end(self, served: Served) -> None:
        """Nobody uses the filter any more."""
        with self._lock:
            self._served.pop(served.listener.fileno(), None)
        self._release(served, ended=True)
        if served.on_end is not None:
            try:
                served.on_end()
            except Exception:
                _log("on_end failed")
        with self._lock:
            self._ended.notify_all()

    def _release(self, served: Served, *, ended: bool) -> None:
        """Close the listener once nothing speaks to it any more: a number closed too early could
        by then belong to another listener."""
        with self._lock:
            served.closing = served.closing or ended
            if served.running or served.keep:
                return
        served.listener.close()

    def _abandon(self, served: Served) -> None:
        """Answer what is pending for a listener that we give up."""
        with self._lock:
            jobs = [job for job in self._jobs if job.served is served]
        for job in jobs:
            self._answer(job, self._close_verdict, "close")


def _log(message: str, *, trace: bool = True) -> None:
    """Log to the "proctor" logger; imported late, since nobody should pay for what never happens."""
    import logging

    logging.getLogger("proctor").error("%s", message, exc_info=trace)

"""Joins the supervisor to the built-in performers, started when the first call needs them or, where
that is to be expected, while the command starts."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Deny, deny
from proctor.errors import CallGone
from proctor.given import one, refuse_unknown
from proctor.process.options import Performing

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.path.following import Sought
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.mounts import Mounts
    from proctor.kernel.progress import Progress
    from proctor.performing import Performers
    from proctor.performing.short_ways.short import Ordinary
    from proctor.supervisor.ports import Later, Loan

#: Seconds in which most commands have not done more than begin.
_MOMENT: Final = 0.02


class LazyPerformer:
    """A performer for :class:`~proctor.supervisor.supervisor.Supervisor`; closes what it started.

    :param options: of :class:`proctor.performing.Performers`.
    :param probably: whether calls of a name will be performed; None: of any.
    :raises TypeError, ValueError: an option that it does not take.
    """

    def __init__(
        self, options: Mapping[str, Any], probably: Callable[[str], bool] | None = None
    ) -> None:
        self._options = one("performing", options, Mapping, "a mapping of options")
        refuse_unknown(options, Performing.__annotations__, "performing")
        self._probably = probably
        #: Called with a sentence when a performer could not do its work: the caller was denied, and
        #: somebody should know why.
        self.on_trouble: Callable[[str], object] = str
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._performers: Performers | None = None
        self._progress: Progress | None = None
        self._mounts: Mounts | None = None
        self._closed = False
        if options:  # what is wrong with them is said now
            self._made()

    def __call__(self, call: Call, verdict: Perform) -> Verdict | Later:
        performers = self._loaded(call, "was not performed")
        return performers if isinstance(performers, Deny) else performers(call, verdict)

    def _loaded(self, call: Call, failed: str) -> Performers | Deny:
        try:
            return self._made()
        except CallGone:
            raise
        except (ImportError, OSError) as error:  # our code is loaded now, which takes a descriptor
            # Import hides a want of descriptors behind errors of its own, and one may be free again.
            why = (
                f"the monitor cannot load its own code: {error}; the monitor's limit of open files "
                "(RLIMIT_NOFILE, ulimit -n) is probably too low"
            )
            self.on_trouble(f"{call.name} of thread {call.tid} {failed}: {why}")
            return deny(errno.EPERM, f"not performed: {why}")

    def seek(self, call: Call, what: Sought) -> bytes | int | Deny | Later:
        """As :meth:`proctor.performing.Performers.seek`."""
        performers = self._loaded(call, "its path was not followed")
        return performers if isinstance(performers, Deny) else performers.seek(call, what)

    def lend(self, tid: int, container: Any, follow: bool) -> Loan | None:
        """As :meth:`proctor.supervisor.ports.Seeker.lend`, once there are performers."""
        performers = self._performers
        return None if performers is None else performers.lend(tid, container, follow)

    def took_back(self, lent: Any, became: int) -> None:
        """As :meth:`proctor.supervisor.ports.Seeker.took_back`."""
        performers = self._performers
        if performers is not None:
            performers.took_back(lent, became)

    def is_harmless_again(self, call: Call) -> bool:
        """As :meth:`proctor.performing.Performers.is_harmless_again`."""
        from proctor.performing import registry

        return registry.is_harmless_again(call)

    def ordinary(
        self, name: str, listener: object = None, begins: Callable[[Call], object] | None = None
    ) -> Ordinary:
        """As :meth:`proctor.performing.Performers.ordinary`, once there are performers."""
        quick: Ordinary | None = None

        def found() -> Ordinary | None:
            nonlocal quick
            performers = self._performers
            if quick is None and performers is not None:
                quick = performers.ordinary(name, listener, begins) or _nothing
            return quick

        return _Ordinary(found)

    def _made(self) -> Performers:
        performers = self._performers
        if performers is not None:
            return performers
        from proctor.performing import SUPPORTED, Performers  # it takes a while: without the lock

        calls = None if self._probably is None else filter(self._probably, SUPPORTED)
        with self._lock:
            if self._closed:
                raise CallGone  # the end has answered it by now
            if self._performers is None:
                self._performers = Performers(on_trouble=self._tell, calls=calls, **self._options)
                self._leave_traces(self._performers)
            return self._performers

    def load(self) -> None:
        """Load now what performs, so that no call has to wait for that; no process is started.  What goes wrong is found
        again, and told, by the first call."""
        with suppress(CallGone, ImportError, OSError):
            self._made()

    def leave_traces(self, progress: Progress | None, mounts: Mounts | None) -> None:
        """Have executors say there how far they are, and know there what was mounted, for whoever comes after this monitor; both
        stay their owner's, but that what mounts closes the second."""
        with self._lock:
            self._progress, self._mounts = progress, mounts
            if self._performers is not None:
                self._leave_traces(self._performers)

    def _leave_traces(self, performers: Performers) -> None:
        performers.executors.progress = self._progress
        if self._mounts is not None:
            performers.kept["mount"] = self._mounts

    def _tell(self, trouble: str) -> None:
        self.on_trouble(trouble)

    def start_early(self) -> None:
        """Start the process of the performers on a thread of its own, a moment later, and return at once: the first
        call that needs it then need not wait for it, and a command that is as short as that takes none.  What goes
        wrong is found again, and told, by the first call."""
        from proctor.kernel.threads import quiet_thread

        try:
            quiet_thread(self._start, "proctor-performers")
        except RuntimeError:
            pass  # no more threads for us

    def _start(self) -> None:
        if self._ends.wait(_MOMENT):
            return
        try:
            performers = self._made()
            # A first call has them made, too, and to load them takes as long as many a command
            if not self._ends.wait(_MOMENT):
                performers.start()
        except Exception:
            pass  # closed meanwhile; or see start_early()

    def forget(self, container: object) -> None:
        """As :meth:`proctor.performing.Performers.forget`."""
        with self._lock:
            performers = self._performers
        if performers is not None:
            performers.forget(container)
        elif self._mounts is not None:
            self._mounts.forget(container)

    def close(self) -> None:
        """End the performer processes; idempotent."""
        self._ends.set()
        with self._lock:
            self._closed = True
            performers, self._performers = self._performers, None
        if performers is not None:
            performers.close()


class _Ordinary:
    """Performs ordinary calls of a name.

    :ivar found: gives what does, once there are performers; None before."""

    __slots__ = ("_quick", "found")

    def __init__(self, found: Callable[[], Ordinary | None]) -> None:
        self._quick: Ordinary | None = None
        self.found = found

    def __call__(self, call: Call, wish: Perform) -> Verdict | Later | int | None:
        quick = self._quick
        if quick is None:
            quick = self._quick = self.found()
        return None if quick is None else quick(call, wish)


def _nothing(call: Call, wish: Perform) -> None:
    """No calls of this name are ordinary."""

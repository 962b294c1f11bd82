"""Taking things of one calling thread: pinned, checked, kept.

Every look at a caller goes through one descriptor of its ``/proc/TID`` (:mod:`proctor.kernel.thread`),
opened once.  After each thing is taken the notification is checked before the thing is handed out:
as long as it is valid the thread sits in its call, so what was taken is *its*.  That a caller is
gone can show at any step and in many errnos; this module turns all of them into
:class:`~proctor.errors.CallGone`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn, Self, TypeVar

from proctor.errors import CallerInvisible, CallGone, CallOver, NotPermitted, ProctorError

if TYPE_CHECKING:
    from proctor.call.ports import ProcPort, ValidityPort

T = TypeVar("T")

_PIN: Final = getattr(os, "O_PATH", 0)


class Taker:
    """Takes things of one thread; see :class:`proctor.call.caller.Caller` for the parameters.

    One rule for descriptors: a method whose name starts with ``take`` gives its descriptor away, to
    be closed by whoever asked; all other descriptors belong to the Taker, which closes them at its
    end, and closing them earlier is a mistake that can hit another file.
    """

    __slots__ = (
        "_closed",
        "_fds",
        "_files",
        "_id",
        "_listener",
        "_looked",
        "_over",
        "_values",
        "tid",
    )

    def __init__(
        self,
        tid: int,
        listener: ValidityPort | None,
        id: int = 0,
        *,
        files: ProcPort | None = None,
        looked: Callable[[], None] | None = None,
    ) -> None:
        if not tid and files is None:
            raise CallerInvisible(
                "the caller has no number in our pid namespace, so who it is cannot be found out"
            ).about(notif_id=id)
        #: Thread id, as we see it.
        self.tid = tid
        self._listener = listener
        self._id = id
        self._files = files
        self._looked = looked
        self._values: dict[str, object] = {}
        self._fds: dict[str, int] = {}
        self._closed: frozenset[int] = frozenset()
        self._over = False

    def check(self) -> None:
        """See that the notification is still valid.

        :raises CallGone: it is not."""
        if self._listener is not None and not self._listener.id_valid(self._id):
            raise CallGone().about(pid=self.tid, notif_id=self._id)

    def _alive(self) -> None:
        if self._over:
            raise CallOver(
                "the caller was used after the verdict; copy what is needed before the handler "
                "returns"
            ).about(pid=self.tid, notif_id=self._id)

    def _look(self) -> None:
        """Something is looked at that other threads of the target can change."""
        looked = self._looked
        if looked is not None:
            looked()

    def _proc(self) -> ProcPort:
        self._alive()
        files = self._files
        if files is None:
            from proctor.kernel.thread import ProcFiles

            try:
                files = ProcFiles(self.tid)
            except OSError as error:
                self._failed(error, "")
            self._files = files
            self.check()  # only now is it known to be the caller's directory
        return files

    # Values -------------------------------------------------------------------------------------

    def _unchecked(self, what: str, how: Callable[[ProcPort], T]) -> T:
        """One thing, of a thread that may be gone: whoever takes several checks after the last."""
        files = self._proc()
        try:
            return how(files)
        except OSError as error:
            self._failed(error, what)

    def _take(self, what: str, how: Callable[[ProcPort], T]) -> T:
        """One thing, checked before it is handed out."""
        value = self._unchecked(what, how)
        self.check()
        return value

    def _once(self, key: str, make: Callable[[], T]) -> T:
        self._alive()
        try:
            return self._values[key]  # type: ignore[return-value]
        except KeyError:
            value = make()
            self._values[key] = value
            return value

    def _read_once(self, name: str, parse: Callable[[bytes], T]) -> T:
        return self._once(name, lambda: parse(self._take(name, reading(name))))

    # Descriptors --------------------------------------------------------------------------------

    def checked_fd(self, fd: int) -> int:
        """A descriptor that was taken just now; closed again if the caller is gone meanwhile."""
        try:
            self.check()
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _take_fd(self, name: str, flags: int) -> int:
        """A new descriptor of a file in /proc/TID."""
        return self.checked_fd(self._unchecked(name, lambda files: files.open(name, flags)))

    def _held(self, key: str, make: Callable[[], int]) -> int:
        """A descriptor that the Taker keeps; the first one wins if two threads take it at once."""
        fd = self._fds.get(key)
        if fd is not None and not self._over:
            return fd
        made = make()
        fd = self._fds.setdefault(key, made)
        if fd != made:
            os.close(made)
        if self._over:  # meanwhile, in another thread
            self.close()
        self._alive()
        return fd

    def _pinned(self, name: str) -> int:
        """``O_PATH`` descriptor of what ``name`` leads to, which other threads can change."""
        self._look()
        return self._held(name, lambda: self._take_fd(name, _PIN))

    def give_away(self, fd: int) -> bool:
        """Keep a descriptor no more, if it is ours.  False if it was, and went with us: then nobody
        may close it again."""
        for key, held in list(self._fds.items()):
            if held == fd and self._fds.pop(key, None) is not None:
                return True
        return fd not in self._closed

    # Troubles, and the end ----------------------------------------------------------------------

    def _failed(self, error: OSError, what: str) -> NoReturn:
        """The caller is gone, or the kernel refuses, or there is no such thing: which is it?"""
        self.check()
        if isinstance(error, ProctorError):
            raise error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise NotPermitted(
                error.errno,
                f"/proc/{self.tid}/{what} of the caller may not be looked at; it is not dumpable or "
                "more privileged than the monitor: run with CAP_SYS_PTRACE in its user namespace",
            ).about(pid=self.tid, notif_id=self._id) from None
        if error.errno == errno.ENOENT and not what:
            raise NotPermitted(
                errno.ENOENT,
                f"/proc/{self.tid} is hidden from the monitor (procfs is mounted with hidepid): add "
                "the monitor's group with the gid= mount option",
            ).about(pid=self.tid, notif_id=self._id) from None
        if error.errno == errno.ESRCH:
            raise CallGone().about(pid=self.tid, notif_id=self._id) from None
        try:
            raise error
        finally:
            del error  # whose traceback holds this frame: nothing of a call is to wait for a search for cycles

    def close(self) -> None:
        """Close every descriptor that is held.  Idempotent; done when the call is over."""
        self._over = True
        self._looked = None  # it holds the call, which holds us
        self._closed = self._closed.union(self._fds.values())  # before the first one goes
        while self._fds:
            try:
                _, fd = self._fds.popitem()
            except KeyError:
                break
            try:
                os.close(fd)
            except OSError:
                pass  # the handler closed it against the contract; the others are still ours
        if self._files is not None:
            self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reading(name: str) -> Callable[[ProcPort], bytes]:
    """What reads the file ``name``."""
    return lambda files: files.read(name)

"""One listener: the descriptor on which the kernel hands us system calls.

Facts, and what follows for this module:

* The life of a notification: INIT (queued) → SENT (received) → REPLIED → gone.  ID_VALID says yes
  for SENT only; SEND and ADDFD say EINPROGRESS for the other two and ENOENT once it is gone.
  Which of the two it was follows from the ids: the kernel counts them up, one for each call, and
  hands them out in that order.
* There are two ENOENTs.  From SEND, ADDFD and ID_VALID it means "the caller died or took a
  signal".  From RECV it means "one was cancelled before you took it" (the kernel counts
  requests apart from the list of them: C044, C077), or "nobody uses the filter any more" (since
  Linux 6.11; before, RECV slept for ever).  All are events: None or False here, no exception.
* RECV blocks even with O_NONBLOCK (C038): poll first, and after HUP without IN never receive.
* ADDFD|SEND interrupted by a signal makes the call return 0 without a descriptor (C074), but on
  kernels with a fix (Linux 6.12.117 has it, 6.18.44 has not): the native core holds signals back
  around it.
* SET_FLAGS takes the flag word by value.
* The number of a listener is CLOEXEC; a copy that stays open in the target makes the target hang
  when we are gone (C094), so the launcher leaves none there.

Sources: seccomp_unotify(2); kernel/seccomp.c (seccomp_notify_recv, _send, _addfd, _id_valid).
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import select
from typing import TYPE_CHECKING

from proctor.errors import (
    AlreadyAnswered,
    ListenerClosed,
    NotReceived,
    ProctorError,
    TargetFdLimit,
    Unsupported,
)
from proctor.given import MOST_NUMBER, whole
from proctor.kernel import _core, abi
from proctor.kernel.killable import waits_killably
from proctor.kernel.pidfd import take_descriptor
from proctor.kernel.seccomp import check_notif_sizes

if TYPE_CHECKING:
    import socket

    from proctor.kernel.notification import NotificationLike

#: How often an interrupted ADDFD is tried again before giving up: only signals that cannot be
#: blocked (SIGSTOP, a debugger) interrupt it at all.
_ADDFD_TRIES = 64


_checked = False


def check_listener(fd: int) -> None:
    """Refuse a kernel before 5.9; asked once per process.

    Such a kernel never says that everybody under a filter is gone (POLLHUP), so that supervision
    would not end, and it hands over no descriptors.  Asked for is the latter, which came in the same
    release: ADDFD of nothing is EFAULT where it is known, and EINVAL where it is not.

    :raises Unsupported: with what is missing.
    """
    global _checked  # noqa: PLW0603 - once per process is the point
    if _checked:
        return
    try:
        fcntl.ioctl(fd, abi.SECCOMP_IOCTL_NOTIF_ADDFD, 0)
    except OSError as problem:
        if problem.errno == errno.EINVAL:
            raise Unsupported(
                "SECCOMP_IOCTL_NOTIF_ADDFD, and POLLHUP of a listener",
                "5.9",
                "the end of what is supervised would not be noticed, and no descriptor handed over",
            ) from None
        _checked = problem.errno == errno.EFAULT


class Listener:
    """A seccomp notification descriptor; satisfies :class:`proctor.supervisor.ports.ListenerPort`.

    ::

        rule = proctor.Rule(("mkdir", "mkdirat"), proctor.actions.NOTIFY)
        program = proctor.Filter([rule]).compile().code
        with proctor.launch(["mkdir", "x"], program=program, fds={0: 0}) as target:
            with proctor.Listener(target.take_listener()) as listener:
                listener.send(listener.recv().id, 0, -errno.EROFS, 0)
                assert target.wait(None) == 1

    :param fd: the descriptor.  Ownership moves here: :meth:`close` closes it, once.
    :raises ProctorError: this kernel's structures have other sizes than those we know.
    :raises Unsupported: the kernel is older than 5.9.

    Usable from any thread; as a context manager it closes itself.
    """

    __slots__ = ("_fd", "_last", "_lock", "journal", "waits")

    def __init__(self, fd: int) -> None:
        if not isinstance(fd, int) or isinstance(fd, bool) or not 0 <= fd <= MOST_NUMBER:
            raise ValueError(f"Listener({fd!r}): not a file descriptor")
        check_notif_sizes()
        check_listener(fd)
        self._fd = fd
        #: Whether callers wait for their answers killably (WAIT_KILLABLE_RECV); None: nobody has seen that yet.
        self.waits: bool | None = None
        #: The memory of the journal of its calls, while somebody keeps one.
        self.journal: memoryview | None = None
        self._last: int | None = None  # the latest id that was received here
        self._lock = _thread.allocate_lock()

    @classmethod
    def from_socket(cls, sock: socket.socket, limit: int = 65536) -> tuple[Listener, bytes]:
        """Receive one listener sent by SCM_RIGHTS, with the data that came along.

        :raises TypeError: it is no socket.
        :raises ProctorError: if the message carries no descriptor, or more than one (they are
            closed), or ended.
        :raises OSError: EMSGSIZE for a datagram of more than ``limit`` bytes; else recvmsg(2)'s.
        """
        from proctor.kernel.scm import receive

        if not hasattr(sock, "recvmsg"):
            raise TypeError(f"{sock!r}: a socket is wanted")
        message = receive(sock, limit)
        if message.lost:
            raise ProctorError(
                "descriptors were sent that could not be received: raise the limit of open files "
                "(ulimit -n) here, and send the listener alone"
            )
        if len(message.fds) != 1:
            message.close()
            raise ProctorError(
                f"expected one descriptor on the socket, got {len(message.fds)}: "
                "send the listener, and nothing else, in one SCM_RIGHTS message"
            )
        return cls(message.fds[0]), message.data

    @classmethod
    def from_pidfd(cls, pidfd: int, fd: int) -> Listener:
        """Take a copy of descriptor ``fd`` of the process behind ``pidfd`` (pidfd_getfd(2), Linux
        5.6; needs ptrace rights over it).  ``pidfd`` stays the caller's."""
        return cls(take_descriptor(pidfd, fd))

    def fileno(self) -> int:
        """The descriptor's number; ValueError once closed."""
        if self._fd < 0:
            raise ListenerClosed
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._fd < 0

    def recv(self, into: memoryview | None = None, slot: int = -1) -> NotificationLike | None:
        """Receive the next notification, waiting for one.

        :param into: memory that the kernel fills, besides: ``struct seccomp_notif``, 80 bytes.
        :param slot: what the notification says of itself as :attr:`slot`.

        None if one was cancelled before it could be received, or if nobody uses the filter any
        more: poll before the next attempt.  A signal whose Python handler returns does not end it.
        """
        while True:
            try:
                if into is None:
                    received = _core.recv(self.fileno())
                else:
                    received = _core.recv(self.fileno(), into, slot)
            except InterruptedError:
                continue  # Python ran the signal's handler; had it raised, we would not be here
            except FileNotFoundError:
                return None
            with self._lock:
                if self._last is None or _later(received.id, self._last):
                    self._last = received.id
            return received

    def send(self, id: int, value: int, error: int, flags: int) -> bool:
        """Answer; False if the caller is gone.

        :param value: what the call returns, if ``error`` is 0.
        :param error: 0 or a negative errno, -4095..-1.
        :param flags: SECCOMP_USER_NOTIF_FLAG_CONTINUE or 0.
        :raises ValueError: for an error of the wrong sign or range: the kernel takes anything and
            a positive one would *succeed* (C054, C055).
        :raises AlreadyAnswered: EINPROGRESS, a call that was received.
        :raises NotReceived: EINPROGRESS, a call that is still queued behind those that were received
            here; whoever receives nothing here must know from elsewhere what was received.
        """
        if not -abi.MAX_ERRNO <= error <= 0:
            raise ValueError(f"error {error}: the kernel wants 0 or a negative errno")
        while True:
            try:
                _core.send(self.fileno(), id, value, error, flags)
                return True
            except InterruptedError:
                continue  # interrupted while waiting for the filter's lock: nothing happened yet
            except FileNotFoundError:
                return False
            except OSError as problem:
                if problem.errno == errno.EINPROGRESS:
                    raise self._in_progress(id) from None
                raise

    def id_valid(self, id: int) -> bool:
        """Whether the notification is received, unanswered, and its caller still waits."""
        while True:
            try:
                return _core.id_valid(self.fileno(), id)
            except InterruptedError:
                continue

    def addfd(
        self,
        id: int,
        srcfd: int,
        *,
        at: int | None = None,
        cloexec: bool = False,
        send: bool = False,
    ) -> int | None:
        """Install a copy of ``srcfd`` in the caller's table.

        :param at: the number it gets there, replacing what is open; lowest free if None.
        :param cloexec: whether it closes on exec there.
        :param send: make its number the answer, in the same step (Linux 5.14).
        :returns: the number in the target; None if the caller is gone.
        :raises TargetFdLimit: EMFILE, or EBADF for a number beyond the limit: still unanswered.
        :raises OSError: EBADF if ``srcfd`` itself is no good, or is ``O_PATH`` (C063, C064).
        :raises AlreadyAnswered, NotReceived: as for :meth:`send`.
        :raises ValueError: ``at`` cannot be a number of a descriptor.
        """
        if at is not None:
            whole("at", at, 0, (1 << 32) - 1)
        flags = (abi.SECCOMP_ADDFD_FLAG_SETFD if at is not None else 0) | (
            abi.SECCOMP_ADDFD_FLAG_SEND if send else 0
        )
        for _ in range(_ADDFD_TRIES):
            try:
                return _core.addfd(
                    self.fileno(), id, srcfd, flags, at or 0, os.O_CLOEXEC if cloexec else 0
                )
            except InterruptedError:
                continue
            except (FileNotFoundError, ProcessLookupError):
                return None
            except OSError as problem:
                if problem.errno == errno.EINPROGRESS:
                    raise self._in_progress(id) from None
                raise _addfd_error(problem, srcfd, at, send, id) from None
        raise OSError(errno.EINTR, "installing a descriptor was interrupted again and again")

    def give(
        self,
        id: int,
        fd: int,
        tid: int,
        *,
        at: int | None = None,
        cloexec: bool = False,
        slot: int = -1,
    ) -> bool | None:
        """Install a copy of ``fd``, make its number the answer, and close ``fd``; False if the caller is gone;
        None if it could not be, and nothing has happened: :meth:`addfd` says why.

        A caller that waits whatever signals come (WAIT_KILLABLE_RECV) goes on when ``fd`` is closed here: else a
        program that was just written could not be run (ETXTBSY), a lock is still held, a file system busy.

        :param tid: the caller's thread.
        :param at, cloexec: as for :meth:`addfd`.
        :param slot: of the call in :attr:`journal`, which knows the number before the caller can go on."""
        waits = self.keeps_waiting(id, tid)
        return _core.give(self.fileno(), id, fd, cloexec, at, waits, self.journal, slot)

    def keeps_waiting(self, id: int, tid: int) -> bool:
        """Whether the caller waits for its answer whatever signals come (WAIT_KILLABLE_RECV): what it is given before that it
        knows of, then.

        :param tid: the caller's thread."""
        if self.waits is None:
            self.waits = waits_killably(self.fileno(), id, tid)
        return self.waits is True

    def _in_progress(self, id: int) -> AlreadyAnswered | NotReceived:
        """What EINPROGRESS means: queued still, or answered and not gone yet."""
        with self._lock:
            last = self._last
        if last is not None and _later(id, last):
            poll = select.poll()
            poll.register(self.fileno(), select.POLLIN)
            if dict(poll.poll(0)).get(self._fd, 0) & select.POLLIN:  # else nothing is queued
                return NotReceived("this call is still queued: receive it, and then answer").about(
                    notif_id=id
                )
        return AlreadyAnswered("this call was answered already: give each call one verdict").about(
            notif_id=id
        )

    def set_flags(self, flags: int) -> None:
        """Set listener flags: SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP or 0.

        :raises Unsupported: on kernels without NOTIF_SET_FLAGS (before Linux 6.6).
        :raises OSError: EINVAL for any other bit.
        """
        word = flags & 0xFFFFFFFF
        try:
            # An int argument goes by value, as this ioctl wants it (C117); fcntl takes signed ones
            fcntl.ioctl(
                self.fileno(),
                abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS,
                word - (1 << 32) if word >> 31 else word,
            )
        except OSError as problem:
            if problem.errno == errno.EINVAL and flags in (0, 1):
                raise Unsupported(
                    "SECCOMP_IOCTL_NOTIF_SET_FLAGS", "6.6", "wake-ups are not synchronous"
                ) from None
            raise

    def close(self) -> None:
        """Close this copy.  Once the last copy is closed every pending and later notified call of
        the target gets ENOSYS (C093).  Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener fd {self._fd}>" if self._fd >= 0 else "<Listener closed>"


def _later(id: int, other: int) -> bool:
    """Whether the kernel gave ``id`` out after ``other``; its counter begins anywhere and wraps."""
    return 0 < (id - other) % (1 << 64) < 1 << 63


def _addfd_error(problem: OSError, srcfd: int, at: int | None, send: bool, id: int) -> Exception:
    """Tell the errors of ADDFD apart: ours (a bad ``srcfd``) from the target's (its limit)."""
    if problem.errno == errno.EMFILE:
        return TargetFdLimit(
            errno.EMFILE, "the target is at its limit of open files (RLIMIT_NOFILE)"
        ).about(notif_id=id)
    if problem.errno == errno.EBADF:
        try:
            os.fstat(srcfd)
        except OSError:
            return OSError(errno.EBADF, f"descriptor {srcfd} of the monitor is not open")
        if at is not None:
            return TargetFdLimit(
                errno.EBADF, f"number {at} is beyond the target's limit of open files"
            ).about(notif_id=id)
        return OSError(
            errno.EBADF, f"descriptor {srcfd} is O_PATH: the kernel hands over opened files only"
        )
    if problem.errno == errno.EINVAL and send:
        return Unsupported(
            "SECCOMP_ADDFD_FLAG_SEND", "5.14", "a descriptor cannot be the answer in one step"
        )
    return problem

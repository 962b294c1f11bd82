"""The native core: its manual.

Four jobs that Python cannot do well: launching a target (no Python between fork and exec),
the receive-answer loop, talking to a listener with signals held back, reading a caller's memory.
What Python does well (packing arguments, keeping books) is done above it, in
:mod:`proctor.kernel.start`, :mod:`proctor.kernel.engine` and :mod:`proctor.kernel.memory`.
Every function raises :class:`OSError` with the kernel's errno; translation into our error tree
is the business of the Python modules above (:mod:`proctor.kernel.listener`,
:mod:`proctor.kernel.launch`, :mod:`proctor.kernel.memory`).
"""

from collections.abc import Callable
from mmap import mmap
from typing import final

@final
class Notification:
    """One received ``struct seccomp_notif``; immutable, fields read straight from the struct.

    Made by the kernel only; :class:`proctor.kernel.notification.Notification` is made by hand.
    """

    @property
    def id(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def nr(self) -> int: ...
    @property
    def arch(self) -> int: ...
    @property
    def ip(self) -> int: ...
    @property
    def args(self) -> tuple[int, int, int, int, int, int]: ...

# Raw system calls -------------------------------------------------------------------------------
def syscall(number: int, /, *arguments: int | bytes | bytearray | None) -> int:
    """A system call of up to six arguments: an int is its value (cut to a register), a buffer its
    address, to which the kernel may write if it can be written to, None is NULL.  Returns the
    call's value.  The GIL is released, but for seccomp(2).  :mod:`proctor.kernel.raw` is for use."""

#: Numbers on this machine.
SYS_seccomp: int
SYS_kcmp: int
SYS_pidfd_getfd: int
SYS_process_vm_readv: int
SYS_fstatfs: int
SYS_statx: int
SYS_openat2: int

# The listener ---------------------------------------------------------------------------------
def recv(fd: int) -> Notification:
    """SECCOMP_IOCTL_NOTIF_RECV into a zeroed buffer; blocks without the GIL.  Blocking signals in
    this thread is the caller's business (C038, C039): EINTR is raised, not retried."""

def send(fd: int, id: int, value: int, error: int, flags: int) -> None:
    """SECCOMP_IOCTL_NOTIF_SEND.  ``error`` as the kernel wants it (0 or negative)."""

def id_valid(fd: int, id: int) -> bool:
    """SECCOMP_IOCTL_NOTIF_ID_VALID (falling back to the first, wrong-direction number)."""

def addfd(fd: int, id: int, srcfd: int, flags: int, newfd: int, newfd_flags: int) -> int:
    """SECCOMP_IOCTL_NOTIF_ADDFD, with every signal blocked in this thread for its duration (C074:
    else an interrupted ADDFD|SEND makes the call return 0 on most kernels).
    Returns the number in the target."""

# A caller's memory ----------------------------------------------------------------------------
def read(pid: int, address: int, limit: int, string: bool, listener: int, id: int, /) -> bytes:
    """Memory of the thread ``pid`` by process_vm_readv(2), or /proc/TID/mem where that is refused.

    :param limit: most bytes to read; only what is mapped is ever allocated.
    :param string: False reads up to ``limit`` bytes, fewer at an unmapped page (C103).  True reads
        the bytes before the first NUL; the page after it is not touched.
    :param listener: where ID_VALID is asked for ``id`` after the read; ENOENT if it says no,
        whatever the read said.  With -1 see to it yourself: only while a notification is valid
        its TID cannot have been recycled.
    :raises OSError: EFAULT when not one byte is readable, or memory ends before the NUL;
        ENAMETOOLONG when ``limit`` bytes hold no NUL; ESRCH when the process is gone, EPERM or
        EACCES when it may not be looked at.

    The GIL is released: memory may answer late (userfaultfd, FUSE)."""

# Launching ------------------------------------------------------------------------------------
def launch(board: mmap, /, *plan: object) -> tuple[int, int, int, int]:
    """Start a target: (pid, pidfd, listener, status_fd).

    :param board: zeroed *shared* memory of at least 36 bytes, ``=12xi20s``: words of the launch's own,
        then errno and step (NUL-terminated) of a failure; the last word once ``status_fd`` shows
        end-of-file.
    :param plan: the fields of :class:`proctor.kernel.plan.Plan`, with sequences packed: strings end
        in NUL each, a pair of descriptors is ``=iii`` (ours, theirs, -1), a group ``=I``.
        Descriptors of ours must be open.
    :raises OSError: with ``filename`` set to the step that failed, for what fails before the filter
        is installed: nothing is left over then."""

# The loop -------------------------------------------------------------------------------------
Wire = tuple[int, int, int]
Route = Callable[[Notification], Wire | None]
#: Routes by ``(arch ^ AUDIT_ARCH_X86_64) << 32 | nr``, the fallback, and what is the caller's own.
Served = tuple[dict[int, Route], Route, Callable[[], object], int]

def serve(
    epoll: int, event: int, served: dict[int, Served], hung: list[int], wait: int, rounds: int, /
) -> int:
    """Rounds of :class:`proctor.kernel.engine.Engine`: how many notifications were received.

    At most ``rounds`` of them (0: no limit); the last is one in which the event was set, time was
    over, a signal came, a listener hung up, or a route raised.

    Waits at most ``wait`` milliseconds (-1: for ever) in ``epoll``, whose data are the keys of
    ``served`` and the eventfd ``event``, which is drained.  Receives at most 32 from each of at
    most 16 listeners before it routes the first; appends to ``hung`` whose listeners show HUP
    without IN.  What came from a listener that is in ``served`` no more is answered ENOSYS.  A
    route that raises is answered EPERM; the first exception of a round is raised at its end.
    Signals are blocked but for the waiting; 0 after one ended it early."""

"""The native core: its manual.

Jobs that Python cannot do well: launching a target (no Python between fork and exec), the
receive-answer loop, talking to a listener with signals held back, reading a caller's memory, and
finding where its paths lead while it waits.
What Python does well (packing arguments, keeping books) is done above it, in
:mod:`proctor.kernel.start`, :mod:`proctor.kernel.engine` and :mod:`proctor.kernel.memory`.
Every function raises :class:`OSError` with the kernel's errno; translation into our error tree
is the business of the Python modules above (:mod:`proctor.kernel.listener`,
:mod:`proctor.kernel.launch`, :mod:`proctor.kernel.memory`).
"""

from collections.abc import Callable
from mmap import mmap
from typing import Any, Literal, final

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
    @property
    def slot(self) -> int: ...

# Raw system calls -------------------------------------------------------------------------------
def syscall(number: int, /, *arguments: int | bytes | bytearray | None) -> int:
    """A system call of up to six arguments: an int is its value (cut to a register), a buffer its
    address, to which the kernel may write if it can be written to, None is NULL.  Returns the
    call's value.  The GIL is released, but for seccomp(2).  :mod:`proctor.kernel.raw` is for use."""

#: Numbers on this machine.
SYS_seccomp: int
SYS_kcmp: int
SYS_prctl: int
SYS_ptrace: int
SYS_pidfd_getfd: int
SYS_process_vm_readv: int
SYS_getrandom: int
SYS_fstatfs: int
SYS_statx: int
SYS_sched_getaffinity: int
SYS_openat2: int

# The listener ---------------------------------------------------------------------------------
def recv(fd: int, into: bytearray | memoryview = ..., slot: int = -1) -> Notification:
    """SECCOMP_IOCTL_NOTIF_RECV into ``into``, 80 bytes that are zeroed first, or a buffer of its own;
    ``slot`` is only passed on.  Blocks without the GIL.  Blocking signals in
    this thread is the caller's business (C038, C039): EINTR is raised, not retried."""

def send(fd: int, id: int, value: int, error: int, flags: int) -> None:
    """SECCOMP_IOCTL_NOTIF_SEND.  ``error`` as the kernel wants it (0 or negative)."""

def id_valid(fd: int, id: int) -> bool:
    """SECCOMP_IOCTL_NOTIF_ID_VALID (falling back to the first, wrong-direction number)."""

def addfd(fd: int, id: int, srcfd: int, flags: int, newfd: int, newfd_flags: int) -> int:
    """SECCOMP_IOCTL_NOTIF_ADDFD, with every signal blocked in this thread for its duration (C074:
    else an interrupted ADDFD|SEND makes the call return 0 on most kernels).
    Returns the number in the target."""

def give(
    fd: int,
    id: int,
    srcfd: int,
    cloexec: bool,
    at: int | None,
    waits: bool,
    journal: memoryview | None,
    slot: int,
    /,
) -> bool | None:
    """The same, and its number is the answer, and ``srcfd`` is closed; False if nobody waits any more.  None if that
    could not be: then nothing has happened, and :func:`addfd` says why.

    :param waits: no signal but a deadly one interrupts the caller: it goes on when ``srcfd`` is closed.
    :param journal: what says in a slot that it was given, from then on until somebody clears that."""

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

def read_all(
    pid: int, listener: int, id: int, wanted: tuple[tuple[int, int, bool], ...], /
) -> tuple[bytes, ...]:
    """As :func:`read` again and again, and ID_VALID is asked for once, after all of it.

    :param wanted: at most 8 times (address, limit, string); what is no string is read whole.
    :raises OSError: also EFAULT where what is no string is not there to its end."""

def write(pid: int, address: int, data: bytes, listener: int, id: int, /) -> bool:
    """Write to memory of the thread ``pid`` that is one writable mapping, by /proc/TID/mem (the mappings are asked since
    Linux 6.11).

    :param listener: where ID_VALID is asked for ``id`` before that.
    :returns: whether it was written; otherwise a part of it may have been, and a longer way finds out why.

    The GIL is released: memory may answer late (userfaultfd, FUSE)."""

# Where a path leads ---------------------------------------------------------------------------
def find(
    root: int, dirfd: int, path: bytes, follow: bool, entry: bool, /
) -> tuple[bytes, int, int] | None:
    """Where a path leads in the view of somebody with this root and directory, in the usual case: what
    that root calls the place, and O_PATH descriptors of what is there (-1 for nothing) and of the
    directory that it is in (else -1).  The name was walked, and leads there.

    :param entry: the path names an entry of its directory, which is wanted.  It is held as well where
        nothing is there.
    :returns: None for what is to be walked step by step: magic links, what is on a procfs, relative
        paths from outside of that root, links that dangle, and errors of all kinds.

    The GIL is released: walking can wait for a file system (FUSE, autofs)."""

def where(
    tid: int,
    path: int | bytes,
    dirfd: int,
    follow: bool,
    entry: bool,
    listener: int,
    id: int,
    /,
) -> tuple[bytes, bytes | int | None]:
    """(path, name) of :func:`find` for a thread that waits for an answer: with its root, and what it has
    open as ``dirfd``, or its working directory, as they are now.  Nothing stays open.

    In the place of the name: ENOENT if a directory on the way is not there, None for all else that is to
    be walked step by step.

    :param path: an address in its memory, or what was read before.
    :param listener: as for :func:`read`, for both; errors likewise."""

def matches(program: bytes, text: bytes, /) -> bool:
    """Whether a pattern matches, given as :meth:`proctor.policy.globs.Glob.program`, which is trusted."""

# Acting for a caller --------------------------------------------------------------------------
def standing(tid: int, pidfd: int, proc: int, user: int, status: int, /) -> bytes:
    """Who a thread is: ``struct standing`` of ``core/callers/acting.h``, to be compared.

    :param tid: 0 for this thread itself, of which cgroup and user namespace are left empty.
    :param pidfd: of the thread (PIDFD_THREAD), or of the process that it leads; -1 without one.
    :param proc: its ``/proc/TID``.
    :param user: the link ``ns/user`` there, an O_PATH descriptor.
    :param status: its ``/proc/TID/status``, which has the ids before Linux 6.13 (PIDFD_GET_INFO); the cgroup is left empty then.
    :raises OSError: ESRCH if it is dead."""

def kind_of(fd: int, /) -> int:
    """Which kind of file system something is on (``f_type``, statfs(2)), from its mount (statmount(2), Linux 6.8), so that
    no server is asked, which may not answer; before that the file system is asked.  0 if it cannot be told so."""

def whereabouts(proc: int, cgroup: int, /) -> bytes:
    """Where a thread is besides: its mnt, net, ipc, uts and cgroup namespaces, and its cgroups, to be compared.

    :param proc: its ``/proc/TID``.
    :param cgroup: its ``/proc/TID/cgroup``.
    :raises OSError: it is dead."""

@final
class Known:
    """A thread, through descriptors that its owner keeps open, and who it was; immutable.

    :param pidfd: and the next two as for :func:`standing`.
    :param status: its ``/proc/TID/status``.
    :param label: its ``attr/current``; -1 where no security module labels threads.
    :param settled: whether its groups cannot change where it is, so that nobody looks at them again.
    :param rights: what :func:`standing` said.
    :param identity: its ids, groups and capabilities, as ``status`` has them.
    :param labelled: what ``label`` said.
    :param cgroup: its ``cgroup``, and what that said; -1 where nobody asks for it.
    :param mounts: what its ``ns/mnt`` said."""

    def __new__(
        cls,
        tid: int,
        pidfd: int,
        proc: int,
        user: int,
        status: int,
        label: int,
        settled: bool,
        rights: bytes,
        identity: bytes,
        labelled: bytes,
        cgroup: int,
        cgroups: bytes,
        mounts: bytes,
        /,
    ) -> Known: ...
    def in_its_mounts(self) -> bool:
        """Whether it is in the mount namespace that it was in; True without a look of who has not got the rights to change that
        and keep its root directory."""

    def same(self, groups: bool, ours: bytes, /) -> bytes | None:
        """Whether it still is who it was; None if not.

        :param groups: whether ``status`` is looked at as well.
        :param ours: what :func:`standing` said of us: None, if it says something else now; empty if that
            is not asked.
        :returns: the text of ``status``; empty if that was not read."""

    def close(self) -> None:
        """Nobody is this any more: to be called before its descriptors are closed."""

@final
class Request:
    """A request to an executor, and what its answer looks like (``executor.h``).

    :param steps: how many results come back.
    :param values: how many fill it in.
    :param packet: what is sent, with holes in it.
    :param holes: ``=4I`` each: index of a value, from 0 on, where it is put, room for it, whether it is a
        number (of 8 bytes) or bytes.
    :param ranges: ``=2I`` each: length of a part that comes back, and the step whose result is its length
        if that is less (0xffffffff for none).
    :param given: ``=I`` each: steps whose results come back as descriptors, where they are none.
    :param longest: of the answers.
    :param sent: how many descriptors it knows what to do with."""

    def __new__(
        cls,
        steps: int,
        values: int,
        packet: bytes,
        holes: bytes,
        ranges: bytes,
        given: bytes,
        longest: int,
        sent: int,
        /,
    ) -> Request: ...
    def fill(self, *values: bytes | int) -> bytes:
        """The packet, with these in its holes.

        :raises ValueError: one of them does not fit, or they are too many or too few."""

    def ask(
        self, sock: int, packet: bytes | None, fds: tuple[int, ...], patience: int, /
    ) -> tuple[tuple[int, ...], tuple[bytes, ...], dict[int, int]] | tuple[int, bytes]:
        """Send a packet with at most 253 descriptors and receive the answer, without the GIL in between.

        :param packet: None only receives.
        :param patience: how long to wait for it, in microseconds; then EAGAIN.  More than 50: in a route only until another
            call comes to the engine, or something else that it waits for.  4000 is as long as the socket waits by itself
            (SO_RCVTIMEO), whoever comes.
        :returns: (results, parts, descriptors by their steps; CLOEXEC and the asker's).  Or an errno:
            recvmsg(2)'s, EMSGSIZE for a longer answer, EMFILE if its descriptors could not all be had;
            or 0 and what was received and is no answer to this.  No descriptor is left open then.
        :raises OSError: it could not be sent."""

@final
class Forms:
    """Requests that lack nothing but a path: the request, its packet, where in that the path is put, how many bytes it
    may have, whether it is relative: then the place where it starts goes along; whether the executor's ``/proc/PID/fd``
    does, after that; whether it opens, so that :class:`Short` may give what comes; where its answer says what the
    path leads to (``struct looks`` of ``core/asking/posing.h``), or nothing: whoever only looks needs no room in the caller's table;
    and ``struct foresees`` of one that :class:`Short` alone may ask, or nothing."""

    def __new__(
        cls, forms: tuple[tuple[Request, bytes, int, int, bool, bool, bool, bytes, bytes], ...], /
    ) -> Forms: ...

def ask_for(
    known: Known,
    groups: bool,
    listener: int,
    id: int,
    dirfd: int,
    path: int | bytes,
    sock: int,
    table: int,
    patience: int,
    forms: Forms,
    /,
) -> (
    tuple[
        bytes | None,
        tuple[tuple[int, ...], tuple[bytes, ...], dict[int, int]] | tuple[int, bytes] | None,
        int,
    ]
    | None
):
    """See who calls, read a path from its memory, and ask an executor about it.

    :param known: and the next one as for :meth:`Known.same`.
    :param dirfd: where a relative path starts, the caller's.
    :param path: an address in its memory, read as by :func:`read`; or what was read before.
    :param sock: and ``patience`` as for :meth:`Request.ask`.
    :param table: the executor's ``/proc/PID/fd``.
    :param forms: of which the first is taken that fits.
    :returns: None for a caller that is not who it was.  Else the path (None if it could not be read),
        what :meth:`Request.ask` returns, and which form was taken; -1 if none was, and nothing is sent:
        none fits, or the caller's table is full, or it has nothing open there.  With a form and no
        answer it could not be sent."""

def act_for(
    known: Known,
    look: int,
    listener: int,
    id: int,
    dirfds: tuple[int, ...],
    sock: int,
    table: int,
    patience: int,
    request: Request,
    packet: bytes,
    /,
) -> tuple[tuple[int, ...], tuple[bytes, ...], dict[int, int]] | tuple[int, bytes] | Literal[False]:
    """See who calls, and send a request to an executor.

    :param listener: where it is asked whether the caller still waits; -1: that was seen to.
    :param look: 0: that was seen to; 1: that the caller is who it was, with any groups; 2: with the same ones.
    :param dirfds: where relative paths start, the caller's: these go along, and ``table`` after them, if the request knows what to do with that.
    :param sock: and the rest as for :func:`ask_for`.
    :param packet: the request, filled in.
    :returns: as :meth:`Request.ask`; False if nothing was sent, since the caller is another one, does not wait, or has
        nothing open there."""

def act_on(
    known: Known,
    look: int,
    listener: int,
    id: int,
    number: int,
    sock: int,
    patience: int,
    request: Request,
    packet: bytes,
    /,
) -> (
    tuple[tuple[tuple[int, ...], tuple[bytes, ...], dict[int, int]] | tuple[int, bytes], int]
    | Literal[False]
):
    """As :func:`act_for`, of one thing that the caller has open.

    :param number: under which number; a duplicate of it (pidfd_getfd(2)) goes along, and nothing else.
    :returns: (as :func:`act_for`, the duplicate, the asker's to close); False also where the caller has nothing open there, or
        has it as a path only."""

def lend_for(
    known: Known,
    look: int,
    valid: Callable[[], bool],
    listener: int,
    id: int,
    dirfds: tuple[int, ...],
    executor: tuple[int, int, int],
    request: Request,
    packet: bytes,
    terms: tuple[int, int, int, bytes, bool, bytes, bytes],
    lender: tuple[int, int, int],
    lent: Request,
    loan: bytes,
    /,
) -> tuple[Any, Any, int, int] | Literal[False]:
    """As :func:`act_for`, and where that has come to what is agreed upon, send a request about what came of it to a lender.

    :param valid: says whether the caller still waits, where there is no listener.
    :param executor: socket, own table and how long to wait, as for :func:`ask_for`.
    :param terms: the step that counts, and what it has come to (minus an errno; 0: no errno); which part says on what file
        system it is (-1: no matter), and of which kinds that may be, unless devices are off there; whether what was given has
        its owners, and who these are: numbers of users and of groups, 32 bits of the first and of how many, in turns.
    :param lender: the same; its table is -1 if that does not go along.
    :param lent: the request, which is sent what was given, and the lender's table.
    :param loan: that, filled in.
    :returns: (what the executor has said as of :func:`act_for`, None, -1, EAGAIN) where nothing was sent to the lender; else
        (the first part of what the executor has said, empty if it has none, what the lender has said likewise, or with which errno that could not be sent; what the executor gave, if
        there is no answer yet, or -1; 0 if the executor is known to have closed that, or an errno).
        False as of :func:`act_for`."""

class Books:
    """Which executors wait for work and which have some, under one lock; :class:`proctor.performing.executing.executors.Executors` has
    what its attributes mean, and all that is done with them less often than with each call.  Its subclass sets ``_lock`` and
    ``_most``."""

    _lock: Any
    _idle: dict[Any, float]
    _by_key: dict[Any, list[Any]]
    _taken: dict[object, int]
    _busy: set[Any]
    _closing: list[Any]
    _reaper: Any
    _closed: bool
    #: So many wait for work at most.
    _most: int

    def borrow(self, key: Any, container: object, limit: int, /) -> Any:
        """One that waits for work, as :meth:`~proctor.performing.executing.executors.Executors.acquire`; None if none does, or as many
        of the container's work already.

        :param limit: HELPING of :mod:`proctor.performing.executing.executors`: it is not counted."""

    def set_free(self, executor: Any, /) -> None:
        """It is free again, and has nothing open; by ``keep`` of the subclass where that takes more than to write it down."""

@final
class Connect:
    """The short way of a connect(2) of the caller's own socket, by address, from what its handler said on; called with a call
    and a :class:`proctor.call.verdict.Perform`: the errno with which it is answered, 0 for none; else what ``longer`` or
    ``asked`` return.

    :param longer: called likewise, where the call is not plain or its caller not known, and nothing has happened.
    :param known, back: as for :class:`Short`.
    :param executors: who is lent for what is kept of somebody; ``limit`` as for :meth:`Books.borrow`, of containers that have
        none of their own.
    :param asked: called with call, wish, the one who called (who is its own from now on), the executor (likewise), what
        :meth:`Request.ask` returns, or an errno with which it could not be sent, a duplicate of the socket (likewise), and the
        address.
    :param plain: whether options of its family leave the socket and its address as they are.
    :param listener, arch: as there.
    :param request: whose values are the address and its length, which sends a socket along, and has one step."""

    def __new__(
        cls,
        longer: Callable[[Any, Any], Any],
        known: dict[int, Any],
        back: Callable[[Any], object],
        executors: Books,
        limit: int,
        asked: Callable[..., Any],
        plain: Callable[[Any], bool],
        listener: Any,
        request: Request,
        arch: int,
        /,
    ) -> Connect: ...
    def __call__(self, call: Any, wish: tuple[Any, ...], /) -> Any: ...

@final
class Short:
    """The short way of an ordinary openat(2), from what its handler said on; called with a call and a
    :class:`proctor.call.verdict.Perform`: the errno with which it is answered, or 0 if it was given what was opened; else
    what ``longer`` or ``rest`` return.

    :param longer: called likewise, where the call is not plain or its caller not known, and nothing was looked at.
    :param rest: called with the call, its path (None if it was not read), the descriptor that it is given (negative if it
        is to be decided by a longer way) and whether that closes on exec.
    :param known: who is known, by the number of the thread, with what is ``kept`` of each (a
        :class:`proctor.performing.identities.callers.Known`); those whom a call is of are taken out until it is answered.
    :param back: puts one of them back where that takes more than to put it there.
    :param here: its ``root`` and ``table`` are descriptors of our root directory and of ``/proc/self/fd``; -1 if
        they cannot be used; its ``maker`` is as for :func:`open_for`.
    :param ours: what :func:`standing` said of us.
    :param kinds: as for :func:`open_for`.
    :param executors: who lends one for what is ``kept`` of somebody; and ``limit``: so many of a container's, unless that
        says otherwise.
    :param plan: ``forms`` as there, for flags, where there is no rule (0), where there is one (1), and where that has
        allowed what is foreseen (2): of an absolute path whose name is itself, of another one, of a relative path.
    :param asked: called with one tuple of call, wish, the one who called (who is its own from now on), the executor
        (likewise), what :func:`ask_for` returns, the flags, and which of these it was, where that is not all; its result is ours.
    :param foreseen: by path what it led to before: (name, the bytes that are expected there, something).
    :param allows: called with call, wish, path and that; whether the rule allows it.
    :param allowed: called with the call, that, and as ``rest`` where it is so, and opened.
    :param meet: called with the notification of somebody who is not known, and the container; by then it is, if it can be.
    :param listener: whose calls these are; it is spoken to as long as it is open.  Its ``waits`` says whether they wait
        killably; None: that is not known.
    :param arch: AUDIT_ARCH_* number of the calls that are meant.
    :param valid: flags of open(2) that are looked at, those of them that are not plain, and those of these that make or
        truncate what is opened, which we do only by ourselves."""

    def __new__(
        cls,
        longer: Callable[[Any, Any], Any],
        rest: Callable[[Any, bytes | None, int, bool], Any],
        known: dict[int, Any],
        back: Callable[[Any], object],
        here: Any,
        ours: bytes,
        kinds: bytes,
        executors: Books,
        limit: int,
        plan: Callable[[int, int], Forms],
        asked: Callable[..., Any],
        foreseen: dict[bytes, Any],
        allows: Callable[[Any, Any, bytes, Any], bool],
        allowed: Callable[[Any, Any, int, bool], Any],
        meet: Callable[[Notification, Any], object],
        listener: Any,
        arch: int,
        valid: int,
        unusual: int,
        making: int,
        /,
    ) -> Short: ...
    def __call__(self, call: Any, wish: Any, /) -> Any: ...

def claim_routed() -> bool:
    """Have the answer of the call that this thread routes be its own, whoever takes the role over: then it has to be given,
    and the route returns True.  False if that is not for this thread to say any more, or it routes none."""

def hear_closed(sock: int, patience: int, /) -> int:
    """Wait, so many microseconds at most, until an executor says that it has closed what came with its last answer: 0,
    or recv(2)'s errno; ECONNRESET if it died."""

def open_for(
    known: Known,
    groups: bool,
    ours: bytes,
    listener: int,
    id: int,
    start: int,
    dirfd: int,
    path: int | bytes,
    flags: int,
    resolve: int,
    kinds: bytes,
    table: int,
    named: bool,
    mode: int,
    maker: object,
    /,
) -> tuple[bytes | None, int | None] | tuple[bytes, int, bytes, bytes] | None:
    """Open a regular file or a directory for a caller that is what we are, without waiting for anybody
    but its memory.

    The path is walked through what the kernel has in memory (RESOLVE_CACHED, Linux 5.12) and through no
    link of procfs; what it leads to is pinned, looked at, and opened by its own link.

    :param known: and the next two as for :meth:`Known.same`.
    :param start: where a relative path starts, a descriptor of ours; -1: at ``dirfd``, the caller's.
    :param path: an address in its memory, read as by :func:`read`; or what was read before.
    :param flags: of open(2), without O_PATH.
    :param kinds: ``f_type`` of the file systems that open such things without asking anybody (``=I`` each).
    :param table: this process's ``/proc/self/fd``.
    :param named: only pin it, and say what it is and how it is called: for :func:`reopen`.  Nothing is made then.
    :param mode: of what is made.
    :param maker: who makes it, with the caller's umask (:func:`maker`); None: nothing is made.
    :returns: None for a caller that is not who it was, or if we are not.  Else the path (None if it could
        not be read) and a descriptor; minus the errno that anybody would be told; None for all that may
        wait, or may mean something else to others.  If ``named`` the descriptor is an O_PATH one, and
        its ``struct statx`` and the path follow that our root shows it by."""

def maker() -> object:
    """A thread that makes files with a umask of its own, from the first of them on until this is forgotten."""

def reopen(table: int, pin: int, flags: int, /) -> int | None:
    """The rest of :func:`open_for`: what it pinned is opened."""

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
Route = Callable[[Notification], Wire | bool | None]
#: Routes by ``(arch ^ AUDIT_ARCH_X86_64) << 32 | nr``, the fallback (of what is no listener: called
#: without an argument), what is called with a notification and its answer when that comes after the role
#: was lost, what is the caller's own, and what is called with a notification and the errno that its caller got where it was
#: to be given a descriptor by another thread.
Served = tuple[
    dict[int, Route],
    Callable[[Any], Any],
    Callable[[Notification, Any], Any],
    Any,
    Callable[[Notification, int], Any],
]

@final
class Loop:
    """Waits for listeners, receives, routes, answers; who does that can change in the middle of it.

    *Tokens* say who has the role of receiving: one thread at a time.  A thread that stalls in what it
    calls loses it to one that waits in :meth:`lead`, together with what it had received and not yet
    routed.  Only then, and always with the GIL held, is a token outdated without its holder's doing.
    All methods but :meth:`lead` and :meth:`serve` return at once."""

    #: How many threads insist on having the role.
    wanted: int
    #: Whether one waits for it otherwise.
    standing: int
    #: The token of whoever has the role, or had it last.
    generation: int
    #: How many calls were left to another thread to be given what was opened for them (core/loop/giving.c).
    handed: int

    def lead(
        self,
        how: int,
        taken: Callable[[Any, Any], Any],
        looks: int,
        due: Callable[[], float | None] = ...,
        /,
    ) -> int:
        """Wait for the role: the token, or 0.

        :param how: 0 waits for a stall.  1 also takes a role that nobody has, unless somebody insists.
            Both return 0 at once if some thread waits so already.  2 insists: whoever has the role is
            asked to resign.
        :param looks: how often to look at most, every 2 ms while something is routed; -1: no limit.  Who insists with a
            limit then waits, as long as that, for what another thread is giving, too.
        :param taken: called after a stall, before this returns, with what had the role when it was
            lost: (its tuple, the notification) or (the work of :meth:`attend`, None).
        :param due: called where something stalls and nothing is left of what was received: seconds after which the role is
            needed though nothing comes, None if there is no such thing.  Without it a role is needed always.
        :returns: 0 also once :meth:`close` was called.

        A stall is two looks, 2 ms apart, at the same call.  Nobody looks while nothing is routed.  As long as the role is
        not needed it is left where it is, for 20 ms."""

    def serve(
        self, token: int, served: dict[int, Served], hung: list[int], wait: int, rounds: int, /
    ) -> int:
        """Rounds of :class:`proctor.kernel.engine.Engine`: how many notifications were received;
        -1 if the role was lost.

        At most ``rounds`` of them (0: no limit); the last is one in which :meth:`wake` was called, time
        was over, a signal came, a listener hung up, a route raised, or the role is wanted.

        Begins no round, and waits in none, after ``wait`` milliseconds (-1: never), but the first.  Receives at most 32 from each of at
        most 16 listeners before it routes the first; appends to ``hung`` whose listeners show HUP
        without IN.  What came from a listener that is in ``served`` no more is answered ENOSYS.  A
        route that raises is answered EPERM; the first exception of a round is raised at its end.
        Signals are blocked but for the waiting; 0 after one ended it early.

        A notification is received straight into a slot of its listener's journal, which is cleared
        after the answer, if a route gave one."""

    def attend(self, token: int, work: Callable[[], Any], /) -> bool:
        """Call ``work`` where the role can be lost: whether it still is had.  False, and nothing is
        called, with an outdated token."""

    def surrender(self) -> None:
        """In what is called by whoever has the role: it is going to stall, and need not be looked at
        twice."""

    def resign(self, token: int, /) -> None:
        """Give the role up; nothing happens with an outdated token."""

    def watch(self, fd: int, listener: bool, journal: bytearray | memoryview | None, /) -> None:
        """Wait for ``fd`` too: a listener, or what is to be noticed once when it becomes readable."""

    def let_go(self, listener: int, /) -> None:
        """Close a listener's descriptor: at once, or once what is being given to one of its callers was."""

    def unwatch(self, fd: int, /) -> None:
        """Stop that; memory is kept, which a round that is under way may be using."""

    def forget(self) -> None:
        """Free such memory, unless something received is left to be routed: no round is under way."""

    def wake(self) -> None:
        """Make a waiting :meth:`serve`, or else the next, return."""

    def disown(self) -> None:
        """In a child of fork(2): whoever has the role has lost it, with what was received."""

    def close(self) -> None:
        """Make all of :meth:`lead` return."""

    def shut(self) -> None:
        """Give the descriptors up: no round is under way."""

# The constant call ----------------------------------------------------------------------------
@final
class Constant:
    """The route of calls of one number that all come to the same: they are answered without a notification and a handler.

    :param share, busy: as for :class:`Usual`: what may have to wait is routed by ``fallback``.
    :param fallback: routes such a call.
    :param wire: what all come to: value, error, flags.
    :param cell: counts them; None if nobody does.
    :param counts: where somebody is told who counts those by himself that are like others of which he was told: by their
        six registers, as bytes, the cell that has how many there were, and when the last was, in seconds since the epoch.
        All that are in none go by ``fallback``, and those in whose cell the last is over a second old, or whose number is
        about to be twice what it was when one did; None where nobody is told.
    """

    def __init__(
        self,
        share: Any,
        busy: dict[int, Any],
        fallback: Callable[[Notification], Any],
        wire: tuple[int, int, int],
        cell: list[int] | None,
        counts: dict[bytes, list[Any]] | None,
        /,
    ) -> None: ...
    def __call__(self, notification: Any, /) -> Any:
        """As a route."""

@final
class Seen:
    """The route of calls of one number that are all answered by what is read of their thread
    (:mod:`proctor.performing.short_ways.seen`), and nobody is told of it.  All that is not said here is routed by ``fallback``.

    Those that are said to have written something down: if their first argument is a descriptor of something stored, or EBADF
    if it is none.  Those that are said the same again: what their thread's ``recalled`` has, which is (architecture << 32 |
    number, text of its cgroups, what is written to where its first argument says, until when by CLOCK_MONOTONIC).

    :param share, busy: as for :class:`Usual`.
    :param find: gives what performs such calls, None before there is anybody; its ``native`` is who is known, by thread;
        what takes one of those back; what closes (container, descriptor) that may wait; kinds of file systems, as for
        :func:`open_for`, where nothing does.
    :param container, listener: the calls'.
    :param recalls: whether it is said again.
    :param done, failed: count those that came to 0, and to the one errno that is said here; None if nobody does.
    """

    def __init__(
        self,
        share: Any,
        busy: dict[int, Any],
        fallback: Callable[[Notification], Any],
        find: Callable[[], Any],
        container: Any,
        listener: Any,
        recalls: bool,
        done: list[int] | None,
        failed: list[int] | None,
        /,
    ) -> None: ...
    def __call__(self, notification: Any, /) -> Any:
        """As a route."""

@final
class Doing:
    """The route of calls of one number that are all done by one plan of an executor's
    (:class:`proctor.performing.short_ways.plans.Sketch`), and nobody is told of it: paths are read, the plan asked, and its errno or 0
    answered.  For a caller that is what we are no executor is asked, where nobody has to be waited for.  What is not plain before somebody was asked is routed by ``fallback``.

    :param share, busy, find, container, listener: as for :class:`Seen`; ``native`` is who is known, by thread; what takes one of
        those back; executors, and a limit, as for :class:`Connect`; paths, values, zero (two numbers) of a sketch; and by which paths are
        relative, from the first at bit 0, and behind these for those that are flagged, if there are such: (request, the step that acts);
        how many of the values, the last ones, are a plan's.  Behind that what is lent upon what a plan has given: None, or who is
        called with a standing and says whom (a key), on which terms (as for :func:`lend_for`), for which request, the step that counts,
        the one that tries with more, which part says what is left, and whether the lender's table goes along, or None where that is
        to be found out; which values, and paths and names of the plan's behind these, go into that request; and the register of a
        mode, before that of a number, which are to be a device's, no whiteout's, and without set-group-ID (-1: none); and whether it matters
        what is mounted where the caller is.  Last what is done where the caller is
        what we are (of ``plans``), whether a link at a path's end is not followed; the :class:`here.Here` that has our root and maker,
        or None; what we were, and ``f_type`` of the file systems where nobody is waited for, as for :func:`open_for`.
    :param decider: its ``leaving`` is looked at before somebody is asked: nobody is where it is not False.
    :param goes_on: called with (notification, standing, executor, which plan, what was heard) where that is not plain; with (...,
        what was heard of a lender, that, what it still works at or -1, 0 if the executor has closed that, or an errno) where one was asked;
        or (notification, None, None, which plan, errno) where the role was lost.
    :param cell_of: as for :class:`Performed`.
    Of one that is not called, but asked by :meth:`act`, these are None, and there is no listener.

    :param judge: says whether a call is performed, and those with the same registers; None: all are.
    :param registers: which of them decide that, a bit for each.
    """

    def __init__(
        self,
        share: Any,
        busy: dict[int, Any],
        fallback: Callable[[Notification], Any] | None,
        find: Callable[[], Any],
        container: Any,
        listener: Any,
        decider: Any,
        goes_on: Callable[..., object] | None,
        cell_of: Callable[[int], list[int] | None] | None,
        judge: Callable[[Notification], bool] | None,
        registers: int,
        /,
    ) -> None: ...
    def act(
        self, notification: bytes, container: Any, listener: int, /
    ) -> int | tuple[Any, ...] | None:
        """Do one that was received elsewhere, and is answered there: its errno, or 0; what ``goes_on`` is called with behind the
        notification; None if nothing has happened.

        :param notification: a ``struct seccomp_notif``.
        :param listener: where it is asked whether the caller waits."""
    def __call__(self, notification: Any, /) -> Any:
        """As a route."""

# Calls that are performed, all of a number ----------------------------------------------------
@final
class Performed:
    """The route of calls of one number that are all performed, and of which nobody is told: who performs such calls at once
    is asked without a handler.

    :param share, busy: as for :class:`Usual`: what may have to wait is routed by ``fallback``.
    :param fallback: routes such a call, and those of which nothing was made.
    :param find: gives who performs at once, once there is; only a :class:`Connect` is asked.
    :param container: whose calls these are.
    :param wish: what a handler would say of each.
    :param make: a call of a notification, where one is wanted.
    :param went_on: called with the call and what is said to it where it was not answered; its result is ours.
    :param cell_of: what counts answers with an errno, or 0; None if nobody does."""

    def __init__(
        self,
        share: Any,
        busy: dict[int, Any],
        fallback: Callable[[Notification], Any],
        find: Callable[[], Any],
        container: Any,
        wish: tuple[Any, ...],
        make: Callable[[Any], Any],
        went_on: Callable[[Any, Any], Any],
        cell_of: Callable[[int], list[int] | None],
        /,
    ) -> None: ...
    def __call__(self, notification: Any, /) -> Any:
        """As a route."""

# The usual call -------------------------------------------------------------------------------
@final
class Usual:
    """The route of calls of one number that differ from others before them by one path: where their
    patterns are known (:meth:`learn`) they are looked at, decided, answered and written down in one go.
    :mod:`proctor.supervisor.usual` is for use.

    :param learn: called with the first notification of its registers; calls :meth:`learn`.
    :param fallback: routes what is not usual, and what could not be looked at.
    :param told: called with (notification, path, what it leads to, when it was received) for what was
        looked at and is not usual for all that.  What it leads to: a name, ENOENT, None if nobody asked.
    :param share: calls go the long way while its ``watchful`` is not False, or ``slow`` has their (architecture, number).
    :param busy: likewise those of callers that are in it, by thread.
    :param container: its ``labels`` are ``labels`` and its ``logging`` is None, or a line is not made
        here.
    :param log: where lines are gathered; None for nowhere.
    :param callers: says who calls, for it.
    :param head: what lines begin with, up to the time.
    :param middle: what comes behind that, up to the caller's number.
    :param listener: where ID_VALID is asked, as long as it is open.
    :param registers: the registers that are known, a bit for each.
    :param reg: the path's; -1 without one.  It is not among the others.
    :param mask: which of its bits count.
    :param alikes: by thread, what has ``known``, a :class:`Known`, of those that are what we are: where paths lead
        is looked at for these alone, as long as they are.  One is taken out while it is asked.
    :param groups: whether their groups decide anything.
    :param ours: as for :meth:`Known.same`.
    :param meet: called with a thread that is not among these: True if it is by now.
    :param lend: called with a thread that is not among these, the container, and whether links are followed: who
        looks for it instead, as :class:`proctor.supervisor.ports.Seeker` has it.
    :param took_back: called with the first of what was lent, and what became of it.
    """

    def __init__(
        self,
        learn: Callable[[Notification], object],
        fallback: Callable[[Notification], Any],
        told: Callable[[Notification, bytes, bytes | int | None, float], Any],
        share: Any,
        busy: dict[int, Any],
        container: Any,
        labels: Any,
        log: Gathered | None,
        callers: Callers | None,
        head: bytes,
        middle: bytes,
        listener: Any,
        registers: int,
        reg: int,
        mask: int,
        alikes: dict[int, Any],
        groups: bool,
        ours: bytes,
        meet: Callable[[int], bool] | None,
        lend: Callable[
            [int, Any, bool],
            tuple[Any, Known, bool, int, int, int, tuple[Any, ...], tuple[Any, ...]] | None,
        ]
        | None,
        took_back: Callable[[Any, int], object] | None,
        /,
    ) -> None: ...
    def __call__(self, notification: Any, /) -> Any:
        """As a route; True for what was answered."""

    def performs(
        self,
        find: Callable[[], object],
        given: Callable[[Notification, bytes, bytes | None, int, int, float], Any],
        became: Callable[[int, int], tuple[list[int] | None, bytes, bytes]],
        /,
    ) -> None:
        """What is to be performed may be so at once, by :class:`Short`: for callers that are what we are, as far as
        rules allow what their path leads to, or what is to be made; and it is told of as other outcomes are.

        :param find: gives what performs, once it is there, and None before; what is no Short leaves all to ``fallback``.
        :param given: called with (notification, path, name or None, outcome, descriptor, when it was received) for what
            was opened where somebody else may answer by now: the name is what rules allowed; its result is the route's.
        :param became: called with the outcome that had it performed (-1: nobody knows which), and the errno that came
            of that, or 0, once for each: where that is counted, and what the log says, as for :meth:`outcome`."""

    def counts(self, cells: dict[bytes, list[Any]], /) -> None:
        """Calls that are counted as :class:`Constant` has it: by their registers, six of 8 bytes of which those that are
        not known are 0; what their path leads to, as ``told`` has it (4 bytes: 0 for a name, -1 where nobody asked); the
        path, a 0, and that name."""

    def outcome(
        self,
        how: int,
        wire: tuple[int, int, int],
        cell: list[int] | None,
        delivered: bytes,
        gone: bytes,
        /,
    ) -> int:
        """One thing that a call can come to: its number; -1 if there are too many.

        :param how: who is told: 0 nobody, 1 the log, 2 others, at length; 3 that it is performed: see :meth:`performs`;
            4 one who counts by himself: see :meth:`counts`.
        :param cell: where it is counted.
        :param delivered: what the log says became of it, if it was delivered; ``gone`` otherwise."""

    def learn(
        self,
        registers: tuple[int, ...],
        start: tuple[int, bool, bool],
        tests: tuple[tuple[bool, bool, int, tuple[bytes, ...]], ...],
        otherwise: int,
        pieces: tuple[bytes, ...],
        /,
    ) -> None:
        """What is known of calls with these registers.

        :param start: what the path is relative to, whether a link at its end is followed, whether it
            names an entry.
        :param tests: in order: whether it is about the path's text or what it leads to; whether it holds
            where nothing is found; the outcome; patterns for :func:`matches`.
        :param otherwise: the outcome where none of them holds; -1 for what is decided elsewhere.
        :param pieces: of a line: before the path, between its two places, behind it, before what it
            leads to; empty if it is not so simple."""

    def record(
        self, notification: Any, outcome: int, path: bytes | None, received: float, /
    ) -> bool | bytes | None:
        """Answer, and write down, what was decided elsewhere.  True if that was done; else the path, if
        it was read here, or None.

        :param path: if it was read."""

@final
class Callers:
    """Who calls, for a log: :mod:`proctor.observe.callers` is for use.

    :param quote: makes the text of (pid, comm, exe) when they have changed."""

    def __init__(self, quote: Callable[[int, bytes, bytes], str], /) -> None: ...
    def told(self, tid: int, valid: Callable[[], bool], /) -> str | None:
        """That text for a thread that waits for an answer; None where it cannot be had.

        :param valid: asked whether it still waits, of one that is met for the first time."""

    def close(self) -> None:
        """Forget all."""

@final
class Gathered:
    """Lines that wait for their writer: :mod:`proctor.observe.writer` is for use.

    :param hint: called when the first is there, and when there are many."""

    def __init__(self, hint: Callable[[], object], /) -> None: ...
    def take(self) -> tuple[str, int]:
        """The lines, and how many they are."""

"""The steps that put a program by itself: what a server of :mod:`proctor.performing.mounts.fuse` is, and can reach."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import struct
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

from proctor.filter import actions
from proctor.filter.conditions import Condition
from proctor.filter.rules import Filter, Rule
from proctor.performing.executing.requests import Request
from proctor.performing.executing.steps import DIE, Argument, Place, Result, Steps
from proctor.performing.identities.identity import Becoming
from proctor.performing.mounts.node import NAME
from proctor.records import NamedTuple
from proctor.syscalls.architectures import native

if TYPE_CHECKING:
    from proctor.performing.identities.who import Who

_CAP_SYS_ADMIN: Final = 21
#: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN
_RIGHTS: Final = 1 << 1 | 1 << 2 | 1 << _CAP_SYS_ADMIN
_CLONE_NEWNS, _CLONE_NEWPID, _NAMESPACES = 0x20000, 0x20000000, 0x7E020080
_MS_BIND, _MS_REC_PRIVATE, _MNT_DETACH = 0x1000, 0x4000 | 1 << 18, 2
_OPEN_TREE: Final = 1 | getattr(os, "O_CLOEXEC", 0)
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_FUSE: Final = os.makedev(10, 229)
_NULL: Final = os.makedev(1, 3)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS = 1, 4, 28, 38
_PR_CAP_AMBIENT, _RAISE = 47, 2
_NOROOT: Final = 1
_CLOSE_RANGE_CLOEXEC: Final = 4
_LAST: Final = 0xFFFFFFFF
#: struct clone_args of include/uapi/linux/sched.h.
_CLONE_ARGS: Final = struct.pack("=8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)


@cache
def _filter() -> bytes:
    """What a server may call: what works on files that it can reach, memory, threads, and mount(2)."""
    no, allow = actions.errno(errno.EPERM), actions.ALLOW
    names = (
        "@basic-io", "@file-system", "@io-event", "@signal", "@sync", "@timer", "@memlock", "%memory", "%pure",
        "exit", "exit_group", "execve", "execveat", "wait4", "waitid", "kill", "tgkill", "futex", "fork", "vfork",
        "set_robust_list", "set_tid_address", "rseq", "arch_prctl", "prctl", "prlimit64", "getrlimit", "getrandom",
        "uname", "sysinfo", "getrusage", "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep",
        "gettimeofday", "time", "sched_yield", "sched_getaffinity", "getcpu", "membarrier", "restart_syscall",
        "rt_sigreturn", "ioctl", "flock", "umask", "setsid", "pipe", "pipe2", "splice", "vmsplice", "tee",
        "copy_file_range", "sendfile", "fadvise64", "readahead", "mount", "umount2",
    )  # fmt: skip
    rules = [
        Rule(("clone3",), actions.errno(errno.ENOSYS)),
        Rule(("clone",), allow, (Condition("flags", "&=", 0, _NAMESPACES),)),
        Rule(names, allow),
    ]
    return Filter(rules, no, (native(),)).compile().code


class Secluding(NamedTuple):
    """A request that makes a server, and the mount that it serves."""

    request: Request
    #: Steps that must come out well, and what each is for.
    words: dict[int, str]
    pidfd: Result
    told: Result
    over: Result
    mount: Result
    #: The part that is the wait status of the server's first process.
    code: int


def secluded(
    who: Who, libraries: Sequence[tuple[bytes, bytes]], device: bool, argv: Sequence[bytes]
) -> Secluding:
    """The request.  Sent: the user namespace, the program, what is to be said into, both ends of the socket, the image's mount, or that in
    which there is a device's :mod:`node <proctor.performing.mounts.node>`."""
    made = Becoming()
    steps, step = made.steps, made.step
    userns, program, said, own, theirs = (steps.sent() for _ in range(5))
    _place(made, libraries, device)
    made.keep_capabilities()
    made.ids(list(who.groups), who.gids[:3], who.gids[3], who.uids[:3], who.uids[3])
    made.enter("user", userns)
    words = "leaving its namespaces"
    step(words, "unshare", _CLONE_NEWNS | _CLONE_NEWPID)
    words = "settling down"
    rights = who.effective & _RIGHTS
    header = steps.bytes(struct.pack("=Ii", 0x20080522, 0))
    data = steps.bytes(struct.pack("=6I", rights, rights, rights, 0, 0, 0))
    step(words, "prctl", _PR_SET_SECUREBITS, _NOROOT, 0, 0, 0)
    step(words, "capset", header, data)
    for right in range(_CAP_SYS_ADMIN + 1):
        if rights >> right & 1:
            step(words, "prctl", _PR_CAP_AMBIENT, _RAISE, right, 0, 0)
    step(words, "prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
    step(words, "prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    clone, code, byte = steps.bytes(_CLONE_ARGS), steps.bytes(bytes(4)), steps.bytes(bytes(1))
    mnt, empty = steps.bytes(b"/mnt"), steps.bytes(b"")
    first = steps.call("clone3", clone, len(_CLONE_ARGS), want=0)
    _first_process(steps, program, said, (own, theirs), (clone, code, byte, empty), argv)
    steps.jump(first, bad=True)
    pidfd = steps.call("pidfd_open", first, 0)
    steps.call("close", theirs)
    told = steps.call("read", own, code, 4, want=4)
    mount = steps.call("open_tree", _AT_FDCWD, mnt, _OPEN_TREE)
    over = steps.call("umount2", mnt, _MNT_DETACH)
    steps.call("write", own, byte, 1, want=1)
    steps.call("read", own, byte, 1, want=1)
    steps.give(pidfd)
    steps.give(mount)
    part = steps.want(code)
    return Secluding(steps.freeze(), made.words, pidfd, told, over, mount, part)


def _place(made: Becoming, libraries: Sequence[tuple[bytes, bytes]], device: bool) -> None:
    """A root directory: made on a tmpfs over /proc, where there is a directory, and then gone to."""
    steps, step = made.steps, made.step
    none, root, top, dot = (steps.bytes(each) for each in (b"none", b"/", b"/proc", b"."))
    words = "making a root directory"
    step(words, "unshare", _CLONE_NEWNS)
    step(words, "mount", none, root, 0, _MS_REC_PRIVATE, 0)
    directories = {b"/mnt", b"/dev"}
    for _, path in libraries:
        above = os.path.dirname(path)
        while above != b"/":
            directories.add(above)
            above = os.path.dirname(above)
    most = len(directories) + len(libraries) + 4  # itself, the image, two devices
    kind, options = steps.bytes(b"tmpfs"), steps.bytes(b"mode=755,size=64k,nr_inodes=%d" % most)
    step(words, "mount", kind, top, kind, 0, options)
    step(words, "umask", 0)
    for path in sorted(directories):
        step(words, "mkdirat", _AT_FDCWD, steps.bytes(b"/proc" + path), 0o755)
    for source, path in libraries:
        target = _empty(made, path)
        step(words, "mount", steps.bytes(source), target, 0, _MS_BIND, 0)
    words = "making /dev/fuse and /dev/null (by the container's rules for devices)"
    for name, number in ((b"fuse", _FUSE), (b"null", _NULL)):
        path_ = steps.bytes(b"/proc/dev/" + name)
        step(words, "mknodat", _AT_FDCWD, path_, stat.S_IFCHR | 0o666, number)
    words = "putting the image there"
    target, empty, sent = _empty(made, b"/image"), steps.bytes(b""), steps.sent()
    if device:
        place, inside = (
            steps.bytes(each) for each in (b"/proc/mnt", b"/proc/mnt/" + NAME.encode())
        )
        step(words, "move_mount", sent, empty, _AT_FDCWD, place, 0x4)
        step(words, "mount", inside, target, 0, _MS_BIND, 0)
        step(words, "umount2", place, _MNT_DETACH)
    else:
        step(words, "move_mount", sent, empty, _AT_FDCWD, target, 0x4)
    words = "going to its root directory"
    step(words, "chdir", top)
    step(words, "pivot_root", dot, dot)
    step(words, "umount2", dot, _MNT_DETACH)
    step(words, "chdir", root)


def _empty(made: Becoming, path: bytes) -> Place:
    place = made.steps.bytes(b"/proc" + path)
    words = "making a root directory"
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
    made.step(words, "openat", _AT_FDCWD, place, flags, 0o644)
    return place


def _first_process(
    steps: Steps,
    program: Argument,
    said: Argument,
    ends: tuple[Argument, Argument],
    places: tuple[Place, Place, Place, Place],
    argv: Sequence[bytes],
) -> None:
    """The steps of the first process of the pid namespace, all of which end it."""
    own, theirs = ends
    clone, code, byte, empty = places
    text = [steps.bytes(each) for each in argv]
    environment = [steps.bytes(b"LD_LIBRARY_PATH=/lib"), steps.bytes(b"PATH=/")]
    vectors = steps.bytes(bytes(8 * (len(text) + 1))), steps.bytes(bytes(8 * 3))
    code_ = _filter()
    filtering, length = steps.bytes(code_), len(code_) // 8
    pointer = struct.calcsize("P")
    described = steps.bytes(struct.pack("@HP", length, 0))

    def die(what: str, *args: Argument, want: int | None = None) -> Result:
        return steps.call(what, *args, bad=DIE, want=want)

    die("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    die("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
    die("close", own)
    # whoever made it may be dead already, and told nobody
    peek = socket.MSG_DONTWAIT | socket.MSG_PEEK
    die("recvfrom", theirs, byte, 1, peek, 0, 0, want=-errno.EAGAIN)
    server = steps.call("clone3", clone, len(_CLONE_ARGS), want=0)
    die("umask", 0o022)
    for stream in (1, 2):
        die("dup3", said, stream, 0)
    die("close_range", 3, _LAST, _CLOSE_RANGE_CLOEXEC)
    die("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for vector, words in zip(vectors, (text, environment), strict=True):
        for index, word in enumerate(words):
            steps.put(vector, index * pointer, word)
    steps.put(described, pointer, filtering)
    die("seccomp", 1, 0, described)
    last = die("execveat", program, empty, *vectors, _AT_EMPTY_PATH)
    steps.jump(server, bad=True)
    kept = 4
    die("dup3", theirs, kept, 0)
    die("close", 3)
    die("close_range", kept + 1, _LAST, 0)
    die("wait4", server, code, 0, 0)
    die("write", kept, code, 4, want=4)
    die("read", kept, byte, 1, want=1)
    die("prctl", _PR_SET_PDEATHSIG, 0, 0, 0, 0)
    die("write", kept, byte, 1, want=1)
    die("close", kept)
    steps.call("wait4", -1, 0, 0, 0, good=DIE, bad=DIE)
    assert last.step

"""Calls that do the same by another name: who restricts one and leaves the others is walked around.

Most names say so themselves.  Linux names a call that reaches the same object in another way by what
it puts before or behind the name of the first: ``l`` (a symbolic link itself), ``f`` (by descriptor),
``at`` (from a directory descriptor), a digit (with flags, or a structure), ``32``, ``64`` and
``_time64`` (with wider numbers), ``rt_``, ``p``, ``v``…  :func:`families` makes these families from the number
tables, so a call of a later kernel joins its family by its name.  What names do not show is written
here, as are the few that look alike and are not (``times`` and ``utimes``, ``sync`` and ``fsync``).

Families overlap: unlinkat(2) does what unlink(2) does and what rmdir(2) does, which do not do each other's.

    >>> siblings("rmdir")
    ('unlinkat',)
    >>> why("mknodat", "mknod")
    'makes a file, FIFO, socket or device'
    >>> why("truncate", "creat")
    'O_TRUNC empties a file'
    >>> [family.calls for family in families() if "rmdir" in family.calls]
    [('rmdir', 'unlinkat')]

Sources: the calls' manual pages (section 2).
"""

from __future__ import annotations

from functools import cache
from typing import Final

from proctor.records import NamedTuple
from proctor.syscalls import tables

__all__ = ["families", "siblings", "why"]

#: What is put before a name, and what behind it, for the same thing in another way.
_BEFORE: Final = ("rt_", "_new", "new", "old", "_", "f", "l", "p", "pkey_", "arm_", "process_")
_BEHIND: Final = (
    "_time64", "64_64", "_64", "64", "32", "old", "at2", "at", "_fd", "6", "4", "3", "2", "1", "v2", "v",
)  # fmt: skip
#: Whose names look as if they were made of another's.
_ALONE: Final = frozenset(("fsync",))

#: What a family does, to the names that others are made of.  A name with ``=`` before it comes alone.
_FAMILIES: Final[dict[str, str]] = {
    "opens a file": "open creat open_by_handle_at",
    "makes a file, FIFO, socket or device": "mknod",
    "makes a directory": "mkdir",
    "renames a file": "rename",
    "makes a hard link": "link",
    "makes a symbolic link": "symlink",
    "reads a symbolic link": "readlink",
    "removes a file's name": "unlink",
    "removes a directory": "rmdir =unlinkat",
    "changes a file's mode": "chmod",
    "changes a file's owner": "chown",
    "changes a file's times": "utime utimes utimensat",
    "changes a file's length": "truncate",
    "reads a file's attributes": "stat statx",
    "reads a file system's attributes": "statfs ustat",
    "asks what may be done with a file": "access",
    "sets an extended attribute": "setxattr",
    "reads an extended attribute": "getxattr",
    "lists extended attributes": "listxattr",
    "removes an extended attribute": "removexattr",
    "lists a directory": "getdents readdir",
    "changes the working directory": "chdir",
    "changes the root directory": "chroot pivot_root",
    "mounts": "mount fsopen fsconfig fsmount fspick open_tree open_tree_attr move_mount mount_setattr",
    "unmounts": "umount umount2",
    "watches files": "inotify_add_watch fanotify_mark",
    "executes a program": "execve",
    "makes a process": "fork vfork clone",
    "makes namespaces": "unshare clone",
    "waits for a child": "wait4 waitid waitpid",
    "ends the process": "exit exit_group",
    "sends a signal": "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal",
    "sets what a signal does": "signal sigaction",
    "blocks signals": "sigprocmask ssetmask",
    "waits for a signal": "pause sigsuspend",
    "reads another process's memory": "process_vm_readv ptrace",
    "writes another process's memory": "process_vm_writev ptrace",
    "loads a module": "init_module",
    "restarts the machine, or loads what it restarts into": "reboot kexec_load kexec_file_load",
    "changes user ids": "setuid setreuid setresuid setfsuid",
    "changes group ids": "setgid setregid setresgid setfsgid",
    "reads user ids": "getuid geteuid getresuid",
    "reads group ids": "getgid getegid getresgid",
    "reads a process group": "getpgrp getpgid",
    "sets a resource limit": "setrlimit prlimit64",
    "reads a resource limit": "getrlimit ugetrlimit prlimit64",
    "sets a scheduling policy": "sched_setscheduler sched_setparam sched_setattr",
    "reads a scheduling policy": "sched_getscheduler sched_getparam sched_getattr",
    "changes a nice value": "nice setpriority sched_setattr",
    "sets the clock": "settimeofday stime clock_settime clock_adjtime adjtimex",
    "reads the clock": "time gettimeofday clock_gettime",
    "sleeps": "nanosleep clock_nanosleep",
    "asks for a signal later": "alarm setitimer",
    "writes a file to its disk": "=fsync =fdatasync",
    "writes file systems to their disks": "=sync =syncfs",
    "places memory on nodes": "mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages",
    "names a peer": "connect sendto sendmsg sendmmsg",
    "sends on a socket": "send sendto sendmsg sendmmsg",
    "receives from a socket": "recv recvfrom recvmsg recvmmsg",
    "accepts a connection": "accept",
    "reads": "read",
    "writes": "write",
    "copies between descriptors": "sendfile splice tee copy_file_range",
    "copies a descriptor": "dup",
    "closes descriptors": "close close_range",
    "waits for descriptors": "poll select",
    "waits for an epoll instance's descriptors": "epoll_wait epoll_pwait",
    "maps memory": "mmap",
    "protects memory": "mprotect",
    "locks memory": "mlock mlockall",
    "changes semaphores": "semop semtimedop",
    "waits for a word of memory, or wakes who does": "futex futex_wait futex_wake futex_requeue",
    "uses I/O ports": "ioperm iopl",
    "names the machine": "uname olduname oldolduname",
}

#: What one call does of another, which does not do the first's: (how, call, others).
_WAYS: Final = (
    ("O_TRUNC empties a file", "truncate", "open creat"),
    ("F_DUPFD copies a descriptor", "dup", "=fcntl"),
    ("dup2 and dup3 close what they replace", "close", "=dup2 =dup3"),
    ("PR_SET_SECCOMP sets a filter", "seccomp", "=prctl"),
    ("FS_IOC_FSSETXATTR sets the same attributes", "file_setattr", "=ioctl"),
    ("FS_IOC_FSGETXATTR reads the same attributes", "file_getattr", "=ioctl"),
    ("PTRACE_POKETEXT makes the process pass its descriptors on", "pidfd_getfd", "=ptrace"),
    ("a connected socket can be written to", "send sendto sendmsg sendmmsg", "write"),
    ("a connected socket can be read from", "recv recvfrom recvmsg recvmmsg", "read"),
    ("io_submit reads and writes", "read write", "=io_submit"),
    ("vmsplice writes to a pipe, and reads from one", "read write", "=vmsplice"),
    ("sync and syncfs write all files", "=fsync =fdatasync", "=sync =syncfs"),
    ("a timer can send the same signal", "alarm setitimer", "=timer_settime"),
    ("setsid makes a process group, too", "setpgid", "=setsid"),
    ("mmap makes the memory anew", "mprotect", "mmap"),
)


class Family(NamedTuple):
    """Calls that do the same: ``does`` says what, as in "mknod makes a file"."""

    does: str
    calls: tuple[str, ...]


def siblings(call: str) -> tuple[str, ...]:
    """Every other call, of any architecture, by which a program does what ``call`` does.

    In no order that means anything; empty for a call that is alone, or unknown.
    """
    return tuple(_known(call))


def why(call: str, sibling: str) -> str:
    """What ``call`` does that ``sibling`` does as well; empty if they are no siblings."""
    return _known(call).get(sibling, "")


def are_forms(call: str, other: str) -> bool:
    """Whether both are made of one name: what is told of the arguments of one can be told of the other's.

    >>> are_forms("mknodat", "mknod"), are_forms("rmdir", "unlinkat")
    (True, False)
    """
    names = tables.all_names()
    return _stem(call, names) == _stem(other, names)


@cache
def families() -> tuple[Family, ...]:
    """Every family of two calls or more."""
    derived = _derived()
    named = {stem for text in _FAMILIES.values() for stem in text.split()}
    found = [Family(does, _members(text)) for does, text in _FAMILIES.items()]
    found += [
        Family(f"does what {stem} does", calls)
        for stem, calls in derived.items()
        if stem not in named
    ]
    return tuple(family for family in found if len(family.calls) > 1)


@cache
def _known(call: str) -> dict[str, str]:
    """The siblings of a call, each with the reason; what a family does comes before a way."""
    known: dict[str, str] = {}
    for does, calls in families():
        for other in calls if call in calls else ():
            known.setdefault(other, does)
    for how, text, ways in _WAYS:
        for other in _members(ways) if call in _members(text) else ():
            known.setdefault(other, how)
    known.pop(call, None)
    return known


@cache
def _derived() -> dict[str, tuple[str, ...]]:
    """Name to the names that are made of it, itself first."""
    names = tables.all_names()
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(_stem(name, names), []).append(name)
    return {
        stem: tuple(sorted(calls, key=lambda name: name != stem)) for stem, calls in found.items()
    }


def _stem(name: str, names: frozenset[str]) -> str:
    """The name that ``name`` is made of, perhaps itself."""
    if name in _ALONE:
        return name
    starts = [name]
    if name.startswith(_BEFORE):  # of most names neither is so
        starts += [name.removeprefix(before) for before in _BEFORE if name.startswith(before)]
    for start in starts:
        if start != name and start in names:
            return _stem(start, names)
        for behind in _BEHIND if start.endswith(_BEHIND) else ():
            if start.endswith(behind) and (stem := start.removesuffix(behind)) in names:
                return _stem(stem, names)
    return name


@cache
def _members(text: str) -> tuple[str, ...]:
    """The calls that a line of names stands for."""
    derived = _derived()
    found: dict[str, None] = {}
    for word in text.split():
        plain = word.removeprefix("=")
        found.update(dict.fromkeys((plain,) if plain != word else derived.get(plain, (plain,))))
    return tuple(found)

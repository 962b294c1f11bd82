"""The families: calls that are performed alike, one module each.

A module says how one is performed (``perform(task)``): it goes from the call's kept values to requests, and from
their replies to a verdict.  Which calls those are stands here, so that whoever asks loads none of them; nothing
else in proctor knows their names (:mod:`proctor.performing.registry`).
"""

from typing import Final

#: The calls of each, by its module's name.
CALLS: Final = {
    family: tuple(calls.split())
    for family, calls in {
        "accept": "listen accept accept4",
        "attributes": (
            "chmod chown chown32 lchown lchown32 utime utimes truncate truncate64 fchmodat futimesat "
            "fchmodat2 fchownat utimensat utimensat_time64"
        ),
        "bind": "bind",
        "bpf": "bpf",
        "connect": "connect",
        "exec": "execve execveat",
        "fsflags": "file_getattr file_setattr",  # since Linux 6.17
        "fsmount": "fsconfig fsmount fsopen fspick move_mount",
        "loop": "ioctl",
        "mknod": "mknod mknodat",
        "modules": "delete_module finit_module init_module",
        "mount": "mount",
        "names": (
            "mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat"
        ),
        "open": "open openat openat2 creat",
        "perf": "perf_event_open",
        "quiet": (
            "fsync fdatasync sync syncfs msync sync_file_range sync_file_range2 arm_sync_file_range"
        ),
        "quota": "quotactl quotactl_fd",
        "resources": "sysinfo sched_getaffinity uname getrandom",
        "scheduling": "sched_setscheduler sched_setparam sched_setattr setpriority ioprio_set",
        "send": "sendto sendmsg sendmmsg",
        "setsockopt": "setsockopt",
        "socket": "socket",
        "stat": (
            "stat lstat stat64 lstat64 oldstat oldlstat newfstatat fstatat64 statx access faccessat "
            "faccessat2 readlink readlinkat"
        ),
        "streams": "write writev",
        "userns": "unshare clone clone3",
        "xattr": (
            "setxattr lsetxattr fsetxattr setxattrat getxattr lgetxattr fgetxattr getxattrat listxattr "
            "llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat"
        ),
    }.items()
}
#: Those that came after Linux 5.9: 5.14, 6.6, 6.13 and 6.17.
LATER: Final = frozenset((
    "quotactl_fd", "fchmodat2", "setxattrat", "getxattrat", "listxattrat", "removexattrat", *CALLS["fsflags"],
))  # fmt: skip
#: Those that look and change nothing: to perform one again that was performed does no harm.
LOOKING: Final = frozenset(
    (
        *CALLS["stat"], *CALLS["quiet"], *CALLS["resources"],
        *(call for call in CALLS["xattr"] if "get" in call or "list" in call),
    )
)  # fmt: skip
#: Those that are done by one change that an executor makes, and are what that gives: should their monitor die, the next one knows
#: whether that came to it (:mod:`proctor.performing.noting`).
NOTED: Final = frozenset(
    (
        *CALLS["attributes"], *CALLS["connect"], *CALLS["mknod"], *CALLS["mount"], *CALLS["names"], *CALLS["open"], "move_mount",
        *(call for call in CALLS["xattr"] if "set" in call or "remove" in call), "sendto", "sendmsg", "sendmmsg",
    )
)  # fmt: skip
#: Calls of which a part is enough, and several of them come to more: a signal ends them between two.
ADDED: Final = frozenset(("sendto", "sendmsg", "sendmmsg"))
#: Those that another family has unless a rule's options are of this one.
ALSO: Final = {"fsflags": CALLS["loop"], "served": (*CALLS["open"], *CALLS["stat"])}

"""What a kernel has, by name, and the profiles of released kernels as sets of those names.

Nothing in the model asks for a version: a transition asks ``"fifo" in kernel.features``.
:data:`FEATURES` is where the versions are, once.  Any mixture can be made::

    Kernel("6.18")                                     # as released; any release since 5.0
    Kernel("6.18", add=["addfd_send_retries"])         # with one fix more
    Kernel("6.11", remove=["recv_ends_when_unused"])   # the older sleep for ever
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from proctor.records import NamedTuple


class Feature(NamedTuple):
    """One behaviour that some kernels have and others do not."""

    since: str
    meaning: str
    source: str


#: Name to what it means.  Order is the order of release.
FEATURES: Final[dict[str, Feature]] = {
    "pidfd_open": Feature("5.3", "pidfd_open(2)", "kernel/pid.c 5.3"),
    "syscall_info": Feature(
        "5.3",
        "PTRACE_GET_SYSCALL_INFO, and PTRACE_GETEVENTMSG tells a call's entry from its exit",
        "kernel/ptrace.c 5.3 (201766a20e30); ptrace(2)",
    ),
    "continue_flag": Feature(
        "5.5",
        "SECCOMP_USER_NOTIF_FLAG_CONTINUE lets the call run",
        "kernel/seccomp.c 5.5 (fb3c5386b382)",
    ),
    "recv_wants_zeros": Feature(
        "5.5", "RECV refuses a buffer with any byte set", "kernel/seccomp.c 5.5 (2882d53c9c6f)"
    ),
    "pidfd_getfd": Feature("5.6", "pidfd_getfd(2)", "kernel/pid.c 5.6"),
    "tsync_esrch": Feature(
        "5.7",
        "TSYNC_ESRCH, which makes TSYNC with NEW_LISTENER legal",
        "kernel/seccomp.c 5.7 (51891498f2da)",
    ),
    "hangup": Feature(
        "5.9",
        "filters count their users; the last one gone is POLLHUP",
        "kernel/seccomp.c 5.9 (99cdb8b9a573)",
    ),
    "id_valid_number": Feature(
        "5.9",
        "ID_VALID also under its corrected ioctl number",
        "kernel/seccomp.c 5.9 (47e33c05f9f0)",
    ),
    "addfd": Feature(
        "5.9",
        "SECCOMP_IOCTL_NOTIF_ADDFD, SETFD",
        "kernel/seccomp.c 5.9 (7cf97b125455)",
    ),
    "allow_bitmap": Feature(
        "5.11",
        "numbers that every filter always allows are decided without running one",
        "kernel/seccomp.c 5.11 (8e01b51a31a1)",
    ),
    "changed_number_is_told": Feature(
        "5.13",
        "ptrace(2) fails for a thread whose execve(2) gave it another number until wait4(2) said so",
        "kernel/ptrace.c 5.13 looks_like_a_spurious_pid (dbb5afad100a)",
    ),
    "only_minus_one_skips": Feature(
        "5.14",
        "only -1 is no call; before, a number beyond the table gave what was in the result register, "
        "and an interrupted call under a negative one was not made again",
        "arch/x86/entry/common.c (b337b4965e3a), arch/x86/kernel/signal.c 5.14",
    ),
    "addfd_send": Feature(
        "5.14",
        "SECCOMP_ADDFD_FLAG_SEND: descriptor and answer in one step",
        "kernel/seccomp.c 5.14 (0ae71c7720e3)",
    ),
    "forced_death_is_final": Feature(
        "5.16",
        "the death of a KILL verdict is not shown to a tracer, which could call it off",
        "kernel/signal.c 5.16 SA_IMMUTABLE (00b06da29cf9)",
    ),
    "mode_dead": Feature(
        "5.17",
        "whom a verdict kills has a mode of its own, 3, on its way out",
        "kernel/seccomp.c 5.17 SECCOMP_MODE_DEAD (495ac3069a66)",
    ),
    "wait_killable_recv": Feature(
        "5.19",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        "kernel/seccomp.c 5.19 (c2aa2dfef243)",
    ),
    "fifo": Feature(
        "5.19",
        "notifications are received oldest first; before, newest first",
        "kernel/seccomp.c 5.0 (list_add: newest first); kernel/seccomp.c 5.19 (4cbf6f621150)",
    ),
    "last_thread_decides": Feature(
        "5.19",
        "without exit_group(2) a process ends with the code of its last thread; before, with its "
        "leader's",
        "kernel/exit.c 5.19 synchronize_group_exit (d80f7e7b2c75)",
    ),
    "set_flags": Feature(
        "6.6",
        "SECCOMP_IOCTL_NOTIF_SET_FLAGS with SYNC_WAKE_UP",
        "kernel/seccomp.c 6.6 (48a1084a8b74)",
    ),
    "recv_wait_queue": Feature(
        "6.6",
        "a RECV that sleeps is made again after a handler with SA_RESTART, or after SIGCONT; before, "
        "it always ended with EINTR",
        "kernel/seccomp.c 6.6 recv_wait_event, in place of down_interruptible (4943b66df147)",
    ),
    "put_back_wakes_pollers": Feature(
        "6.6",
        "a notification put back after EFAULT wakes pollers too, not only receivers",
        "kernel/seccomp.c 6.6 (4943b66df147)",
    ),
    "pidfd_thread": Feature(
        "6.9", "PIDFD_THREAD: pidfd_open(2) of any thread", "kernel/pid.c 6.9 (64bef697d33b)"
    ),
    "release_at_exit": Feature(
        "6.11",
        "a task lets its filters go when it exits; before, when it was reaped",
        "kernel/seccomp.c, kernel/exit.c 6.11 (bfafe5efa975)",
    ),
    "tsync_skips_exited": Feature(
        "6.11",
        "threads that are exiting do not stand in the way of TSYNC",
        "kernel/seccomp.c 6.11 (bfafe5efa975)",
    ),
    "recv_ends_when_unused": Feature(
        "6.11",
        "RECV returns ENOENT once nobody uses the filter; before, it slept for ever",
        "kernel/seccomp.c 6.11 (95036a79e7e3)",
    ),
    "uretprobe_unfiltered": Feature(
        "6.14", "uretprobe is never filtered", "kernel/seccomp.c 6.14 (cf6cb56ef244)"
    ),
    "set_syscall_info": Feature(
        "6.16", "PTRACE_SET_SYSCALL_INFO", "kernel/ptrace.c 6.16 (26bb32768fe6)"
    ),
    "pidfd_open_enoent": Feature(
        "6.16",
        "pidfd_open(2) of a thread that leads no process, without PIDFD_THREAD, is ENOENT; before, EINVAL",
        "kernel/fork.c 6.16 pidfd_prepare",
    ),
    "uprobe_unfiltered": Feature(
        "6.18",
        "uprobe, a call that is as old as this, is never filtered",
        "kernel/seccomp.c 6.18 (seccomp_uprobe_exception)",
    ),
    "wait_killable_after_reply": Feature(
        "6.18",
        "a signal that comes between RECV and a very fast answer no longer loses the answer "
        "under WAIT_KILLABLE_RECV",
        "kernel/seccomp.c 6.18, 6.12.117 (should_sleep_killable: state >= SENT)",
    ),
    "addfd_send_retries": Feature(
        "later",
        "an interrupted ADDFD|SEND leaves the notification answerable; without this the call "
        "returns 0 and nothing was installed",
        "selftest user_notification_addfd_send_interrupted; kernel/seccomp.c 6.12.117 (not 6.18.44)",
    ),
}

#: The profiles that tests play, oldest first: releases in which something changed.
_NAMES: Final = ("5.0", "5.5", "5.9", "5.14", "5.19", "6.1", "6.6", "6.11", "6.18")


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(word) for word in release.split("."))


def of_release(release: str) -> frozenset[str]:
    """The features of any release of the kernel, "5.10" for one, as it was published.

    Distributors' kernels may have more: fixes and features are ported back.
    """
    have = _numbers(release)
    return frozenset(
        name
        for name, feature in FEATURES.items()
        if feature.since[0].isdigit() and _numbers(feature.since) <= have
    )


#: Profile name to the features that kernel has.
PROFILES: Final[dict[str, frozenset[str]]] = {name: of_release(name) for name in _NAMES}
#: The newest profile: the one the model is held against.
NEWEST: Final = _NAMES[-1]


def features(
    profile: str = NEWEST, add: Iterable[str] = (), remove: Iterable[str] = ()
) -> frozenset[str]:
    """The features of ``profile``, with some more or fewer.

    :param profile: a name of :data:`PROFILES`, or another release, "MAJOR.MINOR", from 5.0 on.
    :raises ValueError: for a profile or feature that does not exist.
    """
    if profile not in PROFILES and (
        re.fullmatch(r"\d+\.\d+", profile) is None or _numbers(profile) < (5, 0)
    ):
        raise ValueError(
            f"no profile {profile!r}; there are {', '.join(PROFILES)} and all releases since 5.0"
        )
    plus, minus = frozenset(add), frozenset(remove)
    for name in plus | minus:
        if name not in FEATURES:
            raise ValueError(f"no feature {name!r}; there are {', '.join(FEATURES)}")
    return (of_release(profile) | plus) - minus

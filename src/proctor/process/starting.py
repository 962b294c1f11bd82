"""What starting a supervised command takes besides the launch itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proctor.given import several

if TYPE_CHECKING:
    from proctor.kernel.listener import Listener
    from proctor.kernel.plan import StrOrBytes
    from proctor.kernel.target import Target
    from proctor.supervisor.container import Container
    from proctor.supervisor.supervisor import Supervisor


def user_namespace(
    userns: bool | Sequence[tuple[int, int, int]], options: dict[str, Any]
) -> dict[str, Any]:
    """Launch options for a new user namespace in which the command is root."""
    if not userns:
        return options
    made = dict(options)
    if _setgroups_denied():  # for every namespace below ours as well
        made.setdefault("allow_setgroups", False)
    if userns is True:
        # launch makes it root there, and takes our supplementary groups away where it may
        made["uid_map"], made["gid_map"] = [(0, os.geteuid(), 1)], [(0, os.getegid(), 1)]
    else:
        made["uid_map"] = made["gid_map"] = several(
            "userns", userns, "ranges (first inside, first outside, how many)"
        )
        if made.get("allow_setgroups") is not False:
            made.setdefault("groups", ())
        made.setdefault("uid", 0)  # who is not mapped would keep our id and what it may open
        made.setdefault("gid", 0)
    made["namespaces"] = {"user", *options.get("namespaces", ())}
    return made


def _setgroups_denied() -> bool:
    """Whether our own user namespace lets nobody set supplementary groups: made without rights over
    the one above it (user_namespaces(7)), as rootless containers are."""
    try:
        with open("/proc/self/setgroups", "rb") as file:
            return file.read().strip() == b"deny"
    except OSError:
        return False


def add(supervisor: Supervisor, target: Target, container: Container) -> None:
    """Have the target's listener served, set up for speed; it is closed if that fails."""
    from proctor.kernel.listener import Listener

    listener = Listener(target.take_listener())
    try:
        wake_in_step(listener)
        supervisor.add(listener, container)
    except BaseException:
        listener.close()  # while a copy is open, children of a command that is gone wait for answers
        raise


def wake_in_step(listener: Listener) -> None:
    """The target goes on on our processor the moment we answer, several times faster; nothing before
    Linux 6.6."""
    from proctor.errors import Unsupported
    from proctor.kernel import abi

    try:
        listener.set_flags(abi.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
    except Unsupported:
        pass


def start(supervisor: Supervisor, argv: Sequence[StrOrBytes]) -> None:
    """:raises LaunchError: there are no more threads for us."""
    try:
        supervisor.start()
    except RuntimeError:
        import errno

        from proctor.errors import LaunchError

        raise LaunchError(
            "thread",
            errno.EAGAIN,
            f"cannot start a thread to supervise {os.fsdecode(argv[0])!r} (RLIMIT_NPROC, the pids.max "
            "of a cgroup, or memory for its stack)",
        ) from None


def refuse_killed(target: Target, argv: Sequence[StrOrBytes], filtered: bool) -> None:
    """Say what became of a command that never ran, where there is nobody else to say it.

    :raises LaunchError: it was killed before its execve succeeded.
    """
    number = target.killed_before_exec()
    if not number:
        return
    import errno
    import signal

    from proctor.errors import LaunchError

    name, command = signal.Signals(number).name, os.fsdecode(argv[0])
    if number == signal.SIGSYS and filtered:
        # Under its filter the launch makes no call but this one (and exit_group, where it failed)
        why = (
            f"{name}, by which its own filter kills, ended it in execve, before it could begin: "
            "the filter has to let execve run, or notify it"
        )
    else:
        why = f"{name} ended it before it could begin"
    raise LaunchError("execve", errno.ECANCELED, f"cannot run {command!r}: {why}")

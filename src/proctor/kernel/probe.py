"""What this kernel and machine can do: asked, never inferred from a version.

Each probe tries the thing in the newest way and reads the errno.  The result is a value,
:class:`~proctor.kernel.support.Support`: yes, no or unknown, why, since which Linux it exists, and
what its absence changes for the user.  Nothing here changes the calling process: listeners are made in
throw-away targets.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
from array import array
from collections.abc import Callable, Iterator

from proctor.kernel import _core, abi, pidfd, raw, seccomp
from proctor.kernel.plan import plan
from proctor.kernel.probe_addfd import addfd_send_survives_signals
from proctor.kernel.start import Throwaway, start
from proctor.kernel.support import Support


def report() -> list[Support]:
    """Everything, in the order in which it matters."""
    found: list[Support] = []
    for part in (_basics, _flags, _actions, _listener, _around):
        found.extend(part())
    return found


def usable(found: list[Support]) -> bool:
    """Whether supervision can work here at all."""
    return all(line.ok for line in found if line.essential)


def _errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as problem:
        return problem.errno or errno.EIO
    return 0


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number))


def _basics() -> Iterator[Support]:
    # op -1 is EINVAL where seccomp(2) exists, ENOSYS where it does not (or is filtered away)
    code = _errno_of(lambda: raw.seccomp(0xFFFFFFFF, 0, None))
    yield Support(
        "seccomp(2)", code == errno.EINVAL,
        "" if code == errno.EINVAL else f"{_name(code)}: not built into this kernel, or blocked from above",
        "3.17", "nothing works", True,
    )  # fmt: skip
    yield _notif_sizes()
    for name in ("actions_avail", "actions_logged"):
        try:
            with open(f"/proc/sys/kernel/seccomp/{name}", encoding="ascii") as file:
                yield Support(name, True, file.read().strip(), "4.14")
        except OSError as problem:
            yield Support(
                name, None, f"/proc/sys/kernel/seccomp/{name}: {problem.strerror}", "4.14",
                "this table cannot say which actions are logged",
            )  # fmt: skip


def _notif_sizes() -> Support:
    try:
        sizes = seccomp.notif_sizes()
    except OSError as problem:
        said = _name(problem.errno or errno.EIO)
        return Support("GET_NOTIF_SIZES", False, said, "5.0", "no user notification here", True)
    return Support(
        "GET_NOTIF_SIZES", sizes == abi.NOTIF_SIZES,
        f"notif {sizes[0]}, resp {sizes[1]}, data {sizes[2]} bytes"
        + ("" if sizes == abi.NOTIF_SIZES else f"; expected {abi.NOTIF_SIZES}"),
        "5.0", "no user notification here", True,
    )  # fmt: skip


_WITHOUT_FLAG = {
    "TSYNC": "filters cannot be spread to other threads",
    "LOG": "filters cannot ask for audit records",
    "SPEC_ALLOW": "speculation mitigations stay on under a filter",
    "NEW_LISTENER": "nothing can be supervised",
    "TSYNC_ESRCH": "TSYNC cannot go with a listener",
    "WAIT_KILLABLE_RECV": "signals may interrupt supervised calls and make them come again",
}


def _flags() -> Iterator[Support]:
    for name, without in _WITHOUT_FLAG.items():
        code = seccomp.flag_problem(name)
        yield Support(
            f"filter flag {name}", code == 0, _name(code) if code else "", abi.FILTER_FLAGS_SINCE[name], without,
            name == "NEW_LISTENER",
        )  # fmt: skip


def _actions() -> Iterator[Support]:
    since = {"kill_process": "4.14", "user_notif": "5.0", "log": "4.14"}
    for name, value in abi.ACTIONS.items():
        word = value.to_bytes(4, "little")
        code = _errno_of(lambda w=word: raw.seccomp(abi.SECCOMP_GET_ACTION_AVAIL, 0, w))  # type: ignore[misc]
        yield Support(
            f"action {name.upper()}", code == 0, "" if code == 0 else _name(code),
            since.get(name, "3.5"), f"filters that return {name} kill instead",
            name == "user_notif",
        )  # fmt: skip


def listener_above() -> bool | None:
    """Whether a listener sits above this process, so that ours would be EBUSY; None if unknown."""
    try:
        with Throwaway():
            return False
    except OSError as problem:
        return True if problem.errno == errno.EBUSY else None


def _listener() -> Iterator[Support]:
    try:
        trial = Throwaway()
    except OSError as problem:
        detail = f"{problem.filename or 'launch'}: {problem.strerror}"
        if problem.errno == errno.EBUSY:
            detail = (
                "a listener already sits above this process (nested supervision, WSL, a container)"
            )
        yield Support(
            "a listener of our own", False, detail, "5.0", "every supervised start is refused", True
        )
        return
    yield Support("a listener of our own", True, "none above us", "5.0", "", True)
    with trial as fd:
        bogus = 1
        code = _errno_of(lambda: _core.send(fd, bogus, 0, 0, 0))
        yield Support(
            "ioctl SEND",
            code == errno.ENOENT,
            _name(code) if code != errno.ENOENT else "",
            "5.0",
            "",
            True,
        )
        code = _errno_of(lambda: _core.send(fd, bogus, 0, 0, abi.SECCOMP_USER_NOTIF_FLAG_CONTINUE))
        yield Support(
            "SEND with CONTINUE", code == errno.ENOENT, _name(code) if code != errno.ENOENT else "",
            "5.5", "calls cannot be let run",
        )  # fmt: skip
        code = _errno_of(lambda: _core.id_valid(fd, bogus))
        yield Support("ioctl ID_VALID", code == 0, _name(code) if code else "", "5.0", "", True)
        for name, flags, since, without in (
            ("ioctl ADDFD", 0, "5.9", "no descriptor can be handed over"),
            ("ADDFD with SEND", abi.SECCOMP_ADDFD_FLAG_SEND, "5.14", "handing over takes two steps and may leak on a signal"),
        ):  # fmt: skip
            code = _errno_of(lambda f=flags: _core.addfd(fd, bogus, fd, f, 0, 0))  # type: ignore[misc]
            yield Support(
                name,
                code == errno.ENOENT,
                _name(code) if code != errno.ENOENT else "",
                since,
                without,
            )
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        hung = bool(poll.poll(0))  # its only user is reaped
        yield Support(
            "POLLHUP of a listener", hung, "", "5.9",
            "the end of what is supervised is not noticed", True,
        )  # fmt: skip
        code = _errno_of(
            lambda: fcntl.ioctl(
                fd, abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, abi.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
            )
        )
        yield Support(
            "ioctl SET_FLAGS (SYNC_WAKE_UP)", code == 0, _name(code) if code else "", "6.6",
            "wake-ups are not synchronous: a little slower",
        )  # fmt: skip


def _around() -> Iterator[Support]:
    yield _yama()
    yield _user_namespaces()
    yield _process_vm_readv()
    yield _pidfd_thread()
    yield addfd_send_survives_signals()


def _yama() -> Support:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            scope = int(file.read())
    except OSError:
        return Support("Yama", True, "not active")
    words = {0: "classic", 1: "descendants only", 2: "CAP_SYS_PTRACE only", 3: "nobody"}
    return Support(
        "Yama", scope < 2 or (scope == 2 and os.geteuid() == 0),
        f"ptrace_scope {scope}: {words.get(scope, '?')}", "",
        "callers' memory cannot be read; answering still works",
    )  # fmt: skip


def _user_namespaces() -> Support:
    name, without = "user namespaces", "--userns does not work; supervising works all the same"
    try:
        started = start(plan(["/proc/self/proctor-probe"], namespaces=["user"]))
    except OSError as problem:
        return Support(name, False, f"{problem.filename}: {problem.strerror}", "3.8", without)
    os.close(started.status_fd)
    pidfd.reap(started.pidfd)
    os.close(started.pidfd)
    failed = started.failure()
    if failed is not None and failed[0] != "execve":
        return Support(name, False, f"{failed[0]}: {os.strerror(failed[1])}", "3.8", without)
    return Support(name, True, "", "3.8")


def _process_vm_readv() -> Support:
    known = array("B", b"proctor")
    code = _errno_of(lambda: raw.process_vm_readv(os.getpid(), known.buffer_info()[0], len(known)))
    return Support(
        "process_vm_readv", code == 0, _name(code) if code else "", "3.2",
        "memory is read through /proc/PID/mem, a little slower",
    )  # fmt: skip


def _pidfd_thread() -> Support:
    code = _errno_of(lambda: os.close(os.pidfd_open(os.getpid(), pidfd.PIDFD_THREAD)))
    return Support(
        "PIDFD_THREAD", code == 0, _name(code) if code else "", "6.9",
        "threads are anchored by their process, not by themselves",
    )  # fmt: skip

"""seccomp(2) itself, for those who install filters by hand.

Most want :func:`proctor.spawn`, which installs its filter in a new process: a filter in the
monitor's own process makes the monitor wait for its own answers.
"""

from __future__ import annotations

import errno
import struct
from array import array
from collections.abc import Iterable

from proctor.errors import (
    FilterError,
    NestedListener,
    NotPermitted,
    ProctorError,
    Unsupported,
)
from proctor.kernel import abi, raw

_LOGGED = "/proc/sys/kernel/seccomp/actions_logged"


def strict_mode() -> None:
    """SECCOMP_SET_MODE_STRICT: from now on this thread may read, write, _exit and sigreturn; anything
    else kills it (SIGKILL).

    :raises OSError: EINVAL if a filter is installed already.
    """
    raw.seccomp(abi.SECCOMP_SET_MODE_STRICT, 0, None)


def install(program: bytes, flags: Iterable[str] = ()) -> int:
    """SECCOMP_SET_MODE_FILTER on the calling thread (every thread with TSYNC).

    :param program: packed ``sock_filter``, as :attr:`proctor.filter.program.Program.code`.
    :param flags: names of :data:`proctor.kernel.abi.FILTER_FLAGS`: TSYNC, LOG, SPEC_ALLOW,
        NEW_LISTENER, TSYNC_ESRCH (5.7), WAIT_KILLABLE_RECV (5.19).
    :returns: the listener with NEW_LISTENER (CLOEXEC, yours to close), else 0.
    :raises NotPermitted: neither no_new_privs nor CAP_SYS_ADMIN (EACCES).
    :raises NestedListener: NEW_LISTENER under another listener (EBUSY).
    :raises Unsupported: this kernel does not know one of the flags.
    :raises FilterError: the kernel refuses the program, or the flags together.
    :raises OSError: ESRCH if a thread could not be synchronised; ENOMEM beyond the limit of a
        thread's filters together; EMFILE.
    """
    word = 0
    names = tuple(flags)
    for name in names:
        if name not in abi.FILTER_FLAGS:
            raise FilterError(
                f"unknown filter flag {name!r}; there are {', '.join(abi.FILTER_FLAGS)}"
            )
        word |= abi.FILTER_FLAGS[name]
    if "WAIT_KILLABLE_RECV" in names and "NEW_LISTENER" not in names:
        raise FilterError("WAIT_KILLABLE_RECV is about a listener: it goes with NEW_LISTENER")
    if {"TSYNC", "NEW_LISTENER"} <= {*names} and "TSYNC_ESRCH" not in names:
        raise FilterError("TSYNC and NEW_LISTENER go together only with TSYNC_ESRCH (Linux 5.7)")
    try:
        result = load(program, word)
    except OSError as problem:
        raise _install_error(problem, names) from None
    if result > 0 and not word & abi.SECCOMP_FILTER_FLAG_NEW_LISTENER:
        # TSYNC without TSYNC_ESRCH says which thread stood in the way; nothing was installed
        raise ProcessLookupError(
            errno.ESRCH, f"thread {result} has filters of its own and cannot be synchronised"
        )
    return result


def load(program: bytes, flags: int) -> int:
    """SECCOMP_SET_MODE_FILTER with nothing checked and nothing translated: ``program`` is packed
    ``sock_filter``, ``flags`` the word; returns what the kernel says.

    :raises OSError: with the kernel's errno.
    """
    if len(program) % abi.SOCK_FILTER.size or len(program) // abi.SOCK_FILTER.size > 0xFFFF:
        raise OSError(errno.EINVAL, "a program is whole instructions, at most 65535 of them")
    code = array("B", program)
    # struct sock_fprog: the length and the address; the array outlives the call
    fprog = struct.pack("@HP", len(program) // abi.SOCK_FILTER.size, code.buffer_info()[0])
    return raw.seccomp(abi.SECCOMP_SET_MODE_FILTER, flags, fprog)


def _install_error(problem: OSError, names: tuple[str, ...]) -> Exception:
    if problem.errno == errno.EACCES:
        return NotPermitted(
            errno.EACCES,
            "installing a filter takes no_new_privs (prctl(PR_SET_NO_NEW_PRIVS)) or CAP_SYS_ADMIN",
        )
    if problem.errno == errno.EBUSY:
        return NestedListener()
    if problem.errno == errno.EINVAL:
        for name in names:
            if not flag_available(name):
                return Unsupported(
                    f"filter flag {name}", abi.FILTER_FLAGS_SINCE[name], "install without it"
                )
        return FilterError("the kernel refuses this program, or strict mode is on")
    return problem


def flag_available(name: str) -> bool:
    """Whether this kernel knows a filter flag, without installing anything: the flags are looked at
    before the program, so a NULL program gives EFAULT for known ones (C007-C010)."""
    word = abi.FILTER_FLAGS[name]
    if name == "WAIT_KILLABLE_RECV":
        word |= abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
    try:
        raw.seccomp(abi.SECCOMP_SET_MODE_FILTER, word, None)
    except OSError as problem:
        return problem.errno == errno.EFAULT
    return False


def action_available(action: int) -> bool:
    """SECCOMP_GET_ACTION_AVAIL: whether filters may return this action (Linux 4.14).

    :param action: a value of :data:`proctor.kernel.abi.ACTIONS`.
    """
    try:
        raw.seccomp(abi.SECCOMP_GET_ACTION_AVAIL, 0, action.to_bytes(4, "little"))
    except OSError as problem:
        if problem.errno == errno.EOPNOTSUPP:
            return False
        raise
    return True


def notif_sizes() -> tuple[int, int, int]:
    """SECCOMP_GET_NOTIF_SIZES: bytes of seccomp_notif, seccomp_notif_resp, seccomp_data (Linux 5.0)."""
    buffer = bytearray(6)
    raw.seccomp(abi.SECCOMP_GET_NOTIF_SIZES, 0, buffer)
    notif, resp, data = (int.from_bytes(buffer[i : i + 2], "little") for i in (0, 2, 4))
    return notif, resp, data


_checked = False


def check_notif_sizes() -> None:
    """Refuse a kernel whose structures are not the ones compiled in here; asked once per process.

    Sizes are part of the ioctl numbers, so another size would mean another interface: there is
    nothing to adapt to.

    :raises ProctorError: with what was found.
    """
    global _checked  # noqa: PLW0603 - once per process is the point
    if _checked:
        return
    sizes = notif_sizes()
    if sizes != abi.NOTIF_SIZES:
        raise ProctorError(
            f"this kernel's seccomp structures are not the ones proctor knows: {sizes} bytes instead "
            f"of {abi.NOTIF_SIZES}; a newer proctor may know them"
        )
    _checked = True


def actions_avail() -> tuple[str, ...]:
    """/proc/sys/kernel/seccomp/actions_avail: the actions this kernel has, strongest first."""
    with open("/proc/sys/kernel/seccomp/actions_avail", encoding="ascii") as file:
        return tuple(file.read().split())


def actions_logged() -> tuple[str, ...]:
    """/proc/sys/kernel/seccomp/actions_logged: the actions whose use is written to the audit log."""
    with open(_LOGGED, encoding="ascii") as file:
        return tuple(file.read().split())


def set_actions_logged(names: Iterable[str]) -> None:
    """Say which actions are logged, for the whole machine (root); "allow" cannot be.

    :raises FilterError: a name that is no action, or "allow".
    :raises PermissionError: not root.
    """
    wanted = tuple(names)
    for name in wanted:
        if name not in abi.ACTIONS or name == "allow":
            raise FilterError(f"{name!r} cannot be logged; there are {', '.join(abi.ACTIONS)}")
    with open(_LOGGED, "w", encoding="ascii") as file:
        file.write(" ".join(wanted))

"""seccomp(2) and the prctl(2)s about it: modes, filters, listeners, and every refusal in order.

Sources: ``kernel/seccomp.c`` 5.0 (``seccomp_set_mode_filter``, GET_NOTIF_SIZES);
``kernel/seccomp.c`` 5.7 (TSYNC_ESRCH); ``kernel/seccomp.c`` 6.12 (``do_seccomp``,
``seccomp_set_mode_filter``, ``seccomp_prepare_filter``, ``seccomp_attach_filter``); selftests
seccomp_syscall, detect_seccomp_filter_flags, filter_size_limits, TSYNC.*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.kernel.abi import (
    ACTIONS,
    MAX_INSTRUCTIONS,
    NOTIF_SIZES,
    SECCOMP_FILTER_FLAG_LOG,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    SECCOMP_FILTER_FLAG_TSYNC,
    SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    SECCOMP_GET_ACTION_AVAIL,
    SECCOMP_GET_NOTIF_SIZES,
    SECCOMP_SET_MODE_FILTER,
    SECCOMP_SET_MODE_STRICT,
)
from proctor.model.kernel import filters, listener, programs
from proctor.model.kernel.linux import (
    EACCES,
    EBUSY,
    EFAULT,
    EINVAL,
    ENOMEM,
    EOPNOTSUPP,
    ESRCH,
    PR_GET_NO_NEW_PRIVS,
    PR_GET_SECCOMP,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP,
)
from proctor.model.kernel.tasks import MODE_FILTER, MODE_STRICT

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.tasks import Task

_ACTIONS = frozenset(ACTIONS.values())


def seccomp(
    kernel: Kernel, task: Task, operation: int, flags: int, argument: bytes | int | None
) -> int:
    """seccomp(2).

    :param argument: a program (packed ``sock_filter``) for SET_MODE_FILTER; the action's number
        for GET_ACTION_AVAIL; None is NULL.  An int given for a program is a bad pointer.
    :returns: 0, a descriptor, a thread's number, or a negative errno.  GET_NOTIF_SIZES returns
        0; the sizes are :data:`proctor.kernel.abi.NOTIF_SIZES`.

    Source: ``kernel/seccomp.c`` 6.12 ``do_seccomp``; C004-C015.
    """
    operation &= 0xFFFFFFFF
    flags &= 0xFFFFFFFF
    if operation == SECCOMP_SET_MODE_STRICT:
        if flags or argument is not None:
            return -EINVAL
        return set_mode_strict(task)
    if operation == SECCOMP_SET_MODE_FILTER:
        return set_mode_filter(kernel, task, flags, argument)
    if operation == SECCOMP_GET_ACTION_AVAIL:
        if flags:
            return -EINVAL
        if not isinstance(argument, int):
            return -EFAULT
        return 0 if argument in _ACTIONS else -EOPNOTSUPP
    if operation == SECCOMP_GET_NOTIF_SIZES:
        if flags:
            return -EINVAL
        return -EFAULT if argument is None else 0
    return -EINVAL


def notif_sizes() -> tuple[int, int, int]:
    """What GET_NOTIF_SIZES fills in."""
    return NOTIF_SIZES


def set_mode_strict(task: Task) -> int:
    """Mode 1; a task under a filter stays there (C015).

    Source: ``kernel/seccomp.c`` 6.12 ``seccomp_set_mode_strict``.
    """
    if task.mode not in (0, MODE_STRICT):
        return -EINVAL
    task.mode = MODE_STRICT
    return 0


def known_flags(features: frozenset[str]) -> int:
    """The filter flags this kernel knows (``SECCOMP_FILTER_FLAG_MASK``)."""
    flags = (
        SECCOMP_FILTER_FLAG_TSYNC
        | SECCOMP_FILTER_FLAG_LOG
        | SECCOMP_FILTER_FLAG_SPEC_ALLOW
        | SECCOMP_FILTER_FLAG_NEW_LISTENER
    )
    if "tsync_esrch" in features:
        flags |= SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    if "wait_killable_recv" in features:
        flags |= SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    return flags


def set_mode_filter(kernel: Kernel, task: Task, flags: int, argument: bytes | int | None) -> int:
    """SECCOMP_SET_MODE_FILTER: flags, pointer, length, privilege, program, descriptor, mode,
    nesting, length of the path, TSYNC; then the filter is the task's newest.

    Source: ``kernel/seccomp.c`` 5.0; ``kernel/seccomp.c`` 5.7 (51891498f2da) and
    6.12 ``seccomp_set_mode_filter``; C001-C010, C018-C022.
    """
    if flags & ~known_flags(kernel.features):
        return -EINVAL
    wants_listener = bool(flags & SECCOMP_FILTER_FLAG_NEW_LISTENER)
    tsync = bool(flags & SECCOMP_FILTER_FLAG_TSYNC)
    esrch = bool(flags & SECCOMP_FILTER_FLAG_TSYNC_ESRCH)
    if tsync and wants_listener and not esrch:
        return -EINVAL
    if flags & SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV and not wants_listener:
        return -EINVAL
    made = _prepare(task, argument)
    if isinstance(made, int):
        return made
    fd = 0
    if wants_listener:
        fd = task.files.unused(task.process.nofile)
        if fd < 0:
            return fd
    if task.mode not in (0, MODE_FILTER):
        return -EINVAL
    if wants_listener and filters.listener_above(task.filter):
        return -EBUSY
    refused = _refused(kernel, task, made.code, tsync, esrch)
    if refused:
        return refused
    _attach(kernel, task, made, flags, tsync)
    if wants_listener:
        task.files.install(fd, listener.attach(kernel, made), cloexec=True)
    return fd


def _prepare(task: Task, argument: bytes | int | None) -> filters.Filter | int:
    """``seccomp_prepare_user_filter``: EFAULT, length, EACCES, then the program's check."""
    if not isinstance(argument, bytes):
        return -EFAULT
    length = len(argument) // 8
    if length == 0 or length > MAX_INSTRUCTIONS:
        return -EINVAL
    if not task.no_new_privs and not task.cap_sys_admin:
        return -EACCES
    code = programs.load(argument)
    return -EINVAL if code is None else filters.Filter(code)


def _refused(kernel: Kernel, task: Task, code: programs.Code, tsync: bool, esrch: bool) -> int:
    """``seccomp_attach_filter``'s refusals: the path's length, and threads that diverged."""
    if filters.path_length(code, task.filter) > filters.PATH_LIMIT:
        return -ENOMEM
    if tsync:
        diverged = filters.cannot_sync(task.process, task, kernel.features)
        if diverged is not None:
            return -ESRCH if esrch else diverged.seen_from(task.process.namespace)
    return 0


def _attach(kernel: Kernel, task: Task, made: filters.Filter, flags: int, tsync: bool) -> None:
    """The new filter takes over the task's reference to the old one, and its threads follow.

    Source: ``kernel/seccomp.c`` 6.12 ``seccomp_attach_filter``, ``seccomp_assign_mode``.
    """
    made.log = bool(flags & SECCOMP_FILTER_FLAG_LOG)
    made.wait_killable = bool(flags & SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    made.prev = task.filter
    task.filter = made
    task.filter_count += 1
    task.mode = MODE_FILTER
    if tsync:
        filters.sync(task.process, task, kernel.features)


def prctl(
    kernel: Kernel, task: Task, option: int, value: int, argument: bytes | None = None
) -> int:
    """The prctl(2)s that matter here.

    Source: ``kernel/sys.c``, ``kernel/seccomp.c`` 6.12 ``prctl_set_seccomp``.
    """
    if option == PR_SET_NO_NEW_PRIVS:
        if value != 1:
            return -EINVAL
        task.no_new_privs = True
        return 0
    if option == PR_GET_NO_NEW_PRIVS:
        return int(task.no_new_privs)
    if option == PR_GET_SECCOMP:
        return task.mode
    if option == PR_SET_SECCOMP:
        if value == MODE_STRICT:
            return set_mode_strict(task)
        if value == MODE_FILTER:
            return set_mode_filter(kernel, task, 0, argument)
    return -EINVAL

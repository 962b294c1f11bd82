"""What a filter may say: the eight return actions, their data, and which one wins.

>>> from proctor import actions
>>> str(actions.errno(errno.EROFS)), actions.NOTIFY.name
('errno(EROFS)', 'user_notif')

When several filters judge one call, the kernel takes the lowest ``(s32)(ret & 0xffff0000)``
(``seccomp_run_filters`` in kernel/seccomp.c), and of equal ones the newest filter's.  An action
it does not know kills the process (C027).
"""

from __future__ import annotations

import errno as _errno
from typing import Final

from proctor.errors import FilterError
from proctor.given import one
from proctor.kernel import abi
from proctor.records import NamedTuple

_NAMES: Final[dict[int, str]] = {value: name for name, value in abi.ACTIONS.items()}
_WITH_DATA: Final = frozenset({abi.SECCOMP_RET_TRAP, abi.SECCOMP_RET_ERRNO, abi.SECCOMP_RET_TRACE})


class Action(NamedTuple):
    """What a filter says of a call: a kind, ``SECCOMP_RET_*``, and its 16 bits of data.

    ::

        made = proctor.actions.Action(0x00050000, errno.EROFS)    # SECCOMP_RET_ERRNO
        assert made == proctor.actions.errno(errno.EROFS)

    Data means an errno (ERRNO), ``si_errno`` (TRAP) or the tracer's event message (TRACE); the
    others have none.  Use the constants and :func:`errno`, :func:`trap`, :func:`trace`.
    """

    kind: int
    data: int = 0

    @property
    def value(self) -> int:
        """The 32 bits a program returns."""
        return self.kind | self.data

    @property
    def name(self) -> str:
        """The action's name as /proc/sys/kernel/seccomp/actions_avail has it."""
        return _NAMES.get(self.kind, f"unknown {self.kind:#x}")

    def __str__(self) -> str:
        if self.kind == abi.SECCOMP_RET_ERRNO:
            return f"errno({_errno.errorcode.get(self.data, self.data)})"
        if self.kind == abi.SECCOMP_RET_USER_NOTIF:
            return "notify"
        return f"{self.name}({self.data})" if self.data else self.name


KILL_PROCESS: Final = Action(abi.SECCOMP_RET_KILL_PROCESS)
KILL_THREAD: Final = Action(abi.SECCOMP_RET_KILL_THREAD)
TRAP: Final = Action(abi.SECCOMP_RET_TRAP)
NOTIFY: Final = Action(abi.SECCOMP_RET_USER_NOTIF)
LOG: Final = Action(abi.SECCOMP_RET_LOG)
ALLOW: Final = Action(abi.SECCOMP_RET_ALLOW)


def errno(number: int) -> Action:
    """The call is not made and fails with ``number`` (0..4095; 0 makes it return 0, C028).

    :raises FilterError: out of range (the kernel would silently cap it at 4095).
    """
    return checked(Action(abi.SECCOMP_RET_ERRNO, number))


def trap(data: int) -> Action:
    """SIGSYS with ``si_errno`` = ``data`` (0..65535)."""
    return checked(Action(abi.SECCOMP_RET_TRAP, data))


def trace(data: int) -> Action:
    """Hand the call to a ptracer, with ``data`` (0..65535) as PTRACE_GETEVENTMSG; without a
    tracer it fails with ENOSYS."""
    return checked(Action(abi.SECCOMP_RET_TRACE, data))


def checked(action: Action) -> Action:
    """``action`` itself, if a filter may return it.

    :raises FilterError: an unknown action, data out of range, or data on an action that has none
        (ALLOW with data would, for one, never be seen as constant by the kernel's bitmap).
    :raises TypeError: it is no action, or its data no number.
    """
    kind, data = one("action", action, Action, "one of proctor.actions")
    one("data of an action", data, int, "a number")
    if kind not in _NAMES:
        raise FilterError(
            f"unknown filter action {kind:#x}: the kernel would kill the process; "
            f"actions are {', '.join(abi.ACTIONS)}"
        )
    if data and kind not in _WITH_DATA:
        raise FilterError(f"action {_NAMES[kind]} carries no data, but {data} was given")
    if kind == abi.SECCOMP_RET_ERRNO and not 0 <= data <= abi.MAX_ERRNO:
        raise FilterError(
            f"errno {data} is not in 0..{abi.MAX_ERRNO}; give it as a positive number"
        )
    if not 0 <= data <= abi.SECCOMP_RET_DATA:
        raise FilterError(f"action data {data} does not fit in 16 bits")
    return action


def decoded(value: int) -> Action:
    """The :class:`Action` of a program's 32-bit result, known or not."""
    return Action(value & abi.SECCOMP_RET_ACTION_FULL, value & abi.SECCOMP_RET_DATA)


def effective(value: int) -> Action:
    """What the kernel does on ``value``: unknown actions kill the process, errnos are capped."""
    action = decoded(value)
    if action.kind not in _NAMES:
        return KILL_PROCESS
    if action.kind == abi.SECCOMP_RET_ERRNO and action.data > abi.MAX_ERRNO:
        return Action(action.kind, abi.MAX_ERRNO)
    return action


def rank(value: int) -> int:
    """The kernel's order of a result: the lower, the stronger."""
    kind = value & abi.SECCOMP_RET_ACTION_FULL
    return kind - (1 << 32) if kind & 0x80000000 else kind

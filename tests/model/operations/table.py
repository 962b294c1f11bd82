"""Every operation with its weight: of so many steps, how many are of it."""

from __future__ import annotations

from tests.model.operations.calls import op_call
from tests.model.operations.choices import Op
from tests.model.operations.descriptors import op_close, op_dup, op_limits, op_open
from tests.model.operations.filters import op_ask, op_install
from tests.model.operations.inspection import op_count, op_inspect
from tests.model.operations.listeners import (
    op_add_fd,
    op_answer,
    op_continue,
    op_id_valid,
    op_receive,
    op_set_flags,
)
from tests.model.operations.passing import op_pass
from tests.model.operations.signals import (
    op_kill,
    op_kill_call,
    op_leave,
    op_sigaction,
    op_sigmask,
    op_signal,
    op_stop,
)
from tests.model.operations.tasks import (
    op_drop,
    op_exec,
    op_exit,
    op_fork,
    op_thread,
    op_unshare,
    op_wait,
)
from tests.model.operations.waiting import op_epoll, op_poll

#: Their order is part of what a seed means.
OPERATIONS: tuple[tuple[Op, int], ...] = (
    (op_install, 7),
    (op_ask, 3),
    (op_fork, 6),
    (op_thread, 3),
    (op_unshare, 1),
    (op_drop, 1),
    (op_exec, 2),
    (op_exit, 2),
    (op_wait, 4),
    (op_call, 22),
    (op_receive, 18),
    (op_answer, 10),
    (op_continue, 5),
    (op_id_valid, 5),
    (op_add_fd, 10),
    (op_set_flags, 1),
    (op_poll, 7),
    (op_epoll, 6),
    (op_close, 2),
    (op_dup, 3),
    (op_open, 3),
    (op_pass, 6),
    (op_limits, 1),
    (op_sigaction, 4),
    (op_sigmask, 1),
    (op_signal, 8),
    (op_count, 2),
    (op_stop, 5),
    (op_kill, 1),
    (op_leave, 5),
    (op_kill_call, 2),
    (op_inspect, 1),
)

#: What a report counts: an operation's own name, or those of the things that it does.
NAMES = frozenset(
    {
        "add fd",
        "answer",
        "ask",
        "call",
        "close",
        "continue",
        "continue stopped",
        "count handlers",
        "drop privileges",
        "dup",
        "epoll",
        "exec",
        "exit",
        "fork",
        "id valid",
        "inspect",
        "install",
        "kill",
        "kill call",
        "leave",
        "limits",
        "open",
        "pass",
        "poll",
        "receive",
        "set flags",
        "sigaction",
        "sigmask",
        "signal",
        "stop",
        "thread",
        "unshare",
        "wait",
    }
)

"""The life of a notification, as a table: the only place where its states are joined.

:class:`proctor.model.kernel.notify.Knotif` changes state through :func:`step` alone, which looks here, so
that neither the code nor the chart (:mod:`proctor.model.draw.life`) can say something else.

The kernel names three states (``enum notify_state``); the fourth, *gone*, is "not in the list any
more": the notification lives on the stack of its caller (``kernel/seccomp.c`` 5.0
``seccomp_do_user_notification``).
"""

from __future__ import annotations

from typing import Final

from proctor.model.kernel.errors import ModelError
from proctor.model.kernel.linux import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from proctor.records import NamedTuple

NEW: Final = "new"
INIT: Final = "init"
SENT: Final = "sent"
REPLIED: Final = "replied"
GONE: Final = "gone"

READABLE: Final = POLLIN | POLLRDNORM
WRITABLE: Final = POLLOUT | POLLWRNORM


class Transition(NamedTuple):
    """One row: in ``state``, ``event`` leads to ``to``."""

    state: str
    event: str
    to: str
    who: str
    """Whose doing it is: "caller", "monitor" or "kernel"."""
    wakes: int
    """Poll bits with which the listener's wait queue is woken; 0: nobody is told."""
    meaning: str
    source: str
    feature: str = ""
    """Only kernels with this feature have the row; "" is all."""
    wakes_feature: str = ""
    """Only kernels with this feature wake; "" is all."""


TABLE: Final[tuple[Transition, ...]] = (
    Transition(
        NEW, "enqueue", INIT, "caller", READABLE,
        "the filter said USER_NOTIF: id = next_id++, request count + 1",
        "kernel/seccomp.c 5.0, 6.12 seccomp_do_user_notification",
    ),
    Transition(
        INIT, "receive", SENT, "monitor", WRITABLE,
        "RECV: the request count was positive and this is the first waiting",
        "kernel/seccomp.c 5.0, 6.12 seccomp_notify_recv",
    ),
    Transition(
        SENT, "put_back", INIT, "monitor", READABLE,
        "RECV could not write the buffer (EFAULT): waiting again, request count + 1",
        "kernel/seccomp.c 5.0 seccomp_notify_recv; selftest user_notification_fault_recv",
        "", "put_back_wakes_pollers",
    ),
    Transition(
        SENT, "answer", REPLIED, "monitor", 0,
        "SEND: value, error and flags are stored, the caller is woken",
        "kernel/seccomp.c 5.0, 6.12 seccomp_notify_send",
    ),
    Transition(
        SENT, "addfd_send", REPLIED, "monitor", 0,
        "ADDFD with SEND: queued to the caller, whose result is the answer",
        "kernel/seccomp.c 5.14 seccomp_notify_addfd (0ae71c7720e3)", "addfd_send",
    ),
    Transition(
        REPLIED, "addfd_failed", SENT, "caller", 0,
        "the caller could not install the descriptor: answerable again",
        "kernel/seccomp.c 5.14 seccomp_handle_addfd", "addfd_send",
    ),
    Transition(
        REPLIED, "addfd_interrupted", SENT, "monitor", 0,
        "a signal ended the monitor's ADDFD|SEND before the caller saw it: answerable again",
        "selftest user_notification_addfd_send_interrupted; kernel/seccomp.c 6.12.117",
        "addfd_send_retries",
    ),
    Transition(
        INIT, "cancel", GONE, "caller", 0,
        "a signal, death or stop before RECV: the request count stays, for one ENOENT",
        "kernel/seccomp.c 5.0, 6.12 seccomp_do_user_notification",
    ),
    Transition(
        SENT, "cancel", GONE, "caller", 0,
        "a signal, death or stop after RECV (only death under WAIT_KILLABLE): nobody is woken",
        "kernel/seccomp.c 5.0, 6.12 seccomp_do_user_notification",
    ),
    Transition(
        REPLIED, "cancel", GONE, "caller", 0,
        "the caller had begun to leave when the answer came: the answer is lost",
        "kernel/seccomp.c 6.12 seccomp_do_user_notification: goto interrupted",
    ),
    Transition(
        INIT, "close", REPLIED, "monitor", 0,
        "the last copy of the listener was closed: answered with ENOSYS",
        "kernel/seccomp.c 5.0 seccomp_notify_release; kernel/seccomp.c 6.12 seccomp_notify_detach",
    ),
    Transition(
        SENT, "close", REPLIED, "monitor", 0,
        "the last copy of the listener was closed: answered with ENOSYS",
        "kernel/seccomp.c 5.0 seccomp_notify_release; kernel/seccomp.c 6.12 seccomp_notify_detach",
    ),
    Transition(
        REPLIED, "finish", GONE, "caller", 0,
        "the caller runs, takes the answer and leaves the list",
        "kernel/seccomp.c 5.0, 6.12 seccomp_do_user_notification",
    ),
)  # fmt: skip

#: (state, event) to the row.
ROWS: Final[dict[tuple[str, str], Transition]] = {(row.state, row.event): row for row in TABLE}


def step(state: str, event: str, features: frozenset[str]) -> Transition:
    """The row for ``event`` in ``state``.

    :raises ModelError: if the table has none, or the kernel lacks its feature.
    """
    row = ROWS.get((state, event))
    if row is None:
        raise ModelError(f"a notification that is {state!r} cannot {event!r}")
    if row.feature and row.feature not in features:
        raise ModelError(f"{event!r} needs the feature {row.feature!r}")
    return row

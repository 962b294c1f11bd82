"""The caller's side of a notification: asking, sleeping, installing descriptors, going on.

Facts of the mechanism that show here:

* The notification is in the filter's list from the moment it is asked until its caller has run
  again; in between it is INIT, SENT or REPLIED (:mod:`proctor.model.kernel.transitions`).
* The caller's sleep ends for three reasons: its completion was signalled (an answer, or a
  descriptor to install), a signal, or death.  Whether a signal counts depends on the filter's
  WAIT_KILLABLE_RECV and on whether the monitor has received the notification.
* A sleep that a signal ended looks at the state again under the lock; the monitor may have been
  faster.  The model makes that window a step of its own, so that a scheduler can run the monitor
  inside of it.
* Descriptors are installed by the caller itself, in its own table and within its own limit.

Sources: ``kernel/seccomp.c`` 5.0 ``seccomp_do_user_notification``; ``kernel/seccomp.c`` 6.12 and
6.18 (``seccomp_do_user_notification``, ``seccomp_handle_addfd``, ``should_sleep_killable``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.kernel.abi import (
    SECCOMP_ADDFD_FLAG_SEND,
    SECCOMP_RET_USER_NOTIF,
    SECCOMP_USER_NOTIF_FLAG_CONTINUE,
)
from proctor.model.kernel.linux import BLOCKED, ENOSYS, ERESTARTSYS, ESRCH
from proctor.model.kernel.transitions import NEW, REPLIED, SENT, step
from proctor.model.kernel.waits import Wait

if TYPE_CHECKING:
    from proctor.model.kernel.files import File
    from proctor.model.kernel.filters import Filter
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.tasks import Frame, Task


class Addfd:
    """One ADDFD on its way to the caller (``struct seccomp_kaddfd``)."""

    __slots__ = ("cloexec", "done", "file", "flags", "newfd", "result", "setfd", "waiter")

    def __init__(self, file: File, flags: int, setfd: bool, newfd: int, cloexec: bool) -> None:
        self.file = file
        self.flags = flags
        self.setfd = setfd
        self.newfd = newfd
        self.cloexec = cloexec
        self.result = 0
        self.done = False
        #: The monitor's thread that waits for it.
        self.waiter: Task | None = None


class Knotif(Wait):
    """One notification (``struct seccomp_knotif``), and the sleep of its caller."""

    __slots__ = (
        "addfds", "error", "features", "filter", "flags", "frame", "id", "leaving", "ready",
        "state", "task", "val",
    )  # fmt: skip

    def __init__(
        self, task: Task, filter: Filter, frame: Frame, id: int, features: frozenset[str]
    ) -> None:
        super().__init__()
        self.task = task
        self.filter = filter
        self.frame = frame
        self.id = id
        self.features = features
        self.state = NEW
        self.error = 0
        self.val = 0
        self.flags = 0
        #: ``struct completion ready``: how often it was completed and not yet waited for.
        self.ready = 0
        #: Descriptors to install; the newest first (``list_add``).
        self.addfds: list[Addfd] = []
        #: A signal ended the sleep, and the lock is not taken yet.
        self.leaving = False

    def move(self, event: str) -> None:
        """Change state by the table, and wake whom the table says.

        :raises ModelError: if the table has no such transition.

        Source: ``kernel/seccomp.c`` 5.0 (``enum notify_state``); each row of the table names its
        own.
        """
        row = step(self.state, event, self.features)
        self.state = row.to
        if row.wakes and (not row.wakes_feature or row.wakes_feature in self.features):
            self.filter.wqh.wake(row.wakes)

    def complete(self, kernel: Kernel) -> None:
        """``complete(&n.ready)``: let the caller run.

        Source: ``kernel/sched/completion.c`` 6.12.
        """
        self.ready += 1
        kernel.wake(self.task)

    def sleeps_killable(self) -> bool:
        """``should_sleep_killable``.

        Source: ``kernel/seccomp.c`` 5.19 (state == SENT), 6.18 (state >= SENT: an answer that came
        before the caller looked must not be lost).
        """
        if not self.filter.wait_killable:
            return False
        if "wait_killable_after_reply" in self.features:
            return self.state in (SENT, REPLIED)
        return self.state == SENT

    def resume(self, kernel: Kernel, task: Task) -> None:
        """The caller runs again: the loop of ``seccomp_do_user_notification``.

        Source: ``kernel/seccomp.c`` 6.12 ``seccomp_do_user_notification``.
        """
        if self.leaving:
            self._interrupted(kernel, task)
            return
        if self.ready:
            self.ready -= 1
            self._locked(kernel, task)
        elif task.killed or (task.sigpending and not self.killable):
            # The wait returned -ERESTARTSYS; the lock is taken when the task is run next.
            self.leaving = True
            kernel.wake(task)

    def _interrupted(self, kernel: Kernel, task: Task) -> None:
        """The wait was interrupted and the lock is ours: go, or sleep on, killable.

        Source: ``kernel/seccomp.c`` 5.19 (c2aa2dfef243).
        """
        self.leaving = False
        if not self.killable and self.sleeps_killable():
            self._locked(kernel, task)
            return
        self._end(kernel, task, "cancel", -ERESTARTSYS)

    def _locked(self, kernel: Kernel, task: Task) -> None:
        """One round of the loop: a descriptor to install, an answer, or sleep again.

        Source: ``kernel/seccomp.c`` 6.12 ``seccomp_do_user_notification``.
        """
        if self.addfds:
            self._install(kernel, task, self.addfds.pop(0))
        if self.state == REPLIED:
            self._end(kernel, task, "finish", self.error or self.val)
            return
        self.killable = self.sleeps_killable()
        task.state = "D" if self.killable else "S"
        if self.ready or task.killed or (task.sigpending and not self.killable):
            kernel.wake(task)

    def _install(self, kernel: Kernel, task: Task, addfd: Addfd) -> None:
        """``seccomp_handle_addfd``: in the caller's table, within the caller's limit.

        Source: ``kernel/seccomp.c`` 5.9, 5.14; ``fs/file.c`` 6.12.
        """
        limit = task.process.nofile
        if addfd.setfd:
            fd = task.files.receive_at(addfd.newfd, addfd.file, limit, addfd.cloexec)
        else:
            fd = task.files.receive(addfd.file, limit, addfd.cloexec)
        addfd.result = fd
        if addfd.flags & SECCOMP_ADDFD_FLAG_SEND:
            if fd < 0:
                self.move("addfd_failed")
            else:
                self.flags, self.error, self.val = 0, 0, fd
        self._done(kernel, addfd)

    def _done(self, kernel: Kernel, addfd: Addfd) -> None:
        """The monitor's ADDFD has its result.

        Source: ``kernel/seccomp.c`` 6.12 ``seccomp_handle_addfd``.
        """
        addfd.done = True
        if addfd.waiter is not None:
            kernel.wake(addfd.waiter)

    def _end(self, kernel: Kernel, task: Task, event: str, value: int) -> None:
        """Leave the list: with what was answered, or cancelled.

        Descriptors still queued are refused with ESRCH.  If the listener was closed meanwhile
        there is no list to leave.

        Source: ``kernel/seccomp.c`` 6.12 ``seccomp_do_user_notification`` from ``interrupted:`` on.
        """
        while self.addfds:
            addfd = self.addfds.pop(0)
            addfd.result = -ESRCH
            self._done(kernel, addfd)
        self.move(event)
        notif = self.filter.notif
        if notif is not None:
            notif.notifications.pop(self.id, None)
        task.wait = None
        task.state = "R"
        if event == "finish" and self.flags & SECCOMP_USER_NOTIF_FLAG_CONTINUE:
            kernel.run_call(task, self.frame)
            return
        if self.filter.log:  # logged once it is over, and not at all if the call is run
            kernel.log.append((self.frame.nr, SECCOMP_RET_USER_NOTIF))
        kernel.leave(task, value)

    def abandon(self, kernel: Kernel, task: Task) -> None:
        """Never needed: a dying caller leaves through :meth:`resume`, as in the kernel."""


def notify(kernel: Kernel, task: Task, filter: Filter, frame: Frame) -> int:
    """``SECCOMP_RET_USER_NOTIF``: ask the listener of ``filter`` and sleep; -ENOSYS without one.

    It does not fall through to the listener of another filter (C033).

    Source: ``kernel/seccomp.c`` 5.0 ``seccomp_do_user_notification``; ``kernel/seccomp.c`` 6.12.
    """
    notif = filter.notif
    if notif is None:
        return -ENOSYS
    knotif = Knotif(task, filter, frame, notif.take_id(), kernel.features)
    notif.notifications[knotif.id] = knotif
    task.wait = knotif
    task.state = "S"
    notif.requests += 1
    knotif.move("enqueue")
    notif.wake_receiver()
    if task.sigpending or task.killed:
        kernel.wake(task)
    return BLOCKED

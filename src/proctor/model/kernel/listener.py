"""The monitor's side: what the listener's ioctls do, in the order of their checks.

Values in, values out; :mod:`proctor.model.kernel.ioctl` puts bytes around them.  Refusals are negative
errnos.  Receiving and adding descriptors may block the calling task: they return BLOCKED then.

Facts of the mechanism that show here:

* The count of requests is kept apart from the list.  RECV takes one from the count, then looks for
  a waiting notification; if its caller has left meanwhile there is none, which is ENOENT.  So each
  notification cancelled before RECV leaves one ENOENT behind, although poll shows nothing.
* Nothing wakes a poller when a received notification is cancelled.
* ``O_NONBLOCK`` is not looked at: RECV blocks.

Sources: ``kernel/seccomp.c`` 5.0 (``seccomp_notify_recv``, ``_send``, ``_id_valid``, ``_release``,
``_poll``, ``init_listener``); ``kernel/seccomp.c`` 6.12.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from proctor.kernel.abi import (
    SECCOMP_ADDFD_FLAG_SEND,
    SECCOMP_ADDFD_FLAG_SETFD,
    SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP,
    SECCOMP_USER_NOTIF_FLAG_CONTINUE,
)
from proctor.kernel.notification import Notification
from proctor.model.kernel import filters
from proctor.model.kernel.files import File
from proctor.model.kernel.linux import (
    EBADF,
    EBUSY,
    EFAULT,
    EINPROGRESS,
    EINTR,
    EINVAL,
    ENOENT,
    ENOSYS,
    ERESTARTSYS,
    O_CLOEXEC,
    O_RDWR,
    POLLERR,
    POLLHUP,
    POLLIN,
)
from proctor.model.kernel.notify import Addfd, Knotif
from proctor.model.kernel.transitions import INIT, READABLE, REPLIED, SENT, WRITABLE
from proctor.model.kernel.waits import Wait, WaitQueue

if TYPE_CHECKING:
    from proctor.model.kernel.filters import Filter
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.tasks import PidNamespace, Task

#: Takes a received notification; False if it cannot be written.
Write = Callable[[Notification], bool]

_RECEIVER_KEYS = POLLIN | POLLERR | POLLHUP


class Notifications:
    """``struct notification``: what a filter with a listener has more than others."""

    __slots__ = ("filter", "flags", "kernel", "next_id", "notifications", "requests", "waiters")

    def __init__(self, kernel: Kernel, filter: Filter, first_id: int) -> None:
        self.kernel = kernel
        self.filter = filter
        self.requests = 0
        self.flags = 0
        self.next_id = first_id
        #: By id, in order of arrival.
        self.notifications: dict[int, Knotif] = {}
        #: Who sleeps on the semaphore of older kernels.
        self.waiters: deque[Receive] = deque()

    def take_id(self) -> int:
        """``seccomp_next_notify_id``: one after the other; going round is fine.

        Source: ``kernel/seccomp.c`` 6.12.
        """
        taken = self.next_id
        self.next_id = (taken + 1) & 0xFFFFFFFFFFFFFFFF
        return taken

    def waiting(self) -> Knotif | None:
        """The notification the next RECV gets: the oldest, or before 5.19 the newest.

        Source: ``kernel/seccomp.c`` 5.0 (``list_add``); ``kernel/seccomp.c`` 5.19 (4cbf6f621150).
        """
        every = self.notifications.values()
        for knotif in every if "fifo" in self.kernel.features else reversed(every):
            if knotif.state == INIT:
                return knotif
        return None

    def wake_receiver(self) -> None:
        """``up()`` of the semaphore that kernels before 6.11 had: one sleeper gets the request.

        Later kernels wake receivers through the wait queue.

        Source: ``kernel/seccomp.c`` 5.0 ``seccomp_do_user_notification`` (``up``);
        ``kernel/seccomp.c`` 5.0.
        """
        if self.waiters:
            receiver = self.waiters.popleft()
            self.requests -= 1
            receiver.given = True
            self.kernel.wake(receiver.task)

    def poll(self) -> int:
        """``seccomp_notify_poll``.

        Source: ``kernel/seccomp.c`` 5.0; ``kernel/seccomp.c`` 5.9 (99cdb8b9a573) (HUP); ``kernel/seccomp.c`` 6.12.
        """
        bits = 0
        for knotif in self.notifications.values():
            if knotif.state == INIT:
                bits |= READABLE
            elif knotif.state == SENT:
                bits |= WRITABLE
        if self.filter.users == 0 and "hangup" in self.kernel.features:
            bits |= POLLHUP
        return bits

    def queue(self) -> WaitQueue:
        """Where pollers wait."""
        return self.filter.wqh

    def release(self) -> None:
        """The last copy of the listener was closed: everybody waiting gets ENOSYS.

        Source: ``kernel/seccomp.c`` 5.0 ``seccomp_notify_release``; ``kernel/seccomp.c`` 6.12
        ``seccomp_notify_detach``.
        """
        for knotif in self.notifications.values():
            if knotif.state == REPLIED:
                continue
            knotif.move("close")
            knotif.error, knotif.val = -ENOSYS, 0
            knotif.complete(self.kernel)
        self.filter.notif = None
        filters.put_ref(self.filter)


def attach(kernel: Kernel, filter: Filter) -> File:
    """``init_listener``: give ``filter`` a listener; the file that is it (anon inode, O_RDWR).

    Source: ``kernel/seccomp.c`` 5.0; ``kernel/seccomp.c`` 6.12; C016, C042.
    """
    notif = Notifications(kernel, filter, kernel.random.getrandbits(64))
    filter.notif = notif
    filters.get_ref(filter)
    return File("seccomp notify", O_RDWR, notif)


class Receive(Wait):
    """A RECV that sleeps until there is a request, nobody uses the filter, or a signal.

    Source: ``kernel/seccomp.c`` 5.0 (``down_interruptible``); ``kernel/seccomp.c`` 6.6
    ``recv_wait_event`` (4943b66df147), 6.11 (95036a79e7e3).
    """

    __slots__ = ("given", "notif", "task", "write")

    def __init__(self, notif: Notifications, task: Task, write: Write) -> None:
        super().__init__()
        self.notif = notif
        self.task = task
        self.write = write
        #: An older kernel's semaphore handed us a request.
        self.given = False

    def wake(self, key: int) -> None:
        """``recv_wake_function``: only for what RECV could use."""
        if key & _RECEIVER_KEYS:
            self.notif.kernel.wake(self.task)

    def resume(self, kernel: Kernel, task: Task) -> None:
        """Look again, in the kernel's order: a request, no users, a signal."""
        notif = self.notif
        queued = "recv_wait_queue" in kernel.features
        if self.given:
            self._finish(kernel, task)
        elif queued and notif.requests > 0:
            notif.requests -= 1
            self._finish(kernel, task)
        elif "recv_ends_when_unused" in kernel.features and notif.filter.users == 0:
            self._finish(kernel, task)
        elif task.sigpending or task.killed:
            self.abandon(kernel, task)
            kernel.finish(task, -ERESTARTSYS if queued else -EINTR)

    def _finish(self, kernel: Kernel, task: Task) -> None:
        self.abandon(kernel, task)
        kernel.finish(task, _take(kernel, task, self.notif, self.write))

    def abandon(self, kernel: Kernel, task: Task) -> None:
        """Leave the queues."""
        self.notif.filter.wqh.remove(self.wake)
        if self in self.notif.waiters:
            self.notif.waiters.remove(self)


def recv(kernel: Kernel, task: Task, notif: Notifications, write: Write) -> int:
    """``SECCOMP_IOCTL_NOTIF_RECV``, once the buffer was found to be zero.

    :param write: takes what was received; says False if it cannot (EFAULT).
    :returns: 0, a negative errno, or BLOCKED.

    Source: ``kernel/seccomp.c`` 5.0 ``seccomp_notify_recv``; ``kernel/seccomp.c`` 6.12.
    """
    unused = "recv_ends_when_unused" in kernel.features and notif.filter.users == 0
    if not unused:
        if notif.requests <= 0:
            return _sleep(kernel, task, notif, write)
        notif.requests -= 1
    return _take(kernel, task, notif, write)


def _sleep(kernel: Kernel, task: Task, notif: Notifications, write: Write) -> int:
    """RECV waits: on the filter's queue, or before 6.6 on the semaphore.

    Source: ``kernel/seccomp.c`` 5.0 ``seccomp_notify_recv``; ``kernel/seccomp.c`` 6.6
    ``recv_wait_event``.
    """
    waiting = Receive(notif, task, write)
    if "recv_wait_queue" in kernel.features:
        notif.filter.wqh.add(waiting.wake)
    else:
        notif.waiters.append(waiting)
    return kernel.sleep(task, waiting)


def _take(kernel: Kernel, task: Task, notif: Notifications, write: Write) -> int:
    """The request is ours: find whom it was for, mark it received, copy it out."""
    knotif = notif.waiting()
    if knotif is None:
        return -ENOENT
    knotif.move("receive")
    if not write(seen(knotif, task.process.namespace)):
        return _put_back(kernel, notif, knotif)
    return 0


def seen(knotif: Knotif, namespace: PidNamespace) -> Notification:
    """The notification as a receiver in ``namespace`` gets it.

    The pid is the caller's thread id in *that* namespace, 0 if it has none there (C040, C046).
    The verdict's 16 data bits go nowhere (C047).
    """
    frame = knotif.frame
    pid = knotif.task.numbers.get(namespace, 0)
    return Notification(knotif.id, pid, frame.nr, frame.arch, frame.args, frame.ip)


def _put_back(kernel: Kernel, notif: Notifications, knotif: Knotif) -> int:
    """The buffer could not be written: as if it had not been received (EFAULT).

    A caller that sleeps killable is let go round once, to sleep interruptible again.

    Source: ``kernel/seccomp.c`` 5.0 ("Userspace screwed up. ... reset it back to INIT");
    ``kernel/seccomp.c`` 5.19, 6.12.
    """
    if knotif.sleeps_killable():
        knotif.complete(kernel)
    notif.requests += 1
    knotif.move("put_back")
    notif.wake_receiver()
    return -EFAULT


def send(kernel: Kernel, notif: Notifications, id: int, val: int, error: int, flags: int) -> int:
    """``SECCOMP_IOCTL_NOTIF_SEND``: EINVAL, ENOENT, EINPROGRESS, in this order.

    ``error`` is not looked at, neither sign nor size (C053-C056).

    Source: ``kernel/seccomp.c`` 5.0 ``seccomp_notify_send``; ``kernel/seccomp.c`` 5.5 (CONTINUE);
    ``kernel/seccomp.c`` 6.12.
    """
    known = SECCOMP_USER_NOTIF_FLAG_CONTINUE if "continue_flag" in kernel.features else 0
    if flags & ~known:
        return -EINVAL
    if flags & SECCOMP_USER_NOTIF_FLAG_CONTINUE and (error or val):
        return -EINVAL
    knotif = notif.notifications.get(id)
    if knotif is None:
        return -ENOENT
    if knotif.state != SENT:
        return -EINPROGRESS
    knotif.move("answer")
    knotif.error, knotif.val, knotif.flags = error, val, flags
    knotif.complete(kernel)
    return 0


def id_valid(notif: Notifications, id: int) -> int:
    """``SECCOMP_IOCTL_NOTIF_ID_VALID``: 0 for what is received and unanswered, else ENOENT.

    Source: ``kernel/seccomp.c`` 5.0 ``seccomp_notify_id_valid``; ``kernel/seccomp.c`` 6.12.
    """
    knotif = notif.notifications.get(id)
    return 0 if knotif is not None and knotif.state == SENT else -ENOENT


def set_flags(kernel: Kernel, notif: Notifications, flags: int) -> int:
    """``SECCOMP_IOCTL_NOTIF_SET_FLAGS``: the word itself; nothing the model could show changes.

    Source: ``kernel/seccomp.c`` 6.6 ``seccomp_notify_set_flags``.
    """
    if flags & ~SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP:
        return -EINVAL
    notif.flags = flags
    return 0


class AddfdWait(Wait):
    """The monitor's thread waits until the caller has installed a descriptor.

    Source: ``kernel/seccomp.c`` 5.9, 5.14 ``seccomp_notify_addfd``.
    """

    __slots__ = ("addfd", "knotif")

    def __init__(self, addfd: Addfd, knotif: Knotif) -> None:
        super().__init__()
        self.addfd = addfd
        self.knotif = knotif

    def resume(self, kernel: Kernel, task: Task) -> None:
        """Done, or interrupted: then the request is withdrawn if the caller has not taken it."""
        addfd = self.addfd
        if addfd.done:
            addfd.file.put()
            kernel.finish(task, addfd.result)
        elif task.sigpending or task.killed:
            self.abandon(kernel, task)
            kernel.finish(task, -ERESTARTSYS)

    def abandon(self, kernel: Kernel, task: Task) -> None:
        """Withdraw.  Without the fix, an ADDFD|SEND leaves REPLIED behind: the caller wakes,
        finds nothing to install, and returns 0 (C074)."""
        addfd, knotif = self.addfd, self.knotif
        knotif.addfds.remove(addfd)
        if addfd.flags & SECCOMP_ADDFD_FLAG_SEND and "addfd_send_retries" in kernel.features:
            knotif.move("addfd_interrupted")
        addfd.file.put()


def addfd(
    kernel: Kernel, task: Task, notif: Notifications,
    id: int, flags: int, srcfd: int, newfd: int, newfd_flags: int,
) -> int:  # fmt: skip
    """``SECCOMP_IOCTL_NOTIF_ADDFD`` once its struct was read: EINVALs, EBADF, ENOENT,
    EINPROGRESS, EBUSY, then to the caller, who installs it.

    :returns: the number in the caller's table, an errno, or BLOCKED until the caller has run.

    Source: ``kernel/seccomp.c`` 5.9 (7cf97b125455), 5.14, 6.12.
    """
    known = SECCOMP_ADDFD_FLAG_SETFD
    if "addfd_send" in kernel.features:
        known |= SECCOMP_ADDFD_FLAG_SEND
    setfd = bool(flags & SECCOMP_ADDFD_FLAG_SETFD)
    if newfd_flags & ~O_CLOEXEC or flags & ~known or (newfd and not setfd):
        return -EINVAL
    file = task.files.get(srcfd)
    if file is None:
        return -EBADF
    knotif = notif.notifications.get(id)
    if knotif is None:
        return -ENOENT
    if knotif.state != SENT:
        return -EINPROGRESS
    if flags & SECCOMP_ADDFD_FLAG_SEND:
        if knotif.addfds:
            return -EBUSY
        knotif.move("addfd_send")
    request = Addfd(file.get(), flags, setfd, newfd, bool(newfd_flags & O_CLOEXEC))
    request.waiter = task
    knotif.addfds.insert(0, request)
    knotif.complete(kernel)
    return kernel.sleep(task, AddfdWait(request, knotif))

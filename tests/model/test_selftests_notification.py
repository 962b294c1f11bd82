"""The user_notification_* tests of the seed patch and of later kernels, on the model.

Names are those of ``tools/testing/selftests/seccomp/seccomp_bpf.c``; each runs on every profile
that has what it tests.
"""

from __future__ import annotations

import pytest

from proctor.kernel import abi
from proctor.model.kernel.features import PROFILES
from proctor.model.kernel.linux import (
    BLOCKED,
    E2BIG,
    EBADF,
    EBUSY,
    EFAULT,
    EINPROGRESS,
    EINTR,
    EINVAL,
    EMFILE,
    ENOENT,
    ENOSYS,
    ERESTARTSYS,
    O_CLOEXEC,
    POLLHUP,
    POLLIN,
    POLLOUT,
    SIGKILL,
    SIGTERM,
    SIGUSR1,
)
from proctor.model.kernel.program import Program
from tests.model.support import (
    ALLOW,
    MAGIC,
    addfd,
    addfd_number,
    exited,
    start,
    trap,
)

RECV = abi.SECCOMP_IOCTL_NOTIF_RECV
SETFD, SEND = abi.SECCOMP_ADDFD_FLAG_SETFD, abi.SECCOMP_ADDFD_FLAG_SEND
KILLABLE = abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
CONTINUE = abi.SECCOMP_USER_NOTIF_FLAG_CONTINUE


def having(*features: str) -> list[str]:
    """The profiles that have all of these."""
    return [name for name, have in PROFILES.items() if have.issuperset(features)]


def every(*features: str) -> pytest.MarkDecorator:
    """Run on every profile that has these features."""
    return pytest.mark.parametrize("profile", having(*features))


def scene(profile: str, call: str = "getppid", flags: int = 0) -> tuple[Program, int, Program]:
    """A monitor with a listener, and its child."""
    monitor = start(profile)
    listener = monitor.listen(trap(call), flags)
    assert listener >= 0
    return monitor, listener, monitor.fork()


@every()
def test_user_notification_basic(profile: str):
    monitor = start(profile)
    child = monitor.fork()
    assert child.install(trap("getppid")) == 0
    assert child.call("getppid") == -ENOSYS
    child.exit(0)
    assert monitor.wait(child) > 0

    for _ in range(4):
        assert monitor.install(ALLOW) == 0
    listener = monitor.listen(trap("getppid"))
    assert listener >= 0
    assert monitor.listen(trap("getppid")) == -EBUSY

    child = monitor.fork()
    assert child.call("getppid") == BLOCKED
    assert monitor.poll(listener) == POLLIN
    if "recv_wants_zeros" in PROFILES[profile]:
        dirty = bytearray(80)
        dirty[8:12] = b"\xff\xff\xff\xff"
        assert monitor.ioctl(listener, RECV, dirty) == -EINVAL
    request = monitor.recv(listener)
    assert request.nr == 110
    assert monitor.poll(listener) == POLLOUT
    assert monitor.send(listener, request.id, MAGIC, flags=1) == -EINVAL
    assert monitor.send(listener, request.id, MAGIC) == 0
    assert child.result == MAGIC
    child.exit(0)
    assert monitor.wait(child) == child.pid
    assert monitor.kernel.reaped == exited(0)


@every()
def test_user_notification_kill_in_middle(profile: str):
    monitor, listener, child = scene(profile)
    child.call("getppid")
    request = monitor.recv(listener)
    old = "id_valid_number" not in PROFILES[profile]
    assert monitor.id_valid(listener, request.id, old_number=old) == 0
    monitor.kill(child, SIGKILL)
    monitor.wait(child)
    assert monitor.id_valid(listener, request.id, old_number=old) == -ENOENT
    assert monitor.send(listener, request.id) == -ENOENT


@every()
def test_user_notification_signal(profile: str):
    monitor, listener, child = scene(profile, "gettid")
    child.handle(SIGUSR1, restart=True)
    child.call("gettid")
    first = monitor.recv(listener)
    monitor.kill(child, SIGUSR1)
    assert child.task.handled == [SIGUSR1]
    assert monitor.send(listener, first.id, error=-1) == -ENOENT
    second = monitor.recv(listener)
    assert second.id == (first.id + 1) & 0xFFFFFFFFFFFFFFFF
    assert monitor.send(listener, second.id, error=-ERESTARTSYS) == 0
    assert child.result == -512


@every()
def test_user_notification_closed_listener(profile: str):
    monitor, listener, child = scene(profile)
    child.close(listener)
    child.call("getppid")
    assert monitor.close(listener) == 0
    assert child.result == -ENOSYS


@every()
def test_user_notification_child_pid_ns(profile: str):
    monitor = start(profile)
    monitor.unshare_pids()
    listener = monitor.listen(trap("getppid"))
    child = monitor.fork()
    assert child.pid == 1
    child.call("getppid")
    request = monitor.recv(listener)
    assert request.pid == child.as_seen_by(monitor) > 1
    assert monitor.send(listener, request.id, MAGIC) == 0
    assert child.result == MAGIC


@every()
def test_user_notification_sibling_pid_ns(profile: str):
    monitor, listener, child = scene(profile)
    child.unshare_pids()
    caller = child.fork()
    monitor.unshare_pids()
    receiver = monitor.fork()
    caller.call("getppid")
    request = receiver.recv(listener)
    assert request.pid == 0
    assert receiver.send(listener, request.id, MAGIC) == 0
    assert caller.result == MAGIC


@every()
def test_user_notification_fault_recv(profile: str):
    monitor, listener, child = scene(profile)
    child.call("getppid")
    assert monitor.ioctl(listener, RECV, None) == -EFAULT
    assert monitor.poll(listener) == POLLIN
    assert monitor.ioctl(listener, RECV, bytes(80)) == -EFAULT
    assert monitor.poll(listener) == POLLIN
    request = monitor.recv(listener)
    assert request.pid == child.pid
    assert monitor.send(listener, request.id, MAGIC) == 0
    assert child.result == MAGIC


@every("continue_flag")
def test_user_notification_continue(profile: str):
    monitor, listener, child = scene(profile, "dup")
    fd = child.open("anything")
    assert child.call("dup", fd) == BLOCKED
    assert monitor.poll(listener) == POLLIN
    request = monitor.recv(listener)
    assert monitor.poll(listener) == POLLOUT
    assert (request.nr, request.args[0]) == (32, fd)
    assert monitor.send(listener, request.id, val=1, flags=CONTINUE) == -EINVAL
    assert monitor.send(listener, request.id, error=-1, flags=CONTINUE) == -EINVAL
    assert monitor.send(listener, request.id, flags=CONTINUE | 2) == -EINVAL
    assert monitor.let_run(listener, request.id) == 0
    assert child.file(child.result) is child.file(fd)


def test_user_notification_continue_before_5_5():
    monitor, listener, child = scene("5.0", "dup")
    child.call("dup", 0)
    request = monitor.recv(listener)
    assert monitor.let_run(listener, request.id) == -EINVAL


@every("hangup")
def test_user_notification_filter_empty(profile: str):
    monitor = start(profile)
    child = monitor.fork(share_files=True)
    listener = child.listen(trap("mknod"))
    assert monitor.poll(listener, POLLIN, timeout=2.0) == BLOCKED
    child.exit(0)
    if "release_at_exit" not in PROFILES[profile]:
        assert monitor.result is None
        monitor.kernel.advance(2.0)
        monitor.wait(child)
        assert monitor.poll(listener, POLLIN) == POLLHUP
    else:
        assert monitor.result == 1
        assert monitor.poll(listener, POLLIN) == POLLHUP


def test_user_notification_filter_empty_before_5_9():
    """The seed patch had no HUP: a listener nobody uses stays silent for ever."""
    monitor = start("5.5")
    child = monitor.fork(share_files=True)
    listener = child.listen(trap("mknod"))
    child.exit(0)
    monitor.wait(child)
    assert monitor.poll(listener) == 0


@every()
def test_user_ioctl_notification_filter_empty(profile: str):
    """A RECV that sleeps while the last user goes: ENOENT since 6.11, for ever before."""
    monitor = start(profile)
    child = monitor.fork(share_files=True)
    listener = child.listen(trap("mknod"))
    assert monitor.recv(listener) == BLOCKED
    child.exit(0)
    if "recv_ends_when_unused" in PROFILES[profile]:
        assert monitor.result == -ENOENT
    else:
        assert monitor.result is None
        assert monitor.state == "S"


@every("hangup")
def test_user_notification_filter_empty_threaded(profile: str):
    monitor = start(profile)
    child = monitor.fork(share_files=True)
    listener = child.listen(trap("mknod"))
    grandchildren = [child.fork(), child.fork()]
    threads = [child.thread(), grandchildren[0].thread()]
    for program in threads:
        program.call("exit", 0)
    for program in grandchildren:
        assert monitor.poll(listener) == 0
        program.exit(0)
        child.wait(program)
    assert monitor.poll(listener) == 0
    child.exit(0)
    monitor.wait(child)
    assert monitor.poll(listener) == POLLHUP


@every("addfd")
def test_user_notification_addfd(profile: str):
    monitor, listener, child = scene(profile)
    # Nobody holds the listener but the monitor, and the numbers are those of the child.
    child.close(listener)
    memfd = monitor.open("memfd")
    assert child.call("getppid") == BLOCKED
    request = monitor.recv(listener)
    first = request.id
    number = abi.SECCOMP_IOCTL_NOTIF_ADDFD

    assert monitor.addfd(listener, first, memfd, newfd_flags=0o4000) == -EINVAL
    assert monitor.addfd(listener, first, memfd, flags=0xFF) == -EINVAL
    assert monitor.addfd(listener, first, memfd, newfd=1) == -EINVAL
    small = addfd(first, 0, memfd, 0, 0)
    assert monitor.ioctl(listener, addfd_number(20), small) == -EINVAL
    big = addfd(first, 0, memfd, 0, 0, size=32)
    big[31] = 1
    assert monitor.ioctl(listener, addfd_number(32), big) == -E2BIG
    assert monitor.ioctl(listener, number, None) == -EFAULT

    assert monitor.addfd(listener, first, memfd, newfd_flags=O_CLOEXEC) == 0
    assert child.file(0) is monitor.file(memfd)
    assert 0 in child.task.files.cloexec
    big[31] = 0
    assert monitor.ioctl(listener, addfd_number(32), big) == 1
    assert 1 not in child.task.files.cloexec
    assert monitor.addfd(listener, first, memfd, SETFD, 42) == 42
    assert child.file(42) is monitor.file(memfd)
    assert monitor.send(listener, first, MAGIC) == 0
    assert child.result == MAGIC

    assert child.call("getppid") == BLOCKED
    second = (first + 1) & 0xFFFFFFFFFFFFFFFF
    assert monitor.addfd(listener, second, memfd) == -EINPROGRESS
    request = monitor.recv(listener)
    assert request.id == second
    if "addfd_send" in PROFILES[profile]:
        assert monitor.addfd(listener, second, memfd, SEND) == 2
        assert child.result == 2
    else:
        assert monitor.addfd(listener, second, memfd, SEND) == -EINVAL


@every("addfd")
def test_user_notification_addfd_rlimit(profile: str):
    monitor, listener, child = scene(profile)
    memfd = monitor.open("memfd")
    child.call("getppid")
    request = monitor.recv(listener)
    child.limit_fds(0)
    assert monitor.addfd(listener, request.id, memfd) == -EMFILE
    if "addfd_send" in PROFILES[profile]:
        assert monitor.addfd(listener, request.id, memfd, SEND) == -EMFILE
        assert monitor.addfd(listener, request.id, memfd, SEND | SETFD, 100) == -EBADF
    assert monitor.addfd(listener, request.id, memfd, SETFD, 100) == -EBADF
    assert monitor.send(listener, request.id, MAGIC) == 0
    assert child.result == MAGIC


@pytest.mark.parametrize("fixed", [True, False])
def test_user_notification_addfd_send_interrupted(fixed: bool):
    """The monitor's ADDFD|SEND|SETFD is interrupted before the caller runs; C074."""
    monitor = start("6.18", add=["addfd_send_retries"] if fixed else [])
    listener = monitor.listen(trap("getppid"))
    child = monitor.fork()
    memfd = monitor.open("memfd")
    monitor.handle(SIGUSR1)
    child.call("getppid")
    request = monitor.recv(listener)
    monitor.settles = False
    assert monitor.addfd(listener, request.id, memfd, SEND | SETFD, 42) == BLOCKED
    helper = Program(monitor.kernel)
    helper.settles = False
    helper.kill(monitor, SIGUSR1)
    # The monitor runs before the caller has had a chance to.
    monitor.kernel.runnable.remove(monitor.task)
    monitor.kernel.run(monitor.task)
    assert monitor.result == -EINTR
    monitor.settles = True
    if fixed:
        assert monitor.addfd(listener, request.id, memfd, SEND | SETFD, 42) == 42
        assert child.result == 42
        assert child.file(42) is monitor.file(memfd)
    else:
        assert monitor.addfd(listener, request.id, memfd, SEND | SETFD, 42) == -EINPROGRESS
        assert child.result == 0
        assert child.file(42) is None
    assert monitor.file(memfd).refs == 1 + (fixed is True)


@every("set_flags")
def test_user_notification_sync(profile: str):
    monitor, listener, child = scene(profile)
    assert monitor.set_flags(listener, 0xFFFFFFFF) == -EINVAL
    assert monitor.set_flags(listener, 1) == 0
    child.call("getppid")
    request = monitor.recv(listener)
    assert request.pid == child.pid
    assert monitor.send(listener, request.id, MAGIC) == 0
    assert child.result == MAGIC


def test_user_notification_sync_before_6_6():
    monitor, listener, _ = scene("6.1")
    assert monitor.set_flags(listener, 1) == -EINVAL


@every()
def test_user_notification_fifo(profile: str):
    monitor, listener, child = scene(profile)
    child.call("getppid")
    base = monitor.recv(listener)
    monitor.send(listener, base.id)
    children = [monitor.fork() for _ in range(3)]
    for program in children:
        program.call("getppid")
    received = [monitor.recv(listener) for _ in range(3)]
    expected = [(base.id + step) & 0xFFFFFFFFFFFFFFFF for step in (1, 2, 3)]
    if "fifo" not in PROFILES[profile]:
        expected.reverse()
    assert [request.id for request in received] == expected
    for request in received:
        assert monitor.send(listener, request.id, MAGIC) == 0
    assert [program.result for program in children] == [MAGIC] * 3


@every("wait_killable_recv")
def test_user_notification_wait_killable_pre_notification(profile: str):
    monitor, listener, child = scene(profile, flags=KILLABLE)
    child.handle(SIGUSR1)
    child.call("getppid")
    monitor.kill(child, SIGUSR1)
    assert child.result == -EINTR
    assert child.task.handled == [SIGUSR1]
    assert monitor.recv(listener) == -ENOENT


@every("wait_killable_recv")
def test_user_notification_wait_killable(profile: str):
    monitor, listener, child = scene(profile, flags=KILLABLE)
    child.handle(SIGUSR1)
    child.call("getppid")
    request = monitor.recv(listener)
    assert child.state == "S"
    monitor.kill(child, SIGUSR1)
    assert child.state == "D"
    assert child.task.handled == []
    assert monitor.id_valid(listener, request.id) == 0
    assert monitor.send(listener, request.id, MAGIC) == 0
    assert child.result == MAGIC
    assert child.task.handled == [SIGUSR1]


@every("wait_killable_recv")
def test_user_notification_wait_killable_fatal(profile: str):
    monitor, listener, child = scene(profile, flags=KILLABLE)
    child.call("getppid")
    request = monitor.recv(listener)
    monitor.kill(child, SIGTERM)
    assert child.status == SIGTERM
    assert monitor.send(listener, request.id) == -ENOENT


@pytest.mark.parametrize("profile", ["5.19", "6.11", "6.18"])
def test_user_notification_wait_killable_after_reply(profile: str):
    """A signal, then RECV and SEND, before the caller has the lock: only newer kernels keep the
    answer; the others make the call again, so that it is notified twice (C087)."""
    monitor, listener, child = scene(profile, flags=KILLABLE)
    child.handle(SIGUSR1, restart=True)
    child.call("getppid")
    kernel = monitor.kernel
    monitor.settles = False
    monitor.kill(child, SIGUSR1)
    kernel.run(kernel.runnable.popleft())  # the wait returned -ERESTARTSYS; the lock is wanted
    request = monitor.recv(listener)
    assert monitor.send(listener, request.id, MAGIC) == 0
    kernel.settle()
    if "wait_killable_after_reply" in PROFILES[profile]:
        assert child.result == MAGIC
        assert monitor.poll(listener) == 0
    else:
        assert child.result is None
        assert monitor.poll(listener) == POLLIN

"""C001-C023: installing a filter."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import struct
import termios

import pytest

from proctor.kernel import abi
from tests.support import bpf
from tests.support.constants import (
    NOBODY,
    PR_GET_NO_NEW_PRIVS,
    PR_GET_SECCOMP,
    PR_SET_SECCOMP,
)
from tests.support.harness import Actor, Result
from tests.support.kernel import (
    NEW_LISTENER,
    TSYNC,
    TSYNC_ESRCH,
    WAIT_KILLABLE,
    Kernel,
    errno_of,
    ioctl_number,
)
from tests.support.lab import Lab
from tests.support.processes import descriptors, status

FILTER = abi.SECCOMP_SET_MODE_FILTER
LOG = abi.SECCOMP_FILTER_FLAG_LOG
SPEC_ALLOW = abi.SECCOMP_FILTER_FLAG_SPEC_ALLOW
ALLOW_ALL = bpf.ret(bpf.ALLOW)


def failure(number: int) -> Result:
    return Result(-1, number)


def drop_root(actor: Actor) -> None:
    """Be nobody, if there was a choice."""
    if os.geteuid() == 0:
        actor.must("setgroups", 0, 0)
        actor.must("setresgid", NOBODY, NOBODY, NOBODY)
        actor.must("setresuid", NOBODY, NOBODY, NOBODY)


def test_c001_without_nnp_nobody_may_not_install(lab: Lab) -> None:
    victim = lab.victim()
    drop_root(victim)
    assert victim.install(ALLOW_ALL, nnp=False) == failure(errno.EACCES)
    assert victim.install(ALLOW_ALL, NEW_LISTENER, nnp=False) == failure(errno.EACCES)
    assert status(victim.pid)["Seccomp"] == "0"


@pytest.mark.root
def test_c002_without_nnp_root_may_install(lab: Lab) -> None:
    victim = lab.victim()
    assert victim.install(ALLOW_ALL, nnp=False) == (0, 0)
    assert victim.call("prctl", PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == (0, 0)


def test_c003_with_nnp_nobody_gets_a_listener(lab: Lab) -> None:
    victim = lab.victim()
    drop_root(victim)
    result = victim.install(bpf.notify("getppid"), NEW_LISTENER)
    assert result.value >= 0
    assert descriptors(victim.pid)[result.value] == "anon_inode:seccomp notify"


def test_c004_program_of_length_0(lab: Lab) -> None:
    victim = lab.victim()
    assert victim.install(b"") == failure(errno.EINVAL)


def test_c005_program_of_length_4097(lab: Lab) -> None:
    victim = lab.victim()
    assert victim.install(ALLOW_ALL * 4097) == failure(errno.EINVAL)


def test_c006_program_of_length_4096(lab: Lab) -> None:
    victim = lab.victim()
    assert victim.install(ALLOW_ALL * 4096) == (0, 0)


@pytest.mark.parametrize("flags", [0, NEW_LISTENER, LOG | SPEC_ALLOW, TSYNC_ESRCH])
def test_c007_known_flags_get_as_far_as_the_null_program(
    lab: Lab, kernel: Kernel, flags: int
) -> None:
    assert errno_of(kernel.seccomp, FILTER, flags, None) == errno.EFAULT


def test_c008_tsync_with_a_listener_needs_tsync_esrch(lab: Lab, kernel: Kernel) -> None:
    assert errno_of(kernel.seccomp, FILTER, TSYNC | NEW_LISTENER, None) == errno.EINVAL
    both = TSYNC | NEW_LISTENER | TSYNC_ESRCH
    assert errno_of(kernel.seccomp, FILTER, both, None) == errno.EFAULT


def test_c009_wait_killable_needs_a_listener(lab: Lab, kernel: Kernel) -> None:
    assert errno_of(kernel.seccomp, FILTER, WAIT_KILLABLE, None) == errno.EINVAL
    number = errno_of(kernel.seccomp, FILTER, WAIT_KILLABLE | NEW_LISTENER, None)
    if number == errno.EINVAL:
        pytest.skip("this kernel does not know WAIT_KILLABLE_RECV (Linux 5.19)")
    assert number == errno.EFAULT


def test_c010_unknown_flags(lab: Lab, kernel: Kernel) -> None:
    assert errno_of(kernel.seccomp, FILTER, 128, None) == errno.EINVAL
    assert errno_of(kernel.seccomp, FILTER, 1 << 31, None) == errno.EINVAL
    # 64 is REDIRECT where argument redirection exists, and then wants a listener beside it.
    assert errno_of(kernel.seccomp, FILTER, 64, None) == errno.EINVAL
    assert errno_of(kernel.seccomp, FILTER, 64 | NEW_LISTENER, None) in (
        errno.EINVAL,
        errno.EFAULT,
    )


def test_c011_operations_and_their_arguments(lab: Lab, kernel: Kernel) -> None:
    assert errno_of(kernel.seccomp, 4, 0, None) == errno.EINVAL
    assert errno_of(kernel.seccomp, 0xFFFFFFFF, 0, None) == errno.EINVAL
    action = bytearray(struct.pack("=I", bpf.ALLOW))
    get_action, get_sizes = abi.SECCOMP_GET_ACTION_AVAIL, abi.SECCOMP_GET_NOTIF_SIZES
    assert errno_of(kernel.seccomp, get_action, 1, action) == errno.EINVAL
    assert errno_of(kernel.seccomp, get_sizes, 1, bytearray(6)) == errno.EINVAL
    assert errno_of(kernel.seccomp, get_sizes, 0, None) == errno.EFAULT
    # Strict mode is not for this process: if the kernel took the flag, only a child would die.
    strict = lab.child(lambda _: errno_of(kernel.seccomp, abi.SECCOMP_SET_MODE_STRICT, 1, None))
    assert strict.result() == errno.EINVAL
    victim = lab.victim()
    somewhere = victim.room(8)
    assert victim.call("seccomp", 0, 0, somewhere) == failure(errno.EINVAL)


def test_c012_notification_sizes(lab: Lab, kernel: Kernel) -> None:
    sizes = bytearray(6)
    assert kernel.seccomp(abi.SECCOMP_GET_NOTIF_SIZES, 0, sizes) == 0
    assert struct.unpack("=HHH", sizes) == (80, 24, 64) == abi.NOTIF_SIZES


def test_c013_a_chain_of_filters_has_an_end(lab: Lab) -> None:
    programs = {
        "4096 x RET": ALLOW_ALL * 4096,
        "4095 x LD, RET": bpf.load(bpf.AT_NR) * 4095 + ALLOW_ALL,
        "RET": ALLOW_ALL,
    }
    fits = {}
    for name, program in programs.items():
        victim = lab.victim()
        victim.no_new_privs()
        fits[name], why = victim.repeat(33000, "seccomp", 1, 0, victim.fprog(program))
        assert why == errno.ENOMEM, name
        assert status(victim.pid)["Seccomp_filters"] == str(fits[name])
        victim.close()
    # The numbers belong to the kernel's translation; that size counts does not.
    assert 0 < fits["4096 x RET"] < 32768
    assert 0 < fits["4095 x LD, RET"] < 32768
    assert fits["RET"] > 10 * max(fits["4096 x RET"], fits["4095 x LD, RET"])


def test_c014_actions_available(lab: Lab, kernel: Kernel) -> None:
    operation = abi.SECCOMP_GET_ACTION_AVAIL
    for name, action in abi.ACTIONS.items():
        assert kernel.seccomp(operation, 0, bytearray(struct.pack("=I", action))) == 0, name
    for action in (0x10000000, bpf.NOTIFY | 1):
        argument = bytearray(struct.pack("=I", action))
        assert errno_of(kernel.seccomp, operation, 0, argument) == errno.EOPNOTSUPP


def test_c015_from_filter_mode_there_is_no_way_to_strict(lab: Lab) -> None:
    victim = lab.victim()
    assert victim.call("prctl", PR_GET_SECCOMP, 0, 0, 0, 0) == (0, 0)
    assert victim.install(ALLOW_ALL) == (0, 0)
    assert victim.install(ALLOW_ALL) == (0, 0)
    assert victim.call("prctl", PR_SET_SECCOMP, 1, 0, 0, 0) == failure(errno.EINVAL)
    assert victim.call("seccomp", 0, 0, 0) == failure(errno.EINVAL)
    assert victim.call("prctl", PR_GET_SECCOMP, 0, 0, 0, 0) == (2, 0)
    assert status(victim.pid)["Seccomp"] == "2"
    assert status(victim.pid)["Seccomp_filters"] == "2"


def test_c016_the_listener_as_a_descriptor(lab: Lab) -> None:
    victim = lab.victim()
    number = victim.install(bpf.notify("getppid"), NEW_LISTENER).value
    assert victim.call("fcntl", number, fcntl.F_GETFD, 0) == (fcntl.FD_CLOEXEC, 0)
    assert victim.must("fcntl", number, fcntl.F_GETFL, 0) & os.O_ACCMODE == os.O_RDWR
    assert descriptors(victim.pid)[number] == "anon_inode:seccomp notify"
    listener = lab.own(victim.take(number))
    poller = select.poll()
    poller.register(listener, select.POLLIN | select.POLLOUT)
    assert poller.poll(0) == []


def test_c017_the_listener_is_not_a_file(lab: Lab) -> None:
    _, listener = lab.listener(bpf.notify("getppid"))
    assert errno_of(os.read, listener, 80) == errno.EINVAL
    assert errno_of(os.write, listener, b"\0" * 24) == errno.EINVAL
    assert errno_of(os.lseek, listener, 0, os.SEEK_SET) == errno.ESPIPE
    unknown = ioctl_number(3, 99, 80)
    assert errno_of(fcntl.ioctl, listener, unknown, bytearray(80)) == errno.EINVAL
    assert errno_of(fcntl.ioctl, listener, termios.TCGETS, bytearray(64)) == errno.EINVAL
    readable = array.array("i", [0])
    assert errno_of(fcntl.ioctl, listener, termios.FIONREAD, readable) == errno.EINVAL
    assert os.isatty(listener) is False


def test_c018_one_listener_in_a_chain(lab: Lab) -> None:
    victim, _ = lab.listener(bpf.notify("getppid"))
    child = victim.fork()
    for actor in (victim, child):
        assert actor.install(bpf.notify("dup"), NEW_LISTENER) == failure(errno.EBUSY)
        assert actor.install(ALLOW_ALL) == (0, 0)


def test_c019_after_the_close_another_listener_is_welcome(lab: Lab) -> None:
    victim, listener = lab.listener(bpf.notify("getppid"))
    lab.close_fd(listener)
    assert victim.install(bpf.notify("getppid"), NEW_LISTENER).value >= 0


def test_c020_a_listener_for_each_thread(lab: Lab, kernel: Kernel) -> None:
    victim = lab.victim()
    threads = [victim.thread(), victim.thread()]
    listeners = [lab.own(thread.listen(bpf.notify("getppid"))) for thread in threads]
    for thread, listener, value in zip(threads, listeners, (70, 71), strict=True):
        pending = thread.begin("getppid")
        notification = kernel.recv(listener)
        assert notification.pid == thread.tid
        kernel.send(listener, notification.id, value)
        assert pending.result() == (value, 0)


def test_c021_tsync_with_a_diverged_sibling(lab: Lab) -> None:
    victim = lab.victim()
    sibling = victim.thread()
    assert sibling.install(ALLOW_ALL) == (0, 0)
    assert victim.install(ALLOW_ALL, TSYNC) == (sibling.tid, 0)
    assert victim.install(ALLOW_ALL, TSYNC | TSYNC_ESRCH) == failure(errno.ESRCH)
    everything = TSYNC | TSYNC_ESRCH | NEW_LISTENER
    before = descriptors(victim.pid)
    assert victim.install(bpf.notify("getppid"), everything) == failure(errno.ESRCH)
    assert descriptors(victim.pid) == before
    assert status(victim.pid)["Seccomp_filters"] == "0"
    assert status(sibling.tid)["Seccomp_filters"] == "1"


def test_c022_tsync_reaches_the_siblings(lab: Lab) -> None:
    victim = lab.victim()
    sibling = victim.thread()
    assert sibling.call("prctl", PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == (0, 0)
    assert victim.install(bpf.table({"getppid": bpf.ERRNO | 7}), TSYNC) == (0, 0)
    assert sibling.call("prctl", PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == (1, 0)
    assert sibling.call("prctl", PR_GET_SECCOMP, 0, 0, 0, 0) == (2, 0)
    assert sibling.call("getppid") == failure(7)


def test_c023_without_tsync_siblings_stay_as_they_are(lab: Lab) -> None:
    victim = lab.victim()
    sibling = victim.thread()
    assert victim.install(bpf.table({"getppid": bpf.ERRNO | 7})) == (0, 0)
    assert victim.call("getppid") == failure(7)
    assert sibling.call("getppid") == (os.getpid(), 0)
    assert sibling.call("prctl", PR_GET_SECCOMP, 0, 0, 0, 0) == (0, 0)
    # A thread made later inherits from the one that makes it.
    assert victim.thread().call("getppid") == failure(7)
    assert sibling.thread().call("getppid") == (os.getpid(), 0)

"""The kernel's own TSYNC tests, on the model; names as in ``seccomp_bpf.c``."""

from __future__ import annotations

import pytest

from proctor.kernel import abi
from proctor.model.kernel.linux import EINVAL, ESRCH, PR_GET_NO_NEW_PRIVS, SIGSYS
from tests.model.support import ALLOW, on, start, trap, unprivileged

TSYNC = abi.SECCOMP_FILTER_FLAG_TSYNC
ESRCH_FLAG = abi.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
LISTEN = abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
KILL_READ = on("read", abi.SECCOMP_RET_KILL_THREAD)


def test_TSYNC_first():
    assert start().install(ALLOW, TSYNC) == 0


def siblings(profile: str = "6.18"):
    leader = start(profile)
    return leader, leader.thread(), leader.thread()


def test_siblings_fail_prctl():
    """A diverging sibling can not install the synchronised filter by prctl: it is on its own."""
    leader, one, two = siblings()
    assert one.install(ALLOW) == 0
    assert leader.install(KILL_READ) == 0
    assert (leader.mode(), one.mode(), two.mode()) == (2, 2, 0)


def test_two_siblings_with_ancestor():
    leader = start()
    assert leader.install(ALLOW) == 0
    one, two = leader.thread(), leader.thread()
    assert leader.install(KILL_READ, TSYNC) == 0
    one.call("read")
    two.call("read")
    assert (one.state, two.state, leader.status) == ("X", "X", None)


def test_two_sibling_want_nnp():
    leader, one, two = siblings()
    for program in (leader, one, two):
        unprivileged(program)
        assert program.prctl(PR_GET_NO_NEW_PRIVS) == 0
    leader.no_new_privs()
    assert leader.install(ALLOW, TSYNC) == 0
    assert [p.prctl(PR_GET_NO_NEW_PRIVS) for p in (leader, one, two)] == [1, 1, 1]
    assert [p.mode() for p in (leader, one, two)] == [2, 2, 2]


def test_two_siblings_with_no_filter():
    leader, one, two = siblings()
    assert leader.install(KILL_READ, TSYNC) == 0
    one.call("read")
    two.call("read")
    assert (one.state, two.state, leader.status) == ("X", "X", None)


def test_two_siblings_with_one_divergence():
    leader, one, two = siblings()
    assert leader.install(ALLOW) == 0
    assert two.install(ALLOW) == 0
    assert leader.install(KILL_READ, TSYNC) == two.tid
    assert leader.task.filter_count == 1
    one.call("read")
    two.call("read")
    assert (one.state, two.state) == ("R", "R")


def test_two_siblings_with_one_divergence_no_tid_in_err():
    leader, _, two = siblings()
    assert two.install(ALLOW) == 0
    assert leader.install(KILL_READ, TSYNC | ESRCH_FLAG) == -ESRCH
    assert leader.mode() == 0


def test_two_siblings_not_under_filter():
    """A sibling under a filter the leader is not under stands in the way until it exits."""
    leader = start()
    one = leader.thread()
    assert one.install(ALLOW) == 0
    two = one.thread()
    assert leader.install(ALLOW) == 0
    assert leader.install(KILL_READ, TSYNC) == one.tid
    one.call("exit", 0)
    assert leader.install(KILL_READ, TSYNC) == two.tid
    two.call("exit", 0)
    assert leader.install(KILL_READ, TSYNC) == 0


@pytest.mark.parametrize(("profile", "value"), [("6.18", 0), ("6.6", None)])
def test_tsync_vs_dead_thread_leader(profile: str, value: int | None):
    """An exited leader under another filter does not block TSYNC any more (6.11)."""
    leader = start(profile)
    other = leader.thread()
    assert leader.install(ALLOW) == 0
    tid = leader.tid
    leader.call("exit", 0)
    assert leader.state == "Z"
    assert other.install(KILL_READ, TSYNC) == (tid if value is None else value)


def test_user_notification_with_tsync():
    program = start()
    assert program.install(trap("getppid"), LISTEN | TSYNC) == -EINVAL
    assert program.install(trap("getppid"), LISTEN | TSYNC | ESRCH_FLAG) >= 0


def test_sync_moves_the_counts():
    """The ancestor keeps one user per dependent filter; the new one has one per thread."""
    leader = start()
    leader.install(ALLOW)
    one, two = leader.thread(), leader.thread()
    old = leader.task.filter
    assert old is not None
    assert (old.refs, old.users) == (3, 3)
    leader.install(ALLOW, TSYNC)
    new = leader.task.filter
    assert new is not None
    assert (new.refs, new.users, old.refs, old.users) == (3, 3, 1, 1)
    one.call("exit", 0)
    two.call("exit", 0)
    assert (new.refs, new.users, old.refs, old.users) == (1, 1, 1, 1)


def test_TSYNC_does_not_kill_by_itself():
    leader, one, two = siblings()
    leader.install(on("getpid", abi.SECCOMP_RET_KILL_PROCESS), TSYNC)
    assert one.call("gettid") == one.tid
    two.call("getpid")
    assert leader.status == SIGSYS

"""Poll bits, edges, wake-ups that happen and those that do not, lifetimes and counts, on the model.

What the comparison with the kernel cannot show (that nobody is woken, older kernels, counts inside)
is pinned here.
"""

from __future__ import annotations

import pytest

from proctor.kernel import abi
from proctor.model.kernel import transitions
from proctor.model.kernel.errors import BrokenCount, ModelError, NotInUserSpace
from proctor.model.kernel.features import FEATURES, NEWEST, PROFILES, features
from proctor.model.kernel.linux import (
    BLOCKED,
    EBUSY,
    EINTR,
    EMFILE,
    ENOENT,
    ENOSYS,
    EPOLLET,
    POLLHUP,
    POLLIN,
    POLLOUT,
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGSTOP,
    SIGTERM,
    SIGUSR1,
    SIGWINCH,
)
from proctor.model.kernel.listener import Notifications
from proctor.model.kernel.machine import Kernel
from proctor.model.kernel.program import Program
from tests.model.support import ALLOW, MAGIC, start, trap

KILLABLE = abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
ALL = sorted(PROFILES, key=list(PROFILES).index)


def scene(profile: str = NEWEST, flags: int = 0) -> tuple[Program, int, Program]:
    monitor = start(profile)
    listener = monitor.listen(trap("getppid"), flags)
    return monitor, listener, monitor.fork()


def inside(program: Program, fd: int) -> Notifications:
    file = program.file(fd)
    assert file is not None
    assert isinstance(file.inside, Notifications)
    return file.inside


# Bits and edges -------------------------------------------------------------------------------
def test_bits_follow_the_state():
    """C088: IN while waiting, OUT while received, both, none."""
    monitor, listener, child = scene()
    other = monitor.fork()
    assert monitor.poll(listener) == 0
    child.call("getppid")
    assert monitor.poll(listener, 0x145) == 0x041
    first = monitor.recv(listener)
    other.call("getppid")
    assert monitor.poll(listener, 0x145) == 0x145
    monitor.send(listener, first.id)
    assert monitor.poll(listener) == POLLIN


def test_a_cancelled_notification_wakes_nobody():
    """C085: whoever sleeps in poll(2) for OUT sleeps on; the bits are just gone."""
    monitor, listener, child = scene()
    woken: list[int] = []
    inside(monitor, listener).filter.wqh.add(woken.append)
    child.call("getppid")
    monitor.recv(listener)
    assert woken == [transitions.READABLE, transitions.WRITABLE]
    child.handle(SIGUSR1)
    monitor.kill(child, SIGUSR1)
    assert child.result == -EINTR
    assert woken == [transitions.READABLE, transitions.WRITABLE]
    assert monitor.poll(listener) == 0


def test_neither_an_answer_nor_a_close_tells_pollers():
    monitor, listener, child = scene()
    filter = inside(monitor, listener).filter
    child.close(listener)
    child.call("getppid")
    request = monitor.recv(listener)
    woken: list[int] = []
    filter.wqh.add(woken.append)
    monitor.send(listener, request.id)
    child.call("getppid")
    monitor.close(listener)
    assert child.result == -ENOSYS
    assert woken == [transitions.READABLE]


def test_an_edge_comes_once_for_each_new_notification():
    """C092."""
    monitor, listener, child = scene()
    other = monitor.fork()
    epoll = monitor.epoll()
    assert monitor.epoll_add(epoll, listener, POLLIN | EPOLLET) == 0
    child.call("getppid")
    assert monitor.epoll_wait(epoll) == {listener: POLLIN}
    assert monitor.epoll_wait(epoll) == {}
    other.call("getppid")
    assert monitor.epoll_wait(epoll) == {listener: POLLIN}


def test_level_triggered_items_report_as_long_as_it_lasts():
    monitor, listener, child = scene()
    epoll = monitor.epoll()
    monitor.epoll_add(epoll, listener, POLLIN)
    child.call("getppid")
    assert monitor.epoll_wait(epoll) == {listener: POLLIN}
    assert monitor.epoll_wait(epoll) == {listener: POLLIN}
    monitor.recv(listener)
    assert monitor.epoll_wait(epoll) == {}


def test_poll_wakes_for_what_it_asked_for_only():
    monitor, listener, child = scene()
    watcher = monitor.fork()
    assert watcher.poll(listener, POLLOUT, timeout=None) == BLOCKED
    child.call("getppid")
    assert watcher.state == "S"
    monitor.recv(listener)
    assert watcher.result == 1


def test_poll_ends_when_its_time_is_over():
    monitor, listener, _ = scene()
    assert monitor.poll(listener, POLLIN, timeout=2.0) == BLOCKED
    monitor.kernel.advance(1.9)
    assert monitor.result is None
    monitor.kernel.advance(0.2)
    assert monitor.result == 0


def test_two_receivers_and_one_notification():
    """C043: one gets it, the other sleeps on."""
    monitor, listener, child = scene()
    one, two = monitor.fork(), monitor.fork()
    assert one.recv(listener) == two.recv(listener) == BLOCKED
    child.call("getppid")
    assert sorted([one.state, two.state]) == ["R", "S"]


@pytest.mark.parametrize("profile", ALL)
def test_each_cancelled_notification_leaves_one_enoent(profile: str):
    """C044, C077: the count of requests is kept apart from the list."""
    monitor, listener, _ = scene(profile)
    for _ in range(2):
        caller = monitor.fork()
        caller.call("getppid")
        monitor.kill(caller, SIGKILL)
    assert monitor.poll(listener) == 0
    assert monitor.recv(listener) == -ENOENT
    assert monitor.recv(listener) == -ENOENT
    assert monitor.recv(listener) == BLOCKED


# Signals --------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [SIGCHLD, SIGWINCH])
def test_ignored_signals_do_nothing(number: int):
    """C079."""
    monitor, listener, child = scene()
    child.call("getppid")
    request = monitor.recv(listener)
    monitor.kill(child, number)
    assert monitor.send(listener, request.id, MAGIC) == 0
    assert child.result == MAGIC


def test_stop_and_continue_ask_again():
    """C078."""
    monitor, listener, child = scene()
    child.call("getppid")
    first = monitor.recv(listener)
    monitor.kill(child, SIGSTOP)
    assert child.state == "T"
    assert monitor.id_valid(listener, first.id) == -ENOENT
    monitor.kill(child, SIGCONT)
    second = monitor.recv(listener)
    assert second.id == (first.id + 1) & (1 << 64) - 1


def test_wait_killable_stops_only_after_the_answer():
    """C082."""
    monitor, listener, child = scene(flags=KILLABLE)
    child.call("getppid")
    request = monitor.recv(listener)
    monitor.kill(child, SIGSTOP)
    assert child.state == "D"
    monitor.send(listener, request.id, MAGIC)
    assert child.state == "T"
    monitor.kill(child, SIGCONT)
    assert child.result == MAGIC


def test_a_sibling_that_ends_the_process_ends_the_call():
    """C084."""
    monitor, listener, child = scene()
    thread = child.thread()
    thread.call("getppid")
    request = monitor.recv(listener)
    child.exit(0)
    assert monitor.send(listener, request.id) == -ENOENT


def test_a_deadly_signal_with_a_core_waits_for_the_answer():
    """SIGQUIT is not turned into SIGKILL when sent, so that WAIT_KILLABLE holds it back."""
    monitor, listener, child = scene(flags=KILLABLE)
    child.call("getppid")
    request = monitor.recv(listener)
    monitor.kill(child, 3)
    assert child.state == "D"
    assert monitor.send(listener, request.id) == 0
    assert child.status == 3


# Lifetime -------------------------------------------------------------------------------------
def test_a_copy_in_the_target_makes_it_hang():
    """C094."""
    monitor, listener, child = scene()
    child.call("getppid")
    monitor.close(listener)
    assert child.state == "S"
    monitor.kill(child, SIGTERM)
    assert child.status == SIGTERM


def test_the_supervisors_death_answers_enosys():
    """C096."""
    monitor, listener, child = scene()
    child.close(listener)
    child.call("getppid")
    Program(monitor.kernel).kill(monitor, SIGKILL)
    assert child.result == -ENOSYS


def test_a_listener_in_flight_is_a_copy():
    """SCM_RIGHTS: sent and closed, it lives in the message; the message gone, it is closed."""
    monitor, listener, child = scene()
    child.close(listener)
    one, two = monitor.socketpair()
    assert monitor.sendmsg(one, b"x", [listener]) == 1
    monitor.close(listener)
    child.call("getppid")
    assert child.state == "S"
    monitor.close(two)
    assert child.result == -ENOSYS


def test_received_copies_answer_what_others_received():
    """C095, C098: by dup(2) and by recvmsg(2)."""
    monitor, listener, child = scene()
    one, two = monitor.socketpair()
    monitor.sendmsg(one, b"x", [listener])
    data, (copy,) = monitor.recvmsg(two)
    assert (data, copy in monitor.task.files.cloexec) == (b"x", True)
    child.call("getppid")
    request = monitor.recv(listener)
    monitor.close(listener)
    assert monitor.send(copy, request.id, MAGIC) == 0
    assert child.result == MAGIC


def test_a_closed_listener_makes_room_for_another():
    """C018, C019."""
    monitor = start()
    listener = monitor.listen(trap("getppid"))
    assert monitor.listen(trap("getppid")) == -EBUSY
    assert monitor.install(ALLOW) == 0
    monitor.close(listener)
    assert monitor.listen(trap("getppid")) >= 0


def test_a_failed_install_leaves_nothing():
    monitor = start()
    monitor.listen(trap("getppid"))
    before = dict(monitor.fds())
    filter = monitor.task.filter
    assert monitor.listen(ALLOW) == -EBUSY
    monitor.limit_fds(len(before))
    assert monitor.listen(ALLOW) == -EMFILE
    assert monitor.fds() == before
    assert monitor.task.filter is filter


def test_execve_closes_the_listener_and_keeps_the_filter():
    """C048, C102."""
    monitor, listener, child = scene()
    assert child.execve() == 0
    assert listener not in child.fds()
    assert child.call("getppid") == BLOCKED
    assert monitor.recv(listener).pid == child.pid


def test_inner_notify_without_a_listener_is_enosys():
    """C033: it does not fall through to the outer listener."""
    monitor, listener, child = scene()
    child.install(trap("getppid"))
    assert child.call("getppid") == -ENOSYS
    assert monitor.poll(listener) == 0


def test_counts_of_a_tree():
    """refs: one per task, one per dependent filter, one for the listener; users: without the last."""
    monitor, listener, child = scene()
    bottom = monitor.task.filter
    assert bottom is not None
    assert (bottom.refs, bottom.users) == (3, 2)
    child.install(ALLOW)
    top = child.task.filter
    assert top is not None
    assert (top.refs, top.users, bottom.refs, bottom.users) == (1, 1, 3, 2)
    child.exit(0)
    assert (top.refs, top.users, bottom.refs, bottom.users) == (0, 0, 2, 1)
    monitor.close(listener)
    assert (bottom.refs, bottom.users) == (1, 1)
    monitor.exit(0)
    assert bottom.users == 0


@pytest.mark.parametrize("profile", [p for p in ALL if "hangup" in PROFILES[p]])
def test_a_user_inside_keeps_the_listener_from_hanging_up(profile: str):
    """C091."""
    monitor, listener, child = scene(profile)
    child.exit(0)
    monitor.wait(child)
    assert monitor.poll(listener) == 0


# Profiles and the table -----------------------------------------------------------------------
def test_profiles_grow():
    previous: frozenset[str] = frozenset()
    for name in ALL:
        assert previous <= PROFILES[name]
        previous = PROFILES[name]
    assert set(FEATURES) - previous == {"addfd_send_retries"}
    assert ALL == ["5.0", "5.5", "5.9", "5.14", "5.19", "6.1", "6.6", "6.11", "6.18"]


def test_features_can_be_mixed():
    assert "fifo" not in features("6.18", remove=["fifo"])
    assert "addfd_send_retries" in Kernel("6.1", add=["addfd_send_retries"]).features
    with pytest.raises(ValueError, match="no profile"):
        features("4.20")
    with pytest.raises(ValueError, match="no profile"):
        features("6.18.3")
    assert features("6.14") - features("6.11") == {"uretprobe_unfiltered"}
    assert features("5.10") == features("5.9")
    with pytest.raises(ValueError, match="no feature"):
        features("6.18", add=["time travel"])


def test_no_module_of_the_model_asks_for_a_version():
    from pathlib import Path

    import proctor.model

    for file in Path(proctor.model.__file__ or "").parent.rglob("*.py"):
        if file.name != "features.py":
            assert "profile ==" not in file.read_text(encoding="utf-8"), file.name


def test_only_the_table_moves_a_notification():
    everything = features(NEWEST, add=FEATURES)
    for row in transitions.TABLE:
        assert transitions.step(row.state, row.event, everything) is row
        assert row.source
    with pytest.raises(ModelError, match="cannot"):
        transitions.step(transitions.INIT, "answer", everything)
    with pytest.raises(ModelError, match="feature"):
        transitions.step(transitions.SENT, "addfd_send", features("5.0"))


def test_every_row_of_the_table_is_taken_by_some_test_here_or_in_the_selftests():
    """The events that the code uses are those of the table."""
    from pathlib import Path

    import proctor.model

    text = "".join(
        file.read_text(encoding="utf-8")
        for file in Path(proctor.model.__file__ or "").parent.rglob("*.py")
        if file.name in ("notify.py", "listener.py")
    )
    for row in transitions.TABLE:
        assert f'"{row.event}"' in text, row.event


def test_misuse_is_told():
    monitor, listener, child = scene()
    child.call("getppid")
    with pytest.raises(NotInUserSpace):
        child.call("getppid")
    file = monitor.file(listener)
    assert file is not None
    with pytest.raises(BrokenCount):
        for _ in range(10):
            file.put()


def test_hup_bits_stay():
    """C090."""
    monitor = start()
    child = monitor.fork(share_files=True)
    listener = child.listen(trap("getppid"))
    child.exit(0)
    assert monitor.poll(listener) == monitor.poll(listener) == POLLHUP
    assert monitor.recv(listener) == -ENOENT
    assert monitor.send(listener, 1) == -ENOENT


@pytest.mark.parametrize("profile", ["5.0", "6.1", "6.6", "6.18"])
def test_a_sleeping_recv_is_made_again_since_6_6(profile: str):
    """Its handler has SA_RESTART; before 6.6 RECV slept on a semaphore, which knows only EINTR."""
    monitor = start(profile)
    other = monitor.fork()
    listener = monitor.listen(trap("getppid"))
    monitor.handle(SIGUSR1, restart=True)
    assert monitor.recv(listener) == BLOCKED
    other.kill(monitor, SIGUSR1)
    assert monitor.task.handled == [SIGUSR1]
    if "recv_wait_queue" in PROFILES[profile]:
        assert monitor.result is None
        assert monitor.state == "S"
    else:
        assert monitor.result == -EINTR

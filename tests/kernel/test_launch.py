"""What a launched target is: its descriptors, ids, signals, groups, namespaces, and how it ends."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proctor.errors import LaunchError
from proctor.kernel.launch import launch
from proctor.kernel.plan import NAMESPACES
from proctor.kernel.seccomp import flag_problem
from proctor.kernel.target import Target

from .conftest import notify

Said = Callable[..., list[str]]
Monitor = Callable[..., str]


@pytest.fixture
def silence() -> Iterator[int]:
    """A pipe from which nothing comes, nor an end."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    yield reader
    os.close(reader)
    os.close(writer)


ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def fields(lines: list[str]) -> dict[str, str]:
    """``name value`` lines, also those of /proc/PID/status."""
    return {name.rstrip(":"): rest.strip() for name, _, rest in (x.partition(" ") for x in
            (line.replace("\t", " ") for line in lines))}  # fmt: skip


# Descriptors --------------------------------------------------------------------------------------


def test_only_the_given_descriptors(said: Said) -> None:
    """Ours are inheritable on purpose here: they must not get through all the same."""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    try:
        lines = said("fds", fds=[(0, 0), (2, 2), (writer, 7)])
    finally:
        os.close(reader)
        os.close(writer)
    assert [line.split()[1] for line in lines] == ["0", "1", "2", "7"]


@pytest.mark.parametrize("pairs", [[("a", 3), ("b", 4)], [("b", 3), ("a", 4)], [("a", 4), ("a", 3)],
                                   [("a", 200), ("b", 3)], [("b", 0), ("a", 2)]])  # fmt: skip
def test_overlapping_descriptors(monitor: Monitor, pairs: list[tuple[str, int]]) -> None:
    """Sources that are targets of others, in every order; numbers that helper and target use."""
    out = monitor(
        f"""
        os.close(3) if os.path.exists("/proc/self/fd/3") else None
        a, b = os.memfd_create("a"), os.memfd_create("b")
        assert {{a, b}} == {{3, 4}}
        names = {{"a": a, "b": b}}
        with launch([subject, "fds"], fds=[(1, 1), *((names[n], t) for n, t in {pairs!r})]) as target:
            assert target.wait(30) == 0
        """
    )
    found = dict(line.split()[1:3] for line in out.splitlines())
    del found["1"]
    assert found == {str(number): f"/memfd:{name}" for name, number in pairs}


def test_every_low_number_can_be_a_target(said: Said) -> None:
    """The channel, the pipe and the pidfd of the launch itself must never be hit."""
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = said("fds", fds=[(null, number) for number in range(64) if number != 1])
    finally:
        os.close(null)
    found = {int(line.split()[1]): line.split()[2] for line in lines}
    assert {n for n, link in found.items() if link == "/dev/null"} == set(range(64)) - {1}
    assert len(found) == 64


def test_closed_standard_descriptors_stay_closed(monitor: Monitor) -> None:
    out = monitor(
        """
        reader, writer = os.pipe()
        os.close(0)
        with launch([subject, "fds"], fds=None) as target:
            assert target.wait(30) == 0
        """
    )
    assert [line.split()[1] for line in out.splitlines()] == ["1", "2"]


def test_descriptors_without_close_range(monitor: Monitor) -> None:
    """Before Linux 5.11 close_range cannot set CLOEXEC: one by one then."""
    out = monitor(
        """
        refuse(436, errno.ENOSYS)
        more = [os.dup(0) for _ in range(5)]
        for fd in more:
            os.set_inheritable(fd, True)
        with launch([subject, "fds"], fds=[(1, 1)]) as target:
            assert target.wait(30) == 0
        """
    )
    assert [line.split()[1] for line in out.splitlines()] == ["1"]


def test_results_are_close_on_exec(subject: str, silence: int) -> None:
    with launch([subject, "read"], program=notify(4242), fds=[(silence, 0)]) as target:
        listener = target.take_listener()
        try:
            for fd in (target.pidfd, listener, target._status_fd):
                assert not os.get_inheritable(fd)
        finally:
            os.close(listener)
        with pytest.raises(ValueError, match="no listener"):
            target.take_listener()


# Identity -----------------------------------------------------------------------------------------


def test_argv_env_cwd_umask(subject: str, said: Said, tmp_path: os.PathLike[str]) -> None:
    found = fields(said("identity", cwd=tmp_path, umask=0o137))
    assert found["cwd"] == str(tmp_path)
    assert found["umask"] == "137"
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shell = 'printf "%s|" "$0" "$@"; env'
    with launch(
        [b"sh", "-c", shell, "a b", b"\xff"], env={"A": "1", "B": "\udcfe"}, fds={writer: 1}
    ) as target:
        os.close(writer)
        with open(reader, "rb") as file:
            text = file.read()
        assert target.wait(30) == 0
    assert text.startswith(b"a b|\xff|")
    assert b"A=1\n" in text
    assert b"B=\xfe\n" in text


def test_program_is_found_on_the_targets_path(subject: str, said: Said) -> None:
    directory = os.path.dirname(subject)
    with launch(["subject", "exit", "3"], env={"PATH": f"/nonexistent:{directory}"}) as target:
        assert target.wait(30) == 3
    with launch(["other", "exit", "4"], executable=subject) as target:
        assert target.wait(30) == 4


@ROOT
def test_ids(said: Said) -> None:
    found = fields(said("identity", uid=12, gid=34, groups=[5, 6]))
    assert (found["uid"], found["gid"], found["groups"]) == ("12 12", "34 34", "5 6")
    found = fields(said("identity", uid=12, gid=34, groups=[]))
    assert found["groups"] == ""


@pytest.mark.parametrize(
    ("given", "expected"), [(None, ("0", "1")), (True, ("1", "1")), (False, ("0", "1"))]
)
def test_no_new_privs(
    said: Said, given: bool | None, expected: tuple[str, str], subject: str
) -> None:
    """None: only where the kernel demands it, which is not so for root."""
    if os.geteuid() != 0:
        expected = ("1", "1")
        if given is False:
            pytest.skip("root may install filters without it, we may not")
    found = fields(said("identity", program=notify(4242), no_new_privs=given))
    assert (found["NoNewPrivs"], found["Seccomp_filters"]) == expected


def test_without_a_filter(said: Said) -> None:
    ours = fields(Path("/proc/self/status").read_text().splitlines())
    assert fields(said("identity"))["Seccomp_filters"] == ours["Seccomp_filters"]


# Signals ------------------------------------------------------------------------------------------


def test_signals_start_fresh(monitor: Monitor) -> None:
    """Blocked, handled and ignored ones of a monitor do not reach the target."""
    out = monitor(
        """
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
        with launch([subject, "identity"], ignored_signals=(), env={}) as target:
            assert target.wait(30) == 0
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= {signal.SIGUSR1, signal.SIGTERM}
        """
    )
    found = fields(out.splitlines())
    assert int(found["SigBlk"], 16) == int(found["SigCgt"], 16) == int(found["SigIgn"], 16) == 0


def test_ignored_signals_pass_but_pythons_own(monitor: Monitor) -> None:
    """As nohup(1) needs; SIGPIPE and SIGXFSZ Python ignores for itself."""
    out = monitor(
        """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with launch([subject, "identity"]) as target:
            assert target.wait(30) == 0
        """
    )
    with open("/proc/self/status", encoding="ascii") as file:
        ours = next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn:"))
    ours &= ~(1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))
    assert int(fields(out.splitlines())["SigIgn"], 16) == ours | 1 << (signal.SIGHUP - 1)


def test_no_sigchld_for_the_helper(monitor: Monitor) -> None:
    """One SIGCHLD per target, from its end; none at all if it never execed."""
    out = monitor(
        """
        seen = []
        signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
        print(failure(cwd=b"/nonexistent"), len(seen))
        with launch([subject, "read"], fds=[(os.pipe()[0], 0)]) as target:
            assert target.executed(30)
            print(len(seen))
            target.kill()
            target.wait(30)
        print(len(seen))
        """
    )
    assert out.splitlines() == ["('chdir', 'ENOENT') 0", "0", "1"]


# Process groups and terminals ---------------------------------------------------------------------


def test_process_group_and_session(said: Said) -> None:
    ours = fields(said("identity"))
    assert int(ours["pgid"]) == os.getpgrp()
    own = fields(said("identity", process_group=0))
    assert own["pgid"] == own["pid"]
    assert int(own["sid"]) == os.getsid(0)
    session = fields(said("identity", new_session=True))
    assert session["pgid"] == session["sid"] == session["pid"]


def test_joins_a_process_group(subject: str, said: Said, silence: int) -> None:
    with launch([subject, "read"], process_group=0, fds=[(silence, 0)]) as first:
        assert first.executed(30)
        assert int(fields(said("identity", process_group=first.pid))["pgid"]) == first.pid


def test_foreground_of_a_terminal(monitor: Monitor) -> None:
    """The monitor leads the terminal's session; the target's group gets the foreground."""
    out = monitor(
        """
        import fcntl, termios
        leader, tty = os.openpty()
        fcntl.ioctl(tty, termios.TIOCSCTTY, 0)
        assert os.tcgetpgrp(tty) == os.getpgrp()
        with launch([subject, "identity"], fds=[(tty, 0), (1, 1)], process_group=0, foreground_tty=tty) as t:
            assert t.wait(30) == 0
            assert os.tcgetpgrp(tty) == t.pid
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(tty, os.getpgrp())
        """
    )
    found = fields(out.splitlines())
    assert found["foreground"] == found["pgid"] == found["pid"]


def test_controlling_terminal_of_a_new_session(said: Said) -> None:
    leader, tty = os.openpty()
    try:
        found = fields(
            said("identity", fds=[(tty, 0), (2, 2)], new_session=True, foreground_tty=tty)
        )
    finally:
        os.close(leader)
        os.close(tty)
    assert found["foreground"] == found["sid"] == found["pid"]


def test_dies_with_the_monitor(monitor: Monitor) -> None:
    out = monitor(
        """
        import ctypes, select
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # we adopt the orphan
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            target = launch([subject, "hold"], fds=[(writer, 1)], die_with_monitor=True)
            target.executed(30)
            os.write(writer, b"%d\\n" % target.pid)
            signal.pause()
        lines = open(reader)
        words = lines.readline().strip(), lines.readline().strip()
        pid = int(next(word for word in words if word.isdigit()))
        pidfd = os.pidfd_open(pid)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(bool(select.select([pidfd], [], [], 30)[0]))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert out.splitlines() == ["True", str(-signal.SIGKILL)]


# Namespaces ---------------------------------------------------------------------------------------


def links(pid: int) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


@ROOT
@pytest.mark.parametrize("name", sorted(set(NAMESPACES) - {"user"}))
def test_one_namespace(subject: str, name: str, silence: int) -> None:
    with launch([subject, "read"], namespaces=[name], fds=[(silence, 0)]) as target:
        assert target.executed(30)
        theirs, ours = links(target.pid), links(os.getpid())
    assert {n for n in NAMESPACES if theirs[n] != ours[n]} == {name}


def test_all_namespaces_unprivileged(monitor: Monitor) -> None:
    """An ordinary user is root of a container of its own, with every namespace, and filtered."""
    out = monitor(
        """
        ours = {n: os.readlink(f"/proc/self/ns/{n}") for n in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")}
        reader, writer = os.pipe()
        with launch([subject, "identity", "read"], namespaces=ours, program=one(6, 0, 0, 0x7FFF0000),
                   fds=[(reader, 0), (1, 1)]) as target:
            assert target.executed(30)
            theirs = {n: os.readlink(f"/proc/{target.pid}/ns/{n}") for n in ours}
            maps = [open(f"/proc/{target.pid}/{m}").read().split() for m in ("uid_map", "gid_map")]
            groups = open(f"/proc/{target.pid}/setgroups").read().strip()
            os.close(writer)
            assert target.wait(30) == 0
        print("differ", len([n for n in ours if ours[n] != theirs[n]]))
        print("uid_map", *maps[0])
        print("setgroups", groups)
        """,
        nobody=True,
    )
    found = fields(out.splitlines())
    assert found["differ"] == str(len(NAMESPACES))
    assert found["pid"] == "1"
    assert found["uid"] == "0 0"
    assert found["uid_map"] == f"0 {65534 if os.geteuid() == 0 else os.geteuid()} 1"
    assert found["setgroups"] == "deny"


@ROOT
def test_mapped_ranges(said: Said) -> None:
    found = fields(
        said("identity", namespaces=["user"], uid_map=[(0, 100000, 1000), (1000, 200000, 10)],
             gid_map=[(0, 300000, 65536)])
    )  # fmt: skip
    assert (found["uid"], found["gid"], found["groups"]) == ("0 0", "0 0", "")
    found = fields(
        said("identity", namespaces=["user"], uid_map=[(0, 100000, 1000), (1000, 200000, 10)],
             gid_map=[(0, 300000, 65536)], uid=1005, gid=7, groups=[8])
    )  # fmt: skip
    assert (found["uid"], found["gid"], found["groups"]) == ("1005 1005", "7 7", "8")


@ROOT
def test_mounts_do_not_come_out(subject: str) -> None:
    name = f"launched-by-{os.getpid()}"  # others may mount meanwhile
    mounts = f"mount -t tmpfs {name} /mnt && grep -q {name} /proc/self/mountinfo"
    with launch(["sh", "-c", mounts], namespaces=["mnt"]) as target:
        assert target.wait(30) == 0
    assert name not in Path("/proc/self/mountinfo").read_text()


# The end ------------------------------------------------------------------------------------------


def test_exit_codes_and_signals(subject: str) -> None:
    for commands, expected in (
        (["exit", "0"], 0),
        (["exit", "77"], 77),
        (["die", str(int(signal.SIGTERM))], -signal.SIGTERM),
        (["die", str(int(signal.SIGKILL))], -signal.SIGKILL),
    ):
        with launch([subject, *commands]) as target:
            assert target.wait(30) == expected
            assert target.poll() == target.returncode == target.wait() == expected
            target.send_signal(signal.SIGTERM)  # nothing happens
            assert str(expected) in repr(target)


def test_waiting_in_time(subject: str) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with launch([subject, "read"], fds=[(reader, 0)]) as target:
        os.close(reader)
        assert target.poll() is None
        with pytest.raises(TimeoutError, match="still runs"):
            target.wait(0.01)
        os.close(writer)
        assert target.wait(30) == 0


def test_leaving_the_block_kills_and_reaps(subject: str) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with launch([subject, "read"], fds=[(reader, 0)]) as target:
        pass
    assert target.returncode == -signal.SIGKILL
    assert target.pidfd == -1
    target.close()
    os.close(reader)
    os.close(writer)


def test_wait_before_exec(subject: str) -> None:
    """A target that never execed has no exit signal: it must be waited for all the same."""
    with launch(["/proc/missing"]) as target:
        assert target.wait(30) == 127


def test_status_taken_by_somebody_else(monitor: Monitor) -> None:
    out = monitor(
        """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        target = launch([subject, "exit", "3"])
        try:
            target.executed(30)
            target.wait(30)
        except ChildProcessError as problem:
            print(problem)
        target.close()
        """
    )
    assert "taken by somebody else" in out


def test_without_wait_killable(monitor: Monitor) -> None:
    """Before Linux 5.19 the flag is EINVAL: retried without, and said."""
    out = monitor(
        """
        refuse(317, errno.EINVAL, argument=1, value=32, bits=True)
        with launch([subject, "exit"], program=one(6, 0, 0, 0x7FFF0000)) as target:
            print(target.wait_killable, target.wait(30))
        """
    )
    assert out == "False 0"


def test_wait_killable(subject: str) -> None:
    for wanted in (True, False):
        with launch([subject, "exit"], program=notify(4242), wait_killable=wanted) as target:
            assert target.wait_killable is (wanted and not flag_problem("WAIT_KILLABLE_RECV"))


# Many ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_a_thousand_launches_leave_nothing(monitor: Monitor) -> None:
    """No descriptor, thread, zombie or memory (C130): some with filters, some that fail."""
    out = monitor(
        """
        import gc

        def once(at):
            kind = at % 4
            try:
                with launch(
                    [subject if kind else "/proc/missing", "exit", "7"],
                    program=one(6, 0, 0, 0x7FFF0000) if kind > 1 else None,
                    cwd="/nonexistent" if kind == 3 else None,
                ) as target:
                    if kind == 2:
                        os.close(target.take_listener())
                    assert target.executed(30)
                    assert target.wait(30) == 7
            except LaunchError as problem:
                assert (kind, problem.step) in ((0, "execve"), (3, "chdir")), problem

        def state():
            gc.collect()
            children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
            pages = int(open("/proc/self/statm").read().split()[1])
            maps = len(open("/proc/self/maps").readlines())
            return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), children, maps, pages

        for at in range(100):
            once(at)
        before = state()
        for at in range(1000):
            once(at)
        after = state()
        assert after[:3] == before[:3], (before, after)
        assert after[3] <= before[3] + 2, (before, after)
        print("pages", after[4] - before[4])
        """,
        timeout=300,
    )
    # the allocator's own ups and downs; one page lost at each launch would be a thousand
    assert int(out.split()[1]) < 256


def test_many_threads_launch_at_once(monitor: Monitor) -> None:
    out = monitor(
        """
        import threading
        wrong = []

        def some(number):
            for at in range(20):
                with launch([subject, "exit", str(number)], program=one(6, 0, 0, 0x7FFF0000)) as target:
                    if not target.executed(30) or target.wait(30) != number:
                        wrong.append(target)

        threads = [threading.Thread(target=some, args=(n,)) for n in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(wrong)
        """
    )
    assert out == "[]"


# Everything notified ------------------------------------------------------------------------------


def serve(target: Target, see: Callable[[int], object] = lambda nr: None) -> list[int]:
    """Let every call run until nobody is left; the numbers, in order."""
    from tests.support.rounds import Engine

    seen: list[int] = []
    ended: list[bool] = []
    engine = Engine()
    assert target.listener is not None

    def route(notification: object) -> tuple[int, int, int]:
        seen.append(notification.nr)  # type: ignore[attr-defined]
        see(notification.nr)  # type: ignore[attr-defined]
        return 0, 0, 1

    engine.add(target.listener, {}, route, lambda: ended.append(True))
    # Before Linux 6.11 a listener hangs up only once its last user was reaped.
    reaper = threading.Thread(target=target.wait, daemon=True)
    reaper.start()
    try:
        while not ended:
            assert engine.run_once(30) or ended, "nothing happens any more"
    finally:
        engine.close()
    reaper.join(30)
    return seen


@pytest.mark.parametrize("user", [False, True], ids=["", "userns"])
def test_every_call_notified(subject: str, user: bool) -> None:
    """execve is the first one, and even while it waits no copy of the listener is in the target
    (C101, C102)."""
    copies: list[list[str]] = []

    def see(nr: int) -> None:
        place = f"/proc/{target.pid}/fd"
        found = [os.readlink(f"{place}/{fd}") for fd in os.listdir(place)]
        copies.append([link for link in found if "seccomp" in link])
        if nr != 59:
            assert target.executed(30)

    target = launch([subject, "exit", "9"], program=notify(), namespaces=["user"] if user else [])
    with target:
        assert target.executed(0) is False
        seen = serve(target, see)
        assert target.wait(30) == 9
    assert seen[0] == 59
    assert seen.count(59) == 1
    assert seen[-1] == 231
    assert not any(copies)


def test_every_call_notified_and_exec_fails() -> None:
    """execve and exit_group, nothing else, and the failure is known while that still waits for its
    answer."""
    known: list[str] = []

    def see(nr: int) -> None:
        if nr == 231:
            with pytest.raises(OSError) as caught:
                target.executed(0)
            known.append(f"{caught.value.step} {caught.value.errno}")  # type: ignore[attr-defined]

    target = launch(["/proc/missing"], program=notify())
    with target:
        assert serve(target, see) == [59, 231]
        assert target.wait(30) == 127
    assert known == [f"execve {errno.ENOENT}"]


def executable(path: Path, text: str, mode: int = 0o755) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_the_search_on_path_is_made_before_there_is_a_filter(tmp_path: Path, subject: str) -> None:
    """What is not there, no file, not executable or behind a file: none of it is tried under the filter."""
    (tmp_path / "directory" / "found").mkdir(parents=True)
    executable(tmp_path / "plain" / "found", "x", 0o644)
    (tmp_path / "last").mkdir()
    os.symlink(subject, tmp_path / "last" / "found")
    places = ["nothing", "directory", "plain", "plain/found", "last", "after"]
    path = ":".join(str(tmp_path / place) for place in places)
    with launch(["found", "exit", "3"], env={"PATH": path}, program=notify(59)) as target:
        assert serve(target) == [59]
        assert target.wait(30) == 3


def test_an_empty_part_of_path_is_the_working_directory(tmp_path: Path, subject: str) -> None:
    os.symlink(subject, tmp_path / "found")
    for path in (":/proc", "/proc::/sys", "/proc:", "."):
        with launch(["found", "exit", "3"], env={"PATH": path}, cwd=tmp_path) as target:
            assert target.wait(30) == 3


def test_a_search_that_finds_nothing_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(LaunchError) as caught:
        launch(["missing"], env={"PATH": "/proc:/sys:/dev"}, program=notify())
    assert (caught.value.step, caught.value.errno) == ("execve", errno.ENOENT)
    executable(tmp_path / "plain" / "missing", "x", 0o644)
    with pytest.raises(LaunchError) as caught:  # EACCES is remembered
        launch(["missing"], env={"PATH": f"/proc:{tmp_path}/plain:/dev"}, program=notify())
    assert (caught.value.step, caught.value.errno) == ("execve", errno.EACCES)


def test_the_search_goes_on_where_execve_says_no_after_all(tmp_path: Path, subject: str) -> None:
    """Scripts whose interpreter cannot be run: only execve finds out, and execvp(3) goes on then."""
    executable(tmp_path / "one" / "found", "#!/nonexistent\n")
    executable(tmp_path / "two" / "found", "#!/dev/null\n")
    (tmp_path / "three").mkdir()
    os.symlink(subject, tmp_path / "three" / "found")
    path = ":".join(str(tmp_path / place) for place in ("one", "two", "proc", "three"))
    with launch(["found", "exit", "3"], env={"PATH": path}, program=notify(59)) as target:
        assert serve(target) == [59, 59, 59, 59]
        assert target.wait(30) == 3
    path = f"{tmp_path}/two:{tmp_path}/one"
    with launch(["found"], env={"PATH": path}) as target:
        with pytest.raises(LaunchError) as caught:
            target.executed(30)
        assert caught.value.errno == errno.EACCES
        target.wait(30)


def test_a_file_of_no_known_format_is_not_given_to_a_shell(tmp_path: Path, subject: str) -> None:
    executable(tmp_path / "one" / "found", "exit 3\n")
    (tmp_path / "two").mkdir()
    os.symlink(subject, tmp_path / "two" / "found")
    with launch(["found", "exit", "3"], env={"PATH": f"{tmp_path}/one:{tmp_path}/two"}) as target:
        with pytest.raises(LaunchError) as caught:
            target.executed(30)
        assert caught.value.errno == errno.ENOEXEC
        target.wait(30)


def test_the_search_has_the_rights_of_the_command(tmp_path: Path, subject: str) -> None:
    """A directory that we may look into and the command may not is passed over."""
    if os.geteuid() != 0:
        pytest.skip("becomes another user")
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)
    os.symlink(subject, shut / "found")
    with pytest.raises(LaunchError) as caught:
        launch(["found"], env={"PATH": f"/proc:{shut}"}, uid=65534, gid=65534, program=notify())
    assert caught.value.errno == errno.EACCES
    with launch(["found", "exit", "3"], env={"PATH": f"/proc:{shut}"}) as target:
        assert target.wait(30) == 3


def test_killed_while_execve_waits(subject: str) -> None:
    with launch([subject], program=notify()) as target:
        poll = select.poll()
        poll.register(target.listener or -1, select.POLLIN)
        assert poll.poll(30000)
        target.kill()
        assert target.wait(30) == -signal.SIGKILL
        assert target.executed(30)  # it did not fail: it died


def test_nothing_of_the_monitor_is_held_while_execve_waits(subject: str) -> None:
    """A copy of another listener would keep that one's callers waiting if we closed it (C094)."""
    reader, writer = os.pipe()
    try:
        with launch([subject], program=notify(59), fds=[(0, 0), (writer, 70)]) as target:
            held = {int(number) for number in os.listdir(f"/proc/{target.pid}/fd")}
            extra = held - {0, 70}
            links = {os.readlink(f"/proc/{target.pid}/fd/{number}") for number in extra}
        assert len(extra) == 1, links
        assert all(link.startswith("pipe:") for link in links)  # whose end is its exec
    finally:
        os.close(reader)
        os.close(writer)


def test_program_named_by_a_descriptor_while_execve_waits(subject: str) -> None:
    fd = os.open(subject, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with launch(["subject"], executable=f"/proc/self/fd/{fd}", program=notify(59)) as target:
            assert os.path.samefile(f"/proc/{target.pid}/fd/{fd}", subject)
    finally:
        os.close(fd)


def test_listener_closed_while_execve_waits(subject: str) -> None:
    """Nobody will answer: ENOSYS for execve (C093), for exit_group too, and then it must die."""
    with launch([subject], program=notify()) as target:
        os.close(target.take_listener())
        assert target.wait(30) == -signal.SIGILL
        with pytest.raises(OSError, match="Function not implemented"):
            target.executed(30)


def test_python_as_a_target() -> None:
    """A big, dynamically linked program under a filter that notifies everything."""
    with launch([sys.executable, "-S", "-c", "pass"], program=notify()) as target:
        assert len(serve(target)) > 100
        assert target.wait(30) == 0

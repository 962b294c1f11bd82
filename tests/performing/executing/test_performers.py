"""Performers as processes: started, lent, killed, gone; and what a hostile target may try on them."""

from __future__ import annotations

import errno
import os
import pty
import select
import shutil
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proctor.call.verdict import Answer, Deny, HandOver, LetRun, Verdict
from proctor.errors import CallOver
from proctor.performing import SUPPORTED
from proctor.performing.executing import image
from proctor.performing.identities.cgroups import device_groups
from proctor.performing.paths import pins
from proctor.performing.threads import _leader
from proctor.process.standing import standing
from tests.performing.families.test_open_differential import MAP, as_user
from tests.performing.support.callers import (
    ARCH,
    AT_FDCWD,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    Call,
    Caller,
    Performers,
    caller,
    content,
    libc,
    mount,
    outcome,
    private_mounts,
    unshare,
)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make callers of other ids")
RDONLY, WRONLY, RDWR, NONBLOCK = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_NONBLOCK


def opened(
    performers: Performers, one: Caller, path: bytes, flags: int = RDONLY, **how: Any
) -> Verdict:
    return performers.perform(one.call("openat", AT_FDCWD, path, flags, 0o600), **how)


def pid_of(pidfd: int) -> int:
    with io_open(f"/proc/self/fdinfo/{pidfd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


io_open = __builtins__["open"] if isinstance(__builtins__, dict) else __builtins__.open


def parent_of(performers: Performers) -> int:
    return performers.executors.mother.pid


def children(pid: int) -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with io_open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.add(int(name))
    return found


def gone(pidfds: list[int], seconds: float = 10) -> bool:
    """Whether all these processes end in time."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    for _ in pidfds:
        ready = poll.poll(seconds * 1000)
        if not ready:
            return False
        for pidfd, _ in ready:
            poll.unregister(pidfd)
        pidfds = [one for one in pidfds if one not in {fd for fd, _ in ready}]
        if not pidfds:
            return True
    return True


def in_thread(work: Callable[[], Verdict]) -> tuple[threading.Thread, list[Verdict]]:
    results: list[Verdict] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    return thread, results


@contextmanager
def child_process(work: Callable[[Callable[[str], None]], None]) -> Iterator[tuple[int, Any]]:
    """Run ``work(say)`` in a child; (pid, file of what it says)."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        try:
            libc.prctl(1, 9, 0, 0, 0)
            work(lambda text: (os.write(writable, text.encode() + b"\n"), None)[1])
        except BaseException:
            os.write(writable, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writable)
    with io_open(readable, "r") as said:
        try:
            yield pid, said
        finally:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.waitpid(pid, 0)


# Life ------------------------------------------------------------------------------------------
def test_supported() -> None:
    assert {"creat", "mknod", "mknodat", "open", "openat", "openat2"} <= SUPPORTED


def test_bad_arguments() -> None:
    for bad in (
        {"nested": "maybe"},
        {"o_path": ""},
        {"cgroup": None},
        {"limit": 0},
        {"idle": 0},
        {"deadline": 0},
    ):
        with pytest.raises(ValueError, match=r"one of|more than 0|at least one"):
            Performers(**bad)  # type: ignore[arg-type]


@pytest.mark.usefixtures("executors")
def test_executor_that_was_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    troubles: list[str] = []
    monkeypatch.setattr(image, "PATH", str(tmp_path / "executor"))
    with caller() as one:
        performers = Performers(on_trouble=troubles.append)
        verdict = opened(performers, one, b"/etc/passwd")
        performers.close()
    assert isinstance(verdict, Deny)
    assert verdict.errno == errno.EPERM
    assert "the executor" in verdict.reason
    assert "with a C compiler" in verdict.reason
    assert len(troubles) == 1


def test_nothing_is_left_after_a_thousand_calls(top: bytes) -> None:
    fds = set(os.listdir("/proc/self/fd"))
    threads = set(threading.enumerate())  # of which some may be about to end
    with Performers() as performers, caller(lambda: os.chdir(top)) as one:
        parent = parent_of(performers)
        for number in range(1000):
            path = (b"/etc/passwd", b"missing", b"/proc/self/status", b"new")[
                number % 4 if number % 20 else 2
            ]
            if path == b"/proc/self/status" and number % 20:
                path = b"/dev/null"
            how = {"allow": lambda argument, path: True} if number % 3 else {}
            outcome(
                opened(
                    performers, one, path, RDWR | os.O_CREAT if path == b"new" else RDONLY, **how
                )
            )
        performer = children(parent)
        assert len(performer) == 1
        if os.geteuid() == 0:  # others cannot look
            held = os.listdir(f"/proc/{performer.pop()}/fd")
            assert len(held) <= 8, held
        assert len(set(threading.enumerate()) - threads) == 1  # which ends who is without work
    assert not set(threading.enumerate()) - threads
    assert children(os.getpid()) & {parent} == set()
    assert not set(os.listdir("/proc/self/fd")) - fds


def test_close_ends_everything() -> None:
    performers = Performers().start()
    with caller() as one:
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"
        parent = parent_of(performers)
        pidfds = [os.pidfd_open(pid) for pid in children(parent)]
        assert len(pidfds) == 1
        performers.close()
        performers.close()
        assert gone(pidfds)
        assert not os.path.exists(f"/proc/{parent}")
        verdict = opened(performers, one, b"/etc/passwd")
        assert verdict == Deny(errno.EPERM, "not performed: the performers are closed")
        os.close(pidfds[0])


def test_idle_performers_end_and_are_made_again() -> None:
    with Performers(idle=0.05) as performers, caller() as one:
        for _ in range(3):
            assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"
            wait_for(lambda: not children(parent_of(performers)))


def test_idle_performers_that_end_just_then() -> None:
    """The end of a performer for idleness and a request that crosses it: never a wrong answer."""
    with Performers(idle=0.002) as performers, caller() as one:
        for _ in range(300):
            assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"


@root_only
def test_who_thinks_for_long_in_the_middle_of_a_call_does_not_end_its_executor(top: bytes) -> None:
    """A rule may ask a person: the executor has work meanwhile, though it hears nothing."""
    (Path(os.fsdecode(top)) / "one").write_bytes(b"one")
    asked = []

    def think(argument: str, path: bytes) -> bool:
        asked.append(path)
        with Performers(idle=0.001) as others, caller(private_mounts) as other:
            for _ in range(3):  # others' come and go, and are waited for
                content(opened(others, other, b"/proc/sys/kernel/ostype"))
                wait_for(lambda: not children(parent_of(others)))
        return True

    with Performers(idle=0.001) as performers, caller(private_mounts) as one:
        assert content(opened(performers, one, top + b"/one", allow=think)) == b"one"
    assert asked == [top + b"/one"]


def test_parent_that_dies_is_started_again(top: bytes) -> None:
    with Performers() as performers, caller() as one:
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"
        performer = children(parent_of(performers))
        pidfds = [os.pidfd_open(pid) for pid in performer]
        first = os.dup(performers.executors.mother._pidfd)
        os.kill(parent_of(performers), signal.SIGKILL)
        assert gone([first, *pidfds])
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"
        for pidfd in (first, *pidfds):
            os.close(pidfd)


def test_performer_killed_in_the_middle(performers: Performers, top: bytes) -> None:
    os.mkfifo(top + b"/fifo", 0o666)
    troubles: list[str] = []
    performers._on_trouble = troubles.append
    with caller() as one:
        asked = threading.Event()

        def allow(argument: str, path: bytes) -> bool:
            asked.set()
            return True

        thread, results = in_thread(lambda: opened(performers, one, top + b"/fifo", allow=allow))
        assert asked.wait(20)
        for tries in range(1, 40):
            for executor in children(parent_of(performers)):
                os.kill(executor, signal.SIGKILL)
            # one that dies before it has the next request was in the middle of nothing; nobody may see what it does
            thread.join(0.1 * tries)
            if not thread.is_alive():
                break
        verdict = results[0]
        assert isinstance(verdict, Deny)
        assert verdict.errno == errno.EINTR
        assert "died in the middle" in verdict.reason
        assert len(troubles) == 1
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"


def wait_for(question: Callable[[], Any], seconds: float = 20) -> Any:
    """Ask until the answer is true; polling another process's state has no better way."""
    pause = threading.Event()
    for _ in range(int(seconds * 200)):
        answer = question()
        if answer:
            return answer
        pause.wait(0.005)
    raise AssertionError("it never came")


def blocked_in_open(pid: int) -> bool:
    """Whether a process waits for the other end of a FIFO."""
    try:
        with io_open(f"/proc/{pid}/wchan") as file:
            if "wait_for_partner" in file.read():
                return True
        with io_open(f"/proc/{pid}/syscall") as file:
            return file.read().split()[0] == "437"
    except OSError:
        return False


def performing(performers: Performers, count: int = 1) -> bool:
    """Whether so many calls are being performed; to root: and blocked in their open."""
    with performers.executors._lock:
        busy = [one for one in performers.executors._busy if one.pidfd >= 0]
    if os.geteuid() != 0 or len(busy) < count:  # others cannot look at performers
        return len(busy) >= count
    return len(list(filter(blocked_in_open, children(parent_of(performers))))) >= count


def test_fifo_waits_for_its_other_end(performers: Performers, top: bytes) -> None:
    os.mkfifo(top + b"/fifo", 0o666)
    with caller() as one:
        assert opened(performers, one, top + b"/fifo", WRONLY | NONBLOCK) == Deny(errno.ENXIO)
        for how in ({}, {"allow": lambda argument, path: True}):
            thread, results = in_thread(
                lambda how=how: opened(performers, one, top + b"/fifo", **how)
            )
            wait_for(lambda: performing(performers))
            # Others are served meanwhile.
            assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"
            writer = os.open(top + b"/fifo", WRONLY)
            thread.join(20)
            os.write(writer, b"through")
            os.close(writer)
            assert content(results[0]) == b"through"


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_fifo_of_a_caller_that_is_gone(top: bytes, how: str) -> None:
    os.mkfifo(top + b"/fifo", 0o666)
    with Performers() as performers, caller() as one:
        call = one.call("openat", AT_FDCWD, top + b"/fifo", RDONLY, 0)
        thread, results = in_thread(lambda: performers.perform(call))
        wait_for(lambda: performing(performers))
        pidfds = [os.pidfd_open(pid) for pid in children(parent_of(performers))]
        if how == "killed":
            call.is_valid = lambda: one.pid != 0
            one.kill()
        else:
            call.is_valid = lambda: False
        thread.join(20)
        assert results == [Deny(errno.EINTR, "the caller is gone")]
        assert gone(pidfds)
        for pidfd in pidfds:
            os.close(pidfd)
        # Nobody reads the FIFO any more.
        with pytest.raises(OSError) as refused:
            os.open(top + b"/fifo", WRONLY | NONBLOCK)
        assert refused.value.errno == errno.ENXIO


def test_fifo_by_way_of_proc_self(performers: Performers, top: bytes) -> None:
    """What is walked step by step ends with its caller, too."""
    os.mkfifo(top + b"/fifo", 0o666)
    with caller(lambda: os.chdir(top)) as one:
        call = one.call("openat", AT_FDCWD, b"/proc/self/cwd/fifo", RDONLY, 0)
        thread, results = in_thread(lambda: performers.perform(call))
        wait_for(lambda: performing(performers))
        call.is_valid = lambda: False
        thread.join(20)
        assert results == [Deny(errno.EINTR, "the caller is gone")]
    with pytest.raises(OSError) as refused:
        wait_for(lambda: os.close(os.open(top + b"/fifo", WRONLY | NONBLOCK)), 1)
    assert refused.value.errno == errno.ENXIO


def test_deadline(top: bytes) -> None:
    os.mkfifo(top + b"/fifo", 0o666)
    with Performers(deadline=0.1) as performers, caller() as one:
        verdict = opened(performers, one, top + b"/fifo")
        assert isinstance(verdict, Deny)
        assert verdict.errno == errno.EPERM
        assert "in time" in verdict.reason
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"


@pytest.mark.usefixtures("executors")
def test_limit(top: bytes) -> None:
    os.mkfifo(top + b"/fifo", 0o666)
    with Performers(limit=2) as performers, caller() as one:
        waiting = [in_thread(lambda: opened(performers, one, top + b"/fifo")) for _ in range(2)]
        wait_for(lambda: performing(performers, 2))
        verdict = opened(performers, one, b"/etc/passwd")
        assert isinstance(verdict, Deny)
        assert verdict.errno == errno.ENOMEM
        performers.close()  # while two calls are being performed
        for thread, results in waiting:
            thread.join(20)
            assert isinstance(results[0], Deny)
            assert results[0].errno == errno.EINTR  # nothing has come of it


def test_nothing_survives_a_killed_monitor(top: bytes) -> None:
    os.mkfifo(top + b"/fifo", 0o666)
    with caller() as one:

        def monitor(say: Callable[[str], None]) -> None:
            performers = Performers().start()
            outcome(opened(performers, one, b"/etc/passwd"))
            in_thread(lambda: opened(performers, one, top + b"/fifo"))
            wait_for(lambda: performing(performers))
            say(str(parent_of(performers)))
            signal.pause()

        with child_process(monitor) as (pid, said):
            parent = int(said.readline())
            pidfds = [os.pidfd_open(one) for one in (parent, *children(parent))]
            assert len(pidfds) >= 2
            os.kill(pid, signal.SIGKILL)
            assert gone(pidfds)
            for pidfd in pidfds:
                os.close(pidfd)


def test_many_threads_at_once(performers: Performers, top: bytes) -> None:
    for number in range(4):
        with io_open(os.path.join(top, b"%d" % number), "w") as file:
            file.write(str(number))
    wrong: list[Any] = []
    with caller(lambda: os.chdir(top)) as one:

        def work(number: int) -> None:
            for _ in range(100):
                got = content(opened(performers, one, b"%d" % number))
                if got != b"%d" % number:
                    wrong.append((number, got))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert wrong == []


# Callers that go, or hide ------------------------------------------------------------------------
def test_caller_that_is_not_there(performers: Performers) -> None:
    with caller() as one:
        call = one.call("openat", AT_FDCWD, b"/etc/passwd", RDONLY, 0)
    assert performers.perform(call) == Deny(errno.EINTR, "the caller is gone")


def test_call_that_ended_meanwhile_has_no_effect(performers: Performers, top: bytes) -> None:
    with caller() as one:
        call = one.call("openat", AT_FDCWD, top + b"/new", RDWR | os.O_CREAT, 0o600)
        call.is_valid = lambda: False
        assert performers.perform(call) == Deny(errno.EINTR, "the caller is gone")
        call = one.call("mknodat", AT_FDCWD, top + b"/fifo", 0o10600, 0)
        call.is_valid = lambda: False
        assert performers.perform(call) == Deny(errno.EINTR, "the caller is gone")
    assert os.listdir(top) == []


def test_invisible_caller() -> None:
    troubles: list[str] = []
    with Performers(on_trouble=troubles.append) as performers:
        call = Call(0, "openat", (AT_FDCWD, b"/etc/passwd", RDONLY, 0))
        verdict = performers.perform(call)
    assert isinstance(verdict, Deny)
    assert verdict.errno == errno.EPERM
    assert len(troubles) == 1


# Paths that are the caller's ---------------------------------------------------------------------
@root_only
def test_proc_self_in_a_pid_namespace(performers: Performers, top: bytes) -> None:
    """The caller's own procfs numbers it differently, and does not show performers at all."""
    with caller() as bystander:

        def work(say: Callable[[str], None]) -> None:
            unshare(CLONE_NEWPID)
            with caller(lambda: (private_mounts(), mount(b"proc", b"/proc", b"proc", 0))) as inner:
                say(str(inner.tid))
                signal.pause()

        with child_process(work) as (pid, said):
            assert said.readline().strip() == "1"  # its number in there
            inside = children(pid).pop()
            one = Caller.__new__(Caller)
            one.tid, one.arch = inside, ARCH
            text = content(opened(performers, one, b"/proc/self/status"))
            assert b"\nPid:\t1\n" in text
            assert b"\nNSpid:\t1\n" in text
            text = content(opened(performers, one, b"/proc/thread-self/../../status"))
            assert b"\nTgid:\t1\n" in text
            assert opened(performers, one, b"/proc/%d/status" % bystander.pid) == Deny(errno.ENOENT)
            seen: list[bytes] = []
            content(
                opened(performers, one, b"/proc/self/status", allow=lambda _, p: not seen.append(p))
            )
            assert seen == [b"/proc/1/status"]


def test_descriptors_of_the_caller(performers: Performers, top: bytes) -> None:
    """/dev/fd/N, /dev/stdin, /proc/self/fd/N open what the caller has there, anew."""
    with io_open(top + b"/file", "wb") as file:
        file.write(b"caller's")
    readable, writable = os.pipe()

    def setup() -> None:
        os.dup2(os.open(top + b"/file", RDONLY), 77)
        os.dup2(readable, 0)
        os.dup2(os.memfd_create("gone"), 78)
        os.write(78, b"nameless")
        os.closerange(79, 80)  # of whatever ran before this test

    with caller(setup) as one:
        os.write(writable, b"piped")
        for path in (b"/dev/fd/77", b"/proc/self/fd/77", b"/proc/thread-self/fd/77"):
            assert content(opened(performers, one, path)) == b"caller's"
        assert content(opened(performers, one, b"/dev/stdin", RDONLY | NONBLOCK)) == b"piped"
        assert content(opened(performers, one, b"/dev/fd/78")) == b"nameless"
        assert opened(performers, one, b"/dev/fd/79") == Deny(errno.ENOENT)
        seen: list[bytes] = []
        outcome(opened(performers, one, b"/dev/fd/78", allow=lambda _, path: not seen.append(path)))
        outcome(
            opened(
                performers,
                one,
                b"/dev/stdin",
                NONBLOCK,
                allow=lambda _, path: not seen.append(path),
            )
        )
        assert seen[0] == b"(unreachable)/memfd:gone (deleted)"
        assert seen[1].startswith(b"pipe:[")
    os.close(readable)
    os.close(writable)


def test_controlling_terminal(performers: Performers) -> None:
    """/dev/tty is the caller's terminal, not the performer's (it has none)."""
    main, side = pty.openpty()

    def setup() -> None:
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(side, termios.TIOCSCTTY, 0)
        os.dup2(side, 2)

    with caller(setup) as one, caller(os.setsid) as without:
        for how in ({}, {"allow": lambda argument, path: True}):
            verdict = opened(performers, one, b"/dev/tty", RDWR, **how)
            assert isinstance(verdict, HandOver), verdict
            os.write(verdict.fd, b"hello")
            os.close(verdict.fd)
            assert os.read(main, 5) == b"hello"
            verdict = opened(performers, without, b"/dev/tty", RDWR, **how)
            assert isinstance(verdict, Deny)
            assert verdict.errno == errno.ENXIO
    os.close(main)
    os.close(side)


def test_terminal_is_not_taken(performers: Performers) -> None:
    main, side = pty.openpty()
    with caller() as one:
        verdict = opened(performers, one, os.ttyname(side).encode(), RDWR)
        assert isinstance(verdict, HandOver)
        os.close(verdict.fd)
        performer = children(parent_of(performers)).pop()
        with io_open(f"/proc/{performer}/stat") as file:
            assert file.read().rpartition(")")[2].split()[4] == "0"
    os.close(main)
    os.close(side)


def test_o_path(top: bytes) -> None:
    with (
        caller(lambda: os.chdir(top)) as one,
        Performers(o_path="deny") as denying,
        Performers() as running,
    ):
        verdict = opened(denying, one, b".", os.O_PATH)
        assert isinstance(verdict, Deny)
        assert verdict.errno == errno.EOPNOTSUPP
        assert "O_PATH" in verdict.reason
        verdict = opened(running, one, b".", os.O_PATH)
        assert isinstance(verdict, LetRun)
        assert verdict.unsafe
        assert opened(denying, one, b"missing", os.O_PATH) == Deny(errno.ENOENT)
        verdict = opened(running, one, b"missing", os.O_PATH, allow=lambda argument, path: True)
        assert verdict == Deny(errno.ENOENT)
        verdict = opened(running, one, b".", os.O_PATH, allow=lambda argument, path: False)
        assert isinstance(verdict, Deny)
        assert verdict.errno == errno.EACCES


# What a policy sees, against races ----------------------------------------------------------------
def test_refused_paths_have_no_effect(performers: Performers, top: bytes) -> None:
    with io_open(top + b"/file", "w") as file:
        file.write("content")
    os.symlink(b"new", top + b"/dangling")
    seen: list[bytes] = []

    def never(argument: str, path: bytes) -> bool:
        seen.append(path)
        return False

    with caller(lambda: os.chdir(top)) as one:
        for path, flags in (
            (b"file", WRONLY | os.O_TRUNC), (b"file", WRONLY | os.O_CREAT | os.O_TRUNC), (b"new", WRONLY | os.O_CREAT),
            (b"dangling", WRONLY | os.O_CREAT), (b".", RDWR | os.O_TMPFILE), (b"../" + os.path.basename(top), RDONLY),
            (b"/proc/self/cwd/file", WRONLY | os.O_TRUNC), (b"/proc/self/cwd/new", WRONLY | os.O_CREAT),
        ):  # fmt: skip
            verdict = opened(performers, one, path, flags, allow=never)
            assert isinstance(verdict, Deny)
            assert verdict.errno == errno.EACCES
            assert verdict.reason == "path was not allowed"
        assert opened(performers, one, b"missing/new", WRONLY | os.O_CREAT, allow=never) == Deny(
            errno.ENOENT
        )
    assert seen == [
        top + name
        for name in (b"/file", b"/file", b"/new", b"/new", b"", b"", b"/file", b"/new")
    ]  # fmt: skip
    assert sorted(os.listdir(top)) == [b"dangling", b"file"]
    assert os.path.getsize(top + b"/file") == 7


def test_a_rule_that_raises_does_not_spoil_the_next_call(performers: Performers) -> None:
    def broken(argument: str, path: bytes) -> bool:
        raise RuntimeError("rule")

    with caller() as one:
        with pytest.raises(RuntimeError, match="rule"):
            opened(performers, one, b"/etc/passwd", allow=broken)
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"


@contextmanager
def swapping(*pairs: tuple[bytes, bytes]) -> Iterator[None]:
    """A hostile process that exchanges names as fast as it can."""

    def work(say: Callable[[str], None]) -> None:
        say("ready")
        while True:
            for one, other in pairs:
                libc.renameat2(AT_FDCWD, one, AT_FDCWD, other, 2)  # RENAME_EXCHANGE

    with child_process(work) as (_, said):
        said.readline()
        yield


def test_path_rules_cannot_be_raced(performers: Performers, top: bytes) -> None:
    for name in (b"good", b"bad"):
        os.mkdir(top + b"/" + name)
        with io_open(top + b"/" + name + b"/file", "wb") as file:
            file.write(name)
    os.symlink(b"good", top + b"/link")
    os.symlink(b"bad", top + b"/other")
    os.symlink(b"../good/made", top + b"/good/dangle")
    os.symlink(b"../bad/made", top + b"/bad/dangle")

    def allow(argument: str, path: bytes) -> bool:
        return path.startswith(top + b"/good/")

    got = {"good": 0, "refused": 0}
    with caller(lambda: os.chdir(top)) as one, swapping((top + b"/link", top + b"/other")):
        for number in range(400):
            path = (b"link/file", b"/proc/self/cwd/link/file")[number % 16 == 0]
            verdict = opened(performers, one, path, RDWR, allow=allow)
            if isinstance(verdict, HandOver):
                assert content(verdict) == b"good"
                got["good"] += 1
            else:
                assert isinstance(verdict, Deny)
                assert verdict.errno == errno.EACCES
                got["refused"] += 1
            for path in (b"link/new", b"link/dangle"):
                verdict = opened(performers, one, path, RDWR | os.O_CREAT, allow=allow)
                if isinstance(verdict, HandOver):
                    os.close(verdict.fd)
            verdict = performers.perform(
                one.call("mknodat", AT_FDCWD, b"link/fifo%d" % number, 0o10600, 0), allow
            )
            assert verdict == Answer(0) or verdict.errno == errno.EACCES
    assert sorted(os.listdir(top + b"/bad")) == [b"dangle", b"file"]
    assert got["good"], "the race was never tried"
    assert got["refused"], "the race was never tried"


# What a hostile target may try on performers --------------------------------------------------------
def test_performers_own_proc_is_not_for_the_caller(performers: Performers) -> None:
    """By number, in a shared pid namespace: nothing of a performer is opened for its caller."""
    setup = as_user if os.geteuid() == 0 else None
    with caller(setup) as one:
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"
        performer = children(parent_of(performers)).pop()
        for name in (b"mem", b"environ", b"maps", b"fd/0", b"fd", b"root/etc/passwd", b"cwd", b"exe", b"ns/mnt",
                     b"fd/3", b"fd/4", b"fd/5", b"fd/6", b"task/%d/mem" % performer, b"auxv"):  # fmt: skip
            path = b"/proc/%d/%s" % (performer, name)
            for flags in (RDONLY, RDWR, RDONLY | os.O_CREAT, os.O_TRUNC | WRONLY):
                for how in ({}, {"allow": lambda argument, path: True}):
                    native = one.natively("openat", AT_FDCWD, path, flags, 0)
                    assert native[0] == "errno" or os.geteuid() != 0
                    assert outcome(opened(performers, one, path, flags, **how)) == native, (
                        path,
                        flags,
                    )
        # And from a directory descriptor that the caller may well have.
        directory = os.open(f"/proc/{performer}", os.O_PATH)
        with caller(lambda: (os.dup2(directory, 77), (setup or int)())) as other:
            for name in (b"mem", b"environ", b"fd/3/../..", b"cwd/etc"):
                call = other.call("openat", 77, name, RDONLY, 0)
                assert performers.perform(call) == Deny(errno.EACCES)
        os.close(directory)
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"


def test_proc_self_swapped_under_the_walk(performers: Performers, top: bytes) -> None:
    """Magic links that become the walker's own while it walks lead to nothing of worth."""
    os.symlink(b"/proc/self/fd", top + b"/link")
    os.symlink(b"/etc", top + b"/other")
    setup = as_user if os.geteuid() == 0 else None
    host_proc = os.stat("/proc")
    with (
        caller(setup) as one,
        swapping((top + b"/link", top + b"/other")),
    ):
        for number in range(150):
            path = top + b"/link/%d/../sys/kernel/ostype" % (3 + number % 6)
            verdict = opened(performers, one, path)
            assert isinstance(verdict, Deny), content(verdict)
            verdict = opened(performers, one, top + b"/link/%d" % (3 + number % 6), os.O_DIRECTORY)
            if isinstance(verdict, HandOver):
                st = os.fstat(verdict.fd)
                os.close(verdict.fd)
                assert (st.st_dev, st.st_ino) != (host_proc.st_dev, host_proc.st_ino)


@root_only
def test_performers_cannot_be_traced_by_their_caller(performers: Performers) -> None:
    def setup() -> None:
        unshare(CLONE_NEWNS)

    with caller(setup, MAP) as one:
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"
        performer = children(parent_of(performers)).pop()
        with io_open(f"/proc/{performer}/status") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        assert status["Uid"].split() == ["100000"] * 4
        for name in (b"mem", b"environ"):
            path = b"/proc/%d/%s" % (performer, name)
            assert one.natively("openat", AT_FDCWD, path, RDONLY, 0) == ("errno", errno.EACCES)


# Cgroups -----------------------------------------------------------------------------------------
@root_only
@pytest.mark.parametrize("more", ["", "\r5:devices:"])
def test_device_rules_of_the_callers_cgroup_hold(
    performers: Performers, top: bytes, more: str
) -> None:
    """Whatever name somebody gave it."""
    hierarchy = "/sys/fs/cgroup/devices"
    if not os.path.exists(hierarchy + "/devices.deny"):
        pytest.skip("no devices controller of cgroup version 1 here")
    group = f"{hierarchy}/proctor-test-{os.getpid()}{more}"
    os.mkdir(group)
    try:
        with io_open(group + "/devices.deny", "w") as file:
            file.write("c 1:5 rwm")

        def join(one: Caller) -> None:
            with io_open(group + "/cgroup.procs", "w") as file:
                file.write(str(one.pid))

        with caller(lambda: os.chdir(top)) as one, Performers(cgroup="ignore") as careless:
            join(one)
            for path in (b"/dev/zero", b"/proc/self/root/dev/zero"):
                for how in ({}, {"allow": lambda argument, path: True}):
                    assert opened(performers, one, path, **how) == Deny(errno.EPERM)
                    assert outcome(opened(performers, one, b"/dev/null", **how))[0] == "fd"
            assert one.natively("openat", AT_FDCWD, b"/dev/zero", RDONLY, 0) == (
                "errno",
                errno.EPERM,
            )
            zero, null = os.makedev(1, 5), os.makedev(1, 3)
            for device in (zero, null):
                native = one.natively("mknodat", AT_FDCWD, b"native", 0o20600, device)
                assert (
                    one.performed(performers, "mknodat", AT_FDCWD, b"done", 0o20600, device)
                    == native
                )
            assert outcome(opened(careless, one, b"/dev/zero"))[0] == "fd"
        with caller(lambda: os.chdir(top), MAP) as one:
            join(one)
            os.chmod(top, 0o777)
            assert one.performed(performers, "mknodat", AT_FDCWD, b"z", 0o20600, zero) == (
                "errno",
                errno.EPERM,
            )
            assert one.performed(performers, "mknodat", AT_FDCWD, b"n", 0o20600, null) == (
                "value",
                0,
            )
    finally:
        wait_for(lambda: _removed(group))


def _removed(group: str) -> bool:
    try:
        os.rmdir(group)
    except OSError:
        return False
    return True


# Without rights over the host -----------------------------------------------------------------------
@root_only
def test_an_ordinary_user_as_monitor(top: bytes) -> None:
    """open works with and without a user namespace; a device node says what it would need."""
    program = shutil.copy(image.PATH, os.fsdecode(top))
    with io_open(top + b"/file", "w") as file:
        file.write("content")
    with io_open(top + b"/root's", "w") as file:
        os.fchmod(file.fileno(), 0o600)

    def monitor(say: Callable[[str], None]) -> None:
        image.PATH = program  # type: ignore[misc]
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        libc.prctl(4, 1, 0, 0, 0)

        def prepare() -> None:
            os.chdir(top)

        def contain() -> None:
            unshare(CLONE_NEWNS)
            os.chdir(top)

        def nest() -> None:
            unshare(CLONE_NEWNS)
            os.chdir(top)
            unshare(CLONE_NEWUSER)
            with io_open("/proc/self/uid_map", "w") as file:
                file.write("5 0 1")

        with Performers(on_trouble=say) as performers:
            with caller(prepare) as one:
                assert content(opened(performers, one, b"file")) == b"content"
                assert opened(performers, one, b"root's") == Deny(errno.EACCES)
                assert outcome(opened(performers, one, b"plain", WRONLY | os.O_CREAT))[2] == 1000
            for setup in (contain, nest):
                with caller(setup, "0 1000 1") as one:
                    assert content(opened(performers, one, b"file")) == b"content"
                    assert content(opened(performers, one, b"/proc/self/cwd/file")) == b"content"
                    for path in (b"root's", b"file", b"new", b"file/x"):
                        native = one.natively("openat", AT_FDCWD, path, RDWR, 0)
                        assert outcome(opened(performers, one, path, RDWR)) == native, path
                    assert one.performed(performers, "mknodat", AT_FDCWD, b"f", 0o10600, 0) == (
                        "value",
                        0,
                    )
                    os.unlink(top + b"/f")
                    verdict = performers.perform(
                        one.call("mknodat", AT_FDCWD, b"n", 0o20600, 0x103)
                    )
                    assert isinstance(verdict, Deny)
                    assert verdict.errno == errno.EPERM
                    say(verdict.reason)
        say("done")

    with child_process(monitor) as (_, said):
        lines = said.read().splitlines()
    assert lines[-1] == "done", "\n".join(lines)
    assert "host's root" in lines[0], lines


# Smaller things ---------------------------------------------------------------------------------
def test_monitor_that_forked_and_died(top: bytes) -> None:
    """A child of the monitor keeps its end of the socket open, but keeps no performer alive."""
    with caller() as one:

        def monitor(say: Callable[[str], None]) -> None:
            performers = Performers().start()
            outcome(opened(performers, one, b"/etc/passwd"))
            heir = os.fork()
            if heir == 0:
                signal.pause()
            say(f"{parent_of(performers)} {heir}")
            signal.pause()

        with child_process(monitor) as (pid, said):
            parent, heir = map(int, said.readline().split())
            pidfds = [os.pidfd_open(one) for one in (parent, *children(parent))]
            os.kill(pid, signal.SIGKILL)
            assert gone(pidfds)
            os.kill(heir, signal.SIGKILL)
            for pidfd in pidfds:
                os.close(pidfd)


def test_monitor_without_standard_descriptors() -> None:
    with caller() as one:

        def monitor(say: Callable[[str], None]) -> None:
            for fd in (0, 1, 2):
                os.close(fd)
            with Performers(on_trouble=say) as performers:
                assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"
            say("done")

        with child_process(monitor) as (_, said):
            assert said.read() == "done\n"


def test_call_that_is_over_meanwhile(performers: Performers) -> None:
    """A supervisor that answered by its deadline ends the call object under us."""

    def over() -> bool:
        raise CallOver("the call was answered")

    with caller() as one:
        call = one.call("openat", AT_FDCWD, b"/etc/passwd", RDONLY, 0)
        call.is_valid = over
        assert performers.perform(call) == Deny(errno.EINTR, "the caller is gone")
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"


@root_only
@pytest.mark.parametrize("directory", [0o1777, 0o1775, 0o777, 0o1755])
@pytest.mark.parametrize("owner", [4242, 4243, 1000])
def test_protected_files_in_sticky_directories(
    performers: Performers, top: bytes, directory: int, owner: int
) -> None:
    """fs.protected_regular, fs.protected_fifos and fs.protected_symlinks are the kernel's to look at,
    with and without a rule on paths."""
    sticky = top + b"/sticky"
    os.mkdir(sticky)
    for name in (b"file", b"fifo"):
        path = sticky + b"/" + name
        os.close(os.open(path, os.O_CREAT)) if name == b"file" else os.mkfifo(path)
        os.chown(path, owner, owner)
        os.chmod(path, 0o666)
    os.symlink(b"file", sticky + b"/link")
    os.symlink(b"nothing", sticky + b"/dangling")
    for name in (b"link", b"dangling"):
        os.chown(sticky + b"/" + name, owner, owner, follow_symlinks=False)
    os.chown(sticky, 4243, 1000)
    os.chmod(sticky, directory)
    with caller(as_user) as one:
        for name in (b"file", b"fifo", b"link", b"dangling"):
            for flags in (RDONLY, RDWR, RDWR | os.O_CREAT, RDWR | os.O_CREAT | os.O_EXCL):
                arguments = (AT_FDCWD, sticky + b"/" + name, flags | NONBLOCK, 0o600)
                for how in ({}, {"allow": lambda argument, path: True}):
                    native = one.natively("openat", *arguments)
                    made = os.path.exists(sticky + b"/nothing")
                    if made:
                        os.unlink(sticky + b"/nothing")
                    assert one.performed(performers, "openat", *arguments, **how) == native
                    assert os.path.exists(sticky + b"/nothing") == made
                    if made:
                        os.unlink(sticky + b"/nothing")


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (b"a", (b".", b"a", b"")), (b"/a", (b"/", b"a", b"")), (b"a/b", (b"a/", b"b", b"")), (b"//a//b//", (b"//a//", b"b", b"//")),
        (b"/", (b"/", b"", b"")), (b"", (b"", b"", b"")), (b"a/..", (b"a/", b"..", b"")), (b"./", (b".", b".", b"/")),
    ],
)  # fmt: skip
def test_split(path: bytes, parts: tuple[bytes, bytes, bytes]) -> None:
    assert pins.split(path) == parts


def test_cgroup_files() -> None:
    own = b"9:cpu:/\n5:devices:/a\n0::/x/y\n"
    assert device_groups(own, own) == []
    assert device_groups(b"9:cpu:/other\n5:devices:/\n0::/x\n", own) == []  # we are below both
    assert len(device_groups(b"5:devices:/b\n0::/x/y/z\n", own)) == 2
    assert device_groups(b"0::/../sibling\n", own) == [None]
    for end in (b"\r", b"\x0b", b"\x85"):  # what the kernel takes in a name
        assert device_groups(b"5:devices:/b" + end + b"5:devices:\n", own) != []
        assert device_groups(b"0::/b" + end + b"0::\n", own) != []


def test_a_name_is_no_line_of_a_status() -> None:
    tid = threading.get_native_id()
    with io_open(f"/proc/self/task/{tid}/comm", "r+b", buffering=0) as comm:
        before = comm.read().rstrip(b"\n")
        comm.write(b"x\rTgid:\t1")
        try:
            assert _leader(tid) == os.getpid()
            known = standing(tid)
            assert known is not None and known.tgid == os.getpid()
        finally:
            comm.write(before)

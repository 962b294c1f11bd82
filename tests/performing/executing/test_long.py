"""Calls that take long: signals for the caller, executors that are stopped, killed, stuck, or left."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import proctor
from proctor.call.verdict import Answer, Deny, HandOver, Verdict, deny
from proctor.errors import CallGone
from proctor.kernel.nudging import nudge
from proctor.performing import conversation
from proctor.performing.conversation import Conversation, converse
from proctor.performing.executing import processes
from proctor.performing.executing.workers import Wait
from proctor.process.run import PIPE
from proctor.testing import FakeTarget
from tests.performing.executing.test_executor import SEES_RESTARTS
from tests.performing.executing.test_performers import (
    RDONLY,
    blocked_in_open,
    child_process,
    children,
    gone,
    in_thread,
    opened,
    parent_of,
    performing,
    wait_for,
)
from tests.performing.families.test_mknod import CHAR, NULL, container
from tests.performing.families.test_open_differential import MAP, as_user
from tests.performing.support.callers import AT_FDCWD, Performers, caller, compiled, libc, outcome
from tests.support.kernel import RELEASE
from tests.support.stuck import FLUSH, INODE, LOOKUP, Stuck, without_flush

PTRACE_SEIZE = 0x4206
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes")


# Signals -----------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, threading
got = []
signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
restarts = sys.argv[2] == "restarts"
class Stop(Exception): pass
if not restarts:
    def stop(number, frame): raise Stop
    signal.signal(signal.SIGUSR1, stop)
signal.siginterrupt(signal.SIGUSR1, not restarts)
print(os.getpid(), flush=True)
try:
    fd = os.open(sys.argv[1], os.O_RDONLY)
    print("opened", os.read(fd, 9).decode(), len(got), flush=True)
except Stop:
    print("interrupted", flush=True)
"""


@proctor.on("openat")
def performs(call: proctor.Call) -> proctor.Verdict:
    return proctor.perform()


@contextmanager
def waiting_for(fifo: bytes, *more: str) -> Iterator[tuple[proctor.Process, int, Any]]:
    """A program in a performed open of a FIFO: (its process, its number, what it says)."""
    with Performers() as performers, proctor.spawn(
        [sys.executable, "-S", "-c", PROGRAM, os.fsdecode(fifo), *more],
        [performs], performer=performers, stdout=PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        wait_for(lambda: performing(performers))
        yield process, pid, process.stdout


@pytest.fixture
def fifo(top: bytes) -> bytes:
    if RELEASE < (5, 19):
        pytest.skip(
            "no WAIT_KILLABLE_RECV here (Linux 5.19): the kernel interrupts such calls itself"
        )
    os.mkfifo(top + b"/fifo", 0o666)
    return top + b"/fifo"


def test_a_handled_signal_interrupts_as_natively(fifo: bytes) -> None:
    with waiting_for(fifo, "interrupts") as (process, pid, said):
        os.kill(pid, signal.SIGUSR1)
        assert said.readline() == b"interrupted\n"
        assert process.wait(20) == 0


def test_a_call_that_is_to_be_restarted_is(fifo: bytes) -> None:
    with waiting_for(fifo, "restarts") as (process, pid, said):
        for _ in range(2):
            os.kill(pid, signal.SIGUSR1)
            wait_for(lambda: signals_of(pid) == 0)
        writer = os.open(fifo, os.O_WRONLY)
        os.write(writer, b"late")
        assert (
            said.readline() == b"opened late 1\n"
        )  # Python runs its handler once the call is over
        os.close(writer)
        assert process.wait(20) == 0


def signals_of(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return sum(
            int(line.split()[1], 16) for line in file if line.startswith(("SigPnd", "ShdPnd"))
        )


def test_an_end_behind_a_handled_signal_comes(fifo: bytes) -> None:
    """SIGTERM is no longer fatal at once when another signal waits: both are taken when the call is."""
    with waiting_for(fifo, "restarts") as (process, pid, _):
        os.kill(pid, signal.SIGUSR1)
        os.kill(pid, signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM


@pytest.fixture(scope="module")
def signals() -> Iterator[str]:
    with compiled("signals") as made:
        yield made


@contextmanager
def opening(fifo: bytes, how: dict[str, Any], *argv: str) -> Iterator[tuple[proctor.Process, Any]]:
    """The program in its open: (its process, what it says).

    :param how: nothing, or what has its opens performed."""
    with proctor.spawn([*argv], **how, stdout=PIPE) as process:
        assert process.stdout is not None
        tid = int(process.stdout.readline())
        performers = how.get("performer")
        wait_for(lambda: performing(performers) if performers else blocked_in_open(tid))
        yield process, process.stdout


WHOSE = {
    # the first thread is meant whenever it can take a signal, the second where the first blocks it
    ("first", "sleeps"): b"EINTR 1\n",
    ("first", "blocks"): b"EINTR 1\n",
    ("second", "blocks"): b"EINTR 1\n",
    ("second", "sleeps"): b"opened 1\n",
    ("first", "sleeps", "restart"): b"opened 1\n",
    ("second", "blocks", "restart"): b"opened 1\n",
}


@pytest.mark.parametrize("performed", [False, True], ids=["natively", "performed"])
@pytest.mark.parametrize("whose", WHOSE)
def test_a_process_s_signal_is_the_thread_s_that_the_kernel_woke(
    fifo: bytes, signals: str, whose: tuple[str, ...], performed: bool
) -> None:
    with Performers() as performers:
        how = {"handlers": [performs], "performer": performers} if performed else {}
        with opening(fifo, how, signals, os.fsdecode(fifo), *whose) as (process, said):
            os.kill(process.pid, signal.SIGUSR1)
            if WHOSE[whose][:1] == b"o":
                wait_for(lambda: signals_of(process.pid) == 0)
                os.close(os.open(fifo, os.O_WRONLY))
            assert said.readline() == WHOSE[whose]
            assert process.wait(20) == 0


@pytest.mark.parametrize("performed", [False, True], ids=["natively", "performed"])
def test_an_end_behind_a_signal_for_the_second_thread_comes(
    fifo: bytes, signals: str, performed: bool
) -> None:
    with Performers() as performers:
        how = {"handlers": [performs], "performer": performers} if performed else {}
        words = os.fsdecode(fifo), "second", "blocks", "restart"
        with opening(fifo, how, signals, *words) as (process, _):
            os.kill(process.pid, signal.SIGUSR1)
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(20) == -signal.SIGTERM


@contextmanager
def many_opening(fifo: bytes, how: dict[str, Any], *argv: str) -> Iterator[tuple[Any, Any]]:
    """The program with three threads in their opens, any of which could take a signal."""
    with proctor.spawn([*argv], **how, stdout=PIPE) as process:
        assert process.stdout is not None
        tids = [int(process.stdout.readline()) for _ in range(3)]
        performers = how.get("performer")
        wait_for(
            lambda: (
                len(performers.executors._busy) == 3
                if performers
                else all(map(blocked_in_open, tids))
            )
        )
        yield process, process.stdout


@pytest.mark.parametrize("performed", [False, True], ids=["natively", "performed"])
def test_a_signal_that_any_could_take_is_somebody_s(
    fifo: bytes, signals: str, performed: bool
) -> None:
    """Whose it is nobody can see: the first thread blocks it, and all others wait."""
    with Performers() as performers:
        how = {"handlers": [performs], "performer": performers} if performed else {}
        words = signals, os.fsdecode(fifo), "many", "blocks"
        with many_opening(fifo, how, *words) as (process, said):
            os.kill(process.pid, signal.SIGUSR1)
            assert said.readline() == b"EINTR 1\n"
            assert signals_of(process.pid) == 0
            writer = os.open(fifo, os.O_WRONLY)
            assert [said.readline() for _ in range(2)] == [b"opened 1\n"] * 2
            os.close(writer)
            assert process.wait(20) == 0


@pytest.mark.parametrize("performed", [False, True], ids=["natively", "performed"])
def test_a_signal_that_any_could_take_and_restarts(
    fifo: bytes, signals: str, performed: bool
) -> None:
    with Performers() as performers:
        how = {"handlers": [performs], "performer": performers} if performed else {}
        words = signals, os.fsdecode(fifo), "many", "blocks", "restart"
        with many_opening(fifo, how, *words) as (process, said):
            for _ in range(2):
                os.kill(process.pid, signal.SIGUSR1)
                wait_for(lambda: signals_of(process.pid) == 0)
            writer = os.open(fifo, os.O_WRONLY)
            assert [said.readline() for _ in range(3)] == [b"opened 2\n"] * 3
            os.close(writer)
            assert process.wait(20) == 0


@pytest.mark.parametrize("performed", [False, True], ids=["natively", "performed"])
def test_an_end_behind_a_signal_that_any_could_take_comes(
    fifo: bytes, signals: str, performed: bool
) -> None:
    """SIGTERM is one of three that wait, each for a thread that is woken already."""
    with Performers() as performers:
        how = {"handlers": [performs], "performer": performers} if performed else {}
        words = signals, os.fsdecode(fifo), "many", "blocks", "restart"
        with many_opening(fifo, how, *words) as (process, _):
            for _ in range(3):
                os.kill(process.pid, signal.SIGUSR1)
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(20) == -signal.SIGTERM


def test_a_traced_caller_is_left_to_its_tracer(fifo: bytes, signals: str) -> None:
    """Nobody can be sure then whose the signal is, so that nobody is answered as interrupted."""
    with Performers() as performers:
        words = signals, os.fsdecode(fifo), "many", "blocks"
        how: dict[str, Any] = {"handlers": [performs], "performer": performers}
        with many_opening(fifo, how, *words) as (process, said):
            tids = [int(tid) for tid in os.listdir(f"/proc/{process.pid}/task")]

            def trace() -> list[int]:
                traced = [libc.ptrace(PTRACE_SEIZE, tid, None, None) for tid in tids]
                return traced + [nudge(tid) for tid in [*tids, 1 << 30]]

            thread, results = in_thread(trace)  # whose end lets them go
            thread.join(20)
            assert results == [[0] * 4 + [False] * 5]
            os.kill(process.pid, signal.SIGUSR1)
            assert said.readline() == b"EINTR 1\n"
            os.kill(process.pid, signal.SIGKILL)


def test_who_is_nudged_makes_its_call_anew(top: bytes) -> None:
    """Where no signal waits, ERESTARTSYS is seen by nobody: so it may be said of a guess."""
    calls = []

    @proctor.on("mkdir", "mkdirat")
    def restarts(call: proctor.Call) -> proctor.Verdict:
        calls.append(call.tid)
        if len(calls) > 3:
            return proctor.deny(errno.EXDEV)
        assert nudge(call.tid)
        return proctor.deny(512)

    done = proctor.run(["mkdir", os.fsdecode(top) + "/x"], [restarts], capture_output=True)
    assert len(calls) == 4
    assert os.strerror(errno.EXDEV) in os.fsdecode(done.stderr)


def test_a_signal_that_comes_too_early_comes_again(
    top: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before the call that waits it is lost; until it ends something nothing is said."""
    os.mkfifo(top + b"/fifo", 0o666)
    sent: list[processes.Executor] = []
    real = processes.Executor.interrupt

    def interrupt(self: processes.Executor) -> None:
        sent.append(self)
        if len(sent) > 2:
            real(self)

    monkeypatch.setattr(processes.Executor, "interrupt", interrupt)
    with Performers() as performers, caller() as one:
        call = one.call("openat", AT_FDCWD, top + b"/fifo", RDONLY, 0)
        begun = begun_of(performers.begin(call, proctor.perform()))
        wait_for(lambda: begun._asked is None or blocked_in_open(executor_of(begun)))
        begun._interrupt()
        assert begun.go_on() is None
        assert begun.wait() == Deny(512, "a signal waits for the caller")
        assert len(sent) > 2


def begun_of(verdict: object) -> conversation.Conversation:
    assert isinstance(verdict, conversation.Conversation)
    return verdict


def executor_of(begun: conversation.Conversation) -> int:
    """The process that is waited for; what it said is heard."""
    begun.go_on()
    worker = begun._asked and begun._asked.worker
    return worker.pid if isinstance(worker, processes.Executor) else 0


@pytest.fixture
def served(top: bytes) -> Iterator[Serving]:
    serving = Serving(top)
    yield serving
    serving.go.set()
    serving.stuck.close()


class Serving:
    """A FUSE server in which something is made, and that takes its time for one kind of requests."""

    MKDIR, CREATE, STATFS = 9, 35, 17

    def __init__(self, top: bytes) -> None:
        if os.geteuid() or not os.path.exists("/dev/fuse"):
            pytest.skip("mounts a FUSE file system")
        self.asked, self.go, self.slow = threading.Event(), threading.Event(), 0
        self.made: list[int] = []
        os.mkdir(top + b"/mnt")
        nothing = bytes(128)
        directory, file = (
            struct.pack("=QQQQII", 2, 0, 0, 1000, 0, 0)
            + INODE.pack(2, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
            for mode in (0o40777, 0o100666)
        )
        answers: dict[int, Any] = {
            LOOKUP: nothing,
            self.MKDIR: lambda request: self._make(self.MKDIR, directory),
            self.CREATE: lambda request: self._make(self.CREATE, file + struct.pack("=QII", 1, 0, 0)),
            self.STATFS: lambda request: self._late(self.STATFS, bytes(80)),
            FLUSH: b"",
        }  # fmt: skip
        self.stuck = Stuck(top + b"/mnt", answers=answers)

    def _late(self, what: int, answer: bytes) -> bytes:
        if what == self.slow:
            self.asked.set()
            self.go.wait(20)
        return answer

    def _make(self, what: int, answer: bytes) -> bytes:
        self.made.append(what)
        return self._late(what, answer)


@pytest.mark.parametrize(
    ("call", "slow", "said"),
    [
        (("mkdirat", b"/mnt/d", 0o755), Serving.MKDIR, proctor.Answer),
        (("openat", b"/mnt/f", os.O_CREAT | os.O_EXCL, 0o644), Serving.CREATE, HandOver),
        (("openat", b"/mnt/f", os.O_CREAT | os.O_EXCL, 0o644), Serving.STATFS, HandOver),
    ],
)
def test_what_no_signal_ended_is_done_once(
    top: bytes, served: Serving, call: tuple[Any, ...], slow: int, said: type
) -> None:
    """A server that was asked makes it all the same, and what is only looked at afterwards is no reason to make it
    once more: EEXIST for what natively works."""
    name, path, *numbers = call
    with Performers() as performers, caller(as_user) as one:
        verdict = performers.perform(one.call("openat", AT_FDCWD, top, RDONLY, 0))
        assert isinstance(verdict, HandOver)
        os.close(verdict.fd)
        served.slow = slow
        begun = begun_of(
            performers.begin(one.call(name, AT_FDCWD, top + path, *numbers), proctor.perform())
        )
        while not served.asked.is_set():
            assert begun.go_on(wait=True) is None
        begun._interrupt()
        assert begun.go_on() is None
        served.go.set()
        verdict = begun.wait()
        if isinstance(verdict, HandOver):
            os.close(verdict.fd)
        assert type(verdict) is said
        assert len(served.made) == 1


@pytest.mark.skipif(not SEES_RESTARTS, reason="not seen elsewhere")
def test_what_says_itself_that_it_was_interrupted_is_not_begun_anew(top: bytes) -> None:
    """As of a FUSE server, which has made a part of it, perhaps: natively SA_RESTART makes no difference to that."""
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("mounts a FUSE file system")
    os.mkdir(top + b"/mnt")
    answers = {LOOKUP: bytes(128), Serving.STATFS: bytes(80)}
    stuck = Stuck(top + b"/mnt", Serving.MKDIR, answers, gives_up=True)
    try:
        with Performers() as performers, caller(as_user) as one:
            call = one.call("mkdirat", AT_FDCWD, top + b"/mnt/d", 0o755)
            begun = begun_of(performers.begin(call, proctor.perform()))
            while not stuck.waiting:
                assert begun.go_on(wait=True) is None
            begun._interrupt()
            assert begun.wait() == Deny(errno.EINTR, "a signal waits for the caller")
    finally:
        stuck.close()


def test_nothing_is_answered_on_suspicion(top: bytes) -> None:
    """A signal that is blocked, or that another thread may take, interrupts nobody."""
    os.mkfifo(top + b"/fifo", 0o666)

    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

    for more in ({"setup": block}, {"threaded": True}):
        with Performers() as performers, caller(**more) as one:
            call = one.call("openat", AT_FDCWD, top + b"/fifo", RDONLY, 0)
            begun = performers.begin(call, proctor.perform())
            assert isinstance(begun, conversation.Conversation)
            if "setup" in more:
                os.kill(one.pid, signal.SIGUSR2)
                assert signals_of(one.pid)
            for _ in range(3):
                assert begun.look() is None
            begun.cancel()
            assert begun.verdict == Deny(errno.EINTR, "the caller is gone")


def test_what_was_done_is_the_answer(top: bytes) -> None:
    """The reply is there already when the signal is seen."""
    os.mkfifo(top + b"/fifo", 0o666)
    with Performers() as performers, caller() as one:
        call = one.call("openat", AT_FDCWD, top + b"/fifo", RDONLY, 0)
        begun = performers.begin(call, proctor.perform())
        assert isinstance(begun, conversation.Conversation)
        writer = -1
        while writer < 0:
            try:
                writer = os.open(top + b"/fifo", os.O_WRONLY | os.O_NONBLOCK)
            except OSError as problem:  # an executor may be on its way still
                assert problem.errno == errno.ENXIO
                if select.select([begun.fileno()], [], [], 0.001)[0]:
                    assert begun.go_on() is None
        select.select([begun.fileno()], [], [])
        begun._interrupt()
        verdict = begun.wait()
        os.write(writer, b"there")
        os.close(writer)
        assert isinstance(verdict, HandOver)
        assert os.read(verdict.fd, 9) == b"there"
        os.close(verdict.fd)


# Executors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "says"),
    [(signal.SIGSTOP, "stopped"), (processes.INTERRUPTS, "by a signal")],
    ids=["stopped", "interrupted"],
)
def test_somebody_s_signal_to_an_executor_costs_its_call(top: bytes, sent: int, says: str) -> None:
    """Nobody is told of an interruption that nobody asked for."""
    os.mkfifo(top + b"/fifo", 0o666)
    troubles: list[str] = []
    with Performers(on_trouble=troubles.append) as performers, caller() as one:
        thread, results = in_thread(lambda: opened(performers, one, top + b"/fifo"))
        wait_for(lambda: performing(performers))
        (executor,) = children(parent_of(performers))
        wait_for(lambda: blocked_in_open(executor))
        os.kill(executor, sent)
        thread.join(20)
        assert isinstance(results[0], Deny)
        assert results[0].errno == errno.EPERM
        assert says in results[0].reason
        assert outcome(opened(performers, one, b"/etc/passwd"))[0] == "fd"
    assert [says in each for each in troubles] == [True]


@root_only
@pytest.mark.parametrize("limit", [0, 6, 9, 12])
def test_a_limited_executor_costs_its_call(top: bytes, limit: int) -> None:
    """What its limit says is not the caller's; and nobody else gets it."""
    troubles: list[str] = []
    with Performers(on_trouble=troubles.append) as performers, caller(as_user) as one:
        assert outcome(opened(performers, one, b"/etc/passwd"))[0] == "fd"
        (executor,) = children(parent_of(performers))
        by_its_user = os.fork()
        if by_its_user == 0:
            as_user()
            resource.prlimit(executor, resource.RLIMIT_NOFILE, (limit, limit))
            os._exit(0)
        assert os.waitpid(by_its_user, 0)[1] == 0
        verdict = performers.perform(
            one.call("openat", AT_FDCWD, b"/proc/self/status", RDONLY, 0), allow=lambda *_: True
        )
        assert isinstance(verdict, HandOver) or verdict.errno == errno.EPERM  # type: ignore[union-attr]
        assert len(troubles) == (0 if isinstance(verdict, HandOver) else 1)
        # nor is it the monitor's, whose own would be said to be too low
        assert all("somebody limited the executor's open files" in each for each in troubles)
        if isinstance(verdict, HandOver):
            os.close(verdict.fd)
        else:
            assert outcome(opened(performers, one, b"/etc/passwd"))[0] == "fd"


@root_only
def test_an_idle_executor_that_was_stopped_costs_one_call(top: bytes) -> None:
    troubles: list[str] = []
    with Performers(on_trouble=troubles.append) as performers, caller(as_user) as one:
        assert outcome(opened(performers, one, b"/etc/passwd"))[0] == "fd"
        (executor,) = children(parent_of(performers))
        os.kill(executor, signal.SIGSTOP)
        verdict = opened(performers, one, b"/etc/passwd")
        assert isinstance(verdict, Deny)
        assert verdict.errno == errno.EPERM
        assert "stopped" in verdict.reason
        assert outcome(opened(performers, one, b"/etc/passwd"))[0] == "fd"
    assert len(troubles) == 1


@root_only
@pytest.mark.parametrize("idle", [True, False], ids=["idle", "busy"])
def test_a_frozen_executor_costs_one_call(top: bytes, idle: bool) -> None:
    """Root of a container may move what runs there, and freeze it: neither stops the others."""
    group = next(
        (f"{place}/proctor-{os.getpid()}" for place in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
         if os.path.exists(f"{place}/cgroup.controllers")), "",
    )  # fmt: skip
    if not group:
        pytest.skip("no cgroups of version 2 here")
    try:
        os.mkdir(group)
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    os.mkfifo(top + b"/fifo", 0o666)
    troubles: list[str] = []
    try:
        with Performers(on_trouble=troubles.append) as performers, caller(as_user) as one:
            assert outcome(opened(performers, one, b"/etc/passwd"))[0] == "fd"
            if not idle:
                thread, results = in_thread(lambda: opened(performers, one, top + b"/fifo"))
                wait_for(lambda: performing(performers))
            (executor,) = children(parent_of(performers))
            for name, text in (("procs", str(executor)), ("freeze", "1")):
                with open(f"{group}/cgroup.{name}", "w") as file:
                    file.write(text)
            if idle:
                verdict = opened(performers, one, b"/etc/passwd")
            else:
                thread.join(20)
                (verdict,) = results
            assert isinstance(verdict, Deny)
            assert verdict.errno == errno.EPERM
            assert "another cgroup" in verdict.reason
            assert outcome(opened(performers, one, b"/etc/passwd"))[0] == "fd"
        assert len(troubles) == 1
    finally:
        with open(f"{group}/cgroup.freeze", "w") as file:
            file.write("0")
        wait_for(lambda: b"populated 0" in open(f"{group}/cgroup.events", "rb").read())  # noqa: SIM115
        os.rmdir(group)


@root_only
@pytest.mark.parametrize("stopped", [False, True], ids=["idle", "stopped"])
def test_the_lender_dies_with_its_monitor(top: bytes, stopped: bool) -> None:
    """Each change of ids forgets the death signal.  A child of the monitor keeps the sockets open."""
    os.chown(top, 100000, 100000)
    with caller(container(top), MAP) as one:

        def monitor(say: Callable[[str], None]) -> None:
            performers = Performers().start()
            call = one.call("mknodat", AT_FDCWD, b"null", CHAR | 0o600, NULL)
            assert performers.perform(call) == Answer(0)
            heir = os.fork()
            if heir == 0:
                signal.pause()
            say(f"{parent_of(performers)} {heir}")
            signal.pause()

        with child_process(monitor) as (pid, said):
            mother, heir = map(int, said.readline().split())
            executors = children(mother)
            assert len(executors) >= 2  # a third one where `works` of lender.py asks
            pidfds = [os.pidfd_open(each) for each in (mother, *executors)]
            if stopped:
                for each in executors:
                    os.kill(each, signal.SIGSTOP)
            os.kill(pid, signal.SIGKILL)
            assert gone(pidfds)
            os.kill(heir, signal.SIGKILL)
            for pidfd in pidfds:
                os.close(pidfd)


@root_only
def test_a_lender_has_little_and_lends_it_for_one_call(top: bytes) -> None:
    os.chown(top, 100000, 100000)
    with Performers() as performers, caller(container(top), MAP) as one:
        for name in (b"one", b"two"):
            call = one.call("mknodat", AT_FDCWD, name, CHAR | 0o600, NULL)
            assert performers.perform(call) == Answer(0)
        states = []
        for pid in children(parent_of(performers)):
            with open(f"/proc/{pid}/status") as file:
                states.append(
                    dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
                )
        lenders = [each for each in states if each["Uid"].split()[0] == "0"]
        mknod, fsetid, dac = 1 << 27, 1 << 4, 1 << 1
        rights = []
        for each in lenders:
            assert each["Uid"].split()[:3] == each["Gid"].split()[:3] == ["0"] * 3
            assert each["Gid"].split()[3] == "100000"  # as whoever makes the node is seen by files
            assert int(each["CapEff"], 16) == 0
            assert int(each["CapInh"], 16) == int(each["CapAmb"], 16) == 0
            assert each["CapPrm"] == each["CapBnd"]
            rights.append((each["Uid"].split()[3], int(each["CapPrm"], 16)))
        # and on what is not surely the host's file system one that sees whose it is
        sees = [("4294967294", dac)] if len(lenders) > 1 else []
        assert sorted(rights) == [("100000", mknod | fsetid | dac), *sees]


# A file system that does not answer ----------------------------------------------------------------


@root_only
@pytest.mark.usefixtures("executors")
def test_executors_that_cannot_die_count_until_they_are_dead(top: bytes) -> None:
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no FUSE here")
    os.mkdir(top + b"/mnt")
    try:
        stuck = Stuck(top + b"/mnt")
    except OSError as problem:
        pytest.skip(f"no FUSE here: {problem.strerror}")
    troubles: list[str] = []
    limit = 3
    try:
        with Performers(limit=limit, on_trouble=troubles.append) as performers, caller() as one:
            for number in range(limit):
                call = one.call("openat", AT_FDCWD, top + b"/mnt/x%d" % number, RDONLY, 0)
                thread, results = in_thread(lambda call=call: performers.perform(call))
                stuck.wait(number + 1)
                call.is_valid = lambda: False
                thread.join(20)
                assert results == [Deny(errno.EINTR, "the caller is gone")]
            verdict = opened(performers, one, b"/etc/passwd")
            assert isinstance(verdict, Deny)
            assert verdict.errno == errno.ENOMEM
            assert f"limit = {limit}" in verdict.reason
            with Performers() as others:  # of another monitor, say: nothing of theirs is used up
                assert outcome(opened(others, one, b"/etc/passwd"))[0] == "fd"
            performers.close()
            assert troubles[-1] == (
                "3 executors wait for a file system that does not answer, and end when it does"
            )
    finally:
        stuck.close()


@root_only
def test_a_file_that_does_not_close_holds_up_its_own_executor_alone(top: bytes) -> None:
    """close(2) flushes what is on FUSE, and nothing but the server's answer ends that."""
    stuck = without_flush(top)
    opening: list[Verdict] = []
    try:
        with Performers(limit=2) as performers, caller() as one:
            opening.append(opened(performers, one, top + b"/mnt/file"))
            assert isinstance(opening[0], HandOver)
            stuck.wait(1)
            for _ in range(3):
                assert outcome(opened(performers, one, b"/dev/null"))[0] == "fd"
            assert len(performers.executors._closing) == 1
            opening.append(opened(performers, one, top + b"/mnt/file"))
            stuck.wait(2)
            verdict = opened(performers, one, b"/dev/null")
            assert isinstance(verdict, Deny)
            assert verdict.errno == errno.ENOMEM
            stuck.close()
            wait_for(
                lambda: (
                    outcome(opened(performers, one, b"/dev/null"))[0] == "fd"
                    and not performers.executors._closing
                )
            )
    finally:
        stuck.close()
        for each in opening:
            if isinstance(each, HandOver):
                with suppress(OSError):  # what flushes it is gone
                    os.close(each.fd)


@root_only
def test_a_file_that_does_not_close_holds_up_no_thread_of_the_monitor(top: bytes) -> None:
    """What was given to a caller is closed by somebody for whom nobody waits, who counts."""
    stuck = without_flush(top)
    troubles: list[str] = []
    try:
        with Performers(limit=4, on_trouble=troubles.append) as performers, caller() as one:
            for number in (1, 2):
                call = one.call("openat", AT_FDCWD, top + b"/mnt/file", RDONLY, 0)
                verdict = performers.perform(call)
                assert isinstance(verdict, HandOver)
                assert not verdict.close
                call.expire()
                stuck.wait(2 * number)
            verdict = opened(performers, one, b"/dev/null")
            assert isinstance(verdict, Deny)
            assert verdict.errno == errno.ENOMEM
            performers.close()
            assert any(each.startswith("2 files wait") for each in troubles), troubles
            stuck.close()
            wait_for(lambda: not performers.executors.closers.end(20))
    finally:
        stuck.close()


#: Opens what cannot be closed, again and again, and then something else.
OPENS_STUCK = """
import os, sys
for _ in range(int(sys.argv[2])):
    os.open(sys.argv[1] + "/mnt/file", os.O_RDONLY)
with open("/proc/self/comm") as file:
    file.read()
print("done", flush=True)
"""


@root_only
def test_files_that_do_not_close_leave_the_monitor_its_threads(top: bytes) -> None:
    stuck = without_flush(top)
    late = threading.Timer(40, stuck.close)  # or who waits in close(2) waits for ever
    late.daemon = True
    late.start()

    @proctor.on("openat")
    def perform(call: proctor.Call) -> proctor.Verdict:
        return proctor.perform()

    command = [sys.executable, "-ISc", OPENS_STUCK, os.fsdecode(top), "9"]
    try:
        with proctor.spawn(command, [perform], workers=1, stdout=proctor.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            late.cancel()
            stuck.close()
            assert process.wait(20) == 0
    finally:
        late.cancel()
        stuck.close()


def test_they_are_free_again_when_they_died(top: bytes) -> None:
    os.mkfifo(top + b"/fifo", 0o666)
    with Performers(limit=2) as performers, caller() as one:
        for _ in range(4):
            calls = [one.call("openat", AT_FDCWD, top + b"/fifo", RDONLY, 0) for _ in range(2)]
            waiting = [in_thread(lambda call=call: performers.perform(call)) for call in calls]
            wait_for(lambda: performing(performers, 2))
            for call in calls:
                call.is_valid = lambda: False
            for thread, results in waiting:
                thread.join(20)
                assert results == [Deny(errno.EINTR, "the caller is gone")]
            wait_for(lambda: all(each.ended() for each in performers.executors._dying))


def test_callers_that_go_are_no_trouble(top: bytes) -> None:
    """Killed at any moment of performed calls: an ordinary event, of which nothing is said."""
    program = (
        "import os, random, signal, sys\n"
        "for n in range(60):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        while True:\n"
        "            try:\n"
        "                os.close(os.open('f%d' % os.getpid(), os.O_CREAT | os.O_RDWR)); os.unlink('f%d' % os.getpid())\n"
        "                os.mkfifo('p%d' % os.getpid()); os.unlink('p%d' % os.getpid())\n"
        "            except OSError as e: print(e, file=sys.stderr)\n"
        "    for _ in range(random.randrange(9000)): pass\n"
        "    os.kill(pid, 9); os.waitpid(pid, 0)\n"
    )
    troubles: list[str] = []

    @proctor.on("openat", "mknodat", "mknod")
    def every(call: proctor.Call) -> proctor.Verdict:
        return proctor.perform()

    with Performers(on_trouble=troubles.append) as performers:
        done = proctor.run(
            [sys.executable, "-S", "-c", program], [every], performer=performers, cwd=top,
            capture_output=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert troubles == []


def test_a_call_of_many_steps_has_others_go_before_it() -> None:
    """However soon its executor answers: it goes on when whoever has the role comes by again."""

    class Answers:
        interruptible = False

        def reply(self, request: object, *, wait: bool) -> object:
            return request

    worker: Any = Answers()

    def work(strides: int, last: BaseException | None = None) -> Any:
        for _ in range(strides):
            yield Wait(worker, worker)
        if last is not None:
            raise last
        return Answer(strides)

    for strides, last in ((10, None), (1000, None), (1000, CallGone())):
        said = converse(
            work(strides, last), FakeTarget().call("sync"), lambda call, failed: deny(7), None
        )
        turns = 1
        while isinstance(said, Conversation):
            turns += 1
            said = said.go_on() or said
        assert said == (deny(7) if last else Answer(strides))
        assert (turns > 10) == (strides > 10), turns

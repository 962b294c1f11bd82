"""The executor: what it makes of requests, of nonsense too, and what it is as a process."""

from __future__ import annotations

import errno
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctor
from proctor.kernel import scm
from proctor.performing.executing import image
from proctor.performing.executing.mother import Mother
from proctor.performing.executing.processes import INTERRUPTS, Executor
from proctor.performing.executing.requests import MALFORMED, SKIPPED, Reply, Request, state_of
from proctor.performing.executing.steps import DIE, END, KEPT, Result, Steps
from proctor.performing.trouble import Ended, Interrupted, Trouble
from proctor.syscalls import tables
from proctor.syscalls.architectures import native
from tests.support.processes import eventually

HERE = Path(__file__).parent
#: GOES_BACK of executor.h.
SEES_RESTARTS = os.uname().machine in ("x86_64", "aarch64", "riscv64")


@pytest.fixture
def mother() -> Iterator[Mother]:
    made = Mother()
    made.start()
    yield made
    made.close()


@pytest.fixture
def executor(mother: Mother) -> Iterator[Executor]:
    made = Executor(mother.bear(), "key", "container")
    yield made
    made.close()


def ask(
    executor: Executor, request: Request, *values: bytes | int, fds: tuple[int, ...] = ()
) -> Reply:
    reply = executor.ask(request, request.fill(*values), fds)
    while reply is None:
        reply = executor.reply(request, wait=True)
    return reply


# Requests ----------------------------------------------------------------------------------------


def test_results_bytes_and_descriptors_of_steps(executor: Executor, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    steps = Steps()
    size, name = steps.number(), steps.hole(20)
    text = steps.scratch(100)
    directory = steps.sent()
    fd = steps.call("openat", directory, name, os.O_RDONLY)
    read = steps.call("read", fd, text, size)
    missing = steps.call("openat", directory, steps.scratch(8), os.O_RDONLY, bad=0)  # "": ENOENT
    steps.call("getpid")
    part = steps.want(text, read)
    steps.give(fd)
    steps.give(missing)
    request = steps.freeze()
    here = os.open(tmp_path, os.O_PATH)
    for count in (3, 50):
        reply = ask(executor, request, count, b"file", fds=(here,))
        assert reply.parts[part] == b"content"[:count]
        assert reply.results[read.step] == min(count, 7)
        assert reply.error(missing) == errno.ENOENT
        assert reply.fds.keys() == {fd.step}
        with open(reply.take(fd), "rb") as file:
            assert file.read() == b"content"[count:]
    reply = ask(executor, request, 1, b"nothing", fds=(here,))
    assert reply.results[1:] == (SKIPPED,) * 3
    assert reply.fds == {}
    os.close(here)


def test_what_comes_next(executor: Executor) -> None:
    steps = Steps()
    flag = steps.number()
    first = steps.call("umask", flag, want=0, bad=1)  # which says what it was: 0
    steps.call("umask", 7)
    last = steps.call("umask", 0, good=END)
    steps.call("getpid")
    steps.jump(first, good=True)
    steps.call("getppid")
    request = steps.freeze()
    ask(executor, request, 0)
    assert ask(executor, request, 5).results[1:4] == (SKIPPED,) * 3
    reply = ask(executor, request, 0)
    assert reply.results[0] == 5
    assert reply.results[1] == SKIPPED
    assert reply.results[last.step] == 0
    assert reply.results[3:] == (SKIPPED, SKIPPED)


def test_what_was_filled_decides_what_comes_next(executor: Executor) -> None:
    steps = Steps()
    seen = steps.hole(8)
    steps.load(seen, 4, want=0x87654321, bad=1)
    steps.call("getpid")
    steps.call("getppid")
    request = steps.freeze()
    reply = ask(executor, request, struct.pack("=II", 1, 0x87654321))
    assert reply.results[0] == 0x87654321 and SKIPPED not in reply.results
    reply = ask(executor, request, struct.pack("=II", 0x87654321, 1))
    assert reply.results[:2] == (1, SKIPPED) and reply.results[2] > 0
    for offset in (5, 8, 1 << 20, 1 << 62):  # beyond the space
        steps = Steps()
        steps.load(steps.bytes(b"1234567"), offset)
        executor.sock.send(steps.freeze().fill())
        assert select.select([executor.sock], [], [], 20)[0]
        assert state_of(executor.sock.recv(1000))[0] == MALFORMED


def test_what_is_the_same_is_gone_on_with(executor: Executor) -> None:
    steps = Steps()
    one, other = steps.hole(8), steps.hole(16)
    compared = steps.compare(one, other)
    then = steps.call("getpid")
    request = steps.freeze()
    for first, second, failed in (
        (b"", b"", 0), (b"12345678", b"12345678", 0), (b"12345678", b"123456789", 0),
        (b"1234567", b"12345678", errno.EINVAL), (b"12345678", b"", errno.EINVAL),
    ):  # fmt: skip
        reply = ask(executor, request, first, second)
        assert reply.error(compared) == failed
        assert reply.made(then) == (not failed)


def test_what_kept_a_step_from_being_made_is_its_error() -> None:
    """It would pass for one that came out well otherwise."""
    reply = Reply((0, -errno.EACCES, SKIPPED, SKIPPED), (), {})
    assert [reply.error(Result(step)) for step in range(4)] == [0, *[errno.EACCES] * 3]
    assert Reply((3, SKIPPED), (), {}).error(Result(1)) == 0


def test_addresses_descriptors_and_digits_are_put_into_bytes(executor: Executor) -> None:
    steps = Steps()
    words, length = steps.bytes(b"by a vector"), len(b"by a vector")
    vector = steps.bytes(bytes(8) + length.to_bytes(8, sys.byteorder))
    numbers, digits = steps.scratch(16), steps.scratch(16)
    pipe = steps.sent()
    copy = steps.call("dup", pipe)
    steps.put(vector, 0, words)
    steps.put(numbers, 0, pipe, 4)
    steps.put(numbers, 8, copy, 8)
    steps.put_text(digits, copy)
    written = steps.call("writev", copy, vector, 1)
    first, second = steps.want(numbers), steps.want(digits)
    reading, writing = os.pipe()
    reply = ask(executor, steps.freeze(), fds=(writing,))
    number = reply.results[copy.step]
    assert reply.results[written.step] == length
    assert os.read(reading, 100) == b"by a vector"
    assert reply.parts[first] == struct.pack("=i4xq", KEPT, number)
    assert reply.parts[second].rstrip(b"\0") == b"%d" % number
    os.close(reading)
    os.close(writing)


def test_a_failed_descriptor_is_none(executor: Executor) -> None:
    """Minus an errno must not be taken for AT_FDCWD (ENETDOWN is 100)."""
    steps = Steps()
    name = steps.bytes(b"etc")
    bad = steps.call("getsockopt", -1, 0, 0, 0, 0, bad=0)
    opened = steps.call("openat", bad, name, os.O_PATH, bad=0)
    assert ask(executor, steps.freeze()).error(opened) == errno.EBADF


def test_nothing_is_left_open_and_death_is_at_once(executor: Executor) -> None:
    steps = Steps()
    name, root = steps.bytes(b"/proc/self/fd"), steps.bytes(b"/")
    for _ in range(5):
        steps.call("openat", -100, root, os.O_PATH)
    list_ = steps.call("openat", -100, name, os.O_RDONLY | os.O_DIRECTORY)
    steps.give(list_)
    pid = steps.call("getpid")
    request = steps.freeze()
    for _ in range(3):
        reply = ask(executor, request)
        reply.close()
    plain = Steps()
    plain.call("getpid")
    ask(
        executor, plain.freeze()
    ).close()  # what an answer leaves open is closed before the next one
    if os.geteuid() == 0:
        assert sorted(map(int, os.listdir(f"/proc/{reply.results[pid.step]}/fd"))) == list(
            range(KEPT)
        )
    pidfd = os.pidfd_open(reply.results[pid.step])
    dying = Steps()
    dying.call("getpid", want=-5, bad=DIE)
    with pytest.raises(Trouble, match="died"):
        ask(executor, dying.freeze())
    assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)


# Nonsense ----------------------------------------------------------------------------------------


def test_what_is_no_request_is_answered_so_and_makes_no_call(executor: Executor) -> None:
    steps = Steps()
    place = steps.bytes(b"12345678")
    steps.put(place, 0, steps.call("getpid"), 8)
    steps.put_text(place, steps.call("getpid"))
    steps.call("getppid")
    steps.want(place)
    packet = bytes(steps.freeze().fill())
    chance = random.Random(1)
    mutilated = [packet[:length] for length in range(1, len(packet))]
    mutilated += [packet + b"\0", packet * 2, b"\xff" * 200, bytes([1]) * 64]
    mutilated += [chance.randbytes(chance.randrange(1, 300)) for _ in range(300)]
    for one in mutilated:
        executor.sock.send(one)
        assert select.select([executor.sock], [], [], 20)[0]
        assert state_of(executor.sock.recv(1000))[0] == MALFORMED, one
    assert ask(executor, steps.freeze()).results[-1] > 0


def test_no_nonsense_reaches_beyond_a_request(tmp_path: Path) -> None:
    """Random, mutilated and short requests under AddressSanitizer and UBSan."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path / "fuzz"
    flags = "-std=gnu11 -O1 -g -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"
    made = subprocess.run(
        [compiler, *flags.split(), str(HERE / "executor_fuzz.c"), "-o", str(program)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lacks = "cannot find -lasan" in made.stderr or "error:" not in made.stderr
    if made.returncode and "san" in made.stderr and lacks:
        pytest.skip("no sanitizers")
    assert made.returncode == 0, made.stderr
    for seed in range(3):
        done = subprocess.run(
            [program, str(seed), "300000"], capture_output=True, text=True, check=False,
            env={"ASAN_OPTIONS": "detect_leaks=0"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        requests, deaths = map(int, done.stdout.split())
        assert requests > 10_000
        assert deaths > 100


# The process -------------------------------------------------------------------------------------


def test_its_program_is_sealed_and_nobody_reads_it() -> None:
    fd = image.sealed()
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    with pytest.raises(PermissionError):
        os.truncate(fd, 0)
    os.close(fd)


def known(executor: Executor) -> None:
    """It says who it is."""
    steps = Steps()
    me = steps.call("getpid")
    pidfd = steps.call("pidfd_open", me, 0)
    steps.give(pidfd)
    reply = ask(executor, steps.freeze())
    executor.pid, executor.pidfd = reply.results[me.step], reply.take(pidfd)


sees = pytest.mark.skipif(os.geteuid() != 0, reason="sees what executors wait in")


@sees
@pytest.mark.skipif(not SEES_RESTARTS, reason="not seen elsewhere")
@pytest.mark.parametrize(("call", "said"), [("read", 512), ("epoll_pwait", errno.EINTR)])
def test_what_is_begun_anew_after_a_signal_and_what_is_not(
    executor: Executor, call: str, said: int
) -> None:
    """Of the latter SA_RESTART makes nothing else (signal(7))."""
    known(executor)
    steps = Steps()
    room, more = steps.scratch(12), (1, -1, 0, 8) if call == "epoll_pwait" else (1,)
    steps.call(call, steps.sent(), room, *more)
    request = steps.freeze()
    reader, writer = os.pipe()
    with select.epoll() as epoll:
        fd = epoll.fileno() if call == "epoll_pwait" else reader
        assert executor.ask(request, request.fill(), (fd,)) is None
        at = f"{tables.number(call, native())} "
        place = Path(f"/proc/{executor.pid}/syscall")
        eventually("a wait", lambda: place.read_text().startswith(at))
        executor.interrupt()
        with pytest.raises(Interrupted) as ended:
            ask_again(executor, request)
    assert ended.value.errno == said
    os.close(reader)
    os.close(writer)


@sees
@pytest.mark.parametrize("changes", [False, True])
def test_a_signal_ends_what_has_changed_nothing(
    executor: Executor, tmp_path: Path, changes: bool
) -> None:
    """Behind what has, all is made to its end: else that would be done once more."""
    known(executor)
    steps = Steps()
    name, room = steps.bytes(b"made"), steps.scratch(8)
    directory, pipe = steps.sent(), steps.sent()
    if changes:
        steps.call("mkdirat", directory, name, 0o700)
    read = steps.call("read", pipe, room, 1)
    request = steps.freeze()
    here, (ours, theirs) = os.open(tmp_path, os.O_PATH), os.pipe()
    proc = Path(f"/proc/{executor.pid}")
    assert executor.ask(request, request.fill(), (here, ours)) is None
    eventually("a wait", lambda: "pipe_read" in (proc / "wchan").read_text())
    executor.interrupt()
    if changes:
        line = f"\nSigBlk:\t{1 << INTERRUPTS - 1:016x}\n"
        eventually("that it blocks it", lambda: line in (proc / "status").read_text())
        os.write(theirs, b"x")
        reply = ask_again(executor, request)
        assert reply.results[read.step] == 1 and request.changed(reply) == 0
        assert (tmp_path / "made").is_dir()
    else:
        with pytest.raises(Interrupted):
            ask_again(executor, request)
        assert select.select([executor.pidfd], [], [], 20)[0]
    for fd in (here, ours, theirs):
        os.close(fd)


def test_who_ends_was_moved_into_another_cgroup_by_nobody(executor: Executor) -> None:
    """Hierarchies of version 1 say of who is not reaped yet that it is in their root."""
    child = subprocess.Popen(["sleep", "1000"])
    executor.pid = child.pid
    executor.settle()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    hindered = executor.hindered()
    child.wait()
    assert hindered == ""


def ask_again(executor: Executor, request: Request) -> Reply:
    """What it says to what it was asked."""
    while (reply := executor.reply(request, wait=True)) is None:
        pass
    return reply


def test_it_is_not_dumpable_and_its_mother_is_no_debuggers(
    mother: Mother, executor: Executor
) -> None:
    steps = Steps()
    dumpable = steps.call("prctl", 3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
    death = steps.scratch(8)
    steps.call("prctl", 2, death, 0, 0, 0)  # PR_GET_PDEATHSIG
    part = steps.want(death)
    reply = ask(executor, steps.freeze())
    assert reply.results[dumpable.step] == 0
    assert reply.parts[part][0] == signal.SIGKILL
    name = Path(f"/proc/{mother.pid}/comm").read_text()
    assert name == "proctor-perform\n"


def test_it_ends_when_nobody_speaks_to_it(mother: Mother) -> None:
    ours = mother.bear()
    executor = Executor(ours, "key", "container")
    steps = Steps()
    timeout = steps.bytes((0).to_bytes(8, "little") + (5000).to_bytes(8, "little"))
    option = socket.SO_RCVTIMEO
    pid = steps.call("getpid")
    pidfd = steps.call("pidfd_open", pid, 0)
    steps.call("setsockopt", 3, socket.SOL_SOCKET, option, timeout, 16)
    steps.give(pidfd)
    reply = ask(executor, steps.freeze())
    fd = reply.take(pidfd)
    assert select.select([fd], [], [], 20)[0]
    os.close(fd)
    with pytest.raises(Ended):
        ask(executor, steps.freeze())
    executor.close()


def test_the_mother_takes_no_nonsense_either(mother: Mother) -> None:
    control = mother._control
    assert control is not None
    scm.send(control, b"x" * 50)
    one, other = socket.socketpair()
    scm.send(control, b"x", (one.fileno(), other.fileno()))
    one.close()
    other.close()
    steps = Steps()
    steps.call("getpid")
    executor = Executor(mother.bear(), "key", "container")
    assert ask(executor, steps.freeze()).results[0] > 0
    executor.close()


def test_it_opens_nothing_before_it_serves() -> None:
    """A supervisor of the monitor, without a right more than that, cannot look at who is not dumpable, and says EPERM."""
    script = (
        "from proctor.performing.executing.mother import Mother\n"
        "mother = Mother()\n"
        "executor = mother.bear()\n"
        "executor.send(b'no request')\n"
        "assert executor.recv(100)\n"
        "mother.close()\n"
    )

    @proctor.on("open", "openat")
    def no(call: proctor.Call) -> proctor.Verdict:
        if call.caller.comm == "proctor-perform":
            return proctor.deny(errno.EPERM)
        return proctor.let_run_unsafe("it only looks who calls")

    done = proctor.run([sys.executable, "-c", script], [no], capture_output=True)
    assert done.returncode == 0, done.stderr

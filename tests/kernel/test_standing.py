"""Threads that are known from one call to the next: whatever makes somebody another one is seen."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import pytest

from proctor.errors import CallGone
from proctor.kernel.alikes import Alikes
from proctor.kernel.standing import Standing
from proctor.kernel.standings import Standings
from tests.support.processes import eventually

libc = ctypes.CDLL(None, use_errno=True)
CLONE_FS, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS = 0x200, 0x20000, 0x10000000, 0x04000000
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="changes its identity")


def check(result: int) -> None:
    assert result == 0, os.strerror(ctypes.get_errno())


#: Where struct standing of core/callers/acting.h has the cgroup's id, which kernels before Linux 6.13 do not tell.
CGROUP = 80


def removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


@contextmanager
def child(*steps: Callable[[], object]) -> Iterator[tuple[int, Callable[[], None]]]:
    """(a process, what makes it take its next step)."""
    theirs, ours = os.pipe()
    done, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            libc.prctl(1, signal.SIGKILL, 0, 0, 0)
            for step in steps:
                os.read(theirs, 1)
                step()
                libc.prctl(4, 1, 0, 0, 0)
                os.write(tell, b"x")
            os.read(theirs, 1)
        finally:
            os._exit(1)
    os.close(theirs)
    os.close(tell)

    def go_on() -> None:
        os.write(ours, b"x")
        assert os.read(done, 1) == b"x"

    try:
        yield pid, go_on
    finally:
        os.close(ours)
        os.close(done)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def drop_mknod() -> None:
    header, data = b"\x22\x05\x08\x20" + bytes(4), ctypes.create_string_buffer(24)
    check(libc.capget(header, data))
    words = bytearray(data.raw)
    for at in (0, 4):  # effective and permitted
        words[at + 3] &= ~(1 << 3)
    check(libc.capset(header, bytes(words)))


CHANGES = {
    "user": lambda: os.setresuid(1000, 1000, 1000),
    "file-system user": lambda: libc.setfsuid(1000),
    "group": lambda: os.setresgid(7, 7, 7),
    "groups": lambda: os.setgroups([1, 2, 3]),
    "many groups": lambda: os.setgroups(range(1, 3000)),
    "a capability": drop_mknod,
    "no_new_privs": lambda: check(libc.prctl(38, 1, 0, 0, 0)),
    "user namespace": lambda: check(libc.unshare(CLONE_NEWUSER)),
    "mounts": lambda: check(libc.unshare(CLONE_NEWNS)),
    "root": lambda: os.chroot("/etc"),
}


@root_only
@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen(what: str) -> None:
    with child(lambda: None, CHANGES[what]) as (pid, go_on):
        standing = Standing(pid, labels=False)
        go_on()
        assert standing.unchanged()
        assert standing.still_there()
        go_on()
        assert not standing.unchanged()
        again = Standing(pid, labels=False)
        assert again.unchanged()
        assert again.identity != standing.identity
        again.close()
        standing.close()


def enter_mounts_with_the_root_of_before() -> None:
    root = os.open("/", os.O_PATH)
    check(libc.unshare(CLONE_NEWNS))
    os.fchdir(root)
    os.chroot(".")


@root_only
@pytest.mark.usefixtures("look")
def test_who_takes_the_root_along_is_in_other_mounts() -> None:
    """Where nothing else tells mounts apart for good, that is looked at with the rest."""
    with child(enter_mounts_with_the_root_of_before) as (pid, go_on):
        standing = Standing(pid, labels=False)
        assert standing.unchanged() and standing.in_its_mounts()
        go_on()
        numbered = struct.unpack_from("=Q", standing.rights, CGROUP)[0]
        assert standing.unchanged() == bool(numbered)
        assert not standing.in_its_mounts()
        standing.close()


@root_only
@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("places", [False, True])
def test_who_was_moved_is_in_other_cgroups(places: bool) -> None:
    """Unless nobody asks for that."""
    top = next((each for each in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (each / "cgroup.procs").exists()), None)  # fmt: skip
    if top is None:
        pytest.skip("no cgroups of version 2 here")
    group = top / f"proctor-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        with child() as (pid, _):
            standing = Standing(pid, labels=False, places=places)
            assert standing.unchanged()
            (group / "cgroup.procs").write_text(str(pid))
            numbered = struct.unpack_from("=Q", standing.rights, CGROUP)[0]
            assert standing.unchanged() == (not places and not numbered)
            assert not places or not standing.in_its_cgroups()
            standing.close()
    finally:
        eventually("nobody is in it", lambda: removed(group))


@root_only
def test_other_namespaces_are_seen_when_asked_after() -> None:
    with child(lambda: check(libc.unshare(CLONE_NEWUTS))) as (pid, go_on):
        standing = Standing(pid, labels=False)
        assert standing.still_there()
        go_on()
        assert standing.unchanged()
        assert not standing.still_there()
        assert standing.in_its_cgroups()
        standing.close()


def test_what_is_no_identity_may_change() -> None:
    def change() -> None:
        os.umask(0o37)
        os.chdir("/usr")
        os.dup2(0, 77)

    with child(change) as (pid, go_on):
        standing = Standing(pid, labels=False)
        assert standing.place(77) is None
        go_on()
        assert standing.unchanged()
        assert standing.umask == 0o37
        for number, path in ((-100, "/usr"), (77, os.readlink("/proc/self/fd/0"))):
            place = standing.place(number)
            assert place is not None
            assert os.readlink(f"/proc/self/fd/{place}") == path
            os.close(place)
        assert standing.place(-1) is None
        assert standing.place(1 << 20) is None
        standing.close()


def test_the_dead_are_nobody() -> None:
    with child() as (pid, _):
        standing = Standing(pid, labels=False)
        assert standing.unchanged()
    assert not standing.unchanged()
    assert not standing.still_there()
    assert not standing.in_its_cgroups()
    with pytest.raises(CallGone):
        standing.place(-100)
    standing.close()
    standing.close()
    with pytest.raises(FileNotFoundError):
        Standing(pid, labels=False)


@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("refused", [False, True])
def test_room_is_told_from_how_many_there_are(
    refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where prlimit(2) is refused, of another user without CAP_SYS_RESOURCE."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "as that says it")

    if refused:
        monkeypatch.setattr(resource, "prlimit", refuse)

    def full() -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, hard))
        with suppress(OSError):
            while True:
                os.dup(0)

    asked: list[bool] = []

    def counted() -> bool:
        asked.append(True)
        return False

    with child(full) as (pid, go_on):
        standing = Standing(pid, labels=False)
        assert standing.has_room(counted)
        assert asked == []
        go_on()
        assert standing.unchanged()
        assert not standing.has_room(counted)
        assert asked == [True]
        standing.close()


@root_only
def test_groups_are_read_of_those_who_can_change_them() -> None:
    """Without CAP_SETGID, and no way to get it, they are what they were: nothing is read for that."""

    def settle() -> None:
        os.setgroups([5, 6])
        os.setresgid(7, 7, 7)
        os.setresuid(1000, 1000, 1000)
        check(libc.prctl(38, 1, 0, 0, 0))

    for steps, reads in (((lambda: None,), 2), ((settle,), 0)):
        with child(*steps) as (pid, go_on):
            go_on()
            standing = Standing(pid, labels=False)
            assert standing.unchanged()
            assert standing.unchanged()
            assert bool(standing._text) == bool(reads)
            standing.close()


@pytest.fixture(params=["short", "long"])
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How it is seen that somebody is who he was: as this kernel can, and without a pidfd that tells."""
    if request.param == "long":
        monkeypatch.setattr("proctor.kernel.standing._pidfd_of", lambda _: -1)


def test_few_are_known_at_the_same_time() -> None:
    before = len(os.listdir("/proc/self/fd"))
    known = Standings()
    for _ in range(100):
        standing = known.take(os.getpid()) or Standing(os.getpid(), labels=False)
        standing.tid += 1  # another one
        known.give_back(standing)
    for tid in range(1, 100):
        standing = Standing(os.getpid(), labels=False)
        standing.tid = tid
        known.give_back(standing)
    assert len(os.listdir("/proc/self/fd")) <= before + 5 * 33
    latest = known.take(99)
    assert latest is not None
    latest.close()
    assert known.take(1) is None
    known.close()


def test_one_is_taken_at_any_moment_while_another_is_given_back() -> None:
    """Whoever takes one waits for nobody, so it may be between any two instructions."""

    class Fake:
        _pidfd = -1

        def __init__(self, tid: int) -> None:
            self.tid, self.closed, self._text = tid, 0, b""

        def close(self) -> None:
            self.closed += 1

    def given_back(at: int) -> int:
        standings, count = Standings(), 0
        fakes = [Fake(tid) for tid in range(1, 34)]
        for each in fakes[:32]:
            standings.give_back(each)  # type: ignore[arg-type]
        taken: list[object] = []

        def step(frame: FrameType, event: str, _: object) -> object:
            nonlocal count
            if frame.f_code is not Standings.give_back.__code__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                count += 1
                if count == at:
                    taken.append(standings.take(2))
            return step

        before = sys.gettrace()
        sys.settrace(step)  # type: ignore[arg-type]
        try:
            standings.give_back(fakes[32])  # type: ignore[arg-type]
        finally:
            sys.settrace(before)
        assert taken == ([fakes[1]] if at <= count else [])
        assert set(standings.known) | {2, 1} == set(range(1, 34))
        assert fakes[0].closed == (1 not in standings.known)
        return count

    steps = max(given_back(1 << 30) for _ in range(2))  # Python 3.12 tells nothing the first time
    assert steps > 20
    for at in range(1, steps + 1):
        given_back(at)


def test_the_dead_are_forgotten_before_there_are_many() -> None:
    """Each is known by some descriptors, so those of a build's processes are not kept; nor is everybody asked
    each time that somebody new comes."""
    alikes = Alikes()
    try:
        with child() as (lives, _):
            assert alikes.has(lives)
            asked = 0
            for _ in range(60):
                with child() as (pid, _):
                    before = len(alikes.known)
                    assert alikes.has(pid)
                    asked += len(alikes.known) <= before
                assert len(alikes.known) <= 12
            assert 3 <= asked <= 20
            assert alikes.has(lives)
    finally:
        alikes.close()

"""The short way of what one plan does: whoever goes it gets what the long way gives, or goes the long way."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.call.verdict import Answer, Deny
from proctor.performing import newer
from proctor.performing.executing.processes import Executor
from proctor.performing.executing.requests import SKIPPED
from proctor.performing.executing.workers import Pace
from proctor.performing.short_ways import deeds, plans
from proctor.performing.trouble import Trouble
from proctor.supervisor.answering import Answers
from proctor.supervisor.ports import Later
from proctor.syscalls import tables
from proctor.syscalls.architectures import native
from tests.performing.support import stages
from tests.performing.support.callers import AT_FDCWD, Call
from tests.performing.support.containers import PYTHON
from tests.performing.support.stages import finished, staged

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs the host's root")
NOFOLLOW = 0x100


class Stage(stages.Stage):
    """As of others, for all that is done short."""

    def warm(self) -> None:
        assert self.long("mkdir", b"first", 0o755) == Answer(0)

    def call(self, *args: Any) -> Call:
        return self.made(*args)

    def short(self, *args: Any) -> Any:
        return finished(self.begun(self.call(*args)))

    def long(self, *args: Any) -> Any:
        return self.performers.perform(self.call(*args))

    def executor(self) -> Executor:
        (found,) = self.performers.executors._idle
        return found

    def path(self, name: bytes) -> bytes:
        return os.path.join(self.top, name)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged(Stage) as made:
        yield made


def test_all_that_is_done_short(stage: Stage) -> None:
    newest = "fchmodat" if newer.lacks("fchmodat2") else "fchmodat2"
    done: list[tuple[Any, ...]] = [
        ("mkdir", b"dir", 0o777), ("mkdirat", AT_FDCWD, b"dir/in", 0o777), ("symlink", b"dir", b"link"),
        ("symlinkat", b"in", AT_FDCWD, b"./dir/to"), ("rename", b"dir/in", b"moved"),
        ("renameat", AT_FDCWD, b"moved", AT_FDCWD, stage.path(b"dir/in")),
        ("renameat2", AT_FDCWD, stage.path(b"dir/in"), AT_FDCWD, b"moved", 0), ("chmod", b"link", 0o2750),
        ("fchmodat", AT_FDCWD, b"moved", 0o700), (newest, AT_FDCWD, stage.path(b"moved"), 0o711, 0),
        ("chown", b"moved", 1, 2), ("lchown", b"link", 3, 4), ("fchownat", AT_FDCWD, b"dir", 0, 5, 0),
        ("unlink", b"dir/to"), ("rmdir", b"dir"), ("unlinkat", AT_FDCWD, stage.path(b"link"), 0),
    ]  # fmt: skip
    seen = {}
    for number, call in enumerate(done):
        assert stage.short(*call) == Answer(0), call
        if number == 11:
            seen = {each: os.lstat(stage.path(each)) for each in (b"dir", b"link", b"moved")}
            # the set-group-id bit went with its owner's group
            assert stat.S_IMODE(seen[b"dir"].st_mode) == 0o2750
    assert [(each.st_uid, each.st_gid) for each in seen.values()] == [
        (100000, 100000), (100003, 100004), (100001, 100002),
    ]  # fmt: skip
    assert stat.S_IMODE(seen[b"moved"].st_mode) == 0o711
    assert sorted(os.listdir(stage.top)) == [b"first", b"moved"]
    assert stat.S_IMODE(os.stat(stage.path(b"first")).st_mode) == 0o750


def test_what_it_refuses(stage: Stage) -> None:
    os.mkdir(stage.path(b"hosts"), 0o700)
    os.mkdir(stage.path(b"full"))
    open(stage.path(b"full/file"), "w").close()
    for call, number in (
        (("mkdir", b"first", 0o755), errno.EEXIST), (("mkdir", b"missing/x", 0o755), errno.ENOENT),
        (("rmdir", b"full"), errno.ENOTEMPTY), (("rmdir", b"hosts/x"), errno.EACCES), (("unlink", b"first"), errno.EISDIR),
        (("unlink", b"first/"), errno.EISDIR), (("rename", b"first", b"first/x"), errno.EINVAL),
        (("rename", b"nothing", b"x"), errno.ENOENT), (("chmod", b"full", 0o777), errno.EPERM),
        (("symlink", b"x", b"first/"), errno.EEXIST), (("mkdir", b"n" * 256, 0o755), errno.ENAMETOOLONG),
        (("rmdir", b"."), errno.EINVAL), (("rmdir", b"/"), errno.EBUSY), (("mkdir", b"/", 0o755), errno.EEXIST),
    ):  # fmt: skip
        os.chmod(stage.path(b"full"), 0o755)
        said = stage.short(*call)
        assert said == Deny(number), (call, said)
        assert stage.long(*call) == said, call


def test_what_is_not_done_short(stage: Stage) -> None:
    """Nothing has happened where it says nothing."""
    for call in (
        ("mkdir", b"", 0o755), ("unlinkat", AT_FDCWD, b"first", 1), ("rename", b"", b"x"), ("rename", b"first", b""),
        ("renameat2", AT_FDCWD, b"first", AT_FDCWD, b"x", 1), ("rename", b"first", b"d/" * 200 + b"x"),
        ("fchownat", AT_FDCWD, b"", 0, 0, 0x1000), ("mkdirat", 99, b"x", 0o755),
    ):  # fmt: skip
        assert stage.begun(stage.call(*call)) is None, call
    looked = stage.call("rmdir", b"first")
    assert looked.caller.tid
    assert stage.begun(looked) is None
    short = stage.performers.ordinary("rmdir")
    assert short is not None
    assert short(stage.call("rmdir", b"first"), proctor.perform(lambda *_: True)) is None
    assert os.listdir(stage.top) == [b"first"]


def test_what_is_filled_is_what_the_kernel_fills(stage: Stage) -> None:
    os.symlink(b"first", stage.path(b"link"))
    for call in (
        ("stat", b"link", 0x1000), ("lstat", b"link", 0x1000), ("newfstatat", AT_FDCWD, b"link", 0x1000, NOFOLLOW),
        ("statx", AT_FDCWD, b"link", NOFOLLOW, 0x7FF, 0x1000),
    ):  # fmt: skip
        short, long = stage.short(*call), stage.long(*call)
        ((at, data),), ((there, told),) = short.writes, long.writes
        assert at == there == 0x1000 and len(data) == len(told)
        assert data == told, call
    assert stage.short("stat", b"missing", 0x1000) == Deny(errno.ENOENT)


def test_nothing_is_done_to_what_is_on_a_procfs(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its links would be the executor's."""
    mode = stat.S_IMODE(os.stat("/proc/version").st_mode)
    counted: list[Any] = []
    errno_of = plans.Plan.errno

    def seen(plan: plans.Plan, reply: Any) -> int | None:
        counted.append((errno_of(plan, reply), reply.results[plan.made.step]))
        return errno_of(plan, reply)

    monkeypatch.setattr(plans.Plan, "errno", seen)
    for call in (
        ("chmod", b"/proc/version", 0o777), ("rmdir", b"/proc/sys/fs"), ("chown", b"/proc/version", 0, 0),
        ("rename", b"first", b"/proc/first"),
    ):  # fmt: skip
        assert isinstance(stage.short(*call), Deny)
    assert counted == [(None, SKIPPED)] * 4
    assert stat.S_IMODE(os.stat("/proc/version").st_mode) == mode


def test_who_takes_longer_is_waited_for(stage: Stage) -> None:
    for call in (("mkdir", b"slow", 0o755), ("rmdir", b"slow"), ("chmod", b"/proc/version", 0o777)):
        pid = stage.executor().pid
        os.kill(pid, signal.SIGSTOP)
        said = stage.begun(stage.call(*call))
        os.kill(pid, signal.SIGCONT)
        assert isinstance(said, Later)
        assert finished(said) == (Deny(errno.EPERM) if call[0] == "chmod" else Answer(0))
    assert os.listdir(stage.top) == [b"first"]


def test_who_gives_up_has_nothing_done(stage: Stage) -> None:
    one = stage.executor()
    os.kill(one.pid, signal.SIGSTOP)
    said = stage.begun(stage.call("mkdir", b"slow", 0o755))
    assert isinstance(said, Later)
    said.cancel()
    assert not stage.performers.executors._busy and one.fileno() == -1
    one.wait_for_end(10)
    stage.performers.executors._bury()
    assert os.listdir(stage.top) == [b"first"]
    assert stage.long("mkdir", b"next", 0o755) == Answer(0)


def test_who_died_before_is_replaced_and_what_died_at_it_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stage.executor()
    os.kill(one.pid, signal.SIGKILL)
    one.wait_for_end(10)
    assert stage.begun(stage.call("mkdir", b"x", 0o755)) is None
    assert stage.long("mkdir", b"x", 0o755) == Answer(0)
    # nobody knows how far one came that died at it: it is not asked of another
    died: list[Trouble] = []

    def dies(self: Executor, *_: Any) -> None:
        died.append(Trouble("the executor died in the middle of the call"))
        raise died[0]

    monkeypatch.setattr(Executor, "act_for", dies)
    other = stage.executor()
    assert stage.begun(stage.call("mkdir", b"y", 0o755)) == Deny(
        errno.EPERM, f"not performed: {died[0]}"
    )
    other.wait_for_end(10)
    stage.performers.executors._bury()


def test_nothing_is_done_for_whoever_is_gone(stage: Stage) -> None:
    call = stage.call("rmdir", b"first")
    call.is_valid = lambda: False
    assert stage.begun(call) is None
    assert os.listdir(stage.top) == [b"first"]


def test_that_it_begins_is_said_before_anything_is_done(stage: Stage) -> None:
    said: list[tuple[Any, bool]] = []
    short = stage.performers.ordinary(
        "mkdir", None, lambda call: said.append((call, os.path.lexists(stage.path(b"dir"))))
    )
    assert short is not None
    call = stage.call("mkdir", b"dir", 0o755)
    told = short(call, proctor.perform())
    assert said == [(call, False)]
    assert finished(told) == Answer(0)
    assert isinstance(short, deeds.DeedWay)


@pytest.mark.parametrize("deadline", [None, 1e-6])
def test_what_is_written_by_who_lost_the_role_is_its_callers_while_it_waits(
    deadline: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other call's thread loses the role on its way; a deadline may then answer what nobody has claimed, and from then on
    nothing is written to its caller's memory."""
    (tmp_path / "file").write_text("content")
    filled: list[int] = []
    fill = Answers.fill

    def counted(self: Answers, *args: Any) -> None:
        filled.append(1)
        fill(self, *args)

    monkeypatch.setattr(Answers, "fill", counted)
    monkeypatch.setattr(
        Pace, "TICK", 900_000
    )  # what is heard later is not filled in so: on a busy machine, all
    number = tables.number("newfstatat", native())
    program = (
        "import ctypes, errno\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "late, seen = [], []\n"
        "for i in range(1000):\n"
        "    room = ctypes.create_string_buffer(256)\n"
        f"    if libc.syscall({number}, -100, b'file', room, 0, 77 + i % 2):\n"
        "        assert ctypes.get_errno() == errno.ETIMEDOUT, ctypes.get_errno()\n"
        "        late.append(room)\n"
        "    else:\n"
        "        seen.append(room.raw)\n"
        "assert not any(any(each.raw) for each in late)\n"
        "assert len(set(seen)) <= 1 and all(map(any, seen))\n"
        "print(len(late))\n"
    )
    made: list[proctor.Process] = []
    ready = threading.Event()

    def stalls(call: proctor.Call) -> proctor.Verdict:
        marked = call.registers[4] == 78
        handler.deadline = deadline if marked else None
        if marked:
            ready.wait()
            made[0].supervisor._decider._engine.surrender()
        return proctor.perform()

    handler = proctor.Handler(["newfstatat"], stalls)
    process = proctor.spawn(
        [PYTHON, "-IS", "-c", program], [handler], userns=True, cwd=tmp_path, stdout=subprocess.PIPE,
        on_deadline=proctor.deny(errno.ETIMEDOUT),
    )  # fmt: skip
    made.append(process)
    ready.set()
    with process:
        assert process.stdout is not None
        late = int(process.stdout.read())
        assert process.wait(60) == 0
    assert deadline or (not late and filled)

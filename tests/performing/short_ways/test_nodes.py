"""The short way of a device node: whoever goes it gets what the long way gives, or goes the long way."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Iterator
from typing import Any

import pytest

import proctor
from proctor import performing
from proctor.call.verdict import Answer, Deny
from proctor.performing.executing.processes import Executor
from proctor.performing.identities.lender import LenderKey
from proctor.performing.trouble import Trouble
from proctor.supervisor.ports import Later
from tests.performing.families.test_open_differential import MAP
from tests.performing.support import stages
from tests.performing.support.callers import (
    AT_FDCWD,
    MS_BIND,
    MS_NODEV,
    MS_REMOUNT,
    Call,
    caller,
    mount,
    open_directory,
    private_mounts,
)
from tests.performing.support.stages import finished, staged

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs the host's root")
CHAR, NULL = stat.S_IFCHR, os.makedev(1, 3)


class Stage(stages.Stage):
    """As of others, for device nodes."""

    def warm(self) -> None:
        self.node(b"first", short=False)

    def call(self, path: bytes, mode: int = CHAR | 0o644, device: int = NULL) -> Call:
        return self.made("mknodat", AT_FDCWD, path, mode, device)

    def node(self, path: bytes, *, short: bool = True) -> None:
        """Make one, by the short way or not, and see it."""
        call = self.call(path)
        said = self.begun(call) if short else self.performers.perform(call)
        assert finished(said) == Answer(0)
        self.seen(path)

    def seen(self, path: bytes) -> None:
        found = os.lstat(os.path.join(self.top, path))
        assert (found.st_mode, found.st_rdev, found.st_uid, found.st_gid) == (
            CHAR | 0o640, NULL, 100000, 100000,
        )  # fmt: skip

    def executor(self, lends: bool) -> Executor:
        """Whoever lends, or is the caller."""
        (found,) = [
            each
            for each in self.performers.executors._idle
            if isinstance(each.key, LenderKey) is lends
        ]
        return found


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged(Stage) as made:
        idle = made.performers.executors._idle
        skip_where_looked_at_first(made)
        yield made
        # one more where an executor was still closing what it gave when the next call came
        assert len(idle) in (2, 3)


def skip_where_looked_at_first(warm: Stage) -> None:
    if len(warm.performers.executors._idle) != 2:
        pytest.skip("this file system may be a user namespace's, which is looked at first")


def test_what_it_says(stage: Stage) -> None:
    top = stage.top
    for path in (b"one", b"./two", top + b"/three"):
        stage.node(path)
    os.mkdir(top + b"/hosts", 0o700)
    for path, number in (
        (b"one", errno.EEXIST), (b"missing/x", errno.ENOENT), (b"one/x", errno.ENOTDIR), (b"hosts/x", errno.EACCES),
        (b"x" * 256, errno.ENAMETOOLONG), (b"/proc/x", errno.EPERM),
    ):  # fmt: skip
        short, long = stage.begun(stage.call(path)), stage.performers.perform(stage.call(path))
        short = finished(short) if isinstance(short, Later) else short
        assert isinstance(long, Deny) and long.errno in (number, errno.ENOENT)
        assert short == long and short.reason == long.reason


def test_a_lender_whose_answer_was_not_taken_lends_no_more(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lender = Executor.lend_for, stage.executor(True)

    def fails(self: Executor, *args: Any) -> Any:
        _, heard, pin = real(self, *args)
        assert heard is not None
        if pin >= 0:  # it takes longer
            os.close(pin)
        raise Trouble("no memory for the answer")

    monkeypatch.setattr(
        lender.pace, "patience", 900_000
    )  # so that the caller's own executor is heard on a busy machine, too
    monkeypatch.setattr(Executor, "lend_for", fails)
    assert isinstance(stage.begun(stage.call(b"one")), Deny)
    assert lender not in [*stage.performers.executors._idle, *stage.performers.executors._taken]
    lender.wait_for_end(10)
    monkeypatch.undo()
    stage.node(b"two", short=False)
    stage.node(b"three")


def test_nothing_is_lent_where_no_node_works() -> None:
    """Making one would do there, but not opening it."""

    def setup() -> None:
        private_mounts()
        os.chdir(top)
        os.umask(0o027)
        mount(top + b"/nodev", top + b"/nodev", b"none", MS_BIND)
        mount(top + b"/nodev", top + b"/nodev", b"none", MS_BIND | MS_REMOUNT | MS_NODEV)

    with open_directory() as top:
        os.mkdir(top + b"/nodev")
        for each in (top, top + b"/nodev"):
            os.chown(each, 100000, 100000)
        with performing.Performers() as performers, caller(setup, MAP) as one:
            stage = Stage(performers, one, top)
            skip_where_looked_at_first(stage)
            for path in (b"nodev/x", top + b"/nodev/x"):
                said = stage.begun(stage.call(path))
                said = finished(said) if isinstance(said, Later) else said
                assert said.errno == errno.EPERM and "nodev" in said.reason
            assert not os.listdir(top + b"/nodev")
            for call in stage.calls:
                if call._caller is not None:
                    call._caller.close()


def test_what_has_no_short_way(stage: Stage) -> None:
    """Nothing has happened where it says nothing."""
    for path, mode, device in (
        (b"x", stat.S_IFIFO | 0o600, 0), (b"x", CHAR | 0o600, 0), (b"x", 0o600, 0), (b"x", stat.S_IFDIR, 0),
        (b"x/", CHAR | 0o600, NULL), (b"/", CHAR | 0o600, NULL), (b"", CHAR | 0o600, NULL),
        (b"./" * 130 + b"x", CHAR | 0o600, NULL),
    ):  # fmt: skip
        assert stage.begun(stage.call(path, mode, device)) is None
    assert stage.begun(stage.call(b"x"), proctor.perform(lambda *_: True)) is None
    looked = stage.call(b"x")
    assert looked.caller.tid
    assert stage.begun(looked) is None
    assert sorted(os.listdir(stage.top)) == [b"first"]


@pytest.mark.parametrize("lends", [False, True], ids=["as the caller", "who lends"])
def test_who_takes_longer_is_waited_for(stage: Stage, lends: bool) -> None:
    pid = stage.executor(lends).pid
    os.kill(pid, signal.SIGSTOP)
    said = stage.begun(stage.call(b"slow"))
    os.kill(pid, signal.SIGCONT)
    assert finished(said) == Answer(0)
    stage.seen(b"slow")
    stage.node(b"next")


def test_who_gives_up_has_nothing_made(stage: Stage) -> None:
    """Also while the lender is waited for."""
    lends, other = stage.executor(True), stage.executor(False)
    os.kill(lends.pid, signal.SIGSTOP)
    said = stage.begun(stage.call(b"slow"))
    assert isinstance(said, Later)
    said.cancel()
    executors = stage.performers.executors
    awaited = lends if lends.fileno() == -1 else other  # which may have been slow
    assert not executors._busy and awaited.fileno() == -1
    awaited.wait_for_end(10)
    executors._bury()
    if awaited is other:
        os.kill(lends.pid, signal.SIGCONT)
    stage.node(b"next", short=False)
    assert sorted(os.listdir(stage.top)) == [b"first", b"next"]


def test_that_it_begins_is_said_before_anything_is_made(stage: Stage) -> None:
    said: list[tuple[Any, bool]] = []

    def begins(call: Any) -> None:
        said.append((call, os.path.lexists(stage.top + b"/node")))

    short = stage.performers.ordinary("mknodat", None, begins)
    assert short is not None
    call = stage.call(b"node")
    told = short(call, proctor.perform())
    assert said == [(call, False)]
    assert (finished(told) if isinstance(told, Later) else told) == Answer(0)
    stage.seen(b"node")


@pytest.mark.parametrize("lends", [False, True], ids=["as the caller", "who lends"])
def test_who_has_died_is_replaced(stage: Stage, lends: bool) -> None:
    executor = stage.executor(lends)
    os.kill(executor.pid, signal.SIGKILL)
    executor.wait_for_end(10)
    said = stage.begun(stage.call(b"x"))
    if (
        said is not None
    ):  # whoever lives is slow, and waited for, or the one in whose place was quick then
        assert lends and (finished(said) if isinstance(said, Later) else said) == Answer(0)
    else:
        assert not os.path.lexists(stage.top + b"/x")
        stage.node(b"x", short=False)
    stage.node(b"y")


@pytest.mark.parametrize("asked", [0, 1])
def test_nothing_is_made_for_whoever_is_gone(stage: Stage, asked: int) -> None:
    call, left = stage.call(b"x"), [True] * asked
    call.is_valid = lambda: bool(left and left.pop())
    gone = Deny(errno.EINTR, "the caller is gone")
    said = stage.begun(call)
    said = finished(said) if isinstance(said, Later) else said
    assert said == (gone if asked else None)  # it has not begun, and the long way says it
    assert not left and sorted(os.listdir(stage.top)) == [b"first"]

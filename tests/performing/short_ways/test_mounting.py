"""The short way of a mount: whoever goes it gets what the long way gives, or goes the long way."""

from __future__ import annotations

import errno
import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import proctor
from proctor import performing
from proctor.call.verdict import Answer, Deny
from proctor.performing.executing.beginning import Once
from proctor.performing.families.mount import Options
from proctor.performing.mounts import sourcing
from proctor.performing.short_ways import mounting
from proctor.supervisor.ports import Later
from tests.performing.families.test_open_differential import MAP
from tests.performing.support.callers import MS_BIND, MS_RDONLY, MS_REMOUNT, Caller, caller
from tests.performing.support.containers import container
from tests.performing.support.images import MOUNTS, image, loop_device, no_loop_device_is_left, top
from tests.performing.support.stages import finished
from tests.support.processes import eventually

__all__ = ["image", "no_loop_device_is_left", "top"]
pytestmark = [MOUNTS, pytest.mark.usefixtures("no_loop_device_is_left")]


#: Of a device that nobody has: majors 120 to 127 are for local use (Documentation/admin-guide/devices.txt).
OTHER = os.makedev(120, 7)


class Stage:
    """A container's root that has mounted a device once, and who mounts for it."""

    def __init__(self, performers: performing.Performers, one: Caller, top: bytes, number: int):
        self.performers, self.one, self.top, self.number = performers, one, top, number
        self.options = Options(["ext4"], devices=[f"{os.major(number)}:{os.minor(number)}"])
        self.short = performers.ordinary("mount")
        self.calls: list[Any] = []

    def call(self, *args: Any) -> Any:
        self.calls.append(self.one.call("mount", *args))
        return self.calls[-1]

    def begun(self, *args: Any, **more: Any) -> Any:
        assert self.short is not None
        return self.short(self.call(*args), proctor.perform(**{"options": self.options, **more}))

    def long(self, *args: Any, **more: Any) -> Any:
        return self.performers.perform(self.call(*args), **{"options": self.options, **more})

    def mounts(self) -> list[list[str]]:
        """What is mounted in the container's directory: attributes, source and options."""
        lines = Path(f"/proc/{self.one.pid}/mountinfo").read_text().splitlines()
        mine = [line.split() for line in lines if os.fsdecode(self.top) + "/m " in line]
        return [[each[5], *each[-3:]] for each in mine]

    def unmount(self) -> None:
        assert self.one.natively("umount2", b"m", 0) == ("value", 0)


@pytest.fixture
def stage(top: bytes, image: bytes) -> Iterator[Stage]:
    before = len(os.listdir("/proc/self/fd"))
    with loop_device(image) as (_, number):
        node(top, b"disk", stat.S_IFBLK, number)
        with performing.Performers() as performers, caller(container(top), MAP) as one:
            made = Stage(performers, one, top, number)
            assert made.long(b"disk", b"m", b"ext4", 0, 0) == Answer(0)
            made.unmount()
            yield made
            for each in made.calls:
                if each._caller is not None:
                    each._caller.close()
            left = [each for each in performers.executors._taken if each is not None]
            assert not left
    assert len(os.listdir("/proc/self/fd")) <= before


def node(top: bytes, name: bytes, kind: int, number: int) -> None:
    os.mknod(os.path.join(top, name), kind | 0o600, number)
    os.chown(os.path.join(top, name), 100000, 100000)


@pytest.mark.parametrize(
    ("flags", "data"),
    [(0, 0), (MS_RDONLY, 0), (1 << 10 | 2, b"data=ordered,,nodelalloc"), (0xC0ED0000, b"")],
)
def test_it_mounts_what_the_long_way_mounts(stage: Stage, flags: int, data: Any) -> None:
    assert stage.long(b"disk", b"m", b"ext4", flags, data) == Answer(0)
    expected = stage.mounts()
    stage.unmount()
    paths = (b"disk", b"m"), (stage.top + b"/disk", b"m/"), (b"./disk", stage.top + b"/m")
    for source, target in (*paths, *paths):
        assert finished(stage.begun(source, target, b"ext4", flags, data)) == Answer(0)
        assert stage.mounts() == expected
        stage.unmount()
    os.symlink("disk", stage.top + b"/link")
    assert finished(stage.begun(b"link", b"m", b"ext4", flags, data)) == Answer(0)
    again = stage.begun(b"disk", b"m", b"ext4", flags, data)
    assert finished(again)[0] == errno.EBUSY == stage.long(b"disk", b"m", b"ext4", flags, data)[0]
    assert stage.mounts() == expected
    stage.unmount()


def test_a_device_that_was_opened_before_is_opened_when_it_is_pinned(stage: Stage) -> None:
    args = b"disk", b"m", b"ext4", 0, 0
    with mock.patch.object(sourcing, "reopened", wraps=sourcing.reopened) as opened:
        for times in (1, 1, 1):
            assert finished(stage.begun(*args)) == Answer(0)
            stage.unmount()
            assert opened.call_count == times


@pytest.mark.parametrize("allowed", [False, True])
def test_another_device_in_its_place_is_asked_about_itself(stage: Stage, allowed: bool) -> None:
    """It is not opened for what was there before."""
    args = b"disk", b"m", b"ext4", 0, 0
    assert finished(stage.begun(*args)) == Answer(0)
    stage.unmount()
    os.unlink(stage.top + b"/disk")
    node(stage.top, b"disk", stat.S_IFBLK, OTHER)
    if allowed:
        stage.options = Options(["ext4"], devices=["120:*"])
    said = finished(stage.begun(*args))
    assert isinstance(said, Deny)
    # of an allowed one the kernel itself says that it is not there
    assert said.errno == (errno.ENXIO if allowed else errno.EPERM), said
    assert said == stage.long(*args) and said.reason == stage.long(*args).reason
    assert not stage.mounts()


def test_what_is_no_block_device_is_not_opened(stage: Stage, image: bytes) -> None:
    """A character device of the same number; opening one does something."""
    args = b"disk", b"m", b"ext4", 0, 0
    assert finished(stage.begun(*args)) == Answer(0)
    stage.unmount()
    for kind in (stat.S_IFCHR, stat.S_IFIFO, stat.S_IFREG):
        os.unlink(stage.top + b"/disk")
        node(stage.top, b"disk", kind, stage.number)
        with mock.patch.object(sourcing, "reopened") as opened:
            assert finished(stage.begun(*args))[0] == errno.ENOTBLK
            assert not opened.called


def test_what_was_allowed_by_another_rule_is_not(stage: Stage) -> None:
    args = b"disk", b"m", b"ext4", 0, 0
    assert finished(stage.begun(*args)) == Answer(0)
    stage.unmount()
    elsewhere = Options(["ext4"], devices=["120:7"])
    said = finished(stage.begun(*args, options=elsewhere))
    assert said[0] == errno.EPERM and "not among the rule's devices" in said.reason
    assert not stage.mounts()


def test_what_is_wrong_is_said_by_the_long_way(stage: Stage) -> None:
    os.mkdir(stage.top + b"/closed", 0o700)
    node(stage.top, b"closed/disk", stat.S_IFBLK, stage.number)
    node(stage.top, b"hosts", stat.S_IFBLK, stage.number)
    os.chown(stage.top + b"/hosts", 0, 0)
    for args, number in (
        ((b"disk", b"missing", b"ext4", 0, 0), errno.ENOENT), ((b"missing", b"m", b"ext4", 0, 0), errno.ENOENT),
        ((b"disk", b"disk", b"ext4", 0, 0), errno.ENOTDIR), ((b"m", b"m", b"ext4", 0, 0), errno.ENOTBLK),
        ((b"closed/disk", b"m", b"ext4", 0, 0), errno.EACCES), ((b"hosts", b"m", b"ext4", 0, 0), errno.EACCES),
        ((b"disk", b"m", b"ext4", 0, b"nonsense=1"), errno.EINVAL),
        ((b"disk", b"/proc/self/cwd/m", b"ext4", 1 << 31, 0), errno.EINVAL),
        ((b"disk", b"/proc/self/fd/99", b"ext4", 0, 0), errno.ENOENT),
    ):  # fmt: skip
        said, long = stage.begun(*args), stage.long(*args)
        said = stage.long(*args) if said is None else finished(said)
        assert said == long and said[0] == number and said.reason == long.reason, args
    assert not stage.mounts()


def test_what_has_no_short_way(stage: Stage) -> None:
    """Nothing has happened where it says nothing."""
    for args in (
        (b"disk", b"m", b"xfs", 0, 0), (b"m", b"m", b"ext4", MS_BIND, 0), (0, b"m", b"ext4", 0, 0),
        (b"disk", 0, b"ext4", 0, 0), (b"disk", b"m", 0, 0, 0), (b"disk", b"m", b"ext4", MS_REMOUNT, 0),
        (b"disk", b"m", b"ext4", 1 << 31, 0), (b"", b"m", b"ext4", 0, 0), (b"disk", b"", b"ext4", 0, 0),
        (b"disk", b"m", b"ext4", 0, b"errors=panic"), (b"disk", b"./" * 130 + b"m", b"ext4", 0, 0),
    ):  # fmt: skip
        assert stage.begun(*args) is None, args
    args = b"disk", b"m", b"ext4", 0, 0
    assert stage.begun(*args, options=None) is None
    assert (
        stage.begun(*args, options=Options(stage.options.filesystems, stage.options.devices, True))
        is None
    )
    assert stage.begun(*args, allow=lambda *_: True) is None
    looked = stage.call(*args)
    assert looked.caller.tid
    assert stage.short is not None
    assert stage.short(looked, proctor.perform(options=stage.options)) is None
    assert not stage.mounts()


def test_who_takes_longer_is_waited_for(stage: Stage) -> None:
    args = b"disk", b"m", b"ext4", 0, 0
    (executor,) = [
        each for each in stage.performers.executors._idle if not isinstance(each.key, Once)
    ]
    os.kill(executor.pid, signal.SIGSTOP)
    said = stage.begun(*args)
    os.kill(executor.pid, signal.SIGCONT)
    assert isinstance(said, Later)
    assert finished(said) == Answer(0)
    stage.unmount()


def removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def test_who_was_moved_meanwhile_has_the_device_rules_of_the_new_cgroup(stage: Stage) -> None:
    """Who was asked before that is in the old one."""
    hierarchy = Path("/sys/fs/cgroup/devices")
    if not (hierarchy / "devices.deny").exists():
        pytest.skip("no devices controller of cgroup version 1 here")
    (executor,) = [
        each for each in stage.performers.executors._idle if not isinstance(each.key, Once)
    ]
    group = hierarchy / f"proctor-test-{os.getpid()}"
    group.mkdir()
    before = Path(f"/proc/{stage.one.pid}/cgroup").read_text()
    (old,) = [line.split(":")[2] for line in before.splitlines() if ":devices:" in line]
    try:
        (group / "devices.deny").write_text(
            f"b {os.major(stage.number)}:{os.minor(stage.number)} rwm"
        )
        os.kill(executor.pid, signal.SIGSTOP)
        said = stage.begun(b"disk", b"m", b"ext4", 0, 0)
        (group / "cgroup.procs").write_text(str(stage.one.pid))
        os.kill(executor.pid, signal.SIGCONT)
        assert isinstance(said, Later)
        assert finished(said)[0] == errno.EPERM
        assert not stage.mounts()
    finally:
        (hierarchy / old.strip("/") / "cgroup.procs").write_text(str(stage.one.pid))
        stage.performers.executors.forget(None)
        eventually("nobody is in it", lambda: removed(group))


def test_nothing_is_mounted_for_whoever_is_gone(stage: Stage) -> None:
    for asked in range(3):
        call, left = stage.call(b"disk", b"m", b"ext4", 0, 0), [True] * asked
        call.is_valid = lambda left=left: bool(left and left.pop())
        assert stage.short is not None
        said = stage.short(call, proctor.perform(options=stage.options))
        assert said is None or isinstance(finished(said), Deny)
        assert not stage.mounts()


def test_sources_are_remembered_within_bounds(stage: Stage) -> None:
    with mock.patch.object(mounting, "_MOST", 2):
        for name in (b"disk", b"./disk", b"././disk", b"disk"):
            assert finished(stage.begun(name, b"m", b"ext4", 0, 0)) == Answer(0)
            stage.unmount()
        way: Any = stage.short
        assert len(way.__self__._before) <= 2


def test_a_device_is_mounted_by_a_name_of_the_hosts_alone(stage: Stage) -> None:
    """What is mounted over a directory of /dev may be everybody's, who put another device there when it was looked at."""
    number = stage.number
    device = os.major(number), os.minor(number)
    own = b"/dev/loop%d" % device[1]
    assert sourcing.shown(own, device) == own
    assert sourcing.shown(b"disk", device) == own
    assert sourcing.shown(b"/dev/../dev/loop%d" % device[1], device) == own
    assert sourcing.shown(own, (device[0], device[1] + 1)) != own
    for place in ("/dev/shm", "/dev/mqueue", "/dev/hugepages"):
        if os.path.isdir(place) and os.stat(place).st_dev != os.stat("/dev").st_dev:
            break
    else:
        pytest.skip("nothing is mounted in /dev where somebody could make a node")
    with tempfile.TemporaryDirectory(dir=place, prefix="proctor-test-") as directory:
        theirs = os.fsencode(directory) + b"/disk"
        os.mknod(theirs, stat.S_IFBLK | 0o600, number)
        assert sourcing.shown(theirs, device) == own

"""Mounters that wait for work: what they can reach and keep busy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from proctor.call.verdict import Answer
from proctor.performing.executing.processes import Executor
from proctor.performing.mounts import mounter, mounters
from proctor.performing.session import Session
from tests.performing.mounts.test_remote import HUGE, PAGES
from tests.performing.short_ways.test_mounting import Stage, stage
from tests.performing.support.images import MOUNTS, image, no_loop_device_is_left, top
from tests.performing.support.stages import finished
from tests.support.processes import eventually

__all__ = ["image", "no_loop_device_is_left", "stage", "top"]
pytestmark = [MOUNTS, pytest.mark.usefixtures("no_loop_device_is_left")]
ARGS = b"disk", b"m", b"ext4", 0, 0
#: What is mounted where in the mount namespace of a process; of its root what is in it, and whether that can be written.
LOOK = """
import ctypes, json, os, sys
proc, theirs = os.open("/proc", os.O_PATH), os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY)
assert not ctypes.CDLL(None).setns(theirs, 0x20000)
with os.fdopen(os.open("self/mountinfo", os.O_RDONLY, dir_fd=proc)) as file:
    where = [line.split()[4] for line in file]
print(json.dumps([where, os.listdir("/"), bool(os.statvfs("/").f_flag & os.ST_RDONLY)]))
"""
#: The directory with nothing in it, and on that what was mounted.
ALONE = [["/", "/proc"], ["proc"], True]


def looked(executor: Executor) -> Any:
    command = [sys.executable, "-ISc", LOOK, str(executor.pid)]
    found = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return json.loads(found.stdout)


@contextmanager
def seen(stage: Stage) -> Iterator[list[tuple[bool, Any]]]:
    """Of mounters that are done, and have not ended with that, whether their mount namespace is the container's, and what :data:`LOOK` sees in it."""
    found = []
    theirs = os.stat(f"/proc/{stage.one.pid}/ns/user").st_ino
    signal, init = Session.signal, mounters.Mounting.__init__

    def look(session: Session) -> None:
        executor = session._executor
        if executor is not None and executor.pid:
            owner = os.stat(f"/proc/{executor.pid}/ns/user").st_ino
            found.append((owner == theirs, looked(executor)))
        signal(session)

    def living(self: mounters.Mounting, *args: Any) -> None:
        init(self, *args)
        self.last = False

    mounter._making.cache_clear()
    try:
        with (
            mock.patch.object(Session, "signal", look),
            mock.patch.object(mounters.Mounting, "__init__", living),
        ):
            yield found
    finally:
        mounter._making.cache_clear()


def test_where_a_mounter_is_the_containers_nothing_is_but_what_it_mounted(stage: Stage) -> None:
    """Root of the container owns that namespace: listmount(2) names what is mounted there, and ioctls of older kernels open it."""
    with seen(stage) as found:
        assert finished(stage.begun(*ARGS)) == Answer(0)
        stage.unmount()
        assert stage.long(*ARGS) == Answer(0)
        stage.unmount()
    assert [what for theirs, what in found if theirs] == [ALONE, ALONE]


@HUGE
def test_nor_is_there_of_what_comes_from_anywhere(stage: Stage) -> None:
    with seen(stage) as found:
        args = b"pages", b"m", b"hugetlbfs", 0, 0
        assert stage.long(*args, options=PAGES) == Answer(0)
        stage.unmount()
    assert [what[0] for theirs, what in found if theirs] == [["/"]]


def test_who_waits_for_a_mount_keeps_none_of_the_hosts_busy(stage: Stage) -> None:
    """There is what a mount takes, however many mounts the host has."""
    executors = stage.performers.executors
    eventually("one is begun", lambda: executors._spare.waiting is not None)
    assert executors._spare.waiting is not None
    waiting = executors._spare.waiting[0]
    eventually("it has said who it is", lambda: waiting.pidfd >= 0)
    assert looked(waiting) == [["/"], ["proc"], True]
    assert os.listdir(f"/proc/{waiting.pid}/root") in (["dev", "proc"], ["proc", "dev"])
    assert finished(stage.begun(*ARGS)) == Answer(0)
    assert executors._spare.waiting is None or executors._spare.waiting[0] is not waiting
    expected = stage.mounts()
    stage.unmount()
    assert expected


def test_where_there_is_no_small_namespace_mounters_have_a_copy_of_all(stage: Stage) -> None:
    """As on a host whose root is no mount that pivot_root(2) would leave."""
    assert finished(stage.begun(*ARGS)) == Answer(0)
    expected = stage.mounts()
    stage.unmount()
    stage.performers.kept.pop("mounters").close()
    steps = mounters.Steps()
    bad = steps.call("pivot_root", *[steps.bytes(b"/proc/none")] * 2)
    nothing = mounters._Furnishing(steps.freeze(), (bad, bad), bad)
    with mock.patch.object(mounters, "_furnishing", lambda: nothing):
        for _ in range(2):
            assert finished(stage.begun(*ARGS)) == Answer(0)
            assert stage.mounts() == expected
            stage.unmount()
    spare = stage.performers.executors._spare.waiting
    assert spare is None or spare[0].begins is not None, "and nobody has one who waits"


def test_what_fails_for_want_of_room_is_tried_again(stage: Stage) -> None:
    stage.performers.kept.pop("mounters", mounters._Small()).close()
    steps = mounters.Steps()
    bad = steps.call("mmap", 0, 0, 0, 0x22, -1, 0)  # EINVAL, which stays so
    nothing = mounters._Furnishing(steps.freeze(), (bad, bad), bad)
    with mock.patch.object(mounters, "_furnishing", lambda: nothing):
        assert stage.long(*ARGS) == Answer(0)
        stage.unmount()
    assert stage.performers.kept["mounters"].begins is None
    del stage.performers.kept["mounters"]
    steps = mounters.Steps()
    bad = steps.call("mmap", 0, 1 << 62, 0, 0x22, -1, 0)  # ENOMEM, which may not
    nothing = mounters._Furnishing(steps.freeze(), (bad, bad), bad)
    with mock.patch.object(mounters, "_furnishing", lambda: nothing):
        assert stage.long(*ARGS) == Answer(0)
        stage.unmount()
    assert "mounters" not in stage.performers.kept
    assert stage.long(*ARGS) == Answer(0)
    stage.unmount()
    assert stage.performers.kept["mounters"].begins is not None


def test_a_dev_whose_devices_are_mounts_of_their_own_is_not_copied_without_them() -> None:
    """As in a container, privileged or not, that was given some of its host's devices."""
    program = (
        "mount -t tmpfs none /mnt && mknod /mnt/one c 10 237 && mount --bind /mnt/one /dev/loop-control && "
        f"exec {sys.executable} -c 'from proctor.performing.mounts import mounters; print(mounters._has_loops())'"
    )
    ours = subprocess.run(
        ["unshare", "-m", "sh", "-c", program], check=False, capture_output=True, timeout=60
    )
    assert ours.stdout == b"False\n", ours.stderr
    assert mounters._has_loops()

"""What came after the oldest kernel that proctor runs on is, where it is not there, said to be not there: performed as natively.

Kernels without it are played by filters (:mod:`tests.performing.older`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proctor.performing import families, newer
from tests.performing.support.callers import AT_FDCWD, Performers, caller, open_directory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="puts a filter before all that it runs")

EMPTY = 0x1000
ROOM = bytes(256)
#: Each as a program of that release would call it; descriptor 77 is a directory with a file in it.
CALLS: list[tuple[object, ...]] = [
    ("fchmodat2", AT_FDCWD, b"file", 0o600, 0), ("fchmodat2", 77, b"", 0o700, EMPTY),
    ("setxattrat", 77, b"file", 0, b"user.x", ROOM[:16], 16), ("getxattrat", 77, b"file", 0, b"user.x", ROOM[:16], 16),
    ("listxattrat", 77, b"file", 0, 0, 0), ("removexattrat", 77, b"file", 0, b"user.missing"),
    ("file_getattr", 77, b"file", ROOM[:24], 24, 0), ("file_setattr", 77, b"file", ROOM[:24], 24, 0),
    ("quotactl_fd", 77, 0x80000100, 0, 0), ("quotactl_fd", 999, 0x80000100, 0, 0),
    ("linkat", AT_FDCWD, b"file", AT_FDCWD, b"one", EMPTY), ("linkat", 77, b"file", 77, b"two", EMPTY),
    ("linkat", 77, b"", 77, b"three", EMPTY), ("linkat", AT_FDCWD, b"missing", 999, b"four", EMPTY),
    *(("statx", fd, path, EMPTY | odd, 0, ROOM) for fd in (77, AT_FDCWD, 999) for path in (0, b"") for odd in (0, 1 << 20)),
    *(("newfstatat", fd, path, ROOM, EMPTY | odd) for fd in (77, AT_FDCWD, 999) for path in (0, b"") for odd in (0, 1 << 20)),
]  # fmt: skip


def differing() -> None:
    """Print what is performed otherwise than natively."""
    with open_directory() as place, Performers() as performers:
        Path(os.fsdecode(place), "file").touch()

        def setup() -> None:
            os.chdir(place)
            os.dup2(os.open(".", os.O_RDONLY), 77)

        with caller(setup) as one:
            for call in CALLS:
                name, *args = call
                for how in ({}, {"allow": lambda argument, path: True}):
                    native, performed = [
                        each(*given, name, *args, **more)
                        for each, given, more in (
                            (one.natively, (), {}),
                            (one.performed, (performers,), how),
                        )
                        if clear(place)
                    ]
                    if native != performed:
                        print(call, native, performed)


def clear(place: bytes) -> bool:
    """What was made goes."""
    for name in os.listdir(place):
        if name != b"file":
            os.unlink(place + b"/" + name)
    return True


def on(release: str, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of Python's on a kernel of this release."""
    older = [sys.executable, "-m", "tests.performing.older", release, sys.executable, "-m"]
    return subprocess.run([*older, *command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("release", ["5.9", "6.1", "6.12", "99.0"])
def test_what_is_not_there_is_said_to_be_not_there(release: str) -> None:
    done = on(release, __name__)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_images_are_mounted_by_kernels_that_change_no_mount() -> None:
    tried = "tests/performing/mounts/test_mount.py::test_ids_as_they_are_on_disk"
    done = on("5.11", "pytest", "-q", "-p", "no:cacheprovider", tried)
    assert done.returncode == 0, done.stdout


def test_calls_that_came_later_are_performed() -> None:
    assert {call for calls in families.CALLS.values() for call in calls} >= families.LATER
    assert not newer.lacks("mkdir") and not newer.lacks("openat2")


if __name__ == "__main__":
    differing()

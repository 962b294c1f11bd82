"""Callers whose root is a FUSE file system of their own user namespace (fuse-overlayfs, as rootless engines have it):
the kernel tells nobody else anything of it, the host's root included."""

from __future__ import annotations

import os
import stat
import struct

import pytest

from proctor.call.verdict import Answer
from proctor.kernel import raw
from tests.kernel.test_standing import root_only
from tests.performing.support.callers import (
    AT_FDCWD,
    Performers,
    caller,
    open_directory,
    private_mounts,
)
from tests.support.stuck import INODE, LOOKUP, STATFS, Stuck

ACCESS, NEVER = 34, 0


@root_only
def test_a_hidden_root_is_taken_on() -> None:
    file = INODE.pack(2, 6, 0, 0, 0, 0, 0, 0, 0, 0o100666, 1, 0, 0, 0, 4096, 0)
    answers = {
        LOOKUP: struct.pack("=QQQQII", 2, 0, 1000, 1000, 0, 0) + file,
        ACCESS: b"",
        STATFS: bytes(80),
    }
    with open_directory() as top:
        os.mkdir(top + b"/mnt")
        os.mknod(top + b"/fuse", stat.S_IFCHR | 0o666, os.makedev(10, 229))
        os.chmod(top + b"/fuse", 0o666)

        def setup() -> None:
            private_mounts()
            Stuck(top + b"/mnt", NEVER, answers, top + b"/fuse")
            os.chroot(top + b"/mnt")
            os.chdir("/")

        try:
            os.close(os.open(top + b"/fuse", os.O_RDWR))
        except OSError as problem:
            pytest.skip(f"no FUSE here: {problem.strerror}")
        with Performers() as performers, caller(setup, maps="0 100000 65536") as one:
            proc = os.open(f"/proc/{one.tid}", os.O_PATH)
            root = os.open("root", os.O_PATH, dir_fd=proc)
            try:
                with pytest.raises(PermissionError):
                    os.fstat(root)
                assert raw.is_hidden(root)
                assert raw.file_identity(root) == raw.file_identity_at(proc, b"root")
                assert raw.file_identity(root)[1] == 1  # FUSE_ROOT_ID
            finally:
                os.close(root)
                os.close(proc)
            for _ in range(2):  # met, and known
                for path in (b"/file", b"file"):
                    call = one.call("faccessat", AT_FDCWD, path, os.R_OK)
                    assert performers.perform(call) == Answer(0)


def test_what_is_not_hidden_is_known_as_statx_has_it() -> None:
    fd = os.open("/", os.O_PATH)
    try:
        assert not raw.is_hidden(fd)
        status = os.fstat(fd)
        assert raw.file_identity(fd)[:2] == (status.st_dev, status.st_ino)
    finally:
        os.close(fd)

"""mknod, mknodat: errors in the kernel's order, nodes as the kernel would make them."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import proctor
from proctor.call.verdict import Answer, Deny
from proctor.performing.identities import lender
from tests.performing.families.test_open_differential import (
    MAP,
    Pair,
    as_user,
    container_user,
    root_without_capabilities,
)
from tests.performing.support.callers import (
    AT_FDCWD,
    CAP_MKNOD,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_BIND,
    MS_NODEV,
    MS_RDONLY,
    MS_REMOUNT,
    Caller,
    Performers,
    caller,
    capget,
    capset,
    drop_capabilities,
    libc,
    mount,
    open_directory,
    private_mounts,
    snapshot,
    unshare,
)
from tests.performing.support.trees import PATHS

NULL = os.makedev(1, 3)
CHAR, BLOCK, FIFO, SOCK, REG = stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes need the host's root")


@pytest.fixture
def top() -> Iterator[bytes]:
    with open_directory() as path:
        os.chown(path, 100000, 100000)
        yield path


def container(top: bytes, *steps: Any) -> Any:
    """Setup of a container root whose working directory is ``top``."""

    def setup() -> None:
        unshare(CLONE_NEWNS)
        os.chdir(top)
        os.umask(0)
        for step in steps:
            step()

    return setup


def make(
    one: Caller, performers: Performers, path: bytes, mode: int, device: int, **how: Any
) -> Any:
    return performers.perform(one.call("mknodat", AT_FDCWD, path, mode, device), **how)


def node(path: bytes) -> tuple[str, int, int, int]:
    st = os.lstat(path)
    return oct(st.st_mode), st.st_uid, st.st_gid, st.st_rdev


# Against the kernel itself ---------------------------------------------------------------------
CONTAINER_ROOT = (lambda: unshare(CLONE_NEWNS), MAP, 100000)


@pytest.mark.parametrize(
    ("setup", "maps", "owner", "asked"),
    [
        pytest.param(None, None, 0, False, id="root"),
        pytest.param(as_user, None, 1000, False, id="user"),
        pytest.param(container_user, MAP, 100010, True, id="container-user-asked"),
        pytest.param(root_without_capabilities, MAP, 100000, False, id="capless-container"),
        pytest.param(*CONTAINER_ROOT, False, id="container-root"),
        pytest.param(*CONTAINER_ROOT, True, id="container-root-asked"),
    ],
)
def test_is_the_kernels(
    performers: Performers, setup: Any, maps: Any, owner: int, asked: bool
) -> None:
    """Everything the caller can do itself: FIFOs, sockets, files, whiteouts; for the host's root also
    devices.  And every error of the others but the one EPERM that performing is there to remove."""
    how = {"allow": lambda argument, path: True} if asked else {}
    wrong = []
    with open_directory() as first, open_directory() as second:
        pair = Pair(setup, maps, owner, (first, second))
        try:
            for mode, device in ((FIFO | 0o6666, 0), (SOCK | 0o777, 5), (REG | 0o644, 0), (0o600, 7),
                                 (CHAR | 0o666, 0), (CHAR | 0o644, NULL), (BLOCK | 0o660, NULL)):  # fmt: skip
                for path in PATHS:
                    native, performed = pair.both(
                        performers, "mknodat", AT_FDCWD, path, mode, device, **how
                    )
                    beyond = (
                        native == ("errno", errno.EPERM)
                        and device == NULL
                        and performed == ("value", 0)
                    )
                    if native != performed and not beyond:
                        wrong.append((oct(mode), path[:50], native, performed))
                    left = [snapshot(top) for top in pair.tops]
                    if left[0] != left[1] and not beyond:
                        wrong.append(
                            (oct(mode), path[:50], set(left[0].items()) ^ set(left[1].items()))
                        )
                    for top, found in zip(pair.tops, left, strict=True):
                        for made in found.keys() - pair.fresh.keys():
                            os.unlink(os.path.join(top, made))
        finally:
            pair.close()
    assert not wrong, "\n".join(map(str, wrong[:20]))


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFLNK, 0o030000, 0o150000, 0o170000])
def test_impossible_types(performers: Performers, kind: int) -> None:
    with caller(maps=MAP) as one:
        for path in (b"/", b"", b"/missing/x"):
            native = one.natively("mknodat", AT_FDCWD, path, kind | 0o644, 0)
            assert one.performed(performers, "mknodat", AT_FDCWD, path, kind | 0o644, 0) == native


# Device nodes ----------------------------------------------------------------------------------
def test_container_root_makes_devices_that_work(performers: Performers, top: bytes) -> None:
    with caller(container(top), MAP) as one:
        assert one.natively("mknodat", AT_FDCWD, b"null", CHAR | 0o666, NULL) == (
            "errno",
            errno.EPERM,
        )
        assert make(one, performers, b"null", CHAR | 0o666, NULL) == Answer(0)
        assert node(top + b"/null") == (oct(CHAR | 0o666), 100000, 100000, NULL)
        assert one.natively("openat", AT_FDCWD, b"null", os.O_RDWR)[0] == "fd"
        assert make(one, performers, top + b"/loop", BLOCK | 0o640, os.makedev(7, 300)) == Answer(0)
        assert node(top + b"/loop") == (oct(BLOCK | 0o640), 100000, 100000, os.makedev(7, 300))
        assert make(one, performers, b"null", CHAR | 0o666, NULL) == Deny(errno.EEXIST)
        assert one.performed(performers, "openat", AT_FDCWD, b"null", os.O_WRONLY)[0] == "fd"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a call that came before mknodat")
def test_mknod_the_old_call(performers: Performers, top: bytes) -> None:
    with caller(container(top), MAP) as one:
        verdict = performers.perform(one.call("mknod", b"zero", CHAR | 0o600, os.makedev(1, 5)))
        assert verdict == Answer(0)
        assert node(top + b"/zero")[3] == os.makedev(1, 5)


def test_umask_of_the_caller(performers: Performers, top: bytes) -> None:
    with caller(container(top, lambda: os.umask(0o027)), MAP) as one:
        assert make(one, performers, b"null", CHAR | 0o6777, NULL) == Answer(0)
    assert node(top + b"/null")[0] == oct(CHAR | 0o6750)


def test_set_group_id_directory_and_default_acl(performers: Performers, top: bytes) -> None:
    os.mkdir(top + b"/setgid")
    os.chown(top + b"/setgid", 100000, 100007)
    os.chmod(top + b"/setgid", 0o2777)
    os.mkdir(top + b"/acl")
    os.chown(top + b"/acl", 100000, 100000)
    # user::rwx group::r-- mask::rw- other::--- and user 5: as setfacl -d would write it
    entries = [
        (1, 7, 0xFFFFFFFF),
        (2, 6, 100005),
        (4, 4, 0xFFFFFFFF),
        (16, 6, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    ]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(top + b"/acl", "system.posix_acl_default", acl)
    with caller(container(top, lambda: os.umask(0o077)), MAP) as one:
        assert make(one, performers, b"setgid/null", CHAR | 0o666, NULL) == Answer(0)
        assert make(one, performers, b"acl/null", CHAR | 0o666, NULL) == Answer(0)
        assert make(one, performers, b"acl/fifo", FIFO | 0o666, 0) == Answer(0)
    assert node(top + b"/setgid/null")[:3] == (oct(CHAR | 0o600), 100000, 100007)
    # With a default ACL the umask does not count; the mask entry shows as the group's bits.
    assert node(top + b"/acl/null")[0] == oct(CHAR | 0o660)
    assert stat.S_IMODE(os.lstat(top + b"/acl/fifo").st_mode) == 0o660
    assert os.getxattr(top + b"/acl/null", "system.posix_acl_access")


def test_fsids_of_the_caller(performers: Performers, top: bytes) -> None:
    def step() -> None:
        libc.setfsgid(44)
        libc.setfsuid(33)
        full = capget()[1]
        capset(full, full)

    with caller(container(top, step), MAP) as one:
        assert make(one, performers, b"null", CHAR | 0o600, NULL) == Answer(0)
    assert node(top + b"/null")[1:3] == (100033, 100044)


def test_directory_only_the_callers_capability_opens(performers: Performers, top: bytes) -> None:
    """CAP_DAC_OVERRIDE over a mapped owner counts, over an unmapped one it does not."""
    for name, owner in ((b"mapped", 100005), (b"unmapped", 4242)):
        os.mkdir(top + b"/" + name)
        os.chown(top + b"/" + name, owner, owner)
        os.chmod(top + b"/" + name, 0o755)
    with caller(container(top), MAP) as one:
        assert make(one, performers, b"mapped/null", CHAR | 0o600, NULL) == Answer(0)
        assert make(one, performers, b"unmapped/null", CHAR | 0o600, NULL) == Deny(errno.EACCES)
    assert node(top + b"/mapped/null")[1:3] == (100000, 100000)
    assert os.listdir(top + b"/unmapped") == []


@pytest.mark.parametrize("kind", [b"tmpfs", b"ramfs", b"overlay"])
def test_where_no_node_works_one_is_mounted(
    performers: Performers, top: bytes, kind: bytes
) -> None:
    """A file system of a user namespace, as every runtime has for its /dev."""
    known = Path("/proc/filesystems").read_bytes().split()
    if kind not in known and not os.path.exists(f"/lib/modules/{os.uname().release}"):
        pytest.skip(f"no {kind.decode()} in this kernel, nor modules for it")

    def mounted() -> None:
        os.umask(0o022)
        options = b"mode=777" if kind == b"tmpfs" else None
        if kind == b"overlay":
            mount(b"tmpfs", top, b"tmpfs", 0, None)
            for name in (b"/lower", b"/upper", b"/work", b"/merged"):
                os.mkdir(top + name)
            layers = [b"%s=%s/%s" % (key, top, key[:5]) for key in (b"lowerdir", b"upperdir")]
            options = b",".join([*layers, b"workdir=%s/work" % top, b"userxattr"])
            mount(b"overlay", top + b"/merged", b"overlay", 0, options)
            os.chdir(top + b"/merged")
        else:
            mount(kind, top, kind, 0, options)
            os.chdir(top)

    with caller(container(top, mounted), MAP) as one:
        assert make(one, performers, b"null", CHAR | 0o666, NULL) == Answer(0)
        seen = one.natively("openat", AT_FDCWD, b"null", os.O_RDWR)
        assert seen[:4] == ("fd", oct(CHAR | 0o644), 100000, 100000)
        assert seen[5] == NULL
        assert make(one, performers, b"null", CHAR | 0o666, NULL) == Deny(errno.EEXIST)
        assert make(one, performers, b"missing/null", CHAR | 0o666, NULL) == Deny(errno.ENOENT)
        assert make(one, performers, b"loop", BLOCK | 0o600, os.makedev(7, 300)) == Answer(0)
        assert one.natively("unlinkat", AT_FDCWD, b"null", 0) == ("errno", errno.EBUSY)
        assert one.natively("umount2", b"null", 0) == ("value", 0)
        assert one.natively("unlinkat", AT_FDCWD, b"null", 0) == ("value", 0)
        assert make(one, performers, b"fifo", FIFO | 0o600, 0) == Answer(0)
        assert make(one, performers, b"null", CHAR | 0o600, NULL) == Answer(0)


def test_where_none_can_be_mounted_no_file_is_left(performers: Performers, top: bytes) -> None:
    """Mounting wants CAP_SYS_ADMIN of the caller, which CAP_MKNOD is not."""

    def setup() -> None:
        mount(b"tmpfs", top, b"tmpfs", 0, b"mode=777")
        os.chdir(top)
        drop_capabilities(1 << CAP_MKNOD)

    with caller(container(top, setup), MAP) as one:
        assert make(one, performers, b"null", CHAR | 0o600, NULL)[0] == errno.EPERM
        assert one.natively("openat", AT_FDCWD, b"null", os.O_RDONLY) == ("errno", errno.ENOENT)


def test_nodev_and_read_only_mounts(performers: Performers, top: bytes) -> None:
    def mounts() -> None:
        for name, flags in ((b"nodev", MS_NODEV), (b"ro", MS_RDONLY)):
            path = top + b"/" + name
            os.mkdir(path)
            mount(path, path, b"none", MS_BIND)
            mount(path, path, b"none", MS_BIND | MS_REMOUNT | flags)
        with open(top + b"/file", "w"):
            pass

    with caller(container(top, mounts), MAP) as one:
        verdict = make(one, performers, b"nodev/null", CHAR | 0o600, NULL)
        assert verdict.errno == errno.EPERM
        assert "nodev" in verdict.reason
        assert make(one, performers, b"nodev/fifo", FIFO | 0o600, 0) == Answer(0)
        assert make(one, performers, b"ro/null", CHAR | 0o600, NULL) == Deny(errno.EROFS)
        assert make(one, performers, b"ro/.", CHAR | 0o600, NULL) == Deny(errno.EEXIST)
        assert make(one, performers, b"file/null", CHAR | 0o600, NULL) == Deny(errno.ENOTDIR)
        assert make(one, performers, b"ro/x/null", CHAR | 0o600, NULL) == Deny(errno.ENOENT)
    assert os.listdir(top + b"/nodev") == [b"fifo"]


def test_without_cap_mknod(performers: Performers, top: bytes) -> None:
    everything_else = (1 << 41) - 1 & ~(1 << CAP_MKNOD)
    with caller(container(top, lambda: drop_capabilities(everything_else)), MAP) as one:
        verdict = make(one, performers, b"null", CHAR | 0o600, NULL)
        assert verdict.errno == errno.EPERM
        assert "no CAP_MKNOD" in verdict.reason
        assert make(one, performers, b"whiteout", CHAR, 0) == Answer(0)
        assert make(one, performers, b"missing/null", CHAR, NULL) == Deny(errno.ENOENT)
    assert os.listdir(top) == [b"whiteout"]


def test_capability_that_is_only_permitted(performers: Performers, top: bytes) -> None:
    def step() -> None:
        permitted = capget()[1]
        capset(permitted & ~(1 << CAP_MKNOD), permitted)

    with caller(container(top, step), MAP) as one:
        assert make(one, performers, b"null", CHAR, NULL).errno == errno.EPERM
    assert os.listdir(top) == []


def in_a_nested_namespace() -> None:
    libc.prctl(4, 1, 0, 0, 0)  # dumpable: its own /proc is its own again
    pid = os.getpid()
    helper = os.fork()
    if helper == 0:
        # The maps of the new namespace are written by its parent's root, from outside of it.
        while os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user"):
            pass
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write("0 0 60000")
        os._exit(0)
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    os.waitpid(helper, 0)


def test_nested_user_namespaces(top: bytes) -> None:
    """CAP_MKNOD in a user namespace that the target made for itself is not enough by default."""
    with caller(container(top, in_a_nested_namespace), MAP) as inner, caller(maps=MAP) as outer:
        with Performers() as performers:
            verdict = make(inner, performers, b"one", CHAR, NULL)
            assert verdict.errno == errno.EPERM
            assert "of its own making" in verdict.reason
            performers.adopt(outer.pid)
            assert make(inner, performers, b"two", CHAR, NULL).errno == errno.EPERM
            assert make(inner, performers, b"fifo", FIFO | 0o600, 0) == Answer(0)
            performers.adopt(inner.pid)
            assert make(inner, performers, b"three", CHAR | 0o600, NULL) == Answer(0)
        with Performers(nested="allow") as performers:
            assert make(inner, performers, b"four", CHAR | 0o600, NULL) == Answer(0)
    assert sorted(os.listdir(top)) == [b"fifo", b"four", b"three"]
    assert node(top + b"/three")[1:] == (100000, 100000, NULL)


def test_a_user_who_unshares_gets_nothing(performers: Performers) -> None:
    """Directly below the monitor's user namespace, but not made by the monitor's user."""
    with open_directory() as top:
        os.chmod(top, 0o777)

        def setup() -> None:
            as_user()
            os.chdir(top)
            unshare_as_ones_own_root()

        with caller(setup) as one:
            verdict = make(one, performers, b"null", CHAR | 0o600, NULL)
            assert verdict.errno == errno.EPERM
            assert "of its own making" in verdict.reason
            assert make(one, performers, b"fifo", FIFO | 0o600, 0) == Answer(0)
        assert os.listdir(top) == [b"fifo"]
        assert node(top + b"/fifo")[1] == 1000


def unshare_as_ones_own_root() -> None:
    libc.prctl(4, 1, 0, 0, 0)
    unshare(CLONE_NEWUSER)
    with open("/proc/self/setgroups", "w") as file:
        file.write("deny")
    with open("/proc/self/uid_map", "w") as file:
        file.write("0 1000 1")
    with open("/proc/self/gid_map", "w") as file:
        file.write("0 1000 1")


# Paths -----------------------------------------------------------------------------------------
def test_relative_dirfd_thread_chroot_and_bytes(performers: Performers, top: bytes) -> None:
    """Mistakes others made: paths resolved twice, non-leader threads, dirfds, the wrong root."""
    os.makedirs(top + b"/a/b")
    os.makedirs(top + b"/root/dev")
    for path in (b"a", b"a/b", b"root", b"root/dev"):
        os.chown(top + b"/" + path, 100000, 100000)
    name = b"n\xff\n o"

    def chrooted() -> None:
        os.chroot(top + b"/root")
        os.chdir(b"/dev")

    def own_fs() -> None:
        unshare(0x200)  # CLONE_FS: this thread's own cwd and umask
        os.chdir(top + b"/a")
        os.umask(0o007)

    with caller(container(top, lambda: os.dup2(os.open(top + b"/a", os.O_PATH), 777)), MAP) as one:
        assert make(one, performers, b"a/b/null", CHAR | 0o600, NULL) == Answer(0)
        call = one.call("mknodat", 777, b"b/" + name, CHAR | 0o600, NULL)
        assert performers.perform(call) == Answer(0)
        call = one.call("mknodat", 778, b"b/x", CHAR | 0o600, NULL)
        assert performers.perform(call) == Deny(errno.EBADF)
        call = one.call("mknodat", AT_FDCWD, b"/proc/self/fd/777/via-proc", CHAR | 0o600, NULL)
        assert performers.perform(call) == Answer(0)
    with caller(container(top), MAP, in_thread=own_fs) as one:
        assert one.tid != one.pid
        assert make(one, performers, b"b/thread", CHAR | 0o666, NULL) == Answer(0)
        assert make(one, performers, b"/proc/thread-self/cwd/t2", CHAR | 0o666, NULL) == Answer(0)
    with caller(container(top, chrooted), MAP) as one:
        assert make(one, performers, b"one", CHAR | 0o600, NULL) == Answer(0)
        assert make(one, performers, b"/dev/../../../two", CHAR | 0o600, NULL) == Answer(0)
    assert set(os.listdir(top + b"/a/b")) == {b"null", name, b"thread"}
    assert set(os.listdir(top + b"/a")) == {b"b", b"via-proc", b"t2"}
    assert node(top + b"/a/b/thread")[0] == oct(CHAR | 0o660)
    assert os.listdir(top + b"/root/dev") == [b"one"]
    assert set(os.listdir(top + b"/root")) == {b"dev", b"two"}


def test_policy_sees_the_pinned_path(performers: Performers, top: bytes) -> None:
    os.mkdir(top + b"/dir")
    os.chown(top + b"/dir", 100000, 100000)
    os.symlink(b"dir", top + b"/link")
    seen = []

    def allow(argument: str, path: bytes) -> bool:
        seen.append(path)
        return path.endswith(b"good")

    other = proctor.deny(errno.EPERM, "for reasons")

    def explained(argument: str, path: bytes) -> bool | Deny:
        return allow(argument, path) or other

    with caller(container(top), MAP) as one:
        for mode, device in ((CHAR | 0o600, NULL), (FIFO | 0o600, 0)):
            assert make(one, performers, b"link/../link/good", mode, device, allow=allow) == Answer(
                0
            )
            os.unlink(top + b"/dir/good")
            verdict = make(one, performers, b"link/bad", mode, device, allow=allow)
            assert verdict.errno == errno.EACCES
            verdict = make(one, performers, b"link/bad", mode, device, allow=explained)
            assert verdict == other
    assert seen == [top + b"/dir/good", top + b"/dir/bad", top + b"/dir/bad"] * 2
    assert os.listdir(top + b"/dir") == []


def test_privileged_container(performers: Performers, top: bytes) -> None:
    """A root of the host in a mount namespace: its own rights do."""
    with caller(lambda: (private_mounts(), os.chdir(top))) as one:
        assert make(one, performers, b"null", CHAR | 0o600, NULL) == Answer(0)
    assert node(top + b"/null")[1] == 0


def test_idmapped_mount(performers: Performers, top: bytes) -> None:
    """Ids are mapped once, by the kernel, and such a mount is not taken for a container's own."""
    with caller(maps=MAP) as holder:
        path = top + b"/mapped"
        os.mkdir(path)
        if not _idmap(path, holder.pid):
            pytest.skip("this file system has no idmapped mounts")
        try:
            with caller(container(path), MAP) as one:
                assert make(one, performers, b"null", CHAR | 0o600, NULL) == Answer(0)
        finally:
            subprocess.run(["umount", path], check=True)
        assert node(path + b"/null")[1:3] == (0, 0)


def test_the_name_of_a_mount_is_one_word(top: bytes) -> None:
    """Whoever mounts it gives it that: for mangle() of fs/proc_namespace.c a vertical tab is no white space."""
    fd = os.open(top, os.O_RDONLY)
    try:
        for flags, idmapped in ((b"rw,idmapped", True), (b"rw", False)):
            line = b"%d 1 8:1 / /x\x0brw,%s %s shared:1 - ext4 none rw\n" % (
                lender.file_id(fd).mount, b"" if idmapped else b"idmapped", flags,
            )  # fmt: skip
            task: Any = SimpleNamespace(caller=SimpleNamespace(mountinfo=line))
            assert lender._is_idmapped(task, fd) == idmapped
    finally:
        os.close(fd)


def _idmap(path: bytes, pid: int) -> bool:
    tree = libc.syscall(428, AT_FDCWD, path, 1 | os.O_CLOEXEC)  # open_tree, OPEN_TREE_CLONE
    if tree < 0:
        return False
    userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    try:
        attr = struct.pack("=QQQQ", 0x00100000, 0, 0, userns)  # MOUNT_ATTR_IDMAP
        if libc.syscall(442, tree, b"", 0x1000, attr, ctypes.c_size_t(len(attr))) != 0:
            return False
        return libc.syscall(429, tree, b"", AT_FDCWD, path, 4) == 0  # move_mount
    finally:
        os.close(userns)
        os.close(tree)

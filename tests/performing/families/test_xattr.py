"""Extended attributes: what the host's root alone may set is performed, all else is the kernel's."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
from typing import Any

import pytest

import proctor
from proctor.call.verdict import Answer, Deny, LetRun
from proctor.performing import newer
from proctor.performing.families.xattr import Options
from tests.performing.families.test_open_differential import MAP
from tests.performing.support.callers import (
    AT_FDCWD,
    MS_BIND,
    MS_RDONLY,
    MS_REMOUNT,
    Performers,
    caller,
    drop_capabilities,
    mount,
    open_directory,
    wants_user_attributes,
)
from tests.performing.support.containers import PRELUDE, PYTHON, container, inside, told

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="trusted attributes need the host's root")

OPAQUE = b"trusted.overlay.opaque"


def tree(place: bytes) -> None:
    os.mkdir(place + b"/dir")
    os.close(os.open(place + b"/file", os.O_CREAT))
    os.symlink("file", place + b"/link")


def as_the_hosts_root(program: str) -> list[Any]:
    """What that is told of such a tree."""
    with open_directory() as place:
        tree(place)
        argv = [PYTHON, "-ISc", f"{PRELUDE}\n{program}\nprint(json.dumps(results))", place]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    results: list[Any] = json.loads(done.stdout)
    return results


@pytest.fixture
def top(place: bytes) -> bytes:
    tree(place)
    for name in (b"dir", b"file", b"link"):
        os.chown(place + b"/" + name, 100000, 100000, follow_symlinks=False)
    return place


EVERY_FORM = """
os.chdir(sys.argv[1])
NAME = "trusted.overlay.opaque"
tried(os.setxattr, "dir", NAME, b"y")
tried(os.getxattr, "dir", NAME)
tried(os.setxattr, "dir", NAME, b"n", os.XATTR_CREATE)
tried(os.setxattr, "dir", "trusted.overlay.redirect", b"/x", os.XATTR_REPLACE)
tried(os.setxattr, "link", NAME, b"link's", follow_symlinks=False)
tried(os.getxattr, "link", NAME)
tried(os.getxattr, "link", NAME, follow_symlinks=False)
fd = os.open("file", os.O_RDONLY)
tried(os.setxattr, fd, NAME, b"z" * 300)
tried(lambda: len(os.getxattr(fd, NAME)))
tried(os.listxattr, "file")
tried(os.removexattr, fd, NAME)
tried(os.removexattr, "file", NAME)
tried(os.listxattr, fd)
path = os.open("file", os.O_PATH)
tried(os.setxattr, path, NAME, b"y")
tried(os.setxattr, f"/proc/self/fd/{path}", NAME, b"by proc")
tried(os.setxattr, "missing", NAME, b"y")
tried(os.setxattr, 999, NAME, b"y")
tried(os.setxattr, "dir", "trusted.other", b"y")
tried(os.getxattr, "dir", "trusted.other")
tried(os.setxattr, "dir", "user.own", b"mine")
tried(os.getxattr, "dir", "user.own")
tried(lambda: sorted(os.listxattr("dir")))
tried(os.setxattr, "dir", NAME, b"")
tried(os.getxattr, "dir", NAME)
"""


def test_every_form_as_if_it_had_the_right(top: bytes) -> None:
    wants_user_attributes(top)
    results = told(EVERY_FORM, top.decode(), handlers=[proctor.families.xattr()])
    assert results == [
        None, b"y".hex(), "EEXIST", "ENODATA", None, "ENODATA", b"link's".hex(), None, 300,
        ["trusted.overlay.opaque"], None, "ENODATA", [], "EBADF", None, "ENOENT", "EBADF", "EPERM",
        "ENODATA", None, b"mine".hex(), ["trusted.overlay.opaque", "user.own"], None, "",
    ]  # fmt: skip
    assert os.getxattr(top + b"/file", OPAQUE) == b"by proc"
    assert os.getxattr(top + b"/link", OPAQUE, follow_symlinks=False) == b"link's"


def test_it_is_what_the_hosts_root_is_told(top: bytes) -> None:
    """But for attributes that are not performed."""
    theirs = told(EVERY_FORM, top.decode(), handlers=[proctor.families.xattr()])
    ours = as_the_hosts_root(EVERY_FORM.replace('"trusted.other"', '"trusted.overlay.other"'))
    at = theirs.index("EPERM")
    assert ours[at : at + 2] == [None, b"y".hex()]
    assert theirs[:at] == ours[:at]


LISTS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
for number in range(3):
    os.setxattr("file", f"trusted.overlay.x{number}", b"1")
os.setxattr("link", "trusted.overlay.opaque", b"y", follow_symlinks=False)
os.setxattr("file", "user.own", b"")
room = ctypes.create_string_buffer(1 << 17)
def listed(name, path, size, where=room):
    ctypes.set_errno(0)
    ctypes.memset(room, 0xFF, 200)
    made = getattr(libc, name)(path, where, ctypes.c_size_t(size))
    results.append([name, path.decode(), size, made, ctypes.get_errno(), room.raw[:200].partition(b"\\xff")[0].decode()])
for name in ("listxattr", "llistxattr"):
    for path in (b"file", b"dir", b"link", b"missing", b"file/", b"dir/../file", b"", b"/proc/self/cwd/file", b"x" * 300):
        for size in (0, 1, 40, 80, 81, 82, 200, 65535, 65536, 65537, 1 << 40):
            listed(name, path, size)
    listed(name, b"file", 200, None)
    listed(name, b"file", 200, ctypes.c_void_p(8))
"""


def test_lists_are_what_the_hosts_root_is_told(top: bytes) -> None:
    """Of whatever size, by whatever path, short ways and long ones."""
    wants_user_attributes(top)
    theirs = told(LISTS, top.decode(), handlers=[proctor.families.xattr()])
    assert theirs == as_the_hosts_root(LISTS)
    assert [made for *_, made, _, _ in theirs].count(-1) > 20


def test_what_others_own_is_listed_as_the_kernel_lists_it(top: bytes) -> None:
    os.chown(top + b"/file", 0, 0)
    os.setxattr(top + b"/file", "trusted.overlay.x", b"1")
    program = "os.chdir(sys.argv[1])\nfor _ in range(3):\n    tried(os.listxattr, 'file')"
    assert told(program, top.decode(), handlers=[proctor.families.xattr()]) == [[], [], []]


def test_without_a_handler_it_is_refused(top: bytes) -> None:
    program = 'tried(os.setxattr, sys.argv[1], "trusted.overlay.opaque", b"y")'
    assert told(program, top.decode()) == ["EPERM"]


def test_capabilities_are_the_containers(top: bytes) -> None:
    """The kernel marks them with the container's root itself: nothing to perform."""
    value = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    program = f"tried(os.setxattr, sys.argv[1] + '/file', 'security.capability', {value!r})"
    assert told(program, top.decode(), handlers=[proctor.families.xattr()]) == [None]
    stored = os.getxattr(top + b"/file", "security.capability")
    assert struct.unpack("<6I", stored) == (0x03000001, 1 << 10, 0, 0, 0, 100000)


APART = """
os.chdir(sys.argv[1])
tried(os.listxattr, "shared")
tried(os.getxattr, "shared", "trusted.backup.id")
tried(os.setxattr, "shared", "trusted.backup.id", sys.argv[2].encode())
tried(os.getxattr, "shared", "trusted.backup.id")
tried(os.listxattr, "shared")
for name in ("trusted.proctor.100000.backup.id", "trusted.proctor.200000.backup.id"):
    tried(os.getxattr, "shared", name)
    tried(os.setxattr, "shared", name, b"forged")
tried(os.setxattr, "shared", "trusted.backup." + "n" * 230, b"")
"""


def test_kept_apart(top: bytes) -> None:
    """Two containers that both own a directory see each only its own."""
    handlers = [proctor.families.xattr(names=["trusted.*"], apart=["trusted.*"])]
    only_apart = [proctor.families.xattr(names=[], apart=["trusted.backup.*"])]
    os.mkdir(top + b"/shared")
    for first, word in ((100000, "one"), (200000, "two")):
        os.chown(top + b"/shared", first, first)
        got = told(APART, top.decode(), word, handlers=only_apart, first=first)
        assert got == [
            [], "ENODATA", None, word.encode().hex(), ["trusted.backup.id"],
            "ENODATA", "EPERM", "ENODATA", "EPERM", "ERANGE",
        ]  # fmt: skip
    stored = {name: os.getxattr(top + b"/shared", name) for name in os.listxattr(top + b"/shared")}
    assert stored == {
        "trusted.proctor.100000.backup.id": b"one",
        "trusted.proctor.200000.backup.id": b"two",
    }
    # Also where every name is the host's: those that are kept apart are nobody's to spell.
    got = told(APART, top.decode(), "x", handlers=handlers, first=200000)
    assert got[:2] == [[], "ENODATA"]
    assert got[5:9] == ["ENODATA", None, "ENODATA", None]
    assert os.getxattr(top + b"/shared", "trusted.proctor.100000.backup.id") == b"one"


def test_what_is_not_the_containers_own(performers: Performers, top: bytes) -> None:
    """Files of the host, or half of it, stay as they are, whoever may reach them."""
    for name, uid, gid in ((b"host", 0, 0), (b"half", 100000, 0), (b"other", 0, 100000)):
        os.mkdir(top + b"/" + name)
        os.chown(top + b"/" + name, uid, gid)
        os.setxattr(top + b"/" + name, OPAQUE, b"host's")
        with caller(container(top), MAP) as one:
            verdict = performers.perform(one.call("setxattr", name, OPAQUE, b"y", 1, 0))
            assert isinstance(verdict, Deny) and verdict.errno == errno.EPERM
            assert "no number" in verdict.reason
            verdict = performers.perform(one.call("removexattr", name, OPAQUE))
            assert verdict[0] == errno.EPERM
            call = one.call("getxattr", name, OPAQUE, 4 << 20, 100)
            assert performers.perform(call)[0] == errno.ENODATA
            assert performers.perform(one.call("listxattr", name, 0, 0)) == Answer(0)
        assert os.getxattr(top + b"/" + name, OPAQUE) == b"host's"


def test_who_may_not(performers: Performers, top: bytes) -> None:
    def powerless() -> None:
        drop_capabilities(((1 << 41) - 1) & ~(1 << 21))

    with caller(container(top, powerless), MAP) as one:
        verdict = performers.perform(one.call("setxattr", b"dir", OPAQUE, b"y", 1, 0))
        assert isinstance(verdict, Deny) and verdict.errno == errno.EPERM
        assert "CAP_SYS_ADMIN" in verdict.reason
    with caller(container(top)) as one:  # the host's root, in its own namespaces but one
        verdict = performers.perform(one.call("setxattr", b"dir", OPAQUE, b"y", 1, 0))
        assert isinstance(verdict, LetRun)
        allowed = performers.perform(
            one.call("setxattr", b"dir", OPAQUE, b"y", 1, 0), allow=lambda argument, path: True
        )
        assert allowed == Answer(0)
    assert os.getxattr(top + b"/dir", OPAQUE) == b"y"


def test_errors_in_the_kernels_order(performers: Performers, top: bytes) -> None:
    def read_only() -> None:
        mount(top, top, b"none", MS_BIND)
        mount(top, top, b"none", MS_BIND | MS_REMOUNT | MS_RDONLY)
        os.chdir(top)

    with caller(container(top, read_only), MAP) as one:
        for args, number in (
            ((b"dir", OPAQUE, b"y", 1, 0), errno.EROFS),
            ((b"dir", OPAQUE, b"y", 1, 8), errno.EINVAL),
            ((b"dir", b"", b"y", 1, 0), errno.ERANGE),
            ((b"dir", b"trusted.overlay." + b"x" * 240, b"y", 1, 0), errno.ERANGE),
            ((b"missing", OPAQUE, b"y", 1 << 17, 0), errno.E2BIG),
            ((b"missing", OPAQUE, b"y", 1, 0), errno.ENOENT),
            ((b"file/x", OPAQUE, b"y", 1, 0), errno.ENOTDIR),
            ((b"", OPAQUE, b"y", 1, 0), errno.ENOENT),
        ):
            assert one.performed(performers, "setxattr", *args) == ("errno", number), args


def test_rules_about_paths_hold_for_every_attribute(performers: Performers, top: bytes) -> None:
    seen: list[bytes] = []
    wants_user_attributes(top)

    def allow(argument: str, path: bytes) -> bool:
        seen.append(path)
        return path.endswith(b"/dir")

    with caller(container(top), MAP) as one:
        for name in (OPAQUE, b"user.x"):
            good = one.call("setxattr", b"dir/../dir", name, b"y", 1, 0)
            assert performers.perform(good, allow) == Answer(0)
            bad = one.call("setxattr", b"link", name, b"y", 1, 0)
            assert performers.perform(bad, allow)[0] == errno.EACCES
    assert seen == [top + b"/dir", top + b"/file"] * 2
    assert sorted(os.listxattr(top + b"/dir")) == ["trusted.overlay.opaque", "user.x"]
    assert os.listxattr(top + b"/file") == []


def test_sizes(performers: Performers, top: bytes) -> None:
    os.setxattr(top + b"/file", OPAQUE, b"0123456789")
    with caller(container(top), MAP) as one:
        for size, expected in (
            (0, Answer(10)), (4, Deny(errno.ERANGE)), (10, Answer(10, "", ((4 << 20, b"0123456789"),))),
            (1 << 30, Answer(10, "", ((4 << 20, b"0123456789"),))),
        ):  # fmt: skip
            assert (
                performers.perform(one.call("getxattr", b"file", OPAQUE, 4 << 20, size)) == expected
            )
        listed = OPAQUE + b"\0"
        for size, expected in (
            (0, Answer(23)), (22, Deny(errno.ERANGE)), (23, Answer(23, "", ((2 << 20, listed),))),
        ):  # fmt: skip
            assert performers.perform(one.call("listxattr", b"file", 2 << 20, size)) == expected


NAMES = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
os.chdir(sys.argv[1])
place = libc.mmap(None, 0x5000, 3, 0x22, -1, 0)
end = place + 0x4000
libc.munmap(end, 0x1000)
for length, ended in [(n, True) for n in (255, 256, 4090, 4096, 16000)] + [(n, False) for n in (9, 255, 256, 4097)]:
    name = (b"trusted." + b"n" * length)[:length] + bytes(ended)
    at = ctypes.c_void_p(end - len(name))
    ctypes.memmove(at, name, len(name))
    for made in (lambda: libc.setxattr(b"file", at, b"x", 1, 0), lambda: libc.removexattr(b"file", at)):
        ctypes.set_errno(0)
        print(length, ended, errno.errorcode.get(ctypes.get_errno()) if made() else "done")
"""


def test_a_name_is_read_as_far_as_the_kernel_reads_one(top: bytes) -> None:
    """``import_xattr_name`` of fs/xattr.c: 256 bytes, whatever is behind them."""
    found = []
    short = proctor.Handler(["setxattr", "removexattr"], lambda call: proctor.perform())
    for handlers in ([], [short], [proctor.families.xattr(names=["trusted.*"])]):
        done = proctor.run(
            [PYTHON, "-c", NAMES, top], handlers, capture_output=True, text=True, timeout=60
        )
        found.append(done.stdout.splitlines())
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 18 and "256 False ERANGE" in found[0]


@pytest.mark.skipif(newer.lacks("setxattrat"), reason="the kernel has no setxattrat (Linux 6.13)")
def test_the_calls_with_a_directory(performers: Performers, top: bytes) -> None:
    """setxattrat and the like, since Linux 6.13: the structure has a pointer in it."""
    args = struct.pack("=QII", 3 << 20, 1, 0)
    with caller(container(top, lambda: os.dup2(os.open(top, os.O_RDONLY), 77)), MAP) as one:
        call = one.call("setxattrat", 77, b"dir", b"y", OPAQUE, args, 16)
        call._notification = call._notification._replace(
            args=(77, 2 << 20, 0, 4 << 20, 5 << 20, 16)
        )
        assert performers.perform(call) == Answer(0)
        for flags, number in ((0x8000, errno.EINVAL), (0, errno.EINVAL)):
            call = one.call("setxattrat", 77, b"dir", flags, OPAQUE, args, 16 if flags else 8)
            assert performers.perform(call)[0] == number
        for at_flags, path, expected in (
            (0, b"link", errno.ENODATA), (0x100, b"link", errno.ENODATA), (0x1000, b"", 0),
        ):  # fmt: skip
            call = one.call("listxattrat", 77, path, at_flags, 5 << 20, 100)
            assert performers.perform(call) == Answer(0), (path, expected)
        assert performers.perform(one.call("removexattrat", 77, b"dir", 0, OPAQUE)) == Answer(0)
        assert (
            performers.perform(one.call("removexattrat", AT_FDCWD, b"dir", 0, OPAQUE))[0]
            == errno.ENODATA
        )


def test_tar_of_an_image_layer(top: bytes) -> None:
    """Opaque marks, whiteouts, capabilities and a device, made and unpacked as a layer is."""
    with open_directory() as made:
        os.makedirs(made + b"/layer/etc")
        os.setxattr(made + b"/layer/etc", OPAQUE, b"y")
        os.mknod(made + b"/layer/gone", 0o20000)
        with open(made + b"/layer/ping", "w") as file:
            file.write("#!/bin/true")
        capability = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
        os.setxattr(made + b"/layer/ping", "security.capability", capability)
        archive = made + b"/layer.tar"
        subprocess.run(
            ["tar", "--xattrs", "--xattrs-include=*", "-cf", archive, "-C", made, "layer"],
            check=True,
        )
        done = inside(
            ["tar", "--xattrs", "--xattrs-include=*", "-xpf", archive, "-C", top],
            [proctor.families.xattr(), proctor.families.mknod()],
        )
        assert (done.returncode, done.stderr) == (0, "")
    layer = top + b"/layer"
    assert os.getxattr(layer + b"/etc", OPAQUE) == b"y"
    assert os.lstat(layer + b"/gone").st_rdev == 0
    stored = struct.unpack("<6I", os.getxattr(layer + b"/ping", "security.capability"))
    assert stored == (0x03000001, 1 << 13, 0, 0, 0, 100000)
    assert os.lstat(layer + b"/etc").st_uid == 100000


def test_options_say_what_is_wrong() -> None:
    for wrong in (
        {"names": "trusted.x"},
        {"names": ["user.x"]},
        {"apart": ["trusted.*.x"]},
        {"apart": [1]},
    ):
        with pytest.raises(ValueError, match=r"names|apart"):
            Options(**wrong)  # type: ignore[arg-type]
    with pytest.raises(proctor.PolicyError, match="names has"):
        proctor.families.xattr(names=["user.x"])

"""The fake tree: used like a dictionary, walked like a file system."""

from __future__ import annotations

import errno
import stat

import pytest

import proctor
from proctor.call.path.files import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS
from proctor.call.path.located import Located
from proctor.testing import AT_FDCWD, FakeTarget, Node, Tree

FILES = {
    "/etc/passwd": "root:x:0:0",
    "/etc/alias": Node.symlink("passwd"),
    "/abs": Node.symlink("/etc/"),
    "/loop": Node.symlink("loop"),
    "/jail/etc/passwd": b"jailed",
    "/jail/out": Node.symlink("/etc/passwd"),
    "/jail/up": Node.symlink("../../../etc/passwd"),
    "/dev/null": Node.device("c", 1, 3),
}


def where(target: FakeTarget, path: str, **named: object) -> Located:
    return target.call("openat", AT_FDCWD, path, **named).resolve()


def test_a_tree_is_a_dictionary() -> None:
    tree = Tree(FILES)
    assert tree["/etc/passwd"].content == b"root:x:0:0"
    assert "/etc" in tree and "/usr" not in tree and 5 not in tree
    tree["/usr"] = None
    tree["/etc"] = Node.directory(0o700)  # what is in it stays
    assert tree["/etc/passwd"].content and tree["/etc"].mode & 0o777 == 0o700
    del tree["/jail"]
    assert list(tree) == [
        "/", "/abs", "/dev", "/dev/null", "/etc", "/etc/alias", "/etc/passwd", "/loop", "/usr",
    ]  # fmt: skip
    with pytest.raises(KeyError):
        assert tree["/jail"]
    for wrong in ("etc", "/etc/../usr", "/."):
        with pytest.raises(ValueError, match="absolute"):
            tree[wrong] = b""
    with pytest.raises(ValueError, match="removed"):
        del tree["/"]
    with pytest.raises(OSError):
        tree["/etc/passwd/x"] = b""
    tree["/"] = Node.directory(0o711)
    assert tree["/etc/passwd"].above()[-1].mode == 0o40711
    with pytest.raises(ValueError):
        Node.device("x", 1, 1)


def test_names_are_bytes() -> None:
    """Also where the platform's own names are text."""
    with FakeTarget({"/tmp": None}) as target:
        target.files[b"/tmp/\xff\n"] = b"strange"
        assert list(target.files) == ["/", "/tmp", "/tmp/\udcff\n"]
        assert target.files["/tmp/\udcff\n"].content == b"strange"
        call = target.call("openat", AT_FDCWD, b"/tmp/\xff\n")
        found = call.resolve()
        assert found.path == b"/tmp/\xff\n" and repr(found).startswith("<Located b'/tmp")
        assert "\\377" in call.describe() and repr(call)
        assert target.run(lambda call: None, call, describe=True).text


def test_paths_lead_where_they_lead() -> None:
    with FakeTarget(FILES, cwd="/etc") as target:
        assert where(target, "alias").path == b"/etc/passwd"
        assert where(target, "alias", flags=0o400000).path == b"/etc/alias"  # O_NOFOLLOW
        assert where(target, "/abs/new").path == b"/etc/new"
        assert not where(target, "/abs/new").exists
        assert where(target, "/abs").path == b"/etc"
        assert where(target, "../../..").path == b"/"
        assert where(target, "../../..").path == b"/"
        for path, number in (
            ("/loop", errno.ELOOP),
            ("/none/x", errno.ENOENT),
            ("passwd/x", errno.ENOTDIR),
            ("passwd/", errno.ENOTDIR),
            ("x" * 256, errno.ENAMETOOLONG),
            ("", errno.ENOENT),
        ):
            with pytest.raises(OSError) as refused:
                where(target, path)
            assert refused.value.errno == number, path


def test_status_is_the_nodes() -> None:
    with FakeTarget(FILES) as target:
        found = where(target, "/dev/null").stat
        assert found is not None
        assert stat.S_ISCHR(found.st_mode)
        size = where(target, "/etc/passwd").stat
        assert size is not None and size.st_size == 10


def test_a_caller_with_another_root() -> None:
    with FakeTarget(FILES, root="/jail", cwd="/jail/etc") as target:
        assert where(target, "/out").path == b"/etc/passwd"
        found = where(target, "/up").stat
        assert found is not None and found.st_size == len(b"jailed")
        assert where(target, "..").path == b"/"
        target.chdir("/etc")
        outside = where(target, "passwd")
        assert outside.path == b"(unreachable)/etc/passwd"
        assert not outside.reachable
        target.chroot("/")
        assert where(target, "passwd").path == b"/etc/passwd"


def test_descriptors_and_empty_paths() -> None:
    with FakeTarget(FILES) as target:
        jail, file = target.open("/jail"), target.open("/etc/passwd")
        assert target.call("openat", jail, "etc").resolve().path == b"/jail/etc"
        for fd, number in ((file, errno.ENOTDIR), (50, errno.EBADF), (-5, errno.EBADF)):
            with pytest.raises(OSError) as refused:
                target.call("openat", fd, "etc").resolve()
            assert refused.value.errno == number
        itself = target.call("fchownat", file, "", 1, 1, 0x1000).resolve()
        assert (itself.path, itself.name) == (b"/etc/passwd", b"")


def test_openat2_keeps_its_promises() -> None:
    with FakeTarget(FILES) as target:
        jail = target.open("/jail")

        def path(name: str, bits: int) -> bytes | int:
            how = (0, 0, bits)
            try:
                return target.call("openat2", jail, name, how).resolve().path
            except OSError as error:
                return error.errno or 0

        assert path("out", RESOLVE_IN_ROOT) == b"/jail/etc/passwd"
        assert path("../..", RESOLVE_IN_ROOT) == b"/jail"
        assert path("out", RESOLVE_BENEATH) == errno.EXDEV
        assert path("..", RESOLVE_BENEATH) == errno.EXDEV
        assert path("out", RESOLVE_NO_SYMLINKS) == errno.ELOOP


def test_looking_at_a_place_is_looking() -> None:
    with FakeTarget(FILES, cwd="/etc") as target:
        call = target.call("getpid")
        assert not call.memory_read
        call.caller.cwd()
        assert call.memory_read


def test_a_directory_that_gets_another_mode_is_the_same() -> None:
    with FakeTarget(FILES, cwd="/etc") as target:
        target.files["/etc"] = Node.directory(0o700, uid=5)
        target.files["/"] = Node.directory(0o711)
        found = where(target, ".")
        assert found.path == b"/etc" and found.stat is not None
        assert (found.stat.st_mode, found.stat.st_uid) == (0o40700, 5)
        assert where(target, "passwd").exists and where(target, "/etc/passwd").exists


def test_what_is_open_outlives_its_name() -> None:
    with FakeTarget({"/tmp/d": None, "/tmp/f": b"here"}, cwd="/tmp/d") as target:
        number = target.open("/tmp/f")
        del target.files["/tmp/d"], target.files["/tmp/f"]
        assert where(target, ".").path == b"(unreachable)/tmp/d (deleted)"
        assert where(target, "..").path == b"/tmp"
        assert target.read(number) == b"here"
        call = target.call("fchownat", number, "", 1, 1, 0x1000)
        assert call.resolve().path == b"(unreachable)/tmp/f (deleted)"


def test_a_tree_may_change_meanwhile() -> None:
    with FakeTarget(FILES) as target:
        target.files["/l"] = Node.symlink("/etc/passwd")
        assert where(target, "/l").path == b"/etc/passwd"
        target.files["/l"] = Node.symlink("/dev/null")
        assert where(target, "/l").path == b"/dev/null"
        target.memory.on_read = lambda _: target.die()
        with pytest.raises(proctor.CallGone):
            where(target, "/l")

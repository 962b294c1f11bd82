"""Where a path leads: against the kernel's own walk for the same process."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctor.call.caller import Caller
from proctor.call.path import resolve as paths
from proctor.call.path.files import AT_FDCWD, RESOLVE_IN_ROOT
from proctor.call.path.located import Located
from proctor.call.path.procfs import name_of
from proctor.call.path.quick import where
from proctor.errors import NotPermitted, NotResolved
from proctor.kernel.raw import openat2
from tests.call.live import chroot, nr
from tests.support.harness import Actor
from tests.support.lab import Lab

pytestmark = pytest.mark.usefixtures("both_ways")


O_PATH, O_NOFOLLOW, O_DIRECTORY = 0o10000000, 0o400000, 0o200000


class Place:
    """A victim in a directory tree of its own, and what we think of its paths."""

    def __init__(self, lab: Lab, top: Path, *, jail: bool = True) -> None:
        self.actor: Actor = lab.victim()
        self.top = top
        self.jailed = False
        if jail:
            self.enter(b"chroot", os.fsencode(top))
            self.enter(b"chdir", b"/")
            self.jailed = True

    def enter(self, how: bytes, path: bytes) -> None:
        if how == b"chroot":
            chroot(self.actor, path)
        else:
            self.actor.must(nr(how.decode()), self.actor.string(path))

    def kernel(
        self, path: bytes, flags: int = O_PATH, dirfd: int = AT_FDCWD, resolve: int = 0
    ) -> int:
        """The victim's own openat or openat2: a descriptor of ours, or minus the errno."""
        text = self.actor.string(path)
        if not resolve:
            value, number = self.actor.call(nr("openat"), dirfd, text, flags)
        else:
            how = self.actor.place(struct.pack("<3Q", flags, 0, resolve))
            for _ in range(100):
                value, number = self.actor.call(437, dirfd, text, how, 24)
                if value >= 0 or number != errno.EAGAIN:
                    break  # EAGAIN: somebody on this machine renamed something meanwhile
        if value < 0:
            return -number
        try:
            return self.actor.take(value)
        finally:
            self.actor.must("close", value)

    def ours(self, path: bytes, dirfd: int = AT_FDCWD, **how: object) -> Located:
        caller = Caller(self.actor.tid, None)
        try:
            return caller.locate(path, dirfd, **how)  # type: ignore[arg-type]
        finally:
            caller.close()

    def named(self, path: bytes, dirfd: int, follow: bool) -> bytes | int | None:
        """By the actor's number, nothing held."""
        return where(self.actor.tid, path, dirfd, follow, False, -1, 0)[1]

    def same(
        self, path: bytes, dirfd: int = AT_FDCWD, follow: bool = True, resolve: int = 0
    ) -> Located | None:
        """Compare; what was found, None if both failed."""
        theirs = self.kernel(path, O_PATH | (0 if follow else O_NOFOLLOW), dirfd, resolve)
        try:
            located = self.ours(path, dirfd, follow=follow, resolve=resolve)
        except OSError as error:
            assert theirs == -error.errno, (path, theirs, error)
            assert resolve or self.named(path, dirfd, follow) in (None, error.errno), path
            return None
        with located:
            if not resolve:
                assert self.named(path, dirfd, follow) in (located.path, None), (path, located)
            if theirs < 0:
                assert theirs == -errno.ENOENT and not located.exists, (path, theirs, located)
                return None
            try:
                assert located.stat is not None, (path, located)
                want = os.fstat(theirs)
                assert os.path.samestat(want, located.stat), (path, located)
                assert os.path.samestat(want, os.fstat(located.pin)), (path, located)
                assert located.parent == -1, (path, located)
                if located.reachable:
                    assert not any(part in (b".", b"..") for part in located.path.split(b"/"))
                    again = self.kernel(located.path, O_PATH | O_NOFOLLOW)
                    assert again >= 0, (path, located)
                    assert os.path.samestat(want, os.fstat(again)), (path, located)
                    os.close(again)
            finally:
                os.close(theirs)
        return located


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small world: a/b/c, files, links of every kind."""
    top = tmp_path / "jail"
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/file").write_text("x")
    (top / "outside").symlink_to("../../../../../../a")
    (top / "a/up").symlink_to("..")
    (top / "a/rel").symlink_to("b/c")
    (top / "a/abs").symlink_to("/a/b")
    (top / "a/slash").symlink_to("b/")
    (top / "a/fileslash").symlink_to("file/")
    (top / "a/dangling").symlink_to("nowhere/at/all")
    (top / "a/new").symlink_to("b/new")
    (top / "loop").symlink_to("loop")
    (top / "ping").symlink_to("pong")
    (top / "pong").symlink_to("ping")
    os.mkdir(os.fsencode(top) + b"/\xff\xfe\n")
    os.symlink(b"\xff\xfe\n", os.fsencode(top) + b"/latin")
    return top


PATHS = [
    b"/", b"//", b"/.", b"/..", b"/../..", b".", b"..", b"./", b"a", b"/a", b"a/", b"a//b", b"a/./b",
    b"a/b/..", b"a/b/../", b"a/b/../../..", b"../../a/file", b"a/file", b"a/file/", b"a/file/.",
    b"a/file/..", b"a/file/x", b"outside", b"outside/file", b"/outside/../a", b"a/up", b"a/up/a",
    b"a/up/up", b"a/rel", b"a/rel/..", b"a/rel/../c", b"a/abs", b"a/abs/c", b"a/slash", b"a/slash/c",
    b"a/fileslash", b"a/dangling", b"a/dangling/", b"a/new", b"a/new/", b"missing", b"missing/",
    b"missing/x", b"a/b/missing", b"a/missing/..", b"loop", b"loop/", b"ping", b"pong/x",
    b"\xff\xfe\n", b"latin", b"latin/..", b"latin/x", b"x" * 255, b"x" * 256, b"x/" * 2047 + b"x",
    b"./" * 2047 + b"a", b"/" * 4095, b"a" + b"/" * 4094, b"x" * 4096,
]  # fmt: skip


@pytest.mark.parametrize("follow", [True, False])
def test_every_kind_of_path_in_a_chroot(lab: Lab, tree: Path, follow: bool) -> None:
    place = Place(lab, tree)
    place.enter(b"chdir", b"/")
    found = {path: place.same(path, follow=follow) for path in PATHS}
    assert found[b"a/b/../../.."] is not None and found[b"a/b/../../.."].path == b"/"
    assert found[b"../../a/file"] is not None and found[b"../../a/file"].path == b"/a/file"
    assert found[b"loop/"] is None
    outside = found[b"outside"]
    assert outside is not None and outside.path == (b"/a" if follow else b"/outside")
    latin = found[b"latin"]
    assert latin is not None and latin.path == (b"/\xff\xfe\n" if follow else b"/latin")


def test_the_same_without_a_chroot(lab: Lab, tree: Path) -> None:
    place = Place(lab, tree, jail=False)
    place.enter(b"chdir", os.fsencode(tree))
    for path in PATHS:
        place.same(path)
        place.same(path, follow=False)
    located = place.same(b"a/b")
    assert located is not None and located.path == os.fsencode(tree.resolve()) + b"/a/b"
    place.same(b"/etc/mtab")
    place.same(b"/proc/1/status")


def test_a_missing_last_component_is_a_place(lab: Lab, tree: Path) -> None:
    place = Place(lab, tree)
    for path, parent, name, seen in (
        (b"a/b/fresh", b"/a/b", b"fresh", b"/a/b/fresh"),
        (b"a/new", b"/a/b", b"new", b"/a/b/new"),
        (b"a/b/fresh/", b"/a/b", b"fresh", b"/a/b/fresh"),
        (b"/fresh", b"/", b"fresh", b"/fresh"),
    ):
        with place.ours(path) as located:
            assert (located.name, located.path, located.exists) == (name, seen, False)
            assert located.must_be_directory == path.endswith(b"/")
            directory = os.stat(os.fsencode(tree) + parent)
            assert os.path.samestat(os.fstat(located.parent), directory)
            os.mkdir(located.name, dir_fd=located.parent)  # monitor and caller mean the same place
            assert place.same(path) is not None
            os.rmdir(located.name, dir_fd=located.parent)
    for path in (b"a/dangling", b"a/missing/..", b"missing/x", b""):
        with pytest.raises(NotResolved) as refused:
            place.ours(path)
        assert refused.value.errno == errno.ENOENT


def test_dirfds(lab: Lab, tree: Path) -> None:
    place = Place(lab, tree)
    actor = place.actor
    directory = actor.must("openat", AT_FDCWD, actor.string(b"a/b"), O_DIRECTORY)
    file = actor.must("openat", AT_FDCWD, actor.string(b"a/file"), 0)
    for path in (b"c", b"..", b"../file", b"../../..", b".", b"/a", b"missing"):
        place.same(path, directory)
    named = {path: place.named(path, directory, True) for path in (b"c", b"/a/rel", b"../missing")}
    assert named == {b"c": b"/a/b/c", b"/a/rel": b"/a/b/c", b"../missing": b"/a/missing"}
    for path in (b"none/x", b"/a/b/none/x/y/z", b"../none//x", b"/a/rel/none//x"):
        assert place.named(path, directory, True) == errno.ENOENT
    # Not for everybody, or not for long: these are walked.
    actor.must(
        nr("symlinkat"), actor.string(b"/proc/self/none"), AT_FDCWD, actor.string(b"/a/proc")
    )
    for path in (b"/a/proc/x", b"/a/file/none/x", b"none/x/../y", b"none/./x", b"n/" * 20 + b"x"):
        assert place.named(path, directory, True) is None
    with place.ours(b"c", directory) as located:
        assert located.path == b"/a/b/c"
    for path, dirfd in ((b"x", file), (b"x", 999), (b"x", -5)):
        assert place.same(path, dirfd) is None
    assert place.same(b"/a", 999) is not None  # not looked at for an absolute path
    with place.ours(b"", directory, empty=True) as located:
        assert (located.name, located.path, located.parent) == (b"", b"/a/b", -1)
        assert os.path.samestat(os.fstat(located.pin), os.stat(tree / "a/b"))
    with place.ours(b"", file, empty=True) as located:
        assert located.path == b"/a/file"
    with pytest.raises(OSError, match="Bad file"):
        place.ours(b"", 999, empty=True)


def test_a_working_directory_outside_of_the_root(lab: Lab, tree: Path) -> None:
    place = Place(lab, tree, jail=False)
    place.enter(b"chdir", os.fsencode(tree / "a/b"))
    place.enter(b"chroot", os.fsencode(tree / "a/b/c"))
    for path in (b".", b"..", b"../..", b"../file", b"/", b"/..", b"missing"):
        place.same(path)
    with place.ours(b"../file") as located:
        assert not located.reachable and located.path.startswith(b"(unreachable)/")
    with place.ours(b"c") as located:
        assert not located.path.startswith(b"/")
    with place.ours(b"..") as located:
        assert not located.reachable
    with place.ours(b"/..") as located:
        assert located.path == b"/"


def test_a_place_keeps_its_name_where_the_monitor_may_not_search(tmp_path: Path) -> None:
    """A program of the monitor's own user that shuts a directory is not rid of what rules say of those below."""
    below = tmp_path / "shut/below"
    below.mkdir(parents=True)
    root, held = os.open("/", O_PATH), os.open(below, O_PATH)
    (tmp_path / "shut").chmod(0)
    child = os.fork()
    if not child:
        try:
            if not os.getuid():
                os.setresuid(1234, 1234, 1234)
            names, prefix = name_of(held, root)
            os._exit(0 if (b"/" + b"/".join(names), prefix) == (os.fsencode(below), b"") else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    (tmp_path / "shut").chmod(0o700)
    os.close(root)
    os.close(held)


def test_a_deleted_working_directory(lab: Lab, tree: Path) -> None:
    place = Place(lab, tree)
    place.enter(b"chdir", b"/a/b/c")
    os.rmdir(tree / "a/b/c")
    os.mkdir(tree / "a/b/c (deleted)")
    with place.ours(b".") as located:
        assert not located.reachable
    with place.ours(b"x") as located:
        assert not located.reachable and not located.exists
    place.same(b"..")
    with place.ours(b"..") as located:
        assert located.path in (b"/a/b", b"(unreachable)/a/b") or not located.reachable


def test_forty_links_and_one_more(lab: Lab, tree: Path) -> None:
    place = Place(lab, tree)
    for number in range(1, 43):
        (tree / f"l{number}").symlink_to(f"l{number - 1}")
    (tree / "l0").mkdir()
    assert place.same(b"l40") is not None
    assert place.same(b"l41") is None
    assert place.same(b"l40/.") is not None and place.same(b"l41/.") is None
    assert place.same(b"l41", follow=False) is not None


# procfs -----------------------------------------------------------------------------------------

PROC = [
    b"/proc/self", b"/proc/self/status", b"/proc/self/..", b"/proc/thread-self", b"/proc/self/exe",
    b"/proc/thread-self/status", b"/proc/self/cwd", b"/proc/self/cwd/file", b"/proc/self/root",
    b"/proc/self/root/etc", b"/proc/self/root/../etc", b"/proc/self/cwd/..", b"/proc/mounts",
    b"/proc/net", b"/proc/net/..", b"/dev/fd", b"/dev/stdin", b"/proc/self/fd/0", b"/proc/self/fd/999",
    b"/proc/self/fd/0/", b"/proc/self/fd/0/x", b"/proc/self/ns/user", b"/proc/self/ns", b"/dev/fd/0",
    b"/proc/self/task", b"/proc/../proc/./self", b"/proc/1/root", b"/proc/self/map_files", b"/proc",
    b"/sys/class/net", b"/proc/self/exe/", b"/proc/self/attr/current",
]  # fmt: skip


@pytest.mark.parametrize("which", ["leader", "thread"])
def test_proc_is_the_callers(lab: Lab, tree: Path, which: str) -> None:
    place = Place(lab, tree, jail=False)
    place.enter(b"chdir", os.fsencode(tree / "a"))
    if which == "thread":
        place.actor = place.actor.thread()
    actor = place.actor
    for path in PROC:
        place.same(path)
        place.same(path, follow=False)
    with place.ours(b"/proc/self/status") as located:
        assert located.path == f"/proc/{actor.pid}/status".encode()
    with place.ours(b"/proc/thread-self/status") as located:
        assert located.path == f"/proc/{actor.pid}/task/{actor.tid}/status".encode()
    with place.ours(b"/proc/self/cwd/file") as located:
        assert located.path == os.fsencode(tree.resolve()) + b"/a/file"
    with place.ours(b"/proc/self", follow=False) as located:
        assert located.path == b"/proc/self"
        assert stat.S_ISLNK(os.fstat(located.pin).st_mode)
    with place.ours(b"/proc/self/exe") as located:
        assert os.path.samestat(os.fstat(located.pin), os.stat(f"/proc/{actor.pid}/exe"))
        assert located.path == os.fsencode(os.readlink(f"/proc/{actor.pid}/exe"))


def test_descriptors_by_name(lab: Lab, tree: Path) -> None:
    place = Place(lab, tree, jail=False)
    actor = place.actor
    file = actor.must("openat", AT_FDCWD, actor.string(os.fsencode(tree / "a/file")), 0)
    directory = actor.must("openat", AT_FDCWD, actor.string(os.fsencode(tree / "a")), O_DIRECTORY)
    pair = actor.room(8)
    actor.must("pipe2", pair, 0)
    pipe = int.from_bytes(actor.peek(pair, 4), "little")
    top = os.fsencode(tree.resolve())
    for fd, path in ((file, top + b"/a/file"), (directory, top + b"/a")):
        for spelling in (b"/proc/self/fd/%d", b"/dev/fd/%d", b"/proc/thread-self/fd/%d"):
            with place.ours(spelling % fd) as located:
                assert located.path == path, spelling
            place.same(spelling % fd)
    with place.ours(b"/dev/fd/%d/../a/file" % directory) as located:
        assert located.path == top + b"/a/file"
    with place.ours(b"/proc/self/fd/%d" % pipe) as located:
        assert not located.reachable and b"pipe:" in located.path
    os.unlink(tree / "a/file")
    with place.ours(b"/proc/self/fd/%d" % file) as located:
        assert not located.reachable


def test_proc_of_a_nested_pid_namespace(lab: Lab, tree: Path) -> None:
    """The procfs there counts otherwise; ``self`` is the caller's number in it."""
    place = Place(lab, tree, jail=False)
    try:
        child = place.actor.fork(0x20000000 | 0x20000)  # CLONE_NEWPID|CLONE_NEWNS
    except OSError:
        pytest.skip("namespaces are not allowed here")
    place.actor = child
    none, proc, root = (child.string(each) for each in (b"none", b"proc", b"/"))
    if child.call(nr("mount"), none, root, none, 0x44000, 0).value != 0:  # MS_REC|MS_PRIVATE
        pytest.skip("mounting is not allowed here")
    # We see our numbers in our procfs...
    with place.ours(b"/proc/self/status") as located:
        assert located.path == b"/proc/%d/status" % child.pid
    place.same(b"/proc/self/status")
    (tree / "proc").mkdir()
    there = os.fsencode(tree / "proc")
    child.must(nr("mount"), proc, child.string(there), proc, 0, 0)
    # ... and its in its own.
    with place.ours(there + b"/self/status") as located:
        assert located.path == os.fsencode(tree.resolve()) + b"/proc/1/status"
    for path in (
        b"/self",
        b"/self/status",
        b"/thread-self/status",
        b"/self/cwd",
        b"/self/fd/0",
        b"/1",
    ):
        place.same(there + path)
    # A procfs in which the caller does not appear at all.
    other = lab.victim()
    watcher = Caller(other.tid, None)
    mounted = child.must("openat", AT_FDCWD, child.string(there), O_PATH)
    held = child.take(mounted)
    try:
        with pytest.raises(FileNotFoundError):
            paths.locate(_In(watcher, held), b"self/status", 0)
    finally:
        os.close(held)
        watcher.close()


class _In:
    """A caller's view with one descriptor of ours as number 0."""

    def __init__(self, caller: Caller, fd: int) -> None:
        self._caller = caller
        self._fd = fd

    def root(self) -> int:
        return self._caller.root()

    def cwd(self) -> int:
        return self._caller.cwd()

    def dir_fd(self, number: int) -> int:
        return self._fd if number == 0 else self._caller.dir_fd(number)

    @property
    def nspid(self) -> tuple[int, ...]:
        return self._caller.nspid

    @property
    def nstgid(self) -> tuple[int, ...]:
        return self._caller.nstgid

    def namespace(self, kind: str) -> int:
        return self._caller.namespace(kind)


# openat2's RESOLVE_* ------------------------------------------------------------------------------


@pytest.mark.parametrize("resolve", [1, 2, 4, 8, 16, 8 | 4, 16 | 2])
def test_resolve_bits_of_openat2(lab: Lab, tree: Path, resolve: int) -> None:
    place = Place(lab, tree)
    actor = place.actor
    base = actor.must("openat", AT_FDCWD, actor.string(b"/a"), O_DIRECTORY | O_PATH)
    how = actor.place(struct.pack("<3Q", O_PATH, 0, resolve))

    def compared(path: bytes) -> bool:
        """Compare; False if one says EAGAIN: a walk that may not leave a directory fails so when
        anything is renamed or mounted on this machine meanwhile (openat2(2))."""
        value, number = actor.call(437, base, actor.string(path), how, 24)
        theirs = -number if value < 0 else actor.take(value)
        try:
            with place.ours(path, base, resolve=resolve) as located:
                if theirs < 0:
                    missing = not located.exists and theirs == -errno.ENOENT
                    assert missing or number == errno.EAGAIN, (path, theirs, located)
                    return missing
                assert located.stat is not None
                assert os.path.samestat(os.fstat(theirs), located.stat), (path, located)
                again = place.kernel(located.path, O_PATH | O_NOFOLLOW)
                assert os.path.samestat(os.fstat(theirs), os.fstat(again)), (path, located)
                os.close(again)
        except OSError as error:
            if errno.EAGAIN in (number, error.errno):
                return False
            assert theirs == -error.errno, (path, theirs, error)
        finally:
            if theirs >= 0:
                os.close(theirs)
                actor.must("close", value)
        return True

    for path in (
        b"b", b"b/c", b"b/..", b"..", b"../a", b"up", b"up/a", b"abs", b"rel", b"slash/c", b"/a",
        b"/b", b"b/../..", b"file", b"dangling", b".", b"rel/../../..",
    ):  # fmt: skip
        while not compared(path):
            pass


def test_resolve_bits_and_procfs(lab: Lab, tree: Path) -> None:
    place = Place(lab, tree, jail=False)
    for resolve, path, number in (
        (2, b"/proc/self/cwd", errno.ELOOP),
        (2, b"/proc/self/fd/0", errno.ELOOP),
        (4, b"/proc/self/status", errno.ELOOP),
        (1, b"/proc/self/status", errno.EXDEV),
        (8, b"proc", errno.ENOENT),
    ):
        try:
            with place.ours(path, resolve=resolve) as located:
                assert not located.exists and number == errno.ENOENT
        except OSError as error:
            assert error.errno == number, (resolve, path)


# Calls ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "registers", "argument", "path"),
    [
        ("openat", (AT_FDCWD, "/link", 0), None, b"/etc"),
        ("openat", (AT_FDCWD, "/link", O_NOFOLLOW), None, b"/link"),
        ("openat", (AT_FDCWD, "/link", 0o300), None, b"/link"),  # O_CREAT|O_EXCL
        ("mknodat", (AT_FDCWD, "/link", 0o20600, 0x103), None, b"/link"),
        ("unlinkat", (AT_FDCWD, "/link", 0), None, b"/link"),
        ("newfstatat", (AT_FDCWD, "/link", 0x1000, 0x100), None, b"/link"),
        ("newfstatat", (AT_FDCWD, "/link", 0x1000, 0), None, b"/etc"),
        ("linkat", (AT_FDCWD, "/link", AT_FDCWD, "/link", 0), "oldpath", b"/link"),
        ("linkat", (AT_FDCWD, "/link", AT_FDCWD, "/link", 0x400), "oldpath", b"/etc"),
        ("linkat", (AT_FDCWD, "/link", AT_FDCWD, "/link", 0x400), "newpath", b"/link"),
        ("symlinkat", ("/nothing", AT_FDCWD, "/link"), None, b"/link"),
        ("umount2", ("/link", 8), None, b"/link"),
        ("umount2", ("/link", 2), None, b"/etc"),
        ("lgetxattr", ("/link", "user.x", 0, 0), None, b"/link"),
        ("getxattr", ("/link", "user.x", 0, 0), None, b"/etc"),
        ("rename", ("/link", "/fresh"), "newpath", b"/fresh"),
        ("mount", ("none", "/link", "tmpfs", 0, 0), "target", b"/etc"),
        ("move_mount", (AT_FDCWD, "/link", AT_FDCWD, "/link", 1), "from_path", b"/etc"),
        ("move_mount", (AT_FDCWD, "/link", AT_FDCWD, "/link", 1), "to_path", b"/link"),
    ],
)
def test_each_call_follows_as_it_does(
    notified: Callable,
    tmp_path: Path,
    name: str,
    registers: tuple[int | str, ...],
    argument: str | None,
    path: bytes,
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "link").symlink_to("etc")
    watch = notified(name)
    victim = watch.victim
    chroot(victim, os.fsencode(tmp_path))
    victim.must(nr("chdir"), victim.string(b"/"))
    watch.listen()
    placed = [victim.string(r.encode()) if isinstance(r, str) else r for r in registers]
    call = watch.call(name, *placed)
    located = call.resolve(argument)
    assert located.path == path
    assert call.memory_read
    held = [fd for fd in (located.pin, located.parent) if fd >= 0]
    assert (located.parent >= 0) == bool(located.name)
    if held[1:]:
        assert stat.S_ISDIR(os.fstat(located.parent).st_mode)
    assert call.looks[argument or call.signature.first("path").name].path == path
    watch.answer(call)
    assert held
    for fd in held:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_empty_paths_of_calls(notified: Callable, tmp_path: Path) -> None:
    watch = notified("newfstatat", "utimensat", "statx")
    victim = watch.victim
    fd = victim.must("openat", AT_FDCWD, victim.string(b"/etc/passwd"), 0)
    watch.listen()
    call = watch.call("newfstatat", fd, victim.string(b""), 0x1000, 0x1000)
    assert call.resolve().path == b"/etc/passwd" and call.path == b""
    watch.answer(call)
    call = watch.call("newfstatat", fd, victim.string(b""), 0x1000, 0)
    with pytest.raises(NotResolved) as refused:
        call.resolve()
    assert refused.value.errno == errno.ENOENT
    watch.answer(call)
    call = watch.call("statx", fd, 0, 0x1000, 0, 0)
    assert call.resolve().path == b"/etc/passwd"
    watch.answer(call)
    call = watch.call("utimensat", fd, 0, 0, 0)
    assert call.resolve().path == b"/etc/passwd"
    with pytest.raises(AttributeError, match="no path argument"):
        call.resolve("times")


# Random worlds ------------------------------------------------------------------------------------

NAMES = st.sampled_from([b"a", b"b", b"c", b"d"])
WORLD = st.lists(
    st.one_of(
        st.tuples(st.just("dir"), st.lists(NAMES, min_size=1, max_size=3), st.just(b"")),
        st.tuples(st.just("file"), st.lists(NAMES, min_size=1, max_size=3), st.just(b"")),
        st.tuples(
            st.just("link"),
            st.lists(NAMES, min_size=1, max_size=3),
            st.lists(
                st.sampled_from([b"a", b"b", b"c", b"..", b".", b"/", b""]), min_size=1, max_size=5
            ).map(lambda parts: b"/".join(parts) or b"."),
        ),
    ),
    max_size=12,
)
PATH = st.lists(
    st.sampled_from([b"a", b"b", b"c", b"d", b"..", b".", b""]), min_size=1, max_size=7
).map(b"/".join)

RESOLVE = st.sampled_from([0, 0, 1, 2, 4, 8, 16, 1 | 8, 4 | 16])


def test_random_worlds(lab: Lab, tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.mkdir()
    place = Place(lab, world)
    room = place.actor.room(4096)
    place.actor.string = lambda text: (place.actor.poke(room, text + b"\0"), room)[1]  # type: ignore[method-assign]
    how = place.actor.room(24)
    place.actor.place = lambda data: (place.actor.poke(how, data), how)[1]  # type: ignore[method-assign]

    def make(kind: str, parts: list[bytes], text: bytes) -> None:
        """In that world: links of it lead nowhere else."""
        parents = b"/".join(parts[:-1])
        if kind == "dir" and parents:
            with suppress(FileExistsError):
                make(kind, parts[:-1], b"")
        top = os.open(world, os.O_PATH)
        try:
            parent = openat2(
                top, parents or b".", os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_IN_ROOT
            )
        finally:
            os.close(top)
        try:
            if kind == "dir":
                os.mkdir(parts[-1], dir_fd=parent)
            elif kind == "file":
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                os.close(os.open(parts[-1], flags, dir_fd=parent))
            else:
                os.symlink(text, parts[-1], dir_fd=parent)
        finally:
            os.close(parent)

    @settings(
        max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(WORLD, st.lists(st.tuples(PATH, st.booleans(), RESOLVE), min_size=1, max_size=8))
    def explore(items: list, asked: list[tuple[bytes, bool, int]]) -> None:
        import shutil

        for each in world.iterdir():
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        for kind, parts, text in items:
            with suppress(OSError):
                make(kind, parts, text)
        for path, follow, resolve in asked:
            if path:
                place.same(path, follow=follow, resolve=resolve)

    explore()


def test_a_tree_that_moves_while_it_is_walked(lab: Lab, tree: Path) -> None:
    """Renames by somebody else: the walk ends in the tree or in ENOENT, and leaks nothing."""
    import threading

    place = Place(lab, tree)
    (tree / "a/b/c/d").mkdir()
    stop = threading.Event()

    def shuffle() -> None:
        while not stop.is_set():
            os.rename(tree / "a/b/c", tree / "moved")
            os.rename(tree / "moved", tree / "a/b/c")

    caller = Caller(place.actor.tid, None)
    caller.root(), caller.cwd()
    before = len(os.listdir("/proc/self/fd"))
    other = threading.Thread(target=shuffle)
    other.start()
    found = set()
    try:
        for _ in range(400):
            for path in (b"a/b/c/d/../../x", b"a/b/c/../x", b"a/rel/d/.."):
                try:
                    with caller.locate(path) as located:
                        found.add(located.path)
                except NotResolved as problem:
                    assert problem.errno == errno.ENOENT
                found.add(place.named(path, AT_FDCWD, True) or b"")
    finally:
        stop.set()
        other.join()
    assert len(os.listdir("/proc/self/fd")) == before
    caller.close()
    # Each is a place where the walk was at some moment: "x" is in a/b, or in the root once moved.
    allowed = {b"/a/b/x", b"/x", b"/a/b/c", b"/moved"}
    strays = {each for each in found - allowed if each.startswith(b"/")}
    assert strays == set()
    assert found & allowed


def test_network_settings_of_another_namespace(lab: Lab, tree: Path) -> None:
    """/proc/sys/net is the reader's: what only the caller's network has cannot be named by looking."""
    place = Place(lab, tree, jail=False)
    actor = place.actor
    flags = (0x40000000, 0x40000000 | 0x10000000)  # CLONE_NEWNET, with CLONE_NEWUSER
    if all(actor.call(nr("unshare"), each).value != 0 for each in flags):
        pytest.skip("network namespaces are not allowed here")
    socket = actor.must(nr("socket"), 2, 1, 0)
    rename = actor.place(b"lo".ljust(16, b"\0") + b"proctor0".ljust(24, b"\0"))
    if actor.call(nr("ioctl"), socket, 0x8923, rename).value != 0:  # SIOCSIFNAME
        pytest.skip("the interface cannot be renamed here")
    theirs = b"/proc/sys/net/ipv4/conf/proctor0"
    fd = place.kernel(theirs + b"/forwarding")
    assert fd >= 0
    os.close(fd)
    for path in (theirs + b"/forwarding", b"/proc/self/root" + theirs + b"/x"):
        with pytest.raises(NotPermitted, match="network namespace"):
            place.ours(path)
    with place.ours(b"/proc/sys/net/ipv4/conf/all/forwarding") as located:
        assert located.exists
    for path in (b"/proc/sys/kernel/none/x", b"/proc/net/none/x", b"/proc/sys/none/x"):
        place.same(path)  # ENOENT, as for everybody
    mine = Place(lab, tree, jail=False)
    mine.same(theirs + b"/forwarding")

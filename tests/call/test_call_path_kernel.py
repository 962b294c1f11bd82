"""Where a path leads, against openat2(2) of a process in mounts, roots and directories of its own."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctor.call.caller import Caller
from proctor.call.path.files import AT_FDCWD
from proctor.call.path.located import Located, file_id
from proctor.call.path.quick import where
from tests.call.live import nr
from tests.support.harness import Actor
from tests.support.lab import Lab

pytestmark = pytest.mark.usefixtures("both_ways")

O_PATH, O_NOFOLLOW, O_DIRECTORY = 0o10000000, 0o400000, 0o200000
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REMOUNT, MS_NOSYMFOLLOW, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x100, 0x1000, 0x4000, 0x40000

LINKS = {
    "abs": "/d/e", "rel": "d/../d/e/", "up": "../../jail/d", "loop": "loop", "chain": "rel/f",
    "gone": "none/x", "slash": "d/", "fileslash": "d/e/f/", "d/dot": ".", "d/top": "/",
    "d/far": "../../outside/x", "tomnt": "mnt/sub", "toproc": "/proc/self/cwd", "long": "d/" * 90,
}  # fmt: skip
NAMES = [
    "d", "e", "f", "g", "..", "..", "..", ".", "", "none", "mnt", "sub", "file", "bind", "bound", "over",
    "under", "nosym", "link", "again", "proc", "self", "cwd", "root", "fd", "0", "thread-self", "jail",
    "outside", "x", "y", "back", *(name.rpartition("/")[2] for name in LINKS),
]  # fmt: skip


class World:
    """A victim with a root and a working directory in a tree full of mounts.

    :param root: of the victim, below the top of the tree; None for the whole machine's.
    """

    def __init__(self, lab: Lab, top: Path, root: str | None, cwd: str) -> None:
        self.actor: Actor = lab.victim()
        actor = self.actor
        self.room = actor.room(4200)
        self.how = actor.room(24)
        if actor.call(nr("unshare"), CLONE_NEWNS).value != 0:
            if actor.call(nr("unshare"), CLONE_NEWNS | CLONE_NEWUSER).value != 0:
                pytest.skip("mount namespaces are not allowed here")
            for name, text in (("setgroups", "deny"), ("uid_map", "0 {} 1"), ("gid_map", "0 {} 1")):
                number = os.getuid() if name == "uid_map" else os.getgid()
                try:
                    Path(f"/proc/{actor.pid}/{name}").write_text(text.format(number))
                except PermissionError:
                    pytest.skip("user namespaces cannot be given ids here")
        self.mount("none", "/", None, MS_REC | MS_PRIVATE)
        jail = f"{top}/jail"
        self.mount("tmpfs", f"{jail}/mnt", "tmpfs")
        for name in ("mnt", "mnt/sub"):
            self.make("mkdir", f"{jail}/{name}/sub", 0o755)
        self.make("mknod", f"{jail}/mnt/file", 0o100644, 0)
        self.link("/d", f"{jail}/mnt/link")
        self.link("../d/e", f"{jail}/mnt/back")
        self.mount(f"{jail}/d", f"{jail}/bind", None, MS_BIND)
        self.mount(f"{jail}/d/e/f", f"{jail}/bound", None, MS_BIND)
        self.mount(jail, f"{jail}/again", None, MS_BIND)
        for layer in ("under", "over"):
            self.mount("tmpfs", f"{jail}/over", "tmpfs")
            self.make("mkdir", f"{jail}/over/{layer}", 0o755)
        self.mount("tmpfs", f"{jail}/nosym", "tmpfs")
        self.make("mkdir", f"{jail}/nosym/sub", 0o755)
        self.link("sub", f"{jail}/nosym/link")
        self.mount("tmpfs", f"{jail}/nosym", None, MS_REMOUNT | MS_NOSYMFOLLOW)
        self.mount(f"{jail}/d", f"{jail}/d", None, MS_BIND)  # a mount on itself
        self.mount("/proc", f"{jail}/proc", None, MS_BIND | MS_REC)
        self.dirfds = [AT_FDCWD, 99, -3]
        for place in ("jail/d/e", "jail/mnt", "outside", "jail/d/e/f", "jail/abs", ".", "jail"):
            self.dirfds.append(self.open(f"{top}/{place}"))
        self.dirfds.append(self.open("/"))
        self.top_fd = self.dirfds[-3]
        self.make("chdir", f"{top}/{cwd}")
        if root is not None:
            self.make("chroot", f"{top}/{root}")
        self.caller = Caller(actor.tid, None)

    def text(self, path: bytes) -> int:
        self.actor.poke(self.room, path + b"\0")
        return self.room

    def make(self, call: str, path: str, *arguments: int) -> None:
        self.actor.must(nr(call), self.text(path.encode()), *arguments)

    def link(self, target: str, path: str) -> None:
        self.actor.must(nr("symlink"), self.actor.string(target.encode()), self.text(path.encode()))

    def open(self, path: str) -> int:
        return self.actor.must("openat", AT_FDCWD, self.text(path.encode()), O_PATH | O_NOFOLLOW, 0)

    def mount(self, source: str, target: str, kind: str | None, flags: int = 0) -> None:
        actor = self.actor
        text = [actor.string(each.encode()) for each in (source, target, kind or "none")]
        actor.must(nr("mount"), text[0], text[1], text[2] if kind else 0, flags, 0)

    def kernel(self, path: bytes, dirfd: int, flags: int, resolve: int) -> int:
        """The victim's openat2: a descriptor of ours, or minus the errno."""
        self.actor.poke(self.how, struct.pack("<3Q", O_PATH | flags, 0, resolve))
        for _ in range(100):
            value, number = self.actor.call(437, dirfd, self.text(path), self.how, 24)
            if number != errno.EAGAIN or value >= 0:
                break  # EAGAIN: somebody on this machine renamed or mounted something meanwhile
        if value < 0:
            return -number
        try:
            return self.actor.take(value)
        finally:
            self.actor.must("close", value)

    def compare(self, path: bytes, dirfd: int, follow: bool, resolve: int) -> str:
        """Hold ``locate`` to the kernel; says what came out, for counting."""
        about = (path, dirfd, follow, resolve)
        flags = 0 if follow else O_NOFOLLOW
        theirs = self.kernel(path, dirfd, flags, resolve)
        try:
            tid = self.actor.tid
            named = None if resolve else where(tid, path, dirfd, follow, False, -1, 0)[1]
            try:
                located = self.caller.locate(path, dirfd, follow=follow, resolve=resolve)
            except OSError as error:
                number = error.errno or 0
                assert theirs == -number, (*about, theirs, error)
                assert named in (None, number), (*about, named)
                return errno.errorcode[number]
            with located:
                assert named in (located.path, None), (*about, named, located)
                if theirs < 0:
                    assert theirs == -errno.ENOENT, (*about, theirs, located)
                    assert not located.exists, (*about, located)
                    return "missing"
                self.same(theirs, located, about)
                return "reachable" if located.reachable else "unreachable"
        finally:
            if theirs >= 0:
                os.close(theirs)

    def same(self, theirs: int, located: Located, about: object) -> None:
        want = file_id(theirs)
        assert located.stat is not None, (about, located)
        assert want[:2] == (located.stat.st_dev, located.stat.st_ino), (about, located)
        assert file_id(located.pin) == want, (about, located)
        if located.reachable:
            again = self.kernel(located.path, AT_FDCWD, O_NOFOLLOW, 0)
            assert again >= 0, (about, located, again)
            try:
                assert file_id(again) == want, (about, located)
            finally:
                os.close(again)
        else:
            assert located.path.startswith(b"(unreachable)/"), (about, located)


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("world").resolve()
    jail = top / "jail"
    for name in ("d/e", "d/g", "mnt", "bind", "over", "nosym", "again", "proc"):
        (jail / name).mkdir(parents=True)
    for name in ("d/e/f", "bound"):
        (jail / name).write_text("f")
    (top / "outside/x").mkdir(parents=True)
    (top / "outside/x/y").write_text("y")
    (top / "outside/back").symlink_to("../jail/d/e")
    for name, text in LINKS.items():
        (jail / name).symlink_to(text)
    return top


#: Root and working directory: jailed, jailed but standing outside, standing above, at large.
PLACES = {
    "jailed": ("jail", "jail/d"),
    "outside": ("jail", "outside/x"),
    "above": ("jail", "."),
    "in a mount": ("jail/mnt", "jail/mnt/sub"),
    "free": (None, "jail/d"),
}


@pytest.fixture(params=PLACES)
def world(request: pytest.FixtureRequest, lab: Lab, top: Path) -> Iterator[World]:
    made = World(lab, top, *PLACES[request.param])
    yield made
    made.caller.close()


RESOLVE = [0, 0, 0, 1, 2, 4, 8, 16, 16, 1 | 8, 1 | 16, 2 | 4, 4 | 16, 1 | 2, 8 | 2, 24, 1 << 40]


def test_random_paths_in_a_world_of_mounts(world: World) -> None:
    """Five worlds, 250 random paths each, with every combination of openat2's bits that matters."""
    seen: dict[str, int] = {}

    @settings(
        max_examples=250,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        absolute=st.booleans(),
        names=st.lists(st.sampled_from(NAMES), max_size=8),
        slash=st.booleans(),
        dirfd=st.sampled_from(world.dirfds),
        follow=st.booleans(),
        resolve=st.sampled_from(RESOLVE),
    )
    def explore(
        absolute: bool, names: list[str], slash: bool, dirfd: int, follow: bool, resolve: int
    ) -> None:
        path = ("/" * absolute + "/".join(names) + "/" * slash).encode()
        came = world.compare(path, dirfd, follow, resolve)
        seen[came] = seen.get(came, 0) + 1

    explore()
    assert {"reachable", "ENOENT", "EBADF", "EINVAL"} <= set(seen), seen
    assert sum(seen.values()) >= 250


@pytest.mark.timeout(600)
def test_what_random_paths_seldom_meet(world: World) -> None:
    for path in (
        "bound/x", "bound/", "bound", "nosym/link", "nosym/link/", "nosym/link/x", "nosym/sub", "over",
        "over/over", "over/under", "over/..", "again/d", "again/mnt", "again/..", "again/../again/..",
        "d/..", "d/e/..", "d/../..", "bind/..", "bind/e/../..", "mnt/..", "mnt/sub/../..", "mnt/link",
        "mnt/link/e/..", "mnt/back/f", "jail/..", "jail/../..", "jail/d/../../..", "jail/d/e",
        "../jail/d/e", "sub/../link", "../mnt/link", "mnt/sub/../../abs", "toproc", "toproc/..", "proc/self/root/..", "proc/self/cwd/../x", "d/far/y",
        "proc/self/root/d/../..", "d/top/..", "d/top/d/..", "abs/../..", "chain/", "fileslash",
        "long" + "/long" * 30, "loop/", "gone/", "d/dot/" * 40 + "e", "d/dot/" * 41 + "e", "back/f/",
    ):  # fmt: skip
        for prefix in (b"", b"/"):
            for dirfd in world.dirfds:
                for resolve in (0, 1, 8, 16):
                    world.compare(prefix + path.encode(), dirfd, True, resolve)
                world.compare(prefix + path.encode(), dirfd, False, 0)


def test_one_who_stands_outside_and_looks_inside(lab: Lab, top: Path) -> None:
    """A working directory or descriptor from outside of the root: what is inside has its name there,
    so that a rule about /d/e/f holds for every way to it."""
    world = World(lab, top, "jail", ".")
    for dirfd in (AT_FDCWD, world.top_fd):
        for path, seen in (
            (b"jail/d/e/f", b"/d/e/f"),
            (b"jail/chain", b"/d/e/f"),
            (b"jail/d/new", b"/d/new"),
            (b"jail/d/..", b"/"),
            (b"jail/../..", b"/"),
            (b"jail", b"(unreachable)"),
            (b"outside/x/y", b"(unreachable)"),
        ):
            with world.caller.locate(path, dirfd) as located:
                if seen == b"(unreachable)":
                    assert not located.reachable, path
                else:
                    assert located.path == seen, path
            world.compare(path, dirfd, True, 0)
    world.caller.close()


def test_a_directory_that_is_mounted_when_it_is_entered(lab: Lab, top: Path) -> None:
    """debugfs mounts tracefs when somebody walks through its ``tracing``, not when one looks at it."""
    world = World(lab, top, None, ".")
    there = world.actor.string(os.fsencode(top) + b"/outside/x")
    kind = world.actor.string(b"debugfs")
    if world.actor.call(nr("mount"), kind, there, kind, 0, 0).value != 0:
        pytest.skip("debugfs cannot be mounted here")
    seen = world.kernel(b"outside/x/tracing/README", AT_FDCWD, 0, 0)
    if seen < 0:
        pytest.skip("this kernel's debugfs has no tracing")
    os.close(seen)
    # The kernel forgets such a mount with the mount below it; a new one was not walked through yet.
    world.actor.must(nr("umount2"), there, 2)
    world.actor.must(nr("mount"), kind, there, kind, 0, 0)
    with world.caller.locate(b"outside/x/tracing/README") as located:
        assert located.exists
        assert located.path == os.fsencode(top) + b"/outside/x/tracing/README"
    assert world.compare(b"outside/x/tracing/README", AT_FDCWD, True, 0) == "reachable"
    world.caller.close()

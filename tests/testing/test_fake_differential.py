"""The fake tree against the real one: the same places, names and errors, whatever the path."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctor.call.path import resolve as paths
from proctor.testing import AT_FDCWD, FakeTarget, Node

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the real walk is Linux's")

FILES = {
    "/r/d/e/f": b"f",
    "/r/d/g": None,
    "/r/abs": Node.symlink("/d/e"),
    "/r/rel": Node.symlink("d/../d/e/"),
    "/r/up": Node.symlink("../../r/d"),
    "/r/loop": Node.symlink("loop"),
    "/r/file": Node.symlink("d/e/f"),
    "/r/chain": Node.symlink("rel/f"),
    "/r/gone": Node.symlink("none/x"),
    "/r/d/dot": Node.symlink("."),
    "/r/d/top": Node.symlink("/"),
    "/o/d/f": b"",
    "/o/l": Node.symlink("/d"),
}
DESCRIPTORS = {10: "/r", 11: "/r/d/e", 12: "/r/d/e/f", 13: "/o", 14: "/r/d"}
NAMES = st.sampled_from(
    ["d", "e", "f", "g", "abs", "rel", "up", "loop", "file", "chain", "gone", "dot", "top", "o", "r",
     "l", "..", "..", ".", "", "none", "x" * 256]
)  # fmt: skip


class View:
    """A caller over the real directories."""

    def __init__(self, top: Path, root: str, cwd: str) -> None:
        self.top = top
        self.fds = {name: self.pin(path) for name, path in (("root", root), ("cwd", cwd))}
        self.numbers = {number: self.pin(path) for number, path in DESCRIPTORS.items()}

    def pin(self, path: str) -> int:
        return os.open(f"{self.top}{path}", os.O_PATH | os.O_CLOEXEC)

    def root(self) -> int:
        return self.fds["root"]

    def cwd(self) -> int:
        return self.fds["cwd"]

    def dir_fd(self, number: int) -> int:
        if number == AT_FDCWD:
            return self.cwd()
        if number not in self.numbers:
            raise OSError(9, os.strerror(9))
        return self.numbers[number]

    nspid = nstgid = (1,)

    def namespace(self, kind: str) -> int:
        return 0

    def close(self) -> None:
        for fd in (*self.fds.values(), *self.numbers.values()):
            os.close(fd)


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="proctor-tree-") as name:
        place = Path(name).resolve()
        for path, entry in FILES.items():
            real = place / path[1:]
            real.parent.mkdir(parents=True, exist_ok=True)
            if entry is None:
                real.mkdir()
            elif isinstance(entry, Node):
                real.symlink_to(os.fsdecode(entry.content))
            else:
                real.write_bytes(entry)
        yield place


@settings(max_examples=600, deadline=None)
@given(
    absolute=st.booleans(),
    names=st.lists(NAMES, max_size=7),
    slash=st.booleans(),
    dirfd=st.sampled_from([AT_FDCWD, *DESCRIPTORS, 99]),
    cwd=st.sampled_from(["/r", "/r/d/e", "/o/d"]),
    follow=st.booleans(),
    empty=st.booleans(),
    resolve=st.sampled_from([0, 0, 1, 2, 4, 8, 16, 5, 12, 20, 24, 17]),
)
def test_fake_and_real_walks_agree(
    top: Path,
    absolute: bool,
    names: list[str],
    slash: bool,
    dirfd: int,
    cwd: str,
    follow: bool,
    empty: bool,
    resolve: int,
) -> None:
    path = ("/" * absolute + "/".join(names) + "/" * slash).encode()
    if dirfd == 13 and ".." in names and not resolve & 24:
        # above the real tree lies the machine; the fake one ends there
        return
    if cwd == "/o/d" and dirfd == AT_FDCWD and names.count("..") > 1 and not resolve & 24:
        return
    view = View(top, "/r", cwd)
    target = FakeTarget({**FILES}, root="/r", cwd=cwd)
    for number, place in DESCRIPTORS.items():
        target.chroot("/")
        target.open(place, at=number)
        target.chroot("/r")
    options = {"follow": follow, "empty": empty, "resolve": resolve}
    try:
        real = outcome(lambda: paths.locate(view, path, dirfd, **options), top)  # type: ignore[arg-type]
        caller = target.call("getpid").caller
        fake = outcome(lambda: caller.locate(path, dirfd, **options), top)  # type: ignore[arg-type]
    finally:
        target.close()
        view.close()
    assert fake == real


def test_directories_that_are_gone(tmp_path: Path) -> None:
    """A working directory that was removed, and one that was replaced: no names lead there, but
    ``..`` leads out."""
    for replaced in (False, True):
        top = (tmp_path / str(replaced)).resolve()
        (top / "r/d/g").mkdir(parents=True)
        (top / "r/f").write_text("f")
        view = View.__new__(View)
        view.top = top
        view.numbers = {}
        view.fds = {"root": view.pin("/r"), "cwd": view.pin("/r/d/g")}
        target = FakeTarget({"/r/d/g": None, "/r/f": "f"}, root="/r", cwd="/r/d/g")
        (top / "r/d/g").rmdir()
        del target.files["/r/d/g"]
        if replaced:
            (top / "r/d/g").write_text("g")
            target.files["/r/d/g"] = "g"
        caller = target.call("getpid").caller
        for path in (b".", b"..", b"../..", b"x", b"../g", b"../../f", b"/f", b"", b"x/y", b"../x"):
            options: dict[str, Any] = {"empty": not path}
            real = outcome(lambda: paths.locate(view, path, **options), top)  # noqa: B023
            fake = outcome(lambda: caller.locate(path, **options), top)  # noqa: B023
            assert fake == real, path
        target.close()
        view.close()


def outcome(locate: object, top: Path) -> object:
    try:
        found = locate()  # type: ignore[operator]
    except OSError as error:
        return error.errno
    with found:
        kind = stat.S_IFMT(found.stat.st_mode) if found.stat is not None else None
        path = found.path.replace(b"(unreachable)" + os.fsencode(top), b"(unreachable)")
        return found.name, path, kind, found.must_be_directory

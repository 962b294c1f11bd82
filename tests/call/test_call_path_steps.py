"""The walk, step by step: trees that move under it, failures in every step, and what it may cost."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from proctor.call.path import files as constants
from proctor.call.path import walk as rules
from proctor.call.path.files import (
    AT_FDCWD,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_XDEV,
    Place,
)
from proctor.call.path.located import Located
from proctor.call.path.resolve import Descriptors, locate
from proctor.call.path.walk import walk
from proctor.kernel import raw
from tests.call.live import nr

STEPS = "root start copy enter stride look above status mount read_link jump name_of".split()  # noqa: SIM905


class View:
    """A caller with a root and a working directory; descriptor 5 is the directory ``held``."""

    nspid = nstgid = (os.getpid(),)

    def __init__(self, root: Path, cwd: Path, held: Path | None = None) -> None:
        self.fds = [os.open(each, os.O_PATH) for each in (root, cwd, held or cwd)]

    def root(self) -> int:
        return self.fds[0]

    def cwd(self) -> int:
        return self.fds[1]

    def dir_fd(self, number: int) -> int:
        return {AT_FDCWD: self.fds[1], 5: self.fds[2]}[number]

    def namespace(self, kind: str) -> int:
        return os.stat(f"/proc/self/ns/{kind}").st_ino

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


class Watched(Descriptors):
    """The real thing, counted: every step is seen before it is made, every handle is accounted for."""

    def __init__(
        self, view: View, before: Callable[[str, int, tuple], object], *, strides: bool = True
    ) -> None:
        super().__init__(view)
        self.ours: set[int] = set()
        self.steps: Counter[str] = Counter()

        def watched(step: str) -> Callable:
            real = getattr(Descriptors, step)
            real = real if isinstance(real, type(os.dup)) else real.__get__(self)

            def made(*arguments: object) -> object:
                self.steps[step] += 1
                before(step, self.steps.total(), arguments)
                result = real(*arguments)
                if step in ("copy", "enter", "look", "above", "jump") or (
                    step == "stride" and result is not None
                ):
                    assert result not in self.ours
                    self.ours.add(result)
                return result

            return made

        self.made = {step: watched(step) for step in STEPS}
        if not strides:
            self.made["stride"] = lambda here, names: None

    def __getattribute__(self, name: str) -> object:
        if name in STEPS:
            return object.__getattribute__(self, "made")[name]
        return object.__getattribute__(self, name)

    def close(self, handle: int) -> None:  # type: ignore[override]
        self.ours.remove(handle)
        os.close(handle)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path.resolve() / "top"
    (top / "root/a/b/c").mkdir(parents=True)
    (top / "root/a/file").write_text("x")
    (top / "outside").mkdir()
    (top / "outside/secret").write_text("s")
    (top / "root/a/rel").symlink_to("b/c/")
    (top / "root/abs").symlink_to("/a/b")
    (top / "root/loop").symlink_to("loop")
    (top / "root/file").symlink_to("a/file")
    return top


# Trees that move -----------------------------------------------------------------------------------


@pytest.mark.parametrize("resolve", [RESOLVE_IN_ROOT, RESOLVE_BENEATH])
@pytest.mark.parametrize("moved", ["a", "a/b"])
def test_nobody_is_carried_out_of_a_scoped_walk(tree: Path, resolve: int, moved: str) -> None:
    """A directory on the way is moved out of the root when the walk is in it: ``..`` would lead out.
    The kernel says EAGAIN (handle_dots in fs/namei.c)."""
    view = View(tree, tree, tree / "root")

    def before(step: str, _: int, arguments: tuple) -> None:
        if step == "above" and (tree / "root" / moved).exists():
            (tree / "root" / moved).rename(tree / "outside/moved")

    files = Watched(view, before)
    with pytest.raises(OSError) as refused:
        walk(files, b"a/b/../../../outside/secret", 5, resolve=resolve)
    assert refused.value.errno == errno.EAGAIN
    assert files.ours == set()
    view.close()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_walk_that_is_carried_away_knows_where_it_is(tree: Path, depth: int) -> None:
    """Outside of scoped walks the kernel goes on from where the directory is now."""
    view = View(tree, tree / "root")
    moved = ["", "root/a/b", "root/a"][depth]

    def before(step: str, _: int, arguments: tuple) -> None:
        if step == "above" and (tree / moved).exists():
            (tree / moved).rename(tree / "outside/moved")

    files = Watched(view, before, strides=False)
    place = walk(files, b"/root/a/b" + b"/.." * depth + b"/secret")
    assert place.path == b"/outside/secret" and place.pin is not None
    assert files.ours == {place.pin}
    os.close(place.pin)
    view.close()


def test_a_link_that_turns_into_a_directory(tree: Path) -> None:
    """Between two looks: either answer is one that the kernel could have given."""
    view = View(tree / "root", tree / "root")

    def before(step: str, _: int, arguments: tuple) -> None:
        if step == "look" and (tree / "root/abs").is_symlink():
            (tree / "root/abs").unlink()
            (tree / "root/a/b").rename(tree / "root/abs")

    files = Watched(view, before)
    place = walk(files, b"/abs/c")
    assert place.path == b"/abs/c" and place.pin is not None
    assert files.ours == {place.pin}
    os.close(place.pin)
    view.close()


# Every way out -------------------------------------------------------------------------------------

WAYS = [
    (b"/a/b/c", {}), (b"a/rel/../../file", {}), (b"abs/c/..", {}), (b"loop", {}), (b"a/file/x", {}),
    (b"none/x", {}), (b"none", {}), (b"", {"empty": True}), (b"a/../../..", {}), (b"abs/", {}),
    (b"/a/b", {"resolve": RESOLVE_NO_XDEV}), (b"abs/../..", {"resolve": RESOLVE_IN_ROOT}),
    (b"..", {"resolve": RESOLVE_BENEATH}), (b"proc/self/cwd/a/..", {}), (b"proc/self/exe", {}),
    (b"proc/self/exe/x", {}), (b"proc/self/cwd", {"resolve": RESOLVE_IN_ROOT}), (b"a/file/", {}),
    (b"proc/self/cwd/", {"resolve": 2}), (b"file/", {"follow": False, "entry": True}),
    (b"proc/self/fd/%d", {}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "how"), WAYS)
def test_every_descriptor_is_closed_whatever_fails(tree: Path, path: bytes, how: dict) -> None:
    """Each step of each walk is made to fail once; what was opened is closed once, and nothing else."""
    root = Path("/") if path.startswith(b"proc") else tree / "root"
    view = View(root, root, tree / "root")
    if b"%d" in path:
        path = path % view.fds[2]
    open_before = os.listdir("/proc/self/fd")
    total = 0
    for broken in (None, *range(1, 200)):
        if broken is not None and broken > total:
            break

        def before(step: str, number: int, arguments: tuple, broken: int | None = broken) -> None:
            if number == broken:
                raise OSError(errno.EIO, "broken")

        files = Watched(view, before)
        try:
            place: Place | None = walk(files, path, 5 if "resolve" in how else AT_FDCWD, **how)
        except OSError as error:
            place = None
            assert broken is None or error.errno == errno.EIO
        if broken is None:
            total = files.steps.total()
        else:
            assert place is None
        held = {fd for fd in (place.pin, place.parent) if fd is not None} if place else set()
        assert files.ours == held, (path, broken)
        for fd in held:
            os.close(fd)
    assert total >= 3
    assert os.listdir("/proc/self/fd") == open_before
    view.close()


# Cost ----------------------------------------------------------------------------------------------


def test_a_long_path_of_dots_asks_for_one_name(tree: Path) -> None:
    """What a place is called costs a walk from the root: a caller could ask for thousands of them with
    one path, from deep down."""
    deep = tree / "root"
    for _ in range(60):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (tree / "root/again").symlink_to("/proc/self/cwd/" + "../" * 50)
    view = View(tree, deep)
    files = Watched(view, lambda *_: None)
    place = walk(files, b"../" * 61 + b"outside/secret")
    assert place.path == b"/outside/secret"
    assert files.steps["name_of"] == 1
    os.close(place.pin)
    files = Watched(view, lambda *_: None)
    place = walk(files, b"../" * 30 + b"d/../" * 600)
    assert files.steps["name_of"] == 1
    os.close(place.pin)
    view.close()


def chain(tree: Path, end: str, stretch: str = "a/../") -> Path:
    """Forty links, each of which goes about as far as a path can."""
    root = tree / "root"
    for number in range(40):
        onwards = f"l{number + 1}" if number < 39 else end
        (root / f"l{number}").symlink_to(
            stretch * ((4000 - len(onwards)) // len(stretch)) + onwards
        )
    return root


@pytest.mark.parametrize("stretch", ["a/../", "a/b/c/../../../", "./", "a/./.././"])
def test_a_long_way_takes_few_steps(tree: Path, stretch: str) -> None:
    root = chain(tree, "file", stretch)
    (root / "file").unlink()
    (root / "file").write_text("")
    view = View(Path("/"), root)
    files = Watched(view, lambda *_: None)
    place = walk(files, b"l0")
    assert place.path == os.fsencode(root / "file") and place.pin is not None
    os.close(place.pin)
    assert files.steps.total() < 40 * 12
    view.close()


def test_a_way_is_not_long_because_something_is_mounted_meanwhile(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """openat2 says EAGAIN then, which is no answer."""
    root, real, said = chain(tree, "file"), raw.openat2, []

    def busy(at: int, path: bytes, flags: int, resolve: int) -> int:
        if b".." in path:
            said.append(path)
            if len(said) % 3:
                raise BlockingIOError(errno.EAGAIN, "moved")
        return real(at, path, flags, resolve)

    (root / "file").unlink()
    (root / "file").write_text("")
    monkeypatch.setattr(raw, "openat2", busy)
    view = View(Path("/"), root)
    files = Watched(view, lambda *_: None)
    place = walk(files, b"l0")
    assert place.path == os.fsencode(root / "file") and place.pin is not None
    os.close(place.pin)
    assert said and files.steps.total() < 40 * 12
    view.close()


def test_what_takes_too_many_steps_is_given_up(tree: Path) -> None:
    """From a place that has no name the way is gone name by name, and so it has an end."""
    deep = tree / "root/d" / "/".join("d" * 700)
    deep.mkdir(parents=True)
    chain(tree, "file", "../" * 600 + "d/" * 600)
    for number in range(40):
        (tree / f"root/l{number}").rename(deep / f"l{number}")
    view = View(tree / "root/a", deep)  # outside of its root
    files = Watched(view, lambda *_: None)
    with pytest.raises(OSError) as refused:
        walk(files, b"l0")
    assert refused.value.errno == errno.ELOOP
    assert files.ours == set() and files.steps.total() < 4 * rules.STEPS_MAX
    view.close()


def test_links_are_counted_over_the_whole_walk(tree: Path) -> None:
    (tree / "root/dot").symlink_to(".")
    view = View(tree / "root", tree / "root")
    locate(view, b"dot/" * 40 + b"a").close()
    assert constants.LINKS_MAX == 40
    with pytest.raises(OSError) as refused:
        locate(view, b"dot/" * 41 + b"a")
    assert refused.value.errno == errno.ELOOP
    view.close()


# What a call does with the end of a path -----------------------------------------------------------


def kernel(act: Callable[[], object]) -> int:
    """The errno of a real call; 0 if it succeeded."""
    try:
        act()
    except OSError as error:
        return error.errno or 0
    return 0


def test_calls_about_an_entry_follow_no_link(notified: Callable, tree: Path) -> None:
    """mkdir("link/") is about the link, although lstat("link/") is not."""
    root = tree / "root"
    (root / "dangling").symlink_to("new")
    assert kernel(lambda: os.mkdir(f"{root}/dangling/")) == errno.EEXIST
    assert kernel(lambda: os.mkdir(f"{root}/a/file/")) == errno.EEXIST
    assert kernel(lambda: os.unlink(f"{root}/a/rel/")) == errno.ENOTDIR
    assert kernel(lambda: os.rmdir(f"{root}/a/rel/")) == errno.ENOTDIR
    assert kernel(lambda: os.rename(f"{root}/a/rel/", f"{root}/x")) == errno.ENOTDIR
    assert stat.S_ISDIR(os.lstat(f"{root}/a/rel/").st_mode)
    assert not (root / "new").exists()
    watch = notified("mkdirat", "unlinkat", "renameat", "newfstatat", "linkat", "symlinkat")
    victim = watch.victim
    fd = victim.must("openat", AT_FDCWD, victim.string(os.fsencode(root)), os.O_DIRECTORY)
    watch.listen()
    names = {name: victim.string(name.encode()) for name in ("dangling/", "a/rel/", "a/file/", "x")}

    def name_of(call: str, *registers: int, argument: str | None = None) -> tuple[bytes, bool]:
        made = watch.call(call, *registers)
        try:
            located = made.resolve(argument)
            assert located.must_be_directory == (located.parent >= 0)
            assert (located.name != b"") == (located.parent >= 0)
            return located.path.rpartition(b"/")[2], located.exists
        finally:
            watch.answer(made)

    assert name_of("mkdirat", fd, names["dangling/"], 0o755) == (b"dangling", True)
    assert name_of("mkdirat", fd, names["a/file/"], 0o755) == (b"file", True)
    assert name_of("unlinkat", fd, names["a/rel/"], 0) == (b"rel", True)
    assert name_of("renameat", fd, names["a/rel/"], fd, names["x"]) == (b"rel", True)
    assert name_of("symlinkat", names["x"], fd, names["dangling/"]) == (b"dangling", True)
    assert name_of("newfstatat", fd, names["a/rel/"], 0x1000, 0x100) == (b"c", True)
    old = name_of("linkat", fd, names["a/rel/"], fd, names["dangling/"], 0, argument="oldpath")
    new = name_of("linkat", fd, names["a/rel/"], fd, names["dangling/"], 0, argument="newpath")
    assert (old, new) == ((b"c", True), (b"dangling", True))


def test_beside_o_path_creating_is_forgotten(notified: Callable, tree: Path) -> None:
    """open(O_PATH|O_CREAT|O_EXCL) follows a link; a rule about what it leads to must see it."""
    flags = os.O_PATH | os.O_CREAT | os.O_EXCL
    path = f"{tree}/root/file"
    fd = os.open(path, flags)
    assert stat.S_ISREG(os.fstat(fd).st_mode)
    os.close(fd)
    watch = notified("openat")
    text = watch.victim.string(path.encode())
    watch.listen()
    for bits, name in ((flags, b"file"), (flags | os.O_NOFOLLOW, b"file"), (os.O_CREAT, b"file")):
        call = watch.call("openat", AT_FDCWD, text, bits, 0o600)
        located = call.resolve()
        assert located.path.endswith(b"/" + name)
        followed = located.path.endswith(b"/a/file")
        assert followed == (not bits & os.O_NOFOLLOW), oct(bits)
        watch.answer(call)


def test_what_means_the_descriptor_itself(notified: Callable, tree: Path) -> None:
    """readlinkat of a pinned link, NULL for the calls that take it, linkat's flag for one path."""
    link = os.open(tree / "root/file", os.O_PATH | os.O_NOFOLLOW)
    assert os.readlink(b"", dir_fd=link) == b"a/file"
    os.close(link)
    assert kernel(lambda: os.link(f"{tree}/root/a/file", "")) == errno.ENOENT
    watch = notified("readlinkat", "linkat", "futimesat", "fanotify_mark", "utimensat", "mkdirat")
    victim = watch.victim
    pinned = victim.must(
        "openat", AT_FDCWD, victim.string(f"{tree}/root/file".encode()), os.O_PATH | os.O_NOFOLLOW
    )
    nothing = victim.string(b"")
    watch.listen()

    def path(name: str, *registers: int, argument: str | None = None) -> bytes | int:
        call = watch.call(name, *registers)
        try:
            return call.resolve(argument).path
        except OSError as error:
            return error.errno or 0
        finally:
            watch.answer(call)

    itself = os.fsencode(tree / "root/file")
    assert path("readlinkat", pinned, nothing, 0, 0) == itself
    assert path("futimesat", pinned, 0, 0) == itself
    assert path("utimensat", pinned, 0, 0, 0) == itself
    assert path("utimensat", pinned, nothing, 0, 0) == errno.ENOENT
    assert path("fanotify_mark", 3, 1, 2, pinned, 0) == itself
    assert path("mkdirat", pinned, nothing, 0) == errno.ENOENT
    where = (pinned, nothing, pinned, nothing, 0x1000)
    assert path("linkat", *where, argument="oldpath") == itself
    assert path("linkat", *where, argument="newpath") == errno.ENOENT
    assert nr("linkat") == 265


def test_located_says_what_it_is(tree: Path) -> None:
    view = View(tree / "root", tree / "root")
    with locate(view, b"a/none") as located:
        assert isinstance(located, Located) and "nothing there" in repr(located)
    located.close()
    assert located.parent == -1
    view.close()

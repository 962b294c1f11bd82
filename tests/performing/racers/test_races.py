"""Racers: while a call is performed, another thread exchanges what it is about.  None may win.

Each of them does win against a monitor with a planted fault, or this would show nothing.
PROCTOR_RACES says how many tries each racer has (make test-races: 100,000), against all monitors and in
all identities together.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import proctor
from proctor.policy import loads
from tests.performing.support.callers import compiled, libc, open_directory
from tests.support.kernel import RELEASE

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0, reason="needs root to have targets with other identities"
    ),
    pytest.mark.timeout(3000),
]
TRIES = int(os.environ.get("PROCTOR_RACES", "2000"))
#: Most tries until a planted fault shows.
PATIENCE = 100_000
CALLS = ["open", "openat", "openat2", "creat", "mknod", "mknodat"]

Handler = Callable[[proctor.Call], proctor.Verdict]


class Identity(NamedTuple):
    uid: int
    options: dict[str, Any]


IDENTITIES = {
    "own": Identity(0, {}),
    "user": Identity(1000, {"uid": 1000, "gid": 1000, "groups": ()}),
    "container": Identity(100000, {"userns": [(0, 100000, 65536)]}),
}
PATHS = [
    "path", "absolute-path", "directory", "directory-truncated", "above", "link", "created-by-path",
    "created-by-link", "dirfd", "cwd", "proc-cwd", "proc-fd", "fifo-path",
]  # fmt: skip


# Where it is played -----------------------------------------------------------------------------


class Tree:
    """What a racer works in: it owns all of it, and is allowed all but what is below ``not``."""

    def __init__(self, top: bytes, owner: int) -> None:
        self.top = top
        for name in (
            b"yes",
            b"not",
            b"play",
            b"play/dir",
            b"play/deep",
            b"play/deep/deep",
            b"play/deep/deep/x",
        ):
            os.mkdir(top + b"/" + name)
        for name, text in (
            (b"yes/file", b"yes\n"), (b"not/file", b"not\n"), (b"file", b"not\n"), (b"play/file", b"yes\n"),
            (b"play/dir/file", b"yes\n"),
        ):  # fmt: skip
            with open(top + b"/" + name, "wb") as file:
                file.write(text)
        for name, target in (
            (b"dir-to-not", b"../not"), (b"link", b"../yes/file"), (b"link-to-not", b"../not/file"),
            (b"new", b"../yes/new"), (b"new-to-not", b"../not/new"),
        ):  # fmt: skip
            os.symlink(target, top + b"/play/" + name)
        for directory, directories, files in os.walk(top):
            for each in (b".", *directories, *files):
                os.chown(os.path.join(directory, each), owner, owner, follow_symlinks=False)
        self.allowed = os.stat(top + b"/yes/file").st_ino
        self.before = self._forbidden()

    def _forbidden(self) -> dict[bytes, bytes]:
        found = {}
        for name in (b"file", *(b"not/" + each for each in os.listdir(self.top + b"/not"))):
            path = self.top + b"/" + name
            if stat.S_ISREG(os.lstat(path).st_mode):
                found[name] = Path(os.fsdecode(path)).read_bytes()
            elif not name.endswith(b"/deep"):
                found[name] = b"is new"
        return found

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """What happens to what is forbidden, as somebody outside sees it: a list of these things."""
        seen: list[str] = []
        watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        opened, modified, made = 0x20, 0x2, 0x100
        if RELEASE < (6, 11):
            opened = 0  # these kernels tell of O_PATH, too, which opens nothing
        assert libc.inotify_add_watch(watch, self.top + b"/not", opened | modified | made) > 0
        assert libc.inotify_add_watch(watch, self.top + b"/file", opened | modified) > 0
        try:
            yield seen
            data = b""
            try:
                data = os.read(watch, 1 << 20)
            except BlockingIOError:
                pass
        finally:
            os.close(watch)
        at = 0
        while at < len(data):
            _, mask, _, length = struct.unpack_from("=iIII", data, at)
            name = data[at + 16 : at + 16 + length].rstrip(b"\0")
            at += 16 + length
            if not mask & 0x40000000:  # not a directory: "deep" is exchanged
                seen.append(f"{name!r}: {mask:#x}")
        if self._forbidden() != self.before:
            seen.append(f"there is now {self._forbidden()}")

    def forbids(self, path: bytes) -> bool:
        return path.startswith((self.top + b"/not/", self.top + b"/file"))


@pytest.fixture(scope="session")
def racer() -> Iterator[str]:
    """The compiled racer."""
    with compiled("racer") as made:
        yield made


class Race(NamedTuple):
    tried: int
    got: int
    refused: int
    won: int
    #: What was seen from outside, and what the racer says of what it won.
    seen: list[str]


def race(
    racer: str,
    game: str,
    tree: Tree,
    identity: Identity,
    tries: int,
    *more: str,
    **how: Any,
) -> Race:
    with tree.watched() as seen:
        done = proctor.run(
            [racer, game, str(tries), *more], cwd=os.fsdecode(tree.top), capture_output=True,
            **identity.options, **how,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    won = os.fsdecode(done.stderr).splitlines()[:9]
    return Race(*map(int, done.stdout.split()[1::2]), [*seen, *won])


@pytest.fixture(params=IDENTITIES)
def identity(request: pytest.FixtureRequest) -> Identity:
    return IDENTITIES[request.param]


@pytest.fixture
def tree(identity: Identity) -> Iterator[Tree]:
    with open_directory() as top:
        yield Tree(top, identity.uid)


# Monitors ---------------------------------------------------------------------------------------


def asks(tree: Tree) -> dict[str, Any]:
    """What is held is asked about."""

    def handler(call: proctor.Call) -> proctor.Verdict:
        return proctor.perform(allow=lambda argument, path: not tree.forbids(path))

    return {"handlers": [proctor.Handler(CALLS, handler, performs=True)]}


def looks(tree: Tree) -> dict[str, Any]:
    """What was found by looking is what must be performed."""

    def handler(call: proctor.Call) -> proctor.Verdict:
        try:
            found = call.resolve()
        except proctor.NotResolved:
            return proctor.deny(errno.ENOENT)
        if tree.forbids(found.path):
            return proctor.deny(errno.EACCES)
        return proctor.perform()

    return {"handlers": [proctor.Handler(CALLS, handler, performs=True)]}


def ruled(tree: Tree) -> dict[str, Any]:
    """The same by a policy: it performs what it does not refuse."""
    top = os.fsdecode(tree.top)
    policy = loads(
        f'[[rule]]\nname = "no"\ncalls = {CALLS}\nwhen = {{ path = ["{top}/not/**", "{top}/file"] }}\n'
        f'deny = "EACCES"\n[[rule]]\nname = "yes"\ncalls = {CALLS}\nperform = true\n'
    )
    return {
        "handlers": policy.handlers(), "filter": policy.filter(), **policy.supervisor_options()
    }  # fmt: skip


def looks_at_files(tree: Tree) -> dict[str, Any]:
    """The thing itself is what counts: roots give names to anything."""

    def handler(call: proctor.Call) -> proctor.Verdict:
        found = call.resolve()
        good = found.stat is not None and found.stat.st_ino == tree.allowed
        return proctor.perform() if good else proctor.deny(errno.EACCES)

    return {"handlers": [proctor.Handler(CALLS, handler, performs=True)]}


def reads_how(tree: Tree) -> dict[str, Any]:
    """Reads only, and below the working directory where that is asked for."""

    def handler(call: proctor.Call) -> proctor.Verdict:
        how = call.how
        absolute = call.path.startswith(b"/")
        if how.flags & (os.O_ACCMODE | os.O_TRUNC) or (absolute and not how.resolve & 8):
            return proctor.deny(errno.EACCES)
        return proctor.perform()

    return {"handlers": [proctor.Handler(["openat2"], handler, performs=True)]}


def reads_device(tree: Tree) -> dict[str, Any]:
    def handler(call: proctor.Call) -> proctor.Verdict:
        if call.args["dev"] != os.makedev(1, 3):
            return proctor.deny(errno.EACCES)
        return proctor.perform()

    return {"handlers": [proctor.Handler(["mknod", "mknodat"], handler, performs=True)]}


def knows_the_terminal(tree: Tree) -> dict[str, Any]:
    return {"handlers": [proctor.Handler(CALLS, lambda call: proctor.perform(), performs=True)]}


# Faults -----------------------------------------------------------------------------------------


def let_run(made: dict[str, Any]) -> dict[str, Any]:
    """What was looked at is left to the kernel, which looks again."""
    (handler,) = made["handlers"]

    def faulty(call: proctor.Call) -> proctor.Verdict:
        verdict = handler(call)
        return (
            proctor.let_run_unsafe("a planted fault")
            if isinstance(verdict, proctor.Perform)
            else verdict
        )

    return {"handlers": [proctor.Handler(handler.names, faulty)]}


def remembered(made: dict[str, Any]) -> dict[str, Any]:
    """What was decided once about a path is taken to hold for other arguments, too."""
    (handler,) = made["handlers"]
    known: dict[bytes, proctor.Verdict] = {}

    def faulty(call: proctor.Call) -> proctor.Verdict:
        verdict = known.get(call.path) or handler(call)
        if isinstance(verdict, proctor.Perform):
            known[call.path] = verdict
        return verdict

    return {"handlers": [proctor.Handler(handler.names, faulty, performs=True)]}


def opened_again(made: dict[str, Any]) -> dict[str, Any]:
    """What a descriptor is, is looked at, and then it is taken by its number."""

    def faulty(call: proctor.Call) -> proctor.Verdict:
        if call.path != b"/dev/tty":
            return proctor.perform()
        number = call.caller.tty
        for place in (0, 2):
            if os.fstat(call.caller.dir_fd(place)).st_rdev == number:
                return proctor.hand_over(
                    os.open(f"/proc/{call.tid}/fd/{place}", os.O_RDWR | os.O_NOCTTY)
                )
        return proctor.deny(errno.ENXIO)

    return {"handlers": [proctor.Handler(CALLS, faulty)]}


# Tests ------------------------------------------------------------------------------------------


def has_no_win(found: Race, got: bool = True) -> None:
    assert found.won == 0
    assert not found.seen
    assert found.refused  # both states were met
    assert found.got or not got


@pytest.mark.parametrize("monitor", [asks, looks, ruled])
@pytest.mark.parametrize("game", PATHS)
def test_no_exchange_of_a_path_wins(
    racer: str, tree: Tree, identity: Identity, game: str, monitor: Any
) -> None:
    has_no_win(race(racer, game, tree, identity, TRIES // 9, "both", **monitor(tree)))


ONLY_CONTAINERS = pytest.mark.parametrize("identity", ["own", "container"], indirect=True)


@ONLY_CONTAINERS
@pytest.mark.parametrize("monitor", [asks, looks, ruled])
def test_no_exchange_of_a_node_s_path_wins(
    racer: str, tree: Tree, identity: Identity, monitor: Any
) -> None:
    has_no_win(race(racer, "mknod-path", tree, identity, TRIES // 6, "both", **monitor(tree)))


@ONLY_CONTAINERS
def test_no_exchange_of_a_device_wins(racer: str, tree: Tree, identity: Identity) -> None:
    has_no_win(
        race(racer, "mknod-device", tree, identity, TRIES // 2, "both", **reads_device(tree))
    )


@pytest.mark.parametrize("game", ["open_how-flags", "open_how-resolve"])
def test_no_exchange_of_an_open_how_wins(
    racer: str, tree: Tree, identity: Identity, game: str
) -> None:
    gets = game == "open_how-flags"
    until = ["both"] if gets else []
    has_no_win(race(racer, game, tree, identity, TRIES // 3, *until, **reads_how(tree)), gets)


@ONLY_CONTAINERS
def test_no_exchange_of_roots_wins(racer: str, tree: Tree, identity: Identity) -> None:
    has_no_win(race(racer, "root", tree, identity, TRIES // 2, "both", **looks_at_files(tree)))


def test_no_exchange_of_descriptors_0_to_2_wins(racer: str, tree: Tree, identity: Identity) -> None:
    has_no_win(
        race(racer, "terminal", tree, identity, TRIES // 3, "both", **knows_the_terminal(tree))
    )


FAULTS: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys([*PATHS, "mknod-path"], (looks, let_run)),
    "open_how-flags": (reads_how, let_run),
    "open_how-resolve": (reads_how, let_run),
    "mknod-device": (reads_device, remembered),
    "root": (looks_at_files, let_run),
    "terminal": (knows_the_terminal, opened_again),
}


@pytest.mark.parametrize("identity", ["own"], indirect=True)
@pytest.mark.parametrize("game", FAULTS)
def test_each_racer_beats_a_monitor_with_a_fault(
    racer: str, tree: Tree, identity: Identity, game: str
) -> None:
    monitor, fault = FAULTS[game]
    found = race(racer, game, tree, identity, PATIENCE, "first", **fault(monitor(tree)))
    assert found.won == 1
    seen = [each for each in found.seen if not each.startswith("won ")]
    assert len(seen) < len(found.seen)
    if game not in ("mknod-device", "open_how-flags", "terminal"):  # there is nothing to be seen
        assert seen

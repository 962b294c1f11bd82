"""Names and attributes, natively and performed: random calls on twin trees, which stay alike.

PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.performing.at_random.test_random import container_root
from tests.performing.families.test_open_differential import MAP, Pair, as_user, container_user
from tests.performing.support.callers import AT_FDCWD, Caller, Performers, open_directory, snapshot
from tests.performing.support.trees import build

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0, reason="needs root to have callers with other identities"
    ),
    pytest.mark.timeout(3000),
]
TRIES = int(os.environ.get("PROCTOR_TRIES", "300"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
#: After so many calls trees are built anew: by then much is gone.
ROUND = 60

KINDS: dict[str, tuple[Callable[[], object] | None, str | None, int, dict[str, Any]]] = {
    "root": (None, None, 0, {}),
    "user": (as_user, None, 1000, {}),
    "container-root": (container_root, MAP, 100000, {}),
    "container-user": (container_user, MAP, 100010, {}),
    "thread, new proc": (None, MAP, 100000, {"proc": "new", "threaded": True}),
}
NAMES = [
    b"file", b"dir", b"inside", b"new", b"fresh", b"unreadable", b"readonly", b"others", b"locked", b"others-dir",
    b"sticky", b"mine", b"setgid", b"noexec", b"to-file", b"to-dir", b"dangling", b"loop-a", b"chain", b"up", b"link40",
    b"fifo", b"x", b"n" * 255, b"n" * 256,
]  # fmt: skip
STARTS = [
    b"", b"", b"", b"", b"", b"/TOP/", b"/TOP/dir/", b"/proc/self/cwd/", b"/proc/self/root/TOP/", b"/proc/self/fd/77/",
    b"to-dir/", b"dir/../", b"sticky/", b"others-dir/", b"setgid/", b"missing/", b"file/",
]  # fmt: skip
MODES = [0, 0o600, 0o755, 0o6777, 0o1777, 0o644, 0o100644]
IDS = [0, 10, 20, 1000, 65534, 70000, -1, -1]
TIMES = struct.Struct("=4q")
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2


def a_call(chance: random.Random) -> tuple[Any, ...]:
    def path() -> bytes:
        steps = b"/".join(chance.choice(NAMES) for _ in range(chance.choice([1, 1, 1, 2])))
        end = chance.choice([b"", b"", b"", b"", b"", b"/", b"/.", b"/..", b"//"])
        return chance.choice([b"", b".", b"..", b"/"]) if chance.random() < 0.03 else (
            chance.choice(STARTS) + steps + end
        )  # fmt: skip

    def below() -> bytes:
        made = path()
        return b"." if made == b"/" else made  # root would change this machine's own

    def times() -> Any:
        seconds = chance.choice([0, 1, -5, 1 << 31]), chance.choice([7, 1 << 33])
        parts = [chance.choice([0, 999999999, 1000000000, OMIT, -1]) for _ in range(2)]
        return TIMES.pack(seconds[0], parts[0], seconds[1], parts[1])

    dirfd, other = (chance.choice([AT_FDCWD] * 5 + [77, 78, 999]) for _ in range(2))
    owner, group = chance.choice(IDS), chance.choice(IDS)
    mode = chance.choice(MODES)
    # below a descriptor it takes a right, or having opened that oneself, which nobody can see
    empty = 0x1400 if dirfd == AT_FDCWD else 0x1000
    calls: list[tuple[Any, ...]] = [
        ("mkdir", path(), mode), ("mkdirat", dirfd, path(), mode), ("rmdir", path()), ("unlink", path()),
        ("unlinkat", dirfd, path(), chance.choice([0, 0, 0x200, 1])),
        ("rename", path(), path()), ("renameat", dirfd, path(), other, path()),
        ("renameat2", dirfd, path(), other, path(), chance.choice([0, 1, 2, 3, 4, 8])),
        ("link", path(), path()),
        ("linkat", dirfd, path(), other, path(), chance.choice([0, 0x400, empty, 1])),
        ("symlink", chance.choice([b"", b"file", b"../file", b"x" * 4095, b"/TOP"]), path()),
        ("symlinkat", b"dir", dirfd, path()),
    ]  # fmt: skip
    attributes: list[tuple[Any, ...]] = [
        ("chmod", below(), mode), ("fchmodat", dirfd, below(), mode),
        ("fchmodat2", dirfd, below(), mode, chance.choice([0, 0x100, 0x1000, 2])),
        ("chown", below(), owner, group), ("lchown", below(), owner, group),
        ("fchownat", dirfd, below(), owner, group, chance.choice([0, 0x100, 0x1000, 4])),
        ("utimensat", dirfd, below(), times(), chance.choice([0, 0x100, 0x1000, 1])),
        ("utimensat", 78, 0, times(), 0), ("utimensat", 999, 0, times(), 0),
        ("utimes", below(), TIMES.pack(3, 4, 5, chance.choice([6, 1000000, -1]))),
        ("futimesat", dirfd, below(), TIMES.pack(3, 4, 5, 6)),
        ("utime", below(), struct.pack("=2q", 8, 9)),
        ("truncate", below(), chance.choice([0, 3, 8, 100000, -1])),
        ("fchmodat2", 77, b"", mode, 0x1000), ("fchownat", 78, b"", owner, group, 0x1000),
    ]  # fmt: skip
    return chance.choice(
        calls if chance.random() < 0.6 else attributes
    )  # what has a size is in snapshots


def as_promised(call: tuple[Any, ...], ruled: bool) -> tuple[Any, ...]:
    """Arguments of what a call under a rule is like.  AT_EMPTY_PATH below a descriptor is for who opened that, also with a path
    (``path_init`` of fs/namei.c, Linux 6.10), which nobody can see: it is what it is without the flag."""
    if not ruled or call[0] != "linkat" or call[1] == AT_FDCWD or call[2][:1] in (b"", b"/"):
        return call[1:]
    return (*call[1:5], call[5] & ~0x1000)


class Twins(Pair):
    """As it says, in whatever state."""

    def __init__(self, kind: str, tops: tuple[bytes, bytes]) -> None:
        setup, maps, self.owner, more = KINDS[kind]
        self.tops = tops
        self.callers = []
        for top in tops:
            build(top, self.owner)

            def prepared(top: bytes = top) -> None:
                os.chdir(top)
                os.dup2(os.open(top + b"/dir", os.O_RDONLY), 77)
                os.dup2(os.open(top + b"/file", os.O_RDWR), 78)
                if setup is not None:
                    setup()

            self.callers.append(Caller(prepared, maps, **more))


def times_of(top: bytes) -> dict[bytes, tuple[int, int]]:
    """Those that were set, and not by the clock."""
    found = {}
    for directory, directories, files in os.walk(top):
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            at = os.lstat(path)
            if max(at.st_atime_ns, at.st_mtime_ns) < 100 * 10**9:
                found[os.path.relpath(path, top)] = at.st_atime_ns, at.st_mtime_ns
    return found


@pytest.fixture
def trees() -> Iterator[Callable[[str], Twins]]:
    made: list[Twins] = []
    places = []

    def build_them(kind: str) -> Twins:
        while made:
            made.pop().close()
        # deeper than paths go up
        tops = []
        for _ in range(2):
            place = open_directory()
            tops.append(place.__enter__() + b"/1/2/3/4/5/tree")
            places.append(place)
            os.makedirs(tops[-1])
            os.chmod(os.path.dirname(tops[-1]), 0o777)
        made.append(Twins(kind, (tops[0], tops[1])))
        return made[0]

    yield build_them
    while made:
        made.pop().close()
    for place in places:
        place.__exit__(None, None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_performed_is_what_the_kernel_does(
    trees: Callable[[str], Twins], kind: str
) -> None:
    chance = random.Random(SEED)
    wrong: list[Any] = []
    fine = 0
    with Performers(on_trouble=wrong.append) as performers:
        for number in range(TRIES):
            if not number % ROUND:
                twins = trees(kind)
            call = a_call(chance)
            how = {"allow": lambda argument, path: True} if chance.random() < 0.5 else {}
            native, performed = twins.both(
                performers, *call, natively=as_promised(call, bool(how)), **how
            )
            fine += native[0] != "errno"
            if native != performed:
                wrong.append((number, bool(how), call, native, performed))
            left = [(snapshot(top), times_of(top)) for top in twins.tops]
            if left[0] != left[1]:
                wrong.append((number, bool(how), call, native, performed, "trees"))
                twins = trees(kind)
    assert fine > TRIES / 20  # a user may do little there
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(map(str, wrong[:25]))


@pytest.fixture
def place() -> Iterator[bytes]:
    with open_directory() as top:
        yield top


def test_rules_are_asked_about_each_name(place: bytes) -> None:
    asked: list[tuple[str, bytes]] = []
    os.mkdir(place + b"/d")
    os.symlink(b"d", place + b"/l")
    with open(place + b"/f", "wb"):
        pass

    def allow(argument: str, path: bytes) -> bool:
        asked.append((argument, path.removeprefix(place)))
        return path.removeprefix(place) != b"/d/forbidden"

    setup = (lambda: os.chdir(place), None)
    one = Caller(*setup)
    try:
        with Performers() as performers:

            def go(*call: Any) -> Any:
                asked.clear()
                return one.performed(performers, *call, allow=allow)

            assert go("rename", b"f", b"l/g") == ("value", 0)
            assert asked == [("oldpath", b"/f"), ("newpath", b"/d/g")]
            assert go("rename", b"l/g", b"d/forbidden") == ("errno", errno.EACCES)
            assert go("mkdir", b"l/../d/forbidden/", 0o700) == ("errno", errno.EACCES)
            assert go("link", b"l/g", b"h") == ("value", 0)
            assert asked == [("oldpath", b"/d/g"), ("newpath", b"/h")]
            assert go("symlink", b"anywhere", b"./d/s") == ("value", 0)
            assert asked == [("linkpath", b"/d/s")]
            assert go("unlink", b"d/s") == ("value", 0)
            assert go("rmdir", b"d/.") == ("errno", errno.EINVAL)
            assert asked == [("path", b"/d")]
            assert go("chmod", b"l", 0o711) == ("value", 0)
            assert asked == [("path", b"/d")]
            assert go("lchown", b"l", 0, 7) == ("value", 0)
            assert asked == [("path", b"/l")]
    finally:
        one.kill()
    assert sorted(os.listdir(place + b"/d")) == [b"g"]
    assert stat.S_IMODE(os.stat(place + b"/d").st_mode) == 0o711
    assert os.lstat(place + b"/l").st_gid == 7

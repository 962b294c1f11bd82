"""open*: what is performed is what the kernel does for the caller itself, on many paths and flags."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proctor.performing.paths import wanted
from proctor.syscalls import architectures
from proctor.syscalls.flags import members
from tests.performing.support.callers import (
    AT_FDCWD,
    CLONE_NEWNS,
    Caller,
    Outcome,
    Performers,
    caller,
    drop_capabilities,
    open_directory,
    snapshot,
    unshare,
)
from tests.performing.support.trees import FIFOS, PATHS, build

RDONLY, WRONLY, RDWR = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
FLAGS = {
    "read": RDONLY,
    "write": WRONLY | os.O_APPEND,
    "both": RDWR | os.O_CLOEXEC,
    "truncate": WRONLY | os.O_TRUNC,
    "create": WRONLY | os.O_CREAT,
    "create-truncate": RDWR | os.O_CREAT | os.O_TRUNC,
    "exclusive": RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
    "create-nofollow": RDWR | os.O_CREAT | os.O_NOFOLLOW,
    "nofollow": RDONLY | os.O_NOFOLLOW,
    "directory": RDONLY | os.O_DIRECTORY,
    "directory-nofollow": RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
    "create-directory": RDONLY | os.O_CREAT | os.O_DIRECTORY,
    "tmpfile": RDWR | os.O_TMPFILE,
    "tmpfile-read": RDONLY | os.O_TMPFILE,
    "tmpfile-nofollow": RDWR | os.O_TMPFILE | os.O_NOFOLLOW,
    "truncate-read-nofollow": RDONLY | os.O_TRUNC | os.O_NOFOLLOW,
    "truncate-read-create": RDONLY | os.O_TRUNC | os.O_CREAT,
    "noatime": RDONLY | os.O_NOATIME,
    "strange": RDONLY | 0x40000000 | os.O_SYNC,
}


def as_user() -> None:
    os.umask(0o027)
    os.setgroups([4242, 30])
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)


def root_without_capabilities() -> None:
    drop_capabilities()
    os.umask(0o077)


def container_root() -> None:
    unshare(CLONE_NEWNS)
    os.umask(0)


def container_user() -> None:
    os.setgroups([5])
    os.setresgid(20, 20, 20)
    os.setresuid(10, 10, 10)


MAP = "0 100000 65536"
IDENTITIES: dict[str, tuple[Callable[[], object] | None, str | None, int]] = {
    "root": (None, None, 0),
    "user": (as_user, None, 1000),
    "container-root": (container_root, MAP, 100000),
    "container-user": (container_user, MAP, 100010),
    "capless-container": (root_without_capabilities, MAP, 100000),
}


class Pair:
    """Twins with the same identity, each in its own copy of the tree."""

    def __init__(self, setup: Any, maps: Any, owner: int, tops: tuple[bytes, bytes]) -> None:
        self.tops = tops
        self.owner = owner
        self.callers = []
        for top in tops:
            build(top, owner)

            def prepared(top: bytes = top) -> None:
                os.chdir(top)
                if setup is not None:
                    setup()

            self.callers.append(Caller(prepared, maps))
        self.fresh = snapshot(tops[0])

    def both(
        self, performers: Any, name: str, *args: Any, natively: tuple[Any, ...] = (), **how: Any
    ) -> tuple[Outcome, Outcome]:
        """
        :param natively: arguments of what it is to be like, if those are others."""
        native, performed = (
            tuple(arg.replace(b"TOP", top[1:]) if isinstance(arg, bytes) else arg for arg in given)
            for top, given in zip(self.tops, (natively or args, args), strict=True)
        )
        # When somebody mounts something anywhere, the kernel walks again from the start, and counts the
        # links of both walks (total_link_count in fs/namei.c): more than 20 may be too many.  When somebody
        # renames something, ".." in a scope is not known to stay there (handle_dots).
        disturbed = {("errno", errno.ELOOP), ("errno", errno.EAGAIN)}
        for _ in range(20):
            outcomes = (
                self.callers[0].natively(name, *native),
                self.callers[1].performed(performers, name, *performed, **how),
            )
            if outcomes[0] == outcomes[1] or not disturbed.intersection(outcomes):
                break
        return outcomes

    def close(self) -> None:
        for one in self.callers:
            one.kill()


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    if os.geteuid() != 0:
        pytest.skip("needs root to have callers with other identities")
    setup, maps, owner = IDENTITIES[request.param]
    with open_directory() as first, open_directory() as second:
        made = Pair(setup, maps, owner, (first, second))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def by(request: pytest.FixtureRequest) -> None:
    """Who opens for callers that are what the monitor is."""
    if request.param == "executor":
        request.getfixturevalue("executors")


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize(
    ("pair", "asked", "by"),
    [
        *((identity, False, "executor") for identity in IDENTITIES),
        *((identity, True, "executor") for identity in ("user", "container-root")),
        ("root", False, "monitor"),
        ("root", True, "monitor"),
    ],
    indirect=["pair", "by"],
)
def test_openat_is_the_kernels(pair: Pair, performers: Performers, asked: bool) -> None:
    how = {"allow": lambda argument, path: True} if asked else {}
    wrong = []
    for label, flags in FLAGS.items():
        for path in (*PATHS, *FIFOS):
            native, performed = pair.both(
                performers, "openat", AT_FDCWD, path, flags | os.O_NONBLOCK, 0o6777, **how
            )
            if native != performed:
                wrong.append((label, path[:60], native, performed))
            if flags & (os.O_CREAT | os.O_TRUNC):
                left = [snapshot(top) for top in pair.tops]
                if left[0] != left[1]:
                    wrong.append((label, path[:60], set(left[0].items()) ^ set(left[1].items())))
                clean(pair, left)
    assert not wrong, report(wrong)


def report(wrong: list[Any]) -> str:
    return f"{len(wrong)} differ:\n" + "\n".join(str(one) for one in wrong[:25])


def clean(pair: Pair, left: list[dict[bytes, Any]]) -> None:
    """Put back what a call made, truncated or changed."""
    for top, found in zip(pair.tops, left, strict=True):
        if found == pair.fresh:
            continue
        for path in found.keys() - pair.fresh.keys():
            os.unlink(os.path.join(top, path))
        for path, entry in pair.fresh.items():
            if found[path] != entry:
                with open(os.path.join(top, path), "wb") as stream:
                    stream.write(b"content\n")
    assert [snapshot(top) for top in pair.tops] == [pair.fresh] * 2


HOW = struct.Struct("=QQQ")
NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT, CACHED = 1, 2, 4, 8, 16, 32
RESOLVES = [
    NO_XDEV,
    NO_MAGICLINKS,
    NO_SYMLINKS,
    BENEATH,
    IN_ROOT,
    CACHED,
    BENEATH | IN_ROOT,
    1 << 20,
]
HOWS = [
    (RDONLY, 0), (RDONLY, 0o644), (RDONLY | os.O_CREAT, 0o640), (RDONLY | os.O_CREAT, 0o10640),
    (RDWR | os.O_CREAT | os.O_EXCL, 0o600), (RDONLY | 0x40000000, 0), (RDONLY | 1 << 40, 0),
    (RDWR | os.O_TMPFILE, 0o600), (RDONLY | os.O_NOFOLLOW, 0),
]  # fmt: skip
#: What resolve bits make a difference to.
PATHS_OPENAT2 = [
    b"file", b"/TOP/file", b"new", b"file/", b"", b"..", b"dir/../file", b"../x", b"/", b"to-file", b"to-dir/new",
    b"absolute", b"chain", b"dangling", b"dangling-in-dir", b"loop-a", b"others", b"missing/x",
    b"/dev/null", b"/proc/self/status", b"/proc/self/cwd/file", b"/proc/self/cwd", b"/proc/self",
    b"/proc/mounts", b"/proc/meminfo", b"/proc/self/root/TOP/file", b"/proc", b"/proc/self/../self/cwd/file",
]  # fmt: skip


@pytest.mark.parametrize("asked", [False, True], ids=["direct", "pinned"])
@pytest.mark.parametrize("pair", ["user", "container-root"], indirect=True)
def test_openat2_is_the_kernels(pair: Pair, performers: Performers, asked: bool) -> None:
    how = {"allow": lambda argument, path: True} if asked else {}
    wrong = []
    for resolve in RESOLVES:
        for flags, mode in HOWS:
            for path in PATHS_OPENAT2:
                packed = HOW.pack(
                    flags | os.O_NONBLOCK if flags < 1 << 32 else flags, mode, resolve
                )
                native, performed = pair.both(
                    performers, "openat2", AT_FDCWD, path, packed, HOW.size, **how
                )
                if resolve & CACHED and performed == ("errno", errno.EAGAIN):
                    continue  # always a good answer to RESOLVE_CACHED
                if native != performed:
                    wrong.append((resolve, oct(flags), path[:60], native, performed))
                if flags & os.O_CREAT:
                    clean(pair, [snapshot(top) for top in pair.tops])
    assert not wrong, report(wrong)


@pytest.mark.parametrize("pair", ["user"], indirect=True)
def test_openat2_sizes(pair: Pair, performers: Performers) -> None:
    packed, page = HOW.pack(RDONLY, 0, 0), os.sysconf("SC_PAGE_SIZE")
    for size, content in (
        (0, packed), (23, packed), (24, packed), (32, packed + bytes(8)), (32, packed + b"\1" + bytes(7)),
        (page, packed + bytes(page - 24)), (page + 1, packed + bytes(page - 23)), (1 << 40, packed),
    ):  # fmt: skip
        native, performed = pair.both(performers, "openat2", AT_FDCWD, b"file", content, size)
        assert native == performed, size


def test_flags_are_this_machines() -> None:
    """Those that libc does not say, or says otherwise."""
    known = members("OpenFlag", architectures.native())
    large, asynchronous = known["O_LARGEFILE"], known["O_ASYNC"]
    assert (large, asynchronous) == (wanted.O_LARGEFILE, wanted.O_FASYNC)
    assert known["O_TMPFILE"] == wanted.TMPFILE | known["O_DIRECTORY"]


@pytest.mark.parametrize("pair", ["user"], indirect=True)
def test_open_and_creat(pair: Pair, performers: Performers) -> None:
    if os.uname().machine not in ("x86_64", "i686"):
        pytest.skip("this architecture has neither open nor creat")
    for path in PATHS[:30]:
        native, performed = pair.both(performers, "creat", path, 0o666)
        assert native == performed, path
        native, performed = pair.both(performers, "open", path, RDONLY, 0)
        assert native == performed, path
    assert snapshot(pair.tops[0]) == snapshot(pair.tops[1])


@pytest.mark.parametrize("pair", ["user", "container-root"], indirect=True)
def test_a_directory_that_may_be_read_and_not_searched(pair: Pair, performers: Performers) -> None:
    """Opening it wants the right to read it alone, whatever its path ends with."""
    for top in pair.tops:
        path = os.path.join(top, b"unsearched")
        os.mkdir(path)
        os.chown(path, pair.owner, pair.owner)
        os.chmod(path, 0o444)
    for flags in (0, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_DIRECTORY | os.O_NOFOLLOW):
        for path in (
            b"unsearched",
            b"unsearched/",
            b"/TOP/unsearched/",
            b"unsearched//",
            b"unsearched/.",
        ):
            for how in ({}, {"allow": lambda argument, path: True}):
                native, performed = pair.both(performers, "openat", AT_FDCWD, path, flags, 0, **how)
                assert native == performed, (path, flags, how)


@pytest.mark.parametrize("pair", ["user"], indirect=True)
def test_bad_directories(pair: Pair, performers: Performers) -> None:
    """EBADF and ENOTDIR come when and where the kernel says them: not for absolute paths."""
    for dirfd in (999, -1, 0, -99):
        for path in (b"file", b"/TOP/file", b"", b"/proc/self/cwd/file"):
            for flags in (RDONLY, RDONLY | os.O_TMPFILE):
                native, performed = pair.both(performers, "openat", dirfd, path, flags, 0)
                assert native == performed, (dirfd, path, flags)


def test_no_file_is_made_in_a_containers_procfs(performers: Performers) -> None:
    """Where the caller has a number and the monitor none, the kernel would say so to the monitor."""
    if os.geteuid() != 0:
        pytest.skip("needs root to have callers with other identities")
    with caller(container_user, MAP, proc="new") as one:
        for path in (b"/dev/fd", b"/proc/self/fd", b"/proc/self/fdinfo", b"/proc/self", b"/proc"):
            for flags in (RDWR | os.O_TMPFILE, RDONLY | os.O_TMPFILE):
                native = one.natively("openat", AT_FDCWD, path, flags, 0o600)
                performed = one.performed(performers, "openat", AT_FDCWD, path, flags, 0o600)
                assert native == performed, (path, oct(flags))


def test_unsupported_call(performers: Performers) -> None:
    with caller() as one:
        assert one.performed(performers, "chdir", b"x") == ("errno", errno.ENOSYS)


def test_what_comes_where_nothing_was_is_asked_about(performers: Performers) -> None:
    """Between the question about a new file and its creation, something else is put there."""
    if os.geteuid() != 0:
        pytest.skip("needs root to have callers with other identities")
    asked: list[tuple[str, bytes]] = []
    with open_directory() as top, caller(as_user) as one:
        os.chmod(top, 0o777)
        path = top + b"/new"

        def allow(argument: str, path: bytes) -> bool:
            asked.append((argument, path))
            if len(asked) == 1:
                with open(top + b"/other", "wb") as file:
                    file.write(b"there before")
                os.chmod(top + b"/other", 0o666)
                os.rename(top + b"/other", path)
            return len(asked) == 1

        flags = RDWR | os.O_CREAT | os.O_TRUNC
        assert one.performed(performers, "openat", AT_FDCWD, path, flags, 0o600, allow=allow) == (
            "errno",
            errno.EACCES,
        )
        assert asked == [("path", path)] * 2
        with open(path, "rb") as file:
            assert file.read() == b"there before"


LARGEFILE = 0o100000


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has no calls of i386")
@pytest.mark.parametrize("asked", [False, True], ids=["direct", "pinned"])
def test_opened_as_by_programs_of_32_bits(performers: Performers, top: bytes, asked: bool) -> None:
    """Without O_LARGEFILE, where the kernel leaves it out: it shows, and files of 2 GiB do not open."""
    how = {"allow": lambda argument, path: True} if asked else {}
    os.chmod(top, 0o777)
    os.mkdir(top + b"/dir")
    for name in (b"file", b"big"):
        with open(top + b"/" + name, "wb") as file:
            os.fchmod(file.fileno(), 0o666)
            file.truncate(4 if name == b"file" else 1 << 31)
    os.symlink("file", top + b"/link")
    flags = [
        0, LARGEFILE, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
        os.O_NOFOLLOW, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, os.O_WRONLY | os.O_TRUNC, os.O_DIRECTORY, os.O_RDWR | os.O_TMPFILE,
        os.O_RDWR | os.O_APPEND | os.O_CREAT | LARGEFILE, 3,
    ]  # fmt: skip
    with caller(as_user if os.geteuid() == 0 else None, arch="i386") as one:
        for path in (
            b"file",
            b"link",
            b"big",
            b"new",
            b"dir",
            b"dir/",
            b"dir/.",
            b"/proc/self/comm",
        ):
            where = path if path.startswith(b"/") else top + b"/" + path
            calls: list[tuple[Any, ...]] = []
            for each in flags:
                calls += [("openat", AT_FDCWD, where, each, 0o444), ("open", where, each, 0o666)]
                packed = HOW.pack(
                    each, 0o600 if each & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY) else 0, 0
                )
                calls.append(("openat2", AT_FDCWD, where, packed, HOW.size))
            calls.append(("creat", where, 0o600))
            for call in calls:
                outcomes = []
                for act in (one.natively, lambda *call: one.performed(performers, *call, **how)):
                    outcomes.append((act(*call), os.stat(top + b"/big").st_size))
                    if os.path.exists(top + b"/new"):
                        os.unlink(top + b"/new")
                    os.truncate(top + b"/big", 1 << 31)
                assert outcomes[0] == outcomes[1], call
        assert one.natively("open", top + b"/big", 0, 0) == ("errno", errno.EOVERFLOW)

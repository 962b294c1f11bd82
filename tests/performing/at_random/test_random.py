"""Random opens and nodes, natively and performed: same result, errno, owner, mode, F_GETFL.

PROCTOR_TRIES says how many for each kind of caller (make test-races takes thousands); PROCTOR_SEED where
they begin.
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

from tests.performing.families.test_open_differential import (
    MAP,
    Pair,
    as_user,
    clean,
    container_user,
)
from tests.performing.support.callers import (
    AT_FDCWD,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_BIND,
    MS_NODEV,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    Caller,
    Performers,
    drop_capabilities,
    in_dead_root,
    libc,
    mount,
    open_directory,
    private_mounts,
    snapshot,
    unshare,
)
from tests.performing.support.trees import build

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0, reason="needs root to have callers with other identities"
    ),
    pytest.mark.timeout(3000),
]
TRIES = int(os.environ.get("PROCTOR_TRIES", "100"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))

NAMES = [
    b"file", b"dir", b"inside", b"new", b"unreadable", b"readonly", b"others", b"locked", b"others-dir", b"sticky",
    b"mine", b"setgid", b"noexec", b"to-file", b"to-dir", b"dangling", b"dangling-in-dir", b"loop-a", b"absolute",
    b"chain", b"up", b"fifo", b"proc-self", b"proc-cwd", b"proc-fd", b"link40", b"x",
]  # fmt: skip
STEPS = [b"..", b".", b"", b"..", *NAMES]
STARTS = [
    b"", b"", b"", b"", b"/TOP/", b"/TOP/dir/", b"/proc/self/cwd/", b"/proc/self/root/TOP/", b"/proc/thread-self/cwd/",
    b"/proc/self/fd/77/", b"proc-cwd/", b"/proc/self/task/../cwd/", b"/proc/self/../self/cwd/", b"/dev/fd/77/",
]  # fmt: skip
PROC = [
    b"/proc/self/status", b"/proc/self/maps", b"/proc/self/fd", b"/proc/self/fd/77", b"/proc/self/fd/78",
    b"/proc/self/fdinfo/77", b"/proc/self/exe", b"/proc/self/ns/mnt", b"/proc/self/attr/current", b"/proc/self/mem",
    b"/proc/self/environ", b"/proc/self/oom_score_adj", b"/proc/self/comm", b"/proc/self/task", b"/proc/self/root",
    b"/proc/thread-self/status", b"/proc/thread-self/fd/77", b"/proc/1/status", b"/proc/1/environ", b"/proc/1/root/etc",
    b"/proc/1/fd/0", b"/proc/2/status", b"/proc/mounts", b"/proc/meminfo", b"/proc/net/dev", b"/proc/sys/kernel/hostname",
    b"/proc/sys/net/ipv4/ip_forward", b"/proc/sys", b"/proc", b"/proc/", b"/proc/self", b"/proc/self/", b"/proc/self/.",
    b"/proc/999999/status", b"/proc/self/nothing", b"/proc/self/fd/999", b"/proc/self/cwd", b"/proc/self/cwd/",
    b"/proc/self/status/x", b"/proc/self/uid_map", b"/proc/self/setgroups", b"proc-self", b"proc-self/status", b"proc-fd",
    b"/dev/null", b"/dev/zero", b"/dev/full", b"/dev/tty", b"/dev/ptmx", b"/dev/stdin", b"/dev/fd", b"/sys", b"/sys/kernel",
]  # fmt: skip
ACCESS = [os.O_RDONLY, os.O_RDONLY, os.O_WRONLY, os.O_RDWR, 3]
FLAGS = [
    os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW, os.O_NOFOLLOW,
    os.O_CLOEXEC, os.O_SYNC, os.O_NOATIME, os.O_TMPFILE, os.O_DIRECT, os.O_NOCTTY,
]  # fmt: skip
HOW = struct.Struct("=QQQ")


def container_root() -> None:
    unshare(CLONE_NEWNS)
    os.umask(0)


def nested(inside: int) -> Callable[[], None]:
    """In a user namespace of its own making, in which it has one id."""

    def setup() -> None:
        uid, gid = os.geteuid(), os.getegid()
        libc.prctl(4, 1, 0, 0, 0)  # dumpable again: it may write its own maps
        unshare(CLONE_NEWUSER)
        for kind, text in (
            ("setgroups", "deny"), ("uid_map", f"{inside} {uid} 1"), ("gid_map", f"{inside} {gid} 1"),
        ):  # fmt: skip
            with open(f"/proc/self/{kind}", "w") as file:
                file.write(text)

    return setup


def nested_user() -> None:
    container_user()
    nested(7)()


def some_capabilities() -> None:
    drop_capabilities(1 << 2 | 1 << 4)  # CAP_DAC_READ_SEARCH, CAP_FSETID


def owner_of_all() -> None:
    """CAP_FOWNER, for sticky directories and O_NOATIME; without any over files."""
    os.setgroups([4242])
    drop_capabilities(1 << 3)


def in_mounts() -> None:
    """Mounts that refuse: below, beside and on the way."""
    private_mounts()
    for name, flags in ((b"dir", MS_RDONLY), (b"setgid", MS_NODEV), (b"noexec", MS_NOSYMFOLLOW)):
        mount(name, name, b"none", MS_BIND)
        mount(b"none", name, b"none", MS_BIND | MS_REMOUNT | flags)
    mount(b"others", b"readonly", b"none", MS_BIND)  # a file, on a file
    mount(b"/proc", b"others-dir", b"none", MS_BIND | MS_REC)


def in_chroot() -> None:
    """In its tree, with a procfs."""
    private_mounts()
    mount(b"/proc", b"proc", b"none", MS_BIND | MS_REC)
    os.chroot(".")
    os.chdir("/")


def hidden_processes() -> None:
    """A procfs that shows only one's own processes (hidepid=2)."""
    private_mounts()
    mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2")
    as_user()


KINDS: dict[str, tuple[Callable[[], object] | None, str | None, int, dict[str, Any]]] = {
    "root": (None, None, 0, {}),
    "user": (as_user, None, 1000, {}),
    "container-root": (container_root, MAP, 100000, {}),
    "container-user": (container_user, MAP, 100010, {}),
    "thread": (container_root, MAP, 100000, {"threaded": True}),
    "old proc": (None, None, 0, {"proc": "old"}),
    "new proc": (None, None, 0, {"proc": "new"}),
    "container, old proc": (None, MAP, 100000, {"proc": "old"}),
    "container, new proc": (container_user, MAP, 100010, {"proc": "new"}),
    "thread, new proc": (None, MAP, 100000, {"proc": "new", "threaded": True}),
    "nested root": (nested(0), MAP, 100000, {}),
    "nested user, new proc": (nested_user, MAP, 100010, {"proc": "new"}),
    "nested root, old proc": (nested(0), MAP, 100000, {"proc": "old", "threaded": True}),
    "some capabilities": (some_capabilities, None, 0, {}),
    "owner of all": (owner_of_all, None, 1000, {}),
    "mounts": (in_mounts, None, 0, {}),
    "container, mounts": (in_mounts, MAP, 100000, {}),
    "chroot": (in_chroot, None, 0, {}),
    "container, chroot": (in_chroot, MAP, 100000, {"proc": "new"}),
    "dead root": (in_dead_root, None, 0, {}),
    "container, dead root": (in_dead_root, MAP, 100000, {"proc": "new"}),
    "hidden processes": (hidden_processes, None, 1000, {"proc": "new"}),
    "32 bits": (as_user, None, 1000, {"arch": "i386"}),
    "container, 32 bits": (None, MAP, 100000, {"arch": "i386", "proc": "new"}),
}


class Twins(Pair):
    """As it says, in whatever state."""

    def __init__(self, kind: str, tops: tuple[bytes, bytes]) -> None:
        setup, maps, self.owner, more = KINDS[kind]
        self.tops = tops
        self.arch = more.get("arch", "")
        self.callers = []
        for top in tops:
            build(top, self.owner)
            os.mkdir(top + b"/proc")
            for fifo in (b"/fifo", b"/others-fifo"):
                os.unlink(top + fifo)  # opened for real it would wait
            for name, target in (
                (b"proc-self", b"/proc/self"),
                (b"proc-cwd", b"/proc/self/cwd"),
                (b"proc-fd", b"/proc/self/fd/77"),
            ):
                os.symlink(target, top + b"/" + name)
                os.chown(top + b"/" + name, self.owner, self.owner, follow_symlinks=False)

            def prepared(top: bytes = top) -> None:
                os.chdir(top)
                os.dup2(os.open(top + b"/dir", os.O_RDONLY), 77)
                os.dup2(os.open(top + b"/file", os.O_RDWR), 78)
                if setup is not None:
                    setup()

            self.callers.append(Caller(prepared, maps, **more))
        self.fresh = snapshot(tops[0])


@pytest.fixture
def twins(request: pytest.FixtureRequest) -> Iterator[Twins]:
    with open_directory() as first, open_directory() as second:
        # deeper than paths go up: what is made beside and above is each one's own, too
        tops = first + b"/1/2/3/4/5/tree", second + b"/1/2/3/4/5/tree"
        for top in tops:
            os.makedirs(top)
            os.chmod(os.path.dirname(top), 0o777)
        made = Twins(request.param, tops)
        try:
            yield made
        finally:
            made.close()


def a_path(chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        path = chance.choice(PROC)
        if b"root" in path:  # nothing is made in the machine's own
            return path
        return path + chance.choice([b"", b"", b"", b"/", b"/..", b"/x"])
    steps = b"/".join(chance.choice(STEPS) for _ in range(chance.randrange(1, 5)))
    start = chance.choice(STARTS)
    if not start and steps.startswith(b"/"):
        start = b"/TOP"  # nothing is made in the machine's own root either
    return start + steps + chance.choice([b"", b"", b"", b"", b"/", b"/."])


def a_call(chance: random.Random) -> tuple[Any, ...]:
    path, dirfd = a_path(chance), chance.choice([AT_FDCWD] * 6 + [77, 78, 999, -1])
    if chance.random() < 0.15:
        kind = chance.choice(
            [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, 0, stat.S_IFDIR]
        )
        return "mknodat", dirfd, path, kind | chance.choice([0o600, 0o6777, 0o644]), 0
    flags = chance.choice(ACCESS) | os.O_NONBLOCK
    for _ in range(chance.choice([0, 0, 1, 1, 2, 3])):
        flags |= chance.choice(FLAGS)
    mode = chance.choice([0, 0o600, 0o6777, 0o644])
    if chance.random() < 0.3:
        resolve = chance.choice([0, 0, 1, 2, 4, 8, 16, 3, 9])
        made = flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY)
        return "openat2", dirfd, path, HOW.pack(flags, mode if made else 0, resolve), HOW.size
    return "openat", dirfd, path, flags, mode


@pytest.mark.parametrize("twins", KINDS, indirect=True)
def test_what_is_performed_is_what_the_kernel_does(twins: Twins) -> None:
    chance = random.Random(SEED)
    wrong = []
    with Performers(on_trouble=wrong.append) as performers:
        for number in range(TRIES):
            call = a_call(chance)
            how = {"allow": lambda argument, path: True} if chance.random() < 0.4 else {}
            native, performed = twins.both(performers, *call, **how)
            if native != performed and not expected(call, native, performed, twins.arch):
                wrong.append((number, bool(how), call, native, performed))
            beside = [sorted(os.listdir(os.path.dirname(top))) for top in twins.tops]
            if beside[0] != beside[1]:
                wrong.append((number, bool(how), call, *beside))
            for top, names in zip(twins.tops, beside, strict=True):
                for name in names:
                    if name != b"tree":
                        os.unlink(os.path.join(os.path.dirname(top), name))
            left = [snapshot(top) for top in twins.tops]
            if left[0] != left[1]:
                wrong.append((number, bool(how), call, set(left[0].items()) ^ set(left[1].items())))
            if left != [twins.fresh] * 2:
                clean(twins, left)
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(map(str, wrong[:25]))


def expected(call: tuple[Any, ...], native: Any, performed: Any, arch: str) -> bool:
    """What docs/policy.md says of /dev/tty, and of directories that programs of 32 bits open with O_NOFOLLOW; and a process's own fd directory, which the kernel lets that process write to, whatever its mode, before it says
    that it cannot be done."""
    path: bytes = call[2]
    if path.startswith(b"/dev/tty"):
        return performed == ("errno", errno.ENXIO)
    if arch == "i386" and call[0] == "openat" and native[:2] == performed[:2] == ("fd", "0o40600"):
        flags = oct(int(native[6], 8) | 0o100000)
        return bool(call[3] & os.O_NOFOLLOW) and performed == (*native[:6], flags, *native[7:])
    unable = (("errno", errno.EOPNOTSUPP), ("errno", errno.EACCES))
    return b"fd" in path and (native, performed) == unable

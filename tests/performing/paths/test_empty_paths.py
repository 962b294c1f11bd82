"""linkat with AT_EMPTY_PATH, natively and performed: the kernel asks who opened the descriptor."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from proctor.call.verdict import LetRun
from tests.performing.families.test_open_differential import MAP
from tests.performing.support.callers import (
    AT_FDCWD,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_BIND,
    Caller,
    Performers,
    capset,
    mount,
    open_directory,
    outcome,
    private_mounts,
    unshare,
)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root to have callers with other identities"
)
EMPTY, FOLLOW = 0x1000, 0x400
CAP_DAC_READ_SEARCH = 2
#: What is open of each kind, before and after its caller became what it is.
FILE, ONLY_A_PATH, NAMELESS, DIRECTORY, LINK = range(70, 75)
LATER = 10


def opened(first: int) -> None:
    for number, (path, flags) in enumerate(
        (
            (b"file", os.O_RDONLY),
            (b"file", os.O_PATH),
            (b"dir", os.O_TMPFILE | os.O_RDWR),
            (b"dir", os.O_RDONLY),
            (b"link", os.O_PATH | os.O_NOFOLLOW),
        ),
        first,
    ):
        os.dup2(os.open(path, flags, 0o600), number)


def user(capabilities: int = 0) -> None:
    os.setgroups([])
    os.setresgid(1000, 1000, 1000)
    if capabilities:
        import ctypes

        ctypes.CDLL(None).prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setresuid(1000, 1000, 1000)
    if capabilities:
        capset(capabilities, capabilities)


def alone() -> None:
    """In a user namespace of its own making, whose files its parent's root has opened."""
    unshare(CLONE_NEWUSER | CLONE_NEWNS)


#: How they become what they are, the map of their user namespace, and who owns the tree.
KINDS: dict[str, tuple[Callable[[], object], str | None, int]] = {
    "root": (lambda: None, None, 0),
    "user": (user, None, 1000),
    "user who reads": (lambda: user(1 << CAP_DAC_READ_SEARCH), None, 1000),
    "container-root": (lambda: None, MAP, 100000),
    "container-root without it": (lambda: capset(0, 0), MAP, 100000),
    "alone": (alone, None, 0),
}
CALLS = [
    *[
        (fd + late, b"", AT_FDCWD, b"new", flags)
        for fd in (FILE, ONLY_A_PATH, NAMELESS, DIRECTORY, LINK)
        for late in (0, LATER)
        for flags in (EMPTY, EMPTY | FOLLOW)
    ],
    *[
        (fd, b"", *to, EMPTY)
        for fd in (FILE, FILE + LATER, AT_FDCWD)
        for to in (
            (AT_FDCWD, b"file"), (AT_FDCWD, b""), (AT_FDCWD, b"dir/new/"), (AT_FDCWD, b"missing/new"),
            (AT_FDCWD, b"other/new"), (DIRECTORY, b"new"), (FILE, b"new"), (999, b"new"), (AT_FDCWD, b"n" * 256),
        )
    ],
    *[
        (fd, path, AT_FDCWD, b"new", flags)
        for fd in (DIRECTORY, DIRECTORY + LATER, FILE, AT_FDCWD, 999, -5)
        for path in (b"inside", b"missing", b".", b"/TOP/file", b"")
        for flags in (EMPTY, 0)
    ],
]  # fmt: skip


def one_of(kind: str, top: bytes) -> Caller:
    become, maps, owner = KINDS[kind]
    for name in (b"", b"/dir", b"/other"):
        os.makedirs(top + name, exist_ok=True)
        os.chown(top + name, owner, owner)
    for name in (b"/file", b"/dir/inside"):
        with open(top + name, "wb"):
            os.chown(top + name, owner, owner)
    os.symlink(b"file", top + b"/link")
    os.lchown(top + b"/link", owner, owner)
    os.chmod(top, 0o755)

    def prepared() -> None:
        os.chdir(top)
        private_mounts()
        mount(b"dir", b"other", b"none", MS_BIND)
        opened(FILE)
        become()
        opened(FILE + LATER)

    return Caller(prepared, maps)


def again(top: bytes, link: bytes) -> int:
    """Remove what was linked; how many links there were."""
    links = 0
    for place in (b"/", b"/dir/"):
        try:
            links = os.lstat(top + place + link).st_nlink
            os.unlink(top + place + link)
        except OSError:
            pass
    return links


@pytest.mark.parametrize("asked", [False, True], ids=["nobody asks", "a rule asks"])
@pytest.mark.parametrize("kind", KINDS)
def test_who_opened_it_decides(kind: str, asked: bool) -> None:
    how: dict[str, Any] = {"allow": lambda argument, path: True} if asked else {}
    wrong, fine, run, untold = [], 0, 0, 0
    with open_directory() as first, open_directory() as second, Performers() as performers:
        twins = [(top, one_of(kind, top)) for top in (first, second)]
        try:
            for one in CALLS:
                native, performed = (
                    ("linkat", *(a.replace(b"TOP", top[1:]) if isinstance(a, bytes) else a for a in one))
                    for top in (first, second)
                )  # fmt: skip
                expected = twins[0][1].natively(*native)
                said = performers.perform(twins[1][1].call(*performed), **how)
                if isinstance(said, LetRun):
                    assert not asked and one[4] & EMPTY
                    run += 1
                    got = twins[1][1].natively(*performed)
                else:
                    got = outcome(said)
                fine += got == ("value", 0)
                links = again(first, b"new"), again(second, b"new")
                if expected == got and links[0] == links[1]:
                    continue
                # of who has no such right it is not known whether he opened it himself: without a name he is taken for
                # one who did not, with one he is told what the call is without the flag
                named, himself = bool(one[1]), one[0] >= FILE + LATER
                if (
                    asked
                    and himself is not named
                    and (expected if named else got) == ("errno", errno.ENOENT)
                ):
                    untold += 1
                else:
                    wrong.append((one, expected, got, links))
        finally:
            for _, caller in twins:
                caller.kill()
    assert not wrong, "\n".join(map(str, wrong))
    assert fine > 3
    assert bool(untold) is (asked and kind in ("user", "container-root without it", "alone"))
    assert bool(run) is not asked

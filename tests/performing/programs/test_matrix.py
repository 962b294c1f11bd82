"""The matrix of file-system test-suites (pjdfstest's chapters: chmod, chown, link, mkdir, mkfifo, mknod, open, rename,
rmdir, symlink, truncate, unlink): natively as the host's root, and performed in a container, whose root is nobody.

One program makes the calls as several users upon every kind of file, and tells what came of each, and what the tree
is then.  Both say the same.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proctor import families
from tests.performing.support.callers import open_directory
from tests.performing.support.containers import PYTHON, inside

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="compares with the host's root"),
    pytest.mark.timeout(900),
]

PROGRAM = r'''
import ctypes, errno, itertools, json, os, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
os.umask(0o22)
top = sys.argv[1]
chapter = sys.argv[2]
os.chdir(top)
told = []
KINDS = ("regular", "dir", "fifo", "char", "block", "socket", "symlink")
USERS = ((0, 0, ()), (65534, 65534, ()), (65533, 65533, (65532,)))
LONG, TOO_LONG = "l" * 255, "t" * 256

def make(kind, name, mode=0o644, owner=None):
    if kind == "regular":
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode))
    elif kind == "dir":
        os.mkdir(name, mode)
    elif kind == "fifo":
        os.mkfifo(name, mode)
    elif kind == "char":
        os.mknod(name, stat.S_IFCHR | mode, os.makedev(1, 3))
    elif kind == "block":
        os.mknod(name, stat.S_IFBLK | mode, os.makedev(7, 250))
    elif kind == "socket":
        os.mknod(name, stat.S_IFSOCK | mode)
    elif kind == "symlink":
        os.symlink("target", name)
    if owner is not None:
        os.chown(name, owner, owner, follow_symlinks=False)

def look(name):
    try:
        st = os.lstat(name)
    except OSError as error:
        return errno.errorcode[error.errno]
    size = st.st_size if stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode) else 0
    return [oct(st.st_mode), st.st_uid, st.st_gid, st.st_nlink, size, st.st_rdev]

def attempt(user, what, *args, **more):
    """In a process of that user; what it came to, and how names are after that."""
    names = more.pop("names", ())
    readable, writable = os.pipe()
    if not os.fork():
        uid, gid, groups = user
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        try:
            got = what(*args, **more)
            if what is os.open:
                os.close(got)
                got = "fd"
        except OSError as error:
            got = errno.errorcode[error.errno]
        os.write(writable, json.dumps(got).encode())
        os._exit(0)
    os.close(writable)
    with open(readable) as pipe:
        got = pipe.read()
    os.wait()
    shown = [str(each).replace(TOO_LONG, "T").replace(LONG, "L") for each in args]
    told.append([what.__name__, user[0], shown, sorted(map(str, more.items())), got, [look(each) for each in names]])

def clean():
    for directory, directories, files in os.walk(".", topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        for name in directories:
            path = os.path.join(directory, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)

def prelude():
    """What every chapter asks about paths: something that is no directory, names too long, nothing, no right to
    search, links in circles."""
    make("regular", "file"); make("dir", "dir", 0o755); make("dir", "locked", 0o700, 65534)
    make("regular", "locked/inside", 0o666); os.symlink("b", "a"); os.symlink("a", "b")
    make("dir", "open", 0o777); make("dir", "sticky", 0o1777)
    make("regular", "sticky/root"); make("regular", "sticky/nobody", 0o666, 65534)
    make("dir", "sgid", 0o2777); os.chown("sgid", 0, 65532); os.chmod("sgid", 0o2777)
    make("regular", "open/own", 0o644, 65533); os.symlink("own", "open/to-own"); os.symlink("nothing", "open/dangling")
BAD = ("file/x", "missing/x", "locked/new", "locked/inside", "a/x", "a", LONG, TOO_LONG, "open/" + LONG, "", "x/" * 2100,
       "dir/" * 3, "dir/.", "dir/..", "file/", "open/dangling", "open/to-own", "open/own", "sticky/root", "sticky/nobody")

def system(name, *args):
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)
def bad_pointer(number, *args):
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), "")

def chmod():
    for user, kind, owner in itertools.product(USERS, KINDS, (0, 65534)):
        make(kind, "n", owner=owner)
        make("regular", "target", 0o600, 65534)
        for mode in (0o111, 0o7777, 0o1644, 0o2755):
            attempt(user, os.chmod, "n", mode, names=("n", "target"))
        clean()
    prelude()
    for user, path in itertools.product(USERS, BAD):
        attempt(user, os.chmod, path, 0o640, names=(path,))
    attempt(USERS[0], bad_pointer, 90, 1, 0o600)

def chown():
    for user, kind, owner in itertools.product(USERS, KINDS, (0, 65533)):
        make(kind, "n", 0o6755, owner)
        make("regular", "target", 0o6755, 65533)
        for uid, gid in ((-1, 65532), (65533, 65533), (65533, -1), (-1, -1), (65534, 65532), (0, 0)):
            for follow in (True, False):
                attempt(user, os.chown, "n", uid, gid, follow_symlinks=follow, names=("n", "target"))
        clean()
    prelude()
    for user, path in itertools.product(USERS, BAD):
        attempt(user, os.chown, path, -1, 65532, names=(path,))
    attempt(USERS[0], bad_pointer, 92, 1, 0, 0)

def link():
    for user, kind in itertools.product(USERS, KINDS):
        make("dir", "d", 0o777)
        make(kind, "d/n", owner=65534)
        attempt(user, os.link, "d/n", "d/m", follow_symlinks=False, names=("d/n", "d/m"))
        attempt(user, os.link, "d/n", "d/m", follow_symlinks=False, names=("d/n", "d/m"))
        clean()
    prelude()
    for user, path in itertools.product(USERS, BAD):
        attempt(user, os.link, path, "open/one", follow_symlinks=False, names=(path, "open/one"))
        attempt(user, os.link, "open/own", path, follow_symlinks=False, names=(path, "open/own"))
        for name in ("open/one",):
            if os.path.lexists(name):
                os.unlink(name)
    attempt(USERS[0], bad_pointer, 86, 1, b"x"); attempt(USERS[0], bad_pointer, 86, b"file", 1)

def making(what, *args):
    prelude()
    for user, path in itertools.product(USERS, (*BAD, "open/new", "sgid/new", "sticky/new", "new", "open/new/", "open/x/")):
        attempt(user, what, path, *args, names=(path,))
        if "new" in path and os.path.lexists(path.rstrip("/")):
            (os.rmdir if os.path.isdir(path) else os.unlink)(path.rstrip("/"))

def mkdir():
    for mode in (0o755, 0o1777, 0o2700, 0):
        making(os.mkdir, mode)
        clean()
    attempt(USERS[0], bad_pointer, 83, 1, 0o755)

def mkfifo():
    making(os.mkfifo, 0o6642)

def mknod():
    for kind, device in ((stat.S_IFCHR, (1, 3)), (stat.S_IFBLK, (7, 250)), (stat.S_IFREG, (0, 0)), (stat.S_IFSOCK, (0, 0)), (0, (0, 0)), (stat.S_IFDIR, (0, 0))):
        making(os.mknod, kind | 0o640, os.makedev(*device))
        clean()
    attempt(USERS[0], bad_pointer, 133, 1, 0o644, 0)

def opening():
    prelude()
    flags = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_DIRECTORY,
             os.O_WRONLY | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDONLY | os.O_NOFOLLOW, os.O_WRONLY | os.O_APPEND, 3)
    for user, path, how in itertools.product(USERS, (*BAD, "open/new", "sgid/new", "dir"), flags):
        attempt(user, os.open, path, how | os.O_NONBLOCK, 0o6644, names=(path,))
        if "new" in path and os.path.lexists(path):
            os.unlink(path)
    for user, kind, how in itertools.product(USERS, KINDS[2:], flags[:3]):
        if kind not in ("char", "block"):  # which no container may open but by its rule
            make(kind, "n", 0o640)
            attempt(user, os.open, "n", how | os.O_NONBLOCK, names=("n",))
            os.unlink("n")
    attempt(USERS[0], bad_pointer, 2, 1, 0)

def rename():
    for user, one, other in itertools.product(USERS, KINDS, (None, *KINDS)):
        make("dir", "d", 0o777)
        make("dir", "e", 0o1777)
        make(one, "d/n", owner=65533)
        if other is not None:
            make(other, "e/m", owner=65534)
        attempt(user, os.rename, "d/n", "e/m", names=("d/n", "e/m"))
        clean()
    prelude()
    for user, path in itertools.product(USERS, BAD):
        make("regular", "open/one", 0o644)
        attempt(user, os.rename, path, "open/to", names=(path, "open/to"))
        attempt(user, os.rename, "open/one", path, names=(path, "open/one"))
        clean(); prelude()
    attempt(USERS[0], os.rename, "dir", "dir/inside"); attempt(USERS[0], os.rename, "dir", "open"); attempt(USERS[0], os.rename, "dir", "file")
    attempt(USERS[0], bad_pointer, 82, 1, b"x"); attempt(USERS[0], bad_pointer, 82, b"file", 1)

def rmdir():
    prelude()
    make("dir", "open/full", 0o777); make("regular", "open/full/x")
    for user, path in itertools.product(USERS, (*BAD, "dir", "open/full", "open", ".", "..", "sticky")):
        attempt(user, os.rmdir, path, names=(path,))
    for user, owner, kind in itertools.product(USERS, (0, 65534), ("dir", "sticky")):
        make("dir", "p", 0o1777 if kind == "sticky" else 0o777); make("dir", "p/q", 0o755, owner)
        attempt(user, os.rmdir, "p/q", names=("p/q",))
        clean()
    attempt(USERS[0], bad_pointer, 84, 1)

def symlink():
    making(lambda path: os.symlink("anything", path))
    clean(); prelude()
    for text in ("", "x" * 4095, "x" * 4096, LONG):
        attempt(USERS[0], os.symlink, text, "open/new", names=("open/new",))
    attempt(USERS[0], bad_pointer, 88, b"x", 1); attempt(USERS[0], bad_pointer, 88, 1, b"x")

def truncate():
    prelude()
    for user, path, length in itertools.product(USERS, (*BAD, "dir"), (0, 123, 567890)):
        attempt(user, system, "truncate", path.encode(), ctypes.c_long(length), names=(path,))
    for kind in KINDS[1:6]:
        make(kind, "n")
        attempt(USERS[0], system, "truncate", b"n", ctypes.c_long(0))
        os.rmdir("n") if kind == "dir" else os.unlink("n")
    attempt(USERS[0], system, "truncate", b"file", ctypes.c_long(-1)); attempt(USERS[0], bad_pointer, 76, 1, 0)

def unlink():
    for user, kind, owner, where in itertools.product(USERS, KINDS, (0, 65534), (0o777, 0o1777, 0o755)):
        make("dir", "p", where); make(kind, "p/q", 0o644, owner)
        attempt(user, os.unlink, "p/q", names=("p/q",))
        clean()
    prelude()
    for user, path in itertools.product(USERS, BAD):
        attempt(user, os.unlink, path, names=(path,))
    attempt(USERS[0], bad_pointer, 87, 1)

globals()[chapter]()
clean()
print(json.dumps(told))
'''
CHAPTERS = (
    "chmod", "chown", "link", "mkdir", "mkfifo", "mknod", "opening", "rename", "rmdir", "symlink", "truncate", "unlink",
)  # fmt: skip


@pytest.fixture
def places() -> Iterator[list[Path]]:
    """Of the host's root, and of the container's; deep, for paths that go up."""
    with open_directory() as one, open_directory() as other:
        found = []
        for path, owner in ((one, 0), (other, 100000)):
            os.makedirs(path + b"/1/2/3/tree")
            for depth in range(4):
                place = path + b"/1/2/3/tree".rsplit(b"/", depth)[0]
                os.chown(place, owner, owner)
            found.append(Path(os.fsdecode(path)) / "1/2/3/tree")
        yield found


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_what_root_and_users_get(places: list[Path], chapter: str) -> None:
    natively: list[Any] = json.loads(
        subprocess.run(
            [PYTHON, "-ISc", PROGRAM, places[0], chapter],
            capture_output=True,
            check=True,
            timeout=300,
        ).stdout
    )
    handlers = [
        families.open(),
        families.names(),
        families.attributes(),
        families.mknod(),
        families.stat(),
    ]
    done = inside([PYTHON, "-ISc", PROGRAM, str(places[1]), chapter], handlers, timeout=600)
    assert done.returncode == 0, done.stderr
    performed = json.loads(done.stdout)
    wrong = [pair for pair in zip(natively, performed, strict=True) if pair[0] != pair[1]]
    assert len(natively) > 30
    assert not wrong, f"{len(wrong)} of {len(natively)} differ:\n" + "\n".join(map(str, wrong[:8]))

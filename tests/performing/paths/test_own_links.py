"""Names in one's own directories of procfs, whom the kernel lets in there and nobody else: natively and performed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proctor.syscalls.architectures import native
from proctor.syscalls.signatures import signature
from tests.performing.paths.test_exactly import LOSING, natively
from tests.performing.paths.test_seeking import plant, rules, run
from tests.performing.support.callers import open_directory

pytestmark = [pytest.mark.timeout(120), pytest.mark.root]

CALLS = (
    "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
    "mknod", "mknodat", "chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "utimensat", "truncate", "readlink",
    "readlinkat", "stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "setxattr", "lsetxattr", "getxattr",
    "lgetxattr", "listxattr", "llistxattr", "removexattr", "lremovexattr",
)  # fmt: skip
PERFORM = "perform = true"


def _by_paths() -> str:
    """Rules about the path of each, by its name."""
    named: dict[str, list[str]] = {}
    for each in CALLS:
        known = signature(each, native())
        assert known is not None
        named.setdefault(next(arg.name for arg in known.args if arg.role == "path"), []).append(
            each
        )
    return rules(
        *(
            f'calls = {each}\nwhen = {{ {path} = "/**" }}\n{PERFORM}'
            for path, each in named.items()
        ),
        f"calls = {list(CALLS)}\n{PERFORM}",
    )


WAYS = {"performed": rules(f"calls = {list(CALLS)}\n{PERFORM}"), "under a rule": _by_paths()}
PROGRAM = """
libc = ctypes.CDLL(None, use_errno=True)
top = sys.argv[1]
os.dup2(os.open(f"{top}/named/file", os.O_RDWR), 50)
os.dup2(os.open(f"{top}/named", os.O_RDONLY), 51)
os.mkdir(f"{top}/mine")
os.chmod(f"{top}/mine", 0o777)
WHO
AT = ctypes.c_long(-100)
def call(number, *args):
    kept = [ctypes.create_string_buffer(each.encode() if isinstance(each, str) else each) if isinstance(each, (str, bytes)) else each for each in args]
    ctypes.set_errno(0)
    said = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(each) if isinstance(each, int) else each for each in kept])
    if said < 0:
        raise OSError(ctypes.get_errno(), "")
    return kept
def do(words, number, *args):
    tell(f"{words} {' '.join('' if isinstance(each, bytes) else str(each) for each in args)}".replace(str(os.getpid()), "PID").replace(top, "TOP"), call, number, *args)
    for name in ("new", "linked"):
        try: os.unlink(f"{top}/mine/{name}")
        except OSError: pass
def tell_text(path):
    try: print("readlink", path.replace(str(os.getpid()), "PID"), os.readlink(path).replace(top, "TOP").replace(str(os.getpid()), "PID"))
    except OSError as error: print("readlink", path.replace(str(os.getpid()), "PID"), errno.errorcode[error.errno])
NAMES = (
    "fd/50", "fd/50/", "fd/51", "fd/51/", "fd/77", "fd/new/", "fd/.", "fd/..", "fd", "fdinfo/50", "fdinfo/new",
    "map_files/x", "cwd", "exe/", "maps", "environ", "new", "ns/net", "", "fd/51/file", "cwd/new",
)
os.chdir(f"{top}/mine")
room = bytes(512)
for own, name in [("self", each) for each in NAMES] + [(os.getpid(), "fd/50"), ("thread-self", "fdinfo/new")]:
    if True:
        path = f"/proc/{own}/{name}"
        do("mkdir", 83, path, 0o700)
        do("rmdir", 84, path)
        do("unlink", 87, path)
        do("unlinkat", 263, -100, path, 0x200)
        do("symlink", 88, "x", path)
        do("mknod", 133, path, 0o100600, 0)
        do("mknod dir", 133, path, 0o40600, 0)
        do("fifo", 133, path, 0o10600, 0)
        for other in (f"/proc/{own}/fd/77", f"/proc/{own}/fd/new", f"/proc/{own}/fd/50", f"/proc/{own}/fdinfo/50", "/proc/new", f"/proc/{own}/new", f"{top}/mine/new", f"/proc/{own}/fd/51/new", "none/new", "/proc/1/fd/0", "/proc/1/fd/77777"):
            do("rename", 82, path, other)
            do("rename back", 82, other, path)
            do("exchange", 316, -100, path, -100, other, 2)
            do("noreplace", 316, -100, path, -100, other, 1)
            do("link", 86, path, other)
            do("link behind", 265, -100, path, -100, other, 0x400)
            do("link back", 86, other, path)
        do("chmod", 90, path, 0o700)
        do("chmod nofollow", 452, -100, path, 0o700, 0x100)
        do("chown", 92, path, 1234, 1234)
        do("lchown", 94, path, 1234, 1234)
        do("lchown nothing", 94, path, -1, -1)
        do("truncate", 76, path, 4)
        tell_text(path)
        do("stat", 4, path, room)
        do("lstat", 6, path, room)
        do("statx", 332, -100, path, 0x100, 0xfff, room)
        for mode in (0, 1, 2, 4):
            do("access", 21, path, mode)
            do("access nofollow", 439, -100, path, mode, 0x300)
        do("getxattr", 191, path, "user.x", room, 512)
        do("lgetxattr", 192, path, "user.x", room, 512)
        do("setxattr", 188, path, "user.x", "1", 1, 0)
        do("lsetxattr", 189, path, "security.x", "1", 1, 0)
        do("listxattr", 194, path, room, 512)
        do("removexattr", 197, path, "user.x")
"""


@pytest.fixture
def trees() -> Iterator[tuple[Path, Path]]:
    with open_directory() as first, open_directory() as second:
        for path in (first, second):
            os.chmod(path, 0o755)
            plant(Path(os.fsdecode(path)))
            os.chmod(path + b"/named", 0o777)
        yield Path(os.fsdecode(first)), Path(os.fsdecode(second))


@pytest.mark.parametrize(
    ("way", "who"), [(list(WAYS)[number % 2], who) for number, who in enumerate(LOSING)]
)
def test_names_in_ones_own_procfs(trees: tuple[Path, Path], way: str, who: str) -> None:
    program = PROGRAM.replace("WHO", LOSING[who])
    expected = natively(program, trees[0])
    said = run(WAYS[way], program, trees[1], timeout=100)
    assert len(expected) == len(said) > 1000
    wrong = [
        pair
        for pair in zip(expected, said, strict=True)
        if pair[0] != pair[1] and not _untaken(*pair)
    ]
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(map(str, wrong[:40]))


def _untaken(expected: str, said: str) -> bool:
    """What docs/policy.md names: attributes of users, and truncating what cannot be."""
    what, where, *_ = expected.split()
    mine = where.startswith(("/proc/self/fd", "/proc/PID/fd", "/proc/thread-self/fd"))
    return mine and (what.endswith("xattr") or what == "truncate") and said.endswith(" EACCES")

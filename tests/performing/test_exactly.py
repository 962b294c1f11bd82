"""What programs are told natively and performed, in places where an executor is told something else than they."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .callers import open_directory
from .test_seeking import HEAD, plant, rules, run

pytestmark = [pytest.mark.timeout(60), pytest.mark.root]

PERFORM = 'calls = ["openat"]\nperform = true'
WAYS = {
    "performed": rules(PERFORM),
    "under a rule": rules(
        'calls = ["openat"]\nwhen = { path = "/**" }\nperform = true',
        PERFORM,
    ),
}


@pytest.fixture
def tree() -> Iterator[Path]:
    with open_directory() as path:
        top = Path(os.fsdecode(path))
        top.chmod(0o755)
        plant(top)
        yield top


def natively(program: str, *arguments: object) -> list[str]:
    command = [sys.executable, "-S", "-c", f"{HEAD}\n{program}", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("way", WAYS)
def test_ones_own_procfs_is_open_after_setuid(tree: Path, way: str) -> None:
    """By its number and by ``self``; nobody else's is, and nothing that is root's is opened for writing."""
    program = """
import fcntl
top, held = sys.argv[1], 50
os.dup2(os.open(top, os.O_RDONLY), held)
os.symlink("/dev/zero", f"{top}/zero")
def opened(path, flags):
    fd = os.open(path, flags, 0o600)
    print(oct(fcntl.fcntl(fd, fcntl.F_GETFL)), oct(os.fstat(fd).st_mode), end=" ")
    if os.path.isdir(fd): print(str(held) in os.listdir(fd), end=" ")
    os.close(fd)
there, done = threading.Event(), threading.Event()
aside = threading.Thread(target=lambda: (there.set(), done.wait()))
other = os.fork()
if not other:
    become_user()
    os.read(ours, 1)
    os._exit(0)
aside.start()
there.wait()
become_user()
FLAGS = os.O_RDONLY, os.O_CREAT | os.O_WRONLY, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_TRUNC
for own in ("self", os.getpid(), other):
    for flags in FLAGS:
        for path in (
            f"fd/{held}", f"fd/{held}/link", f"fd/{held}/zero", f"fd/{held}/none", f"fd/{held}/.", "fd", "fd/", "fd/.",
            "fd/..", "fd/../status", "fd/../fd/77", "fd/77/x", "fd/x", "fdinfo", "map_files", "map_files/x", "ns", "environ",
            "mem", "task", "fdinfo/..",
        ):
            who = "other" if own == other else "own"
            tell(f"{who} {flags:o} {path}", opened, f"/proc/{own}/{path}", flags)
        for path in ("fd", f"fd/{held}", "cwd", "fdinfo"):
            number = threading.get_native_id() if own == "self" else own
            tell(f"thread {flags:o} {path}", opened, f"/proc/{own}/task/{number}/{path}", flags)
            tell(f"aside {flags:o} {path}", opened, f"/proc/self/task/{aside.native_id}/{path}", flags)
done.set()
os.chdir("/proc/self")
for path in ("fd", f"fd/{held}", "fd/77"):
    tell(f"here {path}", opened, path, os.O_RDONLY)
os.write(theirs, b"1")
"""
    pipe = "ours, theirs = os.pipe()\n"
    expected = natively(pipe + program, tree)
    (tree / "zero").unlink()
    said = run(WAYS[way], program, tree, who=pipe)
    wrong = [pair for pair in zip(expected, said, strict=True) if pair[0] != pair[1]]
    assert not wrong, "\n".join(map(str, wrong))
    assert "0o100000 0o40500 True own 0 fd ok" in said


def test_an_empty_path_is_the_working_directory_also_where_that_is_shut(tree: Path) -> None:
    shut = tree / "shut"
    shut.mkdir()
    os.chown(shut, 1234, 1234)
    shut.chmod(0)
    program = """
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
fd = os.open(sys.argv[1], os.O_PATH)
become_user()
room, empty = ctypes.create_string_buffer(512), 0x1000
def call(number, *args):
    if libc.syscall(ctypes.c_long(number), *args) < 0:
        raise OSError(ctypes.get_errno(), "")
for number in (-100, fd, 99):
    tell(f"chown {number}", call, 260, number, b"", 1234, 1234, empty)
    tell(f"stat {number}", call, 262, number, b"", room, empty)
    tell(f"statx {number}", call, 332, number, b"", empty, 0xfff, room)
    tell(f"access {number}", call, 439, number, b"", 4, empty)
    tell(f"readlink {number}", call, 267, number, b"", room, 512)
    tell(f"utimes {number}", call, 280, number, b"", None, empty)
    tell(f"none {number}", call, 260, number, b"", 1234, 1234, 0)
"""
    calls = '"fchownat", "newfstatat", "statx", "faccessat2", "readlinkat", "utimensat"'
    text = rules(f"calls = [{calls}]\nperform = true")
    expected = natively(program, shut)
    assert "chown -100 ok" in expected
    assert run(text, program, shut) == expected


@pytest.mark.parametrize("way", WAYS)
def test_a_link_is_as_long_as_it_likes_on_a_long_way(tree: Path, way: str) -> None:
    there = tree / "there"
    there.mkdir()
    there.chmod(0o777)
    for length in (1000, 2040):
        (there / f"dangling{length}").symlink_to("/".join(["."] * length + ["new"]))
        (there / f"good{length}").symlink_to("/".join(["."] * length + ["../named/file"]))
    program = """
os.chdir(sys.argv[1])
become_user()
for length in (1000, 2040):
    for before in (1000, 2000):
        for flags in (os.O_CREAT, os.O_CREAT | os.O_WRONLY, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_NOFOLLOW):
            for kind in ("dangling", "good"):
                name = "./" * before + f"there/{kind}{length}"
                tell(f"{kind} {length} {before} {flags:o}", os.open, name, flags, 0o600)
            tell("made", os.unlink, "there/new")
"""
    expected = natively(program, tree)
    assert "made ok" in expected
    assert run(WAYS[way], program, tree) == expected


@pytest.mark.parametrize("way", WAYS)
def test_what_may_not_be_truncated_is_that_before_it_is_somebody_elses(
    tree: Path, way: str
) -> None:
    """``may_open`` of fs/namei.c looks at O_NOATIME last; O_TRUNC wants what writing wants."""
    (tree / "open").touch()
    (tree / "open").chmod(0o646)
    program = """
become_user()
os.chdir(sys.argv[1])
for extra in (0, os.O_TRUNC):
    for path in ("named/file", "open", "/proc/self/cwd/named/file", "/proc/thread-self/cwd/open"):
        for flags in (os.O_NOATIME, os.O_CREAT | os.O_NOATIME, os.O_CREAT, os.O_CREAT | os.O_NOATIME | os.O_WRONLY):
            tell(f"{path} {flags | extra:o}", os.open, path, flags | extra)
"""
    expected = natively(program, tree)
    assert "named/file 1001100 EACCES" in expected and "named/file 1000100 EPERM" in expected
    assert run(WAYS[way], program, tree) == expected

"""What programs are told natively and performed, in places where an executor is told something else than they."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.performing.paths.test_seeking import HEAD, UNSAFE, plant, rules, run
from tests.performing.support.callers import open_directory

pytestmark = [pytest.mark.timeout(60), pytest.mark.root]

CALLS = 'calls = ["openat", "openat2"]'
PERFORM = f"{CALLS}\nperform = true"
WAYS = {
    "performed": rules(PERFORM),
    "under a rule": rules(
        f'{CALLS}\nwhen = {{ path = "/**" }}\nperform = true',
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


#: Ways to have fewer rights over one's own process than that process itself: each makes an executor somebody else.
LOSING = {
    "setuid": "become_user()",
    "prctl": "become_user(); libc.prctl(4, 1, 0, 0, 0); libc.prctl(4, 0, 0, 0, 0)",
    "namespace": "become_root_of_namespace()",
    "real id": "os.setgroups([]); os.setresuid(0, 1234, 0); libc.prctl(4, 1, 0, 0, 0)",
    "capabilities": "libc.prctl(4, 0, 0, 0, 0); libc.capset(b'\\x22\\x05\\x08\\x20' + bytes(4), bytes([15, 0, 0, 0] * 2 + [0] * 16))",
}


@pytest.mark.parametrize(
    ("way", "who"), [(list(WAYS)[number % 2], who) for number, who in enumerate(LOSING)]
)
def test_whatever_is_asked_of_ones_own_procfs(tree: Path, way: str, who: str) -> None:
    """Files whose opener the kernel looks at, flags that are the owner's, scopes of openat2, and ways from a working
    directory in which nobody else may search."""
    program = (
        """
import fcntl, struct
libc = ctypes.CDLL(None, use_errno=True)
os.dup2(os.open(sys.argv[1], os.O_RDONLY), 50)
def show(fd):
    try:
        said = f"{fcntl.fcntl(fd, fcntl.F_GETFL):o} {os.fstat(fd).st_mode:o}"
        return said if not os.path.isdir(fd) else said + " " + str("50" in os.listdir(fd))
    except OSError as error:
        return error.errno
    finally:
        os.close(fd)
def opened(path, flags, resolve):
    how = struct.pack("=QQQ", flags, 0o600 if flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY) else 0, resolve)
    fd = -1
    while fd < 0:  # EAGAIN: somebody mounts or renames somewhere meanwhile
        fd = libc.syscall(437, -100, path.encode(), how, ctypes.c_size_t(24))
        if fd < 0 and ctypes.get_errno() != errno.EAGAIN:
            raise OSError(ctypes.get_errno(), "")
    print(show(fd), end=" ")
"""
        + LOSING[who]
        + """
FLAGS = (
    0, os.O_NOATIME, os.O_NOATIME | os.O_DIRECTORY, os.O_NOATIME | os.O_NOFOLLOW, os.O_TMPFILE | os.O_RDWR, os.O_DIRECT,
    os.O_APPEND, os.O_CREAT | os.O_NOATIME, os.O_RDWR, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_WRONLY, os.O_NOFOLLOW,
)
NAMES = (
    "fd", "fd/.", "fdinfo", "fdinfo/50", "fdinfo/50/", "fdinfo/77", "fd/50", "fd/50/named/file", "fd/77", "fd/050",
    "map_files", "map_files/x/", "maps", "environ", "ns/net", "ns/net/", "fd/..", "attr/current",
)
for own in ("self", os.getpid()):
    for flags in FLAGS:
        for name in NAMES:
            tell(f"{own == 'self'} {flags:o} {name}", opened, f"/proc/{own}/{name}", flags, 0)
    for resolve in (1, 2, 4, 8, 16):
        for flags in (0, os.O_CREAT | os.O_WRONLY, os.O_DIRECTORY):
            for name in NAMES:
                tell(f"{own == 'self'} {resolve} {flags:o} {name}", opened, f"/proc/{own}/{name}", flags, resolve)
for directory in ("fd", "fdinfo"):
    os.chdir(f"/proc/self/{directory}")
    for flags in FLAGS:
        for name in (".", "..", "50", "77", "50/", "../fd/50"):
            for resolve in (0, 1, 4, 8, 16) if flags in (0, os.O_CREAT | os.O_EXCL) else (0,):
                tell(f"in {directory} {flags:o} {resolve} {name}", opened, name, flags, resolve)
"""
    )
    expected = natively(program, tree)
    said = run(WAYS[way], program, tree)
    wrong = [pair for pair in zip(expected, said, strict=True) if pair[0] != pair[1]]
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(map(str, wrong[:25]))
    assert "100000 100444 True 0 fdinfo/50 ok" in said


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
def test_a_link_in_a_scope_is_as_long_as_it_likes(tree: Path, way: str) -> None:
    """Where it starts is where it ends, so that way and text are one path: one that no program could pass."""
    (tree / "there").mkdir()
    (tree / "there").chmod(0o777)
    for kind, end in (
        ("dangling", "new"),
        ("good", "../named/file"),
        ("up", "../" * 9 + "there/new"),
    ):
        (tree / "there" / kind).symlink_to("./" * 1500 + end)
        (tree / "there" / f"{kind}2").symlink_to("./" * 1500 + kind)
    program = """
import struct
libc = ctypes.CDLL(None, use_errno=True)
def opened(path, flags, resolve):
    how = struct.pack("=QQQ", flags, 0o600 if flags & os.O_CREAT else 0, resolve)
    fd = -1
    while fd < 0:  # EAGAIN: somebody mounts or renames somewhere meanwhile
        fd = libc.syscall(437, -100, path.encode(), how, ctypes.c_size_t(24))
        if fd < 0 and ctypes.get_errno() != errno.EAGAIN:
            raise OSError(ctypes.get_errno(), "")
    os.close(fd)
os.chdir(sys.argv[1])
become_user()
for resolve in (0, 4, 8, 16):
    for kind in ("dangling", "dangling2", "good", "good2", "up", "up2"):
        for flags in (0, os.O_CREAT | os.O_WRONLY, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_NOFOLLOW):
            tell(f"{kind} {flags:o} {resolve}", opened, "./" * 1500 + f"there/{kind}", flags, resolve)
        tell("made", os.unlink, "there/new")
"""
    expected = natively(program, tree)
    assert "made ok" in expected and "dangling2 101 8 ok" in expected
    assert run(WAYS[way], program, tree) == expected


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


DEEP = """
os.chdir(sys.argv[1])
WHO
for depth in range(20):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
os.mknod("file", 0o100600)
tell("create", os.open, "new", os.O_CREAT | os.O_RDWR, 0o600)
tell("open", os.open, "file", os.O_RDONLY)
tell("nofollow", os.open, "file", os.O_NOFOLLOW)
tell("directory", os.open, ".", os.O_RDONLY)
tell("above", os.open, "..", os.O_DIRECTORY)
tell("none", os.open, "none", os.O_RDONLY)
tell("temporary", os.open, ".", os.O_TMPFILE | os.O_RDWR)
tell("procfs", os.open, "/proc/self/cwd/file", os.O_RDONLY)
os.symlink("file", "link")
tell("link", os.open, "link", os.O_RDONLY)
tell("elsewhere", os.open, "/etc/passwd", os.O_RDONLY)
"""


@pytest.mark.parametrize("who", ["", "become_user()"], ids=["root", "user"])
def test_what_has_a_path_too_long_to_be_said_is_opened_where_no_rule_asks(
    tree: Path, who: str
) -> None:
    """The kernel says no path of more than a page: a rule cannot know what it is below, so whatever it would
    decide, the call is refused.  Without one such files are files."""
    tree.chmod(0o777)
    program = DEEP.replace("WHO", who)
    expected = natively(program, tree)
    shutil.rmtree(tree / ("d" * 250))
    assert expected == [
        f"{line.split()[0]} {'ENOENT' if 'none' in line else 'ok'}" for line in expected
    ]
    assert run(rules(PERFORM), program, tree) == expected
    shutil.rmtree(tree / ("d" * 250))
    below, all_of_them = (f"{CALLS}\nwhen = {{ path = '{top}/**' }}\n" for top in (tree, ""))
    nothing = f'{CALLS}\ndeny = "EXDEV"'
    for text in (
        rules(f'{below}deny = "EXDEV"', PERFORM),
        rules(f'{below}deny = "EXDEV"', f"{CALLS}\n{UNSAFE}"),
        rules(f"{all_of_them}perform = true", nothing),
        rules(f"{all_of_them}{UNSAFE}", nothing),
    ):
        said = [line.split() for line in run(text, program, tree)]
        shutil.rmtree(tree / ("d" * 250))
        refused = [what in ("EACCES", "EPERM") for name, what in said[:-1] if name != "none"]
        assert all(refused) and len(refused) == 8, said


@pytest.mark.parametrize("who", ["", "become_user()"], ids=["root", "user"])
@pytest.mark.parametrize("way", WAYS)
def test_what_openat2_refuses_of_a_mode_is_refused(tree: Path, way: str, who: str) -> None:
    """The older calls forgive it."""
    program = """
import struct
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
WHO
def opened(flags, mode, resolve=0):
    fd = libc.syscall(437, -100, b"named/file", struct.pack("=QQQ", flags, mode, resolve), ctypes.c_size_t(24))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "")
    os.close(fd)
for flags in (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TMPFILE | os.O_RDWR, os.O_NOFOLLOW, 1 << 40):
    for mode in (0, 1, 0o777, 0o7777, 0o10000, 1 << 40):
        tell(f"{flags:o} {mode:o}", opened, flags, mode)
""".replace("WHO", who)
    expected = natively(program, tree)
    assert "0 1 EINVAL" in expected and "100 10000 EINVAL" in expected and "100 777 ok" in expected
    assert run(WAYS[way], program, tree) == expected

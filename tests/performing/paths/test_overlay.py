"""Containers whose files are on fuse-overlayfs, as rootless podman has them: the host's root is nobody there, and what is
performed, and what rules say, is what it would be on any other file system."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proctor.policy import loads
from tests.performing.support.containers import told
from tests.performing.support.images import top

__all__ = ["top"]
pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.root,
    pytest.mark.skipif(
        not (os.path.exists("/dev/fuse") and shutil.which("fuse-overlayfs")),
        reason="no FUSE here, or no fuse-overlayfs",
    ),
]

#: Its root, with fuse-overlayfs on ``mnt`` and somebody ("root" or "user") in it, who tells what comes of calls by
#: their names.
MOUNTED = """
import socket, subprocess, time
top, who = sys.argv[1:3]
mount(top.encode() + b"/fuse", b"/dev/fuse", None, 4096)
how = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work,allow_other,dev"
beginning = os.stat(top + "/mnt").st_dev
server = subprocess.Popen(["fuse-overlayfs", "-f", "-o", how, top + "/mnt"], stderr=-3)
while os.stat(top + "/mnt").st_dev == beginning and server.poll() is None:
    time.sleep(0.005)
for each in ("proc", "dev", "usr", "bin", "lib", "lib64"):
    if os.path.islink("/" + each):
        os.symlink(os.readlink("/" + each), f"{top}/mnt/{each}")
    elif os.path.exists("/" + each):
        os.mkdir(f"{top}/mnt/{each}")
        mount(b"/" + each.encode(), f"{top}/mnt/{each}".encode(), None, 4096 | 16384)
one = os.fork()
if one:
    code = os.waitpid(one, 0)[1]
    server.kill()
    os._exit(code != 0)
os.chroot(top + "/mnt")
os.chdir("/")
if who == "user":
    os.setgroups([])
    os.setresgid(5, 5, 5)
    os.setresuid(5, 5, 5)
    libc.prctl(4, 1, 0, 0, 0)
def told(name, what, *args, **more):
    tried(what, *args, **more)
    results[-1] = name, results[-1]
def opened(path, flags=os.O_RDONLY, then=lambda fd: 0):
    fd = os.open(path, flags, 0o640)
    try:
        return then(fd)
    finally:
        os.close(fd)
def run(path):
    return subprocess.run([path, "here"], capture_output=True, text=True, pass_fds=()).stdout
def connected():
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind("home/socket")
        one.listen()
        other.connect("home/socket")
        os.unlink("home/socket")
"""
EACH = """
for path in ("/file", "file", "link", "home/../file", "/proc/self/cwd/file", "none", "none/none", "others", "home"):
    told("open " + path, opened, path, then=lambda fd: os.read(fd, 9) if stat.S_ISREG(os.fstat(fd).st_mode) else "")
told("write", opened, "home/file", os.O_RDWR | os.O_TRUNC, lambda fd: os.write(fd, b"written"))
told("create", opened, "home/new", os.O_RDWR | os.O_CREAT | os.O_EXCL, lambda fd: os.write(fd, b"new"))
told("owner", lambda: [os.stat("home/new").st_uid, oct(os.stat("home/new").st_mode)])
told("tmpfile", opened, "home", os.O_RDWR | os.O_TMPFILE)
told("mkdir", os.mkdir, "home/made")
told("in it", os.symlink, "x", "home/made/link")
told("rmdir", os.rmdir, "home/made")
told("rename", os.rename, "home/made", "home/moved")
told("link", os.link, "home/new", "home/hard")
told("unlink", os.unlink, "home/hard")
told("unlink", os.unlink, "home/none")
told("chmod", os.chmod, "home/new", 0o4711)
told("chown", os.chown, "home/new", 6, -1)
told("truncate", os.truncate, "home/file", 3)
told("utime", os.utime, "home/file", (1, 2))
told("status", lambda: [os.stat("home/file").st_size, os.stat("home/file").st_mtime, os.stat("file").st_size])
told("fifo", os.mkfifo, "home/fifo")
told("fifo is", lambda: oct(os.stat("home/fifo").st_mode))
told("read fifo", opened, "home/fifo", os.O_RDONLY | os.O_NONBLOCK)
told("setxattr", os.setxattr, "home/file", "user.one", b"1")
told("getxattr", os.getxattr, "home/file", "user.one")
told("listxattr", os.listxattr, "home/file")
told("removexattr", os.removexattr, "home/file", "user.one")
told("trusted", os.setxattr, "home/file", "trusted.overlay.opaque", b"y")
told("trusted", os.listxattr, "home/file")
told("fsync", opened, "home/file", then=os.fsync)
told("of what is written", opened, "home/file", os.O_RDWR, lambda fd: [os.write(fd, b"x"), os.fsync(fd)])
told("sockets", connected)
for name in ("script", "program", "home/script", "home/file", "nothing", "links"):
    told("run " + name, run, "/" + name)
"""
CALLS = """calls = ["openat", "mkdir", "rmdir", "unlink", "chmod", "chown", "truncate", "utimensat", "mknod", "mknodat",
    "setxattr", "getxattr", "listxattr", "removexattr"]"""
TWO = 'calls = ["rename", "link", "linkat"]'
SOCKETS = 'calls = ["bind", "connect"]'
EXEC = 'calls = ["execve"]'
UNSAFE = 'allow = "unsafe: a test"'


def rules(*each: str) -> str:
    return "version = 1\n" + "\n".join(
        f'[[rule]]\nname = "{number}"\n{text}' for number, text in enumerate(each)
    )


def without(name: str) -> list[str]:
    """What refuses this: nothing that is asked for, but names are looked at."""
    return [
        f'{CALLS}\nwhen = {{ path = "/{name}" }}\ndeny = "EXDEV"',
        f'{TWO}\nwhen = {{ newpath = "/{name}" }}\ndeny = "EXDEV"',
        f'{SOCKETS}\nwhen = {{ address = "unix:/{name}" }}\ndeny = "EXDEV"',
        f'{EXEC}\nwhen = {{ path = "/{name}" }}\ndeny = "EXDEV"',
    ]


ALL = CALLS, TWO, SOCKETS, EXEC, 'calls = ["fsync"]'
POLICIES = {
    "let run": rules(*without("unheard-of"), *(f"{each}\n{UNSAFE}" for each in ALL[:4])),
    "performed": rules(*(f"{each}\nperform = true" for each in ALL)),
    "performed by path": rules(
        *without("unheard-of"), *(f"{each}\nperform = true" for each in ALL)
    ),
}


@pytest.fixture
def lower(top: bytes) -> Iterator[str]:
    """A directory with all that it takes."""
    made = Path(os.fsdecode(top))
    for name in ("lower", "lower/home", "upper", "work", "mnt"):
        (made / name).mkdir()
    os.mknod(made / "fuse", 0o20666, os.makedev(10, 229))
    (made / "fuse").chmod(0o666)
    for name in ("file", "home/file", "others"):
        (made / "lower" / name).write_text(name)
    (made / "lower/others").chmod(0o600)
    for name in ("script", "home/script", "nothing"):
        (made / "lower" / name).write_text("#!/bin/sh\necho $0 $1")
        (made / "lower" / name).chmod(0o755)
    (made / "lower/nothing").chmod(0o711)  # root alone can read it, so nobody else runs it
    shutil.copy(shutil.which("echo") or "", made / "lower/program")
    (made / "lower/link").symlink_to("home/file")
    (made / "lower/links").symlink_to("script")
    for path in made.rglob("*"):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    for each in ("home", "home/file"):
        os.chown(made / "lower" / each, 100005, 100005)
    yield str(made)


def results(lower: str, who: str, policy: str, program: str = EACH) -> dict[str, Any]:
    made = loads(policy) if policy else loads("version = 1")
    shutil.rmtree(lower + "/upper")
    os.mkdir(lower + "/upper")
    os.chown(lower + "/upper", 100000, 100000)
    found = told(
        MOUNTED + program, lower, who,
        handlers=made.handlers(), filter=made.filter(), **made.supervisor_options(),
    )  # fmt: skip
    assert len(found) > 1, found
    return {f"{number} {name}": said for number, (name, said) in enumerate(found)}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("who", ["root", "user"])
def test_it_is_as_without_rules(lower: str, who: str, policy: str) -> None:
    natively, said = results(lower, who, ""), results(lower, who, POLICIES[policy])
    assert said == natively
    assert said["0 open /file"] == b"file".hex()
    assert said["8 open home"] == ""


DENIED = """
for path in ("home/denied", "/home/denied", "home/../home/denied", "/proc/self/cwd/home/denied"):
    told("create", opened, path, os.O_RDWR | os.O_CREAT)
told("mkdir", os.mkdir, "home/denied")
told("rename", os.rename, "home/file", "home/denied")
told("link", os.link, "home/file", "home/denied")
told("fifo", os.mkfifo, "home/denied")
told("bind", socket.socket(socket.AF_UNIX).bind, "home/denied")
os.symlink("denied", "home/leads")
told("by link", opened, "home/leads", os.O_RDWR | os.O_CREAT)
"""


@pytest.mark.parametrize("last", [UNSAFE, "perform = true"])
def test_rules_hold_there(lower: str, last: str) -> None:
    policy = rules(*without("home/denied"), *(f"{each}\n{last}" for each in ALL[:4]))
    assert set(results(lower, "user", policy, DENIED).values()) == {"EXDEV"}


def test_what_runs_a_script_there_is_asked_about(lower: str) -> None:
    policy = rules(
        f'{EXEC}\nwhen = {{ path = "/home/*" }}\ndeny = "EXDEV"', f"{EXEC}\nperform = true"
    )
    program = """
shutil.copy("/bin/sh", "home/shell")
for name, by in (("other", "/home/shell"), ("ordinary", "/bin/sh")):
    with open(name, "w") as file:
        file.write(f"#!{by}\\necho $0 ran")
    os.chmod(name, 0o755)
os.symlink("home/shell", "shell")
for name in ("/other", "/shell", "/home/shell", "/ordinary"):
    told(name, run, name)
"""
    said = results(lower, "root", policy, "import shutil" + program)
    assert list(said.values()) == ["EXDEV"] * 3 + ["/ordinary ran\n"]


def test_a_device_is_made_there(lower: str) -> None:
    """A node on a file system of a user namespace would not work, so one is mounted."""
    policy = rules('calls = ["mknod", "mknodat"]\nperform = true')
    program = """
told("made", os.mknod, "home/null", 0o20640, os.makedev(1, 3))
told("is", lambda: [oct(os.stat("home/null").st_mode), os.stat("home/null").st_uid, os.stat("home/null").st_rdev])
told("open", opened, "home/null", os.O_RDWR, lambda fd: os.write(fd, b"four"))
"""
    assert results(lower, "root", policy, program) == {
        "0 made": None, "1 is": ["0o20640", 0, os.makedev(1, 3)], "2 open": 4
    }  # fmt: skip

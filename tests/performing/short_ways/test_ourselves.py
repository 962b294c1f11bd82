"""Names and attributes that the monitor changes itself, for callers that are what it is: as soon as they are not, it does not."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families, performing
from tests.performing.short_ways.test_making import ACL, unsteady
from tests.performing.support.callers import open_directory
from tests.performing.support.containers import PYTHON
from tests.policy.test_policy_hostile_memory import PROGRAM as HANGING
from tests.policy.test_policy_hostile_memory import needs_userfaultfd

libc = ctypes.CDLL(None, use_errno=True)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs the host's root")
HANDLERS = (families.names(), families.attributes())


@pytest.fixture
def top() -> Iterator[Path]:
    with open_directory() as path:
        yield Path(os.fsdecode(path))


def performed(code: str, *words: str, **how: Any) -> bytes:
    done = proctor.run(
        [PYTHON, "-ISc", code, *words], HANDLERS, capture_output=True, timeout=120, **how
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def natively(code: str, *words: str) -> bytes:
    return subprocess.run([PYTHON, "-ISc", code, *words], capture_output=True, check=True).stdout


WARM = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
def all_of_them():
    os.mkdir("d", 0o751), os.chmod("d", 0o700), os.chown("d", -1, -1), os.rename("d", f"{sys.argv[1]}/e"), os.rmdir("e")
    os.symlink("e", "l"), os.rename("l", "k"), os.unlink("k")
    os.link("file", "again"), os.unlink("again")
for number in range(20):
    all_of_them()
"""
PAUSED = """
def pause():
    os.write(1, b".")
    os.read(0, 1)
pause()
for number in range(20):
    all_of_them()
pause()
"""


def switches(mother: int) -> dict[int, int]:
    """How often executors have waited."""
    pids = Path(f"/proc/{mother}/task/{mother}/children").read_text().split() if mother else ()
    found = {}
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found[int(pid)] = int(
            next(line for line in lines if line.startswith("voluntary_")).split()[1]
        )
    return found


def test_no_process_is_woken(top: Path) -> None:
    (top / "file").touch()
    for _ in range(50):  # where a call is taken for one that stalls, the others go another way
        with (
            performing.Performers() as performers,
            proctor.spawn(
                [PYTHON, "-ISc", WARM + PAUSED, str(top)], HANDLERS, performer=performers,
                stdin=proctor.PIPE, stdout=proctor.PIPE,
            ) as process,
        ):  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            seen = []
            for _ in range(2):
                assert os.read(process.stdout.fileno(), 1) == b"."
                seen.append(switches(performers.executors.mother.pid or 0))
                os.write(process.stdin.fileno(), b"\n")
            assert process.wait(60) == 0
        if seen[0] == seen[1]:
            break
    assert seen[0] == seen[1]


MODES = """
import os, sys
os.chdir(sys.argv[1])
for each in sys.argv[2].split():
    mask, mode, where = each.split(",")
    os.umask(int(mask))
    os.mkdir(f"{where}/d", int(mode))
    print(each, oct(os.stat(f"{where}/d").st_mode), os.stat(f"{where}/d").st_gid, os.listxattr(f"{where}/d"))
    os.rmdir(f"{where}/d")
"""


def test_a_directory_is_made_with_its_callers_umask(top: Path) -> None:
    for name, mode in (("plain", 0o755), ("setgid", 0o2775), ("acl", 0o755)):
        (top / name).mkdir()
        (top / name).chmod(mode)
    try:
        os.setxattr(top / "acl", "system.posix_acl_default", ACL)
    except OSError:  # not on every file system
        pass
    draw = random.Random(5)
    words = " ".join(
        f"{draw.randrange(0o1000)},{draw.choice([0, 0o777, 0o1777, 0o6755, 0o700])},{draw.choice(['plain', 'setgid', 'acl'])}"
        for _ in range(200)
    )
    with unsteady():
        said = performed(MODES, str(top), words)
    assert said == natively(MODES, str(top), words)


NUMBERS = """
top, rest = sys.argv[1].encode(), sys.argv[1][1:].encode()
os.chdir("/")
for number in (-2**31, -2**31 + 1, -1, 2**31 - 1, -100):
    for name in (b"/to", b"/../to"):
        for call in ((265, -100, top + b"/file", number, rest + name, 0), (264, -100, top + b"/file", number, rest + name),
                     (316, number, rest + b"/file", -100, top + name, 0), (264, number, rest + b"/to", -100, top + b"/file"),
                     (265, number, rest + b"/file", number, rest + name, 0), (316, number, rest + name, number, rest + b"/file", 0),
                     (263, number, rest + name, 0)):
            said = libc.syscall(*call)
            print(number, name, call[0], said, ctypes.get_errno() if said else 0, sorted(os.listdir(top)))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="calls by their numbers")
def test_a_path_starts_where_its_own_directory_is(top: Path) -> None:
    """Whatever number is no descriptor is no word for where the other path starts."""
    said = []
    for ask in (natively, performed):
        place = top / ask.__name__
        place.mkdir()
        (place / "file").touch()
        said.append(ask(WARM + NUMBERS, str(place)).splitlines())
    assert said[0] == said[1]


CHANGES = {
    "user": "os.setresuid(1000, 1000, 1000)",
    "file-system user": "libc.setfsuid(1000)",
    "group": "os.setresgid(7, 7, 7)",
    "groups": "os.setgroups([1, 2, 3])",
    "user namespace": "assert libc.unshare(0x10000000) == 0",
    "mounts": "assert libc.unshare(0x20000) == 0",
    "root": "os.chroot('sub')",
}
CHANGED = """
import stat
for name in ("one", "two", sys.argv[1] + "/three", "/four", "shut/in", "shut/../five"):
    for call in (lambda: os.mkdir(name), lambda: os.chown(name, 3, -1), lambda: os.chmod(name, 0o2777),
                 lambda: os.rename(name, name + "x"), lambda: os.symlink("x", name), lambda: os.unlink(name)):
        try:
            call()
            print(name, "done")
        except OSError as failed:
            print(name, failed.errno)
        try:
            found = os.lstat(name + "x")
            print(found.st_uid, found.st_gid, oct(found.st_mode))
        except OSError as failed:
            print(failed.errno)
    try:
        os.rmdir(name + "x")
    except OSError as failed:
        print(failed.errno)
"""


@root_only
@pytest.mark.parametrize("what", CHANGES)
def test_a_caller_that_changed_is_not_what_we_are(what: str, top: Path) -> None:
    said = []
    for ask in (natively, performed):
        place = top / ask.__name__
        for each in (place, place / "shut", place / "sub"):
            each.mkdir()
        place.chmod(0o755)
        (place / "file").touch()
        (place / "shut").chmod(0o700)
        (place / "sub").chmod(0o777)
        said.append(
            ask(WARM + CHANGES[what] + CHANGED, str(place)).replace(os.fsencode(place), b"")
        )
    assert said[0] == said[1]


@root_only
def test_a_monitor_that_changed_does_not_do_it(top: Path) -> None:
    """Whoever receives is of another group for files."""
    asked: list[int] = []

    @proctor.on("getppid")
    def changes(call: proctor.Call) -> proctor.Verdict:
        asked.append(libc.setfsgid(4242 if len(asked) == 20 else 0))
        return proctor.answer(1)

    (top / "file").touch()
    # the first calls may be taken for some that stall, and another one receives
    code = (
        WARM
        + "for number in range(21):\n    os.getppid()\nall_of_them()\nos.symlink('file', 'mine')\nos.getppid()\n"
    )
    try:
        done = proctor.run(
            [PYTHON, "-ISc", code, str(top)], [*HANDLERS, changes], capture_output=True, timeout=60
        )
    finally:
        libc.setfsgid(0)
    assert done.returncode == 0, done.stderr
    assert len(asked) == 22
    assert (top / "mine").lstat().st_gid == 0


@root_only
def test_what_lies_on_another_file_system_is_left_to_others(top: Path) -> None:
    """An overlay may lie on one whose server does not answer."""
    code = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
for name in ("lower", "upper", "work", "all"):
    os.mkdir(name)
assert libc.unshare(0x20000) == 0
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
if libc.mount(b"overlay", b"all", b"overlay", 0, b"lowerdir=lower,upperdir=upper,workdir=work"):
    sys.exit(77)
os.chdir("all")
monitor = sys.argv[2]
exec(monitor)
"""
    # the monitor is in that mount namespace, too
    monitor = (
        "import proctor, sys\nfrom proctor import families, performing\n"
        "with performing.Performers() as performers:\n"
        "    done = proctor.run([sys.executable, '-ISc', sys.argv[3], '.'], [families.names(), families.attributes()], performer=performers)\n"
        "    print(bool(performers.executors.mother.pid), done.returncode)\n"
    )
    body = WARM.replace('os.link("file", "again"), os.unlink("again")', "")
    done = subprocess.run(
        [sys.executable, "-c", code, str(top), monitor, body],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    if done.returncode == 77:
        pytest.skip("no overlay is mounted here")
    assert done.stdout.split() == ["True", "0"], done.stderr


@needs_userfaultfd
def test_whoever_keeps_a_directory_locked_has_nobody_else_wait(top: Path) -> None:
    """getdents(2) has its directory locked while its caller's memory answers late."""
    for name in ("locked", "free"):
        (top / name).mkdir()
    for number in range(3):
        (top / f"locked/{number}").touch()
    warm = "held = []\ndef text(it):\n    held.append(ctypes.create_string_buffer(it))\n    return ctypes.addressof(held[-1])\n"
    # x86-64: 217 is getdents64, 83 mkdir, 84 rmdir
    program = warm + HANGING.replace("CONTENT", "b''").replace(
        "HOSTILE", "call(217, os.open('locked', os.O_RDONLY), address, 4096) > 0"
    ).replace(
        "OTHERS",
        "waits = threading.Thread(target=lambda: said.append(call(83, text(b'locked/new'), 0o700)))\nwaits.start()\n"
        "while not open(f'/proc/self/task/{waits.native_id}/syscall').read().startswith('83 '):\n    os.sched_yield()\n"
        "for number in range(200):\n    assert call(83, text(b'free/new'), 0o700) == call(84, text(b'free/new')) == 0\n"
        "print(len(said))",
    ).replace("print(*said)", "waits.join()\nprint(*said, os.path.exists('locked/new'))")
    start = "os.chdir(sys.argv[1])\nfor number in range(20):\n    os.mkdir('free/x'), os.rmdir('free/x')\n"
    done = proctor.run(
        [sys.executable, "-c", "import ctypes, os, sys\n" + start + program, str(top)], HANDLERS,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    assert said[0] == "0"  # both wait still
    assert sorted(said[1:]) == ["0", "True", "True"]

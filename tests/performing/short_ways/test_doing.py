"""Names that are made, moved and removed, and attributes that are changed by the core, as their families do it, where nobody is
told of it.

PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import subprocess
import sys
import time
from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import proctor
from proctor import families, performing
from proctor.kernel.engine import Engine as NativeEngine
from proctor.performing.executing.workers import Pace
from proctor.performing.short_ways import deeds
from proctor.policy import loads
from proctor.supervisor import natively
from proctor.supervisor.deciding import Decider
from proctor.supervisor.world import KernelWorld
from tests.performing.short_ways.test_seen import counting
from tests.performing.support.containers import PYTHON
from tests.policy.test_policy_hostile_memory import PROGRAM as HANGING
from tests.policy.test_policy_hostile_memory import needs_userfaultfd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs the host's root")
PROGRAM = Path(__file__).parents[1] / "at_random" / "random_names.py"
TRIES = int(os.environ.get("PROCTOR_TRIES", "400"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
MAP = [(0, 100000, 65536)]

#: How it is launched, and what a shell does to be that natively.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "root": ({}, {}),
    "user": ({"uid": 1000, "gid": 1000, "groups": ()}, {"user": 1000, "group": 1000, "extra_groups": []}),
    "container": ({"userns": MAP}, {}),
    # the monitor is that user, too, and does most of it itself
    "own": ({}, {"user": 1000, "group": 1000, "extra_groups": []}),
}  # fmt: skip


def places(tmp_path_factory: pytest.TempPathFactory, owner: int) -> list[str]:
    found = []
    for _ in range(2):
        # of the same length, and deeper than paths go up
        top = f"/dev/shm/proctor-{os.getpid()}-{len(found)}-{time.monotonic_ns()}"
        os.mkdir(top, 0o755)
        os.makedirs(f"{top}/1/2/3/tree")
        for each in (top, f"{top}/1", f"{top}/1/2", f"{top}/1/2/3", f"{top}/1/2/3/tree"):
            os.chown(each, owner, owner)
            os.chmod(each, 0o755)
        found.append(f"{top}/1/2/3/tree")
    return found


def by_user(
    who: dict[str, Any], command: list[str], handlers: Sequence[proctor.Handler] = (), **how: Any
) -> Any:
    """The same by a monitor that has these ids and no rights, in a process of its own."""
    handlers = handlers or [families.names(), families.attributes()]
    proctor.run(
        ["mkdir", "/dev/null/x"], handlers, capture_output=True
    )  # all is loaded by who may read it
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(who["extra_groups"])
            os.setresgid(*[who["group"]] * 3)
            os.setresuid(*[who["user"]] * 3)
            done = proctor.run(command, handlers, capture_output=True, timeout=1200, **how)
            said = [done.returncode, done.stdout.decode(), done.stderr.decode()]
            with open(writer, "w") as file:
                json.dump(said, file)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        code, out, err = json.load(file)
    os.waitpid(pid, 0)
    return subprocess.CompletedProcess(command, code, out.encode(), err.encode())


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_at_random_it_is_what_the_kernel_does(
    kind: str, native: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    how, natively_how = KINDS[kind]
    owner = {"root": 0, "user": 1000, "container": 100000, "own": 1000}[kind]
    tops = places(tmp_path_factory, owner)
    count = TRIES if native else TRIES // 4
    try:
        commands = [
            [PYTHON, "-ISc", PROGRAM.read_text(), top, str(SEED), str(count)] for top in tops
        ]
        if kind == "container":  # whose root the kernel is asked about without handlers
            natively: Any = proctor.run(
                commands[0], [], userns=MAP, capture_output=True, timeout=600
            )
        else:
            natively = subprocess.run(
                commands[0], capture_output=True, check=False, timeout=600, **natively_how
            )
        assert natively.returncode == 0, natively.stderr
        handlers = [families.names(), families.attributes()]
        asked = [counting(each) for each in handlers]
        if kind == "own":
            done = by_user(natively_how, commands[1], world=KernelWorld(native=native))
        else:
            done = proctor.run(
                commands[1],
                handlers,
                world=KernelWorld(native=native),
                capture_output=True,
                timeout=1200,
                **how,
            )
        assert done.returncode == 0, done.stderr
        pairs = zip(natively.stdout.splitlines(), done.stdout.splitlines(), strict=True)
        wrong = [f"{one!r} {other!r}" for one, other in pairs if one != other]
        assert not wrong, "\n".join(wrong[:20])
        fine = sum(line.split()[2:3] == [b"0"] for line in natively.stdout.splitlines())
        assert (
            fine > count / 40
        )  # who takes its own directories the right to be searched finds little
        if not native and kind != "own":  # which are counted in another process
            assert sum(map(len, asked)) >= count
    finally:
        for top in tops:
            subprocess.run(["rm", "-rf", top.removesuffix("/1/2/3/tree")], check=True)


MANY = """
import os, sys
os.chdir(sys.argv[1])
for number in range(300):
    os.mkdir("d"), os.chmod("d", 0o700), os.chown("d", -1, -1), os.rename("d", "e"), os.rmdir("e")
    os.symlink("e", "l"), os.link("l", "k", follow_symlinks=False), os.chown("l", -1, -1, follow_symlinks=False)
    os.remove("l"), os.rename("k", "l"), os.replace("l", "k"), os.remove("k")
    try:
        os.unlink("e")
    except FileNotFoundError:
        pass
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for each in (tmp_path, *tmp_path.parents):
        if each.stat().st_mode & stat.S_ISVTX:
            break  # everybody's, who may search it as it is
        os.chmod(each, 0o755)
    os.chown(tmp_path, 1000, 1000)
    return tmp_path


def ran(
    code: str, place: Path, *handlers: proctor.Handler, **how: Any
) -> dict[str, dict[str, int]]:
    """How often calls were counted, by their names and what they came to."""
    counters = proctor.Counters()
    proctor.run(
        [PYTHON, "-ISc", code, str(place)], handlers or [families.names(), families.attributes()], uid=1000, gid=1000, groups=(), check=True,
        observers=[counters], timeout=120, **how,
    )  # fmt: skip
    found: dict[str, dict[str, int]] = {}
    for (_, name, kind), count in counters.table().items():
        found.setdefault(name, {})[kind] = count
    return found


@pytest.mark.parametrize("native", [True, False])
def test_no_handler_is_asked_and_each_is_counted(native: bool, place: Path) -> None:
    handlers = [families.names(), families.attributes()]
    asked = [counting(each) for each in handlers]
    counted = ran(MANY, place, *handlers, world=KernelWorld(native=native))
    assert counted == {
        **{name: {"perform": 300} for name in ("mkdir", "rmdir", "symlink", "linkat", "chmod", "chown", "lchown")},
        "rename": {"perform": 900}, "unlink": {"perform": 600, "perform ENOENT": 300},
    }  # fmt: skip
    # some are asked about until it is known who calls, and where one stalls
    all_of_them = sum(sum(each.values()) for each in counted.values())
    many = sum(map(len, asked))
    assert many < all_of_them / 2 if native else many == all_of_them


#: Both paths of a call where pages end, long, empty, in other pages, or nowhere.
ENDS = """
import ctypes, mmap, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
rooms = [libc.mmap(None, 8192, 3, 0x22, -1, 0) for _ in range(2)]
for room in rooms:
    assert libc.mprotect(ctypes.c_void_p(room + 4096), 4096, 0) == 0
for name in ("file", "other"):
    open(name, "w").close()
def at(room, text, left):
    place = room + 4096 - len(text) - left
    ctypes.memmove(place, text, len(text))
    return ctypes.c_void_p(place)
long = b"./" * 150
texts = [
    (b"file\\0", 0), (b"file\\0", 1), (b"file\\0", 300), (long + b"file\\0", 0), (long + b"file\\0", 700), (b"./" * 128 + b"file\\0", 255),
    (b"file", 0), (b"\\0", 0), (b"\\0", 9), (b"", 0), (b"x" * 256 + b"\\0", 0), (b"x" * 255 + b"\\0", 600),
]
said = []
for old in texts:
    for new in texts:
        second = at(rooms[1], new[0].replace(b"file", b"other"), new[1])
        for call in (libc.rename, libc.link, libc.symlink):
            ctypes.set_errno(0)
            call(at(rooms[0], *old), second)
            said.append(ctypes.get_errno())
            for name in ("other", "file"):
                if not os.path.lexists(name):
                    open(name, "w").close()
names = sorted((name, os.path.islink(name) and os.readlink(name)) for name in os.listdir("."))
open("said", "w").write(repr((said, names)))
"""


@pytest.mark.parametrize("kind", ["user", "own"])
def test_two_paths_are_read_to_their_ends(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At once where both are short; whatever is not, or cannot be read, is so as for the kernel."""
    how, natively_how = KINDS[kind]
    tops = places(tmp_path_factory, 1000)
    try:
        commands = [[PYTHON, "-ISc", ENDS, top] for top in tops]
        subprocess.run(commands[0], check=True, timeout=60, **natively_how)
        if kind == "own":
            done = by_user(natively_how, commands[1])
        else:
            handlers = [families.names(), families.attributes()]
            done = proctor.run(commands[1], handlers, timeout=60, capture_output=True, **how)
        assert done.returncode == 0, done.stderr
        first, second = [Path(top, "said").read_text() for top in tops]
        assert first == second.replace(tops[1], tops[0])
        errors, _ = literal_eval(first)
        assert {0, errno.ENOENT, errno.EFAULT, errno.ENAMETOOLONG} <= set(errors)
    finally:
        for top in tops:
            subprocess.run(["rm", "-rf", top.removesuffix("/1/2/3/tree")], check=True)


def test_who_takes_longer_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor's answer is awaited by the loop, if it is not there at once."""
    went_on: list[str] = []
    way = deeds.DeedWay.goes_on

    def goes_on(self: deeds.DeedWay, call: proctor.Call, *rest: Any) -> Any:
        went_on.append(call.name)
        return way(self, call, *rest)

    monkeypatch.setattr(Pace, "patience", property(lambda self: 0, lambda self, _: None))
    monkeypatch.setattr(deeds.DeedWay, "goes_on", goes_on)
    counted = ran(MANY, place)
    assert {name: sum(each.values()) for name, each in counted.items()} == {
        **dict.fromkeys(("mkdir", "rmdir", "symlink", "linkat", "chmod", "chown", "lchown"), 300), "rename": 900, "unlink": 900,
    }  # fmt: skip
    assert went_on


def test_what_is_done_by_who_lost_the_role_is_done_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread receives since whoever does it stalls; what came of it is answered, and not done again."""
    began: list[bool] = []
    makers = NativeEngine.makers

    class Slow:
        @property
        def leaving(self) -> bool:
            began.append(True)
            time.sleep(0.1)  # whoever stands by looks every 2 ms
            return False

    def slowly(self: NativeEngine, listener: Any) -> Any:
        core = makers(self, listener)
        return SimpleNamespace(
            **{**vars(core), "Doing": lambda *given: core.Doing(*given[:6], Slow(), *given[7:])}
        )

    monkeypatch.setattr(NativeEngine, "makers", slowly)
    code = """
import os, sys
os.chdir(sys.argv[1])
for number in range(40):
    os.mkdir(f"d{number}")
"""
    # where its first call is taken for one that stalls, the others go another way
    for attempt in range(50):
        here = place / str(attempt)
        here.mkdir()
        os.chown(here, 1000, 1000)
        counted = ran(code, here)
        assert counted == {"mkdir": {"perform": 40}}
        assert sorted(os.listdir(here)) == sorted(f"d{number}" for number in range(40))
        if began:
            break
    assert began


ROOT = """
import os, sys
os.chroot(sys.argv[1])
os.chdir("/")
os.chmod("/", 0o600)
os.setresuid(1000, 1000, 1000)
for _ in range(3):
    for call in (os.mkdir, os.rmdir, os.unlink):
        try:
            call("//")
        except OSError as failed:
            print(failed.errno)
"""


@pytest.mark.parametrize("native", [True, False])
def test_a_root_that_may_not_be_searched_is_no_name(native: bool, tmp_path: Path) -> None:
    done = proctor.run(
        [PYTHON, "-ISc", ROOT, str(tmp_path)], [families.names()], world=KernelWorld(native=native), capture_output=True,
        timeout=60,
    )  # fmt: skip
    natively = subprocess.run(
        [PYTHON, "-ISc", ROOT, str(tmp_path)], capture_output=True, check=True
    )
    assert done.stdout == natively.stdout
    assert natively.stdout.split() == [b"17", b"16", b"21"] * 3


EMPTY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
here, nowhere = ctypes.c_char_p(b"here"), ctypes.c_void_p(1)
for number in range(3):
    os.symlink("target", f"{sys.argv[1]}/{number}")
    for target in (ctypes.c_char_p(b""), here, nowhere):
        for path in (ctypes.c_char_p(b""), nowhere):
            for call in (lambda: libc.symlink(target, path), lambda: libc.symlinkat(target, -100, path)):
                assert call() == -1
                print(ctypes.get_errno())
"""


@pytest.mark.parametrize("native", [True, False])
def test_a_link_to_nothing_is_refused_wherever_it_were(native: bool, place: Path) -> None:
    """The kernel says of what a link leads to first that it is empty, and then that its own path cannot be read."""
    command = [PYTHON, "-ISc", EMPTY, str(place)]
    done = proctor.run(
        command,
        [families.names()],
        world=KernelWorld(native=native),
        capture_output=True,
        check=True,
        timeout=60,
    )
    for each in place.iterdir():
        each.unlink()
    natively = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == natively.stdout
    assert natively.stdout.split() == [*[b"2"] * 6, *[b"14"] * 6] * 3


LOSING = """
import os, sys
os.chdir(sys.argv[1])
lost = []
for number in range(40):
    try:
        os.mkdir(f"d{number}")
    except PermissionError:
        lost.append(number)
assert set(os.listdir()) >= {f"d{number}" for number in range(40) if number not in lost}
open("lost", "w").write(str(len(lost)))
"""


def test_whom_nobody_can_go_on_for_is_answered(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor was asked, and there is no memory for what is to be said of that."""
    went_on, said = [], []
    way, routed = deeds.DeedWay.goes_on, Decider.routed

    def goes_on(self: deeds.DeedWay, *rest: Any) -> Any:
        went_on.append(True)
        return way(self, *rest)

    def out_of_memory(self: Decider, job: Any) -> None:
        if went_on:
            went_on.clear()
            raise MemoryError
        routed(self, job)

    monkeypatch.setattr(Pace, "patience", property(lambda self: 0, lambda self, _: None))
    monkeypatch.setattr(deeds.DeedWay, "goes_on", goes_on)
    monkeypatch.setattr(Decider, "routed", out_of_memory)
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: said.append(hook.exc_type))
    # where its first call is taken for one that stalls, the others go another way
    for attempt in range(50):
        here, before = place / str(attempt), len(said)
        here.mkdir()
        os.chown(here, 1000, 1000)
        ran(LOSING, here)
        assert said[before:] == [MemoryError] * int((here / "lost").read_text())
        if said:
            break
    assert said


def test_whom_a_call_cannot_be_made_for_holds_no_executor(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor was asked, and there is no memory for the call itself: the next ones have executors all the same."""
    lost: list[bool] = []
    said: list[object] = []

    class Lost(natively.Call):
        __slots__ = ()

        def __init__(self, *args: Any, **given: Any) -> None:
            if sys._getframe(1).f_code.co_name == "goes_on" and len(lost) < 8:
                lost.append(True)
                raise MemoryError
            super().__init__(*args, **given)

    monkeypatch.setattr(Pace, "patience", property(lambda self: 0, lambda self, _: None))
    monkeypatch.setattr(natively, "Call", Lost)
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: said.append(hook.exc_type))
    # where its first call is taken for one that stalls, the others go another way
    for attempt in range(50):
        here = place / str(attempt)
        here.mkdir()
        os.chown(here, 1000, 1000)
        ran(LOSING, here, performing={"limit": 2})
        if len(lost) > 2:
            break
        lost.clear()
    assert len(lost) > 2


DEVICES = """
import os, stat, sys
os.chdir(sys.argv[1])
for number in range(8):
    os.mknod(f"d{number}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(".", "trusted.proctor", b"%d" % number)
"""


@pytest.mark.parametrize("native", [True, False])
def test_a_call_for_which_several_work_counts_once(place: Path, native: bool) -> None:
    """One of the caller's, and one who lends: the first, which finds nobody, and those that follow."""
    os.chown(place, MAP[0][1], MAP[0][1])
    done = proctor.run(
        [PYTHON, "-ISc", DEVICES, str(place)],
        [families.mknod(), families.xattr(names=["trusted.proctor"])],
        userns=MAP, performing={"limit": 1}, world=KernelWorld(native=native), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.stderr == "" and done.returncode == 0


@needs_userfaultfd
@pytest.mark.parametrize(
    ("handler", "known", "hostile", "other", "content"),
    [
        (
            families.names(), "call(83, text(b'warm'), 0o700)", "call(83, address, 0o700)", "call(83, text(b'other'), 0o700)",
            b"late\0",
        ),
        (
            families.connect(), "call(42, one, text(inet), 16)", "call(42, one, address, 16)", "call(42, two, text(inet), 16)",
            struct.pack("=H", 2) + struct.pack(">H4s8x", 1, b"\x7f\0\0\1"),
        ),
    ],
    ids=["mkdir", "connect"],
)  # fmt: skip
def test_memory_that_answers_late_holds_no_executor(
    handler: proctor.Handler, known: str, hostile: str, other: str, content: bytes, tmp_path: Path
) -> None:
    """Nobody has borrowed one before all is read: the container's limit is for those that work."""
    texts = (
        "held = []\ndef text(it):\n    held.append(ctypes.create_string_buffer(it))\n    return ctypes.addressof(held[-1])\n"
        "import socket, struct\none, two = [socket.socket().detach() for _ in range(2)]\n"
        "inet = struct.pack('=H', 2) + struct.pack('>H4s8x', 1, b'\\x7f\\0\\0\\1')\nos.chdir(sys.argv[1])\n"
    )
    program = texts + HANGING.replace("CONTENT", repr(content)).replace("OTHERS", f"print({other})")
    program = program.replace("HOSTILE", f"([{known} for _ in range(50)], {hostile})[-1]")
    with performing.Performers(limit=1) as performers:
        done = proctor.run(
            [PYTHON, "-c", "import ctypes, os, sys\n" + program, str(tmp_path)], [handler], performer=performers,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = "0" if "83" in other else "ECONNREFUSED"
    assert done.stdout.split() == [said, said]


MIXED = """
default = "allow"
[[rule]]
name = "not in there"
calls = ["mkdir"]
when = {{ mode = 0o711, path = "{place}/in/**" }}
deny = "EROFS"
[[rule]]
name = "nowhere"
calls = ["mkdir"]
when = {{ mode = 0o711 }}
deny = "EACCES"
[[rule]]
name = "others"
calls = ["chmod"]
perform = true
"""
MODES = """
import os, sys
os.chdir(sys.argv[1])
for number in range(300):
    os.chmod(".", 0o755)
    for path, says in (("in/d", 30), ("d", 13)):
        try:
            os.mkdir(path, 0o711)
        except OSError as failed:
            assert failed.errno == says, failed
"""


def test_registers_of_what_is_not_performed_leave_paths_to_the_core(place: Path) -> None:
    """Where other calls of the policy are performed."""
    (place / "in").mkdir()
    policy = loads(MIXED.format(place=place))
    (handler,) = policy.handlers()
    asked, counters = counting(handler), proctor.Counters()
    proctor.run(
        [PYTHON, "-ISc", MODES, str(place)], [handler], filter=policy.filter(), observers=[counters], check=True, timeout=120
    )  # fmt: skip
    counted = {
        kind: count for (_, name, kind), count in counters.table().items() if name == "mkdir"
    }
    assert counted == {"deny EROFS": 300, "deny EACCES": 300}
    assert asked.count("mkdir") < 600


#: One that changes its mount namespace, and has the root directory of before: nothing is mounted there for it.
MOVED = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args):
        raise OSError(ctypes.get_errno(), name)
os.chdir(sys.argv[1])
call("unshare", 0x20000)  # CLONE_NEWNS
call("mount", b"none", b"/", None, 1 << 18 | 16384, None)  # MS_PRIVATE, MS_REC
for name in ("one", "two", "three", "four"):
    os.mkdir(name)
    call("mount", b"none", name.encode(), b"tmpfs", 0, None)
def tried(what, *args):
    try:
        what(*args)
        return 0
    except OSError as problem:
        return problem.errno
said = [tried(os.rmdir, "one"), tried(os.rename, "two", "other"), tried(os.rmdir, "three")]
root = os.open("/", os.O_PATH | os.O_DIRECTORY)
call("unshare", 0x20000)
for name in ("one", "two", "three"):
    call("umount2", name.encode(), 2)
os.fchdir(root)
os.chroot(".")
os.chdir(sys.argv[1])
said += [tried(os.rmdir, "one"), tried(os.rename, "two", "other"), tried(os.rmdir, "three"), tried(os.rmdir, "four")]
print(said)
"""


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_what_is_mounted_is_seen_where_the_caller_is(
    tmp_path: Path, native: bool, asked: bool
) -> None:
    said = []
    for name in ("natively", "performed"):
        place = tmp_path / name
        place.mkdir()
        for each in (*place.parents[:3], place):
            os.chmod(each, 0o755)
        os.chown(place, 100000, 100000)
        when = {"when": {"path": "/**"}} if asked else {}
        handlers = [families.names(**when)] if name == "performed" else []  # type: ignore[arg-type]
        done = proctor.run(
            [PYTHON, "-ISc", MOVED, str(place)], handlers, userns=MAP, capture_output=True, text=True,
            world=KernelWorld(native=native), timeout=60,
        )  # fmt: skip
        said.append(done.stdout + done.stderr)
    assert (
        said[0]
        == said[1]
        == f"[{errno.EBUSY}, {errno.EBUSY}, {errno.EBUSY}, 0, 0, 0, {errno.EBUSY}]\n"
    )

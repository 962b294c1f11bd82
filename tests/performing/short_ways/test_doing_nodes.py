"""Device nodes that are made by the core, as the family makes them, where nobody is told of it.

PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import time
from ast import literal_eval
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families, performing
from proctor.call.verdict import Answer, Deny
from proctor.filter import actions
from proctor.filter.rules import Rule as FilterRule
from proctor.kernel.listener import Listener
from proctor.kernel.notification import Notification
from proctor.performing.executing.lent import Lent
from proctor.performing.executing.processes import Executor
from proctor.performing.executing.steps import DIE
from proctor.performing.executing.workers import Pace
from proctor.performing.identities import lender
from proctor.performing.identities.lender import LenderKey
from proctor.performing.short_ways import nodes, ways
from proctor.policy import loads
from proctor.supervisor.world import KernelWorld
from proctor.syscalls import architectures, tables
from tests.performing.short_ways.test_seen import counting
from tests.performing.support.callers import open_directory
from tests.performing.support.containers import PYTHON

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs the host's root")
PROGRAM = Path(__file__).parents[1] / "at_random" / "random_nodes.py"
TRIES = int(os.environ.get("PROCTOR_TRIES", "400"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
MAP = [(0, 100000, 65536)]
MANY = """
import os, sys
os.chdir(sys.argv[1])
for number in range(200):
    os.mknod("c", 0o20640, os.makedev(1, 3))
    os.mknod(os.path.join(sys.argv[1], "b"), 0o60600, os.makedev(7, 1))
    try:
        os.mknod("c", 0o20640, os.makedev(1, 3))
    except FileExistsError:
        pass
    found = os.lstat("c"), os.lstat("b")
    assert [(each.st_mode, each.st_rdev) for each in found] == [(0o20640, 0x103), (0o60600, 0x701)], found
    assert all((each.st_uid, each.st_gid) == (0, 0) for each in found), found
    os.unlink("c"), os.unlink("b")
"""


@pytest.fixture
def place() -> Iterator[bytes]:
    with open_directory() as top:
        os.chown(top, 100000, 100000)
        yield top


def ran(
    code: str, place: bytes, *handlers: proctor.Handler, check: bool = True, **how: Any
) -> dict[str, int]:
    """How often mknodat was counted, by what it came to."""
    counters = proctor.Counters()
    proctor.run(
        [PYTHON, "-ISc", code, os.fsdecode(place)], handlers or [families.mknod()], userns=MAP, namespaces=["mnt"], check=check,
        observers=[counters], timeout=120, **how,
    )  # fmt: skip
    return {
        kind: count
        for (_, name, kind), count in counters.table().items()
        if name in ("mknod", "mknodat")
    }


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[Executor], object]]]:
    """What is done with who lends before the core asks him."""
    does: list[Callable[[Executor], object]] = []
    real = nodes.NodeWay.lends

    def lends(self: nodes.NodeWay, standing: Any) -> Any:
        found = real(self, standing)
        for each in [*self._performers.executors._idle] if found is not None else ():
            if isinstance(each.key, LenderKey):
                for act in does:
                    act(each)
        return found

    monkeypatch.setattr(nodes.NodeWay, "lends", lends)
    yield does


@pytest.fixture
def went_on(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whenever the core did not know what to say: whether somebody had lent."""
    told: list[bool] = []
    real = nodes.NodeWay.goes_on

    def goes_on(self: nodes.NodeWay, call: Any, wish: Any, standing: Any, *rest: Any) -> Any:
        told.append(len(rest) > 3)
        return real(self, call, wish, standing, *rest)

    monkeypatch.setattr(nodes.NodeWay, "goes_on", goes_on)
    return told


CHOSEN = """
default = "allow"
[[rule]]
name = "devices"
calls = ["mknod", "mknodat"]
when = { type = ["char", "block"], device = ["1:3", "7:1"] }
perform = true
"""


@pytest.mark.parametrize("written", ["policy", "python"])
@pytest.mark.parametrize("native", [True, False])
def test_no_handler_is_asked_and_each_is_counted(native: bool, written: str, place: bytes) -> None:
    handler = families.mknod(when={"type": ["char", "block"], "device": ["1:3", "7:1"]})
    how: dict[str, Any] = {}
    if written == "policy":
        policy = loads(CHOSEN)
        (handler,), how = policy.handlers(), {"filter": policy.filter()}
    asked = counting(handler)
    counted = ran(MANY, place, handler, **how, world=KernelWorld(native=native))
    assert counted == {"perform": 400, "perform EEXIST": 200}
    # some are asked about until it is known who calls, and where one stalls
    assert len(asked) < 600 if native else len(asked) == 600


OTHERS = """
import os, sys
os.chdir(sys.argv[1])
for number in range(400):
    try:  # modes without end, of which nobody keeps all
        os.mknod("c", 0o20000 | number, os.makedev(1, 3 if number % 4 else 5))
        assert number % 4, number
        os.unlink("c")
    except PermissionError:
        assert not number % 4, number
    os.mkfifo("f"), os.unlink("f")
"""


@pytest.mark.parametrize("native", [True, False])
def test_what_registers_leave_out_is_not_performed(native: bool, place: bytes) -> None:
    """Also where all calls come, and not only those that the rule is about."""
    policy = loads(CHOSEN)
    everything = proctor.Handler(["mknod", "mknodat"], lambda call: proctor.let_run())
    counted = ran(
        OTHERS, place, *policy.handlers(), filter=policy.filter(extra_notify=[everything]), world=KernelWorld(native=native),
    )  # fmt: skip
    assert counted == {"perform": 300, "let run": 500}


class Impatient(Pace):
    """Nobody's answer is there at once."""

    __slots__ = ()
    patience = property(lambda self: 0, lambda self, _: None)  # type: ignore[assignment]


def hurry(executor: Executor) -> None:
    """His answer is awaited by the loop."""
    executor.pace = Impatient()


@pytest.mark.parametrize("who", ["the caller's", "who lends"])
def test_who_takes_longer_is_waited_for(
    place: bytes,
    who: str,
    lent: list[Callable[[Executor], object]],
    went_on: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An executor's answer is awaited by the loop, if it is not there at once."""

    if who == "who lends":
        lent.append(hurry)
    else:
        monkeypatch.setattr(Pace, "patience", property(lambda self: 0, lambda self, _: None))
    assert ran(MANY, place) == {"perform": 400, "perform EEXIST": 200}
    assert (who == "who lends") in went_on


SETGID = """
import os, stat, sys
os.chdir(sys.argv[1])
for name in ("theirs", "foreign"):
    os.chdir(name)
    said = set()
    for number in range(20):
        for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFREG):
            os.mknod("n", kind | 0o2610, os.makedev(1, 3))
            said.add((oct(stat.S_IMODE(os.lstat("n").st_mode)), os.lstat("n").st_gid))
            os.unlink("n")
    print(name, said)
    os.chdir("..")
"""


@pytest.mark.parametrize("native", [True, False])
def test_a_group_of_nobody_there_is_not_set(native: bool, place: bytes) -> None:
    """What is made in a directory whose group has no number in the caller's user namespace: as with all that needs no right lent."""
    for name, group in ((b"theirs", 100005), (b"foreign", 5)):
        os.mkdir(os.path.join(place, name))
        os.chown(os.path.join(place, name), 100000, group)
        os.chmod(os.path.join(place, name), 0o2777)
    done = proctor.run(
        [PYTHON, "-ISc", SETGID, os.fsdecode(place)], [families.mknod()], userns=MAP, namespaces=["mnt"], check=True,
        world=KernelWorld(native=native), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "theirs {('0o2610', 5)}",
        "foreign {('0o610', 65534)}",
    ]


CHANGED = """
import ctypes, mmap, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
file = os.open("shared", os.O_RDWR)
os.ftruncate(file, 4096)
shared = mmap.mmap(file, 4096)
path = ctypes.addressof(ctypes.c_char.from_buffer(shared))
said = []
for number in range(60):
    os.ftruncate(file, 4096)
    shared[:8] = b"n%%02d" %% number + bytes(5)
    failed = libc.syscall(%d, -100, ctypes.c_void_p(path), 0o20600, 0x103)
    said.append(ctypes.get_errno() if failed else 0)
    ctypes.set_errno(0)
open("said", "w").write(repr(said))
"""


def test_a_path_is_read_no_more_once_somebody_lends(
    place: bytes,
    lent: list[Callable[[Executor], object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the caller changes meanwhile is nothing of its call's, and nobody is lost by that."""
    told: list[object] = []
    real = nodes.NodeWay.goes_on

    def goes_on(self: nodes.NodeWay, call: Any, wish: Any, standing: Any, *rest: Any) -> Any:
        if len(rest) > 3:
            told.append(rest)
            os.truncate(shared, 0)
        return real(self, call, wish, standing, *rest)

    monkeypatch.setattr(nodes.NodeWay, "goes_on", goes_on)
    lent.append(hurry)
    code = CHANGED % tables.number("mknodat", architectures.native())
    # where its first call is taken for one that stalls, the others go another way
    for attempt in range(50):
        here = os.path.join(place, b"%d" % attempt)
        shared = os.path.join(here, b"shared")
        os.mkdir(here)
        Path(os.fsdecode(shared)).touch()
        os.chown(here, 100000, 100000), os.chown(shared, 100000, 100000)
        ran(code, here)
        said = literal_eval((Path(os.fsdecode(here)) / "said").read_text())
        assert said == [0] * 60
        if told:
            break
    assert told


def test_who_has_died_is_replaced(
    place: bytes, lent: list[Callable[[Executor], object]], went_on: list[bool]
) -> None:
    """What it never saw is made by another one."""

    def kill(executor: Executor) -> None:
        if len(killed) < 20:
            killed.append(executor.pid)
            os.kill(executor.pid, signal.SIGKILL)
            executor.wait_for_end(10)

    killed: list[int] = []
    lent.append(kill)
    assert ran(MANY, place) == {"perform": 400, "perform EEXIST": 200}
    assert killed and True in went_on


KEPT = """
import os, sys
os.chdir(sys.argv[1])
said = []
for number in range(60):
    try:
        os.mknod(f"c{number}", 0o20640, os.makedev(1, 3))
        said.append(0)
    except OSError as error:
        said.append(error.errno)
open("said", "w").write(repr(said))
"""


def test_who_kept_a_right_lends_no_more(
    place: bytes,
    lent: list[Callable[[Executor], object]],
    went_on: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def keeps(self: Lent) -> None:
        left = self._steps.scratch(24)
        self._steps.call("capget", self._header, left, bad=DIE)
        self.left = self._steps.want(left)

    seen: list[int] = []
    real, node = Lent.give_back, lender._node
    lent += [lambda executor: seen.append(executor.pid), lambda executor: node.cache_clear()]

    def give_back(self: Lent) -> None:
        (keeps if seen else real)(self)

    monkeypatch.setattr(Lent, "give_back", give_back)
    # where its first call is taken for one that stalls, the others go another way
    for attempt in range(50):
        here = os.path.join(place, b"%d" % attempt)
        os.mkdir(here)
        os.chown(here, 100000, 100000)
        seen.clear(), node.cache_clear()
        try:
            ran(KEPT, here)
        finally:
            node.cache_clear()
        said = literal_eval((Path(os.fsdecode(here)) / "said").read_text())
        if True in went_on:
            break
        assert seen or set(said) == {0}
    assert True in went_on
    # the first ones were asked without the core; whoever kept it is asked for nothing more
    assert said[0] == 0 and set(said[said.index(errno.EPERM) :]) == {errno.EPERM}
    assert len(set(seen)) == 1


def test_what_is_done_by_who_lost_the_role_is_done_once(
    place: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread receives since whoever does it stalls; what came of it is answered, and not done again."""
    began: list[object] = []
    lends = nodes.NodeWay.lends

    def slowly(self: nodes.NodeWay, standing: Any) -> Any:
        began.append(standing)
        time.sleep(0.1)  # whoever stands by looks every 2 ms
        return lends(self, standing)

    monkeypatch.setattr(nodes.NodeWay, "lends", slowly)
    code = """
import os, sys
os.chdir(sys.argv[1])
for number in range(20):
    os.mknod(f"n{number}", 0o20600, 0x103)
"""
    # where its first call is taken for one that stalls, the others go another way
    for attempt in range(50):
        here = os.path.join(place, b"%d" % attempt)
        os.mkdir(here)
        os.chown(here, 100000, 100000)
        assert ran(code, here) == {"perform": 20}
        assert sorted(os.listdir(here)) == sorted(b"n%d" % number for number in range(20))
        if began:
            break
    assert began


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("native", [True, False])
def test_at_random_it_is_what_root_makes(native: bool) -> None:
    count = TRIES if native else TRIES // 4
    with open_directory() as first, open_directory() as second:
        os.chown(second, 100000, 100000)
        for each in (first, second):
            os.chmod(each, 0o755)
        commands = [
            [PYTHON, "-ISc", PROGRAM.read_text(), os.fsdecode(top), str(SEED), str(count)]
            for top in (first, second)
        ]
        natively = subprocess.run(commands[0], capture_output=True, check=True, timeout=600)
        done = proctor.run(
            commands[1], [families.mknod()], world=KernelWorld(native=native), userns=MAP, namespaces=["mnt"],
            capture_output=True, check=True, timeout=1200,
        )  # fmt: skip
    pairs = zip(natively.stdout.splitlines(), done.stdout.splitlines(), strict=True)
    wrong = [f"{one!r} {other!r}" for one, other in pairs if one != other]
    assert not wrong, "\n".join(wrong[:20])
    fine = [line.split() for line in natively.stdout.splitlines()]
    made = [words for words in fine if len(words) == 7 and stat.S_ISCHR(int(words[2], 8))]
    assert len(made) > count / 40


ELSEWHERE = """
import os, sys
os.chdir(sys.argv[1])
for number in range(60):
    os.mkdir(f"d{number}")
    os.mknod(f"d{number}/c", 0o20640, os.makedev(1, 3))
    try:
        os.mknod(f"d{number}/c", 0o20640, os.makedev(1, 3))
    except FileExistsError:
        pass
    os.mkfifo(f"d{number}/f")
os.write(3, b"x")
"""


class Nobody:
    """Nobody comes after us."""

    def performs(self, notification: object) -> None: ...

    def begun(self, notification: object) -> bool:
        return False

    def left(self, notification: object) -> None: ...

    def clear(self, notification: object) -> None: ...


def _is_plain(said: object) -> bool:
    return isinstance(said, (Answer, Deny))


@pytest.mark.parametrize("late", [False, True])
def test_what_is_received_elsewhere_is_done_by_the_core_and_answered_there(
    place: bytes, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of LXC's questions, each of which is of Python's making."""
    said: list[Any] = []
    real = ways.PlannedWay._natively

    def natively(self: ways.PlannedWay, call: Any, listener: int) -> Any:
        found = real(self, call, listener)
        said.append(found)
        return found

    monkeypatch.setattr(ways.PlannedWay, "_natively", natively)
    if late:
        monkeypatch.setattr(Pace, "patience", property(lambda self: 0, lambda self, _: None))
    handlers = [families.mknod(), families.names()]
    container = proctor.Container(handlers=handlers, owner_userns=())
    rules = proctor.Filter(
        [FilterRule(("mknod", "mknodat", "mkdir", "mkdirat"), actions.NOTIFY)], actions.ALLOW
    )
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with (
        proctor.launch(
            [PYTHON, "-ISc", ELSEWHERE, os.fsdecode(place)], program=rules.compile().code, fds=((2, 2), (writing, 3)),
            namespaces=["user", "mnt"], uid_map=MAP, gid_map=MAP,
        ) as target,
        performing.Performers() as performers,
        proctor.Supervisor(performer=performers) as supervisor,
    ):  # fmt: skip
        os.close(writing)
        listener = Listener(target.take_listener())
        performers.adopt(target.pid)

        def receive() -> Any:
            supervisor.unwatch(listener.fileno())
            seen = listener.recv()
            supervisor.receive_from(listener.fileno(), receive)
            if seen is None:
                return None
            made = Notification(
                seen.id, seen.pid, seen.nr, seen.arch, seen.args, seen.ip, seen.flags
            )
            return made, elsewhere

        elsewhere = supervisor.elsewhere(listener, container, Nobody())
        supervisor.receive_from(listener.fileno(), receive)
        supervisor.start()
        assert os.read(reading, 1) == b"x"
        supervisor.unwatch(listener.fileno())
    listener.close()
    os.close(reading)
    for number in range(60):
        top = os.path.join(place, b"d%d" % number)
        found = os.lstat(os.path.join(top, b"c"))
        assert (found.st_mode, found.st_rdev, found.st_uid) == (0o20640, 0x103, 100000)
        assert stat.S_ISFIFO(os.lstat(os.path.join(top, b"f")).st_mode)
    done = [each for each in said if each is not None]
    # on a busy machine some take longer by themselves
    assert (
        any(type(each) is tuple for each in done)
        if late
        else {Answer(0), Deny(errno.EEXIST)} <= {*filter(_is_plain, done)}
    )

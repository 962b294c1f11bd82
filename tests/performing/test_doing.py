"""Names that are made, moved and removed by the core, as their family does it, where nobody is told of it.

PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from proctor.performing import deeds
from proctor.performing.processes import Executor
from proctor.supervisor.deciding import Decider
from proctor.supervisor.world import KernelWorld

from .containers import PYTHON
from .test_seen import counting

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs the host's root")
PROGRAM = Path(__file__).with_name("random_names.py")
TRIES = int(os.environ.get("PROCTOR_TRIES", "400"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
MAP = [(0, 100000, 65536)]

#: How it is launched, and what a shell does to be that natively.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "root": ({}, {}),
    "user": ({"uid": 1000, "gid": 1000, "groups": ()}, {"user": 1000, "group": 1000, "extra_groups": []}),
    "container": ({"userns": MAP}, {}),
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


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_at_random_it_is_what_the_kernel_does(
    kind: str, native: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    how, natively_how = KINDS[kind]
    owner = {"root": 0, "user": 1000, "container": 100000}[kind]
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
        handler = families.names()
        asked = counting(handler)
        done = proctor.run(
            commands[1],
            [handler],
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
        assert fine > count / 20
        if not native:
            assert len(asked) >= count
    finally:
        for top in tops:
            subprocess.run(["rm", "-rf", top.removesuffix("/1/2/3/tree")], check=True)


MANY = """
import os, sys
os.chdir(sys.argv[1])
for number in range(300):
    os.mkdir("d"), os.rename("d", "e"), os.rmdir("e")
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
        [PYTHON, "-ISc", code, str(place)], handlers or [families.names()], uid=1000, gid=1000, groups=(), check=True,
        observers=[counters], timeout=120, **how,
    )  # fmt: skip
    found: dict[str, dict[str, int]] = {}
    for (_, name, kind), count in counters.table().items():
        found.setdefault(name, {})[kind] = count
    return found


@pytest.mark.parametrize("native", [True, False])
def test_no_handler_is_asked_and_each_is_counted(native: bool, place: Path) -> None:
    handler = families.names()
    asked = counting(handler)
    counted = ran(MANY, place, handler, world=KernelWorld(native=native))
    assert counted == {
        "mkdir": {"perform": 300}, "rename": {"perform": 300}, "rmdir": {"perform": 300}, "unlink": {"perform ENOENT": 300},
    }  # fmt: skip
    # some are asked about until it is known who calls, and where one stalls
    assert len(asked) < 1200 if native else len(asked) == 1200


def test_who_takes_longer_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor's answer is awaited by the loop, if it is not there at once."""
    went_on: list[str] = []
    way = deeds.DeedWay.goes_on

    def goes_on(self: deeds.DeedWay, call: proctor.Call, *rest: Any) -> Any:
        went_on.append(call.name)
        return way(self, call, *rest)

    monkeypatch.setattr(Executor, "at_hand", property(lambda self: (self.number, self.table, 0)))
    monkeypatch.setattr(deeds.DeedWay, "goes_on", goes_on)
    counted = ran(MANY, place)
    assert {name: sum(each.values()) for name, each in counted.items()} == dict.fromkeys(
        ("mkdir", "rename", "rmdir", "unlink"), 300
    )
    assert went_on


def test_what_is_done_by_who_lost_the_role_is_done_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread receives since whoever does it stalls; what came of it is answered, and not done again."""
    began: list[int] = []
    starts = Decider.starts

    def slowly(self: Decider, served: Any) -> Any:
        start = starts(self, served)

        def slow(notification: Any) -> None:
            began.append(notification.id)
            time.sleep(0.1)  # whoever stands by looks every 2 ms
            start(notification)

        return slow

    monkeypatch.setattr(Decider, "starts", slowly)
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

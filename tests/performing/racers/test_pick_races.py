"""Racers of fspick(2) and remounts: what is picked, its context and options, exchanged during the calls.

PROCTOR_RACES says how many tries each has (make test-races).  What was reconfigured is looked at from outside: a mount of the host's that the
container sees, and that it could not reconfigure itself, is what it was.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctor
from tests.performing.racers.test_family_races import TRIES, disk, top, width
from tests.performing.support.callers import compiled
from tests.performing.support.containers import inside
from tests.support.kernel import RELEASE

__all__ = ["disk", "top", "width"]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of other ids want the host's root"),
    pytest.mark.skipif(RELEASE < (6, 8), reason="fspick is performed since Linux 6.8"),
    pytest.mark.timeout(3000),
]
KINDS = ("text", "link", "fd", "place", "over", "context", "key", "value", "remount")


@pytest.fixture(scope="module")
def program() -> Iterator[str]:
    with compiled("pick_racer") as made:
        yield made


@pytest.fixture
def hosts(top: Path, disk: str) -> Iterator[Path]:
    """Another file system, which the host has mounted."""
    image, place = top / "hosts-image", top / "hosts"
    with open(image, "wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def how(place: Path) -> list[str]:
    """How what is mounted there is mounted: the mount's attributes and its file system's options."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (found,) = (line.split() for line in lines if line.split()[4] == str(place))
    return [found[5], found[-1]]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_is_reconfigured(
    program: str, width: int, top: Path, disk: str, hosts: Path, kind: str
) -> None:
    play, before = top / "play", how(hosts)
    play.mkdir()
    os.chown(play, 100000, 100000)
    given = {"filesystems": ["ext4"], "devices": [disk]}
    tries = max(TRIES // 20, 20)
    words = [program, kind, str(tries), str(top / "own"), str(hosts), str(play), str(width)]
    script = '"$@" && grep " $4 \\| $6/" /proc/self/mountinfo'
    done = inside(
        ["sh", "-c", script, "sh", *words],
        [proctor.families.mount(**given), proctor.families.fsmount(**given)],
        cwd=str(top),
        timeout=2900,
    )
    assert done.returncode == 0, done.stderr
    made, *left = done.stdout.splitlines()
    assert made.startswith("made "), "nobody won"
    assert 0 < int(made.split()[1]) <= tries + 1
    assert "panic" not in done.stdout
    assert how(hosts) == before
    # it is seen that something is set at all; "continue" is what ext4 does not show
    own = [line for line in left if f"{play}/0" in line or f"{top}/own" in line]
    assert own and all(
        "errors=" not in line if kind == "value" else "commit=9" in line for line in own
    ), left

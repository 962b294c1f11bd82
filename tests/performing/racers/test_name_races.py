"""Racers for names that are all performed, which the core does where nobody is told of it: each call reads its paths once, is done
once, and with the rights of that moment.

PROCTOR_RACES says how many tries each has (make test-races).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctor
from proctor import families
from tests.performing.short_ways.test_seen import counting
from tests.performing.support.callers import compiled, open_directory
from tests.performing.support.containers import inside

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of other ids want the host's root"),
    pytest.mark.timeout(3000),
]
TRIES = int(os.environ.get("PROCTOR_RACES", "300"))


@pytest.fixture(scope="module")
def program() -> Iterator[str]:
    with compiled("name_racer") as made:
        yield made


@pytest.fixture
def top() -> Iterator[Path]:
    with open_directory() as path:
        top = Path(os.fsdecode(path))
        for name in ("yes", "not", "play", "play/dir", "shut"):
            (top / name).mkdir()
            os.chown(top / name, 100000, 100000)
        (top / "play/dir-to-shut").symlink_to("../shut")
        os.chown(top, 100000, 100000)
        yield top


GAMES = ["made", "moved", "removed", "dirfd", "cwd", "umask", "link", "rights"]


@pytest.mark.parametrize(
    ("game", "what"), [(game, "name") for game in GAMES] + [(game, "node") for game in GAMES]
)
def test_a_name_is_made_moved_and_removed_once(
    program: str, top: Path, game: str, what: str
) -> None:
    if game == "link":
        os.chown(top / "shut", 0, 0)
    elif game == "rights":
        os.chmod(top / "shut", 0o755)
    handler = families.names() if what == "name" else families.mknod()
    asked = counting(handler)
    done = inside([program, game, str(TRIES), what], [handler], cwd=str(top), timeout=2900)
    assert done.returncode == 0, done.stderr
    assert "won" not in done.stdout, done.stdout
    assert done.stdout.split()[:3] == ["tried", str(TRIES), "made"]
    assert int(done.stdout.split()[3]) > 0
    if game in ("made", "moved", "removed", "dirfd", "cwd", "umask"):
        assert len(asked) < TRIES  # at least two calls are made in each try; most without a handler


@pytest.mark.parametrize("game", ["made", "moved", "removed", "dirfd", "cwd", "umask", "rights"])
def test_so_it_is_where_the_monitor_does_it(program: str, top: Path, game: str) -> None:
    os.chown(top / "shut", 0, 0)
    os.chmod(top / "shut", 0o755)
    done = proctor.run(
        [program, game, str(TRIES)], [families.names()], cwd=str(top), capture_output=True, text=True, timeout=2900
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "won" not in done.stdout, done.stdout
    assert done.stdout.split()[:3] == ["tried", str(TRIES), "made"]
    assert int(done.stdout.split()[3]) > 0

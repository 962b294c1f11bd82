"""Racers of the container families: names, values, paths, types and options exchanged during the call.

PROCTOR_RACES says how many tries each has (make test-races).  What they touched is looked at from outside.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctor
from proctor.policy import loads
from proctor.supervisor.handlers import Handler
from tests.performing.support.callers import compiled, open_directory
from tests.performing.support.containers import inside

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of other ids want the host's root"),
    pytest.mark.timeout(3000),
]
TRIES = int(os.environ.get("PROCTOR_RACES", "500"))
OPAQUE = "trusted.overlay.opaque"
WIDTHS = (64, 32) if platform.machine() == "x86_64" else (64,)


@pytest.fixture(scope="module")
def program() -> Iterator[str]:
    with compiled("family_racer") as made:
        yield made


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest) -> int:
    """Whose calls are made: those of 64 bits, or of i386."""
    found: int = request.param
    return found


@pytest.fixture
def top() -> Iterator[Path]:
    with open_directory() as path:
        for name in (b"/own", b"/hosts"):
            os.mkdir(path + name)
        for name in (b"", b"/own"):
            os.chown(path + name, 100000, 100000)
        yield Path(os.fsdecode(path))


def race(
    program: str,
    top: Path,
    handler: Handler,
    kind: str,
    allowed: str,
    other: str,
    place: Path,
    tries: int,
    width: int = 64,
) -> int:
    """How many of the calls were made."""
    done = inside(
        [program, kind, str(tries), allowed, other, str(place), str(width)],
        [handler],
        cwd=str(top),
        timeout=2900,
    )
    assert done.returncode == 0, done.stderr
    assert "won" not in done.stdout
    return int(done.stdout.split()[-1])


def test_no_other_attribute_is_set(program: str, width: int, top: Path) -> None:
    handler = proctor.families.xattr(names=[OPAQUE])
    place = top / "own"
    assert race(program, top, handler, "name", OPAQUE, "trusted.secret", place, TRIES, width)
    assert os.listxattr(place) == [OPAQUE]


def test_a_value_is_one_of_both(program: str, width: int, top: Path) -> None:
    place = top / "own"
    assert (
        race(
            program,
            top,
            proctor.families.xattr(),
            "value",
            "a" * 200,
            "b" * 200,
            place,
            TRIES,
            width,
        )
        == TRIES + 1
    )
    assert len(os.getxattr(place, OPAQUE)) == 200


def test_nothing_of_the_hosts_is_marked(program: str, width: int, top: Path) -> None:
    (top / "play").mkdir()
    os.chown(top / "play", 100000, 100000)
    own, hosts = top / "own", top / "hosts"
    assert race(
        program,
        top,
        proctor.families.xattr(),
        "path",
        str(own),
        str(hosts),
        top / "play",
        TRIES,
        width,
    )
    assert (os.listxattr(own), os.listxattr(hosts)) == ([OPAQUE], [])


@pytest.fixture
def disk(top: Path) -> Iterator[str]:
    if not shutil.which("mkfs.ext4") or not os.path.exists("/dev/loop-control"):
        pytest.skip("mounting wants loop devices and mkfs.ext4")
    image = top / "image"
    with open(image, "wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
    done = subprocess.run(
        ["losetup", "-f", "--show", image], capture_output=True, text=True, check=True
    )
    device = done.stdout.strip()
    try:
        os.mknod(top / "disk", stat.S_IFBLK | 0o600, os.stat(device).st_rdev)
        os.chown(top / "disk", 100000, 100000)
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.mark.parametrize(
    ("kind", "allowed", "other"),
    [("kind", "ext4", "ext2"), ("data", "errors=continue", "errors=panic")],
)
def test_no_other_mount_is_made(
    program: str, width: int, top: Path, disk: str, kind: str, allowed: str, other: str
) -> None:
    handler = proctor.families.mount(filesystems=["ext4"], devices=[disk])
    assert race(
        program, top, handler, kind, allowed, other, top / "own", max(TRIES // 40, 20), width
    )


def test_no_other_directory_is_mounted_on(program: str, width: int, top: Path, disk: str) -> None:
    """A rule about the target: what is won is judged by what the mounts say afterwards."""
    (top / "play").mkdir()
    os.chown(top / "play", 100000, 100000)
    handler = proctor.families.mount(
        filesystems=["ext4"], devices=[disk], when={"target": f"{top}/own"}
    )
    others = proctor.Handler(["mount"], lambda call: proctor.deny(1))
    tries = max(TRIES // 40, 20)
    words = [
        program,
        "target",
        str(tries),
        str(top / "own"),
        str(top / "hosts"),
        str(top / "play"),
        str(width),
    ]
    script = '"$@" && grep -c /hosts /proc/self/mounts; true'
    done = inside(["sh", "-c", script, "sh", *words], [handler, others], cwd=str(top), timeout=2900)
    assert done.stdout.split()[0] == "made", done.stderr
    assert int(done.stdout.split()[1]) > 0
    assert done.stdout.split()[2] == "0"


CALLS = (
    "stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "truncate", "open", "openat", "openat2",
)  # fmt: skip
RULES = """
[[rule]]
name = "this one"
calls = CALLS
when = { path = "TOP/play/a" }
perform = HOW

[[rule]]
name = "others"
calls = CALLS
deny = "EACCES"
"""


def files(program: str, top: Path, kind: str, calls: tuple[str, ...], how: str) -> int:
    """Race for a file that is denied: how many calls were made."""
    play = top / "play"
    play.mkdir()
    play.chmod(0o777)
    for place, text in ((play / "a", "a"), (top / "b", "secret")):
        place.write_text(text)
        place.chmod(0o666)
    rules = RULES.replace("CALLS", json.dumps(calls)).replace("TOP", str(top)).replace("HOW", how)
    policy = loads(rules)
    done = inside(
        [program, kind, str(TRIES), f"{play}/a", f"{top}/b", str(play), "64"],
        policy.handlers(),
        filter=policy.filter(),
        cwd=str(top),
        timeout=2900,
    )
    assert done.returncode == 0, done.stderr
    assert "won" not in done.stdout
    assert (top / "b").read_text() == "secret"
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("link", ["", "link-"])
@pytest.mark.parametrize("kind", ["stat", "access", "truncate", "open"])
def test_no_other_file_is_told_of_or_changed(program: str, top: Path, kind: str, link: str) -> None:
    assert files(program, top, link + kind, CALLS, "true")


@pytest.mark.parametrize("link", ["", "link-"])
@pytest.mark.parametrize("kind", ["stat", "open"])
def test_what_is_served_is_served_for_its_path(
    program: str, top: Path, kind: str, link: str
) -> None:
    calls = tuple(each for each in CALLS if each != "truncate")
    assert files(program, top, link + kind, calls, '{ content = "a" }')

"""A Debian system made by container root, with the shipped policy, is the one that real root makes."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.policy import load
from tests.performing.support.callers import open_directory

POLICY = Path(__file__).parents[3] / "examples" / "container.toml"
FIRST = 100000
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mmdebstrap"),
    reason="wants the host's root and mmdebstrap",
)
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "HOME": "/",
    "TMPDIR": "/var/tmp",
}


@pytest.fixture
def top() -> Iterator[Path]:
    with open_directory() as path:
        os.mkdir(path + b"/inside")
        os.chown(path + b"/inside", FIRST, FIRST)
        os.mkdir(path + b"/native")
        yield Path(os.fsdecode(path))


def suite() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    named = [line.partition("=")[2] for line in lines if line.startswith("VERSION_CODENAME=")]
    return named[0] if named else pytest.skip("this system does not say which Debian it is")


def contents(top: Path, first: int) -> dict[str, Any]:
    """Everything of a tree, as a container sees it whose ids begin at ``first``."""
    found = {}
    for directory, directories, files in os.walk(top):
        for name in [*directories, *files]:
            path = Path(directory, name)
            status = path.lstat()
            content = ""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            attributes = {
                each: os.getxattr(path, each, follow_symlinks=False)
                for each in os.listxattr(path, follow_symlinks=False)
            }
            found[str(path.relative_to(top))] = (
                oct(status.st_mode), status.st_uid - first, status.st_gid - first, status.st_rdev,
                attributes, content,
            )  # fmt: skip
    return found


def inside(command: list[str]) -> str:
    """What a command in a container says."""
    policy = load(POLICY)
    done = proctor.run(
        command, policy.handlers(), filter=policy.filter(), userns=[(0, FIRST, 65536)],
        namespaces=("mnt", "uts", "ipc"), capture_output=True, text=True, env=ENVIRONMENT, cwd="/",
        timeout=500, **policy.supervisor_options(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: str = done.stdout
    return said


@pytest.mark.timeout(900)
def test_mmdebstrap_makes_the_same_system(top: Path) -> None:
    """Byte by byte; and apt installs something in it."""

    def command(name: str) -> list[str]:
        return [
            "mmdebstrap", "--mode=root", "--variant=apt", "--quiet", suite(), str(top / name),
        ]  # fmt: skip

    native = subprocess.run(
        command("native"), capture_output=True, text=True, env=ENVIRONMENT, cwd="/", check=False
    )
    if native.returncode:
        pytest.skip(f"no packages are to be had here: {native.stderr[-300:]}")
    inside(command("inside"))
    ours, theirs = contents(top / "inside", FIRST), contents(top / "native", 0)
    assert len(theirs) > 3000
    assert {name for name in ours if ours[name] != theirs.get(name)} == set()
    assert ours.keys() == theirs.keys()
    assert ours["dev/null"][:4] == (oct(stat.S_IFCHR | 0o666), 0, 0, os.makedev(1, 3))
    script = "apt-get -q update && apt-get -qy install --no-install-recommends hello && hello && apt-get -qy purge hello"
    said = inside(["chroot", str(top / "inside"), "sh", "-ec", script])
    assert (
        "Setting up hello" in said
        and "Hello, world!" in said
        and "Purging" not in said.split("Hello")[0]
    )
    assert not (top / "inside/usr/bin/hello").exists()

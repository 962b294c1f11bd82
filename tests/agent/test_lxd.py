"""A container of LXD, or Incus, that is configured for the agent, as docs/agent.md says: asked by tools/test-agent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proctor.records import NamedTuple
from tests.agent.lxc import lost
from tests.agent.running import RunningAgent, eventually
from tests.agent.runtimes import make_rootfs, missing, remove_cgroup

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif("PROCTOR_CONTAINERS" not in os.environ, reason="tools/test-agent asks it"),
]


class Kind(NamedTuple):
    """Which of both."""

    daemon: str
    client: str
    #: What its clients make it ready with.
    init: tuple[str, ...]
    #: The variable that says where it is.
    place: str


LXD = Kind("lxd", "lxc", ("lxd", "init", "--preseed"), "LXD_DIR")
#: Debian has its daemon in no directory of PATH.
INCUS = Kind(
    "/usr/libexec/incus/incusd",
    "incus",
    ("incus", "admin", "init", "--preseed"),
    "INCUS_DIR",
)

PRESEED = """
storage_pools: [{name: default, driver: dir}]
profiles: [{name: default, devices: {root: {path: /, pool: default, type: disk}}}]
"""
INIT = "#!/bin/sh\ntrap 'exit 0' TERM INT PWR\nwhile :; do sleep 3600 & wait $!; done\n"

NAME = f"proctor-{os.getpid()}"

Do = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=[LXD, INCUS], ids=["lxd", "incus"])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    lacks = missing(made.daemon, made.client, "busybox")
    if lacks:
        pytest.skip(f"needs {lacks}")
    return made


@pytest.fixture
def do(place: Path, kind: Kind) -> Iterator[Do]:
    """Runs commands of a daemon of our own, in mount and network namespaces of its own, that has an image."""
    environment = os.environ | {kind.place: f"{place}/lxd", "HOME": str(place)}

    def do(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment, timeout=300, check=False,
        )  # fmt: skip

    (place / "lxd").mkdir()
    rootfs = make_rootfs(place, 0)
    (rootfs / "sbin").mkdir()
    (rootfs / "sbin/init").write_text(INIT)
    (rootfs / "sbin/init").chmod(0o755)
    (place / "templates").mkdir()
    (place / "metadata.yaml").write_text("architecture: x86_64\ncreation_date: 1700000000\n")
    parts = ["metadata.yaml", "rootfs", "templates"]
    subprocess.run(["tar", "-C", place, "-czf", place / "image.tar.gz", *parts], check=True)
    with open(place / "lxd.log", "w") as log:
        daemon = subprocess.Popen(
            ["unshare", "--mount", "--net", kind.daemon, "--debug", "--group", "root"],  # LXC's log, too
            stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        for words, given in (
            ((kind.daemon, "waitready", "--timeout", "60"), ""),
            (kind.init, PRESEED),
            ((kind.client, "image", "import", f"{place}/image.tar.gz", "--alias", "busybox"), ""),
        ):
            done = do(*words, given=given)
            assert done.returncode == 0, (words, done.stdout)
        yield do
    finally:
        do(kind.client, "delete", "--force", NAME)
        do(kind.daemon, "shutdown", "--timeout", "20")
        daemon.wait(60)
        for group in ("lxc.pivot", f"lxc.payload.{NAME}*"):
            for left in Path("/sys/fs/cgroup").glob(f"**/{group}"):
                eventually(lambda left=left: remove_cgroup(left))  # type: ignore[misc]


def test_a_container_is_served(
    agent: Callable[..., RunningAgent], place: Path, kind: Kind, do: Do
) -> None:
    running = agent("--lxc", f"{place}/lxc.sock")
    profile = subprocess.run(
        [sys.executable, "-m", "proctor", "profile", place / "policies/default.toml", "--format", "lxc"],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip
    config = f"lxc.seccomp.notify.proxy = unix:{place}/lxc.sock\nlxc.seccomp.notify.cookie = hi"
    made = ["-c", f"raw.seccomp={profile}", "-c", f"raw.lxc={config}"]
    for words in (("init", "busybox", NAME, *made), ("start", NAME)):
        done = do(kind.client, *words)
        assert done.returncode == 0, done.stdout
    log = place / f"lxd/logs/{NAME}/lxc.log"

    def inside(command: str) -> str:
        while True:
            before = log.stat().st_size
            done = do(kind.client, "exec", NAME, "--", *command.split())
            if not done.returncode or not lost(log.read_bytes()[before:].decode()):
                return done.stdout

    for command, says in (
        ("mkdir /tmp/forbidden-1", "Read-only file system"),
        ("mkdir /tmp/allowed", ""),
        ("chmod 700 /tmp/allowed", "No medium found"),
        ("mknod /tmp/null c 1 3", ""),
        ("stat -c %F-%t:%T /tmp/null", "character special file-1:3"),
        ("mknod /tmp/disk b 8 0", "Operation not permitted"),
    ):
        said = inside(command)
        assert says in said and bool(said) == bool(says), (command, said)
    (row,) = running.ask(do="ps")["containers"]
    assert row["labels"]["door"] == "lxc" and row["refused"] == 2

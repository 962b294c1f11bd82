"""Real engines and runtimes, all asked the same: calls by policy, exec, two policies, an agent that is killed
again and again, none at all, and many containers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.conftest import DEVICES, MODES, NO_ROOMS
from tests.agent.engines import (
    USER,
    Bundles,
    Containerd,
    Docker,
    Engine,
    Podman,
    lacking,
    tree,
)
from tests.agent.lxc import Lxc
from tests.agent.running import RunningAgent, eventually

#: How many calls are made while monitors are killed, of which each decides so many, and how many containers come and go: see tools/test-agent.
CALLS = int(os.environ.get("PROCTOR_CALLS", "500"))
PART = max(CALLS // 10, 200)
#: How often a monitor is killed while devices are made, at most.
DEATHS = 8 if CALLS >= 1000 else 4
CONTAINERS = int(os.environ.get("PROCTOR_CONTAINERS", "3"))

POLICY = f"""
default = "allow"
{NO_ROOMS}report = true
{DEVICES}
[[rule]]
name = "no other devices"
calls = ["mknod", "mknodat"]
when = {{ type = ["char", "block"] }}
deny = "EDQUOT"

{MODES}report = true

[[rule]]
name = "nothing is mounted there"
calls = ["mount"]
when = {{ target = "/tmp/closed" }}
deny = "ELOOP"

[[rule]]
name = "nobody is at home"
calls = ["connect"]
when = {{ address = "inet:127.0.0.9:*" }}
deny = "EHOSTDOWN"

[[rule]]
name = "others"
calls = ["mkdir", "mkdirat", "mount", "connect"]
allow = "unsafe: a test"
"""

SCRIPT = """
rm -rf /tmp/null /tmp/closed
mknod /tmp/null c 1 3 && echo hello >/tmp/null && stat -c '%F %t:%T' /tmp/null
mknod /tmp/disk b 8 0
mkdir /tmp/closed && mkdir /tmp/forbidden-1
chmod 700 /tmp/closed
mount -t tmpfs none /tmp/closed
wget -q -O - http://127.0.0.9/
"""
SAID = [
    "character special file 1:3",
    "mknod: /tmp/disk: Disk quota exceeded",
    "can't create directory '/tmp/forbidden-1': Read-only file system",
    "chmod: /tmp/closed: No medium found",
    "Too many levels of symbolic links",
    "Host is down",
]


#: Docker is asked by tools/test-agent alone: it takes seconds to begin, and is as containerd then.
ENGINES = ["runc", "crun", "podman", "podman-rootless", "containerd", "lxc"]
ENGINES += ["docker", "docker-itself"] if "PROCTOR_CONTAINERS" in os.environ else []


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    lacks = lacking(request.param)
    if lacks:
        pytest.skip(f"needs {lacks}")
    return str(request.param)


@pytest.fixture
def running(agent: Callable[..., RunningAgent], place: Path) -> RunningAgent:
    (place / "policies/default.toml").write_text(POLICY)
    (place / "policies/strict.toml").write_text(
        '[[rule]]\nname = "rooms"\ncalls = ["mkdir", "mkdirat"]\nwhen = { path = "/tmp/**" }\n'
        'deny = "EACCES"\n[[rule]]\nname = "others"\ncalls = ["mkdir", "mkdirat"]\nperform = true\n'
    )
    (place / "policies/containers.toml").write_text(
        'default = "default"\n[[container]]\npolicy = "strict"\nmetadata = "tenant-*"\n'
        '[[container]]\npolicy = "strict"\ncookie = "tenant-*"\n'
    )
    return agent(
        "--oci", f"{place}/all.sock,uid=0,uid={USER},mode=0666", "--lxc", f"{place}/lxc-all.sock"
    )


def engine(kind: str, place: Path) -> Engine:
    """One of those."""
    socket = f"{place}/all.sock"
    match kind:
        case "containerd":
            return Containerd(place, socket)
        case "docker" | "docker-itself":
            return Docker(place, socket, itself=kind == "docker-itself")
        case "podman" | "podman-rootless":
            return Podman(place, socket, rootless=kind == "podman-rootless")
        case "lxc":
            return Lxc(place, f"{place}/lxc-all.sock")
    return Bundles(place, socket, kind)


@pytest.fixture
def made(kind: str, running: RunningAgent, place: Path) -> Iterator[Engine]:
    tree(place)
    engine_ = engine(kind, place)
    yield engine_
    engine_.close()


@pytest.mark.root
def test_calls_are_answered_by_policy(made: Engine, running: RunningAgent) -> None:
    """Devices, directories, modes, mounts, connections; in a container, and by what is executed in it."""
    profile = made.profile("default.toml")
    done = made.run("web-1", profile, "/bin/sh", "-c", SCRIPT)
    assert [word for word in SAID if word not in done.stdout] == [], done.stdout
    made.start("web-2", profile, "/bin/sleep", "1000")
    done = made.execute("web-2", "/bin/sh", "-c", SCRIPT)
    assert [word for word in SAID if word not in done.stdout] == [], done.stdout
    eventually(lambda: len(running.ask(do="ps")["containers"]) == 1)
    (row,) = running.ask(do="ps")["containers"]
    assert row["policy"].endswith("default.toml") and row["refused"] > 0


@pytest.mark.root
def test_two_containers_have_two_policies(made: Engine, running: RunningAgent) -> None:
    """At the same time, by what their profiles say of them."""
    made.start("web-1", made.profile("default.toml"), "/bin/sleep", "1000")
    made.start("web-2", made.profile("strict.toml", "--metadata", "tenant-7"), "/bin/sleep", "1000")
    for name, says in (("web-1", "Read-only file system"), ("web-2", "Permission denied")):
        done = made.execute(name, "/bin/mkdir", "/tmp/forbidden-3")
        assert says in done.stdout, (name, done.stdout)
    policies = sorted(row["labels"]["policy"] for row in running.ask(do="ps")["containers"])
    assert policies == ["default", "strict"]


@pytest.mark.root
def test_no_call_is_lost_while_monitors_are_killed(made: Engine, running: RunningAgent) -> None:
    """Again and again, each once it has decided a part, as long as the container makes calls; each gets its answer."""
    over = threading.Event()
    ended: list[object] = []
    profile = made.profile("default.toml")

    def storm() -> None:
        done = made.run("storm", profile, "/bin/storm", str(CALLS))
        ended.append((done.returncode, done.stdout))
        over.set()

    thread = threading.Thread(target=storm)
    thread.start()
    deaths = 0
    running.heard("served")

    def decided() -> bool:
        """Whether this monitor decided a part: a profile refuses a mode by itself, if nobody is to be told."""
        rows = running.ask(do="ps")["containers"]
        return over.is_set() or any(row["refused"] >= PART for row in rows)

    while not over.is_set():
        eventually(decided, 300)
        os.kill(running.serving, signal.SIGKILL)
        deaths += 1
        running.heard("took over", deaths)
    thread.join()
    assert ended == [(0, "")] and deaths > 0


#: Each is to work, and one that is made twice, or not at all, shows in the next one.
NODES = """
n=0
while [ $n -lt %d ]; do
    mknod /tmp/once c 1 3 && rm /tmp/once || echo "odd: $n"
    n=$((n + 1))
done
"""


@pytest.mark.root
def test_each_device_is_made_once_while_monitors_are_killed(
    made: Engine, running: RunningAgent, kind: str
) -> None:
    """Nobody is told that a device is there already, or that a call was interrupted."""
    if kind == "lxc":
        pytest.skip("of what LXC asks nobody knows what a dead monitor's executors did")
    ended: list[str] = []
    over = threading.Event()
    profile = made.profile("default.toml")

    def work() -> None:
        ended.append(
            made.run("nodes", profile, "/bin/sh", "-c", NODES % (CALLS // 10) + "echo end").stdout
        )
        over.set()

    thread = threading.Thread(target=work)
    thread.start()
    running.heard("served")
    deaths = 0
    while not over.is_set() and deaths < DEATHS:
        os.kill(running.serving, signal.SIGKILL)
        deaths += 1
        running.heard("took over", deaths)
    thread.join()
    # runc warns where a cgroup is in use for a moment: executors of a monitor that has just died finish what they are at
    said = [
        line for line in ended[0].splitlines() if "Failed to remove cgroup (will retry)" not in line
    ]
    assert said == ["end"] and deaths > 1


@pytest.mark.root
def test_containers_in_a_row_leave_nothing(made: Engine, running: RunningAgent) -> None:
    """Each is refused a mode, which it says by its status: podman's attaching may come too late for words."""
    profile = made.profile("default.toml")

    def visit(name: str, before: str = "true") -> None:
        done = made.run(name, profile, "/bin/sh", "-c", f"{before} && /bin/storm 1")
        assert done.returncode == 0, (name, done.stdout)

    # what performs is started once the agent serves, and stays: on a busy machine many seconds later
    visit("first", "mknod /tmp/null c 1 3")
    running.heard("ended: container", 1)
    before = running.open
    for number in range(CONTAINERS):
        visit(f"row-{number}")
    running.heard("ended: container", 1 + CONTAINERS)
    running.has_only(before)


@pytest.mark.root
def test_without_an_agent_the_engine_says_so(
    made: Engine, running: RunningAgent, kind: str
) -> None:
    profile = made.profile("default.toml")
    running.stop()
    done = made.run("alone", profile, "/bin/true")
    assert done.returncode != 0
    # LXC's monitor ends at once, and says in its log which socket it means, not where that is
    words = ["seccomp proxy" if kind == "lxc" else "all.sock", "connection refused"]
    assert [each for each in words if each not in done.stdout.lower()] == [], done.stdout


@pytest.mark.root
def test_podman_as_deployed(running: RunningAgent, place: Path) -> None:
    """deploy/podman has all its containers served, without a word on the command line."""
    lacks = lacking("podman")
    if lacks:
        pytest.skip(f"needs {lacks}")
    tree(place)
    podman = Podman(place, f"{place}/all.sock", rootless=False)
    try:
        profile = podman.profile("default.toml", "--base", "docker-default")
        deployed = (Path(__file__).parents[2] / "deploy/podman/proctor.conf").read_text()
        (place / "proctor.conf").write_text(
            deployed.replace('"/etc/proctor/podman.json"', f'"{profile}"')
        )
        podman.configured(place / "proctor.conf")
        done = podman.run("web-1", None, "/bin/mkdir", "/tmp/forbidden-1")
        assert (done.returncode, "Read-only file system" in done.stdout) == (1, True), done.stdout
        done = podman.run("web-2", Path("unconfined"), "/bin/mkdir", "/tmp/forbidden-1")
        assert (done.returncode, done.stdout) == (0, "")
    finally:
        podman.close()

"""deploy/systemd, run by systemd: a manager of our own, in cgroups of its own.  Part of ``make test-agent``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proctor.agent.control import ask
from proctor.errors import ProctorError
from tests.agent.clients import hand_over
from tests.agent.running import eventually
from tests.agent.runtimes import missing

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif("PROCTOR_SYSTEMD" not in os.environ, reason="make test-agent"),
]
UNITS = Path(__file__).parents[2] / "deploy/systemd"
SYSTEMD = "/lib/systemd/systemd"
#: Becomes the manager of a user, where only the cgroup ``$1`` is seen, and systemd is what the machine runs.
_START = """
set -e
mount --make-rprivate /
for each in /sys/fs/cgroup /sys/fs/cgroup/*; do
    test -e "$each/cgroup.procs" || continue
    mkdir -p "$each/$1"
    ! test -e "$each/cpuset.cpus" || {
        cat "$each/cpuset.cpus" > "$each/$1/cpuset.cpus"; cat "$each/cpuset.mems" > "$each/$1/cpuset.mems"; }
    echo $$ > "$each/$1/cgroup.procs"
done
exec unshare --cgroup sh -c '
    for each in /sys/fs/cgroup /sys/fs/cgroup/*; do
        test -e "$each/cgroup.procs" && mount --bind "$each/$1" "$each"
    done
    mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system
    exec "$0" --user --unit="$2" --log-target=console' "$2" "$1" "$3"
"""
#: How many calls are made while the service is killed.
CALLS = int(os.environ.get("PROCTOR_CALLS", "1000"))
#: mkdir until a file is there, or so many times; what is not refused as the policy has it is counted, and is the exit status.
_STORM = """
import errno, os, sys, time
odd = 0
left = int(sys.argv[2])
while left and not os.path.exists(sys.argv[1]):
    left -= 1
    try:
        os.mkdir("/tmp/forbidden-1")
        odd += 1
    except OSError as problem:
        odd += problem.errno != errno.EROFS
    time.sleep(0.001)
os._exit(min(odd, 100))
"""


class Systemd:
    """Runs the units, with paths below ``place``."""

    def __init__(self, place: Path) -> None:
        self._runtime = place / "xdg"
        self._runtime.mkdir(mode=0o700)
        units = place / "home/.config/systemd/user"
        units.mkdir(parents=True)
        for each in UNITS.iterdir():
            text = each.read_text().replace("/run/proctor/", f"{self._runtime}/proctor/")
            text = text.replace("/etc/proctor", str(place)).replace("/var/log/proctor", str(place))
            text = text.replace("/usr/bin/env proctor", f"{sys.executable} -m proctor")
            text = text.replace("--log ", f"--control {self._runtime}/proctor/control.sock --log ")
            kept = [line for line in text.splitlines() if not line.startswith("LimitNOFILE")]
            (units / each.name).write_text("\n".join(kept) + "\n")
        self._cgroup = f"proctor-test-{os.getpid()}"
        self._environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self._runtime),
            "HOME": str(place / "home"),
            "XDG_CONFIG_HOME": str(place / "home/.config"),
        }
        words = [self._cgroup, SYSTEMD, "proctor-agent.socket"]
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _START, "sh", *words], env=self._environment
        )
        self.socket = str(self._runtime / "proctor/oci.sock")

    def do(self, *words: str) -> str:
        """systemctl."""
        inside = ["nsenter", "--mount", "--cgroup", "--target", str(self._process.pid)]
        done = subprocess.run(
            [*inside, "systemctl", "--user", *words],
            env=self._environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    @property
    def main(self) -> int:
        """Process id of the service, 0 if there is none."""
        return int(self.do("show", "proctor-agent", "-p", "MainPID", "--value"))

    def kill(self) -> int:
        """Kill the service; the process id that it had."""
        pid = self.main
        assert pid > 0
        os.kill(pid, signal.SIGKILL)
        return pid

    def ask(self, do: str) -> dict[str, Any]:
        """Ask the agent; nothing while there is none."""
        try:
            return ask(str(self._runtime / "proctor/control.sock"), do=do)
        except ProctorError:
            return {}

    def close(self) -> None:
        """Nothing is left."""
        self.do("exit")
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
            for each in Path("/sys/fs/cgroup").glob(f"**/{self._cgroup}"):
                for path, _, _ in os.walk(each, topdown=False):
                    eventually(lambda path=path: not os.path.exists(path) or not os.rmdir(path))


@pytest.fixture
def systemd(place: Path) -> Iterator[Systemd]:
    lacks = missing("systemctl", "unshare", "nsenter")
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        lacks = "cgroups of version 2, and of that alone"
    if lacks or not os.path.exists(SYSTEMD):
        pytest.skip(f"needs {lacks or SYSTEMD}")
    assert shutil.which("systemctl")
    made = Systemd(place)
    yield made
    made.close()


def test_the_units_as_deployed(systemd: Systemd, place: Path) -> None:
    """Sockets are there before the service; it starts with the first container; killed and restarted it takes over, and
    stopped it lets go."""
    eventually(lambda: os.path.exists(systemd.socket))
    over = place / "over"
    with hand_over(systemd.socket, "web", sys.executable, "-c", _STORM, str(over), "-1") as target:
        systemd.do("start", "proctor-agent.service")
        eventually(lambda: systemd.ask("ps").get("containers"))
        first = systemd.ask("ps")["monitor"]
        os.kill(first, signal.SIGKILL)
        eventually(lambda: systemd.ask("log").get("monitor", first) != first)
        second = systemd.ask("log")["monitor"]
        assert systemd.do("restart", "proctor-agent.service") == ""
        eventually(lambda: systemd.ask("log").get("monitor", second) != second)
        (row,) = systemd.ask("ps")["containers"]
        assert row["container"] == "web"
        over.touch()
        assert target.wait(30) == 0
    assert "forbidden-1" in (place / "agent.jsonl").read_text()
    assert systemd.do("stop", "proctor-agent.service", "proctor-agent.socket") == ""
    shown = systemd.do("show", "proctor-agent", "-p", "NFileDescriptorStore,Result")
    assert shown.split() == ["NFileDescriptorStore=0", "Result=success"]
    assert not os.path.exists(systemd.socket), "RemoveOnStop"


def test_no_call_is_lost_while_the_service_is_killed(systemd: Systemd, place: Path) -> None:
    """Again and again, more often than systemd restarts a service by default: what it gives up it keeps nothing of."""
    eventually(lambda: os.path.exists(systemd.socket))
    storm = (sys.executable, "-c", _STORM, str(place / "over"), str(CALLS))
    with hand_over(systemd.socket, "web", *storm) as target:
        systemd.do("start", "proctor-agent.service")
        eventually(lambda: systemd.ask("ps").get("containers"))
        deaths = 6
        for _ in range(deaths):  # before they serve
            monitor = systemd.kill()
            eventually(lambda before=monitor: systemd.main not in (0, before))  # type: ignore[misc]

        def answered() -> bool:
            """Whether a monitor answered a part of the calls."""
            rows = systemd.ask("ps").get("containers")
            return target.poll() is not None or bool(rows and rows[0]["refused"] > CALLS // 20)

        while target.poll() is None:
            eventually(answered, 60)
            if target.poll() is None:
                systemd.kill()
                deaths += 1
        assert target.wait(30) == 0
    shown = systemd.do("show", "proctor-agent", "-p", "NRestarts")
    assert shown.split() == [f"NRestarts={deaths}"]

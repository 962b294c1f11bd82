"""Whatever runs containers, by the same few verbs: runc, crun, podman (root's and a user's), containerd, Docker.

Each takes a policy, as ``proctor profile`` writes it for that kind of runtime.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.agent.runtimes import (
    Runtime,
    cgroup_parent,
    make_rootfs,
    missing,
    place_cgroup,
    remove_cgroups,
)

#: Whose containers rootless podman's are: nobody, who has no range of subordinate ids.
USER = 65534
#: A chmod, so many times, a thousand in a second; how many were not refused with ENOMEDIUM is the exit status.
_STORM = """
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int count, char **words) {
    int odd = 0;
    for (long left = count > 1 ? atol(words[1]) : 1; left > 0; left--) {
        odd += chmod("/tmp", 01777) == 0 || errno != ENOMEDIUM;
        usleep(1000);
    }
    return odd > 100 ? 100 : odd;
}
"""
#: What podman and others would raise, and may not everywhere.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")


def lacking(engine: str) -> str:
    """What has to be there for an engine; "" if it is."""
    programs = {
        "podman": ["podman", "runc"],
        "containerd": ["containerd", "ctr", "runc"],
        "lxc": ["lxc-start", "lxc-attach", "newuidmap", "unshare"],
        "docker": ["dockerd", "docker", "containerd", "runc"],
    }
    lacks = missing("busybox", "gcc", *programs.get(engine.partition("-")[0], ["runc", engine]))
    if engine == "docker-itself" and not lacks:
        said = subprocess.run(["dockerd", "--version"], capture_output=True, text=True, check=True)
        number = re.search(r"version (\d+)", said.stdout)
        lacks = "" if number and int(number[1]) >= 28 else "a Docker that keeps listenerPath"
    return lacks


@cache
def _storm() -> bytes:
    with tempfile.TemporaryDirectory() as made:
        command = ["gcc", "-O2", "-static", "-x", "c", "-", "-o", f"{made}/storm"]
        subprocess.run(command, input=_STORM.encode(), check=True)
        return Path(made, "storm").read_bytes()


def tree(place: Path, owner: int = 100000) -> Path:
    """A file system with busybox, and with a program that makes many calls."""
    rootfs = make_rootfs(place, owner)
    for name in ("wget", "mount", "id", "rm"):
        (rootfs / "bin" / name).symlink_to("busybox")
    (rootfs / "bin/storm").write_bytes(_storm())
    (rootfs / "bin/storm").chmod(0o755)
    return rootfs


class Engine:
    """Runs containers that are served by the agent at ``socket``."""

    format = "oci"

    def __init__(self, place: Path, socket: str) -> None:
        self._place = place
        self._socket = socket
        self._named: list[str] = []

    def profile(self, policy: str, *options: str) -> Path:
        """The profile that a policy needs, made by ``proctor profile``."""
        words = [sys.executable, "-m", "proctor", "profile", str(self._place / "policies" / policy)]
        words += ["--format", self.format, "--listener", self._socket, *options]
        made = self._place / f"profile-{len(list(self._place.glob('profile-*')))}.json"
        made.write_bytes(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
        made.chmod(0o644)
        return made

    def run(self, name: str, profile: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a new container to its end."""
        raise NotImplementedError

    def start(self, name: str, profile: Path, *words: str) -> None:
        """Start one that goes on by itself."""
        raise NotImplementedError

    def execute(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in one that runs."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is left."""


def _image(place: Path) -> str:
    archive = place / "image.tar"
    subprocess.run(
        ["tar", "-C", place / "rootfs", "--owner=0", "--group=0", "-cf", archive, "."], check=True
    )
    archive.chmod(0o644)
    return str(archive)


def do(command: list[str], seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """Run it to its end; what it says, standard error too."""
    return subprocess.run(  # crun gives what it finds as standard input to the container, /dev/null too
        command, input="", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=seconds, check=False,
    )  # fmt: skip


class Bundles(Engine):
    """runc or crun."""

    def __init__(self, place: Path, socket: str, name: str) -> None:
        super().__init__(place, socket)
        self._runtime = Runtime(name, place)

    def _bundle(self, profile: Path, words: tuple[str, ...]) -> Path:
        seccomp = json.loads(profile.read_text())
        return self._runtime.bundle(
            seccomp.get("listenerPath", ""), *words,
            metadata=seccomp.get("listenerMetadata", ""), seccomp=seccomp,
        )  # fmt: skip

    def run(self, name: str, profile: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return self._runtime.run(self._bundle(profile, words), name)

    def start(self, name: str, profile: Path, *words: str) -> None:
        done = self._runtime.run(self._bundle(profile, words), name, "--detach")
        assert done.returncode == 0, done.stdout

    def execute(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return do(self._runtime.command("exec", name, *words))

    def close(self) -> None:
        self._runtime.clean()


class Podman(Engine):
    """podman with a storage of its own, as root or as a user."""

    format = "podman"

    def __init__(self, place: Path, socket: str, *, rootless: bool) -> None:
        super().__init__(place, socket)
        self._rootless = rootless
        home = place / "home"
        home.mkdir(mode=0o700)
        (home / "run").mkdir(mode=0o700)
        self._command = [
            "podman", "--root", f"{home}/storage", "--runroot", f"{home}/state", "--tmpdir", f"{home}/tmp",
            "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
            "--log-level", "error", "--runtime", "runc",
        ]  # fmt: skip
        if rootless:
            os.chown(home, USER, USER)
            os.chown(home / "run", USER, USER)
            ids = ["--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
            environment = [
                f"PATH={os.environ['PATH']}",
                f"HOME={home}",
                f"XDG_RUNTIME_DIR={home}/run",
            ]
            self._command = ["setpriv", *ids, "env", "-i", *environment, *self._command]
        done = do([*self._command, "import", "-q", _image(place), "busybox:latest"])
        assert done.returncode == 0, done.stdout

    def configured(self, conf: Path) -> None:
        """Commands to come read that file in /etc/containers/containers.conf.d, too."""
        etc = self._place / "containers"
        (etc / "containers.conf.d").mkdir(parents=True)
        shutil.copytree("/etc/containers", etc, dirs_exist_ok=True)
        shutil.copy(conf, etc / "containers.conf.d/50-proctor.conf")
        bind = f'mount --bind {etc} /etc/containers && exec "$@"'
        self._command = ["unshare", "--mount", "sh", "-c", bind, "sh", *self._command]

    def _options(self, name: str, profile: Path | None) -> list[str]:
        self._named.append(name)
        security = ["--security-opt", f"seccomp={profile}"] if profile else []
        return [
            "--name", name, "--network", "none", *_LIMITS, "--cap-add", "MKNOD", *security,
            *(() if self._rootless else ("--cgroup-parent", cgroup_parent())), "busybox:latest",
        ]  # fmt: skip

    def run(self, name: str, profile: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
        return do([*self._command, "run", *self._options(name, profile), *words])

    def start(self, name: str, profile: Path | None, *words: str) -> None:
        done = do([*self._command, "run", "--detach", *self._options(name, profile), *words])
        assert done.returncode == 0, done.stdout

    def execute(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return do([*self._command, "exec", name, *words])

    def close(self) -> None:
        for name in self._named:
            do([*self._command, "rm", "--force", "--time", "0", name])
        if self._rootless:  # ends the process that keeps its user namespace
            do([*self._command, "system", "migrate"])
        remove_cgroups()


class Containerd(Engine):
    """A containerd of its own, asked by ctr."""

    def __init__(self, place: Path, socket: str) -> None:
        super().__init__(place, socket)
        self._bundles = Runtime("runc", place)
        self._address = f"{place}/containerd.sock"
        config = place / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{place}/containerd"\nstate = "{place}/containerd-state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self._address}"\n'
        )
        self._log = open(place / "containerd.log", "w")  # noqa: SIM115 - until close()
        self._daemon = subprocess.Popen(
            ["containerd", "--config", str(config)], stdout=self._log, stderr=self._log
        )
        until = time.monotonic() + 60
        while do([*self._ctr, "version"]).returncode:
            assert self._daemon.poll() is None, (place / "containerd.log").read_text()[-2000:]
            assert time.monotonic() < until
            time.sleep(0.1)

    @property
    def _ctr(self) -> list[str]:
        return ["ctr", "--address", self._address]

    def _config(self, name: str, profile: Path, words: tuple[str, ...]) -> str:
        seccomp: dict[str, Any] = json.loads(profile.read_text())
        bundle = self._bundles.bundle(
            seccomp.get("listenerPath", ""), *words,
            metadata=seccomp.get("listenerMetadata", ""), seccomp=seccomp,
        )  # fmt: skip
        place_cgroup(bundle, name)
        return str(bundle / "config.json")

    def run(self, name: str, profile: Path, *words: str) -> subprocess.CompletedProcess[str]:
        config = self._config(name, profile, words)
        self._named.append(name)
        done = do([*self._ctr, "run", "--rm", "--config", config, name])
        self._named.remove(name)  # it is over
        return done

    def start(self, name: str, profile: Path, *words: str) -> None:
        self._named.append(name)
        config = self._config(name, profile, words)
        done = do([*self._ctr, "run", "--detach", "--config", config, name])
        assert done.returncode == 0, done.stdout

    def execute(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return do(
            [*self._ctr, "task", "exec", "--exec-id", f"exec-{time.monotonic_ns()}", name, *words]
        )

    def close(self) -> None:
        for name in self._named:
            do([*self._ctr, "task", "kill", "--signal", "KILL", name])
            do([*self._ctr, "task", "rm", "--force", name])
            do([*self._ctr, "container", "rm", name])
        self._daemon.terminate()
        self._daemon.wait(60)
        self._log.close()
        remove_cgroups()


class Docker(Engine):
    """A dockerd of its own, whose containers the agent has by the runtime of deploy/docker, or by itself."""

    format = "docker"

    def __init__(self, place: Path, socket: str, *, itself: bool) -> None:
        super().__init__(place, socket)
        self._itself = itself
        self._command = [
            "docker",
            "--config",
            f"{place}/docker-config",
            "--host",
            f"unix://{place}/d.sock",
        ]
        path = str(Path(__file__).parents[2] / "deploy/docker/proctor-runc")
        arguments = {
            "proctor": ["--listener", socket],
            "tenant-7": ["--listener", socket, "--metadata", "tenant-7"],
        }
        runtimes = {name: {"path": path, "runtimeArgs": words} for name, words in arguments.items()}
        config = place / "daemon.json"
        config.write_text(json.dumps({"runtimes": runtimes, "cgroup-parent": cgroup_parent()}))
        daemon = [
            "dockerd", "--config-file", str(config), "--host", f"unix://{place}/d.sock",
            "--data-root", f"{place}/docker", "--exec-root", f"{place}/docker-state",
            "--pidfile", f"{place}/docker.pid", "--bridge", "none", "--iptables=false", "--ip6tables=false",
            "--storage-driver", "vfs",
        ]  # fmt: skip
        self._log = open(place / "dockerd.log", "w")  # noqa: SIM115 - until close()
        self._daemon = subprocess.Popen(
            ["unshare", "--mount", "--net", *daemon], stdout=self._log, stderr=self._log
        )
        until = time.monotonic() + 60
        while do([*self._command, "version"]).returncode:
            assert self._daemon.poll() is None, (place / "dockerd.log").read_text()[-2000:]
            assert time.monotonic() < until
            time.sleep(0.1)
        done = do([*self._command, "import", _image(place), "busybox:latest"])
        assert done.returncode == 0, done.stdout

    def _options(self, name: str, profile: Path) -> list[str]:
        self._named.append(name)
        metadata = json.loads(profile.read_text()).get("listenerMetadata", "proctor")
        runtime = "runc" if self._itself else metadata
        return [
            "--name", name, "--network", "none", *_LIMITS, "--runtime", runtime,
            "--security-opt", f"seccomp={profile}", "busybox:latest",
        ]  # fmt: skip

    def run(self, name: str, profile: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return do([*self._command, "run", *self._options(name, profile), *words])

    def start(self, name: str, profile: Path, *words: str) -> None:
        done = do([*self._command, "run", "--detach", *self._options(name, profile), *words])
        assert done.returncode == 0, done.stdout

    def execute(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return do([*self._command, "exec", name, *words])

    def close(self) -> None:
        for name in self._named:
            do([*self._command, "rm", "--force", name])
        self._daemon.terminate()
        self._daemon.wait(60)
        self._log.close()
        remove_cgroups()

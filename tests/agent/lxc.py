"""LXC as an engine: its containers go on by themselves, and commands are executed in them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.agent.engines import Engine, do
from tests.agent.runtimes import cgroup_parent, remove_cgroup, remove_cgroups

_INIT: Final = "#!/bin/sh\nexec sleep 1000\n"
_numbers = itertools.count()


def lost(log: str) -> bool:
    """Whether LXC lost the listener of what it attached, as it says of that at TRACE.

    LXC (5.0.2 to 7.0.0, ``lxc_attach`` of src/lxc/attach.c) makes the process that is attached, and then sends its pid by the
    socket by which that one sends its listener.  Where that one comes first, who waits for the pid reads one byte and no
    descriptor, and gives up: ``lxc-attach`` ends with 1 without a word, and the command's calls end with ENOSYS.  Nobody
    could be asked about them."""
    return "Loaded seccomp profile" in log and "Received pid" not in log


def attach(place: Path, *options: str, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Execute a command in a container; again where its listener was lost.

    :param place: for LXC's log."""
    while True:
        log = place / f"attach-{next(_numbers)}.log"
        done = do(["lxc-attach", *options, "-l", "TRACE", "-o", str(log), "--", *words])
        if not done.returncode or not lost(log.read_text()):
            return done


class Lxc(Engine):
    """LXC, whose containers have user namespaces and no network; what is metadata of others is their cookie."""

    format = "lxc"

    def __init__(self, place: Path, socket: str) -> None:
        super().__init__(place, socket)
        self._where = ["-P", str(place / "lxc")]
        (place / "lxc").mkdir()
        init = place / "rootfs/init.sh"
        init.write_text(_INIT)
        init.chmod(0o755)
        # LXC calls newuidmap as root, too, which wants root's line in these files: in a mount namespace of its own
        self._ids = place / "ids"
        self._ids.write_text("root:100000:65536\n")

    def profile(self, policy: str, *options: str) -> Path:
        words = [sys.executable, "-m", "proctor", "profile", str(self._place / "policies" / policy)]
        made = self._place / f"profile-{next(_numbers)}.lxc"
        made.write_bytes(
            subprocess.run([*words, "--format", "lxc"], stdout=subprocess.PIPE, check=True).stdout
        )
        cookie = dict(zip(options[::2], options[1::2], strict=True)).get("--metadata", "")
        made.with_suffix(".cookie").write_text(cookie)
        return made

    def _begin(self, name: str, profile: Path) -> subprocess.CompletedProcess[str]:
        self._named.append(name)
        config, log = (self._place / f"{name}.{kind}" for kind in ("conf", "log"))
        config.write_text(f"""
lxc.include = /usr/share/lxc/config/common.conf
lxc.include = /usr/share/lxc/config/userns.conf
lxc.uts.name = {name}
lxc.rootfs.path = dir:{self._place}/rootfs
lxc.idmap = u 0 100000 65536
lxc.idmap = g 0 100000 65536
lxc.net.0.type = empty
lxc.apparmor.profile = unconfined
lxc.cgroup.dir = {cgroup_parent()[1:]}/{name}
lxc.init.cmd = /init.sh
lxc.seccomp.profile = {profile}
lxc.seccomp.notify.proxy = unix:{self._socket}
lxc.seccomp.notify.cookie = {profile.with_suffix(".cookie").read_text()}
""")
        bind = f'for file in /etc/subuid /etc/subgid; do mount --bind {self._ids} $file; done; exec "$@"'
        words = ["lxc-start", *self._where, "-d", "-n", name, "-f", str(config)]
        words += ["-l", "ERROR", "-o", str(log)]
        done = do(["unshare", "--mount", "sh", "-c", bind, "sh", *words])
        if done.returncode:
            done.stdout += log.read_text()
        return done

    def run(self, name: str, profile: Path, *words: str) -> subprocess.CompletedProcess[str]:
        done = self._begin(name, profile)
        if done.returncode == 0:
            done = self.execute(name, *words)
            done.stdout += (self._place / f"{name}.log").read_text()
            self._end(name)
        return done

    def start(self, name: str, profile: Path, *words: str) -> None:
        done = self._begin(name, profile)
        assert done.returncode == 0, done.stdout

    def execute(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        path = ["--clear-env", "--set-var", "PATH=/bin"]
        return attach(self._place, *self._where, "-n", name, *path, words=words)

    def _end(self, name: str) -> None:
        do(["lxc-stop", *self._where, "-k", "-n", name])

    def close(self) -> None:
        for name in self._named:
            self._end(name)
        remove_cgroups()
        for shared in Path("/sys/fs/cgroup").glob("**/lxc.pivot"):
            remove_cgroup(shared)  # unless another container is there

"""Containers of real runtimes: bundles with busybox, and how each runtime is called here."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.agent.running import eventually

NOTIFIED = ("mkdir", "mkdirat", "mknod", "mknodat", "chmod", "fchmodat", "fchmodat2")
_numbers = itertools.count()


def missing(*programs: str) -> str:
    """What has to be there for a test to run; "" if it is."""
    lacks = [each for each in programs if shutil.which(each) is None]
    if os.geteuid() != 0:
        lacks.append("root")
    return ", ".join(lacks)


def make_rootfs(place: Path, owner: int = 100000) -> Path:
    """A file system with busybox in it, for root of containers that is that user here."""
    rootfs = place / "rootfs"
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (rootfs / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, rootfs / "bin/busybox")
    for name in (
        "sh",
        "mkdir",
        "mknod",
        "chmod",
        "ls",
        "sleep",
        "true",
        "cat",
        "stat",
        "echo",
        "unshare",
    ):
        (rootfs / "bin" / name).symlink_to("busybox")
    (rootfs / "tmp").chmod(0o1777)
    subprocess.run(["chown", "-R", f"{owner}:{owner}", rootfs], check=True)
    return rootfs


def cgroup_parent() -> str:
    """Above the cgroups of all containers that are ours: another suite on this machine has containers of the same
    names."""
    return f"/proctor-test-{os.getpid()}"


def remove_cgroups() -> None:
    """Nothing is left of those, once no container is."""
    for left in Path("/sys/fs/cgroup").glob(f"*{cgroup_parent()}"):
        eventually(lambda left=left: remove_cgroup(left))  # whoever is in it is about to end


def remove_cgroup(cgroup: Path) -> bool:
    """Whether it could be removed, with those in it."""
    try:
        for below in sorted(cgroup.rglob("*/"), reverse=True):
            below.rmdir()
        cgroup.rmdir()
    except OSError:
        return not cgroup.exists()
    return True


def place_cgroup(bundle: Path, id: str) -> None:
    """Have a bundle's container in a cgroup that bears its name, among ours."""
    file = bundle / "config.json"
    config = json.loads(file.read_text())
    config["linux"]["cgroupsPath"] = f"{cgroup_parent()}/{id}"
    file.write_text(json.dumps(config))


class Runtime:
    """One of the command-line runtimes, with a state directory of its own."""

    def __init__(self, name: str, place: Path) -> None:
        self.name = name
        self._place = place
        self._root = place / f"state-{name}"
        self._made: list[str] = []

    def command(self, *words: str) -> list[str]:
        """What runs it."""
        words = (self.name, "--root", str(self._root), *words)
        if self.name == "crun" and Path("/sys/fs/cgroup/unified").exists():
            # it refuses v2 controllers beside v1, so it does not get to see them
            hide = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
            return ["unshare", "-m", "sh", "-c", hide, "sh", *words]
        return list(words)

    def bundle(
        self,
        socket: str,
        *args: str,
        metadata: str = "",
        annotations: Mapping[str, str] | None = None,
        names: Iterable[str] = NOTIFIED,
        no_new_privileges: bool = True,
        userns: bool = True,
        seccomp: Mapping[str, Any] | None = None,
    ) -> Path:
        """A directory with ``config.json``, for a command under a profile that notifies ``names``."""
        made = self._place / f"bundle-{next(_numbers)}"
        made.mkdir()
        subprocess.run(["runc", "spec", "-b", str(made)], check=True)
        config = json.loads((made / "config.json").read_text())
        config["process"].update(
            terminal=False,
            args=list(args),
            noNewPrivileges=no_new_privileges,
            env=["PATH=/bin"],
        )
        config["process"]["rlimits"] = []
        for each in ("bounding", "effective", "permitted"):  # as Docker's and containerd's default
            config["process"]["capabilities"][each] += ["CAP_MKNOD", "CAP_SETFCAP"]
        config["root"] = {"path": str(self._place / "rootfs"), "readonly": False}
        config["annotations"] = dict(annotations or {})
        ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        linux = config["linux"]
        if userns:
            linux["namespaces"].append({"type": "user"})
            linux["uidMappings"] = linux["gidMappings"] = ids
        linux["seccomp"] = dict(seccomp) if seccomp is not None else {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}],
        }  # fmt: skip
        linux["seccomp"]["listenerPath"] = socket
        if metadata:
            linux["seccomp"]["listenerMetadata"] = metadata
        (made / "config.json").write_text(json.dumps(config))
        return made

    def run(
        self, bundle: Path, id: str, *options: str, verb: str = "run"
    ) -> subprocess.CompletedProcess[str]:
        """``run`` and ``create`` return when that does."""
        self._made.append(id)
        place_cgroup(bundle, id)
        command = self.command(verb, *options, "-b", str(bundle), id)
        # not pipes: what the container leaves behind would keep them open; and crun gives the container
        # what it finds as standard input, /dev/null too
        with open(self._place / f"out-{next(_numbers)}", "w+") as out:
            done = subprocess.run(
                command, input=b"", stdout=out, stderr=out, timeout=600, check=False
            )
            out.seek(0)
            said = out.read()
        # at its first try something of ours may still be on its way out of the cgroup
        assert "remove paths" not in said, said
        return subprocess.CompletedProcess(command, done.returncode, said, "")

    def do(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another verb."""
        return subprocess.run(
            self.command(*words), input="", capture_output=True, text=True, timeout=60, check=False
        )

    def clean(self) -> None:
        """No container is left."""
        for id in self._made:
            self.do("delete", "--force", id)
        remove_cgroups()

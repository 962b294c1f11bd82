"""Containers within a container, by runtimes of the system's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from proctor.supervisor.handlers import Handler
from tests.performing.support.containers import inside

RUNTIMES = ("runc", "crun")
#: What the outer container has for itself; cgroups of version 2 are what the runtime sees.
_ALONE = ("unshare", "--mount", "--ipc", "--pid", "--uts", "--cgroup", "--fork", "--mount-proc")


def run(
    runtime: str,
    top: Path,
    script: str,
    handlers: Iterable[Handler],
    *,
    devices: Sequence[dict[str, Any]] = (),
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """A script of busybox's shell in a container that root of a container (ids from 100000 on) runs.

    :param top: a directory that everybody can come to; the container's own tree is its ``rootfs``.
    :param devices: rules of the inner container's, as in its ``config.json``.
    """
    for each in (runtime, "busybox", "unshare"):
        if not shutil.which(each):
            pytest.skip(f"no {each}")
    for name in ("bin", "proc", "sys", "dev", "tmp"):
        (top / "rootfs" / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", top / "rootfs/bin/busybox")
    subprocess.run([runtime, "spec"], cwd=top, check=True)
    config = json.loads((top / "config.json").read_text())
    config["process"] |= {"args": ["/bin/busybox", "sh", "-c", script], "terminal": False}
    config["process"].pop("apparmorProfile", None)
    kinds = ("cgroup", "sysfs", "mqueue")  # which are another namespace's, or not to be had twice
    config["mounts"] = [each for each in config["mounts"] if each["type"] not in kinds]
    spaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [each for each in spaces if each["type"] != "network"]
    config["linux"]["resources"] = {"devices": list(devices)}
    (top / "config.json").write_text(json.dumps(config))
    for path in (top, *top.rglob("*")):
        os.chown(path, 100000, 100000)
    words = [runtime, *(["--cgroup-manager=cgroupfs"] if runtime == "crun" else [])]
    begin = f"""
set -e; cd {top}; export HOME={top} XDG_RUNTIME_DIR={top}/own; mkdir own
mount -t cgroup2 none /sys/fs/cgroup; mount -t tmpfs none /run
exec {" ".join(words)} --root {top}/state run box-{os.getpid()}
"""
    return inside([*_ALONE, "sh", "-c", begin], handlers, **options)

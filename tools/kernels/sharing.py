"""A directory of this system's that a machine is served: by QEMU as 9p, and by virtiofsd(1) where root has that.

In it is a file ``hello``; what the machine writes there is gone with it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What the machine asks for (mount_tag), of each kind.
PLAN_9, VIRTIOFS = "plan9", "virtiofs"
_VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")


@contextmanager
def served(memory: int) -> Iterator[list[str]]:
    """Options of QEMU by which a machine has it, of so much memory in MiB, until the end."""
    with tempfile.TemporaryDirectory(prefix="machine-") as place, _virtiofsd(place) as socket:
        made = [
            "-fsdev", f"local,id=shared,path={_directory(place, PLAN_9)},security_model=mapped-xattr",
            "-device", f"virtio-9p-pci,fsdev=shared,mount_tag={PLAN_9}",
        ]  # fmt: skip
        if socket:  # a process of its own reads and writes the machine's memory
            made += [
                "-object", f"memory-backend-memfd,id=memory,size={memory}M,share=on",
                "-machine", "memory-backend=memory", "-chardev", f"socket,id=virtiofsd,path={socket}",
                "-device", f"vhost-user-fs-pci,chardev=virtiofsd,tag={VIRTIOFS}",
            ]  # fmt: skip
        yield made


def _directory(place: str, name: str) -> Path:
    made = Path(place, name)
    made.mkdir(mode=0o755)
    (made / "hello").write_text("from outside\n")
    return made


@contextmanager
def _virtiofsd(place: str) -> Iterator[str]:
    """Its socket; "" where it cannot be had."""
    program = next((each for each in _VIRTIOFSD if os.access(each, os.X_OK)), None)
    if program is None or os.geteuid() != 0:
        yield ""
        return
    socket = os.path.join(place, "socket")
    how = f"source={_directory(place, VIRTIOFS)},sandbox=chroot,xattr"
    process = subprocess.Popen(
        [program, f"--socket-path={socket}", "-f", "-o", how],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield socket
    finally:
        process.kill()
        process.wait()

"""Boots a kernel under QEMU, emulated (TCG), and listens to what is reported from inside."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.kernels import sharing
from tools.kernels.architectures import Architecture
from tools.kernels.image import Missing

#: Of the machine, in MiB: the archives lie there twice while they are unpacked.
MEMORY = 3072


def boot(
    architecture: Architecture, vmlinuz: Path, archives: list[Path], work: Path,
    *, processors: int, patience: float,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The reports from inside, as they come, until the machine is down.

    :param archives: cpio archives, unpacked one after the other.
    :param work: a directory for what belongs to this run; ``console.log`` stays there.
    :param patience: seconds without a report after which the machine is given up.
    :raises Missing: no QEMU here.
    """
    if shutil.which(architecture.qemu) is None:
        raise Missing(f"apt-get install {architecture.package}")
    initrd = work / "initrd"
    with open(initrd, "wb") as out:
        for archive in archives:
            with open(archive, "rb") as part:
                shutil.copyfileobj(part, out, 1 << 20)
    try:
        with sharing.served(MEMORY) as shares:
            yield from _booted(
                [
                    architecture.qemu, "-nodefaults", "-accel", "tcg,thread=multi",
                    "-chardev", f"file,id=console,path={work / 'console.log'}", *architecture.machine,
                    "-smp", str(processors), "-m", str(MEMORY), "-display", "none", "-no-reboot", "-net", "none",
                    "-kernel", str(vmlinuz), "-initrd", str(initrd), "-append",
                    f"console={architecture.console} REPORTS=/dev/{architecture.port} quiet panic=-1"
                    " mitigations=off nokaslr apparmor=0 rdinit=/system/init.sh", *shares,
                ],
                patience,
            )  # fmt: skip
    finally:
        initrd.unlink()


def _booted(command: list[str], patience: float) -> Iterator[dict[str, Any]]:
    reader, writer = os.pipe()
    command = [*command, "-chardev", f"file,id=reports,path=/dev/fd/{writer}"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        pass_fds=[writer],
    )  # fmt: skip
    os.close(writer)
    try:
        yield from _reports(reader, patience)
        process.wait(30)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        _, words = process.communicate()
        os.close(reader)
    if process.returncode not in (0, -9) and words:
        yield {"problem": words.decode(errors="replace").strip()}


def _reports(reader: int, patience: float) -> Iterator[dict[str, Any]]:
    """Lines of JSON until the end of the stream; a "problem" if none comes for too long."""
    kept = b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    last = time.monotonic()
    while True:
        if not poll.poll(max(0.0, last + patience - time.monotonic()) * 1000):
            yield {"problem": f"no report for {patience:.0f} s: see the console's log"}
            return
        data = os.read(reader, 65536)
        if not data:
            return
        *lines, kept = (kept + data).replace(b"\r", b"").split(b"\n")
        for line in lines:
            last = time.monotonic()
            if line:
                try:
                    yield json.loads(line)
                except ValueError:
                    yield {"problem": f"unreadable report: {line[:200]!r}"}

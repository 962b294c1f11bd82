"""What is wrong with several arguments at once: the errno is that of the kernel, which finds it in an order of its own.

PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

import proctor
from proctor.performing.registry import SUPPORTED, family
from proctor.syscalls import tables
from proctor.syscalls.signatures import signature

from .containers import PYTHON, inside

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root to have callers with other identities"
)
PROGRAM = Path(__file__).with_name("bad_arguments.py")
TRIES = int(os.environ.get("PROCTOR_TRIES", "400"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
#: By what is made of an argument of a role; the others are numbers.
DRAWN = {
    "inout": "out", "struct": "structure", "array": "structure", "pointer": "structure", "iovec": "structure",
    "strings": "structure", "address": "structure",
    **{role: role for role in ("fd", "dirfd", "path", "string", "flags", "mode", "dev", "cmd", "out", "sockaddr", "size")},
}  # fmt: skip
GROUPS = {
    "paths": ("names", "attributes", "stat"),
    "files": ("open", "mknod", "xattr", "quiet", "resources"),
    "sockets": ("connect", "send", "bind", "accept", "socket", "setsockopt"),
    "mounts and programs": ("mount", "fsmount", "exec", "scheduling"),
}


def known_difference(call: str, natively: str, performed: str, words: list[str]) -> bool:
    """What is meant to be otherwise: rights that are lent, processes outside, and what docs/families says."""
    if call.startswith("mknod") and natively == "EPERM":
        return performed == "0"
    if call.startswith(("sched_set", "setpriority", "ioprio_set")):
        return natively in ("EPERM", "EACCES") and performed in ("ESRCH", "0")
    if call == "bind" and natively == "EACCES":  # of low ports
        return performed in ("0", "EINVAL")
    if call == "msync":  # mappings are not looked at
        return (natively, performed) == ("ENOMEM", "0")
    # AT_EMPTY_PATH: refused in words
    return call == "linkat" and performed == "ENOENT" and int(words[4], 16) & 0x1000 != 0


@pytest.mark.parametrize("bits", ["64", "32"])
@pytest.mark.parametrize("group", GROUPS)
def test_errors_come_in_the_order_of_the_kernel(place: bytes, group: str, bits: str) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("calls are made by the numbers of x86")
    arch = "x86_64" if bits == "64" else "i386"
    names, words = [], []
    for name in sorted(SUPPORTED - {"sync"}):  # which is about everybody's files
        known = signature(name, arch)
        there = name in tables.numbers(arch)
        if known is not None and there and family(name) in GROUPS[group]:
            names.append(name)
            roles = ",".join(DRAWN.get(arg.role, "number") for arg in known.args)
            words.append(f"{name}={tables.number(name, arch)}={roles}")

    @proctor.on(*names)
    def performed(call: proctor.Call) -> proctor.Verdict:
        if family(call.name) in ("mount", "fsmount"):  # which leave it to the kernel if nobody asks
            return proctor.perform()
        return proctor.perform(allow=lambda argument, path: True)

    told = []
    for handlers in ([], [performed]):
        done = inside(
            [PYTHON, "-I", PROGRAM, str(SEED), str(TRIES), bits, *words],
            handlers,
            env={**os.environ, "TOP": os.fsdecode(place)},
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.splitlines())
    assert len(told[0]) == len(told[1]) == TRIES
    for natively, with_us in zip(*told, strict=True):
        if natively != with_us:
            _, call, *arguments, said = natively.split()
            ours = with_us.split()[-1]
            assert known_difference(call, said, ours, arguments), f"{natively}; performed: {ours}"

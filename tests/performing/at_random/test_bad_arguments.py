"""Calls with arguments of all sorts, good ones and several bad at once: the errno is that of the kernel, which finds what is
wrong in an order of its own, and so is what is filled in, and what is otherwise afterwards.

PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

import proctor
from proctor.performing.families import fsflags
from proctor.performing.registry import SUPPORTED, family
from proctor.syscalls import tables
from proctor.syscalls.signatures import signature
from tests.performing.support.containers import PYTHON, inside

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0, reason="needs root to have callers with other identities"
    ),
    pytest.mark.timeout(3000),
]
PROGRAM = Path(__file__).with_name("bad_arguments.py")
TRIES = int(os.environ.get("PROCTOR_TRIES", "400"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
#: By what is made of an argument of a role; the others are numbers.
DRAWN = {
    "inout": "out", "struct": "structure", "array": "structure", "pointer": "structure", "iovec": "structure",
    "strings": "structure", "address": "structure",
    **{role: role for role in ("fd", "dirfd", "path", "string", "flags", "mode", "dev", "cmd", "out", "sockaddr", "size")},
}  # fmt: skip
#: By the name of the argument, for calls that have orders or structures of their own.
NAMED = {
    "quotactl": {"op": "quota", "special": "special"}, "quotactl_fd": {"op": "quota"},
    "ioctl": {"op": "fileflags", "arg": "structure"}, "sched_setscheduler": {"policy": "cmd"}, "setsockopt": {"optname": "cmd"},
}  # fmt: skip
GROUPS = {
    "paths": ("names", "attributes", "stat"),
    "files": ("open", "mknod", "xattr", "quiet", "resources"),
    "sockets": ("connect", "send", "bind", "accept", "socket", "setsockopt"),
    "mounts and programs": ("mount", "fsmount", "exec", "scheduling", "perf"),
    "flags and quotas": ("fsflags", "quota"),
}


def known_difference(call: str, natively: str, performed: str, words: list[str]) -> bool:
    """What is meant to be otherwise: rights that are lent, processes outside, and what docs/families says."""
    if call.startswith("mknod") and natively == "EPERM":
        return performed == "0"
    whose = {"setpriority": 2, "ioprio_set": 3}.get(
        call
    )  # PRIO_USER, IOPRIO_WHO_USER: the kernel's
    if whose is not None and int(words[0], 16) & 0xFFFFFFFF == whose:  # what that user has running
        return {natively, performed} <= {"0", "EPERM", "EACCES", "ESRCH"}
    if call.startswith(("sched_set", "setpriority", "ioprio_set")):
        return natively in ("EPERM", "EACCES") and performed in ("ESRCH", "0")
    if call == "perf_event_open":  # whose events are those that the rule names, of threads
        return performed == "EACCES" or (performed == "EINVAL" and int(words[4], 16) & 6 != 0)
    if call.startswith("quotactl"):  # what reads is lent a right, for ids that are the container's
        command = int(words[0 if call == "quotactl" else 1], 16) >> 8 & 0xFFFFFF
        if natively != "EPERM":  # Q_SYNC of all, and Q_XGETQSTATV
            return performed == "EPERM" and (
                command == 0x5808 or (command, words[1]) == (0x800001, "0x0")
            )
        after = ("0", "ESRCH", "EINVAL", "ENOSYS", "EFAULT", "ENOENT")
        return command in (0x800007, 0x800009, 0x5803, 0x5809) and performed in after
    if call == "setsockopt":
        return natively in ("EPERM", "EACCES") and performed == "0"
    if call == "bind" and natively == "EACCES":  # of low ports
        return performed in ("0", "EINVAL")
    # mappings are not looked at
    return call == "msync" and (natively, performed) == ("ENOMEM", "0")


@pytest.mark.parametrize("user", ["0", "1000"], ids=["root", "user"])
@pytest.mark.parametrize("bits", ["64", "32"])
@pytest.mark.parametrize("group", GROUPS)
def test_errors_come_in_the_order_of_the_kernel(
    place: bytes, group: str, bits: str, user: str
) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("calls are made by the numbers of x86")
    arch = "x86_64" if bits == "64" else "i386"
    names, words = [], []
    for name in sorted(SUPPORTED - {"sync"}):  # which is about everybody's files
        known = signature(name, arch)
        there = name in tables.numbers(arch)
        its = "fsflags" if name == "ioctl" else family(name)
        if known is not None and there and its in GROUPS[group]:
            names.append(name)
            drawn = NAMED.get(name, {})
            roles = ",".join(
                drawn.get(arg.name, DRAWN.get(arg.role, "number")) for arg in known.args
            )
            words.append(f"{name}={tables.number(name, arch)}={roles}")

    @proctor.on(*names)
    def performed(call: proctor.Call) -> proctor.Verdict:
        if family(call.name) in ("mount", "fsmount"):  # which leave it to the kernel if nobody asks
            return proctor.perform()
        options = fsflags.Options() if call.name == "ioctl" else None
        return proctor.perform(allow=lambda argument, path: True, options=options)

    told = []
    for handlers in ([], [performed]):
        done = inside(
            [PYTHON, "-I", PROGRAM, str(SEED), str(TRIES), bits, *words],
            handlers,
            env={
                **os.environ,
                "TOP": os.fsdecode(place),
                "GROUP": group,
                "DEVICE": disk(),
                "USER_ID": user,
            },
            timeout=3000,
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.splitlines())
    assert len(told[0]) == len(told[1]) == TRIES
    wrong = []
    for natively, with_us in zip(*told, strict=True):
        if natively != with_us:
            _, call, *arguments, _, said = natively.split()
            *_, seen, ours = with_us.split()
            if not known_difference(call, said, ours, arguments):
                wrong.append(f"{natively}; performed: {seen} {ours}")
    assert not wrong, "\n".join(wrong[:20])


def disk() -> str:
    """A block device with a file system that is mounted; or nothing of the kind."""
    with open("/proc/self/mounts", encoding="ascii") as file:
        for line in file:
            name = line.split()[0]
            if name.startswith("/dev/") and os.path.exists(name):
                return name
    return "/dev/null"

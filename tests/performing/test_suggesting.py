"""What a refusal says would let a call through does so: pasted, the call is performed.

Each program runs in a container, under a policy that refuses what it does; what that says is put before its
rules, until nothing is refused any more.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.performing import suggesting
from proctor.performing.given import would
from proctor.policy import Reason, loads
from proctor.testing import FakeTarget, Node
from tests.performing.families.test_modules import build, host
from tests.performing.mounts.test_mount import NEW_CALLS
from tests.performing.support.containers import told
from tests.performing.support.images import MOUNTS, image, top

__all__ = ["host", "image", "top"]
#: How often something may be refused for another reason.
MOST = 6
CALL = NEW_CALLS[: NEW_CALLS.index("FLAG")]
#: How the container comes to have loop devices open, whatever else is refused.
OPENS = """
[[rule]]
name = "loop devices"
calls = ["openat"]
when = { path = "/dev/loop*" }
perform = { loops = true }
[[rule]]
name = "others"
calls = ["openat"]
perform = true
"""
LOOP = """
control = os.open("/dev/loop-control", os.O_RDWR)
import fcntl
tried(lambda: fcntl.ioctl(control, 0x4C82) >= 0)
"""
SETS = """
def ioctl(fd, command, argument):
    if libc.ioctl(fd, ctypes.c_ulong(command), argument):
        raise OSError(ctypes.get_errno(), "ioctl")
os.chdir(sys.argv[1])
file = os.open("file", os.O_RDWR | os.O_CREAT)
"""


def pasted(text: str, calls: str, program: str, *args: object) -> tuple[list[Any], list[str]]:
    """What a program tells at last, and what was pasted for that."""
    names = calls.split()
    rules = [
        f'[[rule]]\nname = "no {each}"\ncalls = ["{each}"]\n{text}deny = "EDOM"\nreport = true\n'
        for each in names
    ]
    tips: list[str] = []
    for _ in range(MOST):
        seen: list[Reason] = []

        def observe(outcome: proctor.Outcome, seen: list[Reason] = seen) -> None:
            reason = outcome.verdict.reason
            if isinstance(reason, Reason) and reason.tip and outcome.call.name in names:
                seen.append(reason)

        policy = loads("".join((*tips, *rules, OPENS)))
        found = told(
            program, *args, handlers=policy.handlers(), filter=policy.filter(),
            observers=[proctor.outcomes(observe)],
        )  # fmt: skip
        if not seen:
            return found, tips
        tips.append(seen[0].tip)
        if f'in the place of rule "{seen[0].rule}"' in seen[0]:
            rules = [each for each in rules if f'"{seen[0].rule}"' not in each]
    raise AssertionError(f"still refused: {tips}")


@MOUNTS
@pytest.mark.parametrize(
    ("calls", "program", "tips"),
    [
        (
            "mount", 'os.chdir(sys.argv[1])\ntried(mount, b"image", b"m", b"ext4")\ntried(lambda: open("m/hello").read())',
            ['perform = { filesystems = ["ext4"], images = true }'],
        ),
        (
            "mount", 'os.chdir(sys.argv[1])\ntried(mount, b"none", b"m", b"tmpfs")\ntried(lambda: "from outside")', ["perform = true"],
        ),
        (
            "fsopen fsconfig fsmount move_mount",
            CALL + """
fd = fsopen(b"ext4")
fsconfig(fd, 1, b"source", b"image")
fsconfig(fd, 6)
tried(lambda: call(429, fsmount(fd, 0), b"", -100, b"m", 4) or None)
tried(lambda: open("m/hello").read())
""",
            ['perform = { filesystems = ["ext4"] }', "perform = { images = true }", "perform = true", "perform = true"],
        ),
    ],
)  # fmt: skip
def test_mounts(top: bytes, image: bytes, calls: str, program: str, tips: list[str]) -> None:
    guarded = f"try:\n{''.join(f'    {line}{chr(10)}' for line in program.splitlines())}except OSError: pass"
    found, said = pasted("", calls, guarded, top.decode())
    assert [each.splitlines()[-1] for each in said] == tips
    assert found == [None, "from outside"]


@MOUNTS
@pytest.mark.parametrize(
    ("calls", "program", "tip", "found"),
    [
        ("mknod mknodat", "tried(os.mknod, 'null', 0o20600, os.makedev(1, 3))", "perform = true", None),
        (
            "setxattr", "open('file', 'w').close()\ntried(os.setxattr, 'file', 'trusted.overlay.opaque', b'y')",
            "perform = true", None,
        ),
        (
            "setxattr", "open('file', 'w').close()\ntried(os.setxattr, 'file', 'trusted.backup', b'y')",
            'perform = { names = ["trusted.backup"] }', None,
        ),
        ("setpriority", "tried(os.setpriority, os.PRIO_PROCESS, 0, -3)", "perform = { nice = -3 }", None),
        (
            "sched_setscheduler", "tried(os.sched_setscheduler, 0, os.SCHED_RR, os.sched_param(2))",
            "perform = { priority = 2 }", None,
        ),
        (
            "ioprio_set", "tried(lambda: libc.syscall(251 if os.uname().machine == 'x86_64' else 30, 1, 0, 1 << 13 | 4))",
            "perform = { io = true }", 0,
        ),
        ("unshare", "tried(lambda: libc.unshare(0x10000000))", "perform = { most = 1 }", 0),
        ("ioctl", LOOP, "perform = true", True),
        (
            "ioctl", SETS + "tried(ioctl, file, 0x40086602, struct.pack('=l', 0x20))\nioctl(file, 0x40086602, bytes(8))",
            'perform = { flags = ["append"] }', None,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value and len(value) < 40 else "",
)  # fmt: skip
def test_what_is_pasted_lets_it(top: bytes, calls: str, program: str, tip: str, found: Any) -> None:
    text = ""
    if "ioctl" in calls:
        text = (
            f'when = {{ op = "{"LOOP_CTL_GET_FREE" if program is LOOP else "FS_IOC_SETFLAGS"}" }}\n'
        )
    guarded = f"os.chdir({top.decode()!r})\ntry:\n    pass\n"
    guarded += "".join(f"    {line}\n" for line in program.splitlines()) + "except OSError: pass"
    said, tips = pasted(text, calls, guarded, top.decode())
    assert tips[-1].splitlines()[-1] == tip
    assert said[-1] == found


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("gcc"), reason="modules want root, images a compiler"
)
@pytest.mark.parametrize("by", ["finit_module", "init_module"])
def test_modules(host: Path, tmp_path: Path, place: bytes, by: str) -> None:
    path = Path(os.fsdecode(place), "dummy_one.ko")
    path.write_bytes(build(tmp_path))
    finit = f"libc.syscall({'313' if os.uname().machine == 'x86_64' else '273'}, os.open(sys.argv[1], 0), b'size=3', 0)"
    init = f"libc.syscall({'175' if os.uname().machine == 'x86_64' else '105'}, data, len(data), b'size=3')"
    program = f"data = open(sys.argv[1], 'rb').read()\ntried(lambda: {finit if by == 'finit_module' else init})"
    found, tips = pasted("", by, program, path)
    assert [each.splitlines()[-1] for each in tips] == [
        'perform = { modules = ["dummy_one"], parameters = ["dummy_one.size"] }'
    ]
    assert found == [0]
    assert (host / "told").read_text() == "-- dummy_one size=3 C 0\n"


def needed(name: str, *args: Any) -> dict[str, Any] | None:
    disks: dict[str, Any] = {
        "/dev/sdb": Node.device("b", 8, 48), "/dev/loop3": Node.device("b", 7, 3), "/image": b"bytes",
        "/disk": Node.symlink("dev/sdb"),
    }  # fmt: skip
    return suggesting.needed(FakeTarget(files=disks).call(name, *args))


def test_what_is_needed_is_what_was_asked_for() -> None:
    event = struct.pack("=IIQ", 1, 64, 1) + bytes(48)
    for (name, *args), options in (
        # by its number: the host may have another one under its name
        (("mount", b"/dev/sdb", b"/m", b"xfs", 0, 0), {"filesystems": ["xfs"], "devices": ["8:48"]}),
        (("mount", b"/disk", b"/m", b"xfs", 0, 0), {"filesystems": ["xfs"], "devices": ["8:48"]}),
        (("mount", b"/dev/loop3", b"/m", b"xfs", 0, 0), {"filesystems": ["xfs"], "images": True}),
        (("mount", b"/image", b"/m", b"xfs", 0, 0), {"filesystems": ["xfs"], "images": True}),
        (("mount", b"/missing", b"/m", b"xfs", 0, 0), {"filesystems": ["xfs"]}),
        (("mount", b"/x", b"/m", b"xfs", 4096, 0), {}),
        (("mount", b"a:/b", b"/m", b"nfs4", 0, b"addr=1.2.3.4"), {"remote": {"a:/b": {"type": "nfs4", "options": "addr=1.2.3.4"}}}),
        (("delete_module", b"dummy", 0), {"modules": ["dummy"], "unload": True}),
        (("delete_module", b"a b", 0), {}),  # which no rule can say
        (("perf_event_open", event, 0, -1, -1, 0), {"events": ["task-clock"]}),
        (("quotactl", 0x80000800, b"/dev/x", 0, 0), {"commands": ["Q_SETQUOTA"]}),
        (("quotactl", 0x80000700, b"/dev/x", 0, 0), {}),
        (("write", 1, b"x", 1), None),
        (("getxattr", b"/x", b"user.x", 0, 0), {}),
        (("setxattr", b"/x", b"trusted.*", b"", 0, 0), {}),  # no pattern, but a rule would take it for one
        (("setxattr", b"/x", b"trusted.a*b", b"", 0, 0), {}),
        (("mount", 0, 0, 0, 0, 0), {}),
        (("mount", 1, 1, 1, 0, 0), {}),
        (("init_module", 1, 1 << 30, b""), {}),
    ):  # fmt: skip
        assert needed(name, *args) == options, (name, args)


def test_families_say_which_option_would_let_it() -> None:
    assert would(modules=['a"b']) == '(modules = ["a\\"b"] would let it)'

"""Mounts of which a policy says all: shown on hugetlbfs, which has no device either, and that no container may
mount by itself, and on NFS where the kernel has the client (those of ``make test-kernels`` have)."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import proctor
from proctor import families
from proctor.call.verdict import Answer, Deny, LetRun
from proctor.performing.families import mount
from proctor.performing.families.mount import Options
from proctor.performing.mounts.remote import Remote, read
from tests.performing.families.test_open_differential import MAP
from tests.performing.mounts.test_mount import asked
from tests.performing.support.callers import MS_RDONLY, MS_REMOUNT, Performers, caller, unshare
from tests.performing.support.containers import container, told
from tests.performing.support.images import MOUNTS, SINCE_5_12, top
from tests.performing.support.nfs_server import NfsServer

__all__ = ["top"]
pytestmark = SINCE_5_12
CLONE_NEWNET = 0x40000000
KNOWN = Path("/proc/filesystems").read_text().split()
PAGES = Options(remote={"pages": {"type": "hugetlbfs", "options": "mode=700,uid=100000"}})
HUGE = pytest.mark.skipif("hugetlbfs" not in KNOWN, reason="no hugetlbfs here")


@MOUNTS
@HUGE
def test_the_policy_says_what_is_mounted(performers: Performers, top: bytes) -> None:
    with caller(container(top), MAP) as one:
        for data in (0, b"size=1g,mode=777", b"addr=198.51.100.1"):
            args = (b"pages", b"m", b"hugetlbfs", MS_RDONLY, data)
            assert asked(performers, one, *args, options=PAGES) == Answer(0)
            shown = Path(f"/proc/{one.pid}/mountinfo").read_text().splitlines()[-1]
            assert shown.split(" - ")[0].split()[5] == "ro,nodev,relatime", shown
            assert shown.split(" - ")[1].split()[:2] == ["hugetlbfs", "pages"]
            assert "uid=100000,mode=700" in shown and ",size=" not in shown
            remount = asked(performers, one, 0, b"m", 0, MS_REMOUNT, b"mode=777", options=PAGES)
            assert isinstance(remount, LetRun)  # and the kernel refuses it
            assert one.natively("mount", 0, b"m", 0, MS_REMOUNT, b"mode=777") == (
                "errno",
                errno.EPERM,
            )
            assert one.natively("umount2", b"m", 0) == ("value", 0)


@MOUNTS
def test_nobody_names_what_the_policy_does_not(performers: Performers, top: bytes) -> None:
    options = Options(remote={"media:/films": {"type": "nfs4", "options": "addr=192.0.2.7"}})
    with caller(container(top), MAP) as one:
        for source, kind in (
            (b"media:/", b"nfs4"), (b"media:/films/", b"nfs4"), (b"media:/films", b"nfs"), (b"", b"nfs4"),
            (b"other:/films", b"nfs4"), (b"MEDIA:/films", b"nfs4"), (b"media:/films", b"9p"), (0, b"nfs4"),
        ):  # fmt: skip
            verdict = asked(
                performers, one, source, b"m", kind, 0, b"addr=192.0.2.7", options=options
            )
            assert isinstance(verdict, LetRun), (
                source,
                kind,
            )  # to the kernel, which mounts none of these
        if "nfs4" not in KNOWN:
            verdict = asked(performers, one, b"media:/films", b"m", b"nfs4", 0, 0, options=options)
            assert isinstance(verdict, Deny) and verdict.errno == errno.ENODEV, verdict
            assert "no file system nfs4" in verdict.reason


@MOUNTS
def test_in_the_callers_network(
    performers: Performers, top: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown on sysfs, which is of a network namespace, and which the kernel would mount for a container, too."""
    monkeypatch.setattr(mount, "KERNELS_OWN", frozenset())
    of_host = set(os.listdir("/sys/class/net"))
    seen = []
    with caller(container(top, lambda: unshare(CLONE_NEWNET)), MAP) as one:
        there = f"/proc/{one.pid}/root{os.fsdecode(top)}/m/class/net"
        for network in ("host", "container"):
            options = Options(remote={"it": {"type": "sysfs", "network": network}})
            args = (b"it", b"m", b"sysfs", 0, 0)
            assert asked(performers, one, *args, options=options) == Answer(0)
            seen.append(set(os.listdir(there)))
            assert one.natively("umount2", b"m", 0) == ("value", 0)
    assert seen[0] == of_host and "lo" in seen[1]
    if of_host == {"lo"}:
        pytest.skip("the host has no network either: which of the two it was is not to be seen")
    assert seen[1] != of_host


def test_what_a_policy_may_say() -> None:
    given = {
        "share": {"type": "9p", "options": "trans=virtio,version=9p2000.L,,ro", "network": "host"}
    }
    assert read(given) == {
        b"share": Remote(
            "9p", ((b"trans", b"virtio"), (b"version", b"9p2000.L"), (b"ro", None)), False
        )
    }
    wrong: list[object] = [
        "nfs", {"a": "nfs"}, {"a": {}}, {"a": {"type": ""}}, {"": {"type": "9p"}}, {"a": {"type": 9}},
        {"a": {"type": "9p", "network": "moon"}}, {"a": {"type": "9p", "source": "x"}}, {"a": {"type": "tmpfs"}},
    ]  # fmt: skip
    for each in wrong:
        with pytest.raises(ValueError, match="remote"):
            Options(remote=each)  # type: ignore[arg-type]
    assert proctor.families.mount(remote=given)


def has_nfs() -> bool:
    """Whether this kernel has the client, or a module of it."""
    if "\tnfs\n" in Path("/proc/filesystems").read_text():
        return True
    if "PROCTOR_TEST_MACHINE" not in os.environ or not shutil.which("modprobe"):
        return False
    return subprocess.run(["modprobe", "nfsv3"], check=False, capture_output=True).returncode == 0


@pytest.mark.timeout(600)
def test_an_export_is_mounted(top: bytes) -> None:
    """NFS, by the kernel's own client, from a server on this machine."""
    if not has_nfs():
        pytest.skip("this kernel has no client of NFS")
    server = NfsServer({"hello": b"from the server", "long": bytes(range(256)) * 999})
    port = server.port
    options = (
        f"vers=3,proto=tcp,addr=127.0.0.1,port={port},mountproto=tcp,mountvers=3,mountaddr=127.0.0.1,mountport={port},"
        "nolock,noacl,soft,timeo=100,retrans=2,ro"
    )
    handlers = [families.mount(remote={"media:/films": {"type": "nfs", "options": options}})]
    program = """
os.chdir(sys.argv[1])
tried(mount, b"media:/films", b"m", b"nfs4", 0, b"addr=127.0.0.1")
tried(mount, b"other:/films", b"m", b"nfs", 0, b"addr=127.0.0.1")
tried(mount, b"media:/films", b"m", b"nfs", 2, b"vers=4.2,rw")
tried(lambda: sorted(os.listdir("m")))
tried(lambda: open("m/hello").read())
tried(lambda: open("m/long", "rb").read() == bytes(range(256)) * 999)
tried(os.open, "m/missing", 0)
tried(os.open, "m/new", os.O_CREAT | os.O_WRONLY)
line = [line for line in open("/proc/self/mountinfo") if sys.argv[1] + "/m " in line][0].split()
results.append([line[5], *line[-3:-1], line[-1].split(",")[0]])
tried(umount, b"m")
tried(lambda: os.listdir("m"))
"""
    try:
        assert told(program, top.decode(), handlers=handlers, timeout=300) == [
            "EPERM", "EPERM", None, ["hello", "long"], "from the server", True, "ENOENT", "EROFS",
            ["rw,nosuid,nodev,relatime", "nfs", "media:/films", "ro"], None, [],
        ]  # fmt: skip
    finally:
        server.close()
    assert {3, 6, 19} <= set(server.seen)

"""The kernel's clients of 9p and virtiofs, in a machine of ``make test-kernels``: what is mounted for a container is
what the host's root would have mounted, for a program with the ids that the container's root has."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from proctor import families
from tests.performing.support.containers import PRELUDE, PYTHON, told
from tests.performing.support.images import top

__all__ = ["top"]
pytestmark = [
    pytest.mark.skipif("PROCTOR_TEST_MACHINE" not in os.environ, reason="for make test-kernels"),
    pytest.mark.timeout(900),
]
#: What the machine is served by tools/kernels/sharing.py.
SHARED = {
    "9p": ("plan9", "trans=virtio,version=9p2000.L,msize=65536"),
    "virtiofs": ("virtiofs", ""),
}
#: Of a container's root and, natively, of who has its ids and no capabilities: all that is done to ``m``.
LOOK = """
line = [line for line in open("/proc/self/mountinfo") if " " + os.path.realpath("m") + " " in line][-1].split()
at = line.index("-")
results.append([line[3], line[at + 1], line[at + 2], sorted(line[at + 3].split(","))])
def about(name):
    found = os.lstat("m/" + name)
    return [stat.filemode(found.st_mode), found.st_uid, found.st_gid, found.st_nlink, found.st_size]
tried(lambda: sorted(os.listdir("m")))
tried(about, "hello")
tried(lambda: open("m/hello").read())
tried(lambda: os.close(os.open("m/hello", os.O_WRONLY)))
tried(os.open, "m/missing", 0)
def write():
    with open("m/new", "xb") as file:
        file.write(bytes(range(256)) * 300)
        os.fsync(file.fileno())
tried(write)
tried(lambda: open("m/new", "rb").read() == bytes(range(256)) * 300)
for what in (
    lambda: write(), lambda: os.truncate("m/new", 5), lambda: os.chmod("m/new", 0o640), lambda: os.mkdir("m/d", 0o750),
    lambda: os.rename("m/new", "m/d/new"), lambda: os.link("m/d/new", "m/other"), lambda: os.symlink("d/new", "m/link"),
    lambda: os.mkfifo("m/fifo", 0o600), lambda: os.mknod("m/null", 0o20666, 0x103), lambda: os.chown("m/d", os.getuid(), os.getgid()),
    lambda: os.setxattr("m/d", "trusted.x", b"1"), lambda: os.rmdir("m/d"), lambda: about("d"), lambda: about("d/new"),
    lambda: about("other"), lambda: about("link"), lambda: about("fifo"), lambda: os.statvfs("m").f_namemax,
):
    tried(what)
"""
BY_ROOT = f"""
source, kind, options = (each.encode() for each in sys.argv[2:5])
libc.unshare(0x20000)
mount(b"none", b"/", None, 0x4000 | 1 << 18)
os.chdir(sys.argv[1])
tried(mount, source, b"m", kind, 0, options)
os.chown("m", 100000, 100000)
os.chmod("m", 0o755)
os.setgroups([]), os.setresgid(*[100000] * 3), os.setresuid(*[100000] * 3)
{LOOK}
for name in "other", "link", "fifo", "d/new":
    os.path.lexists("m/" + name) and os.unlink("m/" + name)
os.rmdir("m/d")
"""
BY_CONTAINER = f"""
source, kind = (each.encode() for each in sys.argv[2:4])
os.chdir(sys.argv[1])
tried(mount, source, b"m", kind, 0, b"trans=fd,rfdno=0,wfdno=0,pass=none,addr=198.51.100.1")
{LOOK}
tried(mount, source + b"s", b"m", kind)
tried(mount, source, b"m", b"ext4")
tried(umount, b"m")
tried(lambda: os.listdir("m"))
"""


def by_root(top: bytes, source: str, kind: str, options: str) -> list[object]:
    text = f"{PRELUDE}\n{BY_ROOT}\nprint(json.dumps(results))\n"
    command = [PYTHON, "-ISc", text, os.fsdecode(top), source, kind, options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


def inside(found: object) -> object:
    """What :data:`LOOK` says, as the container's ids."""
    if isinstance(found, list) and len(found) == 5 and isinstance(found[1], int):
        ids = [each - 100000 if 100000 <= each < 165536 else 65534 for each in found[1:3]]
        return [found[0], *ids, *found[3:]]
    return found


def compare(top: bytes, kind: str, source: str, options: str) -> None:
    natively = by_root(top, source, kind, options)
    assert natively[0] is None, natively
    remote = {source: {"type": kind, "options": options}}
    program = told(
        BY_CONTAINER,
        top.decode(),
        source,
        kind,
        handlers=[families.mount(remote=remote)],
        timeout=300,
    )
    *of_mount, wrong_source, wrong_kind, unmounted, left = program
    assert of_mount == [inside(each) for each in natively]
    assert (unmounted, left) == (None, [])
    # by the kernel, which lets no container mount these
    assert wrong_source == wrong_kind == "EPERM"


@pytest.mark.parametrize("kind", SHARED)
def test_as_roots_own(kind: str, top: bytes) -> None:
    source, options = SHARED[kind]
    for module in ("virtio_pci", "9pnet_virtio", kind):
        found = subprocess.run(["modprobe", module], check=False, capture_output=True)
    if found.returncode:
        assert kind not in Path("/proc/filesystems").read_text()
        remote = {source: {"type": kind, "options": options}}
        program = (
            "os.chdir(sys.argv[1])\ntried(mount, sys.argv[2].encode(), b'm', sys.argv[3].encode())"
        )
        handlers = [families.mount(remote=remote)]
        assert told(program, top.decode(), source, kind, handlers=handlers) == ["ENODEV"]
        pytest.skip(f"this kernel has no {kind}")
    compare(top, kind, source, options)

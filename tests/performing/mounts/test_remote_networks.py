"""CIFS and NFS with the container's network namespace, in a machine of ``make test-kernels``: their servers can be reached
from there alone. CIFS is Samba's; what a program sees and gets of it is compared with a mount of real root's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.performing.mounts.test_remote import has_nfs
from tests.performing.mounts.test_remote_clients import BY_ROOT, LOOK, inside
from tests.performing.support import smb_server
from tests.performing.support.containers import PRELUDE, PYTHON
from tests.performing.support.images import SINCE_5_12, top
from tests.performing.support.networks import within
from tests.performing.support.nfs_server import NfsServer
from tests.performing.support.smb_server import PASSWORD, SHARE, USER

__all__ = ["top"]
pytestmark = [
    pytest.mark.skipif("PROCTOR_TEST_MACHINE" not in os.environ, reason="for make test-kernels"),
    SINCE_5_12,
    pytest.mark.timeout(900),
]
#: Of a container's root, in namespaces that it made: it says which process it is, and goes on when the server is there.
ALONE = """
import fcntl, socket
libc.unshare(0x44020000)
socket.sethostname("inside")
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.chdir(sys.argv[1])
print(os.getpid(), flush=True)
sys.stdin.read()
"""


class Container:
    """A program of :data:`ALONE` that ``proctor run`` supervises.

    :param place: a directory that it does not see.
    :param remote: what the policy has of ``remote``.
    """

    def __init__(
        self, top: bytes, place: Path, remote: dict[str, dict[str, str]], program: str
    ) -> None:
        self._log, policy = place / "log", place / "policy.toml"
        tables = "".join(
            f"{json.dumps(source)} = {{ {', '.join(f'{key} = {json.dumps(text)}' for key, text in each.items())} }}, "
            for source, each in remote.items()
        )
        policy.write_text(
            f'[[rule]]\nname = "far"\ncalls = ["mount"]\nperform = {{ remote = {{ {tables[:-2]} }} }}\n'
        )
        text = f"{PRELUDE}\n{ALONE}\n{program}\nprint(json.dumps(results))\n"
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "proctor", "run", f"--policy={policy}", f"--log={self._log}", "--userns=100000:65536", "--",
                PYTHON, "-ISc", text, os.fsdecode(top),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.network = f"/proc/{int(self._process.stdout.readline())}/ns/net"

    def told(self) -> tuple[list[Any], str]:
        """What the program tells, and all that was told of it: the log, and standard error."""
        out, err = self._process.communicate(timeout=600)
        assert self._process.returncode == 0, err
        return json.loads(out.splitlines()[-1]), self._log.read_text() + err

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def contained(
    top: bytes, place: Path, remote: dict[str, dict[str, str]], program: str
) -> Iterator[Container]:
    one = Container(top, place, remote, program)
    try:
        yield one
    finally:
        one.close()


def by_root(network: str, program: str, *words: str) -> Any:
    """What a program of the host's root tells, in this network namespace."""
    text = f"{PRELUDE}\n{program}\nprint(json.dumps(results))\n"
    done = subprocess.run(
        ["nsenter", f"--net={network}", PYTHON, "-ISc", text, *words],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


OF_HOST = "/proc/self/ns/net"
SOURCE = f"//127.0.0.1/{SHARE}"
OTHERS = ("//127.0.0.1/none", "//localhost/films")


def options(password: str = PASSWORD) -> str:
    told = password.replace(",", ",,")
    return f"ip=127.0.0.1,vers=3.1.1,username={USER},pass={told},uid=100000,gid=100000"


@pytest.mark.parametrize("kind", ["cifs", "smb3"])
def test_cifs_as_roots_own(kind: str, top: bytes, tmp_path: Path) -> None:
    if subprocess.run(["modprobe", "cifs"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel has no client of CIFS")
    if not smb_server.is_here():
        pytest.skip("there is no Samba here")
    far = {"type": kind, "network": "container"}
    remote = {
        SOURCE: far | {"options": options()},
        OTHERS[0]: far | {"options": options()},
        OTHERS[1]: far | {"options": options("close,sesame")},
    }
    hosts = {f"{SOURCE}/": {"type": kind, "options": options()}}
    program = f"""
kind, options = b"{kind}", b"ip=198.51.100.1,user=me,pass=mine,,sesame"
tried(mount, b"{SOURCE}", b"m", kind, 0, options)
{LOOK}
tried(umount, b"m")
tried(lambda: os.listdir("m"))
for source in {[each.encode() for each in (*OTHERS, *hosts)]}:
    tried(mount, source, b"m", kind, 0, options)
tried(mount, b"//127.0.0.1/other", b"m", kind, 0, options)
tried(mount, b"//me:sesame@127.0.0.1/films", b"m", kind, 0, options)
"""
    failing = f"""
libc.unshare(0x20000)
mount(b"none", b"/", None, 0x4000 | 1 << 18)
os.chdir(sys.argv[1])
for at in range(2, len(sys.argv), 2):
    tried(mount, sys.argv[at].encode(), b"m", b"{kind}", 0, sys.argv[at + 1].encode())
"""
    place = os.fsdecode(top)
    with (
        contained(top, tmp_path, remote | hosts, program) as one,
        smb_server.serving(tmp_path, one.network) as shared,
    ):
        natively = by_root(one.network, BY_ROOT, place, SOURCE, kind, options())
        failed = by_root(
            one.network, failing, place, OTHERS[0], options(), OTHERS[1], options("close,sesame")
        )
        failed += by_root(OF_HOST, failing, place, f"{SOURCE}/", options())
        program_told, said = one.told()
        assert (shared / "d/new").read_bytes() == bytes(range(5))
    of_mount, (unmounted, left, *refused) = (
        program_told[: len(natively)],
        program_told[len(natively) :],
    )
    assert natively[0] is None and len(set(map(str, natively))) > 10, natively
    assert of_mount == [inside(each) for each in natively]
    assert (unmounted, left) == (None, [])
    assert refused == [*failed, "EPERM", "EPERM"] and failed[1] == "EACCES", (refused, failed)
    assert "sesame" not in said and SOURCE in said, said


def test_nfs(top: bytes, tmp_path: Path) -> None:
    if not has_nfs():
        pytest.skip("this kernel has no client of NFS")
    # where it listens is known when the container is there: the policy is read before
    port = 2049
    options = (
        f"vers=3,proto=tcp,addr=127.0.0.1,port={port},mountproto=tcp,mountvers=3,mountaddr=127.0.0.1,mountport={port},"
        "nolock,noacl,soft,timeo=100,retrans=2,ro"
    )
    far = {"type": "nfs", "options": options}
    remote = {"media:/films": far | {"network": "container"}, "media:/": far}
    look = """
tried(mount, b"media:/films", b"m", b"nfs", 0, options)
line = [line for line in open("/proc/self/mountinfo") if " " + os.path.realpath("m") + " " in line][-1].split()
at = line.index("-")
results.append([*line[at + 1:at + 3], sorted(line[at + 3].split(","))])
tried(lambda: sorted(os.listdir("m")))
tried(lambda: open("m/long", "rb").read() == bytes(range(256)) * 999)
tried(lambda: open("m/hello").read())
tried(os.open, "m/missing", 0)
tried(os.open, "m/new", os.O_CREAT | os.O_WRONLY)
tried(umount, b"m")
tried(mount, b"media:/", b"m", b"nfs", 0, options)
"""
    program = f"options = b'vers=4.2,rw'\n{look}"
    natively = f"""
options = sys.argv[2].encode()
libc.unshare(0x20000)
mount(b"none", b"/", None, 0x4000 | 1 << 18)
os.chdir(sys.argv[1])
{look}
"""
    with contained(top, tmp_path, remote, program) as one:
        server = within(
            one.network, lambda: NfsServer({"hello": b"hi", "long": bytes(range(256)) * 999}, port)
        )
        try:
            *of_root, there = by_root(one.network, natively, os.fsdecode(top), options)
            of_host = by_root(
                OF_HOST, natively.replace(look, look.splitlines()[-1]), os.fsdecode(top), options
            )
            *of_mount, refused = one.told()[0]
        finally:
            server.close()
    assert of_mount == of_root and of_mount[2] == ["hello", "long"], (of_mount, of_root)
    # the same server, from the host's network: nobody is there
    assert there is None and [refused] == of_host and refused not in (None, "EPERM")
    assert {3, 6, 19} <= set(server.seen)
    assert server.names == {b"inside", os.uname().nodename.encode()}

"""Real programs under a real filter, whose calls are performed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import proctor
from proctor.kernel.abi import AUDIT_ARCH_I386
from proctor.performing import Performers
from tests.performing.support.callers import open_directory

MAP = [(0, 100000, 65536)]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="maps of many ids need the host's root")


@proctor.on("open", "openat", "openat2", "creat")
def every_open(call: Any) -> Any:
    return proctor.perform()


@proctor.on("mknod", "mknodat")
def every_mknod(call: Any) -> Any:
    return proctor.perform()


@pytest.fixture
def top() -> Iterator[str]:
    with open_directory() as path:
        if os.geteuid() == 0:
            os.chown(path, 100000, 100000)
        yield os.fsdecode(path)


def sh(script: str, *handlers: Any, **options: Any) -> tuple[int, str, str]:
    done = proctor.run(
        ["sh", "-c", script], handlers, capture_output=True, text=True, timeout=60, **options
    )
    return done.returncode, done.stdout, done.stderr


def test_every_open_of_a_shell(top: str) -> None:
    """The dynamic loader, the locale, redirections, /proc/self, /dev/stdin: all of them performed."""
    outcomes: list[Any] = []

    def observe(outcome: Any) -> None:
        outcomes.append((outcome.performed, str(outcome.verdict)))

    script = (
        f"cd {top}; rm -f file; umask 027; echo one > file; echo two >> ./file; cat file;"
        "echo piped | cat < /dev/stdin; tr '\\0' ' ' < /proc/self/cmdline; cat missing;"
        "ls /proc/self/fd > /dev/null; cat /proc/self/status | grep ^Uid; cat /proc/thread-self/comm"
    )
    options: dict[str, Any] = {"userns": MAP} if os.geteuid() == 0 else {}
    natively = sh(script, **options)
    assert natively[1].startswith("one\ntwo\npiped\n")
    assert sh(script, every_open, observers=[proctor.outcomes(observe)], **options) == natively
    made = os.stat(top + "/file")
    assert stat.S_IMODE(made.st_mode) == 0o640
    assert made.st_uid == (100000 if os.geteuid() == 0 else os.geteuid())
    assert len(outcomes) > 10
    assert all(performed for performed, _ in outcomes)


@root_only
def test_tar_extracts_devices(top: str) -> None:
    os.mkdir(top + "/from")
    for name, mode, device in (
        ("null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        ("loop", stat.S_IFBLK | 0o640, os.makedev(7, 1)),
        ("fifo", stat.S_IFIFO | 0o600, 0),
    ):
        os.mknod(f"{top}/from/{name}", mode, device)
        os.chmod(f"{top}/from/{name}", mode & 0o777)
    assert os.system(f"tar -C {top}/from -cf {top}/archive.tar .") == 0
    os.mkdir(top + "/to")
    os.chown(top + "/to", 100000, 100000)
    extract = f"tar -C {top}/to -xpf {top}/archive.tar --no-same-owner"
    code, _, err = sh(extract, userns=MAP)
    assert code != 0
    assert "Cannot mknod: Operation not permitted" in err
    shutil.rmtree(top + "/to")
    os.mkdir(top + "/to")
    os.chown(top + "/to", 100000, 100000)
    code, _, err = sh(
        extract + f" && echo gone > {top}/to/null", every_mknod, userns=MAP, namespaces=("mnt",)
    )
    assert (code, err) == (0, "")
    assert sorted(os.listdir(top + "/to")) == ["fifo", "loop", "null"]
    st = os.stat(top + "/to/loop")
    assert (st.st_uid, st.st_rdev, oct(st.st_mode)) == (100000, os.makedev(7, 1), "0o60640")


@root_only
def test_descriptors_run_out_as_they_do(top: str) -> None:
    """EMFILE is the target's own limit: ADDFD says it."""
    script = f"ulimit -n 8; cd {top}; exec 3>a 4>b 5>c 6>d 7>e; (exec 8>f) 2>/dev/null || echo full; exec 8>g"
    code, out, _ = sh(script, every_open, userns=MAP)
    assert code != 0
    assert out == "full\n"


def test_path_rule(top: str) -> None:
    seen: list[bytes] = []

    @proctor.on("openat")
    def only(call: Any) -> Any:
        def allow(argument: str, path: bytes) -> bool:
            seen.append(path)
            return b"secret" not in path

        return proctor.perform(allow)

    with open(top + "/secret", "w"):
        pass
    os.symlink("secret", top + "/innocent")
    code, _, err = sh(f"cat {top}/innocent", only)
    assert code == 1
    assert os.strerror(errno.EACCES) in err
    assert os.fsencode(top + "/secret") in seen


def test_own_performers(top: str) -> None:
    """A performer of one's own, as the supervisor takes it."""
    with Performers() as performers:
        code, out, _ = sh(
            f"echo x > {top}/x; cat {top}/x" if os.access(top, os.W_OK) else "echo x",
            every_open,
            performer=performers,
        )
    assert (code, out) == (0, "x\n")


def test_openat2_of_a_program(top: str) -> None:
    """Its structure is read from the caller's memory; a short one, a long one, an unreadable one."""
    program = (
        "import ctypes, os, struct, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "how = struct.pack('=QQQ', os.O_RDWR | os.O_CREAT, 0o640, 8)\n"  # RESOLVE_BENEATH
        "def openat2(path, how, size):\n"
        "    fd = libc.syscall(437, -100, path, how, ctypes.c_size_t(size))\n"
        "    return os.strerror(ctypes.get_errno()) if fd < 0 else 'fd'\n"
        f"os.chdir({top!r})\n"
        "print(openat2(b'new', how, 24), openat2(b'../x', how, 24), openat2(b'new', how, 23))\n"
        "print(openat2(b'new', how + bytes(8), 32), openat2(b'new', how + bytes([1] * 8), 32))\n"
        "print(openat2(b'new', ctypes.c_void_p(8), 24), openat2(ctypes.c_void_p(8), how, 24))\n"
    )
    if os.geteuid() == 0:
        os.chown(top, 0, 0)
    done = proctor.run(
        [sys.executable, "-I", "-S", "-c", program],
        [every_open],
        capture_output=True,
        text=True,
        timeout=60,
    )
    words = {e: os.strerror(e) for e in (errno.EXDEV, errno.EINVAL, errno.E2BIG, errno.EFAULT)}
    assert done.stdout == (
        f"fd {words[errno.EXDEV]} {words[errno.EINVAL]}\nfd {words[errno.E2BIG]}\n"
        f"{words[errno.EFAULT]} {words[errno.EFAULT]}\n"
    ), done.stderr
    assert stat.S_IMODE(os.stat(top + "/new").st_mode) == 0o640


COMPAT = """
import os, struct, sys
from tests.performing.support.callers import raw
def said(name, *args):
    result = raw("i386", name, list(args))
    print(name, os.read(result, 99) if result >= 0 else "failed", flush=True)
said("open", b"/proc/self/comm", 0, 0)
said("openat", -100, sys.argv[1].encode(), os.O_RDONLY, 0)
said("openat2", -100, sys.argv[1].encode(), struct.pack("=QQQ", 0, 0, 0), 24)
said("creat", sys.argv[1].encode() + b"/x", 0o600)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of i386")
def test_opens_by_the_table_of_another_architecture(top: str) -> None:
    """int $0x80, as any program of 64 bits can make it: other numbers, other sizes of arguments."""
    with open(top + "/file", "w") as file:
        file.write("content")
    argv = [sys.executable, "-c", COMPAT, top + "/file"]
    try:
        natively = proctor.run(argv, capture_output=True, timeout=60)
    except OSError:
        natively = None
    if natively is None or natively.returncode != 0:
        pytest.skip("this kernel runs no calls of i386")
    arches: list[int] = []

    def observe(outcome: Any) -> None:
        if outcome.performed:
            arches.append(outcome.call.arch)

    done = proctor.run(
        argv, [every_open], capture_output=True, timeout=60, observers=[proctor.outcomes(observe)]
    )
    assert (done.returncode, done.stdout) == (0, natively.stdout)
    assert done.stdout.count(b"content") == 2
    assert arches.count(AUDIT_ARCH_I386) == 4

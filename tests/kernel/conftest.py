"""Subjects to launch, filters assembled by hand, and monitors in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from proctor.kernel import abi
from proctor.kernel.probe import report

#: How much longer everything may take here than on a machine that is not emulated.
SLOWNESS = float(os.environ.get("PROCTOR_TEST_SLOWNESS", "1"))
SOURCE = Path(__file__).with_name("subject.c")


def notify(*numbers: int) -> bytes:
    """A filter that notifies these x86-64 numbers (none given: every call) and allows the rest."""
    one = abi.SOCK_FILTER.pack
    if not numbers:
        return one(0x06, 0, 0, abi.SECCOMP_RET_USER_NOTIF)
    code = one(0x20, 0, 0, 0)  # A = nr
    for at, number in enumerate(numbers):
        code += one(0x15, len(numbers) - at, 0, number)
    return (
        code + one(0x06, 0, 0, abi.SECCOMP_RET_ALLOW) + one(0x06, 0, 0, abi.SECCOMP_RET_USER_NOTIF)
    )


@cache
def listener_knows(feature: str) -> bool:
    """Whether a listener of this kernel has a feature, by the name `proctor doctor` gives it."""
    return next(line.ok for line in report() if line.feature == feature) is True


@pytest.fixture(scope="session")
def subject() -> Iterator[str]:
    """The compiled subject, in a directory everybody may enter (pytest's own are private)."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        binary = os.path.join(place, "subject")
        subprocess.run(
            ["gcc", "-O1", "-Wall", "-Wextra", "-pthread", "-o", binary, str(SOURCE)], check=True
        )
        yield binary


@pytest.fixture
def said(subject: str) -> Callable[..., list[str]]:
    """Launch the subject with these commands and options; the lines it says until its end."""
    from proctor.kernel.launch import launch

    def go(*commands: str, **options: object) -> list[str]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        fds = options.pop("fds", [(0, 0), (2, 2)])
        try:
            with launch([subject, *commands], fds=[*fds, (writer, 1)], **options) as target:
                os.close(writer)
                writer = -1
                assert target.executed(30)
                with open(reader, encoding="utf-8", closefd=False) as file:
                    lines = file.read().splitlines()
                assert target.wait(30) == 0
                return lines
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)

    return go


@pytest.fixture
def monitor(subject: str) -> Callable[..., str]:
    """Run Python text as a monitor in a process (and process group) of its own; what it prints.

    ``HELPERS`` below are there, and ``subject``."""

    def go(text: str, *, nobody: bool = False, timeout: float = 60, **popen: object) -> str:
        text = textwrap.dedent(text)
        if nobody and os.geteuid() == 0:
            text = "become_nobody()\n" + text
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", HELPERS + text, subject],
            capture_output=True,
            text=True,
            timeout=timeout * SLOWNESS,
            check=False,
            start_new_session=True,
            **popen,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return go


#: What each monitor begins with.
HELPERS = """\
import ctypes, errno, os, resource, signal, struct, sys
from proctor.kernel import _core, abi, seccomp
from proctor.errors import LaunchError, NestedListener
from proctor.kernel.launch import launch
from proctor.kernel.plan import Plan
from proctor.kernel.start import start
from proctor.kernel.listener import Listener
from proctor.kernel.memory import Memory
subject = sys.argv[1]

def one(code, jt, jf, k):
    return abi.SOCK_FILTER.pack(code, jt, jf, k)

def inject(number, action, argument=None, value=0, bits=False):
    '''A filter for this very process and all its children: these calls are not what they were.'''
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
    code = one(0x20, 0, 0, 0)
    if argument is None:
        code += one(0x15, 0, 1, number)
    else:
        code += one(0x15, 0, 3, number) + one(0x20, 0, 0, 16 + 8 * argument)
        code += one(0x45 if bits else 0x15, 0, 1, value)
    code += one(0x06, 0, 0, action) + one(0x06, 0, 0, abi.SECCOMP_RET_ALLOW)
    seccomp.load(code, 0)

def become_nobody():
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable again: our children's /proc files are ours

def refuse(number, code, **when):
    inject(number, abi.SECCOMP_RET_ERRNO | code, **when)

def failure(argv=None, **options):
    '''(step, errno) of a launch that must fail, with nothing left over.'''
    before = sorted(os.listdir("/proc/self/fd"))
    path = options.pop("candidates", [subject.encode()])
    try:
        started = start(Plan(
            argv or [b"subject", b"fds"], path, fds=options.pop("fds", [(2, 2)]),
            env=options.pop("env", [b"PATH=/bin"]), **options,
        ))
    except OSError as problem:
        found = problem.filename, errno.errorcode[problem.errno]
    else:
        os.read(started.status_fd, 1)
        found = started.failure()
        found = found and (found[0], errno.errorcode[found[1]])
        os.waitpid(started.pid, 0x40000000)
        for fd in (started.pidfd, started.listener, started.status_fd):
            if fd >= 0:
                os.close(fd)
    assert sorted(os.listdir("/proc/self/fd")) == before
    try:
        left = os.waitpid(-1, os.WNOHANG | 0x40000000)
    except ChildProcessError:
        left = None
    assert left is None, left
    return found

"""


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    left = {}
    for fd in set(os.listdir("/proc/self/fd")) - before:
        try:
            left[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass  # the listing itself
    assert not left

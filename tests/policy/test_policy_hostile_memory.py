"""Memory that answers late (userfaultfd) holds up whoever reads it, and nobody else."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.policy import loads

pytestmark = pytest.mark.timeout(60)

#: A program one thread of which passes a pointer into a page of a userfaultfd.  Once somebody has
#: touched that page (the event says so), the main thread makes calls of its own, which must be
#: answered although nobody has given the page its content; only then does it do so.
PROGRAM = """
import ctypes, errno, fcntl, mmap, os, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
uffd = libc.syscall(ctypes.c_long(323), 0o2000000)
assert uffd >= 0, os.strerror(ctypes.get_errno())
fcntl.ioctl(uffd, 0xC018AA3F, bytearray(struct.pack("=QQQ", 0xAA, 0, 0)))
page = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
fcntl.ioctl(uffd, 0xC020AA00, bytearray(struct.pack("=QQQQ", address, 4096, 1, 0)))
content = mmap.mmap(-1, 4096)
content[:len(CONTENT)] = CONTENT
said = []
def call(*arguments):
    result = libc.syscall(*map(ctypes.c_long, arguments))
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]
hostile = threading.Thread(target=lambda: said.append(HOSTILE))
hostile.start()
event = os.read(uffd, 32)
assert event[0] == 0x12 and struct.unpack_from("=Q", event, 16)[0] == address, event
OTHERS
source = ctypes.addressof(ctypes.c_char.from_buffer(content))
fcntl.ioctl(uffd, 0xC028AA03, bytearray(struct.pack("=QQQQq", address, source, 4096, 0, 0)))
hostile.join()
print(*said)
"""


def _userfaultfd() -> bool:
    """Whether we can have memory that makes the kernel itself wait."""
    fd = ctypes.CDLL(None).syscall(ctypes.c_long(323), os.O_CLOEXEC)
    if fd >= 0:
        os.close(fd)
    return fd >= 0 and os.uname().machine == "x86_64"


needs_userfaultfd = pytest.mark.skipif(not _userfaultfd(), reason="takes a userfaultfd of our own")


def run(policy: str, content: bytes, hostile: str, others: str, **options: Any) -> list[str]:
    program = PROGRAM.replace("CONTENT", repr(content)).replace("HOSTILE", hostile)
    rules = loads(policy)
    done = proctor.run(
        [sys.executable, "-S", "-c", program.replace("OTHERS", others)],
        rules.handlers(),
        filter=rules.filter(), capture_output=True, text=True, timeout=30,
        **{**rules.supervisor_options(), **options},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(done.stdout).split()


PPID = '[[rule]]\nname = "quick"\ncalls = ["getppid"]\nreturn = 42\n'
QUICK = "print(call(110))"


@needs_userfaultfd
def test_a_string_condition_waits_alone() -> None:
    said = run(
        PPID + '[[rule]]\nname = "s"\ncalls = ["memfd_create"]\nwhen = { name = "zz*" }\ndeny = "EXDEV"\n'
        '[[rule]]\nname = "rest"\ncalls = ["memfd_create"]\ndeny = "EBADE"\n',
        b"zzz\0", "call(319, address, 0)",
        QUICK + "\nb = ctypes.create_string_buffer(b'yy'); print(call(319, ctypes.addressof(b), 0))",
    )  # fmt: skip
    assert said == ["42", "EBADE", "EXDEV"]


@needs_userfaultfd
def test_an_address_condition_waits_alone() -> None:
    said = run(
        PPID + '[[rule]]\nname = "a"\ncalls = ["connect"]\nwhen = { address = "inet:10.0.0.0/8" }\n'
        'deny = "ENONET"\n[[rule]]\nname = "rest"\ncalls = ["connect"]\ndeny = "EBADE"\n',
        b"\2\0\0\x50\x0a\1\2\3" + bytes(8), "call(42, 0, address, 16)",
        QUICK + "\nb = ctypes.create_string_buffer(b'\\2\\0\\0\\x50\\x7f\\0\\0\\1' + bytes(8))\n"
        "print(call(42, 0, ctypes.addressof(b), 16))",
    )  # fmt: skip
    assert said == ["42", "EBADE", "ENONET"]


@needs_userfaultfd
def test_a_refusal_by_registers_looks_at_no_memory() -> None:
    """Its reason does not show what the pointer leads to, so it does not wait for that."""
    said = run(
        PPID + '[[rule]]\nname = "d"\ncalls = ["mkdir"]\ndeny = "EXDEV"\nreport = true\n',
        b"/x\0", "(said.append(call(83, address, 0)), call(319, address, 0), 'touched')[2]", "print(*said)",
    )  # fmt: skip
    assert said == ["EXDEV", "EXDEV", "touched"]  # the first one before anybody touched the page


@needs_userfaultfd
def test_describing_a_call_for_the_log_waits_alone() -> None:
    @proctor.on("mkdir")
    def refuse(call: proctor.Call) -> proctor.Verdict:
        return proctor.deny(18)

    seen: list[str] = []
    rules = loads(PPID)
    program = PROGRAM.replace("CONTENT", repr(b"/x\0")).replace("HOSTILE", "call(83, address, 0)")
    done = proctor.run(
        [sys.executable, "-S", "-c", program.replace("OTHERS", QUICK)],
        [refuse, *rules.handlers()], filter=rules.filter(extra_notify=[refuse]),
        capture_output=True, text=True, timeout=30,
        observers=[proctor.outcomes(lambda outcome: seen.append(outcome.text), text=True)],
    )  # fmt: skip
    assert done.stdout.split() == ["42", "EXDEV"], done.stderr
    assert [line.partition(",")[0] for line in sorted(seen)] == ["getppid()", 'mkdir("/x"']


@needs_userfaultfd
def test_a_deadline_ends_the_wait_for_memory(tmp_path: Path) -> None:
    """The page never gets its content before the call was answered: only the deadline can do it."""
    said = run(
        'deadline = 0.25\non_deadline = "ETIME"\n' + PPID
        + '[[rule]]\nname = "s"\ncalls = ["memfd_create"]\nwhen = { name = "zz*" }\ndeny = "EXDEV"\n'
        '[[rule]]\nname = "rest"\ncalls = ["memfd_create"]\ndeny = "EBADE"\n',
        b"zzz\0", "call(319, address, 0)", QUICK + "; hostile.join()",
    )  # fmt: skip
    assert said == ["42", "ETIME"]

"""A monitor that dies when its caller has the descriptor, and was not told: the next one tells it, and gives nothing more."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

import proctor
from proctor.kernel.journal import Journal
from proctor.kernel.launch import launch
from proctor.kernel.target import Target
from proctor.supervisor.world import KernelWorld

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the monitor's filter is of x86-64"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a program becomes another user"),
]

#: SECCOMP_IOCTL_NOTIF_SEND and SECCOMP_IOCTL_NOTIF_ADDFD of include/uapi/linux/seccomp.h.
_SEND, _ADDFD = 0xC0182101, 0x40182103
#: Performs opens, and dies when it is about to answer the Nth by which something was opened: its own filter kills it at
#: SECCOMP_IOCTL_NOTIF_SEND.
MONITOR = """
import ctypes, os, signal, struct, sys
import proctor
from proctor.kernel.journal import Journal
from proctor.performing import Performers
from proctor.supervisor.world import KernelWorld

listener, journal, last, native = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "native"
libc, left = ctypes.CDLL(None, use_errno=True), [last]

def die_at_the_next_answer():
    steps = (
        (0x20, 0, 0, 0), (0x15, 0, 3, 16), (0x20, 0, 0, 24), (0x15, 0, 1, 0xC0182101), (6, 0, 0, 0x80000000),
        (6, 0, 0, 0x7FFF0000),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    libc.prctl(38, 1, 0, 0, 0)
    # seccomp(2), all threads: who decides may have lost the role, and another one answers
    assert libc.syscall(317, 1, 1, struct.pack("@HP", len(steps), ctypes.addressof(code))) == 0

def decide(call):
    if os.path.exists(call.path):
        left[0] -= 1
        if not left[0]:
            die_at_the_next_answer()
    return proctor.perform()

handler = proctor.Handler(("openat",), decide)
supervisor = proctor.Supervisor([handler], performer=Performers().start(), world=KernelWorld(native=native))
supervisor.add(proctor.Listener(listener), journal=Journal(journal))
supervisor.start()
signal.pause()
"""
PROGRAM = """
import os, sys
WHO
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(6)]
print(len(os.listdir("/proc/self/fd")), held == [*range(held[0], held[0] + 6)])
"""
WHO = {"who is as the monitor": "", "a user": "os.setgroups([]); os.setresuid(1234, 1234, 1234)"}


@pytest.mark.parametrize("last", [1, 12, 21])
@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("engine", ["native", "python"])
def test_what_was_given_is_not_given_again(engine: str, who: str, last: int) -> None:
    command = [sys.executable, "-IS", "-c", PROGRAM.replace("WHO", WHO[who])]
    natively = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert natively.endswith(" True\n")
    rules = proctor.filter_for([proctor.Handler(("openat",), lambda call: None)])
    assert rules is not None
    reader, writer = os.pipe2(os.O_CLOEXEC)
    target = launch(command, program=rules.compile().code, fds=((0, 0), (writer, 1), (2, 2)))
    os.close(writer)
    listener, journal = target.take_listener(), Journal.create(64)
    try:
        fds = listener, journal.fileno()
        done = subprocess.run(
            [sys.executable, "-c", MONITOR, *map(str, fds), str(last), engine],
            pass_fds=fds, check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGSYS
        (left,) = journal.pending()
        assert left.given is not None
        with proctor.Supervisor(world=KernelWorld(native=engine == "native")) as supervisor:
            mine, listener = proctor.Listener(listener), -1
            supervisor.add(mine, journal=journal)
            supervisor.start()
            with open(reader) as out:
                assert out.read() == natively
            assert target.wait(30) == 0
        assert not list(journal.pending())
    finally:
        target.kill()
        target.close()
        journal.close()
        if listener >= 0:
            os.close(listener)


#: As above, where rules about paths decide; it dies at its first request of some kind (of ioctl(2)) after the program said
#: so, which waits for that.
BY_RULES = """
import ctypes, os, signal, struct, sys
import proctor
from proctor.kernel.journal import Journal
from proctor.performing import Performers
from proctor.policy import loads

policy = loads(sys.argv[3])
supervisor = proctor.Supervisor(policy.handlers(), performer=Performers().start())
supervisor.add(proctor.Listener(int(sys.argv[1])), journal=Journal(int(sys.argv[2])))
supervisor.start()
os.read(int(sys.argv[4]), 1)
steps = (
    (0x20, 0, 0, 0), (0x15, 0, 3, 16), (0x20, 0, 0, 24), (0x15, 0, 1, int(sys.argv[6])), (6, 0, 0, 0x80000000),
    (6, 0, 0, 0x7FFF0000),
)
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
assert libc.syscall(317, 1, 1, struct.pack("@HP", len(steps), ctypes.addressof(code))) == 0  # seccomp, all threads
os.write(int(sys.argv[5]), b".")
signal.pause()
"""
RULES = """
version = 1
[[rule]]
name = "none of these"
calls = ["openat"]
when = { path = ["/nowhere/**"] }
deny = "EXFULL"
[[rule]]
name = "all others"
calls = ["openat"]
perform = true
"""
MAKES = "os.O_CREAT | os.O_EXCL"
MAKER = """
import os, sys
top = sys.argv[1]
for _ in range(300):  # until the core has all that it wants for it
    os.close(os.open(sys.executable, os.O_RDONLY))
held = [os.open(f"{top}/{i}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600) for i in range(3)]
os.write(int(sys.argv[2]), b".")
os.read(int(sys.argv[3]), 1)
held += [os.open(f"{top}/{i}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600) for i in range(3, 6)]
print(held == [*range(held[0], held[0] + 6)], sorted(os.listdir(top)))
"""


@contextmanager
def made_by_rules(
    directory: Path, dies_at: int, flags: str = MAKES
) -> Iterator[tuple[Target, Journal, int, TextIO]]:
    """What makes files there, as rules have it, whose monitor has died; the journal and the listener (the taker's), and what it
    prints."""
    (ready, say), (go_on, let) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    rules = proctor.filter_for([proctor.Handler(("openat",), lambda call: None)])
    assert rules is not None
    target = launch(
        [sys.executable, "-IS", "-c", MAKER.replace(MAKES, flags), str(directory), "3", "4"],
        program=rules.compile().code,
        fds=((0, 0), (writer, 1), (2, 2), (say, 3), (go_on, 4)),
    )
    os.close(writer)
    listener, journal = target.take_listener(), Journal.create(64)
    try:
        fds = *map(str, (listener, journal.fileno())), RULES, *map(str, (ready, let, dies_at))
        done = subprocess.run(
            [sys.executable, "-c", BY_RULES, *fds],
            pass_fds=(listener, journal.fileno(), ready, let), check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGSYS
        with open(reader) as out:
            yield target, journal, listener, out
    finally:
        target.kill()
        target.close()
        journal.close()
        for fd in (ready, say, go_on, let):
            os.close(fd)


@pytest.mark.parametrize("again", range(3))  # whoever loses the role gives it in another way
def test_what_rules_had_made_is_not_made_again(tmp_path: Path, again: int) -> None:
    with made_by_rules(tmp_path, _SEND) as (target, journal, listener, out):
        mine = proctor.Listener(listener)
        (left,) = journal.pending()
        assert left.given is not None
        with proctor.Supervisor(world=KernelWorld()) as supervisor:
            supervisor.add(mine, journal=journal)
            supervisor.start()
            assert out.read() == "True ['0', '1', '2', '3', '4', '5']\n"
            assert target.wait(30) == 0


@pytest.mark.parametrize("flags", [MAKES, "os.O_TRUNC", "os.O_CREAT | os.O_TRUNC"])
def test_of_what_was_made_and_not_given_the_journal_knows(tmp_path: Path, flags: str) -> None:
    """Or truncated: somebody else may have written to it since."""
    for name in "" if flags == MAKES else "012345":
        (tmp_path / name).write_text("content")
    with (
        made_by_rules(tmp_path, _ADDFD, flags) as (_, journal, listener, _),
        proctor.Listener(listener),
    ):
        done = [each.name for each in tmp_path.iterdir() if not each.stat().st_size]
        assert sorted(done) == ["0", "1", "2", "3"]
        (left,) = journal.pending()
        assert left.performing

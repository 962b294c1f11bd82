"""Calls that change something, while the monitors that have them performed are killed: each is done, and done once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.clients import hand_over
from tests.agent.running import RunningAgent

Start = Callable[..., RunningAgent]

CALLS = (
    "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "symlink", "symlinkat", "link",
    "linkat", "chmod", "fchmodat", "fchmodat2", "mknod", "mknodat", "setxattr", "removexattr", "connect", "sendto", "sendmsg",
    "sendmmsg", "open", "openat",
)  # fmt: skip
PERFORMED = f"""
default = "allow"
[[rule]]
name = "changes"
calls = [{", ".join(f'"{each}"' for each in CALLS)}]
perform = true
"""
#: Several threads that make, move and remove names, each of them their own, so that a call that is done twice fails, and so
#: does the next one after a call that is not done.  What fails is written down; rounds are, too.
STORM = """
import ctypes, os, socket, stat, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
place, rounds = sys.argv[1], int(sys.argv[2])
done = os.open(place + ".done", os.O_WRONLY)
root = os.geteuid() == 0
odd = []
def does(what, *words):
    try:
        what(*words)
    except OSError as problem:
        odd.append(f"{what.__name__} {problem.errno} {words}")
def empty(receive):
    try:
        receive()
    except BlockingIOError:
        return
    raise OSError(0, "twice")
def sends(what):
    if what() != 1:
        raise OSError(0, "sent")
def sends_several(sock):
    data = ctypes.create_string_buffer(b"x")
    vector = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(data), 1))
    header = struct.pack("PIPNPNi4xI4x", 0, 0, ctypes.addressof(vector), 1, 0, 0, 0, 77)
    headers = ctypes.create_string_buffer(header)
    if libc.sendmmsg(sock.fileno(), headers, 1, 0) != 1:
        raise OSError(ctypes.get_errno(), "sent")
    if headers[56] != b"\\1":
        raise OSError(0, "length")
def connects(server, family, blocks):
    with socket.socket(family) as one:
        one.setblocking(blocks)
        try:
            one.connect(server.getsockname())
        except BlockingIOError:
            pass
        server.setblocking(True)
        server.accept()[0].close()
        server.setblocking(False)
        empty(server.accept)
def opens(name):
    for flags in (os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC):
        fd = os.open(name, os.O_WRONLY | flags, 0o600)
        if os.fstat(fd).st_size or os.write(fd, b"more") != 4:
            raise OSError(0, "no such file")
        os.close(fd)
def storm(number):
    at = f"{place}/{number}."
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.setblocking(False)
    far = socket.create_server(("127.0.0.1", 0))
    near = socket.socket(socket.AF_UNIX)
    near.bind(""), near.listen()
    for _ in range(rounds):
        does(os.mkdir, at + "d")
        does(os.rename, at + "d", at + "e")
        does(os.chmod, at + "e", 0o700)
        does(os.rmdir, at + "e")
        does(os.mknod, at + "n", 0o600 | (stat.S_IFCHR if root else stat.S_IFIFO), os.makedev(1, 3) if root else 0)
        does(os.link, at + "n", at + "m")
        does(os.unlink, at + "n")
        does(os.unlink, at + "m")
        does(os.symlink, "nowhere", at + "l")
        does(os.unlink, at + "l")
        does(opens, at + "f"), does(os.unlink, at + "f")
        does(sends, lambda: one.send(b"x"))
        does(sends, lambda: one.sendmsg([b"x"]))
        does(sends_several, one)
        does(other.recv, 9), does(other.recv, 9), does(other.recv, 9), does(empty, lambda: other.recv(9))
        does(connects, far, socket.AF_INET, False)
        does(connects, near, socket.AF_UNIX, True)
        os.write(done, b".")
before = len(os.listdir("/proc/self/fd"))
threads = [threading.Thread(target=storm, args=(number,)) for number in range(4)]
for each in threads: each.start()
for each in threads: each.join()
if len(os.listdir("/proc/self/fd")) > before:
    odd.append("descriptors that nobody knows of")
with open(place + "/said", "w") as file:
    file.write("\\n".join(odd))
"""
#: Calls of a round, and rounds for so many calls as are wanted.
EACH = 4 * 19
ROUNDS = int(os.environ.get("PROCTOR_STORM", "800")) // EACH
#: Rounds of all threads after each of which a monitor is killed.
AFTER = max(1, 4 * ROUNDS // 4)


@pytest.mark.parametrize("spare", [False, True])
def test_each_change_is_made_once_whoever_is_killed(agent: Start, place: Path, spare: bool) -> None:
    """Nobody sees EINTR, nor what a call that is done twice would say."""
    (place / "policies/default.toml").write_text(PERFORMED)
    running = agent(spare=spare)
    names = tuple(set(CALLS))
    storm = place / "storm"
    storm.mkdir()
    words = sys.executable, "-c", STORM, str(storm), str(ROUNDS)
    os.mkfifo(done := str(storm) + ".done")
    deaths = 0
    with hand_over(running.socket, "storm", *words, names=names) as target:
        running.heard("served")
        with open(done, "rb") as rounds:
            while len(rounds.read(AFTER)) == AFTER:
                os.kill(running.serving, signal.SIGKILL)
                deaths += 1
                running.heard("took over", deaths)
        assert target.wait(100) == 0
    assert (storm / "said").read_text() == "" and os.listdir(storm) == ["said"]
    assert deaths > 1

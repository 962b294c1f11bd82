"""Nothing of the monitor's or an executor's is to be seen by a caller whose call was answered."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, errno, fcntl, os, select, sys
TRIES, MOUNTS = 300, 40  # the kernel takes its time over unmounting
here = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)

def can(what, *arguments):
    try:
        what(*arguments)
    except OSError:
        return False
    return True

def tree(name, fstype=b"tmpfs"):
    place = os.path.join(here, name).encode()
    if libc.mount(b"none", place, fstype, 0, None):
        raise OSError(ctypes.get_errno(), "mount")
    return place

def taken_away(place):
    done = libc.umount2(place, 0) == 0
    return done or libc.umount2(place, 2) != 0  # MNT_DETACH

def made(name, content=b""):
    path = os.path.join(here, name)
    with open(path, "wb") as file:
        file.write(content)
    return path

late = dict.fromkeys(("reader", "writer", "lock", "lease", "exec", "umount", "dirfd"), 0)
os.mkfifo(os.path.join(here, "fifo"))
fifo, file = os.path.join(here, "fifo"), made("file")
reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
polled = select.poll()
polled.register(writer, select.POLLOUT)
os.close(reader)
for _ in range(TRIES):
    os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
    late["reader"] += polled.poll(0)[0][1] & select.POLLERR == 0
os.close(writer)
reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
polled = select.poll()
polled.register(reader, select.POLLIN)
for _ in range(TRIES):
    os.close(os.open(fifo, os.O_WRONLY))
    late["writer"] += [event for _, event in polled.poll(0)] != [select.POLLHUP]
kept = os.open(file, os.O_RDONLY)
for _ in range(TRIES):
    locks = os.open(file, os.O_RDONLY)
    fcntl.flock(locks, fcntl.LOCK_EX)
    os.close(locks)
    late["lock"] += not can(fcntl.flock, kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(kept, fcntl.LOCK_UN)
for _ in range(TRIES):
    os.close(os.open(file, os.O_RDONLY))
    late["lease"] += not can(fcntl.fcntl, kept, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    fcntl.fcntl(kept, fcntl.F_SETLEASE, fcntl.F_UNLCK)
for _ in range(TRIES):  # what keeps a program from being run keeps a lease from being had
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700))
    late["exec"] += not can(fcntl.fcntl, kept, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    fcntl.fcntl(kept, fcntl.F_SETLEASE, fcntl.F_UNLCK)
os.close(kept)
os.mkdir(os.path.join(here, "mnt"))
for _ in range(MOUNTS):
    place = tree("mnt")
    os.close(os.open(place, os.O_RDONLY))
    late["umount"] += not taken_away(place)
for _ in range(MOUNTS):
    place = tree("mnt")
    made("mnt/file")
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    os.close(os.open("file", os.O_RDONLY, dir_fd=directory))
    os.close(directory)
    late["dirfd"] += not taken_away(place)
print(late)
"""

MONITOR = """
import os, sys
import proctor

name, rule, program, place = sys.argv[1:]
identity = {"own": {}, "other": {"userns": [(0, 0, 65536)], "namespaces": ("mnt",)}}[name]

@proctor.on("openat")
def performs(call):
    return proctor.perform(lambda argument, path: True) if rule == "rule" else proctor.perform()

done = proctor.run([sys.executable, "-Ic", program, place], [performs], **identity)
sys.exit(done.returncode)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("rule", ["", "rule"])
@pytest.mark.parametrize("identity", ["own", "other"])
def test_the_last_to_close_is_the_caller(identity: str, rule: str, top: bytes) -> None:
    """Ends of FIFOs, locks, leases, programs just written, file systems."""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", MONITOR]
    done = subprocess.run(
        [*command, identity, rule, PROGRAM, os.fsdecode(top)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    late: dict[str, int] = eval(done.stdout)
    assert not any(late.values()), late

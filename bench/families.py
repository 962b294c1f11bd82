"""What calls of the container families cost, beside the same calls of real root.

One program in Python makes each call many times and tells medians: as root of the host in a mount namespace of
its own, and as root of a container whose calls are performed; in turns.  Figures are kept in
docs/benchmarks.md.

    python bench/families.py [--rounds N] [--only mknod,mount]

Wants root, loop devices and mkfs.ext4.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import proctor
from proctor import families

MAP = [(0, 100000, 65536)]
#: One that every user can run.
PYTHON = "/usr/bin/python3"

#: Each with its own handlers: what others are performed for its sake would be counted, too.
KINDS = ("container", "others", "programs")
PROGRAM = """
import ctypes, fcntl, json, os, statistics, struct, sys, time
place, disk, which, only = sys.argv[1], sys.argv[2].encode(), sys.argv[3], sys.argv[4:]
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(place)
took = {}
def times(what, count, call, undo=lambda number: None, among="others"):
    if among != which or (only and what not in only):
        return
    found = []
    for number in range(count):
        begun = time.perf_counter()
        bad = call(number)
        found.append(time.perf_counter() - begun)
        if bad:
            raise OSError(ctypes.get_errno(), what)
        undo(number)
    took[what] = statistics.median(found) * 1e6
name = lambda number: "file" if number % 2 == 0 else "renamed"
libc.mount(b"none", b"/", None, 0x44000, None)
node = lambda number: os.mknod(f"node{number}", 0o20666, os.makedev(1, 3))
times("mknod", 400, node, lambda number: os.unlink(f"node{number}"), among="container")
os.mkdir("dir")
mark = "trusted.overlay.opaque"
times("setxattr", 400, lambda number: os.setxattr("dir", mark, b"y"), among="container")
times("getxattr", 400, lambda number: os.getxattr("dir", mark) != b"y", among="container")
times("listxattr", 400, lambda number: mark not in os.listxattr("dir"), among="container")
open("dir/file", "w").close()
times("rename", 400, lambda number: os.rename(f"dir/{name(number)}", f"dir/{name(number + 1)}"))
times("chmod", 400, lambda number: os.chmod("dir/file", 0o600 | number % 8))
times("stat", 400, lambda number: os.stat("dir/file").st_size)
times("access", 400, lambda number: not os.access("dir/file", os.R_OK))
os.symlink("file", "dir/link")
times("readlink", 400, lambda number: os.readlink("dir/link") != "file")
os.remove("dir/link")
back = lambda number: os.setpriority(os.PRIO_PROCESS, 0, 0)
times("setpriority to -5", 400, lambda number: os.setpriority(os.PRIO_PROCESS, 0, -5), back)
flagged = os.open("dir/file", os.O_RDONLY)
(flags,) = struct.unpack("=i4x", fcntl.ioctl(flagged, 0x80086601, bytes(8)))
def append(number):  # FS_IOC_SETFLAGS, FS_APPEND_FL
    fcntl.ioctl(flagged, 0x40086602, struct.pack("=i4x", flags | 0x20 * (number % 2 == 0)))
times("append-only, on or off", 400, append)
os.close(flagged)
event = ctypes.create_string_buffer(struct.pack("=IIQ", 1, 128, 1), 128)  # task-clock
opened = []
def count(number):
    opened.append(libc.syscall(298, event, 0, -1, -1, ctypes.c_ulong(8)))
    return opened[-1] < 0
times("perf_event_open", 200, count, lambda number: os.close(opened.pop()))
program = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xb7, 0, 0, 1, 0x95, 0, 0, 0))
license = ctypes.create_string_buffer(b"GPL")
load = struct.pack("=IIQQIIQII16sII", 15, 2, ctypes.addressof(program), ctypes.addressof(license), 0, 0, 0, 0, 0, b"", 0, 6)
def loaded(number):
    opened.append(libc.syscall(321, 5, ctypes.create_string_buffer(load, len(load)), len(load)))
    return opened[-1] < 0
times("bpf, a device program", 100, loaded, lambda number: os.close(opened.pop()))
room = ctypes.create_string_buffer(512)
times("a constant, by a handler", 400, lambda number: libc.getppid() < 0)
flushed = os.open("dir/file", os.O_RDWR)
times("fsync", 400, lambda number: os.fsync(flushed))
os.close(flushed)
times("getrandom, seeded", 400, lambda number: len(os.getrandom(16)) != 16)
words = (ctypes.c_char_p * 3)(b"true", b"refused", None)
def refused(number):
    return libc.execve(b"/dev/null", words, None) == 0  # natively, too: EACCES
times("execve, refused by its words", 400, refused, among="programs")
times("sysinfo", 400, lambda number: libc.sysinfo(room))
times("uname", 400, lambda number: libc.uname(room))
run = lambda number: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1]
times("a program run, by its words", 100, run, among="programs")
os.unlink("dir/file")
mount = lambda number: libc.mount(disk, b"dir", b"ext4", 0, None)
times("mount", 20, mount, lambda number: libc.umount2(b"dir", 0), among="container")
libc.mount(b"dev", b"dir", b"tmpfs", 0, None)
os.chdir("dir")
times("mknod on a tmpfs of its own", 40, node, among="container")
os.chdir(place)
libc.umount2(b"dir", 2)
os.rmdir("dir")
print(json.dumps(took))
"""
CONSTANT = "a constant, by a handler"
#: What is wanted of it, in words, and from microseconds: native, performed, and of the constant.
WANTED = {
    "mknod": ("≤ 100 µs", lambda native, ours, constant: ours <= 100),
    "setxattr": ("≤ 100 µs", lambda native, ours, constant: ours <= 100),
    "mount": ("≤ 1.3x + 1 ms", lambda native, ours, constant: ours <= 1.3 * native + 1000),
    "sysinfo": ("≤ 1.5x of the constant", lambda native, ours, constant: ours <= 1.5 * constant),
    "fsync": ("≤ the constant", lambda native, ours, constant: ours <= constant),
    "execve, refused by its words": ("≤ 60 µs", lambda native, ours, constant: ours <= 60),
}


@proctor.on("getppid")
def constant(call: proctor.Call) -> proctor.Verdict:
    """What costs least of all that a handler says."""
    return proctor.answer(1)


@proctor.on("execve")
def refuse(call: proctor.Call) -> proctor.Verdict | None:
    """Decide by the words."""
    return proctor.deny(1) if b"refused" in call.args.argv else None


def natively(place: str, disk: str, which: str, *only: str) -> Mapping[str, float]:
    command = ["unshare", "-m", PYTHON, "-ISc", PROGRAM, place, disk, which, *only]
    done = subprocess.run(command, capture_output=True, check=True)
    found: Mapping[str, float] = json.loads(done.stdout)
    return found


def performed(place: str, disk: str, which: str, *only: str) -> Mapping[str, float]:
    container = [
        families.mknod(),
        families.xattr(),
        families.mount(filesystems=["ext4"], devices=[disk]),
    ]
    others = [
        families.names(),
        families.attributes(),
        families.stat(),
        families.scheduling(nice=-5),
        families.fsflags(flags=["append"], when={"op": ["FS_IOC_SETFLAGS"]}),
        families.perf(events=["task-clock"]),
        families.bpf(),
        families.resources(release="6.1.0", seed="bench"),
        families.quiet(),
        constant,
    ]
    # a program makes calls of its own when it begins
    handlers = {"container": container, "others": others, "programs": [refuse, families.exec()]}
    done = proctor.run(
        [PYTHON, "-ISc", PROGRAM, place, os.path.join(place, "disk"), which, *only],
        handlers[which], userns=MAP, namespaces=["mnt"], capture_output=True, check=True,
    )  # fmt: skip
    found: Mapping[str, float] = json.loads(done.stdout)
    return found


def compare(rounds: int, only: Sequence[str] = ()) -> dict[str, tuple[float, float]]:
    """Medians (native, performed) of each call, in microseconds.

    :param only: calls by their names; all, if there are none."""
    both = natively, performed
    place = tempfile.mkdtemp(dir="/var/tmp", prefix="families-")
    disk = ""
    try:
        os.chmod(place, 0o755)
        os.chown(place, 100000, 100000)
        image = os.path.join(place, "image")
        with open(image, "wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        done = subprocess.run(
            ["losetup", "-f", "--show", image], capture_output=True, text=True, check=True
        )
        disk = done.stdout.strip()
        node = os.path.join(place, "disk")
        os.mknod(node, 0o60600, os.stat(disk).st_rdev)
        os.chown(node, 100000, 100000)
        turns: list[Any] = [
            tuple(
                [
                    {
                        name: took
                        for each in KINDS
                        for name, took in run(place, disk, each, *only).items()
                    }
                    for run in both
                ]
            )
            for _ in range(rounds)
        ]
    finally:
        if disk:
            subprocess.run(["losetup", "-d", disk], check=True)
        shutil.rmtree(place)
    return {
        name: (
            statistics.median(native[name] for native, _ in turns),
            statistics.median(ours[name] for _, ours in turns),
        )
        for name in turns[0][0]
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="calls, with commas between them")
    given = parser.parse_args()
    print(f"{'call':<30} {'natively':>12} {'performed':>12}  wanted")
    only = [each for each in given.only.split(",") if each]
    # what is wanted of others is said of the constant
    found = compare(given.rounds, [*only, CONSTANT] if only else ())
    _, least = found.get(CONSTANT, (0.0, 0.0))
    for name, (native, ours) in found.items():
        words, good = WANTED.get(name, ("", lambda native, ours, constant: True))
        holds = "" if good(native, ours, least) else ": missed"
        print(f"{name:<30} {native:>9.1f} µs {ours:>9.1f} µs  {words}{holds}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

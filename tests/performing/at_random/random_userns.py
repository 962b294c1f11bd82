"""A program that calls unshare and clone with flags at random, and prints what came of it: run natively, and counted.

argv: seed, how many.
"""

import ctypes
import errno
import os
import random
import sys

libc = ctypes.CDLL(None, use_errno=True)
USER = 0x10000000
#: CLONE_FS, FILES, NEWNS, NEWUTS, NEWIPC, NEWNET, NEWPID, NEWCGROUP, NEWTIME, SYSVSEM, VM, SIGHAND, THREAD, and such that mean nothing.
FLAGS = [0x200, 0x400, 0x20000, 0x4000000, 0x8000000, 0x40000000, 0x20000000, 0x2000000, 0x80, 0x40000, 0x100, 0x800, 0x10000, 1 << 33, 0x8000, 0x1]  # fmt: skip
KINDS = ("user", "mnt", "uts", "ipc", "net", "pid_for_children", "cgroup")


def seen():
    return [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in KINDS]


def code(result):
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]


def main():
    seed, count = sys.argv[1:]
    draw = random.Random(seed)
    for number in range(int(count)):
        flags = USER if draw.random() < 0.7 else 0
        for _ in range(draw.choice([0, 1, 1, 2, 3])):
            flags |= draw.choice(FLAGS)
        call = draw.choice(["unshare", "unshare", "clone", "setns"])
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        before = seen()
        ctypes.set_errno(0)
        if call == "unshare":
            result = code(libc.unshare(ctypes.c_ulong(flags)))
        elif call == "setns":
            kind = draw.choice(KINDS[:6])
            fd = os.open(f"/proc/self/ns/{kind}".replace("pid_for_children", "pid"), os.O_RDONLY)
            result = code(
                libc.setns(
                    draw.choice([fd, fd, 999]),
                    ctypes.c_int(draw.choice([0, flags & 0x7FFFFFFF, USER])),
                )
            )
        else:  # without what shares memory, of which nobody would be left to tell
            flags = flags & ~0x100
            made = libc.syscall(56, ctypes.c_ulong(flags | 17), 0, 0, 0, 0)
            if made == 0:
                print(
                    number,
                    "child",
                    [one != other for one, other in zip(before, seen(), strict=True)],
                    flush=True,
                )
                os._exit(0)
            if made > 0:
                os.waitpid(made, 0)
                made = 1
            result = code(made)
        with open("/proc/self/status") as file:
            rights = next(line.split()[1] for line in file if line.startswith("CapEff"))
        print(
            number,
            call,
            hex(flags),
            result,
            [one != other for one, other in zip(before, seen(), strict=True)],
            os.getuid(),
            rights,
            flush=True,
        )
        os._exit(0)


main()

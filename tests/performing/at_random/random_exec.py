"""A program that executes at random, and prints what came of each: run natively, and performed.

argv: seed, how many, 64 or 32 (whose numbers and structures), the id to have, and a directory with ``said``, a static program that
tells what it was given.
"""

import ctypes
import errno
import os
import random
import shutil
import struct
import sys

from bad_arguments import Memory, int80, plain

AT_FDCWD, EMPTY_PATH, NOFOLLOW, CHECK = -100, 0x1000, 0x100, 0x10000
NUMBERS = {64: {"execve": 59, "execveat": 322}, 32: {"execve": 11, "execveat": 358}}
SCRIPTS = {
    "script": b"#!./said  an argument \nand more", "blank": b"#! \t./said\n", "nothing": b"#!\n", "missing-it": b"#!/missing\n",
    "dir-it": b"#!.\n", "no-right-it": b"#!./no-right\n", "self-it": b"#!./self-it\n", "busy-it": b"#!./busy\n", "fifo-it": b"#!./fifo\n",
    "link-it": b"#!./link x", "loop-it": b"#!loop\n", "long-it": b"#!" + b"x" * 300, "unreadable-it": b"#!./unreadable\n",
    "locked-it": b"#!./locked/said\n", "empty-it": b"#!./empty\n", "text-it": b"#!./text\n", "zero-it": b"#!./said\0more\n",
    **{f"deep{at}": b"#!./deep%d %d\n" % (at + 1, at) for at in range(6)}, "deep6": b"#!./said\n", "text": b"echo shell\n", "empty": b"",
}  # fmt: skip
PATHS = [
    *SCRIPTS, "said", "said", "said", "script", "script", "./said", "dir/../said", "no-right", "unreadable", "unreadable-script", "busy",
    "busy-script", "busy-missing-it", "dir", "dir/", "said/", "said/x", "fifo", "link", "link-script", "loop", "dangling", "missing",
    "locked/said", "set-id", "", ".", "x" * 256, "./" * 2100 + "said",
]  # fmt: skip


def tree():
    os.mkdir("dir")
    os.mkfifo("fifo")
    os.chmod("fifo", 0o755)
    for name, data in SCRIPTS.items():
        with open(name, "wb") as file:
            file.write(data)
        os.chmod(name, 0o755)
    for name in ("no-right", "unreadable", "busy", "set-id"):
        shutil.copy("said", name)
    for name, of in (
        ("unreadable-script", "script"),
        ("busy-script", "script"),
        ("busy-missing-it", "missing-it"),
    ):
        shutil.copy(of, name)
    os.mkdir("locked")
    shutil.copy("said", "locked/said")
    for name, target in (
        ("link", "said"),
        ("link-script", "script"),
        ("loop", "loop"),
        ("dangling", "missing"),
    ):
        os.symlink(target, name)
    for name, mode in (
        ("no-right", 0o644), ("unreadable", 0o111), ("unreadable-script", 0o111), ("busy", 0o755), ("busy-script", 0o755),
        ("busy-missing-it", 0o755), ("set-id", 0o6755), ("locked", 0o700),
    ):  # fmt: skip
        os.chmod(name, mode)


def descriptors():
    for number, (name, flags) in enumerate((
        ("said", os.O_PATH), ("said", os.O_RDONLY), ("script", os.O_RDONLY), ("script", os.O_PATH), (".", os.O_PATH),
        ("dir", os.O_RDONLY), ("link", os.O_PATH | os.O_NOFOLLOW), ("fifo", os.O_PATH), ("busy-script", os.O_PATH),
    ), 70):  # fmt: skip
        held = os.open(name, flags)
        os.dup2(held, number, inheritable=True)
        os.dup2(held, number + 20, inheritable=False)
        os.close(held)
    return [os.open(name, os.O_WRONLY) for name in ("busy", "busy-script", "busy-missing-it")]


class Draw:
    def __init__(self, seed, bits):
        self.chance = random.Random(seed)
        self.memory = Memory()
        self.word = "Q" if bits == 64 else "I"
        self.bits = bits

    def nowhere(self):
        return self.chance.choice([0, 1, self.memory.end, self.memory.end - 1])

    def path(self):
        if self.chance.random() < 0.04:
            return self.nowhere()
        return self.memory.put(
            self.chance.choice(PATHS).encode() + b"\0", edge=self.chance.random() < 0.1
        )

    def words(self):
        kind = self.chance.random()
        if kind < 0.1:
            return self.nowhere()
        some = [b"a", b"", b"two words", b"x" * 3000, b"y" * 200]
        texts = [self.chance.choice(some) for _ in range(self.chance.choice([0, 1, 1, 2, 5]))]
        if kind < 0.14:
            texts += [b"much " * 4000] * self.chance.choice([1, 9])
        ends, data = [], b""
        for text in texts:
            ends.append(len(data))
            data += text + b"\0"
        room = (len(texts) + 1) * 8
        where = (
            self.memory.put(bytes(room) + data)
            if len(data) < 8000
            else self.large(bytes(room) + data)
        )
        pointers = [where + room + at for at in ends]
        if pointers and kind > 0.95:
            pointers[self.chance.randrange(len(pointers))] = self.chance.choice(
                [1, self.memory.end]
            )
        packed = struct.pack(f"={len(pointers) + 1}{self.word}", *pointers, 0)
        ctypes.memmove(where, packed, len(packed))
        if kind > 0.92 and pointers and kind < 0.95:  # which no NULL ends
            return self.memory.put(packed[: -struct.calcsize(self.word)], edge=True)
        return where

    def large(self, data):
        where = self.memory.end - 20 * 4096
        data = data[: 19 * 4096 - 1] + b"\0"
        ctypes.memmove(where, data, len(data))
        return where

    def call(self):
        if self.chance.random() < 0.5:
            return "execve", [self.path(), self.words(), self.words()]
        number = self.chance.choice(
            [AT_FDCWD] * 6 + [*range(70, 79)] * 2 + [*range(90, 99)] * 2 + [999, -1]
        )
        flags = self.chance.choice(
            [
                0,
                0,
                EMPTY_PATH,
                EMPTY_PATH,
                EMPTY_PATH,
                NOFOLLOW,
                NOFOLLOW | EMPTY_PATH,
                CHECK,
                CHECK | EMPTY_PATH,
                0x40,
            ]
        )
        path = (
            self.memory.put(b"\0")
            if flags & EMPTY_PATH and self.chance.random() < 0.7
            else self.path()
        )
        return "execveat", [number, path, self.words(), self.words(), flags]


def main():
    seed, count, bits, user, top = sys.argv[1:]
    os.chdir(top)
    tree()
    if int(user):
        os.setresgid(int(user), int(user), int(user))
        os.setresuid(int(user), int(user), int(user))
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable, as after an execve
    writers = descriptors() if not int(user) else []
    draw = Draw(int(seed), int(bits))
    make = int80() if bits == "32" else plain
    for place in range(int(count)):
        name, args = draw.call()
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            for number in writers:
                os.set_inheritable(number, False)
            os.dup2(theirs, 1)
            os.dup2(theirs, 2)
            result = make(NUMBERS[int(bits)][name], args)
            os.write(1, (errno.errorcode.get(-result) or str(result)).encode())
            os._exit(0)
        os.close(theirs)
        with open(ours, "rb") as file:
            said = file.read()
        _, status = os.waitpid(child, 0)
        shown = [hex(each & 0xFFFFFFFFFFFFFFFF) for each in args]
        at = args[0] if name == "execve" else args[1]
        path = (
            ctypes.string_at(at, 40).split(b"\0")[0]
            if draw.memory.good <= at < draw.memory.end - 40
            else at
        )
        print(place, name, path, *shown, status, said[:600], flush=True)
    del writers


main()

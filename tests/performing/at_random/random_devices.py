"""A program that loads, attaches and detaches device programs at random, and prints what came of each call and which devices can be
opened then: run natively, and performed.

argv: seed, how many, a cgroup of its own, whether the rights that take it are to be dropped to those that are lent.
"""

import ctypes
import errno
import mmap
import os
import random
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
LOAD, ATTACH, DETACH, QUERY = 5, 8, 9, 16
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom")


def insn(code, registers=0, offset=0, value=0):
    return struct.pack("=BBhi", code, registers, offset, value)


END = insn(0x95)
REFUSE, LET = insn(0xB7) + END, insn(0xB7, value=1) + END


def unless(minor, otherwise):
    """Refuse a minor number: r1[8] is the minor."""
    return insn(0x61, 0x12, 8) + insn(0x55, 2, 2, minor) + REFUSE + otherwise


#: What the verifier takes, and what it does not.
GOOD = [
    REFUSE,
    LET,
    unless(3, LET),
    unless(5, LET),
    unless(7, unless(3, LET)),
    insn(0x18, 0) + insn(0, value=0) + insn(0xB7, value=1) + END,
]
BAD = [
    END, insn(0xB7), insn(0x79, 0x10) + END, insn(0x61, 0x10, 400) + END, insn(0x05, 0, -1) + END, insn(0xFF) + END, insn(0xB7, 11) + END,
    insn(0xBF, 0x10) + END, insn(0x18) + END, insn(0x05, 0, 9) + END, insn(0xB7, value=7) + END, insn(0x62, 1, 0, 1) + LET,
    insn(0x61, 0xA0, -8) + END, LET + LET, b"\0" * 16, insn(0x37, 0, 0, 0) + END,
]  # fmt: skip


class Machine:
    def __init__(self):
        self.held = mmap.mmap(-1, 1 << 18)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.held))
        libc.mprotect(ctypes.c_void_p(self.start + (1 << 18) - 4096), 4096, 0)
        self.used = 0

    def put(self, data, room=0):
        at = self.used
        self.used += max(len(data), room) + 15 & ~15
        self.held[at : at + max(len(data), room)] = data.ljust(room, b"\0")
        return self.start + at

    def edge(self, data):
        end = len(self.held) - 4096
        self.held[end - len(data) : end] = data
        return self.start + end - len(data)

    def read(self, where, size):
        end = len(self.held) - 4096  # where nothing can be read
        return self.held[where - self.start : min(where - self.start + size, end)]


def bpf(command, where, size):
    ctypes.set_errno(0)
    made = libc.syscall(321, ctypes.c_long(command), ctypes.c_long(where), ctypes.c_long(size))
    return made if made >= 0 else errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno())


def size_of(draw, size, *less):
    return draw.choice([size] * 12 + [size + 8, 200, 4096, 4097, 1 << 31, *less])


def load(machine, draw):
    program = draw.choice(GOOD * 3 + BAD)
    at, licence = (
        machine.put(program),
        machine.put(draw.choice([b"GPL\0", b"\0", b"x" * 126 + b"\0", b"x" * 200])),
    )
    count = len(program) // 8
    level, log_size, log = 0, 0, 0
    odd = draw.random()
    if odd < 0.3:
        level, log_size = (
            draw.choice([1, 1, 2, 4, 7, 0, 8, 1 << 31]),
            draw.choice([4096, 100, 1, 65536, 0, 1 << 31]),
        )
        log = machine.put(b"\xaa" * 65536) if draw.random() < 0.9 else draw.choice([0, 1])
    flags, name, interface, expected = 0, b"device", 0, draw.choice([0, 6, 6, 6, 2, 99])
    for _ in range(draw.choice([0, 0, 0, 0, 1, 1, 2])):
        what = draw.randrange(9)
        if what == 0:
            at = draw.choice([0, 1, machine.edge(program[8:])])
        elif what == 1:
            licence = draw.choice([0, 1, machine.edge(b"GPL"), machine.edge(b"GPL\0")])
        elif what == 2:
            count = draw.choice([0, count - 1, 1 << 31, count + 1])
        elif what == 3:
            flags = draw.choice([1, 2, 3, 1 << 30])
        elif what == 4:
            name = draw.choice([b"", b"a b", b"x" * 15, b"x" * 16, b"\xff", b"dev\0ice", b"a_.b"])
        elif what == 5:
            interface = draw.choice([1, 999])
    attr = struct.pack(
        "=IIQQIIQII16sII",
        15,
        count,
        at,
        licence,
        level,
        log_size,
        log,
        0,
        flags,
        name,
        interface,
        expected,
    )
    attr = attr.ljust(144, b"\0")
    if draw.random() < 0.1:  # log_true_size, which nobody reads
        attr = attr[:140] + b"\xbb" * 4
    size = size_of(draw, draw.choice([72, 120, 144, 144]), 8)
    if draw.random() < 0.05:
        attr = attr.ljust(4000, b"\0") + b"\1" + bytes(95)
    where = (
        draw.choice([0, 1, machine.edge(attr[:100])])
        if draw.random() < 0.05
        else machine.put(attr, 4096)
    )
    made = bpf(LOAD, where, size)
    after = machine.read(where, 144)[140:].hex() if where > 1 and made != "EFAULT" else None
    if level & 4:  # it says how long it took, and is as long as that
        after = None
    said = (
        machine.read(log, 65536).partition(b"\0")[0].rstrip(b"\xaa")
        if log > 1 and made != "EFAULT"
        else b""
    )
    told = (
        program.hex(),
        count,
        at > 1,
        licence > 1,
        level,
        log_size,
        log > 1,
        flags,
        name,
        interface,
        expected,
        size,
    )
    return told, made, after, said


def place(draw, command, targets, programs):
    target, program, replaced = draw.choice(targets), draw.choice(programs), draw.choice(programs)
    if command == ATTACH:
        flags = draw.choice([2] * 8 + [6, 6, 6, 3, 4, 5, 1 << 30, 0, 1])
        if target[0] == "" and flags < 2:  # what is given to a container is not alone its
            flags = 2
    else:
        flags, replaced = draw.choice([0] * 8 + [2, 6, 1]), 0
    revision = draw.choice([0] * 15 + [99])
    kind = 6
    return struct.pack("=IIIIIIQ", target[1] & 0xFFFFFFFF, program[1] & 0xFFFFFFFF, kind, flags, replaced and replaced[1] & 0xFFFFFFFF, 0, revision), (
        target[0], program[0], flags, replaced and replaced[0], revision,
    )  # fmt: skip


def query(machine, draw, target, programs):
    """What is attached, by the names that programs have here."""
    room, how = draw.choice([64, 64, 64, 0, 1, 2]), draw.choice([0] * 12 + [2, 1 << 30])
    ids = draw.choice([machine.put(b"\xaa" * 300)] * 8 + [0, 1])
    size = size_of(draw, draw.choice([64, 64, 32, 28]), 8, 20)
    attr = struct.pack("=IIIIQI4xQQQQ", target[1] & 0xFFFFFFFF, 6, how, 77, ids, room, 0, 0, 0, 99)
    if size < 64:
        attr = attr[:size].ljust(64, b"\0")
    where = machine.put(attr, 4096) if draw.random() < 0.95 else draw.choice([0, 1])
    made = bpf(QUERY, where, size)
    told = struct.unpack("=IIIIQI4xQQQQ", machine.read(where, 64)) if where > 1 else ()
    names = {0xAAAAAAAA: "-"}
    for name, fd in programs:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            names[next(int(line[8:]) for line in file if line.startswith("prog_id"))] = name
    found = struct.unpack("=70I", machine.read(ids, 280)) if ids > 1 else ()
    revision = told[9:] if size >= 64 else ()
    return (
        (target[0], how, room, ids > 1, size),
        made,
        told[3:4],
        told[5:6],
        revision,
        [names.get(each, "?") for each in found[:9]],
    )


def member(own):
    """A process in the innermost cgroup that says which devices it can open."""
    asked, ask = os.pipe()
    told, tell = os.pipe()
    if not os.fork():
        for fd in (ask, told):
            os.close(fd)
        with open(own + "/a/b/cgroup.procs", "w") as file:
            file.write("0")
        while os.read(asked, 1):
            found = b""
            for each in DEVICES:
                try:
                    os.close(os.open(each, os.O_RDONLY))
                    found += b"+"
                except OSError as error:
                    found += b"-" if error.errno == errno.EPERM else b"?"
            os.write(tell, found)
        os._exit(0)
    for fd in (asked, tell):
        os.close(fd)

    def seen():
        os.write(ask, b"?")
        return os.read(told, 99).decode()

    return seen


def lent_alone():
    """Only what is lent: CAP_BPF and CAP_NET_ADMIN, and that it may write in its cgroups."""
    rights = 1 << 39 | 1 << 12 | 1 << 1
    words = (rights & 0xFFFFFFFF, rights & 0xFFFFFFFF, 0, rights >> 32, rights >> 32, 0)
    assert not libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *words))


def main():
    seed, count, own, natively = sys.argv[1:]
    draw, machine = random.Random(seed), Machine()
    if natively == "1":
        lent_alone()
    os.makedirs(own + "/a/b")
    os.mkdir(own + "/gone")
    gone = os.open(own + "/gone", os.O_RDONLY)
    os.rmdir(own + "/gone")
    targets = [
        (name, os.open(own + name, os.O_RDONLY)) for name in ("", "/a", "/a/b") for _ in range(4)
    ]
    targets += [
        ("path", os.open(own + "/a", os.O_PATH)), ("file", os.open(own + "/a/cgroup.procs", os.O_RDONLY)), ("gone", gone),
        ("other", os.open("/", os.O_RDONLY)), ("none", 9999), ("minus", -1),
    ]  # fmt: skip
    others = [("none", 9999), ("cgroup", targets[0][1]), ("other", targets[-3][1]), ("minus", -1)]
    programs = []
    seen = member(own)
    for number in range(int(count)):
        if draw.random() < 0.3 or len(programs) < 2:
            *said, log = load(machine, draw)
            if isinstance(said[1], int):
                programs.append((f"{number}", said[1]))
                said[1] = "fd", os.get_inheritable(said[1])
                if len(programs) > 6:
                    os.close(programs.pop(draw.randrange(6))[1])
            else:
                draw.randrange(6)
            lines = [each for each in log.splitlines() if b" usec" not in each]
            print(number, *said, lines, flush=True)
        elif draw.random() < 0.2:
            print(number, *query(machine, draw, draw.choice(targets), programs), flush=True)
        else:
            command = draw.choice([ATTACH, ATTACH, DETACH])
            known = programs * 4 + others if draw.random() < 0.5 else programs
            attr, said = place(draw, command, targets, known)
            size = size_of(draw, draw.choice([32, 24, 20]))
            if draw.random() < 0.05:
                attr = attr.ljust(4000, b"\0") + b"\1" + bytes(95)
            print(
                number,
                command,
                said,
                size,
                bpf(command, machine.put(attr, 4096), size),
                seen(),
                flush=True,
            )
        machine.used = 0


main()

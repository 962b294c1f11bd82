"""A program that asks a loop device for things at random, and prints what came of each call and what the device is then: run natively,
and performed.

argv: seed, how many rounds, a directory with images (``one``, ``two``, ``odd``) and the device's node (``loop``), and 64, or
32 for calls of i386.
"""

import errno
import fcntl
import os
import platform
import random
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from random_sockets import Machine

SET_STATUS, GET_STATUS = 0x4C02, 0x4C03
SET_FD, CLR_FD, SET_STATUS64, GET_STATUS64, CHANGE_FD = 0x4C00, 0x4C01, 0x4C04, 0x4C05, 0x4C06
SET_CAPACITY, SET_DIRECT_IO, SET_BLOCK_SIZE, CONFIGURE = 0x4C07, 0x4C08, 0x4C09, 0x4C0A
READ_ONLY, AUTOCLEAR, DIRECT_IO = 1, 4, 16
BLKROGET, BLKSSZGET, BLKGETSIZE64 = 0x125E, 0x1268, 0x80081272


#: Before the name in a struct loop_info, and how long it is.
OLD = {
    32: ("=iH2xIH2xiiii", 140),
    64: ("=i4xQQQiiii", 168) if platform.machine() == "x86_64" else ("=iIQIiiii", 160),
}


def old(width, draw, flags):
    """A struct loop_info."""
    form, size = OLD[width]
    offset, kind = (
        draw.choice([0] * 5 + [512, 4096, 100, -1, 1 << 30]),
        draw.choice([0] * 12 + [1, 18, 99, -1]),
    )
    key, name = (
        draw.choice([0] * 9 + [8, 32, 33, -1]),
        draw.choice([b"", b"name", b"x" * 63, b"x" * 64]),
    )
    flags = flags - (1 << 32) if flags >> 31 else flags
    made = struct.pack(form, 7, 1, 2, 3, offset, kind, key, flags) + name
    return made.ljust(size, b"\0"), (offset, kind, key, flags, name)


def seen_old(width, data):
    """What of one is the same wherever it is."""
    form, _ = OLD[width]
    number, device, inode, _, *rest = struct.unpack_from(form, data)
    end = struct.calcsize(form)
    return (
        device > 0,
        inode > 0,
        number,
        rest,
        data[end : end + 64].rstrip(b"\0"),
        data[end + 64 :].hex(),
    )


def info(draw, flags):
    """A struct loop_info64."""
    made = bytearray(232)
    offset, limit = (
        draw.choice([0] * 5 + [512, 4096, 100, 1 << 40, 1 << 63]),
        draw.choice([0] * 5 + [1024, 700, 1 << 50, 1 << 63]),
    )
    kind, key = draw.choice([0] * 12 + [1, 18, 99]), draw.choice([0] * 9 + [8, 32, 33, 1 << 31])
    name = draw.choice([b"", b"name", b"x" * 63, b"x" * 64])
    struct.pack_into("=QQ", made, 24, offset, limit)
    struct.pack_into("=IIII", made, 40, 7, kind, key, flags)
    made[56 : 56 + len(name)] = name
    return bytes(made), (offset, limit, kind, key, flags, name)


def device(fd):
    """What it is, as far as it can be told of whatever it is natively."""
    seen = bytearray(232)
    try:
        fcntl.ioctl(fd, GET_STATUS64, seen)
    except OSError as error:
        return errno.errorcode[error.errno]
    dev, inode, _, offset, limit, _, kind, key, flags = struct.unpack_from("=QQQQQIIII", seen)
    numbers = [bytearray(8) for _ in range(3)]
    for command, number in zip((BLKROGET, BLKSSZGET, BLKGETSIZE64), numbers, strict=False):
        fcntl.ioctl(fd, command, number)
    said = [struct.unpack("=Q", number)[0] for number in numbers]
    try:
        begins = os.pread(fd, 16, 0)
    except OSError as error:
        begins = errno.errorcode[error.errno]
    return (
        dev > 0,
        inode > 0,
        offset,
        limit,
        kind,
        key,
        flags,
        bytes(seen[56:120]).rstrip(b"\0"),
        said,
        begins,
    )


def main():
    seed, count, top, width = sys.argv[1:]
    width = int(width)
    machine = Machine(width)
    os.chdir(top)
    draw = random.Random(seed)

    def ioctl(fd, command, argument):
        machine.forget()
        if isinstance(argument, bytes):
            argument = machine.put(argument)
        return machine.call("ioctl", fd, command, argument)

    images = {
        "rw": os.open("one", os.O_RDWR), "ro": os.open("one", os.O_RDONLY), "two": os.open("two", os.O_RDWR), "odd": os.open("odd", os.O_RDWR),
        "empty": os.open("empty", os.O_RDWR), "dir": os.open(".", os.O_RDONLY), "path": os.open("one", os.O_PATH), "pipe": os.pipe()[0],
        "null": os.open("/dev/null", os.O_RDWR), "none": 999, "minus": -1,
    }  # fmt: skip
    for number in range(int(count)):
        held = [os.open("loop", draw.choice([os.O_RDWR] * 4 + [os.O_RDONLY]))]
        bound = False
        for _ in range(draw.randint(1, 9)):
            fd = draw.choice(held)
            command = draw.choice(
                [CONFIGURE] * 3 + [SET_FD] if not bound and draw.random() < 0.6 else
                [SET_STATUS64] * 3 + [SET_STATUS] * 2 + [GET_STATUS64, GET_STATUS, GET_STATUS, CONFIGURE, SET_FD, CHANGE_FD, SET_CAPACITY, SET_DIRECT_IO, SET_BLOCK_SIZE, SET_BLOCK_SIZE, CLR_FD, 0x4C0B, "open", "write", "truncate"]
            )  # fmt: skip
            said = ()
            if command == "open":
                if not bound:
                    continue
                try:
                    held.append(
                        os.open(
                            "loop",
                            draw.choice([os.O_RDWR, os.O_RDONLY, os.O_RDONLY | os.O_CLOEXEC]),
                        )
                    )
                    result = os.get_inheritable(held[-1])
                except OSError as error:
                    result = errno.errorcode[error.errno]
            elif command == "write":
                if not bound:
                    continue
                try:
                    result = os.pwrite(
                        fd, draw.randbytes(512), draw.choice([0, 0, 512, 4096, 1 << 30])
                    )
                except OSError as error:
                    result = errno.errorcode[error.errno]
            elif command == "truncate":
                size = draw.choice([65536, 65536, 4096, 100000])
                result = os.ftruncate(images["rw"], size)
            elif command in (CONFIGURE, SET_STATUS, SET_STATUS64):
                flags = draw.choice(
                    [
                        0,
                        0,
                        AUTOCLEAR,
                        AUTOCLEAR,
                        READ_ONLY,
                        READ_ONLY | AUTOCLEAR,
                        DIRECT_IO,
                        2,
                        64,
                        1 << 31,
                    ]
                )
                made, said = old(width, draw, flags) if command == SET_STATUS else info(draw, flags)
                if command == CONFIGURE:
                    name, block = (
                        draw.choice(list(images) + ["rw", "rw", "rw", "ro", "two"] * 3),
                        draw.choice([0] * 6 + [512, 1024, 4096, 8192, 100, 1, 1 << 20, 1 << 31]),
                    )
                    made = struct.pack("=iI", images[name], block) + made + bytes(64)
                    said = name, block, *said
                if draw.random() < 0.04:
                    made, said = draw.choice([0, 1]), ("nowhere",)
                result = ioctl(fd, command, made)
            elif command in (SET_FD, CHANGE_FD):
                name = draw.choice([*images, "rw", "ro", "two"])
                said, result = (name,), ioctl(fd, command, images[name] & 0xFFFFFFFFFFFFFFFF)
            elif command == GET_STATUS64:
                said = (draw.choice([0, 1, 232]),)
                result = ioctl(fd, command, bytes(232) if said[0] == 232 else said[0])
            elif command == GET_STATUS:
                machine.forget()
                at = draw.choice([0, 1] + [machine.put(bytes(200))] * 8)
                result = machine.call("ioctl", fd, command, at)
                if at > 1:
                    said = (
                        seen_old(width, machine.read(at, OLD[width][1])),
                        machine.read(at + OLD[width][1], 8),
                    )
            else:
                said = (draw.choice([0, 1, 2, 512, 1024, 4096, 300, 1 << 20]),)
                result = ioctl(fd, command, said[0])
            bound |= command in (CONFIGURE, SET_FD) and result == 0
            if command == 0x4C0B and not bound:
                continue
            print(
                number,
                len(held),
                held.index(fd),
                command if isinstance(command, str) else hex(command),
                *said,
                result,
                device(held[0]),
                flush=True,
            )
        for fd in held[1:]:
            os.close(fd)
        ioctl(held[0], CLR_FD, 0)
        os.close(held[0])
        os.ftruncate(images["rw"], 65536)
        for name in ("rw", "two", "odd"):
            os.pwrite(images[name], name.encode() * 700, 0)


main()

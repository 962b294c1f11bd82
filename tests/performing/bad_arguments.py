"""A program that makes calls with several bad arguments at once, and prints what came of each: run natively, and performed.

argv: seed, how many, 64 or 32 (whose numbers and structures, see ``int80``), and one word for each call: name=number=role,role...
It works in a directory of its own, on a tmpfs, with descriptors of all sorts at 70 and above.
"""

import ctypes
import errno
import mmap
import os
import random
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
PAGE = mmap.PAGESIZE
AT_FDCWD = -100
M32 = 0xFFFFFFFF
PLACE = 0x20000000  # where pointers of 32 bits reach, and the same in each run
NONBLOCK = socket.SOCK_NONBLOCK
FDS = range(70, 82)


def anonymous(place, pages, protection=mmap.PROT_READ | mmap.PROT_WRITE):
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100000  # MAP_FIXED_NOREPLACE
    where, size = ctypes.c_void_p(PLACE + place * PAGE), ctypes.c_size_t(pages * PAGE)
    return libc.mmap(where, size, protection, flags, -1, ctypes.c_long(0))


def int80():
    """Makes calls as programs of 32 bits do, in a process of 64."""
    # rdi holds the array of seven 32-bit numbers: nr, ebx, ecx, edx, esi, edi, ebp
    code = bytes.fromhex("535557568b078b5f048b4f088b570c8b77108b6f188b7f14cd805e5f5d5bc3")
    page = anonymous(90, 1, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    ctypes.memmove(page, code, len(code))
    made = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(page)
    numbers = anonymous(91, 1)

    def call(number, args):
        packed = struct.pack(
            "=7I", number, *[each & M32 for each in (*args, *[0] * (6 - len(args)))]
        )
        ctypes.memmove(numbers, packed, len(packed))
        return made(numbers)

    return call


def plain(number, args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(each) for each in args])
    return result if result != -1 else -ctypes.get_errno()


class Memory:
    """Pages that end where nothing is, pages that are read only, and what points there."""

    def __init__(self):
        self.good = anonymous(0, 39)
        self.end = self.good + 39 * PAGE
        self.readonly = anonymous(80, 1, mmap.PROT_READ)
        self.at = 0

    def put(self, data, edge=False):
        """Where it is now; at the very end of what can be read, or with some room behind it."""
        if edge:
            where = self.end - len(data)
        else:
            where = self.good + self.at * 2 * PAGE
            self.at = (self.at + 1) % 8
        ctypes.memmove(where, data, len(data))
        return where


def tree():
    os.mkdir("dir")
    os.chmod(".", 0o755)
    with open("file", "w") as file:
        file.write("content")
    with open("dir/inside", "w") as file:
        file.write("content")
    os.symlink("file", "link")
    os.symlink("dangling", "dangling")
    os.mkfifo("fifo")
    os.mkdir("locked", 0)


def descriptors():
    held = [
        os.open("dir", os.O_RDONLY), os.open("file", os.O_RDWR), os.open("file", os.O_PATH),
        os.open("dir", os.O_PATH), os.open("link", os.O_PATH | os.O_NOFOLLOW),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | NONBLOCK).detach(),
        socket.socket(socket.AF_INET, socket.SOCK_STREAM | NONBLOCK).detach(),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | NONBLOCK).detach(), *os.pipe2(os.O_NONBLOCK),
        os.open("/proc/self/ns/net", os.O_RDONLY), os.open("fifo", os.O_RDWR | os.O_NONBLOCK),
    ]  # fmt: skip
    for number, fd in zip(FDS, held, strict=True):
        os.dup2(fd, number)
        os.close(fd)


class Draw:
    def __init__(self, seed, words, top, bits):
        self.chance = random.Random(seed)
        self.memory = Memory()
        self.top = top
        self.bits = bits
        self.calls = []
        for word in words:
            name, number, roles = word.split("=")
            self.calls.append((name, int(number), [each for each in roles.split(",") if each]))

    def high(self, number):
        """With bits that the kernel does not look at, now and then."""
        garbage = self.chance.choice([0] * 9 + [1 << 32, 0xDEAD << 32])
        return (number & M32) | garbage

    def fd(self):
        return self.high(self.chance.choice([*FDS] * 2 + [999, -1, AT_FDCWD, -101]))

    def dirfd(self):
        return self.high(self.chance.choice([AT_FDCWD] * 12 + [*FDS, 999, -1]))

    def nowhere(self):
        return self.chance.choice([0, 0, 1, self.memory.end, self.memory.end - 1, M32 & -PAGE])

    def text(self, choices):
        if self.chance.random() < 0.2:
            return self.nowhere()
        chosen = self.chance.choice(choices)
        if self.chance.random() < 0.1:
            return self.memory.put(chosen.rstrip(b"\0") or b"x", edge=True)  # without its end
        return self.memory.put(chosen + b"\0", edge=self.chance.random() < 0.2)

    def path(self):
        return self.text([
            b"file", b"file", b"dir", b"dir", b"missing", b"", b"", b"file/x", b"dir/inside", b"link", b"dangling", b"missing/x",
            b"x" * 256, b"x/" * 2047 + b"x", b"x/" * 2048, b"file/", b".", b"fifo", self.top + b"/file",
        ])  # fmt: skip

    def string(self):
        return self.text([
            b"", b"user.x", b"user.x", b"trusted.x", b"user.", b"nonsense", b"x" * 255, b"x" * 256, b"tmpfs",
            b"ext4", b"source", b"x" * 4096, b"security.x", b"system.posix_acl_access",
        ])  # fmt: skip

    def structure(self):
        if self.chance.random() < 0.25:
            return self.nowhere()
        small = [
            0,
            0,
            0,
            0,
            1,
            2,
            3,
            8,
            16,
            64,
            77,
            999,
            0x1000,
            1 << 20,
            1 << 30,
            1 << 31,
            M32,
            999999999,
            1000000000,
            (1 << 30) - 2,
        ]
        words = [self.chance.choice(small) for _ in range(64)]
        if self.chance.random() < 0.5:
            words = [0] * 64
        for index in range(0, 64, 2):
            if self.chance.random() < 0.2:
                words[index] = self.memory.good + 30 * PAGE
        data = struct.pack("=64I", *words)
        size = self.chance.choice([256, 256, 256, 8, 16, 24, 32, 56])
        return self.memory.put(data[:size], edge=self.chance.random() < 0.3)

    def sockaddr(self):
        if self.chance.random() < 0.15:
            return self.nowhere()
        family = self.chance.choice([0, 1, 2, 2, 10, 16, 99])
        body = self.chance.choice([bytes(2), b"\0\1"]) + socket.inet_aton("127.0.0.1") + bytes(120)
        return self.memory.put(struct.pack("=H", family) + body, edge=self.chance.random() < 0.1)

    def out(self):
        return self.chance.choice([
            *[self.memory.good + 32 * PAGE] * 8, 0, 1, self.memory.end - 8, self.memory.end, self.memory.readonly, M32 & -PAGE,
        ])  # fmt: skip

    def flags(self):
        known = [
            0,
            0,
            0,
            0,
            0x100,
            0x1000,
            0x400,
            0x200,
            1,
            2,
            3,
            4,
            0x80000,
            0x800,
            0x80800,
            0x40,
            0x10000,
        ]
        return self.chance.choice(
            [*known, 1 << self.chance.randrange(32), M32, 1 << 31, 1 << 40, 0xF00000000]
        )

    def number(self):
        return self.chance.choice(
            [
                0,
                0,
                1,
                2,
                3,
                7,
                8,
                16,
                20,
                24,
                64,
                4096,
                65535,
                65536,
                65537,
                1 << 20,
                1 << 31,
                M32,
                -1,
                1 << 40,
            ]
        )

    def size(self):
        return self.chance.choice(
            [0, 1, 7, 8, 16, 24, 24, 64, 128, 4096, 65535, 65536, 65537, 1 << 31, M32, -1, 1 << 40]
        )

    def mode(self):
        return self.chance.choice(
            [0, 0o600, 0o755, 0o100644, 0o140000, 0o20600, 0o60600, 0o170000, 0o40755, M32]
        )

    def dev(self):
        return self.chance.choice([0, 0x103, 0x800, M32])

    def cmd(self):
        return self.high(self.chance.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 99, -1, 41]))

    def call(self):
        name, number, roles = self.chance.choice(self.calls)
        args = [getattr(self, role)() for role in roles]
        if self.bits == 32:
            args = [each & M32 for each in args]
        return name, number, args


def main():
    seed, count, bits, *words = sys.argv[1:]
    libc.unshare(0x20000)
    libc.mount(b"none", b"/", None, 0x44000, None)
    top = os.environ["TOP"].encode()
    if libc.mount(b"none", top, b"tmpfs", 0, None):
        sys.exit("no tmpfs: " + os.strerror(ctypes.get_errno()))
    os.chdir(top)
    tree()
    descriptors()
    draw = Draw(int(seed), words, top, int(bits))
    make = int80() if bits == "32" else plain
    for place in range(int(count)):
        name, number, args = draw.call()
        result = make(number, args)
        shown = errno.errorcode.get(-result, str(result))
        if result > 0 and (name in FD_MAKERS):
            os.close(result)
            shown = "fd"
        elif result >= 0 and name in ("getrandom", "sched_getaffinity"):
            shown = "some"
        print(place, name, *[hex(each & 0xFFFFFFFFFFFFFFFF) for each in args], shown, flush=False)
        if place % 40 == 39:
            again()


FD_MAKERS = (
    "open",
    "openat",
    "openat2",
    "creat",
    "socket",
    "accept",
    "accept4",
    "fsopen",
    "fsmount",
    "bpf",
    "perf_event_open",
)


def again():
    """What was there before, under the same numbers."""
    for fd in FDS:
        os.close(fd)
    import shutil

    for name in os.listdir():
        if name == "missing" and os.path.ismount(name):
            libc.umount2(b"missing", 2)
        if os.path.isdir(name) and not os.path.islink(name):
            os.chmod(name, 0o700)
            shutil.rmtree(name)
        else:
            os.unlink(name)
    tree()
    descriptors()


if __name__ == "__main__":
    main()

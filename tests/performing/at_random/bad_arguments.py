"""A program that makes calls with several bad arguments at once, and prints what came of each: run natively, and performed.

argv: seed, how many, 64 or 32 (whose numbers and structures, see ``int80``), and one word for each call: name=number=role,role...
It works in a directory of its own, on a tmpfs, with descriptors of all sorts at 70 and above.  A line is the call, its
arguments, a word for what there is to be seen afterwards (``Effects``), and the result; of call number $DETAIL what it
is made of goes to standard error.
"""

import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import random
import socket
import struct
import sys
import time
import zlib

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
PAGE = mmap.PAGESIZE
AT_FDCWD = -100
M32 = 0xFFFFFFFF
#: Where pointers of 32 bits reach, and nothing else ever is: below any program.  The heap of one that is not
#: position-independent (Debian's Python) begins anywhere in the first GiB (``arch_randomize_brk`` of arch/x86).
PLACE = 0x100000
NONBLOCK = socket.SOCK_NONBLOCK
FDS = range(70, 82)


def anonymous(place, pages, protection=mmap.PROT_READ | mmap.PROT_WRITE):
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100000  # MAP_FIXED_NOREPLACE
    where, size = ctypes.c_void_p(PLACE + place * PAGE), ctypes.c_size_t(pages * PAGE)
    made = libc.mmap(where, size, protection, flags, -1, ctypes.c_long(0))
    if made != where.value:
        sys.exit(f"something is at {where.value:#x} already")
    return made


def int80():
    """Makes calls as programs of 32 bits do, in a process of 64."""
    # rdi holds the array of seven numbers: nr, ebx, ecx, edx, esi, edi, ebp
    code = bytes.fromhex(
        "53555657 8b07 488b5f08 488b4f10 488b5718 488b7720 488b6f30 488b7f28 cd80 5f5e5d5b c3"
    )
    page = anonymous(90, 1, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    ctypes.memmove(page, code, len(code))
    made = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(page)
    numbers, many = anonymous(91, 1), itertools.count()

    def call(number, args):
        words = [each & M32 for each in (*args, *[0] * (6 - len(args)))]
        if next(many) & 1:  # which the kernel does not look at
            words = [each | 0x9E3779B9 + at << 32 for at, each in enumerate(words)]
        packed = struct.pack("=7Q", number, *words)
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

    def special(self):
        return self.text([os.environ["DEVICE"].encode()] * 3 + [b"file", b"", b"missing"])

    def shaped(self):
        """A structure of some sort, with values that the kernel may take; longs are as wide as in the caller's."""
        pick, word = self.chance.choice, "q" if self.bits == 64 else "i"
        pointer = word.upper()
        kind = self.chance.randrange(9)
        if kind == 0:  # sched_attr
            sizes, policies = [0, 48, 48, 56, 56, 64, 47], [0, 0, 1, 2, 3, 3, 5, 6, 7]
            flags, priority, clamps = (
                pick([0, 0, 0, 1, 2, 8, 24, 96, 128]),
                pick([0, 0, 0, 1, 50, 100]),
                [0, 0, 512, 1024, M32],
            )
            return struct.pack(
                "=IIQiIQQQII8x", pick(sizes), pick(policies), flags, pick([0, 1, 5, 19, 20, -1, -20]), priority,
                pick([0, 10**7]), pick([0, 10**8]), pick([0, 10**8]), pick(clamps), pick(clamps),
            )  # fmt: skip
        if kind == 1:  # sched_param, utimbuf, nice
            return struct.pack(
                f"={word}{word}", pick([0, 0, 1, 50, 10**9]), pick([0, 1, -1, 2**31 - 1, -(2**31)])
            )
        if kind == 2:  # times: of seconds and of parts
            wide = pick("qi")
            parts = [0, 0, 1, 999999, 10**6, 999999999, (1 << 30) - 1, (1 << 30) - 2]
            return struct.pack(
                f"=4{wide}", pick([0, -1, 10**9]), pick(parts), pick([1, 2**31 - 1]), pick(parts)
            )
        if kind == 3:  # if_dqblk
            return struct.pack("=8QI", *[pick([0, 5, 100]) for _ in range(8)], pick([0, 1, 5, 63]))
        if kind == 4:  # fsxattr, flags of a file
            flags = pick([0, 0x10, 0x20, 0x40, 0x80, 0xC0, 0x8, 0x100])
            return struct.pack("=7I", flags, 0, 0, pick([0, 0, 5]), 0, 0, 0)
        if kind == 5:  # file_attr
            return struct.pack(
                "=QIIII", pick([0, 8, 0x10, 0x20, 0x40, 0x80]), 0, 0, pick([0, 0, 5]), 0
            )
        if kind == 6:  # open_how
            how = (
                pick([0, 1, 2, 0x42, 0x10000, 0x80000]),
                pick([0, 0, 0o644]),
                pick([0, 0, 1, 8, 0x10, 0x20]),
            )
            return struct.pack("=QQQ", *how)
        if kind == 7:  # xattr_args: where, how long, flags
            return struct.pack(
                "=QII", self.memory.put(b"value"), pick([0, 3, 5]), pick([0, 0, 1, 2])
            )
        # msghdr, with one part
        part = self.memory.put(
            struct.pack(f"={pointer}{pointer}", self.memory.put(b"said"), pick([0, 4]))
        )
        name = self.memory.put(struct.pack("=HH4s8x", 2, 1, socket.inet_aton("127.0.0.1")))
        if self.bits == 64:
            return struct.pack("=QI4xQQQQi4x", pick([0, name]), 16, part, 1, 0, 0, 0)
        return struct.pack("=7I", pick([0, name]), 16, part, 1, 0, 0, 0)

    def structure(self):
        if self.chance.random() < 0.25:
            return self.nowhere()
        if self.chance.random() < 0.5:
            return self.memory.put(self.shaped(), edge=self.chance.random() < 0.2)
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
        return self.high(
            self.chance.choice(
                [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 99, -1, 41, self.chance.randrange(84)]
            )
        )

    def quota(self):
        """A command of quotactl and a kind of id."""
        commands = [
            0x800001,
            0x800002,
            0x800003,
            *[0x800004, 0x800005] * 2,
            0x800006,
            *[0x800007, 0x800008, 0x800009] * 3,
        ]
        return self.high(
            self.chance.choice([*commands, *range(0x5801, 0x580A), 0, M32 >> 8]) << 8
            | self.chance.choice([0, 0, 1, 2, 3, 255]) & M32
        )

    def fileflags(self):
        """A command of ioctl about the flags of a file, for programs of either kind."""
        return self.high(
            self.chance.choice(
                [0x40086602, 0x40046602, 0x401C5820, 0x80086601, 0x80046601, 0x801C581F, 0x5401]
            )
        )

    def call(self):
        name, number, roles = self.chance.choice(self.calls)
        args = [getattr(self, role)() for role in roles]
        if self.bits == 32:
            args = [each & M32 for each in args]
        return name, number, args


#: What fills in what is another one's each time; test_stat compares that.
FLEETING = ("getrandom", "sysinfo")
SCHEDULING = ("sched_setscheduler", "sched_setparam", "sched_setattr", "setpriority", "ioprio_set")


class Effects:
    """What there is to be seen of a call: what it filled in, and what is otherwise than it was."""

    def __init__(self, memory):
        self.memory = memory
        self.begun = time.time()

    def filled(self, name, result):
        # what comes before a byte that cannot be written is anybody's guess
        if "stat" in name or name in FLEETING or result == -errno.EFAULT:
            ctypes.memset(self.memory.good + 32 * PAGE, 0, 7 * PAGE)
        found = zlib.crc32(ctypes.string_at(self.memory.good, self.memory.end - self.memory.good))
        ctypes.memset(self.memory.good, 0, self.memory.end - self.memory.good)
        return found  # and what one call filled is not seen with the next one

    def when(self, ns):
        return "now" if abs(ns / 1e9 - self.begun) < 10**5 else ns

    def tree(self):
        found = []
        for top, directories, files in os.walk("."):
            directories.sort()
            for name in sorted((".", *directories, *files)):
                path = f"{top}/{name}"
                try:
                    st = os.lstat(path)
                except PermissionError:  # somebody took itself the right to search
                    found.append((path, "shut"))
                    continue
                held = {
                    each: os.getxattr(path, each, follow_symlinks=False)
                    for each in sorted(os.listxattr(path, follow_symlinks=False))
                }
                flags = bytearray(28)
                if os.path.isfile(path) or os.path.isdir(path):
                    try:
                        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                    except OSError:
                        pass
                    else:
                        try:
                            fcntl.ioctl(fd, 0x801C581F, flags)
                        except OSError:
                            pass
                        os.close(fd)
                size = 0 if os.path.isdir(path) else st.st_size
                times = self.when(st.st_atime_ns), self.when(st.st_mtime_ns)
                found.append(
                    (
                        path,
                        st.st_mode,
                        st.st_uid,
                        st.st_gid,
                        st.st_rdev,
                        st.st_nlink,
                        size,
                        times,
                        held,
                        flags.hex(),
                    )
                )
        return found

    @staticmethod
    def schedule():
        room = ctypes.create_string_buffer(64)
        libc.syscall(315, 0, room, 64, 0)
        return room.raw.hex(), os.getpriority(os.PRIO_PROCESS, 0), libc.syscall(252, 1, 0)

    @staticmethod
    def sockets():
        found = []
        for fd in (75, 76, 77):
            with socket.socket(fileno=os.dup(fd)) as one:
                told = []
                for option in range(84):
                    if option in (
                        49,
                        55,
                        56,
                        57,
                        71,
                        77,
                    ):  # processors and cookies, and what gives a descriptor
                        continue
                    try:
                        told.append((option, one.getsockopt(socket.SOL_SOCKET, option, 64).hex()))
                    except OSError:
                        pass
                for name in ("getsockname", "getpeername"):
                    try:
                        at = getattr(one, name)()
                        auto = (
                            isinstance(at, bytes) and len(at) == 6
                        )  # a name that the kernel found
                        told.append(
                            "auto" if auto else at if isinstance(at, (str, bytes)) else at[0]
                        )
                    except OSError as error:
                        told.append(error.errno)
                found.append(told)
        return found

    def seen(self, place, name, group, result):
        found = [self.filled(name, result)]
        if result < 0 and place % 16 and group != "scheduling":
            pass  # it takes long, and little comes of calls that fail
        elif group == "scheduling":
            found.append(self.schedule())
        elif group == "sockets":
            found.append(self.sockets())
        else:
            found.append(self.tree())
        if os.environ.get("DETAIL") == str(place):
            sys.stderr.write(f"{found}\n")
        return f"{zlib.crc32(repr(found).encode()):08x}"


def main():
    seed, count, bits, *words = sys.argv[1:]
    libc.unshare(0x20000)
    libc.mount(b"none", b"/", None, 0x44000, None)
    top = os.environ["TOP"].encode()
    if libc.mount(b"none", top, b"tmpfs", 0, None):
        sys.exit("no tmpfs: " + os.strerror(ctypes.get_errno()))
    os.chdir(top)
    here = os.open(".", os.O_RDONLY)
    os.dup2(here, TOP, inheritable=False)
    os.close(here)
    if user := int(os.environ["USER_ID"]):
        os.chown(".", user, user)
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        libc.prctl(4, 1, 0, 0, 0)  # dumpable, as after an execve
    tree()
    descriptors()
    draw = Draw(int(seed), words, top, int(bits))
    make = int80() if bits == "32" else plain
    effects = Effects(draw.memory)
    for place in range(int(count)):
        name, number, args = draw.call()
        group = "scheduling" if name in SCHEDULING else os.environ["GROUP"]
        if group == "scheduling" and (child := os.fork()):  # which goes on as it was
            os.waitpid(child, 0)
            continue
        result = make(number, args)
        shown = errno.errorcode.get(-result, str(result))
        if result > 0 and (name in FD_MAKERS):
            os.close(result)
            shown = "fd"
        elif result >= 0 and name in ("getrandom", "sched_getaffinity"):
            shown = "some"
        seen = effects.seen(place, name, group, result)
        print(
            place, name, *[hex(each & 0xFFFFFFFFFFFFFFFF) for each in args], seen, shown, flush=True
        )
        if group == "scheduling":
            os._exit(0)
        if place % 40 == 39 or name.startswith(
            ("mknod", "bind", "setsockopt")
        ):  # which are lent a right
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
    "fspick",
    "bpf",
    "perf_event_open",
)


#: The directory that all is in.
TOP = 900


def allow(name):
    """That it may be removed, and what is in it."""
    os.chmod(name, 0o700)
    with os.scandir(name) as entries:
        for each in entries:
            if each.is_dir(follow_symlinks=False):
                allow(each.path)


def again():
    """What was there before, under the same numbers."""
    for fd in FDS:
        os.close(fd)
    import shutil

    for _ in range(100):  # one can be under another that is older, and was moved there
        with open("/proc/self/mountinfo", "rb") as file:
            mounted = [line.split()[4] for line in file]
        below = [place for place in mounted if place.startswith(os.getcwdb() + b"/")]
        if not below:
            break
        for place in reversed(below):
            libc.umount2(place, 2)
    os.fchmod(TOP, 0o755)  # by its path only who may search it
    for name in os.listdir():
        if os.path.isdir(name) and not os.path.islink(name):
            allow(name)
            shutil.rmtree(name)
        else:
            os.unlink(name)
    tree()
    descriptors()


if __name__ == "__main__":
    main()

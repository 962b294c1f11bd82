"""A program that makes nodes at random, in a root directory of its own, and prints what came of it: run natively, and performed.

argv: directory, seed, how many.
"""

import ctypes
import errno
import os
import platform
import random
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "x86_64": {"mknod": 133, "mknodat": 259},
    "aarch64": {"mknodat": 33},
}[platform.machine()]
NAMES = [
    "file",
    "dir",
    "new",
    "x",
    "y",
    "to-dir",
    "to-file",
    "loop",
    "dangling",
    "n" * 255,
    "n" * 256,
    ".",
    "..",
]
STARTS = [
    "",
    "",
    "",
    "dir/",
    "sticky/",
    "closed/",
    "to-dir/",
    "dir/../",
    "missing/",
    "file/",
    "loop/",
    "/",
    "/dir/",
    "./",
]
#: Whiteouts, and what is none, among them.
KINDS = (
    [stat.S_IFCHR] * 6
    + [stat.S_IFBLK] * 4
    + [0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR, stat.S_IFLNK, 0o170000]
)
DEVICES = [0, 0x103, 0x103, 0x800, 0x701, 0xFFFFFFFF, 0x12345678]
GARBAGE = 0xABCD << 32


def main():
    top, seed, count = sys.argv[1:]
    draw = random.Random(seed)
    os.chroot(top)
    os.chdir("/")
    for name, mode in (("dir", 0o755), ("sticky", 0o1777), ("closed", 0o700), ("group", 0o2775)):
        os.mkdir(name)
        os.chmod(name, mode)
    os.chown("closed", 1000, 1000)
    os.symlink("dir", "to-dir")
    os.symlink("file", "to-file")
    os.symlink("loop", "loop")
    os.symlink("nothing", "dangling")
    os.dup2(os.open("dir", os.O_RDONLY), 77)
    os.close(os.open("file", os.O_CREAT))
    os.dup2(os.open("file", os.O_RDONLY), 78)
    os.dup2(os.open(".", os.O_PATH), 79)
    page = libc.mmap
    page.restype = ctypes.c_void_p
    page.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    hole = page(None, 4096, 0, 0x22, -1, 0)
    held = []

    def path():
        if draw.random() < 0.02:
            return draw.choice([0, 1, hole, 1 << 63])
        if draw.random() < 0.05:
            text = draw.choice(
                ["", "/", "//", "x/" * 2048, "./" * 2046 + "new", "d" * 4096, "./" * 600 + "new"]
            )
        else:
            text = (
                draw.choice(STARTS) + draw.choice(NAMES) + draw.choice(["", "", "", "", "/", "//"])
            )
        held.append(ctypes.create_string_buffer(text.encode()))
        return ctypes.addressof(held[-1])

    for number in range(int(count)):
        held.clear()
        if draw.random() < 0.1:
            os.umask(draw.choice([0, 0o22, 0o77, 0o777]))
        if draw.random() < 0.1:
            os.seteuid(0)
            os.setegid(draw.choice([0, 0, 1000]))
            os.seteuid(draw.choice([0, 0, 0, 1000]))
        mode = (
            draw.choice(KINDS)
            | draw.choice([0, 0o600, 0o666, 0o6777, 0o2755, 0o1777])
            | draw.choice([0, 0, 1 << 16, GARBAGE])
        )
        device = draw.choice(DEVICES) | draw.choice([0, 0, GARBAGE])
        dirfd = draw.choice([0xFFFFFF9C] * 3 + [77, 77, 78, 79, 999, 0xFFFFFFFF]) | draw.choice(
            [0, 0, GARBAGE]
        )
        name = draw.choice(list(NUMBERS))
        args = (path(), mode, device) if name == "mknod" else (dirfd, path(), mode, device)
        ctypes.set_errno(0)
        result = libc.syscall(NUMBERS[name], *map(ctypes.c_ulong, args))
        print(
            number,
            name,
            result if result >= 0 else errno.errorcode[ctypes.get_errno()],
            flush=False,
        )
        if number % 20 == 19:
            euid = os.geteuid()
            os.seteuid(0)
            for place in (".", "dir", "sticky", "closed", "group"):
                for each in sorted(os.listdir(place)):
                    status = os.lstat(f"{place}/{each}")
                    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                        print(
                            place,
                            each,
                            oct(status.st_mode),
                            status.st_rdev,
                            status.st_uid,
                            status.st_gid,
                            status.st_nlink,
                        )
                        if each != "file":
                            os.unlink(f"{place}/{each}")
            os.seteuid(euid)


main()

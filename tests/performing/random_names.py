"""A program that makes, moves and removes names at random, and prints what came of it: run natively, and performed.

argv: directory, seed, how many.
"""

import ctypes
import errno
import os
import platform
import random
import sys

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "x86_64": {
        "rename": 82, "mkdir": 83, "rmdir": 84, "unlink": 87, "mkdirat": 258, "unlinkat": 263, "renameat": 264, "renameat2": 316,
    },
    "aarch64": {"mkdirat": 34, "unlinkat": 35, "renameat2": 276},
}[platform.machine()]  # fmt: skip
NAMES = [
    "file",
    "dir",
    "other",
    "new",
    "x",
    "to-dir",
    "to-file",
    "loop",
    "dangling",
    "fifo",
    "n" * 255,
    "n" * 256,
    ".",
    "..",
]
STARTS = [
    "", "", "", "", "dir/", "other/", "to-dir/", "dir/../", "missing/", "file/", "loop/", "//TOP/", "/TOP/dir/", "/proc/self/cwd/",
    "/proc/self/root/TOP/", "/proc/self/fd/77/", "./",
]  # fmt: skip
GARBAGE = 0xABCD << 32


def main():
    top, seed, count = sys.argv[1:]
    draw = random.Random(seed)
    os.chdir(top)
    for name in ("dir", "other", "dir/dir", "sticky"):
        os.mkdir(name)
    os.chmod("sticky", 0o1777)
    os.symlink("dir", "to-dir")
    os.symlink("file", "to-file")
    os.symlink("loop", "loop")
    os.symlink("nothing", "dangling")
    os.mkfifo("fifo")
    os.dup2(os.open("dir", os.O_RDONLY), 77)
    os.dup2(os.open(".", os.O_PATH), 79)
    os.close(os.open("file", os.O_CREAT))
    os.dup2(os.open("file", os.O_RDONLY), 78)
    page = libc.mmap
    page.restype, page.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long],
    )
    hole = page(None, 4096, 0, 0x22, -1, 0)
    held = []

    def path():
        if draw.random() < 0.03:
            return draw.choice([0, 1, hole, hole + 4095, 1 << 63])
        if draw.random() < 0.05:
            text = draw.choice(
                [
                    "",
                    "/",
                    "//",
                    ".",
                    "..",
                    "x/" * 2047,
                    "x/" * 2048,
                    "./" * 2046 + "new",
                    "d" * 4096,
                    "./" * 600 + "new",
                ]
            )
        else:
            steps = "/".join(draw.choice(NAMES) for _ in range(draw.choice([1, 1, 1, 2])))
            text = (
                draw.choice(STARTS).replace("TOP", top.strip("/"))
                + steps
                + draw.choice(["", "", "", "", "/", "//", "/."])
            )
        held.append(ctypes.create_string_buffer(text.encode()))
        return ctypes.addressof(held[-1])

    def dirfd():
        return draw.choice([0xFFFFFF9C] * 5 + [77, 78, 79, 999, 0xFFFFFFFF]) | draw.choice(
            [0, 0, GARBAGE]
        )

    for number in range(int(count)):
        held.clear()
        mode = draw.choice([0, 0o600, 0o755, 0o6777, 0o1777, 0o100644, 0o755 | GARBAGE])
        calls = {
            "mkdir": (path(), mode), "mkdirat": (dirfd(), path(), mode), "rmdir": (path(),), "unlink": (path(),),
            "unlinkat": (dirfd(), path(), draw.choice([0, 0, 0x200, 1, 0x200 | GARBAGE, GARBAGE])),
            "rename": (path(), path()), "renameat": (dirfd(), path(), dirfd(), path()),
            "renameat2": (dirfd(), path(), dirfd(), path(), draw.choice([0, 0, 0, 1, 2, 3, GARBAGE])),
        }  # fmt: skip
        name = draw.choice([each for each in calls if each in NUMBERS])
        if draw.random() < 0.1:
            os.umask(draw.choice([0, 0o22, 0o77, 0o777]))
        where = draw.random()
        if where < 0.05:
            try:
                os.chdir(draw.choice([top, top, "dir", ".."]))
                if not os.getcwd().startswith(top):
                    os.chdir(top)
            except OSError:
                os.chdir(top)
        elif where < 0.1 and hasattr(os, "setreuid") and os.getuid() == 0:
            os.seteuid(0)
            os.seteuid(draw.choice([0, 0, 1000]))
        ctypes.set_errno(0)
        result = libc.syscall(NUMBERS[name], *map(ctypes.c_ulong, calls[name]))
        print(
            number,
            name,
            result if result >= 0 else errno.errorcode[ctypes.get_errno()],
            flush=False,
        )
        if number % 40 == 39:  # by then much is gone
            for made in ("dir", "other", "dir/dir", "other/new", "new"):
                try:
                    os.mkdir(f"{top}/{made}")
                except OSError:
                    pass
            try:
                os.close(os.open(f"{top}/file", os.O_CREAT, 0o644))
            except OSError:
                pass
    if os.getuid() == 0:
        os.seteuid(0)
    for directory, folders, files in os.walk(top):
        folders.sort()
        for name in sorted([*folders, *files]):
            status = os.lstat(os.path.join(directory, name))
            print(
                os.path.relpath(os.path.join(directory, name), top),
                oct(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_nlink,
            )


main()

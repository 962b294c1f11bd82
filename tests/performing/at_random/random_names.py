"""A program that makes, moves and removes names, and changes what they are of, at random, and prints what came of it: run
natively, and performed.

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
        "link": 86, "symlink": 88, "linkat": 265, "symlinkat": 266, "chmod": 90, "chown": 92, "lchown": 94, "fchownat": 260,
        "fchmodat": 268, "fchmodat2": 452,
    },
    "aarch64": {
        "mkdirat": 34, "unlinkat": 35, "renameat2": 276, "symlinkat": 36, "linkat": 37, "fchmodat": 53, "fchownat": 54, "fchmodat2": 452,
    },
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


def enclosed(top):
    """A root directory that there is nothing in but what it makes: root may change what its links lead to."""
    null = ctypes.c_char_p()
    where = top.encode()
    assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
    assert libc.mount(null, b"/", null, 0x44000, null) == 0  # MS_REC | MS_PRIVATE
    assert libc.mount(b"none", where, b"tmpfs", 0, b"mode=755") == 0
    os.mkdir(f"{top}/proc")
    assert libc.mount(b"/proc", where + b"/proc", null, 0x5000, null) == 0  # MS_REC | MS_BIND
    os.chroot(top)
    os.makedirs("/1/2/3/tree", 0o755)
    return "/1/2/3/tree"


def main():
    top, seed, count = sys.argv[1:]
    draw = random.Random(seed)
    if os.getuid() == 0:
        top = enclosed(top)
    ways = [top]
    while len(ways) < 4:
        ways.insert(0, os.path.dirname(ways[0]))
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

    def owner():
        return draw.choice([0, 0, os.getuid(), 1, 1000, 0xFFFFFFFF, -1, 70000, GARBAGE])

    for number in range(int(count)):
        held.clear()
        mode = draw.choice([0, 0o600, 0o755, 0o6777, 0o1777, 0o100644, 0o755 | GARBAGE])
        calls = {
            "mkdir": (path(), mode), "mkdirat": (dirfd(), path(), mode), "rmdir": (path(),), "unlink": (path(),),
            "unlinkat": (dirfd(), path(), draw.choice([0, 0, 0x200, 1, 0x200 | GARBAGE, GARBAGE])),
            "rename": (path(), path()), "renameat": (dirfd(), path(), dirfd(), path()),
            "renameat2": (dirfd(), path(), dirfd(), path(), draw.choice([0, 0, 0, 1, 2, 3, GARBAGE])),
            "link": (path(), path()), "symlink": (path(), path()), "symlinkat": (path(), dirfd(), path()),
            "linkat": (dirfd(), path(), dirfd(), path(), draw.choice([0, 0, 0x400, 0x400 | GARBAGE, 0x1000, 1])),
            "chmod": (path(), mode), "fchmodat": (dirfd(), path(), mode),
            "fchmodat2": (dirfd(), path(), mode, draw.choice([0, 0x100, 0x100 | GARBAGE, 0x1000, 1])),
            "chown": (path(), owner(), owner()), "lchown": (path(), owner(), owner()),
            "fchownat": (dirfd(), path(), owner(), owner(), draw.choice([0, 0x100, 0x100 | GARBAGE, 0x1000, 1])),
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
                try:
                    os.chdir(top)
                except OSError:
                    pass
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
            if os.getuid() == 0:
                os.seteuid(0)
            for each in ways:
                os.chmod(each, 0o755)
            for made in ("dir", "other", "dir/dir", "other/new", "new"):
                try:
                    os.mkdir(f"{top}/{made}")
                except OSError:
                    pass
            try:
                os.close(os.open(f"{top}/file", os.O_CREAT | os.O_NONBLOCK, 0o644))
            except OSError:
                pass
    if os.getuid() == 0:
        os.seteuid(0)
    for directory, folders, files in os.walk(top):
        folders.sort()
        for name in sorted([*folders, *files]):
            try:
                status = os.lstat(os.path.join(directory, name))
            except PermissionError:
                continue  # what may be read may not be searched
            print(
                os.path.relpath(os.path.join(directory, name), top),
                oct(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_nlink,
            )


main()

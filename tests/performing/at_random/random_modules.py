"""A program that loads and unloads modules at random, and prints what came of each call and which there are then: run natively,
where what a module depends on is loaded before it, as modprobe(8) does, and performed.

argv: seed, how many, a directory with files, "native" or "performed", and JSON: by name the paths that modprobe would load.
"""

import ctypes
import errno
import json
import os
import platform
import random
import sys

libc = ctypes.CDLL(None, use_errno=True)
INIT, DELETE, FINIT = (175, 176, 313) if platform.machine() == "x86_64" else (105, 106, 273)
NOWHERE = 1


def call(number, *args):
    ctypes.set_errno(0)
    given = [each if isinstance(each, bytes) else ctypes.c_long(each) for each in args]
    result = libc.syscall(number, *given)
    return result if result >= 0 else errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno())


def there(known):
    """Those of the modules that are loaded, with their users."""
    with open("/proc/modules") as file:
        rows = [line.split() for line in file]
    return sorted((name, refs, users) for name, _, refs, users, *_ in rows if name in known)


def main():
    seed, count, top, how, paths = sys.argv[1:]
    os.chdir(top)
    draw, paths = random.Random(int(seed)), json.loads(paths)
    names = list(paths)
    files = [os.path.basename(each) for some in paths.values() for each in some]
    known = sorted({each.partition(".")[0].replace("-", "_") for each in files})
    held = {
        "text": os.open("text", os.O_RDONLY), "empty": os.open("empty", os.O_RDONLY), "short": os.open("short", os.O_RDONLY),
        "head": os.open("head", os.O_RDONLY), "half": os.open("half", os.O_RDONLY), "dir": os.open(".", os.O_RDONLY),
        "pipe": os.pipe()[0], "null": os.open("/dev/null", os.O_RDONLY), "none": 999, "minus": -1,
    }  # fmt: skip
    for number in range(int(count)):
        what = draw.choice(["finit"] * 3 + ["init"] * 2 + ["delete"] * 4)
        name = draw.choice(names)
        if what == "delete":
            name = draw.choice([*names, *known, "nosuch", None, ""])
            given = NOWHERE if name is None else name.encode() + b"\0"
            flags = draw.choice([os.O_NONBLOCK] * 4 + [0, 1 << 31])
            print(number, what, name, flags, call(DELETE, given, flags), there(known), flush=True)
            continue
        least = {
            "dummy": ["numdummies=0", "numdummies=2", "numdummies=x", "numdummies", "nonsense=1"]
        }
        text = draw.choice(["", "", *least.get(name, ["nonsense=1"]), None])
        if text is None and len(paths[name]) > 1:
            text = ""  # natively what it depends on is missed first
        parameters = NOWHERE if text is None else text.encode() + b"\0"
        image = draw.choice(["good"] * 5 + ["rdwr", "written", "wronly", "path", *held] * (what == "finit") + ["short", "head", "half", "text", "nowhere", "long"] * (what == "init"))  # fmt: skip
        flags, opened = 0, []
        if what == "finit":
            flags = draw.choice([0] * 8 + [8, 1 << 31])
            mode = {"rdwr": os.O_RDWR, "wronly": os.O_WRONLY, "path": os.O_PATH}.get(
                image, os.O_RDONLY
            )
            fd = held.get(image)
            if image == "written":
                opened.append(os.open(name, os.O_WRONLY))
            if fd is None:
                fd = os.open(name, mode)
                opened.append(fd)
            args = FINIT, fd, parameters, flags
        else:
            with open(name if image in ("good", "nowhere", "long") else image, "rb") as file:
                data = file.read()
            args = (
                INIT,
                NOWHERE if image == "nowhere" else data,
                1 << 40 if image == "long" else len(data),
                parameters,
            )
        loaded = {each[0] for each in there(known)}
        if (
            how == "native"
            and image == "good"
            and text is not None
            and not flags
            and name not in loaded
        ):
            for path in paths[name][:-1]:
                fd = os.open(path, os.O_RDONLY)
                call(FINIT, fd, b"", 0)
                os.close(fd)
        print(number, what, name, image, text, flags, call(*args), there(known), flush=True)
        for fd in opened:
            os.close(fd)


main()

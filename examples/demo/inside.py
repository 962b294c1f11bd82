"""What container root does in the demonstration: each line says whether it came out as it should."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str) -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode(), 0, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def wanted(what: str, call: Callable[[], object], refused: int = 0) -> None:
    try:
        call()
        got = 0
    except OSError as error:
        got = error.errno or -1
    text = f" ({errno.errorcode[refused]})" if refused else ""
    print(f"{what}{text}: {'ok' if got == refused else 'NOT'}", flush=True)


def device() -> None:
    mount("dev", "dev", "tmpfs")
    os.mknod("dev/null", 0o20666, os.makedev(1, 3))
    with open("dev/null", "w") as file:
        file.write("discarded")


def disk(image: str) -> None:
    mount(image, "disk", "ext4")
    with open("disk/hello") as file:
        assert file.read() == "hello from the image\n"
    with open("disk/new", "w") as file:
        file.write("from the container")
    assert os.stat("disk/new").st_uid == 0


def mark() -> None:
    os.mkdir("layer")
    os.setxattr("layer", "trusted.overlay.opaque", b"y")
    assert "trusted.overlay.opaque" in os.listxattr("layer")


def main() -> None:
    image = sys.argv[1]
    wanted("a device that works, on a tmpfs of its own", device)
    wanted("an ext4 image mounted, read and written", lambda: disk(image))
    wanted("unmounted", lambda: libc.umount2(b"disk", 0))
    wanted("a directory marked opaque", mark)
    wanted(
        "refused: a disk of the host",
        lambda: os.mknod("sda", 0o60666, os.makedev(8, 0)),
        errno.EPERM,
    )
    wanted(
        "refused: a file system off the list",
        lambda: mount("/dev/sda", "disk", "btrfs"),
        errno.EPERM,
    )
    wanted(
        "refused: another trusted attribute",
        lambda: os.setxattr("layer", "trusted.secret", b"x"), errno.EPERM,
    )  # fmt: skip


if __name__ == "__main__":
    main()

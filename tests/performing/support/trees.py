"""A tree with every state of a path that open and mknod tell apart."""

from __future__ import annotations

import os

from tests.support.constants import SLOWNESS

#: One in so many is tried of what is compared at length: machines of another processor are emulated.
ONE_IN = 5 if SLOWNESS > 10 else 1


def build(top: bytes, owner: int) -> None:
    """Make the tree in ``top``; ``owner`` (uid and gid) owns what is not said to be another's."""

    def own(path: bytes, uid: int = owner, gid: int = owner) -> None:
        os.chown(os.path.join(top, path), uid, gid, follow_symlinks=False)

    def file(path: bytes, mode: int = 0o644, uid: int = owner, text: bytes = b"content\n") -> None:
        full = os.path.join(top, path)
        with open(full, "wb") as stream:
            stream.write(text)
        os.chmod(full, mode)
        own(path, uid, uid)

    def directory(path: bytes, mode: int = 0o755, uid: int = owner) -> None:
        full = os.path.join(top, path)
        os.mkdir(full)
        own(path, uid, uid)
        os.chmod(full, mode)

    def link(target: bytes, path: bytes) -> None:
        os.symlink(target, os.path.join(top, path))
        own(path)

    own(b".")
    file(b"file")
    file(b"unreadable", 0)
    file(b"readonly", 0o444)
    file(b"others", 0o600, 4242)
    file(b"not\xff-\x80utf8 \n name")
    directory(b"dir")
    file(b"dir/inside")
    directory(b"locked", 0)
    directory(b"others-dir", 0o755, 4242)
    file(b"others-dir/file", 0o666, 4242)
    directory(b"sticky", 0o1777, 4243)
    file(b"sticky/mine")
    file(b"sticky/others", 0o666, 4242)
    directory(b"setgid", 0o2775)
    os.chown(os.path.join(top, b"setgid"), owner, owner + 7)
    os.chmod(os.path.join(top, b"setgid"), 0o2775)
    directory(b"noexec", 0o600)
    file(b"noexec/file")
    link(b"file", b"to-file")
    link(b"dir", b"to-dir")
    link(b"nowhere", b"dangling")
    link(b"dir/new", b"dangling-in-dir")
    link(b"missing/new", b"dangling-deep")
    link(b"loop-b", b"loop-a")
    link(b"loop-a", b"loop-b")
    link(b"../file", b"dir/up")
    link(os.path.join(top, b"file"), b"absolute")
    link(b"to-to-file", b"chain")
    link(b"file/", b"slash-file")
    link(b"dir/", b"slash-dir")
    link(b"nowhere/", b"slash-nowhere")
    link(b"file/x/", b"slash-in-file")
    link(b"to-file", b"to-to-file")
    for fifo, uid in ((b"fifo", owner), (b"others-fifo", 4242)):
        os.mkfifo(os.path.join(top, fifo), 0o644)
        own(fifo, uid, uid)
    for number in range(45):
        target = b"link%d" % (number + 1) if number < 44 else b"file"
        link(target, b"link%d" % number)


#: Paths to try without waiting.
FIFOS = [b"fifo", b"others-fifo"]
#: Paths to try; TOP stands for the tree.
PATHS = [
    b"file", b"./file", b"dir/../file", b"/TOP/file", b"//TOP//file", b"new", b"/TOP/new", b"dir/new",
    b"file/", b"file/.", b"file/x", b"new/", b"new/.", b"new/x", b"dir", b"dir/", b"dir/.", b"dir/..",
    b".", b"..", b"/", b"//", b"", b"missing/new", b"missing/../file", b"unreadable", b"readonly",
    b"others", b"not\xff-\x80utf8 \n name", b"new-\xff\xfe", b"dir/inside", b"locked/x", b"locked",
    b"others-dir/new", b"others-dir/file", b"sticky/new", b"sticky/mine", b"sticky/others", b"setgid/new",
    b"noexec/file", b"noexec/new", b"to-file", b"to-file/", b"to-dir", b"to-dir/", b"to-dir/new",
    b"to-dir/inside", b"dangling", b"dangling/", b"dangling-in-dir", b"dangling-deep", b"loop-a",
    b"loop-a/x", b"dir/up", b"absolute", b"chain", b"slash-file", b"slash-dir", b"slash-nowhere", b"slash-in-file",
    b"link3", b"link5", b"link0", b"n" * 255, b"n" * 256,
    b"dir/" + b"n" * 256, b"x/" * 2000 + b"y", b"./" * 2000 + b"file",
    b"/proc/self/status", b"/proc/self/root/TOP/file", b"/proc/self/cwd/file", b"/proc/self/cwd/new",
    b"/proc/self", b"/proc/self/", b"/proc/self/fd/999", b"/proc/self/nope", b"/proc/meminfo",
    b"/proc/thread-self/status", b"/proc/self/cwd/to-file", b"/proc/self/cwd/dangling",
    b"/proc/self/exe", b"/proc/mounts", b"/proc/self/cwd/", b"/proc/self/cwd", b"/dev/null", b"/dev/full",
][::ONE_IN]  # fmt: skip

"""A program's bind mounts are made for it below one directory, and refused everywhere else.

    sudo unshare -m python examples/user_trap.py /srv/play mount --bind /srv/play/a /srv/play/b

The command runs as root of a user namespace of its own, which may not mount here: natively it gets
"permission denied".  A filter stops its mount(2) calls and hands each to this program, on a listener
(seccomp_unotify(2)).  What is said of each step is told at length in docs/mechanism.md; beside this
file, user_trap_short.py does the same with proctor's supervisor.
"""

import ctypes
import errno
import os
import select
import sys
from typing import Any

import proctor

MS_BIND = 4096
libc = ctypes.CDLL(None, use_errno=True)


def decide(listener: proctor.Listener, call: Any, allowed: str) -> int:
    """Make the mount that ``call`` asks for; 0, or the negative errno that is its answer."""
    source, target, _, flags, _ = call.args[:5]
    # The caller's memory, by its number.  It may die meanwhile, and its number be given to somebody
    # else: what was seen counts only if the notification is still valid *after* the reading.
    memory = proctor.Memory(call.pid, listener, call.id)
    try:
        if flags != MS_BIND or not sees_the_same(call.pid):
            return -errno.EPERM
        paths = [memory.string(source), memory.string(target)]
    except proctor.MemoryUnreadable as error:
        return -(error.errno or errno.EFAULT)
    except (proctor.CallGone, OSError):
        return -errno.EPERM  # nobody is left to hear it
    pinned: list[int] = []
    try:
        pinned += (pin(os.fsdecode(path), allowed) for path in paths)
        # From here on only our own copies and descriptors are used: another thread of the caller can
        # rewrite the paths in its memory or exchange directories as it likes.
        from_, to = (f"/proc/self/fd/{fd}".encode() for fd in pinned)
        done = libc.mount(from_, to, None, MS_BIND, None)
        return -ctypes.get_errno() if done else 0
    except OSError as error:
        return -(error.errno or errno.EPERM)
    finally:
        for fd in pinned:
            os.close(fd)


def pin(path: str, allowed: str) -> int:
    """A descriptor of the thing itself, below ``allowed``, reached without a symbolic link."""
    inside = os.path.relpath(os.path.normpath(path), allowed)
    if not os.path.isabs(path) or inside.split("/")[0] == "..":
        raise PermissionError(errno.EPERM, "outside of the directory", path)
    fd = os.open(allowed, os.O_PATH | os.O_DIRECTORY)
    for name in inside.split("/"):
        above = fd
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
    return fd


def sees_the_same(tid: int) -> bool:
    """Whether paths mean the same to a thread as to us: the mount namespace and the root are ours."""
    looks = ((f"/proc/{who}/ns/mnt", f"/proc/{who}/root") for who in ("self", tid))
    return all(map(os.path.samefile, *looks))


def main() -> int:
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} DIRECTORY COMMAND [ARGUMENT ...]")
    allowed = os.path.realpath(sys.argv[1])
    # mount(8) tries the newer calls first where it knows them, and falls back from ENOSYS
    newer = proctor.Rule(["open_tree", "fsopen"], proctor.actions.errno(errno.ENOSYS))
    code = proctor.Filter([proctor.Rule(["mount"], proctor.actions.NOTIFY), newer]).compile().code
    with proctor.launch(sys.argv[2:], program=code, namespaces=["user"]) as command:
        listener = proctor.Listener(command.take_listener())
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        # The listener hangs up when nobody is left under the filter (Linux 5.9)
        while not poll.poll()[0][1] & select.POLLHUP:
            call = listener.recv()
            if call is None:
                continue  # its caller was killed, or interrupted, before we could receive it
            error = decide(listener, call, allowed)
            print(f"mount by thread {call.pid}: {os.strerror(-error) if error else 'done'}")
            listener.send(call.id, 0, error, 0)  # False if its caller is gone: nothing to do then
        listener.close()
        return command.wait()


if __name__ == "__main__":
    sys.exit(main())

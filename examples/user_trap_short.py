"""The same as user_trap.py with the supervisor: a dozen lines that decide, and none that wait.

sudo unshare -m python examples/user_trap_short.py /srv/play mount --bind /srv/play/a /srv/play/b
"""

import ctypes
import errno
import os
import sys

from user_trap import MS_BIND, libc, pin, sees_the_same

import proctor

allowed = os.path.realpath(sys.argv[1])


@proctor.on("mount", when=proctor.Condition("flags", "==", MS_BIND))
def bind_below(call: proctor.Call) -> proctor.Verdict:
    pinned: list[int] = []
    try:
        if not sees_the_same(call.tid):
            return proctor.deny(errno.EPERM)
        pinned += (pin(os.fsdecode(path), allowed) for path in (call.path, call.path2))
        from_, to = (f"/proc/self/fd/{fd}".encode() for fd in pinned)
        done = libc.mount(from_, to, None, MS_BIND, None)
        return proctor.deny(ctypes.get_errno()) if done else proctor.answer(0)
    except OSError as error:
        return proctor.deny(error.errno or errno.EPERM)
    finally:
        for fd in pinned:
            os.close(fd)


@proctor.on("open_tree", "fsopen")
def newer(call: proctor.Call) -> proctor.Verdict:
    return proctor.deny(errno.ENOSYS)  # mount(8) then falls back to mount(2)


sys.exit(proctor.run(sys.argv[2:], [bind_below, newer], userns=True).returncode)

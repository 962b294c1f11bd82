"""Answers open("/etc/os-release") with content of our own; everything else is opened as asked."""

import os

import proctor

CONTENT = b'NAME="Proctor Demo Linux"\nVERSION="1.0"\nID=proctor-demo\n'


@proctor.on("open", "openat")
def os_release(call: proctor.Call) -> proctor.Verdict:
    """A sealed in-memory file instead of the real one; the caller cannot tell."""
    if call.path != b"/etc/os-release":
        return proctor.perform()  # opened for the caller, with the caller's rights: no race
    fd = os.memfd_create("os-release", os.MFD_CLOEXEC)
    os.write(fd, CONTENT)
    os.lseek(fd, 0, os.SEEK_SET)
    return proctor.hand_over(fd)

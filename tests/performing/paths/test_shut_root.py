"""A root directory that the caller may not search: what it has open it goes on with, natively and performed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")

#: In a mount namespace of its own, whose root is an overlay over the machine's: argv is a directory for that.
PROGRAM = r"""
import ctypes, os, sys
import proctor
from proctor import families
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
def mount(source, target, kind, flags=0, data=None):
    check(libc.mount(source, target, kind, ctypes.c_ulong(flags), data))
check(libc.unshare(0x20000))  # CLONE_NEWNS
mount(b"none", b"/", None, 0x44000)  # MS_PRIVATE | MS_REC
top = os.fsencode(sys.argv[1])
root = top + b"/root"
mount(b"none", top, b"tmpfs")
for name in (b"/upper", b"/work", b"/root"):
    os.mkdir(top + name)
mount(b"none", root, b"overlay", 0, b"lowerdir=/,upperdir=%s/upper,workdir=%s/work" % (top, top))
for name in (b"/proc", b"/dev"):
    mount(name, root + name, None, 0x5000)  # MS_BIND | MS_REC
os.chroot(root)
os.mkdir("/here")
os.chown("/here", 1000, 1000)
calls = [families.names(), families.stat(), families.attributes()]
done = proctor.run([sys.executable, "-Ic", sys.argv[2]], calls, capture_output=True, text=True)
print(done.stdout, done.stderr)
"""
CALLER = """
import os
os.chdir("/here")
os.chmod("/", 0o700)
os.setgroups([])
os.setresgid(1000, 1000, 1000)
os.setresuid(1000, 1000, 1000)
os.mkdir("new")
os.chmod("new", 0o711)
print(oct(os.stat("new").st_mode), os.stat("new").st_uid)
try:
    os.mkdir("/here/other")
except OSError as error:
    print(error.errno)
"""


def test_who_may_not_search_its_root_goes_on_where_it_is(tmp_path: Path) -> None:
    words = [sys.executable, "-Ic", PROGRAM, str(tmp_path), CALLER]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.stderr.startswith("mount:"):
        pytest.skip(f"no overlay over the root directory ({done.stderr.strip()})")
    assert done.stdout.split() == ["0o40711", "1000", "13"], done

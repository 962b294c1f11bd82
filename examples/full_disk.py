"""A full disk, for tests: a command may write a megabyte to files, and then write(2) fails with ENOSPC (but to standard error).

    proctor run --handlers examples/full_disk.py -- tar -cf /tmp/all.tar .

In a test of your own: ``proctor.run(command, [Disk(left=4096).write])``.
"""

import errno
import os
import stat

import proctor


class Disk:
    def __init__(self, left: int) -> None:
        self.left = left

    @proctor.on("write", "pwrite64", when=proctor.Condition("fd", "!=", 2))
    def write(self, call: proctor.Call) -> proctor.Verdict:
        if stat.S_ISREG(os.fstat(call.fd(call.args.fd)).st_mode):
            self.left -= call.count
            if self.left < 0:
                return proctor.deny(errno.ENOSPC, "the disk is full")
        return proctor.let_run_unsafe("a test's own program, which does not try to get around this")


full_disk = Disk(left=1 << 20).write

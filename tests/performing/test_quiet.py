"""fsync and the like are said to be done; O_SYNC is left out."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import proctor
from proctor import families

PROGRAM = """
    import ctypes, errno, fcntl, itertools, mmap, os, random, socket, sys
    libc = ctypes.CDLL(None, use_errno=True)
    draw = random.Random(7)
    os.chdir(sys.argv[1])
    file = os.open("file", os.O_RDWR | os.O_CREAT, 0o600)
    fds = [
        file, os.open(".", os.O_RDONLY), os.open("/dev/null", os.O_RDWR), os.open("file", os.O_PATH), os.pipe()[0],
        socket.socket().detach(), os.memfd_create("x"), os.eventfd(0), os.open("/proc/self/status", os.O_RDONLY), -1, 999,
    ]
    memory = mmap.mmap(file, 0) if os.ftruncate(file, 8192) else mmap.mmap(file, 8192)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    def call(name, *args):
        ctypes.set_errno(0)
        made = getattr(libc, name)(*args)
        print(name, args if name != "msync" else args[1:], made, errno.errorcode.get(ctypes.get_errno()))
    long = ctypes.c_long
    for fd in fds:
        for name in ("fsync", "fdatasync", "syncfs"):
            call(name, fd)
        for offset, size, flags in itertools.product((0, -1, 4096), (0, 100, -1, (1 << 63) - 1), (0, 1, 7, 8)):
            libc.sync_file_range.argtypes = [ctypes.c_int, long, long, ctypes.c_uint]
            call("sync_file_range", fd, offset, size, flags)
    libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for at, size, flags in itertools.product((0, 1, 4096), (0, 1, 4096), range(9)):
        call("msync", start + at, size, flags)
    libc.sync()
"""


def python(code: str, *args: object) -> list[str]:
    return [sys.executable, "-I", "-c", textwrap.dedent(code), *map(str, args)]


def test_comes_out_as_in_the_kernel_but_nothing_is_done(tmp_path: Path) -> None:
    program = python(PROGRAM, tmp_path)
    natively = subprocess.run(program, capture_output=True, check=True, timeout=60)
    ran: list[str] = []

    def note(outcome: proctor.Outcome) -> None:
        if isinstance(outcome.verdict, proctor.LetRun):
            ran.append(outcome.call.name)

    quiet = proctor.run(
        program, [families.quiet()], capture_output=True, check=True, timeout=60,
        observers=[proctor.outcomes(note)],
    )  # fmt: skip
    assert quiet.stdout == natively.stdout
    # what the kernel was let do writes nothing: pipes, devices...; msync that waits for nothing
    assert set(ran) == {"fsync", "fdatasync", "msync"}
    assert ran.count("fsync") == ran.count("fdatasync") == 5


def test_opens_are_not_synchronous() -> None:
    code = """
        import ctypes, fcntl, os, struct
        flags = os.O_WRONLY | os.O_CREAT | os.O_SYNC
        for made in (
            os.open("a", flags), os.open("a", os.O_RDWR | os.O_DSYNC | os.O_APPEND),
            ctypes.CDLL(None).syscall(437, -100, b"a", struct.pack("=QQQ", os.O_WRONLY | os.O_DSYNC, 0, 0), 24),
        ):
            print(bool(fcntl.fcntl(made, fcntl.F_GETFL) & os.O_SYNC), bool(fcntl.fcntl(made, fcntl.F_GETFL) & os.O_APPEND))
    """
    import tempfile

    with tempfile.TemporaryDirectory() as top:
        for sync in (True, False):
            done = proctor.run(
                python(code), [families.open(sync=sync)], capture_output=True, timeout=60, cwd=top
            )
            expected = [[sync, False], [sync, True], [sync, False]]
            said = [
                [word == "True" for word in line.split()]
                for line in done.stdout.decode().splitlines()
            ]
            assert said == expected, done.stderr


def test_sqlite_is_none_the_wiser(tmp_path: Path) -> None:
    code = """
        import sqlite3, sys
        db = sqlite3.connect("db")
        db.execute("pragma synchronous = extra")
        db.execute("create table t (x)")
        for number in range(50):
            with db:
                db.execute("insert into t values (?)", (number,))
        print(db.execute("select count(*), sum(x) from t").fetchone(), db.execute("pragma integrity_check").fetchone())
    """
    done = proctor.run(
        python(code), [families.quiet()], capture_output=True, timeout=60, cwd=tmp_path
    )
    assert done.stdout == b"(50, 1225) ('ok',)\n", done.stderr

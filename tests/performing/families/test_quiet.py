"""fsync and the like are said to be done; O_SYNC is left out."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families, performing
from proctor.call.verdict import Answer, Perform
from proctor.performing.registry import calls
from proctor.syscalls.tables import numbers
from tests.performing.programs.test_workloads import tree
from tests.performing.support.callers import ARCH, Performers, caller, open_directory
from tests.performing.support.images import MOUNTS

PROGRAM = """
    import ctypes, errno, fcntl, itertools, mmap, os, random, socket, sys
    libc = ctypes.CDLL(None, use_errno=True)
    draw = random.Random(7)
    os.chdir(sys.argv[1])
    file = os.open("file", os.O_RDWR | os.O_CREAT, 0o600)
    fds = [
        file, os.open(".", os.O_RDONLY), os.open("/dev/null", os.O_RDWR), os.open("file", os.O_PATH), os.pipe()[0],
        socket.socket().detach(), os.memfd_create("x"), os.eventfd(0), os.open("/proc/self/status", os.O_RDONLY), -1, 999,
        os.pidfd_open(os.getpid()), libc.syscall(ctypes.c_long(447), 0), *(os.open(each, os.O_RDONLY) for each in sys.argv[2:]),
    ]  # of memfd_secret(2), too
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
    assert set(ran) == {"fsync", "fdatasync", "msync", "sync_file_range"}
    assert ran.count("fsync") == ran.count("fdatasync")
    assert 6 <= ran.count("fsync") <= 7  # some kernels have no secret memory


READ_ONLY = """
    import errno, os, sys
    top, command = sys.argv[1:3]
    image = f"{top}/image"
    os.mkdir(f"{top}/files")
    open(f"{top}/files/file", "w").close()
    if os.system(f"{command.format(files=f'{top}/files', image=image)} >/dev/null 2>&1 && mount -o loop,ro {image} {top}/files"):
        print("no such file system")
        sys.exit()
    for each in ("", "/file"):
        fd = os.open(f"{top}/files{each}", os.O_RDONLY)
        for call in (os.fsync, os.fdatasync):
            try:
                print(call(fd))
            except OSError as error:
                print(errno.errorcode[error.errno])
"""


@MOUNTS
@pytest.mark.parametrize("command", ["mksquashfs {files} {image}", "mkfs.erofs {image} {files}"])
def test_what_can_only_be_read_is_as_in_the_kernel(command: str, tmp_path: Path) -> None:
    said = []
    for number, handlers in enumerate(([], [families.quiet()])):
        top = tmp_path / str(number)
        top.mkdir()
        program = ["unshare", "-m", "--propagation", "private", *python(READ_ONLY, top, command)]
        done = proctor.run(program, handlers, capture_output=True, check=True, timeout=60)
        if done.stdout == b"no such file system\n":
            pytest.skip(f"{command.split(maxsplit=1)[0]}: not here")
        said.append(done.stdout)
    assert said[0] == said[1] == b"EINVAL\n" * 4


@pytest.mark.parametrize("name", ["fsync", "sysinfo"])
def test_a_number_that_is_somebody_elses_by_now(name: str) -> None:
    """Nobody asks who it is that makes these calls; whose it was before is not answered for, nor asked about, all the
    same."""
    number = 50

    def has_it() -> None:
        os.dup2(os.open("/etc/hostname", os.O_RDONLY), number)

    arg: object = number if name == "fsync" else b""
    lacks = ("errno", errno.EBADF) if name == "fsync" else ("value", 0)

    def lacks_it() -> None:
        os.closerange(number, number + 1)  # the tests' own may be so many

    with (
        Performers() as performers,
        caller(setup=lacks_it) as before,
        caller(setup=has_it) as now,
    ):
        assert before.performed(performers, name, arg) == lacks
        known = performers.standings.known
        stale = known.pop(before.tid)
        before.kill()
        known[now.tid] = stale
        assert now.performed(performers, name, arg) == ("value", 0)
        assert known[now.tid] is not stale
        assert now.performed(performers, name, arg) == ("value", 0)


@pytest.mark.parametrize("family", ["quiet", "resources"])
def test_the_short_way_says_what_the_long_one_says(family: str) -> None:
    """Of every kind of descriptor; nothing stays open."""
    with open_directory() as top:

        def setup() -> None:
            held = [
                os.open(top, os.O_RDONLY), os.open(top + b"/file", os.O_RDWR | os.O_CREAT), os.open(top, os.O_PATH),
                os.pipe()[0], os.eventfd(0), os.open("/proc/self/status", os.O_RDONLY), os.open("/dev/null", os.O_RDWR),
                socket.socket().detach(), os.memfd_create("x"),
            ]  # fmt: skip
            for number, fd in enumerate(held, 40):
                os.dup2(fd, number)
            os.closerange(49, 60)

        arguments: dict[str, list[tuple[int, ...]]] = {
            "sched_getaffinity": [(0, 128, 0), (1, 128, 0)], "getrandom": [(0, 0, 0), (0, 0, 8)], "sysinfo": [(0,)],
            "sync": [()], "msync": [(at, size, how) for at in (0, 1) for size in (0, 9) for how in (0, 1, 4, 5, 8)],
        }  # fmt: skip
        fds = [
            (fd, 0, size, how) for fd in (*range(40, 50), -1) for size in (1, -1) for how in (0, 8)
        ]
        with Performers() as performers, caller(setup) as one:
            performers.perform(one.call("fsync", 41))  # who it is, is known from here on
            open_before = len(os.listdir("/proc/self/fd"))
            for name in ({*calls(family)} & {*numbers(ARCH)}) - {"uname"}:
                go = performers.ordinary(name)
                assert go is not None
                for args in arguments.get(name, fds):
                    said = performing.Performers.perform(performers, one.call(name, *args))
                    shortly = go(one.call(name, *args), Perform())
                    if name == "sysinfo":
                        assert isinstance(shortly, Answer) and len(shortly.writes[0][1]) == 112
                    else:
                        assert shortly == said, (name, args)
            assert len(os.listdir("/proc/self/fd")) == open_before


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


def quietly(command: list[str], quiet: bool, **options: Any) -> subprocess.CompletedProcess[Any]:
    """With nothing synchronised and every call about files performed, or natively."""
    how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 280, **options}
    if not quiet:
        return subprocess.run(command, check=False, **how)
    served = families.served(content="served", when={"path": "/etc/served"})
    files = [families.names(), families.attributes(), families.stat(), families.open(sync=False)]
    return proctor.run(command, [families.quiet(), served, *files], **how)


@pytest.mark.skipif(shutil.which("dpkg-buildpackage") is None, reason="no dpkg-dev")
@pytest.mark.timeout(600)
def test_a_package_is_built_and_installed_the_same(tmp_path: Path) -> None:
    made: list[tuple[Any, ...]] = []
    for quiet in (False, True):
        top = tmp_path / str(quiet) / "small-1.0"
        (top / "debian").mkdir(parents=True)
        (top / "main.c").write_text(
            "#include <stdio.h>\nint main(void) { return puts(TEXT) < 0; }\n"
        )
        (top / "debian/control").write_text(
            "Source: small\nSection: misc\nPriority: optional\nMaintainer: Nobody <n@example.org>\n"
            "Standards-Version: 4.6.2\n\nPackage: small\nArchitecture: any\nDescription: small\n"
        )
        (top / "debian/changelog").write_text(
            "small (1.0) unstable; urgency=low\n\n  * One.\n\n -- Nobody <n@example.org>  Sat, 01 Jan 2022 00:00:00 +0000\n"
        )
        rules = top / "debian/rules"
        rules.write_text(
            "#!/usr/bin/make -f\nclean:\n\trm -rf debian/small\nbuild build-arch build-indep:\n\tgcc -DTEXT='\"hello\"' -o main main.c\n"
            "binary-arch: build\n\tmkdir -p debian/small/DEBIAN debian/small/usr/bin\n\tcp main debian/small/usr/bin/small; sync debian/small/usr/bin/small\n"
            "\tdpkg-gencontrol -Pdebian/small\n\tdpkg-deb --root-owner-group -b debian/small ..\nbinary-indep:\nbinary: binary-arch\n"
        )
        rules.chmod(0o755)
        env = {**os.environ, "SOURCE_DATE_EPOCH": "1640995200"}
        done = quietly(["dpkg-buildpackage", "-us", "-uc", "-b", "-d"], quiet, cwd=top, env=env)
        assert done.returncode == 0, done.stderr
        (package,) = top.parent.glob("*.deb")
        listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, check=True).stdout
        made.append((package.name, package.read_bytes(), listed))
        if os.geteuid() == 0:  # dpkg synchronises each file that it installs
            root = top.parent / "root"
            for name in ("updates", "info"):
                (root / "var/lib/dpkg" / name).mkdir(parents=True)
            (root / "var/lib/dpkg/status").touch()
            command = [
                "dpkg",
                f"--root={root}",
                "--force-all",
                "--log=/dev/null",
                "-i",
                package.name,
            ]
            done = quietly(command, quiet, cwd=top.parent)
            assert done.returncode == 0, done.stderr
            assert "usr/bin/small" in tree(str(root))
            made[-1] = (*made[-1], tree(str(root)))
    assert made[0] == made[1]


def test_sqlites_locks_between_processes(tmp_path: Path) -> None:
    """Writers and readers of one database with a write-ahead log, then with the others: nothing is lost, nobody sees half."""
    code = """
        import os, sqlite3, sys
        for mode in ("wal", "delete"):
            def connect():
                made = sqlite3.connect("db-" + mode, timeout=60, isolation_level=None)
                made.execute("pragma synchronous = full")
                return made
            first = connect()
            print(first.execute("pragma journal_mode = " + mode).fetchone()[0])
            first.execute("create table t (who integer, n integer)")
            first.execute("create table sums (who integer primary key, total integer)")
            first.close()
            children = []
            for who in range(3):
                children.append(os.fork())
                if not children[-1]:
                    db = connect()
                    for n in range(8):
                        db.execute("begin immediate")
                        db.execute("insert into t values (?, ?)", (who, n))
                        db.execute("insert into sums values (?, ?) on conflict do update set total = total + ?", (who, n, n))
                        db.execute("rollback" if n % 4 == 3 else "commit")
                        wrong = db.execute("select sum(n) - (select sum(total) from sums) from t").fetchone()[0]
                        if wrong:
                            os._exit(3)
                    os._exit(0)
            ends = [os.waitpid(child, 0)[1] for child in children]
            last = connect()
            print(ends, last.execute("select who, count(*), sum(n) from t group by who order by who").fetchall(),
                  last.execute("select * from sums order by who").fetchall(), last.execute("pragma integrity_check").fetchall())
            last.execute("vacuum")
            last.close()
            print(sorted(os.listdir(".")))
    """
    said = []
    for quiet in (False, True):
        (tmp_path / str(quiet)).mkdir()
        done = quietly(python(code), quiet, cwd=tmp_path / str(quiet))
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1]
    assert said[0].count("[0, 0, 0]") == 2 and said[0].count("[('ok',)]") == 2


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3")
def test_sqlites_shell(tmp_path: Path) -> None:
    script = """
        pragma journal_mode = wal; pragma synchronous = full;
        create table t (a integer primary key, b text unique);
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 500) insert into t select i, 'x' || i from n;
        begin; delete from t where a % 3 = 0; savepoint s; update t set b = b || '!' where a < 50; rollback to s; commit;
        vacuum; reindex; pragma wal_checkpoint(truncate); pragma integrity_check;
        select count(*), sum(a), group_concat(b) from t;
        .backup copy
        .open copy
        pragma integrity_check; select count(*), sum(a) from t;
    """
    said = [
        quietly(
            ["sqlite3", f"{quiet}.db"], quiet, input=textwrap.dedent(script), cwd=tmp_path
        ).stdout
        for quiet in (False, True)
    ]
    assert said[0] == said[1] and said[0].count("ok\n") == 2


INITDB = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)


@pytest.mark.skipif(
    INITDB is None or os.geteuid() != 0, reason="no PostgreSQL, or nobody to start it"
)
@pytest.mark.timeout(600)
def test_a_database_starts_works_and_recovers(tmp_path: Path) -> None:
    """initdb with its own synchronising, pgbench, a server that is killed, and its recovery."""
    assert INITDB is not None
    script = """
set -e; export PATH=$1:$PATH; cd $2
initdb -A trust -D data >/dev/null
start() { pg_ctl -w -D data -l log -o "-k $2 -h '' -c max_connections=20 -c shared_buffers=8MB -c fsync=on" start >/dev/null; }
start x $2
export PGHOST=$2
createdb bench; pgbench -i -q bench 2>/dev/null; pgbench -t 50 -c 4 bench >/dev/null 2>&1
psql -Atc 'checkpoint; select sum(tbalance) = (select sum(bbalance) from pgbench_branches) from pgbench_tellers' bench
first=$(head -1 data/postmaster.pid); all="$first $(cat /proc/$first/task/*/children)"; kill -9 $first
for each in $all; do while kill -0 $each 2>/dev/null; do sleep 0.05; done; done; rm -f data/postmaster.pid .s.*
start x $2
psql -Atc 'select count(*), sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts' bench
psql -Atc 'select count(*) from pgbench_history' bench
pg_ctl -w -D data stop -m fast >/dev/null
pg_controldata data | grep 'cluster state'
"""
    said = []
    for quiet in (False, True):
        with open_directory() as top:
            os.chown(top, 65534, 65534)
            command = [
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "sh",
                "-c",
                script,
            ]
            done = quietly([*command, "sh", str(INITDB.parent), os.fsdecode(top)], quiet)
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)
    assert said[0] == said[1]
    assert "100000|t" in said[0] and "200" in said[0] and "shut down" in said[0]


@pytest.mark.parametrize("name", ["fsync", "fdatasync"])
def test_a_descriptor_that_was_looked_at_is_the_one_that_counts(name: str) -> None:
    """Another thread puts something else under its number meanwhile, of which the kernel says EINVAL."""
    file, event, number = 31, 32, 30

    def opens() -> None:
        os.dup2(os.open(top + b"/file", os.O_CREAT | os.O_RDONLY, 0o644), file)
        os.dup2(os.eventfd(0), event)

    with open_directory() as top, Performers() as performers, caller(opens) as one:
        for _ in range(4):  # the short way, of who is known, and the long one
            one.natively("dup3", file, number, 0)
            call = one.call(name, number)
            assert call.fd(number) >= 0
            one.natively("dup3", event, number, 0)
            assert performers.perform(call) == Answer(0)

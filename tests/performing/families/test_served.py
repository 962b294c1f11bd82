"""Served files: what is opened, what is told of it, and what a cgroup leaves a program of its machine."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families, policy
from tests.performing.limits.test_resources import LIMIT, group, python
from tests.performing.support.containers import PYTHON, inside, told

__all__ = ["group"]  # a fixture

OTHERS = [families.open(), families.stat()]
AGREE = """
import fcntl
def fields(st):
    return [st.st_mode, st.st_ino, st.st_size, st.st_nlink, st.st_uid, st.st_gid, st.st_dev, st.st_mtime_ns]
path = sys.argv[1]
fd = os.open(path, os.O_RDONLY)
shown = fields(os.fstat(fd))
for other in (os.stat(path), os.lstat(path), os.stat(path, dir_fd=os.open("/", os.O_RDONLY))):
    assert fields(other) == shown, (fields(other), shown)
buffer = ctypes.create_string_buffer(256)
for at, name, flags in ((-100, path.encode(), 0), (fd, b"", 0x1000)):
    assert libc.statx(at, name, flags, 0x7ff, buffer) == 0
    links, uid, gid, mode, ino, size = struct.unpack_from("=IIIH2xQQ", buffer, 16)
    assert [mode, ino, size, links, uid, gid] == [*shown[:3], *shown[3:6]], (mode, ino, size)
results += [oct(shown[0]), shown[2], shown[4:6], os.read(fd, 100).decode(), os.readlink(f"/proc/self/fd/{fd}")]
results.append([os.access(path, mode) for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)])
tried(os.readlink, path)
for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_CREAT | os.O_EXCL, os.O_DIRECTORY):
    tried(os.open, path, flags)
tried(os.open, path + "/", os.O_RDONLY)
tried(os.pwrite, fd, b"x", 0)
results.append(fcntl.fcntl(fd, fcntl.F_GETFL) & 3)
import mmap
tried(mmap.mmap, fd, 4, mmap.MAP_SHARED, mmap.PROT_WRITE)
again = os.open(path, os.O_RDONLY)
results.append(os.read(again, 3).decode())
"""
REFUSED = ["EINVAL", "EACCES", "EACCES", "EACCES", "EEXIST", "ENOTDIR", "ENOTDIR", "EBADF"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make containers")
@pytest.mark.parametrize("mode", [0o444, 0o555])
def test_stat_fstat_and_statx_agree_and_nothing_can_be_written(mode: int) -> None:
    handler = families.served(content="hello", mode=mode, when={"path": "/etc/served"})
    seen = told(AGREE, "/etc/served", handlers=[handler, *OTHERS])
    owner = [65534, 65534]  # the host's root has no number there
    assert seen == [
        oct(0o100000 | mode), 5, owner, "hello", "/memfd:served (deleted)", [True, True, False, mode == 0o555],
        *REFUSED, 0, "EACCES", "hel",
    ]  # fmt: skip


ODD = """
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
path = sys.argv[1].encode()
def said(number, *given):
    made = libc.syscall(number, *[each if isinstance(each, bytes) else ctypes.c_long(each) for each in given])
    print(made if made < 0 else "opened", errno.errorcode[ctypes.get_errno()] if made < 0 else 0)
for flags in (os.O_CREAT | os.O_DIRECTORY, os.O_TMPFILE, os.O_TMPFILE & ~os.O_DIRECTORY, os.O_DIRECTORY, os.O_CREAT | os.O_EXCL):
    said(257, -100, path, flags, 0o644)
for how in ((0, 0o644, 0), (0, 0, 1 << 20), (1 << 40, 0, 0), (os.O_CREAT, 1 << 20, 0), (0, 0, 0)):
    said(437, -100, path, struct.pack("=QQQ", *how), 24)
said(85, path + b"/", 0o644)
said(257, -100, path + b"/", 0, 0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has numbers of x86")
def test_what_is_wrong_with_the_flags_is_as_where_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "served"
    path.write_bytes(b"there")
    command = [PYTHON, "-I", "-c", ODD, str(path)]
    handler = families.served(content="hello", when={"path": str(path)})
    native, served = (
        proctor.run(command, handlers, capture_output=True, timeout=60, check=True).stdout.split()
        for handlers in ([], [handler, *OTHERS])
    )
    assert native == served
    assert {b"EINVAL", b"ENOTDIR", b"EEXIST", b"EISDIR", b"opened"} <= set(native)


def test_a_file_of_the_hosts(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("from the host")
    code = """
        import os, sys
        path = sys.argv[1]
        fd = os.open(path, os.O_RDWR | os.O_APPEND)
        assert os.fstat(fd).st_ino == os.stat(path).st_ino == int(sys.argv[2])
        os.write(fd, b", and back")
        print(os.pread(fd, 100, 0).decode(), os.access(path, os.W_OK))
        try:
            print(open("/etc/other", "w"))
        except OSError as error:
            print(error.errno)
    """
    handlers = [
        families.served(file=str(real), writable=True, when={"path": "/etc/one"}),
        families.served(file=str(real), when={"path": "/etc/other"}),
        families.served(file=str(tmp_path / "missing"), when={"path": "/etc/missing"}),
        families.served(file=str(tmp_path), when={"path": "/etc/directory"}),
        *OTHERS,
    ]
    done = proctor.run(
        python(code, "/etc/one", real.stat().st_ino), handlers, capture_output=True, timeout=60
    )
    assert done.stdout.decode() == f"from the host, and back True\n{errno.EACCES}\n", done.stderr
    assert real.read_text() == "from the host, and back"
    for path, said in (("/etc/missing", b"No such file"), ("/etc/directory", b"not permitted")):
        done = proctor.run(["cat", path], handlers, capture_output=True, timeout=60)
        assert done.returncode == 1 and said in done.stderr


def test_what_is_opened_to_be_written_through_is(tmp_path: Path) -> None:
    """A program that trusts O_SYNC has it; O_DIRECT, too, where it is a file of the host's that knows it."""
    real = tmp_path / "real"
    real.write_text("from the host")
    ways = [os.O_SYNC, os.O_DSYNC | os.O_APPEND]
    try:
        os.close(os.open(real, os.O_DIRECT))
        ways.append(os.O_DIRECT)
    except OSError:  # a tmpfs before Linux 6.6
        pass
    code = """
        import fcntl, os, sys
        for path, access in (("/etc/one", os.O_RDWR), ("/etc/text", os.O_RDONLY)):
            for flags in map(int, sys.argv[1:]):
                fd = os.open(path, access | flags)
                print(fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_SYNC | os.O_DIRECT | os.O_APPEND))
    """
    handlers = [
        families.served(file=str(real), writable=True, when={"path": "/etc/one"}),
        families.served(content="text", when={"path": "/etc/text"}),
        *OTHERS,
    ]
    done = proctor.run(python(code, *ways), handlers, capture_output=True, timeout=60)
    expected = [*ways, *ways[:2], *([0] if ways[2:] else [])]
    assert [int(each) for each in done.stdout.split()] == expected, done.stderr


def test_a_function_is_asked_each_time() -> None:
    count = itertools.count()
    asked: list[bytes] = []

    def content(call: proctor.Call) -> str:
        asked.append(call.path)
        return f"{next(count)}\n"

    handler = families.served(content=content, when={"path": "/etc/count"})
    command = ["sh", "-c", "cat /etc/count; cat /etc/../etc/count; cat /etc/count /etc/hostname"]
    done = proctor.run(command, [handler, *OTHERS], capture_output=True, timeout=60)
    assert done.stdout == b"0\n1\n2\n" + Path("/etc/hostname").read_bytes()
    assert asked == [b"/etc/count", b"/etc/../etc/count", b"/etc/count"]
    wrong = families.served(content=lambda call: 7, when={"path": "/etc/count"})  # type: ignore[arg-type,return-value]
    done = proctor.run(["cat", "/etc/count"], [wrong, *OTHERS], capture_output=True, timeout=60)
    assert done.returncode == 1 and not done.stdout


RULES = """
default = "allow"

[[rule]]
name = "greeting"
calls = ["open", "openat", "openat2", "%%stat", "!fstat", "!fstat64", "!oldfstat", "access", "faccessat", "faccessat2"]
when = { path = "/etc/greeting" }
perform = { content = "good morning\\n", mode = 0o644 }

[[rule]]
name = "others"
calls = ["open", "openat", "openat2", "%%stat", "!fstat", "!fstat64", "!oldfstat", "access", "faccessat", "faccessat2"]
perform = true
"""


def test_from_a_policy() -> None:
    rules = policy.loads(RULES)
    command = [
        "sh",
        "-c",
        "cat /etc/greeting; stat -c '%a %s' /etc/greeting; stat -c %s /etc/passwd",
    ]
    done = proctor.run(
        command, rules.handlers(), filter=rules.filter(), capture_output=True, timeout=60
    )
    assert done.stdout == b"good morning\n644 13\n%d\n" % os.stat("/etc/passwd").st_size, (
        done.stderr
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("true", "one of content, file and limits"),
        ('{ content = "x", limits = true }', "one of content, file and limits"),
        ('{ content = "x", writable = true }', "only a file of the host's"),
        ('{ file = "relative" }', "from the root"),
        ('{ file = "/x", mode = 0o1777 }', "permission bits"),
        ("{ content = 7 }", "content is a text"),
        ('{ content = "x", sync = false }', "are options of several families"),
        ('{ contend = "x" }', 'did you mean "content"'),
    ],
)
def test_what_cannot_be_served(given: str, said: str) -> None:
    if given == "true":
        with pytest.raises(proctor.PolicyError, match=said):
            families.served()
        return
    with pytest.raises(proctor.PolicyError) as raised:
        policy.loads(f'[[rule]]\nname = "r"\ncalls = ["open"]\nperform = {given}')
    assert said in str(raised.value)


# Resources ----------------------------------------------------------------------------------------


def seen(command: list[str], group: list[str], **options: Any) -> str:
    handlers = [families.served(limits=True), families.resources(), *OTHERS]
    done = proctor.run([*group, *command], handlers, capture_output=True, timeout=120, **options)
    assert not done.returncode, done.stderr
    out: bytes = done.stdout
    return out.decode()


def test_programs_see_what_their_cgroup_leaves_them(group: list[str]) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one processor is all there is")
    memory = seen(["free", "-b"], group).splitlines()[1].split()
    assert memory[1] == str(LIMIT)
    assert all(0 <= int(each) <= LIMIT for each in memory[2:])
    assert seen(["nproc"], group) == "1\n"
    described = dict(re.findall(r"(.*?): +(.*)", seen(["lscpu"], group)))
    assert described["On-line CPU(s) list"] == "0" and described["CPU(s)"] == "1"
    assert seen(["sh", "-c", "grep -c ^processor /proc/cpuinfo"], group) == "1\n"
    lines = seen(["cat", "/proc/stat"], group).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["cpu", "cpu0", "intr"]
    assert lines[0].split()[1:] == lines[1].split()[1:]
    assert re.match(r"[\d.]+ [\d.]+ [\d.]+ \d+/[1-9] \d+\n$", seen(["cat", "/proc/loadavg"], group))
    assert "load average" in seen(["uptime"], group)
    top = seen(["top", "-b", "-n1"], group)
    assert re.search(rf"MiB Mem : +{LIMIT >> 20}\.0 total", top), top


def test_sysinfo_and_meminfo_agree(group: list[str]) -> None:
    code = """
        import ctypes, struct
        buffer = ctypes.create_string_buffer(112)
        ctypes.CDLL(None).sysinfo(buffer)
        up, *loads, total, free, shared, buffers, swap, freeswap, procs, pad, high, freehigh, unit = struct.unpack("@l9LHHLLI", buffer.raw[:108])
        lines = dict(line.split()[:2] for line in open("/proc/meminfo"))
        told = [int(lines[name + ":"]) << 10 for name in ("MemTotal", "Shmem", "Buffers", "SwapTotal", "SwapFree")]
        assert told == [total * unit, shared * unit, buffers * unit, swap * unit, freeswap * unit], told
        assert abs(float(open("/proc/uptime").read().split()[0]) - up) < 2
        for line in open("/proc/meminfo"):
            assert int(line.split()[1]) <= 1 << 40 and line.split()[2:] in ([], ["kB"]), line
        assert list(lines)[:3] == ["MemTotal:", "MemFree:", "MemAvailable:"]
        print("fine")
    """
    assert seen(python(code), group) == "fine\n"


CONTAINER = """
for each in /run /dev/shm; do mount -t tmpfs none $each; done
top=$(mktemp -d /run/XXXX); export HOME=$top TMPDIR=$top XDG_RUNTIME_DIR=$top _CONTAINERS_USERNS_CONFIGURED=1
nproc; free -b | awk '/^Mem/ { print $2 }'; lscpu | awk '/^On-line/ { print $NF }'; cut -d. -f1 /proc/uptime
podman --root $top/store --runroot $top/own --tmpdir $top/tmp --cgroup-manager cgroupfs --events-backend file --storage-driver vfs \
    info --format '{{.Host.CPUs}} {{.Host.MemTotal}}'
"""


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.skipif(shutil.which("podman") is None, reason="no podman")
def test_in_a_container_a_program_in_go_sees_them_too(group: list[str], limited: bool) -> None:
    """podman is one, which tells what its runtime (NumCPU) and /proc/meminfo say."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one processor is all there is")
    alone = ["unshare", "--mount", "--ipc", "--pid", "--uts", "--net", "--fork", "--mount-proc"]
    handlers = [families.served(limits=True), families.resources(), *OTHERS] if limited else []
    for each in re.findall(r"> (\S+/cgroup\.procs)", group[2]):  # which its root may join
        os.chown(each, 100000, 100000)
    done = inside([*group, *alone, "sh", "-ec", CONTAINER], handlers, timeout=110)
    assert not done.returncode, done.stderr
    processors, memory, online, up, *gos = done.stdout.split()
    if limited:
        assert (processors, memory, online, gos) == ("1", f"{LIMIT}", "0", ["1", f"{LIMIT}"])
        assert int(up) < 100
    else:
        assert int(processors) > 1 and int(memory) > LIMIT
        assert gos == [processors, memory]


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java")
def test_a_jvm_without_its_own_look_at_cgroups(group: list[str], tmp_path: Path) -> None:
    source = tmp_path / "Seen.java"
    source.write_text(
        "public class Seen { public static void main(String[] a) { Runtime r = Runtime.getRuntime();"
        ' System.out.println(r.availableProcessors() + " " + (r.maxMemory() >> 20)); } }'
    )
    built = subprocess.run(
        ["javac", "-d", str(tmp_path), str(source)], capture_output=True, check=False
    )
    if built.returncode:
        pytest.skip("no compiler of Java")
    command = [
        "java",
        "-XX:-UseContainerSupport",
        "-XX:MaxRAMPercentage=50",
        "-cp",
        str(tmp_path),
        "Seen",
    ]
    processors, heap = map(int, seen(command, group).split())
    assert processors == 1 and heap <= LIMIT >> 20


def test_a_container_has_been_up_as_long_as_its_first_process() -> None:
    if os.geteuid():
        pytest.skip("needs root to make a pid namespace")
    code = "print(open('/proc/uptime').read().split()[0])"
    handlers = [families.served(limits=True), *OTHERS]
    done = inside([PYTHON, "-ISc", code], handlers, namespaces=("mnt", "pid"))
    assert 0 <= float(done.stdout) < 60, done.stderr


def test_without_limits_all_is_the_machines() -> None:
    code = "print([open(p).read().split(None, 2)[1] for p in ('/proc/meminfo', '/sys/devices/system/cpu/online', '/proc/cpuinfo') if p != '/sys/devices/system/cpu/online'], open('/sys/devices/system/cpu/online').read())"
    natively = subprocess.run(python(code), capture_output=True, check=True, timeout=60).stdout
    assert seen(python(code), []) == natively.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="runs as another user")
def test_a_way_that_the_caller_may_not_take_tells_it_nothing() -> None:
    """The monitor may go there, and would say by its errors what is in a directory that is not the caller's."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    (place / "secret/there").mkdir(parents=True)
    (place / "secret").chmod(0o700)
    (place / "other").write_text("natively")
    code = """
        import errno, os, sys
        for way in ("", "/secret/there/../..", "/secret/nothing/../..", "/nothing/.."):
            for name in ("served", "other"):
                for call in (os.stat, lambda path: open(path).read(), lambda path: os.access(path, 4)):
                    try:
                        found = call(sys.argv[1] + way + "/" + name)
                        print(found if isinstance(found, (str, bool)) else "seen", end=" ")
                    except OSError as error:
                        print(errno.errorcode[error.errno], end=" ")
            print()
    """
    handler = families.served(content="hello", when={"path": f"{place}/served"})
    try:
        done = proctor.run(
            ["/usr/bin/python3", "-I", "-c", textwrap.dedent(code), str(place)], [handler, *OTHERS],
            capture_output=True, timeout=60, uid=4242, gid=4242, groups=(),
        )  # fmt: skip
    finally:
        shutil.rmtree(place)
    refused = "EACCES EACCES False " * 2
    assert done.stdout.decode().splitlines() == [
        "seen hello True seen natively True ",
        refused,
        refused,
        "ENOENT ENOENT False " * 2,
    ], done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a time namespace")
def test_in_a_time_namespace_the_clock_is_the_callers() -> None:
    code = """
        import ctypes, struct, time
        here = time.clock_gettime(time.CLOCK_BOOTTIME)
        buffer = ctypes.create_string_buffer(112)
        ctypes.CDLL(None).sysinfo(buffer)
        shown = float(open("/proc/uptime").read().split()[0])
        begun = next(int(line.split()[1]) for line in open("/proc/stat") if line.startswith("btime"))
        print(here > 10**7, abs(struct.unpack_from("@l", buffer)[0] - here) < 60, abs(shown - here) < 60,
              abs(time.time() - here - begun) < 60)
    """
    shifted = ["unshare", "-T", "--boottime", "10000000", "--fork", *python(code)]
    tried = subprocess.run(shifted, capture_output=True, text=True, check=False)
    if tried.stdout != "True True True True\n":
        pytest.skip("this kernel has no time namespaces, or no unshare(1) that makes them")
    handlers = [families.served(limits=True), families.resources(), *OTHERS]
    done = proctor.run(shifted, handlers, capture_output=True, text=True, timeout=60)
    assert done.stdout == tried.stdout, done.stderr

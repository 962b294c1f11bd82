"""Messages that say who sends them and pass descriptors: what the kernel says of them natively, it says when they are performed."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from typing import Any

import pytest

import proctor
from proctor import families
from tests.performing.support.containers import PRELUDE, PYTHON, inside, told

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="containers of other ids want the host's root"
)
COMMON = """
import array, resource, socket, threading
uid = int(sys.argv[1])
if uid:
    os.setgroups([])
    os.setresgid(uid, uid + 1, uid)
    os.setresuid(uid, uid + 1, uid)
me = os.getpid()
KINDS = socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET
def says(pid=None, uid=None, gid=None, cut=12):
    ids = me if pid is None else pid, os.getuid() if uid is None else uid, os.getgid() if gid is None else gid
    return socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("=iII", *ids)[:cut]
def passes(*numbers):
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers)
def pair(kind):
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    one.setblocking(False)
    other.setblocking(False)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return one, other
def received(sock):
    data, control, flags, _ = sock.recvmsg(99, 2000)
    found = []
    for level, kind, raw in control:
        if kind == socket.SCM_CREDENTIALS:
            pid, *ids = struct.unpack("=iII", raw)
            found.append([pid == me, *ids])
        else:
            numbers = array.array("i", raw)
            found.append([os.path.basename(os.readlink(f"/proc/self/fd/{each}"))[:8] for each in numbers])
            for each in numbers:
                os.close(each)
    return data.decode(), found, flags
"""
SAYS = f"""{COMMON}
a, b = os.memfd_create("a"), os.open("/etc", os.O_PATH)
many = [os.dup(a) for _ in range(249)]
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind("")
server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
server.setblocking(False)
messages = [
    [passes(a), says()], [says(), passes(a, b)], [passes(a), says(), passes(b)], [says(), passes(a), says()], [passes(), says()],
    [passes(a), says(uid=77)], [says(gid=77), passes(a)], [passes(999), says(uid=77)], [says(uid=77), passes(999)],
    [passes(999), says(uid=0xFFFFFFFF)], [says(uid=0xFFFFFFFF), passes(999)], [says(uid=3000000000), passes(a)],
    [passes(a), says(cut=11)], [says(cut=11), passes(999)], [says(), passes(-1)], [passes(a, -1), says()],
    [says(uid=os.geteuid(), gid=os.getegid()), passes(a)], [says(uid=0), passes(a)], [passes(a), (1, 99, b""), says()],
    [passes(*many), says()], [passes(*[a] * 249), says()], [says(), passes(*[a] * 254)],
    [passes(*many), passes(*[a] * 5), says(uid=77)], [passes(*[999] * 254), says()], [passes(a, 999), passes(*[a] * 252)],
    [says(), passes(999), says(pid=0)], [says(), passes(a), says(cut=3), says(pid=0)],
]
for kind in KINDS:
    for control in messages:
        for data in (b"nine", b""):
            one, other = pair(kind)
            tried(one.sendmsg, [data], control)
            tried(received, other)
            tried(one.sendmsg, [data], control, socket.MSG_OOB)
            tried(received, other)
            other.close()
            tried(one.sendmsg, [data], control, socket.MSG_NOSIGNAL)
            one.shutdown(socket.SHUT_WR)
            tried(one.sendmsg, [data], control, socket.MSG_NOSIGNAL)
            with socket.socket(socket.AF_UNIX, kind) as alone:
                tried(alone.sendmsg, [data], control)
                for to in (server.getsockname(), b"\\0nobody", "/etc", "/missing/x"):
                    tried(alone.sendmsg, [data], control, 0, to)
                tried(received, server)
tried(one.sendmsg, [bytes(1 << 21)], messages[0])
"""
#: How many descriptors go until there are too many in flight, of each kind, and again when all were taken out.
KEEPS = f"""{COMMON}
soft = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft * 2))
def kept(one, *control):
    for count in range(1000):
        try:
            one.sendmsg([b"x"], control)
        except OSError as error:
            return count, errno.errorcode[error.errno]
for kind in KINDS:
    for control in ([passes(0, 1, 2), says()], [says(), passes(0)], [passes(0, 1, 2)]):
        one, other = pair(kind)
        first, second = pair(socket.SOCK_STREAM)
        for most in (soft, soft // 2, soft * 2):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, soft * 2))
            count, _ = tried(kept, first, *control)
            tried(kept, one, *control)
            tried(one.sendmsg, [b"y"], [says()])
            tried(received, other)
            tried(one.sendmsg, [b""], control)
            tried(first.sendmsg, [b""], control)
            tried(one.sendmsg, [b"z"], [passes(999), says()])
            tried(one.sendmsg, [b"z"], [passes(0), says(uid=0xFFFFFFFF)])
            tried(alone.sendmsg, [b"z"], control) if (alone := socket.socket(socket.AF_UNIX, kind)) else 0
            for each in second, other:
                try:
                    while received(each):
                        pass
                except BlockingIOError:
                    pass
        for each in one, other, first, second, alone:
            each.close()
"""


def natively(program: str, *args: object) -> list[Any]:
    """What it tells without anybody in between, as root of the machine."""
    text = f"{PRELUDE}\n{program}\nprint(json.dumps(results))\n"
    words = [PYTHON, "-ISc", text, *map(str, args)]
    done = subprocess.run(words, check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return [words, done.stdout.decode()]


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("namespaces", [("mnt", "ipc"), ("mnt", "pid"), None])
def test_who_passes_descriptors_is_who_says_so(
    namespaces: tuple[str, ...] | None, uid: int
) -> None:
    if namespaces is None:
        words, native = natively(SAYS, uid)
        done = proctor.run(words, [families.send()], capture_output=True, timeout=120)
        assert done.stdout.decode() == native, done.stderr
    else:
        # CAP_SYS_ADMIN of a namespace of its own names anybody there
        expected = told(SAYS, uid, namespaces=namespaces)
        made = told(SAYS, uid, namespaces=namespaces, handlers=[families.send()], timeout=120)
        assert made == expected
        native = str(expected)
    said = set(native.replace('"', "'").split("'"))
    assert {"EBADF", "EINVAL", "ENOTCONN", "ECONNREFUSED", "EMSGSIZE"} <= said
    assert ("EPERM" in said) == bool(uid)


OTHERS = f"""{COMMON}
def named():
    for kind in KINDS:
        one, other = pair(kind)
        for pid in sorted(int(each) for each in os.listdir("/proc") if each.isdecimal()):
            for control in ([says(pid)], [says(), says(pid)], [says(pid), passes(0)]):
                for data in (b"x", b""):
                    try:
                        one.sendmsg([data], control)
                        yield [pid == me, ""]
                        data and received(other)
                    except OSError as error:
                        yield [pid == me, errno.errorcode[error.errno]]
for _ in range(2):  # executors that there are by then, too
    results.append(sorted({{tuple(each) for each in named()}}))
"""


@pytest.mark.parametrize("namespaces", [("mnt", "ipc"), None])
def test_nobody_names_another_process_of_the_monitors_namespace(
    namespaces: tuple[str, ...] | None,
) -> None:
    """Nor an executor, which would be allowed to name itself."""
    if namespaces is None:
        text = f"{PRELUDE}\n{OTHERS}\nprint(json.dumps(results))\n"
        words = [PYTHON, "-ISc", text, "1000"]
        done = proctor.run(words, [families.send()], capture_output=True, timeout=120)
        made = json.loads(done.stdout)
    else:
        made = told(OTHERS, 0, namespaces=namespaces, handlers=[families.send()], timeout=120)
    assert made == [[[False, "EPERM"], [True, ""]]] * 2


TO_FILES = f"""{COMMON}
mount(b"none", b"/mnt", b"tmpfs")
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind("/mnt/socket")
server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
os.mkdir("/mnt/theirs")
os.rename("/mnt/socket", "/mnt/theirs/socket")
for mode in 0o600, 0o400, 0o444:
    os.chmod("/mnt/theirs/socket", mode)
    for owner in 0, 5, 6:
        os.chown("/mnt/theirs/socket", owner, owner)
        for right in 0, 1, 1 << 1, 1 << 2:  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if (child := os.fork()) == 0:
                me, results = os.getpid(), []
                os.setgroups([]), os.setresgid(5, 5, 5)
                libc.prctl(8, 1, 0, 0, 0), os.setresuid(5, 5, 5)
                libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", right, right, 0, 0, 0, 0))
                sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                for control in [says()], [says(), passes(0)]:
                    if isinstance(tried(sender.sendmsg, [b"x"], control, 0, "/mnt/theirs/socket"), int):
                        tried(received, server)
                print(json.dumps(results), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
"""


def test_to_a_socket_file_that_may_be_written_by_a_right_alone() -> None:
    made = []
    for handlers in [], [families.send()]:
        text = f"{PRELUDE}\n{TO_FILES}"
        done = inside([PYTHON, "-ISc", text, "0"], handlers)
        assert done.returncode == 0, done.stderr
        made.append(done.stdout)
    assert made[1] == made[0]
    assert len(made[0].splitlines()) == 36
    assert "EACCES" in made[0]


@pytest.mark.parametrize("namespaces", [("mnt", "pid"), None])
def test_nobody_keeps_more_of_them_in_flight_than_the_kernel_lets_him(
    namespaces: tuple[str, ...] | None,
) -> None:
    """By the caller's own limit, which changes, and counted as its user's: whoever shares that, in whatever message."""
    if namespaces is None:
        uid = 61234  # nobody else has any in flight
        words, native = natively(KEEPS, uid, 40)
        done = proctor.run(words, [families.send()], capture_output=True, timeout=120)
        assert done.stdout.decode() == native, done.stderr
    else:
        how: dict[str, Any] = {"namespaces": namespaces, "first": 1234567}
        expected = told(KEEPS, 0, 40, **how)
        assert told(KEEPS, 0, 40, handlers=[families.send()], timeout=120, **how) == expected
        native = str(expected)
    assert "ETOOMANYREFS" in native


TOGETHER = f"""{PRELUDE}{COMMON}
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
ends = [pair(socket.SOCK_DGRAM if each % 2 else socket.SOCK_STREAM) for each in range(8)]
def sends(one, found):
    try:
        while True:
            one.sendmsg([b"x"], [passes(*[0] * 10), says()])
            found.append(10)
    except OSError as error:
        if error.errno == errno.ETOOMANYREFS:
            said.append(error.errno)
found, said = [], []
threads = [threading.Thread(target=sends, args=(one, found)) for one, _ in ends]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(len(said), sum(found))
"""


def test_whoever_sends_from_many_threads_is_stopped_likewise() -> None:
    command = [PYTHON, "-ISc", TOGETHER, "0"]
    done = inside(command, [families.send()], first=2345678, namespaces=("pid",))
    assert done.returncode == 0, done.stderr
    stopped, kept = map(int, done.stdout.split())
    assert stopped == 8
    assert 64 < kept <= 64 + 8 * 10  # what each had asked about before any was counted


SEVERAL = f"""{COMMON}
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
class Header(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p), ("namelen", ctypes.c_uint), ("iov", ctypes.c_void_p), ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_size_t), ("sent", ctypes.c_size_t),
    ]
resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4000))
file, counts = os.memfd_create("a"), list(map(int, sys.argv[2].split(",")))
for kind in KINDS:
    headers, kept = (Header * len(counts))(), []
    for header, count in zip(headers, counts):
        numbers = [os.dup(file) for _ in range(count)]
        control = struct.pack(f"@Nii{{count}}i", 16 + 4 * count, 1, 1, *numbers)
        control = ctypes.create_string_buffer(control + bytes(-len(control) % 8))
        data = ctypes.create_string_buffer(b"x")
        vector = Vector(ctypes.addressof(data), 1)
        kept += numbers, control, data, vector
        header.iov, header.iovlen = ctypes.addressof(vector), 1
        header.control, header.controllen = ctypes.addressof(control), len(control) - 1
    one, other = pair(kind)
    results.append(libc.sendmmsg(one.fileno(), headers, len(counts), 0))
    for _ in range(max(results[-1], 0)):
        results.append(len(received(other)[1][-1]))
    try:
        received(other)
    except BlockingIOError:
        results.append("no more")
    for numbers in kept[::4]:
        for each in numbers:
            os.close(each)
"""


@pytest.mark.parametrize("counts, sent", [([249] * 5, 5), ([1, 2, 249, 3], 2)])
def test_several_messages_take_no_more_of_the_monitors_descriptors_than_one(
    counts: list[int], sent: int
) -> None:
    """And where it has not enough for one of them, those before it are sent, once, and the answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/proc/self/fd")))
    free = [number for number in range(1000) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[400 if sent == 5 else 150], hard))
    try:
        words = ",".join(map(str, counts))
        made = told(SEVERAL, 0, words, handlers=[families.send()], namespaces=("mnt", "pid"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert made == [sent, *counts[:sent], "no more"] * 3

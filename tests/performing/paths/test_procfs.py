"""Links of procfs: whoever's they are, and never an executor's own."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from proctor.call.verdict import Deny, Verdict
from tests.performing.executing.test_performers import children, parent_of
from tests.performing.families.test_open_differential import HOW, MAP, as_user
from tests.performing.support.callers import (
    AT_FDCWD,
    CLONE_NEWNS,
    MS_BIND,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    Caller,
    Performers,
    caller,
    check,
    content,
    in_dead_root,
    libc,
    mount,
    open_directory,
    outcome,
    private_mounts,
    unshare,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")


def opened(performers: Performers, one: Caller, path: bytes, flags: int = 0, **how: Any) -> Verdict:
    return performers.perform(one.call("openat", AT_FDCWD, path, flags, 0), **how)


def field(text: bytes, name: bytes) -> int:
    return int(next(line for line in text.split(b"\n") if line.startswith(name + b":")).split()[1])


@pytest.mark.parametrize("threaded", [False, True], ids=["leader", "thread"])
@pytest.mark.parametrize("maps", [None, MAP], ids=["root", "container"])
@pytest.mark.parametrize("proc", ["old", "new"])
def test_self_is_the_caller_in_a_pid_namespace(
    performers: Performers, proc: str, maps: str | None, threaded: bool
) -> None:
    """In an outer procfs it has its outer number: its inner one, a small one, is somebody else's there."""
    seen: list[bytes] = []

    def allow(argument: str, path: bytes) -> bool:
        seen.append(path)
        return True

    with caller(maps=maps, proc=proc, threaded=threaded) as one:
        with open(f"/proc/{one.tid}/status", "rb") as file:
            text = file.read()
        numbers = {
            name: int(next(line for line in text.split(b"\n") if line.startswith(name)).split()[1 if proc == "old" else -1])
            for name in (b"NStgid:", b"NSpid:")
        }  # fmt: skip
        tgid, tid = numbers[b"NStgid:"], numbers[b"NSpid:"]
        assert (tgid == tid) == (not threaded)
        for how in ({}, {"allow": allow}):
            for path in (
                b"/proc/self/status",
                b"/proc/self/../self/status",
                b"/proc/./self//status",
            ):
                assert field(content(opened(performers, one, path, **how)), b"Tgid") == tgid
            text = content(opened(performers, one, b"/proc/thread-self/status", **how))
            assert field(text, b"Pid") == tid
            outcome(opened(performers, one, b"/proc/self/oom_score_adj", os.O_WRONLY, **how))
        assert seen[0] == b"/proc/%d/status" % tgid
        assert seen[3] == b"/proc/%d/task/%d/status" % (tgid, tid)
        assert seen[4] == b"/proc/%d/oom_score_adj" % tgid


def test_a_procfs_that_does_not_show_the_caller(performers: Performers, top: bytes) -> None:
    """Mounted by somebody in a pid namespace below: self leads nowhere, as natively."""

    def setup() -> None:
        private_mounts()
        pid = os.fork()
        if pid == 0:
            unshare(0x20000000)  # CLONE_NEWPID
            inner = os.fork()
            if inner == 0:
                mount(b"proc", top, b"proc", 0)
                os._exit(0)
            os.waitpid(inner, 0)
            os._exit(0)
        os.waitpid(pid, 0)

    with caller(setup) as one:
        for path in (
            top + b"/self/status",
            top + b"/self",
            top + b"/thread-self/fd/0",
            top + b"/mounts",
        ):
            native = one.natively("openat", AT_FDCWD, path, 0, 0)
            assert native == ("errno", errno.ENOENT)
            assert one.performed(performers, "openat", AT_FDCWD, path, 0, 0) == native


def test_an_executor_is_not_found_by_its_number(performers: Performers) -> None:
    """Descriptors, program, namespaces of whoever acts for a caller: by number, along .. and links."""

    def setup() -> None:
        unshare(CLONE_NEWNS)

    with caller(setup, MAP) as one:
        content(opened(performers, one, b"/proc/sys/kernel/ostype"))
        (executor,) = children(parent_of(performers))
        for name in (
            b"exe",
            b"ns/pid",
            b"ns/mnt",
            b"cwd",
            b"root",
            b"fd/0",
            b"fd/3",
            b"fd/4",
            b"mem",
            b"environ",
        ):
            for way in (
                b"/proc/%d/",
                b"/proc/self/../%d/",
                b"/proc/thread-self/../../../%d/task/../",
                b"/proc/./%d/",
            ):
                path = way % executor + name
                for how in ({}, {"allow": lambda argument, path: True}):
                    native = one.natively("openat", AT_FDCWD, path, os.O_NONBLOCK, 0)
                    assert native[0] == "errno"
                    verdict = opened(performers, one, path, os.O_NONBLOCK, **how)
                    assert outcome(verdict) == native, path


def test_a_part_of_a_process_that_is_mounted_elsewhere(performers: Performers, top: bytes) -> None:
    """Nobody can say whose it is: not even the executor's own is opened by it."""
    for name in (b"fd", b"self"):
        os.mkdir(top + b"/" + name)
    for name in (b"mem", b"exe", b"status"):
        os.close(os.open(top + b"/" + name, os.O_CREAT))

    with caller(lambda: unshare(CLONE_NEWNS), MAP) as one:
        content(opened(performers, one, b"/proc/sys/kernel/ostype"))
        (executor,) = children(parent_of(performers))
        for name in (b"fd", b"mem", b"status"):
            done = one.natively(
                "mount", b"/proc/%d/" % executor + name, top + b"/" + name, 0, MS_BIND, 0
            )
            assert done == ("value", 0)
        done = one.natively("mount", b"/proc/%d" % executor, top + b"/self", 0, MS_BIND, 0)
        assert done == ("value", 0)
        for path in (
            b"/fd/0",
            b"/fd/3",
            b"/fd/../fd/3",
            b"/mem",
            b"/self/mem",
            b"/self/fd/3",
            b"/self/exe",
            b"/self/cwd/etc",
        ):
            for how in ({}, {"allow": lambda argument, path: True}):
                for flags in (os.O_RDONLY, os.O_RDONLY | os.O_CREAT, os.O_RDONLY | os.O_NOFOLLOW):
                    verdict = opened(performers, one, top + path, flags | os.O_NONBLOCK, **how)
                    assert isinstance(verdict, Deny), (path, flags)
                    assert verdict.errno in (errno.EACCES, errno.ELOOP, errno.EPERM), (
                        path,
                        verdict,
                    )
        assert content(opened(performers, one, b"/proc/sys/kernel/ostype")) == b"Linux\n"


def test_parts_that_belong_to_no_process_may_be_mounted_anew(performers: Performers) -> None:
    """As container runtimes do: /proc/sys and others are mounted on themselves, read-only."""

    def setup() -> None:
        private_mounts()
        for path in (b"/proc/sys", b"/proc/interrupts"):
            mount(path, path, b"none", MS_BIND)
            mount(path, path, b"none", MS_BIND | MS_REMOUNT | MS_RDONLY)

    with caller(setup, proc="new") as one:
        for how in ({}, {"allow": lambda argument, path: True}):
            assert content(opened(performers, one, b"/proc/sys/kernel/ostype", **how)) == b"Linux\n"
            for path, flags in (
                (b"/proc/sys/kernel/hostname", os.O_WRONLY),
                (b"/proc/interrupts", os.O_WRONLY),
                (b"/proc/sys", 0),
            ):
                native = one.natively("openat", AT_FDCWD, path, flags, 0)
                assert (
                    one.performed(performers, "openat", AT_FDCWD, path, flags, 0, **how) == native
                )


def test_a_root_and_a_working_directory_in_procfs(performers: Performers) -> None:
    for setup in (
        lambda: os.chdir("/proc"),
        lambda: os.chdir("/proc/self"),
        lambda: os.chdir("/proc/self/fd"),
        lambda: os.chroot("/proc"),
    ):
        with caller(setup) as one:
            for path in (
                b"self/status",
                b"status",
                b"0",
                b"../self/comm",
                b"/self/status",
                b"/sys/kernel/ostype",
                b".",
                b"cwd",
                b"../fd/0",
            ):
                for how in ({}, {"allow": lambda argument, path: True}):
                    arguments = (AT_FDCWD, path, os.O_RDONLY | os.O_NONBLOCK, 0)
                    native = one.natively("openat", *arguments)
                    assert one.performed(performers, "openat", *arguments, **how) == native, path


def test_a_root_directory_within_procfs_ends_the_way_up(performers: Performers) -> None:
    """Above it is itself: a walk that looks for the root of that procfs would go up for ever."""
    with caller(lambda: os.chroot("/proc/self/task")) as one:
        path = b"/%d/status" % one.tid
        assert opened(performers, one, path) == Deny(errno.EACCES)
        assert opened(performers, one, b"/x") == Deny(errno.ENOENT)


def test_a_long_way_through_procfs_takes_few_descriptors(performers: Performers) -> None:
    """One call of one container must not use up what the monitor has for all."""
    way = b"/proc/sys" + b"/../sys" * 550
    with caller(as_user) as one:
        assert outcome(opened(performers, one, b"/proc/self/status"))[0] == "fd"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
        try:
            found = outcome(opened(performers, one, way + b"/kernel/ostype"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert found == one.natively("openat", AT_FDCWD, way + b"/kernel/ostype", 0, 0)


def test_names_in_procfs_may_be_as_long_as_they_like(performers: Performers) -> None:
    with caller(as_user) as one:
        for length in (255, 256, 257, 4000):
            for path in (b"/proc/self/%s", b"/proc/%s/x", b"/proc/self/cwd/%s/x"):
                long = path % (b"x" * length)
                found = outcome(opened(performers, one, long))
                assert found == one.natively("openat", AT_FDCWD, long, 0, 0), (path, length)


IN_ITS_OWN_PIDS = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-I", "-c"]


def test_what_each_pid_namespace_has_for_itself_is_not_the_hosts() -> None:
    """The kernel finds kernel/pid_max by the pid namespace of whoever looks (Linux 6.14), which is an
    executor: root of a container that is root of the host would write the host's."""
    code = """if True:
        import errno, os
        os.chdir("/proc/sys/kernel")
        for path in ("/proc/sys/kernel/pid_max", "pid_max", "/proc/self/root/proc/sys/kernel/pid_max"):
            for flags in (os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_NOFOLLOW):
                try:
                    os.write(os.open(path, flags), b"400")
                except OSError as error:
                    print(errno.errorcode[error.errno], end=" ")
        os.close(os.open("pid_max", os.O_RDONLY))
        print(open("sched_rr_timeslice_ms", "r+").readline())
    """
    host, other = (
        Path("/proc/sys/kernel/" + name) for name in ("pid_max", "sched_rr_timeslice_ms")
    )
    before = host.read_text()
    try:
        done = proctor.run(
            [*IN_ITS_OWN_PIDS, code], [families.open()], capture_output=True, timeout=60
        )
        assert done.stdout.decode() == 9 * "EACCES " + other.read_text() + "\n", done.stderr
    finally:
        after = host.read_text()
        host.write_text(before)
    assert after == before


SAYS = """if True:
    import errno, os, socket, struct, sys
    uids, more = int(sys.argv[1]), sys.argv[2:]
    if uids:
        os.setgroups([]), os.setresgid(uids, uids + 1, 0), os.setresuid(uids, uids + 1, uids + 1 if more else 0)
    me = os.getpid()
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        other.setblocking(False)
        for said in (
            [(me, os.getuid(), os.getgid())], [(me, os.geteuid(), os.getegid())], [(me, 0, 0)], [(me, 77, os.getgid())],
            [(me, os.getuid(), 77)], [(me, 0xFFFFFFFF, 0)], [(me, 0, 0xFFFFFFFF)], [(me, 3000000000, 0)],
            *([[(0, 0, 0)], [(-1, 0, 0)]] if me != 1 else []), [(me, os.getuid(), os.getgid())] * 3,
            [(me, os.geteuid(), os.getgid()), (me, os.getuid(), os.getegid())], [(me, os.getuid(), os.getgid()), (me, 77, 0)],
            [(me, 77, os.getgid()), (me, os.getuid(), os.getgid())], [(me, 0xFFFFFFFF, 0), (me, 77, 0)], [(me, 77, 0), (me, 0xFFFFFFFF, 0)],
        ):
            for cut, only in ((0, 0), (1, 0), (-4, 0), (1, -1), (-4, 1)):
                packed = [struct.pack("=iII", *each) for each in said]
                for at in range(len(said))[only:] if only <= 0 else range(only):
                    packed[at] = packed[at][:12 + min(cut, 0)] + bytes(max(cut, 0))
                try:
                    sent = one.sendmsg([b"x" * 9], [(socket.SOL_SOCKET, 2, each) for each in packed])
                    data, control, flags, _ = other.recvmsg(99, 99)
                    pid, *ids = struct.unpack("=iII", control[0][2])
                    print(kind, [each[1:] for each in said], cut, only, sent, data, len(control), pid == me, ids, flags)
                except OSError as error:
                    print(kind, [each[1:] for each in said], cut, only, errno.errorcode[error.errno])
                try:  # to nobody
                    alone = socket.socket(socket.AF_UNIX, kind)
                    print("alone", alone.sendmsg([b"x"], [(socket.SOL_SOCKET, 2, each) for each in packed]))
                except OSError as error:
                    print("alone", errno.errorcode[error.errno])
"""


@pytest.mark.parametrize("uids", [["0"], ["1000"], ["1000", "all"]])
@pytest.mark.parametrize("user", [[], ["--user", "--map-root-user"], None])
def test_who_sends_is_who_says_so(user: list[str] | None, uids: list[str]) -> None:
    """The receiver sees the caller and no executor, in pid and user namespaces of its own, too; what it may not say is refused."""
    here = [sys.executable, "-I", "-c"]
    command = [*(here if user is None else [*IN_ITS_OWN_PIDS[:1], *user, *IN_ITS_OWN_PIDS[1:]])]
    if user:
        uids = ["0"]  # nobody else has a number there
    native = subprocess.run([*command, SAYS, *uids], check=True, capture_output=True, timeout=60)
    done = proctor.run([*command, SAYS, *uids], [families.send()], capture_output=True, timeout=60)
    assert b"True" in native.stdout
    assert (b"EPERM" in native.stdout) == (uids != ["0"])
    assert done.stdout.decode() == native.stdout.decode(), done.stderr


TO_A_FILE = """if True:
    import errno, os, socket, struct, sys
    place, uid = sys.argv[1], int(sys.argv[2])
    names = "open", "own", "roots", "stream", "shut/open", "directory", "missing", "link", "loop"
    if os.getuid() == 0:
        os.chmod(place, 0o755)
        held = {}
        for name in names[:6]:
            if name == "directory":
                os.mkdir(f"{place}/{name}")
                continue
            os.makedirs(os.path.dirname(f"{place}/{name}"), exist_ok=True)
            held[name] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if name == "stream" else socket.SOCK_DGRAM)
            held[name].bind(f"{place}/{name}")
            held[name].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            held[name].setblocking(False)
            os.chmod(f"{place}/{name}", 0o600 if name in ("own", "roots") else 0o666)
        if uid:
            os.chown(f"{place}/own", uid, uid)
        os.chmod(f"{place}/shut", 0o700)
        os.symlink("own", f"{place}/link"), os.symlink("loop", f"{place}/loop")
    if uid:
        os.setgroups([]), os.setresgid(*[uid] * 3), os.setresuid(*[uid] * 3)
    me, sender = os.getpid(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for name in names:
        for said in (me, uid, uid), (me, 77, uid), (me, uid, 0xFFFFFFFF):
            for to in f"{place}/{name}", os.path.relpath(f"{place}/{name}"):
                try:
                    ancillary = [(socket.SOL_SOCKET, 2, struct.pack("=iII", *said))]
                    print(name, said[1:], sender.sendmsg([b"x" * 9], ancillary, 0, to))
                    data, control, flags, _ = held["own" if name == "link" else name].recvmsg(99, 99)
                    pid, *ids = struct.unpack("=iII", control[0][2])
                    print(data, len(control), pid == me, ids, flags)
                except OSError as error:
                    print(name, said[1:], errno.errorcode[error.errno])
"""


@pytest.mark.parametrize("user", [[], ["--user", "--map-root-user"], None])
def test_who_sends_to_a_socket_file_is_who_says_so(user: list[str] | None) -> None:
    here = [sys.executable, "-I", "-c"]
    command = [*(here if user is None else [*IN_ITS_OWN_PIDS[:1], *user, *IN_ITS_OWN_PIDS[1:]])]
    for uid in ("0",) if user else ("0", "1000"):  # nobody else has a number there
        said = []
        for handlers in ((), ([families.send()],)):
            with open_directory() as place:
                words = [*command, TO_A_FILE, os.fsdecode(place), uid]
                run: Any = proctor.run if handlers else subprocess.run
                done = run(words, *handlers, capture_output=True, timeout=60)
                said.append(done.stdout.decode())
                assert done.returncode == 0, done.stderr
        assert said[1].splitlines() == said[0].splitlines()
        of_uid = {"ECONNREFUSED"} if uid == "0" else {"EACCES", "EPERM"}
        assert {"True", "ENOENT", "ELOOP", "EPROTOTYPE", "EINVAL"} | of_uid <= set(said[0].split())


def test_who_sends_is_nobody_else_of_the_hosts() -> None:
    """A process id in SCM_CREDENTIALS is the sender's pid namespace's, and the executor's is the host's."""
    code = """if True:
        import array, errno, os, socket, struct
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        child = os.fork()
        if not child:
            os.pause() if hasattr(os, "pause") else __import__("signal").pause()
        ucred = lambda pid: (socket.SOL_SOCKET, 2, struct.pack("3i", pid, 0, 0))
        me, rights = ucred(os.getpid()), (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))
        for control in ([ucred(child)], [me, ucred(child)], [me, rights, ucred(child)]):
            try:
                one.sendmsg([b"x"], control)
            except OSError as error:
                print(errno.errorcode[error.errno])
        os.kill(child, 9)
        one.sendmsg([b"plain"])
        print(other.recv(9))
    """
    done = proctor.run([*IN_ITS_OWN_PIDS, code], [families.send()], capture_output=True, timeout=60)
    assert done.stdout.decode() == "EPERM\nEPERM\nEPERM\nb'plain'\n", done.stderr


def test_a_dot_in_a_directory_without_search_right(performers: Performers, top: bytes) -> None:
    """Behind a link of procfs, where it is walked step by step: also a dot with slashes behind it."""
    os.mkdir(top + b"/noexec", 0o600)
    os.chown(top + b"/noexec", 1000, 1000)

    def setup() -> None:
        os.chdir(top)
        as_user()

    with caller(setup) as one:
        for end in (b"noexec", b"noexec/", b"noexec/.", b"noexec/./", b"noexec/.//./", b"./"):
            path = b"/proc/thread-self/cwd/" + end
            for flags in (os.O_RDONLY, os.O_WRONLY):
                native = one.natively("openat", AT_FDCWD, path, flags, 0)
                said = outcome(opened(performers, one, path, flags))
                assert said[:2] == native[:2] or said[0] == native[0] == "fd", (path, flags)


MAGIC = [
    b"/proc/1/root", b"/proc/1/root/etc", b"/proc/self/root/etc", b"/proc/self/cwd/..", b"/proc/1/cwd/", b"/proc/1/fd/77",
    b"/proc/self/fd/77/..", b"/proc/1/exe", b"/proc/self/exe", b"/proc/self/ns/mnt", b"/proc/self/ns/mnt/x", b"/proc/1/task/1/root/..",
    b"/proc/thread-self/fd/77/x", b"/proc/self/root/proc/2/root/etc", b"/proc/2/cwd", b"/proc/2/fd/0", b"/proc/self/fd/999",
    b"/proc/self/root/proc/self/root/proc", b"link", b"link/x", b"/proc/self/map_files/1-2",
]  # fmt: skip


@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("maps", [None, MAP], ids=["machine", "container"])
def test_links_to_objects_in_every_scope(
    performers: Performers, top: bytes, maps: str | None, who: str
) -> None:
    """Where the path starts at the root, so that it comes to a procfs in a scope, too."""

    def setup() -> None:
        private_mounts()
        mount(b"none", b"/mnt", b"tmpfs", 0)
        os.chdir("/mnt")
        os.mkdir("proc")
        os.mkdir("etc")
        os.symlink("/proc/1/root", "link")
        if os.fork() == 0:  # number 2 may be somebody else's
            signal.pause()
        mount(b"/proc", b"proc", b"none", MS_BIND | MS_REC)
        os.chroot(".")
        os.chdir("/")
        os.dup2(os.open("/etc", os.O_RDONLY), 77)
        if who == "user":
            os.setresgid(20, 20, 20)
            os.setresuid(10, 10, 10)

    wrong = []
    with caller(setup, maps, proc="new") as one:
        for resolve in (0, 1, 2, 8, 16, 17):
            for flags in (0, os.O_RDWR | os.O_CREAT):
                packed = HOW.pack(
                    flags | os.O_NONBLOCK, 0o600 if flags & os.O_CREAT else 0, resolve
                )
                for path in MAGIC:
                    native = one.natively("openat2", AT_FDCWD, path, packed, HOW.size)
                    for how in ({}, {"allow": lambda argument, path: True}):
                        done = one.performed(
                            performers, "openat2", AT_FDCWD, path, packed, HOW.size, **how
                        )
                        if native != done:
                            wrong.append((resolve, oct(flags), path, bool(how), native, done))
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(map(str, wrong[:25]))


ROOTS = [
    b"/", b"//", b"/.", b"/..", b"/x", b"/x/..", b"/fdinfo", b"/self", b"/0", b"link", b"link/", b"link/x", b"file", b".",
    b"./", b"",
]  # fmt: skip


@pytest.mark.parametrize("place", ["", "fdinfo", "ns", "task", "task/TID", "task/TID/fdinfo"])
@pytest.mark.parametrize("maps", [None, MAP], ids=["machine", "container"])
def test_a_root_of_a_process_that_is_dead(
    performers: Performers, top: bytes, maps: str | None, place: str
) -> None:
    """In some of them nothing is allowed any more (ESRCH), in others nothing is there."""

    def setup() -> None:
        os.chdir(top)
        in_dead_root(place)

    with open(top + b"/file", "wb"):
        os.chmod(top, 0o777)
        os.symlink("/", top + b"/link")
    wrong = []
    with caller(setup, maps, proc="new" if maps else "") as one:
        for path in ROOTS:
            if path in (b"/.", b"/..") and place in ("ns", "task/TID"):
                continue  # refused: nobody can say whose directory that is
            calls: list[tuple[Any, ...]] = [
                ("openat", AT_FDCWD, path, flags | os.O_NONBLOCK, 0o600)
                for flags in (0, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_RDWR, os.O_CREAT)
            ]
            calls += [
                ("openat2", AT_FDCWD, path, HOW.pack(os.O_NONBLOCK, 0, resolve), HOW.size)
                for resolve in (1, 2, 4, 8, 16)
            ]
            calls.append(("mknodat", AT_FDCWD, path, 0o100600, 0))
            for call in calls:
                native = one.natively(*call)
                for how in ({}, {"allow": lambda argument, path: True}):
                    done = one.performed(performers, *call, **how)
                    if native != done:
                        wrong.append((call, bool(how), native, done))
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(map(str, wrong[:25]))


def open_tree(path: bytes, flags: int = 0x101) -> int:
    """A mount of a link itself, or of a part of a tree (OPEN_TREE_CLONE, AT_SYMLINK_NOFOLLOW)."""
    return check(libc.syscall(ctypes.c_long(428), AT_FDCWD, path, flags))


def move_mount(tree: int, place: int) -> None:
    """Over a place that is held, be it a link."""
    check(libc.syscall(ctypes.c_long(429), tree, b"", place, b"", 0x44))


@pytest.mark.parametrize("how", ["number", "link"])
def test_what_is_mounted_over_ones_own_directory_makes_nothing_ones_own(
    performers: Performers, how: str
) -> None:
    """Whoever may mount in his own namespace puts another's process, or a link of that, where his own is looked for."""
    victim = os.getpid()

    def setup() -> None:
        unshare(CLONE_NEWNS)
        own = os.getpid()
        if how == "number":
            mount(b"/proc/%d" % victim, b"/proc/%d" % own, b"none", MS_BIND)
            return
        for name in (b"cwd", b"root", b"exe", b"ns/net"):
            place = os.open(b"/proc/%d/%s" % (own, name), os.O_PATH | os.O_NOFOLLOW)
            move_mount(open_tree(b"/proc/%d/%s" % (victim, name)), place)

    with caller(setup, MAP) as one:
        number = one.pid if how == "link" else victim
        for name in (b"cwd", b"root", b"exe", b"ns/net", b"fd/0", b"root/etc", b"fd", b"fdinfo/0"):
            path = b"/proc/%d/%s" % (number, name)
            for flags in (0, os.O_DIRECTORY, os.O_NOFOLLOW):
                native = one.natively("openat", AT_FDCWD, path, flags, 0)
                for more in ({}, {"allow": lambda argument, path: True}):
                    assert outcome(opened(performers, one, path, flags, **more)) == native, path


def test_an_executors_links_are_nobodys_own_wherever_they_are_mounted(
    performers: Performers,
) -> None:
    """Over the caller's, for instance: whoever acts for him is let in there by the kernel, and he is not."""
    ours, theirs = socket.socketpair()

    def over() -> None:
        executor = int(ours.recv(16))
        for name in (b"cwd", b"root", b"exe", b"ns/mnt"):
            place = os.open(b"/proc/%d/%s" % (os.getpid(), name), os.O_PATH | os.O_NOFOLLOW)
            move_mount(open_tree(b"/proc/%d/%s" % (executor, name)), place)
        ours.send(b"done")

    def setup() -> None:
        unshare(CLONE_NEWNS)
        threading.Thread(target=over, daemon=True).start()

    with ours, theirs, caller(setup, MAP) as one:
        theirs.settimeout(20)
        content(opened(performers, one, b"/proc/sys/kernel/ostype"))
        (executor,) = children(parent_of(performers))
        theirs.send(b"%d" % executor)
        assert theirs.recv(16) == b"done"
        for name in (b"cwd", b"root", b"exe", b"ns/mnt", b"root/etc"):
            native = one.natively("openat", AT_FDCWD, b"/proc/self/" + name, 0, 0)
            assert native == ("errno", errno.EACCES)
            for more in ({}, {"allow": lambda argument, path: True}):
                verdict = opened(performers, one, b"/proc/self/" + name, **more)
                assert outcome(verdict) == native, name


def test_what_is_mounted_over_ones_own_files_is_not_opened_as_ones_own(
    performers: Performers,
) -> None:
    """By a caller that is let in there where its executor is not, over what the monitor opens for it: whoever acts for
    it is let in to an executor's own."""
    ours, theirs = socket.socketpair()

    def over() -> None:
        executor = int(ours.recv(16))
        for source, name in (
            (b"/proc/%d/maps" % executor, b"maps"),
            (b"/proc/%d/timers" % executor, b"numa_maps"),
            (b"/proc/version", b"smaps_rollup"),
            (b"/proc/%d/maps" % victim, b"smaps"),
        ):
            mount(source, b"/proc/%d/" % os.getpid() + name, b"none", MS_BIND)
        ours.send(b"done")

    def setup() -> None:
        unshare(CLONE_NEWNS)
        threading.Thread(target=over, daemon=True).start()

    victim = os.getpid()
    with ours, theirs, caller(setup, MAP, in_thread=lambda: libc.prctl(4, 0, 0, 0, 0)) as one:
        theirs.settimeout(20)
        content(opened(performers, one, b"/proc/sys/kernel/ostype"))
        (executor,) = children(parent_of(performers))
        theirs.send(b"%d" % executor)
        assert theirs.recv(16) == b"done"
        for name in (
            b"maps",
            b"numa_maps",
            b"smaps_rollup",
            b"smaps",
            b"auxv",
            b"timers",
        ):
            for flags in (0, os.O_CREAT, os.O_NOFOLLOW, os.O_NOATIME, os.O_RDWR):
                native = one.natively("openat", AT_FDCWD, b"/proc/self/" + name, flags, 0)
                for more in ({}, {"allow": lambda argument, path: True}):
                    verdict = opened(performers, one, b"/proc/self/" + name, flags, **more)
                    said = outcome(verdict)  # EACCES before EPERM is ours
                    assert said == native or said[0] == native[0] == "errno", (name, flags)
        assert one.natively("openat", AT_FDCWD, b"/proc/self/timers", 0, 0)[0] == "fd"
        assert one.natively("openat", AT_FDCWD, b"/proc/self/maps", 0, 0) == ("errno", errno.EACCES)

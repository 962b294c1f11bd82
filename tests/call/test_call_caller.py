"""Who calls: identity of real threads, taken while they wait, and of callers made up."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proctor.call import identity
from proctor.call.caller import Caller
from proctor.call.credentials import NAMESPACES, overflow_ids
from proctor.call.decode.values import NO_LIMIT
from proctor.call.identity import CAPABILITIES, IdRange, Ids, Status, parse_cgroups
from proctor.errors import (
    CallerInvisible,
    CallGone,
    CallOver,
    NotPermitted,
    Unsupported,
)
from proctor.kernel import abi
from proctor.kernel.listener import Listener
from tests.call.fakes import FakeListener, call
from tests.call.live import chroot, nr
from tests.support import bpf

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's /proc")

STATUS = b"""Name:\tevil\\nUid:\\t0
Umask:\t0027
State:\tS (sleeping)
Tgid:\t100
Pid:\t101
NStgid:\t100\t7
NSpid:\t101\t8
Uid:\t1\t2\t3\t4
Gid:\t5\t6\t7\t8
Groups:\t10 20\x20
CapInh:\t0000000000000000
CapPrm:\t000001ffffffffff
CapEff:\t0000000008000000
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000001
"""


class FakeProc:
    """Files of /proc/TID as a dictionary; a missing one is ENOENT."""

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.closed = 0

    def read(self, name: str) -> bytes:
        return self._get(name)

    def link(self, name: str) -> bytes:
        return self._get(name)

    def size(self, name: str) -> int:
        return len(self.names(name))

    def names(self, name: str) -> list[str]:
        return self._get(name).decode().split()

    def open(self, name: str, flags: int) -> int:
        return os.open(self._get(name), os.O_RDONLY)

    def close(self) -> None:
        self.closed += 1

    def _get(self, name: str) -> bytes:
        try:
            return self.files[name.replace("/", "_")]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None


# Made up ------------------------------------------------------------------------------------------


def test_a_caller_made_up() -> None:
    looked: list[int] = []
    files = FakeProc(
        status=STATUS,
        exe=b"/bin/\xff",
        cmdline=b"a\0\0b c\0",
        cgroup=b"5:cpu,cpuacct:/old\n0::/new:with:colons\n",
        attr_current=b"label (enforce)\n",
        ns_user=b"user:[4026531837]",
        root=b"/",
        cwd=b"/",
    )
    caller = Caller(101, FakeListener(), 7, files=files, looked=lambda: looked.append(1))
    assert caller.comm == "evil\\nUid:\\t0"
    assert (caller.tid, caller.tgid, caller.nspid, caller.nstgid) == (101, 100, (101, 8), (100, 7))
    assert caller.uids == Ids(1, 2, 3, 4) == (1, 2, 3, 4)
    assert caller.gids == (5, 6, 7, 8) and caller.groups == (10, 20)
    assert caller.umask == 0o27
    assert caller.caps.has("CAP_MKNOD") and not caller.caps.has("CAP_SYS_ADMIN")
    assert caller.caps.ambient == 1 and caller.caps.has(CAPABILITIES["CAP_MKNOD"])
    assert caller.exe == b"/bin/\xff" and caller.cmdline == (b"a", b"", b"b c")
    assert caller.cgroup == b"/new:with:colons" and caller.cgroups["cpu,cpuacct"] == b"/old"
    assert caller.label == b"label (enforce)"
    assert caller.userns == 4026531837 and caller.same_userns(4026531837)
    assert not caller.same_userns(5)
    assert len(looked) == 4  # comm, umask, exe, cmdline: other threads can change them
    looked.clear()
    root = caller.root()
    assert looked == [1] and caller.root() == root and stat.S_ISDIR(os.fstat(root).st_mode)
    caller.close()
    caller.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(root)
    with pytest.raises(CallOver):
        caller.cwd()
    with pytest.raises(CallOver):
        _ = caller.exe


def test_what_an_old_kernel_does_not_say() -> None:
    caller = Caller(101, FakeListener(), 7, files=FakeProc(status=b"Name:\tx\nTgid:\t5\n"))
    assert caller.tgid == 5
    with pytest.raises(Unsupported, match=r"Umask.*4\.7"):
        _ = caller.umask
    assert caller.label == b""  # no security module


def test_the_first_line_with_a_key_counts() -> None:
    forged = Status(
        b"Name:\tx\nUid:\t1\t1\t1\t1\nUid:\t0\t0\t0\t0\nno colon\n:\n\xff:\t1\nLast:\t7"
    )
    assert forged.line("Name") == b"x" and forged.numbers("Uid") == (1, 1, 1, 1)
    assert forged.numbers("Last") == (7,)
    assert forged.line("no colon") is forged.line("id") is forged.numbers("Gid") is None


@given(st.binary(max_size=300))
def test_hostile_files_are_parsed_without_errors(data: bytes) -> None:
    line = Status(b"Name:" + data).line("Name")
    assert line is not None and b"\n" not in line
    parse_cgroups(data)
    assert isinstance(identity.parse_arguments(data), tuple)


def test_pid_zero() -> None:
    with pytest.raises(CallerInvisible, match="pid namespace"):
        Caller(0, FakeListener(), 7)


def test_a_call_uses_the_caller_it_is_given() -> None:
    caller = Caller(0, None, files=FakeProc(status=STATUS))
    made = call("getpid", tid=0, caller=caller)
    assert made.caller is caller and made.caller.uids.effective == 2
    made.expire()
    assert caller.tgid == 100  # who made it closes it


# Real ---------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(notified: Callable) -> Callable:
    """``waiting(actor=None)``: a caller that waits in getppid."""

    def make(watch: object, actor: object = None) -> Caller:
        return watch.call("getppid", actor=actor).caller  # type: ignore[attr-defined]

    return make


def test_a_real_caller(notified: Callable, waiting: Callable) -> None:
    watch = notified("getppid")
    victim = watch.victim
    victim.must(nr("umask"), 0o137)
    victim.must(nr("chdir"), victim.string(b"/etc"))
    watch.listen()
    caller = waiting(watch)
    assert (caller.tid, caller.tgid) == (victim.tid, victim.pid)
    assert caller.nspid[0] == victim.tid and caller.nstgid[0] == victim.pid
    me = (os.getuid(), os.geteuid(), os.geteuid(), os.geteuid())
    assert caller.uids == me and caller.gids.real == os.getgid()
    assert set(caller.groups) == set(os.getgroups())
    assert caller.umask == 0o137
    assert caller.exe == os.fsencode(os.readlink(f"/proc/{victim.pid}/exe"))
    assert caller.cmdline[0].endswith(b"victim")
    assert caller.userns == os.stat("/proc/self/ns/user").st_ino
    assert caller.same_userns(Caller(os.getpid(), None))
    assert caller.namespace("mnt") == os.stat("/proc/self/ns/mnt").st_ino
    assert caller.cgroup.startswith(b"/")
    assert os.readlink(f"/proc/self/fd/{caller.cwd()}") == "/etc"
    assert os.path.samestat(os.fstat(caller.root()), os.stat("/"))
    assert os.get_inheritable(caller.cwd()) is False
    with open("/proc/self/status", "rb") as status:
        mine = Status(status.read())
    assert (caller.caps.effective,) == mine.numbers("CapEff", 16)
    assert caller.no_new_privs and caller.filters == mine.numbers("Seccomp_filters")[0] + 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert caller.limits["Max open files"] == (soft, hard)
    assert caller.limits["Max file size"].hard == NO_LIMIT  # as the tests run
    with open(f"/proc/{victim.pid}/stat", "rb") as stat_:
        fields = stat_.read().rpartition(b")")[2].split()
    assert (caller.started, caller.tty) == (int(fields[19]), 0)
    with open("/proc/self/uid_map") as file:
        assert caller.uid_map[0] == IdRange(*map(int, file.readline().split()))
    assert b" / " in caller.mountinfo and caller.gid_map


def test_each_thread_has_its_own_credentials_and_directory(notified: Callable) -> None:
    watch = notified("getppid")
    victim = watch.victim
    thread = victim.thread()
    if thread.call(nr("unshare"), 0x200).value != 0:  # CLONE_FS
        pytest.skip("this sandbox does not let threads unshare")
    thread.must(nr("chdir"), thread.string(b"/proc"))
    thread.must(nr("prctl"), 15, thread.string(b"a\nUid: 0"))  # PR_SET_NAME
    watch.listen(thread)
    caller = watch.call("getppid", actor=thread).caller
    assert caller.tid == thread.tid and caller.tgid == victim.pid != caller.tid
    assert caller.comm == "a\\nUid: 0" and caller.uids.real == os.getuid()
    assert os.readlink(f"/proc/self/fd/{caller.cwd()}") == "/proc"
    assert os.readlink(f"/proc/{victim.pid}/cwd") != "/proc"


@pytest.mark.root
def test_credentials_of_a_thread_are_not_its_leaders(notified: Callable) -> None:
    watch = notified("getppid")
    thread = watch.victim.thread()
    watch.listen(thread)
    # Raw system calls: only this thread changes.
    thread.must(119, -1, 4242, -1)  # setresgid
    thread.must(117, -1, 4711, -1)  # setresuid
    caller = watch.call("getppid", actor=thread).caller
    assert caller.uids == (0, 4711, 0, 4711) and caller.gids == (0, 4242, 0, 4242)
    assert caller.caps.effective == 0


def test_descriptors(notified: Callable) -> None:
    watch = notified("getppid")
    victim = watch.victim
    fd = victim.must(nr("openat"), -100, victim.string(b"/etc"), 0o200000)
    thread = victim.thread()
    for actor in (victim, thread):
        watch.listen(actor)
        made = watch.call("getppid", actor=actor)
        caller = made.caller
        assert not made.memory_read
        duplicate = made.fd(fd)
        assert made.memory_read and made.fd(fd) == duplicate
        taken = made.take_fd(fd)
        assert taken != duplicate
        for each in (duplicate, taken):
            assert os.path.samestat(os.fstat(each), os.stat("/etc"))
            assert not os.get_inheritable(each)
        assert made.fd_path(fd) == b"/etc"
        assert os.path.samestat(os.fstat(caller.dir_fd(fd)), os.stat("/etc"))
        assert caller.dir_fd(-100) == caller.cwd()
        for bad in (999, -1, -101, 2**31 - 1):
            for take in (caller.dir_fd, caller.fd, made.take_fd, made.fd, made.fd_path):
                with pytest.raises(OSError, match="Bad file descriptor") as caught:
                    take(bad)
                assert caught.value.errno == errno.EBADF
        watch.answer(made)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(duplicate)  # the call's
        os.close(taken)  # ours
        watch.listener.close()


def test_the_anchor_is_the_threads(notified: Callable) -> None:
    watch = notified("getppid")
    thread = watch.victim.thread()
    watch.listen(thread)
    caller = watch.call("getppid", actor=thread).caller
    anchor = caller.anchor()
    assert caller.anchor() == anchor
    with open(f"/proc/self/fdinfo/{anchor}") as info:
        pid = next(line for line in info if line.startswith("Pid:")).split()[1]
    assert int(pid) == (thread.tid if caller.anchored_thread else thread.pid)


def test_the_anchor_without_pidfds_of_threads(
    notified: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 6.9: the flag is EINVAL, a thread that is no leader EINVAL or ENOENT."""
    real = os.pidfd_open
    monkeypatch.setattr(
        os,
        "pidfd_open",
        lambda pid, flags=0: real(pid, 1 << 20 if flags else 0),
    )
    watch = notified("getppid")
    thread = watch.victim.thread()
    fd = thread.must(nr("openat"), -100, thread.string(b"/etc"), 0o200000)
    watch.listen(thread)
    made = watch.call("getppid", actor=thread)
    assert not made.caller.anchored_thread
    assert os.path.samestat(os.fstat(made.fd(fd)), os.stat("/etc"))
    watch.answer(made)
    # A thread with a table of its own is out of reach then, and that is said.
    if thread.call(nr("unshare"), 0x400).value != 0:  # CLONE_FILES
        pytest.skip("this sandbox does not let threads unshare")
    caller = Caller(thread.tid, None)
    with pytest.raises(Unsupported, match="PIDFD_THREAD"):
        caller.fd(fd)
    caller.close()


def test_a_chrooted_caller(notified: Callable, tmp_path: object) -> None:
    watch = notified("getppid")
    victim = watch.victim
    os.mkdir(f"{tmp_path}/jail")
    chroot(victim, os.fsencode(f"{tmp_path}/jail"))
    victim.must(nr("chdir"), victim.string(b"/"))
    watch.listen()
    caller = watch.call("getppid").caller
    assert os.path.samestat(os.fstat(caller.root()), os.stat(f"{tmp_path}/jail"))
    assert os.path.samestat(os.fstat(caller.cwd()), os.stat(f"{tmp_path}/jail"))


def test_a_caller_in_a_nested_user_namespace(notified: Callable) -> None:
    watch = notified("getppid")
    child = watch.victim.fork()
    if child.call(nr("unshare"), 0x10000000).value != 0:
        pytest.skip("user namespaces are not allowed here")
    watch.listen(child)
    caller = watch.call("getppid", actor=child).caller
    assert not caller.same_userns(os.stat("/proc/self/ns/user").st_ino)
    assert caller.caps.has("CAP_SYS_ADMIN")  # there, which says nothing here
    assert caller.uids.real == os.getuid()


def test_a_caller_in_a_child_pid_namespace(notified: Callable) -> None:
    watch = notified("getppid")
    try:
        child = watch.victim.fork(0x10000000 | 0x20000000)
    except OSError:
        pytest.skip("pid namespaces are not allowed here")
    watch.listen(child)
    caller = watch.call("getppid", actor=child).caller
    assert caller.nspid == (child.pid, 1) == caller.nstgid
    fd = caller.namespace_fd("pid")
    assert os.fstat(fd).st_ino == caller.namespace("pid")


def test_what_makes_callers_equal(notified: Callable, tmp_path: object) -> None:
    watch = notified("getppid")
    victim = watch.victim
    thread = victim.thread()
    os.mkdir(f"{tmp_path}/jail")
    child = victim.fork()
    chroot(child, os.fsencode(f"{tmp_path}/jail"))
    watch.listen()
    key = watch.call("getppid").caller.key
    again = Caller(victim.tid, None)
    if again.unmapped:
        pytest.skip("ids here are partly without a number, and their keys equal none")
    assert again.key == key and hash(again.key) == hash(key)
    assert again.key == again.key._replace(root=again.file_id(again.root()))
    assert key.namespaces[0] == os.stat("/proc/self/ns/user").st_ino
    again.close()
    jailed = Caller(child.tid, None)
    assert jailed.key.root != key.root and jailed.key != key
    jailed.close()
    with Caller(thread.tid, None) as other:
        assert other.key.uids == key.uids


def test_ids_without_a_number_equal_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    files = FakeProc(
        status=STATUS.replace(b"Uid:\t1", b"Uid:\t65534") + b"NoNewPrivs:\t1\n",
        cgroup=b"0::/\n",
        root=b"/",
        **{f"ns_{kind}": b"%s:[4]" % kind.encode() for kind in NAMESPACES},
    )

    def made() -> Caller:
        return Caller(101, FakeListener(), 7, files=files)

    monkeypatch.setattr("proctor.call.credentials.overflow_ids", lambda pid: (-1, -1))
    assert made().key == made().key and not made().unmapped  # nobody's number, and nobody is meant
    monkeypatch.setattr("proctor.call.credentials.overflow_ids", lambda pid: (65534, 65534))
    one = made()
    assert one.unmapped and one.key == one.key != made().key
    for line in (b"Gid:\t5", b"Groups:\t10"):
        files.files["status"] = STATUS.replace(line, line.split(b"\t")[0] + b"\t65534")
        assert made().unmapped
    files.files["status"] = STATUS
    assert not made().unmapped
    one.close()


def test_ids_of_a_monitor_in_a_user_namespace() -> None:
    """Where not every id has a number, the overflow ids mean nothing; found out once per process."""
    overflow_ids.cache_clear()
    with open("/proc/self/uid_map") as file:
        whole = file.read().split() == ["0", "0", "4294967295"]
    assert overflow_ids(os.getpid())[0] == (-1 if whole else 65534)


def test_pending_signals_are_read_anew(notified: Callable) -> None:
    watch = notified("getppid")
    victim = watch.victim
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        victim.on_signal(number, "count")
    try:
        killable = abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        watch.listener = Listener(victim.listen(bpf.notify("getppid"), killable))
    except OSError:
        pytest.skip("no WAIT_KILLABLE_RECV here (Linux 5.19)")
    made = watch.call("getppid")
    assert list(made.caller.pending()) == []
    os.kill(victim.pid, signal.SIGUSR1)
    assert list(made.caller.pending()) == [signal.SIGUSR1]
    victim.signal(signal.SIGUSR2)
    assert list(made.caller.pending()) == [signal.SIGUSR1, signal.SIGUSR2]
    assert not made.memory_read
    watch.answer(made)


def test_room_in_a_table_is_what_the_kernel_finds(notified: Callable) -> None:
    watch = notified("getppid")
    victim = watch.victim
    victim.must(nr("dup2"), 0, 40)  # one beyond the limits below
    watch.listen()
    path = victim.string(b"/")
    seen = set()
    for limit in range(1, 16):
        resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (limit, 4096))
        made = watch.call("getppid")
        room = made.caller.has_room()
        watch.answer(made)
        value, number = victim.call(nr("openat"), -100, path, 0)
        assert room == (value >= 0) and (room or number == errno.EMFILE)
        if value >= 0:
            victim.must(nr("close"), value)
        seen.add(room)
    assert seen == {True, False}


@pytest.mark.root
def test_a_caller_that_may_not_be_looked_at(notified: Callable) -> None:
    """A monitor without privilege, a caller of somebody else's."""
    watch = notified("getppid")
    victim = watch.victim
    watch.listen()
    made = watch.call("getppid")
    uid, gid = os.getresuid(), os.getresgid()
    os.setresgid(65534, 65534, 0)
    os.setresuid(65534, 65534, 0)
    try:
        caller = made.caller
        assert caller.uids.real == 0  # anybody may read that
        for look in (lambda: caller.exe, caller.root, lambda: caller.fd(0)):
            with pytest.raises(NotPermitted, match="CAP_SYS_PTRACE") as caught:
                look()
            assert caught.value.pid == victim.tid
    finally:
        os.setresuid(*uid)
        os.setresgid(*gid)


class Fading(FakeListener):
    """Valid for a number of questions."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def id_valid(self, id: int) -> bool:
        self.left -= 1
        return self.left >= 0


@linux
def test_a_caller_may_go_at_any_point_and_nothing_stays_open() -> None:
    """Validity is asked after each thing is taken: whichever answer is "gone", that is the outcome,
    and what was opened is closed."""
    looks: list[Callable[[Caller], object]] = [
        lambda caller: caller.tgid,
        lambda caller: caller.exe,
        lambda caller: caller.cmdline,
        lambda caller: caller.label,
        lambda caller: caller.cgroup,
        lambda caller: caller.userns,
        lambda caller: caller.root(),
        lambda caller: caller.cwd(),
        lambda caller: caller.dir_fd(0),
        lambda caller: caller.namespace_fd("net"),
        lambda caller: caller.anchor(),
        lambda caller: os.close(caller.take_fd(0)),
        lambda caller: caller.fd(0),
        lambda caller: caller.fd_path(0),
        lambda caller: caller.limits,
        lambda caller: caller.started,
        lambda caller: caller.pending(),
        lambda caller: caller.has_room(),
        lambda caller: caller.key,
        lambda caller: caller.locate(b"/etc/../etc/passwd").close(),
    ]
    before = sorted(os.listdir("/proc/self/fd"))
    for look in looks:
        gone = 0
        for left in range(12):
            caller = Caller(os.getpid(), Fading(left), 1)
            try:
                look(caller)
            except CallGone:
                gone += 1
            else:
                caller.close()
                break
            caller.close()
        else:
            raise AssertionError("it never succeeds")
        assert gone >= 2  # after pinning /proc/TID, and after taking the thing
    assert sorted(os.listdir("/proc/self/fd")) == before


@linux
def test_a_proc_of_another_pid_namespace_is_refused(tmp_path: object) -> None:
    from proctor.kernel.thread import ProcFiles

    os.symlink("1", f"{tmp_path}/self")
    with pytest.raises(Unsupported, match="pid namespace"):
        ProcFiles(os.getpid(), str(tmp_path))
    ProcFiles(os.getpid()).close()


@linux
def test_a_recycled_number_cannot_slip_in() -> None:
    """What is pinned stays what it is: after the death there is nothing, whoever has the number."""
    from proctor.kernel.thread import ProcFiles

    child = os.fork()
    if child == 0:
        os.read(os.pipe()[0], 1)  # until killed
        os._exit(0)
    files = ProcFiles(child)
    assert b"Tgid" in files.read("status")
    os.kill(child, 9)
    os.waitpid(child, 0)
    for use in (
        lambda: files.read("status"),
        lambda: files.link("exe"),
        lambda: files.link("ns/user"),
        lambda: files.names("fd"),
        lambda: files.size("fd"),
    ):
        with pytest.raises((ProcessLookupError, FileNotFoundError)):
            use()
    files.close()
    with pytest.raises(OSError, match="given up"):
        files.read("status")

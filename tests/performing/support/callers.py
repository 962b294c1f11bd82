"""Callers for the tests: processes with some identity, which make a call themselves (the twin whose
outcome is the truth) or have it performed (a call object made up here, about a waiting process).
No filter is needed for that: an executor only sees who the caller is."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import marshal
import mmap
import os
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from proctor import performing
from proctor.call import call
from proctor.call.verdict import Allow, Answer, Deny, HandOver, LetRun, Perform, Verdict
from proctor.errors import MemoryUnreadable
from proctor.kernel.notification import Notification
from proctor.supervisor.ports import Later
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES, native

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
CLONE_FS = 0x200
CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_RDONLY, MS_NODEV, MS_REMOUNT, MS_NOSYMFOLLOW = 1, 4, 32, 256
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
ARCH = native()
CAP_MKNOD = 27

Outcome = tuple[Any, ...]


def check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def unshare(flags: int) -> None:
    check(libc.unshare(flags))


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes | None = None) -> None:
    check(libc.mount(source, target, kind, ctypes.c_ulong(flags), data))


def private_mounts() -> None:
    unshare(CLONE_NEWNS)
    mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)


def in_dead_root(place: str = "fdinfo") -> None:
    """As Chromium's sandbox does it: its root is the directory of a process that is dead."""
    libc.prctl(4, 1, 0, 0, 0)  # dumpable again: it may search its child's
    child = os.fork()
    if child == 0:
        signal.pause()
    os.chroot(f"/proc/{child}/{place}".replace("TID", str(child)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def drop_capabilities(keep: int = 0) -> None:
    permitted = capget()[1] & keep
    capset(permitted, permitted)


def capget() -> tuple[int, int]:
    """(effective, permitted) of this process."""
    data = ctypes.create_string_buffer(24)
    check(libc.capget(struct.pack("=Ii", 0x20080522, 0), data))
    words = struct.unpack("=6I", data.raw)
    return words[0] | words[3] << 32, words[1] | words[4] << 32


def capset(effective: int, permitted: int) -> None:
    low = 0xFFFFFFFF
    words = (effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0)
    check(libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *words)))


def describe(fd: int) -> Outcome:
    """What can be seen of an open file, but for its inode."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        st = os.fstat(fd)
    except OSError as error:  # some directories of a process that is dead
        return ("fd", error.errno, oct(flags))
    offset = -1
    if stat.S_ISREG(st.st_mode):
        offset = libc.lseek(fd, ctypes.c_long(0), os.SEEK_CUR)  # some files of procfs have none
    size = st.st_size if stat.S_ISREG(st.st_mode) else 0
    return ("fd", oct(st.st_mode), st.st_uid, st.st_gid, size, st.st_rdev, oct(flags), offset)


def raw(arch: str, name: str, args: list[Any]) -> int:
    """Make a system call by the table of one architecture of this machine: its result or -1 with errno."""
    number = tables.number(name, arch)
    if arch == ARCH:
        held = [ctypes.create_string_buffer(arg) if isinstance(arg, bytes) else arg for arg in args]
        values = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in held]
        return int(libc.syscall(ctypes.c_long(number), *values))
    result = int80(number, args)
    if -4095 <= result < 0:
        ctypes.set_errno(-result)
        return -1
    return result


@cache
def _int80() -> Any:
    """int $0x80 with its six numbers from where a 64-bit function has its own."""
    code = bytes.fromhex("53 89f8 89f3 87ca 4489c6 4489cf cd80 5b 4898 c3")
    room = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    room.write(code)
    kind = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 6)
    function = kind(ctypes.addressof(ctypes.c_char.from_buffer(room)))
    libc.mmap.restype = ctypes.c_long
    low = libc.mmap(None, ctypes.c_size_t(1 << 17), 3, 0x62, -1, ctypes.c_long(0))  # MAP_32BIT
    return function, low, room


def int80(number: int, args: list[Any]) -> int:
    """A call of i386, as any program of 64 bits can make it."""
    function, low, _ = _int80()
    values = []
    for arg in args:
        if isinstance(arg, bytes):
            ctypes.memmove(low, arg + b"\0", len(arg) + 1)
            values.append(low)
            low += len(arg) + 16 & ~7
        else:
            values.append(arg)
    return int(function(number, *values, *[0] * (5 - len(values))))


class Memory:
    """The memory of a call that was made up: some buffers, far apart."""

    def __init__(self, buffers: dict[int, bytes]) -> None:
        self.buffers = buffers

    def read(self, address: int, size: int) -> bytes:
        return self.buffers[address][:size].ljust(size, b"\0")

    def read_some(self, address: int, size: int) -> bytes:
        return self.buffers[address][:size]

    def string(self, address: int, limit: int = 4096) -> bytes:
        text = self.buffers[address]
        if len(text) >= limit:
            raise MemoryUnreadable(errno.ENAMETOOLONG, "no end", address)
        return text


class Call(call.Call):
    """A call of a process that waits for commands, and not for its answer."""

    def __init__(self, tid: int, name: str, args: tuple[Any, ...], arch: Any = ARCH) -> None:
        buffers, registers = {}, []
        for number, arg in enumerate(args, 1):
            address = number << 20
            if isinstance(arg, bytes):
                buffers[address] = arg
            registers.append(
                address if isinstance(arg, bytes) else arg & (1 << ARCHITECTURES[arch].bits) - 1
            )
        registers += [0] * (6 - len(registers))
        self.is_valid: Callable[[], bool] = lambda: os.path.exists(f"/proc/{tid}")
        audit = ARCHITECTURES[arch].audit
        made = Notification(1, tid, tables.number(name, arch), audit, tuple(registers))  # type: ignore[arg-type]
        super().__init__(made, self, memory=Memory(buffers))  # type: ignore[arg-type]

    def id_valid(self, id: int) -> bool:
        return self.is_valid()


class Performers(performing.Performers):
    """Performers whose calls are over when they are performed.  Every second one is tried the short way
    first, that supervisors go.

    :ivar performed: how many there were.
    :ivar short: how many of them went that way."""

    performed = short = 0

    def perform(
        self, call: call.Call, allow: Allow | None = None, *, options: object = None
    ) -> Verdict:
        self.performed += 1
        short = self.ordinary(call.name) if self.performed % 2 else None
        try:
            said = short(call, Perform(allow, options=options)) if short is not None else None
            self.short += said is not None
            while isinstance(said, Later):
                poll = select.poll()
                poll.register(said.fd, select.POLLIN)
                poll.poll(None if said.wait is None else said.wait * 1000 + 1)
                said = said.resume()
            return super().perform(call, allow, options=options) if said is None else said
        finally:
            if call._caller is not None:
                call._caller.close()
                call._caller = None

    def carry_out(self, call: call.Call, wish: Perform) -> Verdict:
        """What a handler said, waited for."""
        return self.perform(call, wish.allow, options=wish.options)


class Caller:
    """A process in some state that waits for commands; see :func:`caller`.

    :param proc: if given it is in a pid namespace of its own, "old" with the procfs of ours, "new" with
        one of its own.
    :param arch: whose calls it makes.
    """

    def __init__(
        self,
        setup: Callable[[], object] | None = None,
        maps: str | None = None,
        in_thread: Callable[[], object] | None = None,
        threaded: bool = False,
        proc: str = "",
        arch: str = ARCH,
    ) -> None:
        self.arch = arch
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.sock.close()
                # out of the way of the numbers that tests put something under
                high = fcntl.fcntl(theirs.detach(), fcntl.F_DUPFD_CLOEXEC, 1000)
                theirs = socket.socket(fileno=high)
                libc.prctl(1, 9, 0, 0, 0)  # die with the test
                self._child(theirs, setup, maps, in_thread, threaded, proc)
            except BaseException as error:
                theirs.send(marshal.dumps(("failed", repr(error))))
            finally:
                os._exit(0)
        theirs.close()
        if maps is not None:
            self._told("unshared")
            with open(f"/proc/{self.pid}/setgroups", "w") as file:
                file.write("allow" if os.geteuid() == 0 else "deny")
            for kind in ("uid_map", "gid_map"):
                with open(f"/proc/{self.pid}/{kind}", "w") as file:
                    file.write(maps)
            self.sock.send(b"go")
        self.tid = self._told("ready")
        if proc:
            self.tid = self._seen_from_here(self.tid)

    def _seen_from_here(self, inner: int) -> int:
        """Our number of a thread of the process in its pid namespace."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:
            process = int(file.read())
        for tid in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{tid}/status") as file:
                numbers = next(line for line in file if line.startswith("NSpid:")).split()
            if int(numbers[-1]) == inner:
                return int(tid)
        raise AssertionError(f"{inner} is not there")

    def _told(self, word: str) -> Any:
        said = marshal.loads(self.sock.recv(65536))
        assert said[0] == word, said
        return said[1]

    @staticmethod
    def _child(sock: Any, setup: Any, maps: Any, in_thread: Any, threaded: bool, proc: str) -> None:
        if maps is not None:
            unshare(CLONE_NEWUSER)
            sock.send(marshal.dumps(("unshared", 0)))
            sock.recv(10)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            if os.access("/proc/self/setgroups", os.R_OK):
                try:
                    os.setgroups([])
                except PermissionError:
                    pass
        if proc:
            unshare(CLONE_NEWPID | CLONE_NEWNS)
            if os.fork():
                sock.close()
                os.wait()
                os._exit(0)
            libc.prctl(1, 9, 0, 0, 0)
            mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)
            if proc == "new":
                mount(b"proc", b"/proc", b"proc", 0)
        if setup is not None:
            setup()
        libc.prctl(4, 1, 0, 0, 0)  # dumpable, as after an execve

        def serve() -> None:
            if in_thread is not None:
                in_thread()
            sock.send(marshal.dumps(("ready", threading.get_native_id())))
            while True:
                message = sock.recv(65536)
                if not message:
                    os._exit(0)
                Caller._act(sock, message)

        if threaded or in_thread is not None:
            thread = threading.Thread(target=serve)
            thread.start()
            thread.join()
        else:
            serve()

    @staticmethod
    def _act(sock: Any, message: bytes) -> None:
        arch, name, args = marshal.loads(message)
        result = raw(arch, name, args)
        if result < 0:
            sock.send(marshal.dumps(("errno", ctypes.get_errno())))
        elif not name.startswith(("open", "creat")):
            sock.send(marshal.dumps(("value", result)))
        else:
            cloexec = fcntl.fcntl(result, fcntl.F_GETFD)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [result]))]
            sock.sendmsg([marshal.dumps(("fd", cloexec))], rights)
            os.close(result)

    def natively(self, name: str, *args: Any) -> Outcome:
        """Let the process make the call itself."""
        self.sock.send(marshal.dumps((self.arch, name, args)))
        data, ancillary, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(16))
        said = marshal.loads(data)
        if said[0] != "fd":
            return tuple(said)
        fd = array.array("i", ancillary[0][2])[0]
        try:
            return (*describe(fd), bool(said[1]))
        finally:
            os.close(fd)

    def call(self, name: str, *args: Any) -> Call:
        """The call object that a listener would give for it."""
        return Call(self.tid, name, args, self.arch)

    def performed(self, performers: Any, name: str, *args: Any, **how: Any) -> Outcome:
        """Have it performed."""
        verdict = performers.perform(self.call(name, *args), **how)
        return self.natively(name, *args) if isinstance(verdict, LetRun) else outcome(verdict)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self.sock.close()


def outcome(verdict: Verdict) -> Outcome:
    """A verdict in the words of :meth:`Caller.natively`."""
    if isinstance(verdict, Deny):
        return ("errno", verdict.errno)
    if isinstance(verdict, Answer):
        return ("value", verdict.value)
    assert isinstance(verdict, HandOver), verdict
    try:
        return (*describe(verdict.fd), verdict.cloexec)
    finally:
        os.close(verdict.fd)


@contextmanager
def caller(
    setup: Callable[[], object] | None = None, maps: str | None = None, **more: Any
) -> Iterator[Caller]:
    """A caller for the length of a test.

    :param setup: runs in the process (in its new user namespace) before it waits.
    :param maps: the line of uid_map and gid_map; then it is in a user namespace of its own.
    """
    made = Caller(setup, maps, **more)
    try:
        yield made
    finally:
        made.kill()


def content(verdict: Verdict) -> bytes:
    """What can be read of what was handed over, which is closed."""
    assert isinstance(verdict, HandOver), verdict
    try:
        return os.read(verdict.fd, 4096)
    finally:
        os.close(verdict.fd)


#: Directories that :func:`open_directory` made here: others may run the same tests.
MADE: list[str] = []


def wants_user_attributes(place: bytes) -> None:
    """Skip where a file system has no attributes of users: a tmpfs before Linux 6.6."""
    try:
        os.setxattr(place, "user.tried", b"")
        os.removexattr(place, "user.tried")
    except OSError:
        pytest.skip("this file system has no attributes of users")


@contextmanager
def open_directory() -> Iterator[bytes]:
    """A directory that every user may walk to (pytest's own are 0700)."""
    MADE.append(tempfile.mkdtemp(prefix="performing-", dir="/var/tmp"))
    path = MADE[-1].encode()
    os.chmod(path, 0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def compiled(name: str) -> Iterator[str]:
    """A program of these tests', where every user may run it."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    with open_directory() as place:
        made = os.fsdecode(place) + "/" + name
        (source,) = Path(__file__).parents[1].glob(f"*/{name}.c")
        flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-static"]
        subprocess.run([compiler, *flags, "-o", made, str(source)], check=True)
        yield made


def snapshot(top: bytes) -> dict[bytes, tuple[Any, ...]]:
    """Everything in a tree that a call could have changed."""
    found = {}
    for directory, directories, files in os.walk(top):
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            size = st.st_size if stat.S_ISREG(st.st_mode) else 0
            content = b""
            if stat.S_ISLNK(st.st_mode):
                content = os.readlink(path).replace(top, b"TOP")
            found[os.path.relpath(path, top)] = (
                oct(st.st_mode), st.st_uid, st.st_gid, st.st_rdev, size, content,
            )  # fmt: skip
    return found


def readable_within(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])

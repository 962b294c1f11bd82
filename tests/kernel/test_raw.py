"""Raw system calls, pidfds and descriptors over sockets: against what Python has of its own."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import threading
from array import array
from pathlib import Path

import pytest

from proctor.errors import ProctorError
from proctor.kernel import _core, pidfd, raw, scm
from proctor.kernel.listener import Listener
from proctor.kernel.pidfd import open_pidfd, reap, send_signal, shares_descriptors, take_descriptor

# System calls --------------------------------------------------------------------------------------


def test_arguments_by_value_and_by_address() -> None:
    """write(2), read(2) and getppid(2), on the numbers of x86-64."""
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of x86-64")
    assert _core.syscall(110) == os.getppid()
    reader, writer = os.pipe()
    try:
        assert _core.syscall(1, writer, b"some text", 4) == 4
        into = bytearray(10)
        assert _core.syscall(0, reader, into, 10) == 4
        assert bytes(into) == b"some" + bytes(6)
        with pytest.raises(OSError) as caught:
            _core.syscall(1, writer, None, 1)
        assert caught.value.errno == errno.EFAULT
        with pytest.raises(OSError) as caught:
            _core.syscall(1, -1, b"x", 1)  # a negative number is that number
        assert caught.value.errno == errno.EBADF
    finally:
        os.close(reader)
        os.close(writer)
    with pytest.raises(TypeError):
        _core.syscall()
    with pytest.raises(TypeError):
        _core.syscall(*range(8))
    with pytest.raises(TypeError):
        _core.syscall(110, "text")  # type: ignore[arg-type]


def test_reading_by_process_vm_readv() -> None:
    known = ctypes.create_string_buffer(b"known")
    assert raw.process_vm_readv(os.getpid(), ctypes.addressof(known), 5) == b"known"
    with pytest.raises(OSError) as caught:
        raw.process_vm_readv(os.getpid(), 1, 5)
    assert caught.value.errno == errno.EFAULT


def test_kinds_of_file_systems() -> None:
    kinds = {"/proc": 0x9FA0, "/sys": 0x62656572}  # statfs(2)
    for path, kind in kinds.items():
        fd = os.open(path, os.O_PATH)
        try:
            assert raw.filesystem_type(fd) == kind
        finally:
            os.close(fd)
    with pytest.raises(OSError) as caught:
        raw.filesystem_type(-1)
    assert caught.value.errno == errno.EBADF


def test_openat2_and_what_a_descriptor_refers_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("/file")
    top = os.open(tmp_path, os.O_PATH)
    in_root, no_symlinks = 0x10, 4
    fd = raw.openat2(top, b"../link", os.O_PATH | os.O_CLOEXEC, in_root)
    status = os.stat(tmp_path / "file")
    with open(f"/proc/self/fdinfo/{fd}") as info:
        mount = int(info.read().partition("mnt_id:")[2].split()[0])
    assert raw.file_identity(fd) == (status.st_dev, status.st_ino, mount)
    assert not os.get_inheritable(fd)
    for path, bits, number in (
        (b"link", in_root | no_symlinks, errno.ELOOP), (b"none", 0, errno.ENOENT),
        (b"file", 1 << 40, errno.EINVAL), (b"x" * 5000, 0, errno.ENAMETOOLONG),
    ):  # fmt: skip
        with pytest.raises(OSError) as caught:
            raw.openat2(top, path, os.O_PATH, bits)
        assert caught.value.errno == number
    with pytest.raises(OSError) as caught:
        raw.file_identity(-1)
    assert caught.value.errno == errno.EBADF
    os.close(fd)
    os.close(top)


# Pidfds --------------------------------------------------------------------------------------------


def test_a_descriptor_is_taken_by_pidfd() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    pidfd, of_thread = open_pidfd(child, lambda: child)
    try:
        assert of_thread
        taken = take_descriptor(pidfd, writer)
        assert fcntl.fcntl(taken, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        os.write(taken, b"x")
        assert os.read(reader, 2) == b"x"
        os.close(taken)
        with pytest.raises(OSError) as caught:
            take_descriptor(pidfd, 12345)
        assert caught.value.errno == errno.EBADF
        assert send_signal(pidfd)
        reap(pidfd)
        reap(pidfd)  # somebody was faster: no trouble
        assert not send_signal(pidfd)
        with pytest.raises(ProcessLookupError):
            take_descriptor(pidfd, writer)
    finally:
        for fd in (pidfd, reader, writer):
            os.close(fd)


def test_who_shares_descriptors() -> None:
    ready, done = threading.Event(), threading.Event()

    def wait() -> None:
        ready.set()
        done.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    assert ready.wait(30)
    assert thread.native_id is not None
    assert shares_descriptors(thread.native_id, os.getpid())
    done.set()
    thread.join()
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    try:
        assert not shares_descriptors(child, os.getpid())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not shares_descriptors(child, os.getpid())  # it cannot be told


# Descriptors over sockets -----------------------------------------------------------------------------


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def pair(request: pytest.FixtureRequest) -> object:
    ours, theirs = socket.socketpair(socket.AF_UNIX, request.param)
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_who_sent_is_the_kernels_word(tmp_path: Path) -> None:
    """Of a connection by a listening socket that asks, also of what was sent before it is accepted; with all the
    descriptors that a message may have.  Of who was waited for nobody is told instead."""
    with socket.socket(socket.AF_UNIX) as listening, open("/dev/null") as null:
        listening.bind(f"{tmp_path}/s")
        listening.listen()
        scm.ask_for_senders(listening)
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.connect(f"{tmp_path}/s")
            child = os.fork()
            if not child:
                scm.send(theirs, b"x", [null.fileno()] * scm.MOST)
                os._exit(0)
            os.waitpid(child, 0)
            ours = listening.accept()[0]
            with ours:
                message = scm.receive(ours)
                assert (message.lost, len(message.fds)) == (False, scm.MOST)
                # before Linux 6.16 there is no pidfd of the dead
                assert message.sender < 0 or pidfd.number_of(message.sender) == -1
                message.close()
                scm.send(theirs, b"y")
                message = scm.receive(ours)
                assert pidfd.number_of(message.sender) == os.getpid()
                assert not os.get_inheritable(message.sender) and not pidfd.has_ended(
                    message.sender
                )
                message.close()
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(message.sender)


@pytest.mark.parametrize("count", [0, 1, 17, scm.MOST])
def test_any_number_of_descriptors(pair: Pair, count: int) -> None:
    ours, theirs = pair
    reader, writer = os.pipe()
    before = open_fds()
    scm.send(theirs, b"data", [writer] * count)
    message = scm.receive(ours)
    assert message.data == b"data"
    assert not message.lost
    assert len(message.fds) == count
    for fd in message.fds:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        assert os.path.sameopenfile(fd, writer)
    message.close()
    assert open_fds() == before
    os.close(reader)
    os.close(writer)


def test_the_end_of_a_stream(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    assert scm.receive(ours) == scm.Message(b"")
    with pytest.raises(BrokenPipeError):
        scm.send(ours, b"x")


def test_descriptors_that_do_not_fit_are_told(pair: Pair) -> None:
    """Those that did fit are closed again: half of them is nothing to go on with."""
    ours, theirs = pair
    scm.send(theirs, b"data", [0] * 8)
    before = open_fds()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in before)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        message = scm.receive(ours)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = highest + 1 - len(before) + 1  # one of those was the directory's own
    assert message.lost == (room < 8)
    assert message.fds == () or not message.lost
    message.close()
    assert open_fds() == before


def test_a_packet_that_is_too_long() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        before = open_fds()
        scm.send(theirs, b"x" * 100, [0, 1])
        with pytest.raises(OSError) as caught:
            scm.receive(ours, 10)
        assert caught.value.errno == errno.EMSGSIZE
        assert open_fds() == before


@pytest.mark.parametrize("count", [0, 2])
def test_a_listener_comes_alone(pair: Pair, count: int) -> None:
    ours, theirs = pair
    before = open_fds()
    theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [0] * count))])
    with pytest.raises(ProctorError, match=f"expected one descriptor on the socket, got {count}"):
        Listener.from_socket(ours)
    assert open_fds() == before

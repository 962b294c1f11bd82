"""The short way of a connect: whoever goes it gets what the long way gives, or goes the long way."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from ctypes import CDLL, create_string_buffer
from typing import Any

import pytest

import proctor
from proctor import families, performing
from proctor.call.verdict import Answer, Deny
from proctor.kernel import _core
from proctor.kernel.standing import Standing
from proctor.observe.events import Outcome
from proctor.performing.executing.workers import Pace
from proctor.performing.families.connect import Options
from proctor.performing.networks.connecting import ConnectWay
from proctor.supervisor.ports import Later
from tests.performing.support.callers import Call, Caller, caller
from tests.performing.support.containers import PYTHON
from tests.performing.support.stages import counted_out, finished
from tests.support.constants import SLOWNESS
from tests.support.processes import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it takes on other identities")


def inet(port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", port, b"\x7f\0\0\1")


class Stage:
    """A caller that is known, and whose executor is warm, with descriptors of ours."""

    def __init__(self, performers: performing.Performers, one: Caller, fd: int) -> None:
        self.performers, self.one, self.fd = performers, one, fd
        self.calls: list[Call] = []
        self.meet()
        self.connected = self.performers.perform(self.call(fd, inet(1)))

    def meet(self) -> None:
        self.performers.perform(self.call(-1, inet(1)))

    def call(self, fd: int, address: bytes, length: int | None = None) -> Call:
        length = len(address) if length is None else length
        self.calls.append(self.one.call("connect", fd, address, length))
        return self.calls[-1]

    def begun(self, call: Call, begins: Any = None, **options: Any) -> Any:
        """What the short way says in the end; None if it is none."""
        said = self.asked(call, begins, **options)
        return finished(said) if isinstance(said, Later) else said

    def asked(self, call: Call, begins: Any = None, **options: Any) -> Any:
        short = self.performers.ordinary("connect", None, begins)
        assert short is not None
        return short(call, proctor.perform(**options))


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    made = [
        socket.socket(),
        socket.socket(),
        socket.socket(type=socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
    ]
    yield made
    for each in made:
        each.close()


def idle_of(stage: Stage) -> list[int]:
    """The executors that wait for work."""
    return [each.pid for each in stage.performers.executors._idle]


@pytest.fixture
def stage(sockets: list[socket.socket]) -> Iterator[Stage]:
    before = len(os.listdir("/proc/self/fd"))
    with performing.Performers() as performers, caller() as one:
        made = Stage(performers, one, sockets[0].fileno())
        assert made.connected == Deny(errno.ECONNREFUSED)
        yield made
        for each in made.calls:
            if each._caller is not None:
                each._caller.close()
        eventually("those that were killed are dead", lambda: counted_out(performers))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_it_says(stage: Stage, sockets: list[socket.socket]) -> None:
    refused, fresh, datagrams, unix = [each.fileno() for each in sockets]
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = inet(server.getsockname()[1])
        assert stage.begun(stage.call(fresh, there)) == Answer(0)
        assert sockets[1].getpeername() == server.getsockname()
        for fd, address, length, said in (
            (fresh, there, None, errno.EISCONN), (refused, inet(1), None, errno.ECONNREFUSED),
            (datagrams, there, None, 0), (unix, there, None, errno.EINVAL), (refused, there, 7, errno.EINVAL),
            (refused, there, 129, errno.EINVAL), (refused, there, 1 << 31, errno.EINVAL), (refused, b"", None, errno.EINVAL),
        ):  # fmt: skip
            stage.meet()  # what cannot be read has it forgotten
            short = stage.begun(stage.call(fd, address, length))
            long = stage.performers.perform(stage.call(fd, address, length))
            assert short == long, (fd, address, length)
            assert long == (Deny(said) if said else Answer(0))


def test_what_has_no_short_way(stage: Stage, sockets: list[socket.socket], top: bytes) -> None:
    """Nothing happens, and whoever is asked next says what there is to say."""
    fresh, unix = sockets[1].fileno(), sockets[3].fileno()
    path, regular = os.open(top, os.O_PATH), os.open(top, os.O_RDONLY)
    with caller() as one:  # which has them as well
        stage.one, before = one, stage.one
        stage.meet()
        unixes = struct.pack("=H", socket.AF_UNIX)
        for call, said in (
            (stage.call(-1, inet(1)), errno.EBADF), (stage.call(900, inet(1)), errno.EBADF),
            (stage.call(path, inet(1)), errno.EBADF), (stage.call(unix, unixes + top + b"/none"), errno.ENOENT),
            (stage.call(unix, unixes + b"\0proctor-none"), errno.ECONNREFUSED),
        ):  # fmt: skip
            assert stage.begun(call) is None
            assert stage.performers.perform(call) == Deny(said)
        assert stage.begun(stage.call(regular, inet(1))) == Deny(errno.ENOTSOCK)
        assert stage.begun(stage.call(fresh, inet(1)), options=Options(network="host")) is None
        stage.one = before
    os.close(path)
    os.close(regular)


def test_of_the_descriptor_the_kernel_hears_first(
    stage: Stage, sockets: list[socket.socket], top: bytes
) -> None:
    path = os.open(top, os.O_PATH)
    with caller() as one:
        stage.one, before = one, stage.one
        stage.meet()
        for fd in (-1, 900, path):
            for length in (129, 1 << 31):
                call = stage.call(fd, inet(1), length)
                assert stage.begun(call) is None
                assert stage.performers.perform(call) == Deny(errno.EBADF)
                stage.meet()
        assert stage.begun(stage.call(sockets[1].fileno(), inet(1), 129)) == Deny(errno.EINVAL)
        stage.one = before
    os.close(path)


def test_the_address_is_read_once(stage: Stage, sockets: list[socket.socket]) -> None:
    """What is told of it afterwards is what was used."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = stage.call(sockets[1].fileno(), inet(server.getsockname()[1]))
        assert stage.begun(call) == Answer(0)
        call.memory.buffers[2 << 20] = inet(1)  # type: ignore[attr-defined]
        assert str(server.getsockname()[1]) in str(call.sockaddr)


@pytest.mark.parametrize("wrong", [(), (1,) * 9, (1,) * 10])
def test_nonsense_is_refused(wrong: tuple[int, ...]) -> None:
    with pytest.raises(TypeError):
        _core.act_on(*wrong)


def test_who_has_become_somebody_else_is_found_out_anew(stage: Stage) -> None:
    """The executor of who it was is not asked."""
    assert stage.one.natively("setresuid", 1234, 1234, 1234) == ("value", 0)
    for said in (True, False):
        call = stage.call(stage.fd, inet(1))
        assert (stage.begun(call) is None) == said
        assert stage.performers.perform(call) == Deny(errno.ECONNREFUSED)


@pytest.mark.parametrize("valid", [0, 1])
def test_nothing_is_done_for_whoever_is_gone(
    stage: Stage, sockets: list[socket.socket], valid: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        call, left = stage.call(sockets[1].fileno(), inet(server.getsockname()[1])), [True] * valid
        call.is_valid = lambda: bool(left and left.pop())
        for each in stage.performers.executors._idle:
            each.pace.patience = 20_000_000  # who takes longer is asked about once more
        said = stage.begun(call)
        assert said == (Answer(0) if valid else Deny(errno.EINTR, "the caller is gone"))
        server.setblocking(False)
        if not valid:
            with pytest.raises(BlockingIOError):
                server.accept()


def test_that_it_begins_is_said_before(stage: Stage, sockets: list[socket.socket]) -> None:
    said: list[Any] = []

    def begins(call: Any) -> None:
        with pytest.raises(OSError):
            sockets[1].getpeername()
        said.append(call)

    with socket.create_server(("127.0.0.1", 0)) as server:
        call = stage.call(sockets[1].fileno(), inet(server.getsockname()[1]))
        assert stage.begun(call, begins) == Answer(0) and said == [call]


def test_what_takes_long_goes_on(stage: Stage, sockets: list[socket.socket]) -> None:
    """Of a server whose queue is full; the executor that waits is asked no second time."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        socket.create_connection(server.getsockname()),
    ):
        said = stage.asked(stage.call(sockets[1].fileno(), inet(server.getsockname()[1])))
        assert isinstance(said, Later)
        server.accept()[0].close()
        assert finished(said) == Answer(0)
        server.accept()[0].close()


def test_whose_caller_goes_while_it_takes_long_keeps_nothing_open(
    stage: Stage, sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise proctor.CallGone

    monkeypatch.setattr(Standing, "unchanged", lambda self, groups=True: not groups)
    monkeypatch.setattr(stage.performers.callers, "meet", gone)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        socket.create_connection(server.getsockname()),
    ):
        call = stage.call(sockets[1].fileno(), inet(server.getsockname()[1]))
        said = stage.asked(call)
        assert not isinstance(said, Later)
        assert not any(
            os.path.sameopenfile(fd, sockets[1].fileno())
            for fd in range(3, 256)
            if fd != sockets[1].fileno() and os.path.exists(f"/proc/self/fd/{fd}")
        )


def test_what_cannot_go_on_counts_no_executor_for_good(
    stage: Stage, sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.EMFILE, "full")

    monkeypatch.setattr(stage.performers.callers, "own", full)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        socket.create_connection(server.getsockname()),
    ):
        call = stage.call(sockets[1].fileno(), inet(server.getsockname()[1]))
        said = stage.asked(call)
    assert not isinstance(said, Later)
    assert not stage.performers.executors._busy


def test_who_has_died_is_replaced(stage: Stage) -> None:
    (executor,) = stage.performers.executors._idle
    os.kill(executor.pid, signal.SIGKILL)
    executor.wait_for_end(10)
    assert stage.begun(stage.call(stage.fd, inet(1))) is None
    assert stage.performers.perform(stage.call(stage.fd, inet(1))) == Deny(errno.ECONNREFUSED)
    assert stage.begun(stage.call(stage.fd, inet(1))) == Deny(errno.ECONNREFUSED)


# In one native call ------------------------------------------------------------------------------

#: What a program finds, natively and performed; each is an errno, in turns with what its calls came to.
FINDS = """
import ctypes, errno, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def inet(port, family=socket.AF_INET):
    return struct.pack("=H", family) + struct.pack(">H4s8x", port, b"\\x7f\\0\\0\\1")
def connect(fd, address, length=None):
    given = ctypes.create_string_buffer(address, 256) if isinstance(address, bytes) else ctypes.c_void_p(address)
    done = libc.connect(fd, given, len(address) if length is None else length)
    print(ctypes.get_errno() if done else 0)
open_port, full_port, closed_port, file = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
for _ in range(3):
    one = socket.socket()
    connect(one.fileno(), inet(closed_port))
    connect(one.fileno(), inet(open_port))
    print(one.getpeername()[1] == open_port)
    connect(one.fileno(), inet(open_port))
    connect(one.fileno(), inet(0, socket.AF_UNSPEC))
    connect(one.fileno(), inet(0, socket.AF_INET6))
    connect(one.fileno(), inet(open_port), 1)
    connect(one.fileno(), inet(open_port), 2)
    connect(one.fileno(), inet(open_port), 129)
    connect(one.fileno(), inet(open_port), -1)
    connect(one.fileno(), 8, 16)
    connect(-1, inet(open_port))
    connect(0, inet(open_port))
    path_only = os.open("/", os.O_PATH)
    connect(path_only, inet(open_port))
    os.close(path_only)
    udp = socket.socket(type=socket.SOCK_DGRAM)
    connect(udp.fileno(), inet(closed_port))
    connect(udp.fileno(), inet(0, socket.AF_UNSPEC))
    late = socket.socket()
    late.setblocking(False)
    connect(late.fileno(), inet(full_port))
    connect(late.fileno(), inet(full_port))
    print(late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    unix = socket.socket(socket.AF_UNIX)
    connect(unix.fileno(), struct.pack("=H", socket.AF_UNIX) + os.fsencode(file))
    connect(unix.fileno(), inet(open_port))
"""


def test_natively_it_finds_what_the_kernel_says(
    top: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By calls of which nobody is told: what is plain needs no step of the short way in Python, all else comes to the same
    by that, or the long one."""
    steps: list[bytes] = []
    go = ConnectWay.go

    def counted(self: ConnectWay, call: Any, wish: Any) -> Any:
        steps.append(b"%d" % call.registers[2])
        return go(self, call, wish)

    monkeypatch.setattr(ConnectWay, "go", counted)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),
        socket.socket() as closed,
    ):
        closed.bind(("127.0.0.1", 0))
        ports = [str(each.getsockname()[1]) for each in (server, full, closed)]
        program = [PYTHON, "-IS", "-c", FINDS, *ports, os.fsdecode(top + b"/none")]
        natively = subprocess.run(
            program, stdin=subprocess.DEVNULL, capture_output=True, check=True
        ).stdout
        counters = proctor.Counters()
        done = proctor.run(
            program,
            [families.connect()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            observers=[counters],
        )
    assert done.stdout == natively
    whole = [line for line in natively.split() if line.isdigit()]
    table = {key[2]: count for key, count in counters.table().items()}
    assert sum(table.values()) == len(whole) - 3  # SO_ERROR is no call
    assert table["perform"] == whole.count(b"0") - 3 and table["perform ECONNREFUSED"] == 3
    # the first one is of somebody whom nobody knows; of 13 of the other 17 in each turn nothing is found natively
    assert len(steps) <= len(whole) * 2 / 3


#: connect and listen of an io_uring; a second time by who is known.
OF_A_RING = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(425, 4, ctypes.create_string_buffer(120))
for _ in range(2):
    print(libc.connect(ring, b"\\2\\0" + bytes(14), 16), ctypes.get_errno(), libc.listen(ring, 1), ctypes.get_errno())
    print(libc.connect(ring, ctypes.c_void_p(8), 16), ctypes.get_errno(), libc.connect(ring, None, 129), ctypes.get_errno())
"""


@pytest.mark.parametrize(
    "handler",
    [families.connect(), proctor.on("connect")(lambda call: proctor.perform())],
    ids=["of the core", "of a handler"],
)
def test_what_no_executor_can_be_passed_is_no_socket(handler: proctor.Handler) -> None:
    """SCM_RIGHTS takes no io_uring (Linux 6.7): EINVAL, of which nothing is to be heard here."""
    program = [PYTHON, "-IS", "-c", OF_A_RING]
    natively = subprocess.run(program, capture_output=True, check=True).stdout
    done = proctor.run(program, [handler, families.accept()], capture_output=True, check=True)
    assert done.stdout == natively


def test_what_cannot_be_passed_is_asked_of_nobody(stage: Stage) -> None:
    """And whoever would have been asked is there for the next one."""
    ring = CDLL(None).syscall(425, 4, create_string_buffer(120))
    if ring < 0:
        pytest.skip("there is no io_uring here")
    with caller() as one:  # which has it as well
        stage.one, before = one, stage.one
        stage.meet()
        executor = idle_of(stage)
        call = stage.call(ring, inet(1))
        assert stage.begun(call) is None
        assert stage.performers.perform(call) == Deny(errno.ENOTSOCK)
        assert idle_of(stage) == executor
        stage.one = before
    os.close(ring)


ONLY_CONNECTS = proctor.Filter(
    [proctor.Rule(("connect",), proctor.actions.NOTIFY)], proctor.actions.ALLOW
)


class Port:
    """A listener as the core knows it, and a journal of its calls."""

    waits = True

    def __init__(self, listener: proctor.Listener, journal: object) -> None:
        self.listener, self.journal = listener, journal

    def fileno(self) -> int:
        return self.listener.fileno()

    def give(self) -> None: ...


@pytest.mark.parametrize("journal", [None, bytearray(1)])
@pytest.mark.parametrize("leaves", [False, True])
def test_that_it_begins_is_said_where_it_is_written_down(
    journal: object, leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever is about to leave does not begin; natively it is done where nobody writes that down."""
    monkeypatch.setattr(Pace, "TICK", 900_000)  # it is heard on a busy machine, too
    begun: list[object] = []

    def begins(call: proctor.Call) -> None:
        begun.append(call)
        if leaves:
            raise proctor.CallGone

    program = "import socket\nfor _ in range(2):\n try: socket.socket().connect(('127.0.0.1', 1))\n except OSError: pass"
    said: list[Any] = []
    with proctor.launch(
        [PYTHON, "-IS", "-c", program], program=ONLY_CONNECTS.compile().code
    ) as target:
        listener = proctor.Listener(target.take_listener())
        with performing.Performers() as performers, listener:
            way = performers.ordinary("connect", Port(listener, journal), begins)
            assert way is not None
            for first in (True, False):
                call = proctor.Call(notification := listener.recv(), listener)
                call.container = None  # type: ignore[assignment]
                if first:
                    performers.perform(call)
                else:
                    said.append(way(call, proctor.perform()))
                if first or not isinstance(said[-1], int):
                    listener.send(notification.id, 0, -errno.ETIMEDOUT, 0)
                call.expire()
            assert performers.executors._busy == set()
    assert len(begun) == (journal is not None)
    if leaves and begun:
        assert isinstance(said[0], Deny)
    else:
        refused = errno.ECONNREFUSED
        assert said == [refused if journal is None else proctor.deny(refused)]


def test_an_executor_at_work_is_lent_to_nobody_and_counted(stage: Stage) -> None:
    """What is done with each call, and the rest in Python, keep the same books."""
    books = stage.performers.executors
    (executor,) = books._idle
    key = executor.key
    assert books.borrow(key, "container", 0) is None and books._taken == {}
    assert books.borrow("another", "container", 1) is None
    assert books.borrow(key, "container", 1) is executor
    assert (books._idle, books._taken, books._busy) == ({}, {"container": 1}, {executor})
    assert executor.container == "container" and executor.equals == []
    assert books.borrow(key, "container", 9) is None
    books.set_free(executor)
    assert (books._taken, books._busy, executor.equals) == ({}, set(), [executor])
    assert 0 <= time.monotonic() - books._idle[executor] < 600
    assert books.borrow(key, "container", 1) is executor
    executor.last = True
    books.set_free(executor)
    assert (books._idle, books._taken, books._busy, executor.equals) == ({}, {}, set(), [])
    assert executor.sock.fileno() == -1
    with pytest.raises(AttributeError):
        books.set_free("nobody")
    assert books._lock.acquire(blocking=False)
    books._lock.release()


def test_natively_nothing_of_ours_keeps_the_socket_open_once_it_is_said() -> None:
    """Whoever closes it then has closed it: its port is free."""
    program = (
        "import socket\n"
        "with socket.socket() as first:\n"
        "    first.bind(('127.0.0.1', 0))\n"
        "    mine = first.getsockname()\n"
        "for _ in range(500):\n"
        "    with socket.socket() as one:\n"
        "        one.bind(mine)\n"
        "        assert one.connect_ex(('127.0.0.1', 1)) == 111\n"
    )
    assert (
        proctor.run([PYTHON, "-IS", "-c", program], [families.connect()], timeout=60).returncode
        == 0
    )


class Asked(proctor.Handler):
    """Has every connect performed, and counts whom it was asked about."""

    def __init__(self) -> None:
        self.asked = 0
        super().__init__(["connect"], self._say, performs=True, label="asked")

    def _say(self, call: proctor.Call) -> proctor.Verdict:
        self.asked += 1
        return proctor.perform()

    def constant(self, call: proctor.Call) -> proctor.Verdict:
        return proctor.perform()


def tell(event: object) -> None: ...


tell.events = (Outcome,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options",
    [{}, {"quotas": proctor.Quotas(rate=10_000)}, {"observers": [tell]}],
    ids=["", "rate", "told"],
)
def test_no_handler_is_asked_where_all_are_performed(options: dict[str, Any]) -> None:
    """Unless somebody is told, or they may have to wait for their turn."""
    program = (
        "import socket\n"
        "for _ in range(200):\n"
        "    with socket.socket() as one:\n"
        "        assert one.connect_ex(('127.0.0.1', 1)) == 111\n"
    )
    handler = Asked()
    done = proctor.run([PYTHON, "-IS", "-c", program], [handler], timeout=60, **options)
    assert done.returncode == 0
    # where a call takes so long that others are received meanwhile, its likes are watched, and handlers asked
    fewer = 200 if SLOWNESS == 1 else 201
    assert handler.asked == 200 if options else 1 <= handler.asked < fewer

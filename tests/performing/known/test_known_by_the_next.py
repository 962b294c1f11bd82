"""What the next monitor knows of calls that were being performed when theirs died: that they are done, or that they are not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import proctor
from proctor.kernel import progress
from proctor.kernel.journal import HEADER, PERFORMING, SLOT_SIZE, Journal, notes_at
from proctor.kernel.notification import Notification
from proctor.kernel.progress import DONE, NOTES, NOTHING, UNKNOWN, Progress
from tests.performing.support.images import MOUNTS, no_loop_device_is_left
from tests.support.constants import SLOWNESS

__all__ = ["no_loop_device_is_left"]
pytestmark = pytest.mark.timeout(120)

CALLS = (
    "mkdir", "rename", "mknod", "mknodat", "symlink", "chmod", "setxattr", "fsetxattr", "sendto", "sendmmsg", "connect", "mount", "openat",
)  # fmt: skip
#: A monitor that dies at a point of the last call; that it decides that is said.  It looks at none of them, so that they go the
#: short way once their caller is known.
MONITOR = """
import os, signal, sys
import proctor
from proctor.kernel import progress
from proctor.kernel.journal import Journal
from proctor.kernel.progress import Progress
from proctor.performing import Performers
from proctor.performing.families.mount import Options
from proctor.supervisor.world import KernelWorld

listener, journal, table, before, point, engine = *map(int, sys.argv[1:5]), *sys.argv[5:]
here = set()

def say(word):
    os.write(1, word.encode() + b"\\n")

def dies(name, late):
    real = getattr(progress, name)
    def patched(buffer, at, id, *more, **how):
        if late:
            real(buffer, at, id, *more, **how)
        if id in here:
            turns.pop()
        if id in here and not turns:
            say("dies")
            os.kill(os.getpid(), signal.SIGKILL)
        if not late:
            real(buffer, at, id, *more, **how)
    setattr(progress, name, patched)

nth, _, point = point.rpartition(" ")
turns = [1] * {"": 1, "second": 2, "third": 3}[nth]
points = {"asked": ("asks", True), "done": ("came", False), "noted": ("came", True)}
if point in points:
    dies(*points[point])

def decide(call):
    global before
    flags = call.registers[2] & (os.O_CREAT | os.O_TRUNC)
    made = flags == os.O_TRUNC or (flags and call.registers[3] == 0o444)
    if call.name == "openat" and not made:  # what its language opens by itself
        return proctor.perform()
    before -= 1
    if before < 0:
        here.add(call.id)
        say("decides")
        if point == "refuses":
            return proctor.deny(13)
    if call.name == "mount":
        return proctor.perform(options=Options(filesystems=["ext4"], images=True))
    # what the kernel would do as well is left to it, unless somebody asks
    asked = call.name == "fsetxattr" or (call.name == "openat" and b"asked" in call.path)
    return proctor.perform(allow=lambda argument, path: True) if asked else proctor.perform()

performers = Performers(nested="allow")
performers.executors.progress = Progress(table)
kept = Journal(journal)
kept.progress = performers.executors.progress
world = KernelWorld(native=engine == "native")
handler = proctor.Handler(CALLS, decide)
supervisor = proctor.Supervisor([handler], performer=performers, world=world)
supervisor.add(proctor.Listener(listener), journal=kept)
supervisor.start()
say("ready")
signal.pause()
""".replace("CALLS", repr(CALLS))
#: What each is opened with; what is made may not be opened for writing a second time.
OPENS = {
    "make": os.O_CREAT | os.O_EXCL, "make as asked": os.O_CREAT | os.O_EXCL, "truncate": os.O_TRUNC,
    "truncate as asked": os.O_TRUNC, "truncate by name": os.O_CREAT | os.O_TRUNC,
}  # fmt: skip
TARGET = """
import ctypes, errno, os, socket, stat, sys
OPENS = MADE
os.chdir(sys.argv[1])
kind = sys.argv[2]
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM if kind.endswith("stream") else socket.SOCK_DGRAM)
other.setblocking(False)
if kind == "connect": kept, server = [], socket.create_server(("127.0.0.1", 0))
if kind == "abstract":
    kept, server = [], socket.socket(socket.AF_UNIX)
    server.bind(b""), server.listen()
def connected(sock, blocks):
    kept.append(sock)
    sock.setblocking(blocks)
    sock.connect(server.getsockname())
def heard():
    data = b""
    try:
        while True: data += other.recv(1 << 20)
    except BlockingIOError:
        return data
libc = ctypes.CDLL(None, use_errno=True)
class Vector(ctypes.Structure): _fields_ = ("base", ctypes.c_char_p), ("size", ctypes.c_size_t)
class Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("length", ctypes.c_uint), ("vector", ctypes.POINTER(Vector)), ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("controls", ctypes.c_size_t), ("flags", ctypes.c_int),
    )
class Message(ctypes.Structure): _fields_ = ("header", Header), ("sent", ctypes.c_uint)
def several(name):
    size = 1 << 19 if name == "third" and kind.startswith("several large") else 1
    parts = [name.encode() * (each + 1) * size for each in range(3)]
    vectors = [Vector(each, len(each)) for each in parts]
    headers = (Message * 3)(*(Message(Header(vector=ctypes.pointer(each), vectors=1), 77) for each in vectors))
    count = libc.sendmmsg(one.fileno(), headers, 3, 0)
    if count < 0: return ctypes.get_errno()
    if kind.endswith("stream"):
        lengths, got = [each.sent for each in headers], heard()
        whole = lengths[:count - 1] == [len(each) for each in parts[:count - 1]] and lengths[count:] == [77] * (3 - count)
        right = whole and got == b"".join(parts)[:sum(lengths[:count])] and lengths[count - 1] <= len(parts[count - 1])
        return (0 if name != "third" else count) if right else (len(got), lengths)
    got = [other.recv(1 << 20) for _ in range(count)]
    wanted = [len(each) for each in parts[:count]] + [77] * (3 - count)
    right = got == parts[:count] and [each.sent for each in headers] == wanted and not heard()
    return (0 if name != "third" else count) if right else (got, [each.sent for each in headers])
def opened(name):
    flags, name = OPENS[kind], name + kind.partition(" ")[2]
    if not flags & os.O_EXCL:
        with open(name, "w") as file: file.write("before")
    before = os.listdir("/proc/self/fd")
    fd = call_openat(name, flags | os.O_WRONLY)
    if fd < 0: return ctypes.get_errno()
    one_more = len(os.listdir("/proc/self/fd")) - len(before)
    found = os.fstat(fd).st_ino == os.stat(name).st_ino, os.path.getsize(name), os.write(fd, b"mine"), one_more
    wanted = True, (6 if not flags & (os.O_TRUNC | os.O_EXCL) else 0), 4, 1
    return 0 if found == wanted else found
def call_openat(name, flags):
    return ctypes.CDLL(None, use_errno=True).openat(-100, os.fsencode(name), flags, 0o444)
def call(name):
    try:
        if kind.startswith("several"): return several(name)
        if kind == "datagram": return one.send(name.encode()) - len(heard())
        if kind == "stream":
            sent = one.send(data := name.encode() * (1 << 20) if name == "third" else name.encode())
            return 0 if heard() == data[:sent] else f"{sent} of {len(data)}"
        if kind == "connect":
            try: connected(socket.socket(), False)
            except BlockingIOError as problem: return problem.errno - errno.EINPROGRESS
            return "at once"
        if kind == "abstract": return connected(socket.socket(socket.AF_UNIX), True) or 0
        if kind == "mount":
            libc = ctypes.CDLL(None, use_errno=True)
            failed = libc.mount(b"image-" + name.encode(), b"m", b"ext4", 0, None)
            return ctypes.get_errno() if failed else 0
        if kind == "mkdir": os.mkdir(name)
        elif kind in OPENS: return opened(name)
        elif kind == "rename": os.mkdir(name + "-old"); os.rename(name + "-old", name)
        elif kind == "xattr": os.setxattr(os.open(".", os.O_RDONLY), "user." + name, b"1", os.XATTR_CREATE)
        elif kind == "symlink": os.symlink("nowhere", name)
        elif kind == "fifo": os.mknod(name, 0o600 | stat.S_IFIFO)
        elif kind == "device": os.mknod(name, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        return 0
    except OSError as problem:
        return problem.errno
said = [call(name) for name in ("first", "second", "third")]
if kind == "mount":
    with open("/proc/self/mountinfo") as file: said.append(file.read().count(sys.argv[1] + "/m "))
os.write(1, repr(said).encode() + b"\\n")
""".replace("MADE", repr(OPENS))


class Stage:
    """A target, and what a keeper has of it."""

    def __init__(self, place: Path, engine: str, kind: str) -> None:
        calls = CALLS if kind in OPENS else CALLS[:-1]  # a language opens much by itself
        program = proctor.Filter([proctor.Rule(calls, proctor.actions.NOTIFY)]).compile().code
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.engine = engine
        self.target = proctor.launch(
            [sys.executable, "-c", TARGET, str(place), kind], program=program, fds=[(writer, 1)],
            namespaces={"device": ("user",), "mount": ("user", "mnt")}.get(kind, ()),
        )  # fmt: skip
        os.close(writer)
        self.out = open(reader)  # noqa: SIM115 - closed at the end
        self.listener = self.target.take_listener()
        self.journal, self.table = Journal.create(16), Progress.create()
        #: Calls before the last one.
        self.before = 5 if kind == "rename" else 2

    def monitor(self, point: str) -> list[str]:
        """What one says that dies at this point; or, where it is to live, until the target has ended."""
        fds = (self.listener, self.journal.fileno(), self.table.fd)
        with subprocess.Popen(
            [sys.executable, "-c", MONITOR, *map(str, fds), str(self.before), point, self.engine],
            pass_fds=fds, stdout=subprocess.PIPE, text=True,
        ) as made:  # fmt: skip
            self.before = 0
            assert made.stdout is not None
            try:
                if point in ("lives", "refuses"):
                    self.said = self.out.readline().strip()
                else:
                    assert made.wait(60 * SLOWNESS) == -9
            finally:
                made.kill()
            return made.stdout.read().split()

    def close(self) -> None:
        """All goes."""
        self.target.kill()
        self.target.close()
        self.out.close()
        self.journal.close()
        self.table.close()
        os.close(self.listener)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[[str], Stage]]:
    made: list[Stage] = []

    def go(kind: str) -> Stage:
        place = tmp_path / "place"
        place.mkdir(mode=0o777)
        if kind == "mount":
            (place / "m").mkdir()
            for name in ("first", "second", "third"):
                image = place / f"image-{name}"
                image.write_bytes(bytes(1 << 20))
                subprocess.run(["mkfs.ext4", "-q", image], check=True)
        # the last of these answers more calls, by the core's own code, than its journal has slots
        in_python = kind in ("fifo", "truncate by name")
        made.append(Stage(place, "python" if in_python else "native", kind))
        return made[-1]

    yield go
    for each in made:
        each.close()


@pytest.mark.usefixtures("no_loop_device_is_left")
@pytest.mark.parametrize(
    "kind",
    [
        "mkdir", "rename", "fifo", "xattr", "datagram", "connect", "abstract", *OPENS, pytest.param("mount", marks=MOUNTS),
        pytest.param("device", marks=pytest.mark.root),
    ],
)  # fmt: skip
@pytest.mark.parametrize("points", [["done"], ["noted"], ["asked", "asked", "done"], ["asked"]])
def test_a_call_is_done_once_wherever_its_monitors_die(
    stage: Callable[[str], Stage], kind: str, points: list[str]
) -> None:
    at = stage(kind)
    for point in points:
        said = at.monitor(point)
        assert said[-2:] == ["decides", "dies"] or sorted(said) == ["decides", "dies", "ready"]
    last = at.monitor("lives")
    assert at.said == ("[0, 0, 0, 3]" if kind == "mount" else "[0, 0, 0]")
    if (
        kind != "device"
    ):  # who is not known yet is asked once more before the right is lent: nothing was done by then
        assert ("decides" in last) is (points[-1] == "asked")
    assert at.target.wait(30 * SLOWNESS) == 0


@pytest.mark.parametrize("point", ["done", "noted"])
def test_what_was_sent_of_more_than_there_was_room_for_is_the_answer(
    stage: Callable[[str], Stage], point: str
) -> None:
    """As if a signal had come: nothing is sent twice."""
    at = stage("stream")
    at.monitor(point)
    assert at.monitor("lives") == ["ready"] and at.said == "[0, 0, 0]"


@pytest.mark.parametrize("kind", ["several", "several on a stream"])
@pytest.mark.parametrize(
    ("points", "count"),
    [
        (["done"], 1), (["noted"], 1), (["asked", "asked", "done"], 1), (["asked", "asked"], 3),
        (["second done"], 2), (["second noted"], 2), (["third noted"], 3), (["asked", "third done"], 3),
    ],
)  # fmt: skip
def test_of_several_messages_those_are_the_answer_that_were_sent(
    stage: Callable[[str], Stage], kind: str, points: list[str], count: int
) -> None:
    """How much of each is written where the call says it; the others are as they were."""
    at = stage(kind)
    for point in points:
        at.monitor(point)
    at.monitor("lives")
    assert at.said == f"[0, 0, {count}]"


@pytest.mark.parametrize("point", ["done", "noted"])
def test_of_several_on_a_stream_the_last_may_be_a_part(
    stage: Callable[[str], Stage], point: str
) -> None:
    at = stage("several large ones on a stream")
    at.monitor(point)
    assert at.monitor("lives") == ["ready"] and at.said == "[0, 0, 1]"


def test_what_is_done_is_so_whatever_is_decided_now(stage: Callable[[str], Stage]) -> None:
    at = stage("mkdir")
    at.monitor("done")
    assert "decides" not in at.monitor("refuses") and at.said == "[0, 0, 0]"


@pytest.mark.parametrize(
    ("state", "came"),
    [
        (progress.NOTHING_DONE, NOTHING), (progress.MAY_CHANGE, NOTHING), (progress.AT_A_CHANGE, UNKNOWN),
        (progress.CHANGED, UNKNOWN), (progress.ONE_CHANGE, DONE), (progress.SEVERAL_CHANGES, UNKNOWN),
    ],
)  # fmt: skip
def test_what_an_executor_that_is_gone_said_is_believed(
    state: int, came: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of one that is not gone, nothing: it may do it yet."""
    monkeypatch.setattr(progress, "_GRACE", 0.0)
    table = Progress.create()
    place = table.take()

    def says(owner: int, serial: int) -> None:
        table._map[64 * place : 64 * place + 16] = progress._WORDS.pack(owner, state, serial, -7)

    says(7 | progress._OWNER_DIED, 5)
    assert table.found(place, 5) == (came, -7 if came == DONE else 0)
    assert table.found(place, 6) == (NOTHING, 0)  # it never came to it
    assert table.found(place, 4) == (UNKNOWN, 0)  # somebody else's was asked since
    says(7, 5)
    assert table.found(place, 5) == table.found(place, 6) == (UNKNOWN, 0)
    table.close()


def test_another_table_knows_nothing() -> None:
    """One that was not kept says nothing of what was asked of executors by it."""
    table, other = Progress.create(), Progress.create()
    place = table.take()
    asked = table.next(place)
    assert other.found(place, asked)[0] == UNKNOWN
    assert other.take() == place and other.next(place) != asked
    assert other.found(place, other.next(place))[0] == UNKNOWN  # nobody is there yet
    other._map[64 * place : 64 * place + 4] = progress._WORDS.pack(progress._OWNER_DIED, 0, 0, 0)[
        :4
    ]
    assert other.found(place, asked)[0] == UNKNOWN
    table.close(), other.close()


def test_an_executor_that_is_not_gone_is_waited_for() -> None:
    """Whoever looks sees what it did in the end."""
    table = Progress.create()
    place = table.take()
    table._map[64 * place : 64 * place + 16] = progress._WORDS.pack(7, progress.AT_A_CHANGE, 1, 0)
    looked = threading.Event()
    found: list[tuple[int, int]] = []
    real = table._gone

    def gone(place: int) -> bool:
        looked.set()
        return real(place)

    table._gone = gone  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: found.append(table.found(place, 1)))
    thread.start()
    looked.wait()
    words = progress._WORDS.pack(7 | progress._OWNER_DIED, progress.ONE_CHANGE, 1, 12)
    table._map[64 * place + 4 : 64 * place + 16] = words[4:]
    table._map[64 * place : 64 * place + 4] = words[:4]
    thread.join()
    assert found == [(DONE, 12)]
    table.close()


def test_notes_are_of_one_call_and_of_one_change() -> None:
    journal = Journal(bytearray(_empty(2)))
    buffer, at = journal.buffer, notes_at(1)

    def known(id: int, came: int = UNKNOWN) -> int:
        return result(id, came)[0]

    def result(id: int, came: int = UNKNOWN, gave: int = 0) -> tuple[int, int]:
        notes = bytes(buffer[at : at + 32])
        return progress.read(notes, id, lambda place, serial: (came, gave))

    progress.begins(buffer, at, 9)
    assert (known(9), known(8)) == (NOTHING, UNKNOWN)
    progress.asks(buffer, at, 9, (3, 4), (5, 6))
    assert (known(9), known(9, NOTHING), known(8, NOTHING)) == (UNKNOWN, NOTHING, UNKNOWN)
    assert NOTES.unpack_from(buffer, at)[2:] == (3, 4, 5, 6, 0)
    assert known(9, DONE) == UNKNOWN  # both of them
    progress.asks(buffer, at, 9, (3, 5))
    assert known(9, DONE) == DONE
    progress.came(buffer, at, 9, None)
    assert known(9) == NOTHING
    progress.begins(buffer, at, 9)
    assert known(9) == NOTHING
    progress.asks(buffer, at, 9, (3, 6))
    assert result(9, DONE, -115) == (DONE, -115)
    progress.came(buffer, at, 9, -115)
    assert result(9) == (DONE, -115)
    progress.asks(buffer, at, 9, (3, 7))  # something else is to be done for it
    assert known(9, NOTHING) == UNKNOWN
    progress.came(buffer, at, 9, None)
    assert known(9, NOTHING) == UNKNOWN
    progress.asks(buffer, at, 10)  # by who says nothing
    assert known(10, NOTHING) == UNKNOWN
    progress.asks(buffer, at, 11, (3, 4), (5, 6))  # by two of them: it is 0
    progress.came(buffer, at, 11, 0)
    assert result(11) == (DONE, 0)


def test_parts_that_are_sent_add_up() -> None:
    """What is sent of a stream is the answer, whatever comes of the rest."""
    journal = Journal(bytearray(_empty(2)))
    buffer, at = journal.buffer, notes_at(1)

    def read(came: int, gave: int = 0) -> tuple[int, int]:
        return progress.read(bytes(buffer[at : at + 32]), 9, lambda place, serial: (came, gave))

    progress.begins(buffer, at, 9)
    progress.asks(buffer, at, 9, (3, 4), adds=True)
    assert read(NOTHING) == (NOTHING, 0)
    progress.came(buffer, at, 9, None)  # there is no room
    assert read(UNKNOWN) == (NOTHING, 0)
    for before in (0, 100):
        progress.asks(buffer, at, 9, (3, 5), adds=True)
        assert read(DONE, 7) == (DONE, before + 7)
        assert read(NOTHING) == ((DONE, before) if before else (NOTHING, 0))
        assert read(UNKNOWN) == (UNKNOWN, 0)
        progress.came(buffer, at, 9, 100)
        assert read(UNKNOWN) == (DONE, before + 100)
    progress.asks(buffer, at, 9, (3, 6), adds=True)
    progress.came(buffer, at, 9, None)
    assert read(UNKNOWN) == (DONE, 200)
    progress.asks(buffer, at, 9, adds=True)  # by who says nothing
    assert read(DONE, 1) == (UNKNOWN, 0)


def test_a_journal_without_a_table_knows_nothing() -> None:
    """Whoever wrote down that a call is performed may be of a version that says no more."""
    journal = Journal(bytearray(_empty(2)))
    slot, raw = journal.place()
    assert raw is not None
    from proctor.kernel.abi import SECCOMP_NOTIF

    raw[:] = SECCOMP_NOTIF.pack(9, 1, 0, 83, 0xC000003E, *[0] * 7)
    journal.received(slot, 1.0)
    noted = Notification(9, 1, 83, 0xC000003E, (0,) * 6, 0, 0, slot)
    journal.performs(noted)
    journal.progress = Progress.create()
    assert [each.known for each in journal.pending()] == [UNKNOWN]
    assert journal.state(slot) == PERFORMING
    journal.performs(noted)
    assert [each.known for each in journal.pending()] == [NOTHING]
    journal.progress.close()


def _empty(slots: int) -> bytes:
    head = HEADER.pack(b"PROCTORJ", 1, SLOT_SIZE, slots, 0)
    return head + bytes(slots * SLOT_SIZE)


def test_places_of_those_that_are_gone_are_used_again() -> None:
    """But those of an earlier monitor's executors last, which somebody may look at yet."""
    table = Progress.create()
    one, two = table.take(), table.take()
    table.give_back(one)
    assert len({0, one, two, table.take()}) == 3 and one == table._next - 1
    after = Progress(os.dup(table.fd))
    assert after.take() not in (0, one, two)
    table.close(), after.close()


def test_what_is_asked_of_the_next_at_a_place_is_not_what_the_last_was_asked() -> None:
    """One that was named and had ended before; its place is another one's by the time its monitor is killed."""
    table = Progress.create()
    place = table.take()
    named = table.next(place)
    words = progress._WORDS.pack(progress._OWNER_DIED, progress.NOTHING_DONE, named - 1, 0)
    table._map[64 * place : 64 * place + 16] = words
    assert table.found(place, named)[0] == NOTHING
    table.give_back(place)
    table._left = 0
    assert table.take() == place
    first = table.next(place)
    for asked in range(first - 1, first + 3):  # as it comes to one after another
        words = progress._WORDS.pack(
            progress._OWNER_DIED, progress.ONE_CHANGE, asked & 0xFFFFFFFF, 0
        )
        table._map[64 * place : 64 * place + 16] = words
        assert table.found(place, named) == (UNKNOWN, 0)
    table.close()


def test_memory_that_is_no_table_is_refused() -> None:
    fd = os.memfd_create("short", os.MFD_ALLOW_SEALING)
    with pytest.raises(proctor.ProctorError, match="no table"):
        Progress(fd)
    os.close(fd)

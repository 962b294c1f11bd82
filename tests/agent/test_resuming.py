"""What an earlier monitor left is gone on with in the order in which somebody waits for it."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

import proctor
from proctor.agent import serve
from proctor.agent.facts import Facts
from proctor.agent.held import Record
from proctor.agent.keeping import Item, memory_of
from proctor.agent.policies import Book
from proctor.agent.resuming import in_turn
from proctor.agent.settings import Place, Settings
from proctor.kernel.journal import SLOT_SIZE, Journal

#: Makes a directory once it is told to.
WAITS = "import os\nos.read(0, 1)\ntry: os.mkdir('/nowhere/x')\nexcept OSError as e: os._exit(e.errno)\n"
FILTER = proctor.Filter([proctor.Rule(("mkdir",), proctor.actions.NOTIFY)]).compile().code


class Kept:
    """Listeners of commands, as an earlier monitor left them."""

    def __init__(self) -> None:
        self.targets: list[proctor.Target] = []
        self._open: list[int] = []
        self._count = 0

    def target(self) -> tuple[proctor.Target, int, int]:
        """A command that waits; its listener, and where it is told to go on."""
        reading, writing = os.pipe()
        with open(os.devnull, "r+b") as null:
            fds = [(reading, 0), (null.fileno(), 1), (null.fileno(), 2)]
            fds = [(os.dup(fd), to) for fd, to in fds]
            made = proctor.launch([sys.executable, "-c", WAITS], program=FILTER, fds=fds)
            for fd in [reading, *(fd for fd, _ in fds)]:
                os.close(fd)
        self.targets.append(made)
        listener = made.take_listener()
        self._open += [listener, writing]
        return made, listener, writing

    def item(self, id: str, listener: int, slots: Sequence[int] = ()) -> Item:
        """A copy of it, in a container.

        :param slots: of its journal, in which something is."""
        facts = Facts(door="oci", socket="/oci.sock", uid=0, id=id)
        with_journal = Journal.create(1024)
        for slot in slots:
            with_journal.mark(slot, 2)
        journal = os.dup(with_journal.fileno())
        with_journal.close()
        record = memory_of(msgspec.json.encode(Record(facts, (), 0.0)))
        self._count += 1
        return Item(f"listener {self._count}", (os.dup(listener), journal, record))

    def close(self) -> None:
        """End all."""
        for fd in self._open:
            os.close(fd)
        for each in self.targets:
            each.kill()
            each.wait(30)
            each.close()


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.close()


def calls(listener: int) -> None:
    """Wait until there is a call to be received."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    assert poll.poll(30_000) == [(listener, select.POLLIN)]


def names(items: Sequence[Item]) -> list[str]:
    return [item.name for item in items]


# the last slot of the first page, and one beyond
@pytest.mark.parametrize("slot", [0, (4096 - SLOT_SIZE) // SLOT_SIZE - 1, 500])
def test_those_come_first_for_whom_somebody_waits(kept: Kept, slot: int) -> None:
    _, quiet, _ = kept.target()
    _, caller, tell = kept.target()
    idle = [kept.item(f"idle-{number}", quiet) for number in range(100)]
    one, other = kept.item("pending", quiet), kept.item("pending", quiet, [slot])
    called = kept.item("called", caller)
    items = [one, *idle[:50], called, *idle[50:], other]
    turns = in_turn(items)
    assert names(next(turns)) == names([one, other])  # a container's are together
    os.write(tell, b"x")
    calls(caller)
    assert names(next(turns)) == names([called])
    left = [names(each) for each in turns]
    assert [name for each in left for name in each] == names(idle)
    assert all(len(each) < 100 for each in left)
    for item in items:
        item.close()


def test_those_that_nobody_uses_come_last_of_their_container(kept: Kept) -> None:
    """Taken alone, such a one would be the container's end for all who are told of that."""
    over, ended, _ = kept.target()
    _, alive, _ = kept.target()
    items = [kept.item("both", ended), kept.item("both", alive), kept.item("idle", alive)]
    over.kill()
    over.wait(30)
    poll = select.poll()
    poll.register(ended, 0)
    assert poll.poll(30_000) == [(ended, select.POLLHUP)]
    (turn,) = in_turn(items)
    assert names(turn) == names([items[1], items[0], items[2]])
    for item in items:
        item.close()


def test_what_is_none_has_its_turn_too(kept: Kept) -> None:
    """Whoever takes it says what is wrong with it."""
    _, quiet, _ = kept.target()
    whole = kept.item("idle", quiet)
    empty = Item("listener 7", ())
    memory = memory_of(b"no record")
    strange = Item("listener 8", (os.dup(memory), memory, os.dup(memory)))
    alone = Item("listener 9", (os.dup(memory),))
    left = [name for each in in_turn([empty, strange, alone, whole]) for name in names(each)]
    assert sorted(left) == names([whole, empty, strange, alone])
    for item in (whole, strange, alone):
        item.close()


def test_calls_are_answered_before_all_is_gone_on_with(kept: Kept, tmp_path: Path) -> None:
    """Those that are idle come when who waited has his answer."""
    (tmp_path / "default.toml").write_text(
        '[[rule]]\nname = "no rooms"\ncalls = ["mkdir"]\ndeny = "EROFS"\n'
    )
    _, quiet, _ = kept.target()
    target, caller, tell = kept.target()
    idle = [kept.item(f"idle-{number}", quiet) for number in range(3)]
    items = [*idle, kept.item("called", caller)]
    os.write(tell, b"x")
    calls(caller)
    loop = asyncio.new_event_loop()
    book = Book(str(tmp_path))
    book.load()
    place = Place(str(tmp_path / "oci.sock"), frozenset({os.geteuid()}))
    server = serve.Server(loop, Settings(str(tmp_path), oci=[place]), book)
    restore, ended = server.agent.restore, []

    def restored(item: Item) -> None:
        if item in idle:
            ended.append(target.wait(30))
        restore(item)

    server.agent.restore = restored  # type: ignore[method-assign]
    server.prepare()
    try:
        server.open(items)
        assert ended == [30, 30, 30]  # EROFS
        assert len(server.agent.containers) == 4
    finally:
        server.close()
        loop.close()


#: An agent's monitor that takes over from another one, with a keeper that has it ended meanwhile; which listener is none is told
#: the keeper while all of them are gone on with.
ENDED = """
import os, signal, sys
from proctor.agent import serve
from proctor.agent.keeping import Item
from proctor.agent.settings import Place, Settings
class Keeper:
    leaves = False
    def first(self): return False
    def take_over(self): return [Item("listener 1", ())]
    def keep(self, name, fds): pass
    def forget(self, name): os.kill(os.getpid(), int(sys.argv[2]))
    def renew(self): pass
    def serves(self): print("serves")
place = Place(sys.argv[1] + "/oci.sock", frozenset({os.geteuid()}))
print("left" if serve.run(Settings(sys.argv[1], oci=[place]), keeper=Keeper()) else "ended")
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_who_is_ended_meanwhile_ends_in_order(tmp_path: Path, end: int) -> None:
    """It answers by then: what it has begun is waited for, as at any other time."""
    (tmp_path / "default.toml").write_text('default = "allow"\n')
    words = [sys.executable, "-c", ENDED, str(tmp_path), str(int(end))]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "serves\nended\n")


#: Prints what is loaded from where a monitor waits to take over until the first call is answered.
LOADED = """
import asyncio, os, sys
from pathlib import Path
from proctor.agent import serve
from proctor.agent.policies import Book
from proctor.agent.settings import Place, Settings
from tests.agent.test_resuming import Kept, calls
top = Path(sys.argv[1])
loop, book = asyncio.new_event_loop(), Book(str(top))
book.load()
place = Place(str(top / "oci.sock"), frozenset({os.geteuid()}))
server = serve.Server(loop, Settings(str(top), oci=[place]), book)
server.prepare()
kept = Kept()
target, caller, tell = kept.target()
os.write(tell, b"x")
calls(caller)
items = [kept.item("called", caller)]
before = set(sys.modules)
server.open(items)
code = target.wait(30)
after = set(sys.modules)
server.close()
kept.close()
loop.close()
print(code, *sorted(after - before))
"""


@pytest.mark.parametrize(
    "verdict, code", [('deny = "EROFS"', errno.EROFS), ("perform = true", errno.ENOENT)]
)
def test_what_the_first_call_takes_is_loaded_before(
    tmp_path: Path, verdict: str, code: int
) -> None:
    """While a monitor waits to take over, and nobody for it."""
    (tmp_path / "default.toml").write_text(
        f'[[rule]]\nname = "rooms"\ncalls = ["mkdir"]\n{verdict}\n'
    )
    words = [sys.executable, "-c", LOADED, str(tmp_path)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.stdout == f"{code}\n"


def test_there_is_room_for_the_descriptors_of_thousands() -> None:
    """Made while there is one thread: later the kernel waits each time that it makes more."""
    code = (
        "import os; from proctor.agent.keeping import make_room, raise_limits\n"
        "before = sorted(os.listdir('/proc/self/fd')); make_room(raise_limits())\n"
        "print(before == sorted(os.listdir('/proc/self/fd')))\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('FDSize:')])"
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for most in (hard, 4096, 64):
        limit = (min(hard, most),) * 2

        def limited(limit: tuple[int, int] = limit) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)

        words = [sys.executable, "-c", code]
        done = subprocess.run(
            words, stdout=subprocess.PIPE, text=True, preexec_fn=limited, check=True
        )
        same, size = done.stdout.split()
        assert same == "True"
        assert int(size) >= min(most, 16384)

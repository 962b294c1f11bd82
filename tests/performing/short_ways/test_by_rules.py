"""Opens that rules about their path have performed, for callers that are what the monitor is: what the core does at once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from proctor.call.verdict import Deny, HandOver, Verdict
from proctor.observe.jsonlog import JsonLog, to_file
from proctor.performing.short_ways.short import OpenWay
from proctor.policy import loads
from proctor.supervisor.usual import Usual
from proctor.supervisor.world import KernelWorld
from tests.performing.families.test_open_differential import FLAGS
from tests.performing.support.callers import open_directory
from tests.performing.support.trees import FIFOS, PATHS, build
from tests.supervisor.test_usual import timeless

TRIES = int(os.environ.get("PROCTOR_TRIES", "300"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
RULES = """
version = 1
[[rule]]
name = "no"
calls = ["open", "openat", "openat2", "creat"]
when = {{ path = ["{top}/not", "{top}/not/**", "{top}/forbidden"] }}
deny = "EXFULL"
[[rule]]
name = "yes"
calls = ["open", "openat", "openat2", "creat"]
perform = true
"""
OPENS = """
import os, sys
def opened(path, flags, mode=0o640):
    try:
        fd = os.open(path, flags, mode)
    except OSError as error:
        return error.errno
    os.close(fd)
    return 0
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="trees of several owners take root")


@pytest.fixture
def top() -> Iterator[str]:
    with open_directory() as path:
        yield os.fsdecode(path)


class Asked:
    """How often a policy's handlers are asked."""

    def __init__(self, text: str) -> None:
        self.policy = loads(text)
        self.handlers = self.policy.handlers()
        self.times = 0
        for each in self.handlers:
            each.function = self._counting(each.function)

    def _counting(self, function: Any) -> Any:
        def counts(call: Any) -> Any:
            self.times += 1
            return function(call)

        return counts

    def run(self, program: str, *arguments: str, **options: Any) -> str:
        given = {"filter": self.policy.filter(), **self.policy.supervisor_options(), **options}
        done = proctor.run(
            [sys.executable, "-IS", "-c", OPENS + program, *arguments],
            self.handlers,
            capture_output=True,
            **given,
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout.decode())


RANDOM = """
import fcntl, random
top, seed, tries, paths, flags = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), eval(sys.argv[4]), eval(sys.argv[5])
os.chdir(top)
chance, known = random.Random(seed), {}
for each, _, names in os.walk(os.fsencode(top)):
    known[each] = set(names)
for turn in range(tries):
    path, flag = chance.choice(paths).replace(b"TOP", os.fsencode(top)[1:]), chance.choice(flags) | os.O_NONBLOCK
    mask = chance.choice((0, 0o22, 0o77))
    os.umask(mask)
    try:
        fd = os.open(path, flag, 0o666)
    except OSError as error:
        said = error.errno
    else:
        status = os.fstat(fd)
        said = [fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETFD), oct(status.st_mode), status.st_uid,
                status.st_gid, status.st_size if status.st_mode >> 12 == 8 else -1, os.readlink(f"/proc/self/fd/{fd}")[:len(top) + 20].split("#")[0]]
        os.close(fd)
    print(turn, path, oct(flag), said)
    for each, names in known.items():
        for new in set(os.listdir(each)) - names:
            if new.startswith(b"new") or new == b"nowhere":
                os.unlink(os.path.join(each, new))
"""


def test_what_is_opened_is_what_the_kernel_opens(top: str) -> None:
    """At random, with nothing forbidden that is tried; few of them are asked about."""
    paths = [path for path in PATHS if path not in FIFOS and not path.startswith(b"/proc")]
    arguments = top, str(SEED), str(TRIES), repr(paths), repr(list(FLAGS.values()))
    said: list[str] = []
    for supervised in (False, True):
        tree = os.fsencode(top) + b"/tree"
        os.mkdir(tree)
        build(tree, 0)
        where = os.fsdecode(tree)
        if supervised:
            asked = Asked(RULES.format(top=where))
            said.append(asked.run(RANDOM, where, *arguments[1:]))
        else:
            done = proctor.run(
                [sys.executable, "-IS", "-c", OPENS + RANDOM, where, *arguments[1:]],
                capture_output=True,
                check=True,
            )
            said.append(done.stdout.decode())
        shutil.rmtree(tree)
    for mine, theirs in zip(*(each.splitlines() for each in said), strict=True):
        assert mine == theirs
    assert len(said[0].splitlines()) == TRIES


OFTEN = """
number = int(sys.argv[1])
open("there", "w").close()
for turn in range(100):
    assert opened("there", os.O_RDONLY) == 0
    assert opened("link", os.O_RDONLY) == 0
    assert opened("missing", os.O_RDONLY) == 2
    assert opened(f"made{turn}", os.O_RDWR | os.O_CREAT | os.O_EXCL) == 0
    assert opened(f"made{turn}", os.O_RDWR | os.O_CREAT | os.O_EXCL) == 17
    assert opened(f"made{turn}", os.O_RDWR | os.O_CREAT | os.O_TRUNC) == 0
    assert opened(".", os.O_RDWR | os.O_TMPFILE) == 0
    for path in ("not/there", "not/../not/there", "to-not/there", "forbidden", "to-forbidden"):
        assert opened(path, os.O_RDONLY) == number, path
        assert opened(path, os.O_WRONLY | os.O_TRUNC) == number, path
        assert opened(path, os.O_RDWR | os.O_CREAT) == number, path
        assert opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) == 17, path
    for path in ("not/new", "to-not/new"):
        assert opened(path, os.O_RDONLY) == 2, path
        assert opened(path, os.O_RDWR | os.O_CREAT) == number, path
        assert opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) == number, path
    assert opened("not", os.O_RDWR | os.O_TMPFILE) == number
    os.rename("not", "was-not")
    assert opened("was-not/there", os.O_RDONLY) == 0
    assert opened("was-not/new", os.O_RDWR | os.O_CREAT) == 0
    os.unlink("was-not/new")
    os.rename("was-not", "not")
"""


def test_rules_hold_and_are_asked_seldom(top: str) -> None:
    """What is there and what is to be made, under whatever name it is known."""
    os.mkdir(f"{top}/not")
    for path in ("not/there", "forbidden"):
        with open(f"{top}/{path}", "w") as file:
            file.write("content")
    for name, target in (("link", "there"), ("to-not", "not"), ("to-forbidden", "forbidden")):
        os.symlink(target, f"{top}/{name}")
    counters = proctor.Counters()
    asked = Asked(RULES.format(top=top))
    asked.run(OFTEN, str(errno.EXFULL), cwd=top, observers=[counters])
    assert sorted(os.listdir(f"{top}/not")) == ["there"]
    for path in ("not/there", "forbidden"):
        with open(f"{top}/{path}") as file:
            assert file.read() == "content"
    table = counters.table()
    name = next(key[0] for key in table)
    refused, existing = (table[name, "openat", f"perform {each}"] for each in ("EXFULL", "EEXIST"))
    assert refused == 100 * (5 * 3 + 2 * 2 + 1)
    assert existing == 100 * (1 + 5)
    others = table[name, "openat", "perform"], table[name, "openat", "perform ENOENT"]
    assert others[0] >= 100 * 7 and others[1] >= 100 * 3
    # who is refused is told why, and whoever stalls is asked about some more; but most are never asked about
    assert asked.times < refused + existing + sum(others) - 300


LOGGED = """
import json
paths = json.loads(sys.argv[1])
os.umask(0o22)
for turn in range(8):
    for path in paths:
        path = path.encode("utf-8", "surrogateescape")
        for flags in (os.O_RDONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL,
                      os.O_RDWR | os.O_TMPFILE, os.O_RDONLY | os.O_DIRECTORY):
            opened(path, flags | os.O_NONBLOCK)
    for name in os.listdir(b"."):
        if name.startswith((b"new", b"nowhere")):
            os.unlink(name)
"""
BY_TEXT = """
version = 1
[[rule]]
name = "no"
calls = ["openat"]
when = {{ path_text = ["not/*", "nowhere"] }}
deny = "EXFULL"
[[rule]]
name = "by name"
calls = ["openat"]
when = {{ path = "{top}/there" }}
perform = true
[[rule]]
name = "yes"
calls = ["openat"]
perform = true
"""
ALL = """
version = 1
[[rule]]
name = "all"
calls = ["openat"]
perform = true
"""


@pytest.mark.parametrize("rules", [RULES, BY_TEXT, ALL])
def test_the_log_says_the_same(top: str, rules: str) -> None:
    """Of calls that are performed at once, and by the long way."""
    os.mkdir(f"{top}/not")
    for name in ("there", "forbidden", "not/there", "gr\u00fcn", 'quo"ted'):
        with open(f"{top}/{name}", "w"):
            pass
    for name, target in (("link", "there"), ("to-not", "not"), ("dangling", "new-too")):
        os.symlink(target, f"{top}/{name}")
    paths = [
        "there",
        f"{top}/there",
        "./there",
        "not/../there",
        "link",
        "not",
        "not/there",
        "to-not/there",
        "forbidden",
    ]
    paths += [
        "gr\u00fcn",
        'quo"ted',
        "new-\udcff",
        "new",
        "new\n",
        "dangling",
        "nowhere/x",
        "nowhere",
        "there/x",
        "x" * 300,
        "",
    ]

    def run(native: bool) -> tuple[Asked, list[Any], Any]:
        asked = Asked(rules.format(top=top))
        log, counters = f"{top}.{native}", proctor.Counters()
        lines = to_file(log, print)
        try:
            asked.run(
                "os.chdir(sys.argv[2])" + LOGGED,
                json.dumps(paths),
                top,
                world=KernelWorld(native=native),
                observers=[JsonLog(lines, containers=False), counters],
            )
            assert lines.close(30)
            found = timeless(Path(log))
        finally:
            os.unlink(log)
        return asked, found, counters.table()

    for _ in range(10):
        # on a busy machine the first call stalls, perhaps, and those like it go the long way
        asked, mine, counted = run(True)
        if asked.times < len(mine) - 100:
            break
    assert asked.times < len(mine) - 100
    _, theirs, counted_there = run(False)
    for line, other in zip(mine, theirs, strict=True):
        assert line == other
    assert counted == counted_there


def test_a_rule_about_the_text_is_asked_before_any_look(top: str) -> None:
    """Also where nothing is: what it refuses is refused, whatever else comes of it."""
    program = (
        "for turn in range(100):\n"
        "    assert opened('nowhere', os.O_RDONLY) == int(sys.argv[1])\n"
        "    assert opened('elsewhere', os.O_RDONLY) == 2\n"
    )
    Asked(BY_TEXT.format(top=top)).run(program, str(errno.EXFULL), cwd=top)


def test_whoever_wants_to_know_is_told(top: str) -> None:
    """Of what is performed, and of each errno of it."""

    class Observer:
        def __init__(self, wants: Any) -> None:
            self.told: list[Verdict] = []
            self.wants = wants

        events = (proctor.Outcome,)

        def __call__(self, outcome: Any) -> None:
            self.told.append(outcome.verdict)

    def is_missing(verdict: Verdict) -> bool:
        return isinstance(verdict, Deny) and verdict.errno == errno.ENOENT

    program = (
        "for turn in range(100):\n"
        "    assert opened('there', os.O_RDWR | os.O_CREAT) == 0\n"
        "    assert opened('missing', os.O_RDONLY) == 2\n"
    )
    for wants, least in ((is_missing, 100), (lambda verdict: isinstance(verdict, HandOver), 100)):
        observer = Observer(wants)
        Asked(RULES.format(top=top)).run(program, cwd=top, observers=[observer])
        assert len(observer.told) >= least
        assert all(map(wants, observer.told))


def test_what_was_made_by_who_lost_the_role_is_given_once(
    top: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may answer by then, and a file is there that was not: nothing is begun anew."""
    given: list[int] = []
    meet, give = OpenWay._meet, Usual._to_be_given
    made: list[proctor.Process] = []

    def loses_it(self: OpenWay, *what: Any) -> None:
        meet(self, *what)
        if made:
            loop = made[0].supervisor._decider._engine._loop  # type: ignore[attr-defined]
            before = loop.generation
            loop.surrender()
            for _ in range(20_000):  # whoever has lost it before has nothing to surrender
                if loop.generation != before:
                    break
                os.sched_yield()

    def counted(self: Usual, *what: Any) -> None:
        given.append(what[-1])
        give(self, *what)

    monkeypatch.setattr(OpenWay, "_meet", loses_it)
    monkeypatch.setattr(Usual, "_to_be_given", counted)
    program = (
        "import threading\n"
        "said = []\n"
        "for turn in range(300):\n"
        "    flags, name = os.O_RDWR | os.O_CREAT | os.O_EXCL, f'{sys.argv[1]}.{turn}'\n"
        "    thread = threading.Thread(target=lambda: said.append(opened(name, flags)))\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "assert said == [0] * 300, said\n"
    )
    for attempt in range(1, 11):  # it may be that each is lost where nothing is opened yet
        asked = Asked(RULES.format(top=top))
        process = proctor.spawn(
            [sys.executable, "-IS", "-c", OPENS + program, str(attempt)],
            asked.handlers,
            filter=asked.policy.filter(),
            cwd=top,
            **asked.policy.supervisor_options(),
        )
        made[:] = [process]
        with process:
            assert process.wait(120) == 0
        assert len(os.listdir(top)) == 300 * attempt
        if given:
            return
    pytest.fail("nobody lost the role in time")


UNREAD = """
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
long = b"x" * 4097
for number, at, *arguments in (
    (269, 1, -100, None, 8), (439, 1, -100, None, 4, 1 << 20), (263, 1, -100, None, 0x1000), (316, 1, -100, None, -100, b"/", 16),
    (265, 1, -100, None, -100, b"/", 1), (260, 1, -100, None, 0, 0, 0x400), (452, 1, -100, None, 0o600, 0x400), (76, 0, None, -1),
    (133, 0, None, 0o170000, 0), (262, 1, -100, None, bytes(144), 0x200), (332, 1, -100, None, 0x6000, 0, bytes(256)),
    (89, 0, None, bytes(8), 0), (437, 1, -100, None, bytes(24), 8), (437, 1, -100, None, bytes(24), 24), (257, 1, -100, None, 0, 0),
    (280, 1, -100, None, (10**9).to_bytes(8, "little") * 4, 0), (280, 1, -100, None, 0, 0x800), (83, 0, None, 0o700),
    (257, 1, -100, None, 0o20000000, 0), (2, 0, None, 0o20200000, 0),
):
    for path in 0, 1, long:
        arguments[at] = path
        given = [each if isinstance(each, bytes) else ctypes.c_long(each) for each in arguments]
        print(number, libc.syscall(number, *given), errno.errorcode.get(ctypes.get_errno()))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has numbers of x86")
def test_what_else_is_wrong_may_come_before_a_path_that_cannot_be_read(top: str) -> None:
    every = families.open, families.attributes, families.stat, families.mknod, families.names
    alone = [each() for each in every]
    ruled = [each(when={"path": f"{top}/**"}) for each in every]
    ruled += [families.names(when={"oldpath": f"{top}/**"}), *alone]
    command = [sys.executable, "-I", "-c", UNREAD]
    told = [
        proctor.run(command, handlers, capture_output=True, timeout=60).stdout.decode().splitlines()
        for handlers in ([], alone, ruled)
    ]
    assert told[0] == told[1] == told[2]
    assert {each.split()[-1] for each in told[0]} == {"EFAULT", "ENAMETOOLONG", "EINVAL"}

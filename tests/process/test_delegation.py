"""``proctor run`` below ``proctor run``: the kernel has one listener, and both have their say."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proctor.call.verdict import deny
from proctor.kernel.closing import closers
from proctor.kernel.notification import Notification
from proctor.process import asking
from proctor.process.below import Below
from proctor.process.inner import Inner, Question, Rank
from proctor.supervisor.ports import Later
from tests.support.lingering import lingering
from tests.support.others import by_user

PROCTOR = f"{sys.executable} -m proctor run --quiet"


def rooms(errno_name: str, pattern: str, extra: str = "") -> str:
    """A policy that refuses some directories, and lets the others be made."""
    return f"""
default = "allow"
[[rule]]
name = "rooms"
calls = ["mkdir", "mkdirat"]
when = {{ path = "{pattern}" }}
deny = "{errno_name}"
[[rule]]
name = "other rooms"
calls = ["mkdir", "mkdirat"]
allow = "unsafe: a test"
{extra}
"""


class Place:
    """A directory with policies in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def policy(self, name: str, text: str) -> str:
        """The words that run something under it."""
        (self.path / f"{name}.toml").write_text(text)
        return f"{PROCTOR} --policy {self.path}/{name}.toml"

    def run(self, script: str, user: int = 0, **more: object) -> subprocess.CompletedProcess[str]:
        """Run a script in here."""
        words = by_user(user, script) if user else ["sh", "-c", script]
        return subprocess.run(
            words, cwd=self.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=60, check=False, **more,  # type: ignore[call-overload]
        )  # fmt: skip


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="proctor-below-") as made:
        os.chmod(made, 0o777)
        yield Place(Path(made))


def sh(prefix: str, script: str) -> str:
    """A command that runs a script."""
    return f"{prefix} -- sh -c {shlex.quote(script)}"


def test_both_decide_the_outer_first(place: Place) -> None:
    """And what is no path, or no call of the inner one's tree, is as it would be alone."""
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    constant = '[[rule]]\nname = "constant"\ncalls = ["rmdir"]\ndeny = "EXDEV"\n'
    inner = place.policy("inner", rooms("ENOSPC", "**/*er*", constant))
    under = sh(inner, "mkdir outer1; mkdir inner1; mkdir free && echo free; rmdir free; exit 5")
    done = place.run(sh(outer, f"mkdir inner0; {under}; echo ended $?; mkdir inner2 && echo after"))
    assert "outer1’: Read-only file system" in done.stdout
    assert "inner1’: No space left on device" in done.stdout
    assert "free\n" in done.stdout and "'free': Invalid cross-device link" in done.stdout
    assert "ended 5\nafter\n" in done.stdout
    assert (place.path / "inner0").is_dir() and (place.path / "inner2").is_dir()


def test_any_depth(place: Place) -> None:
    """Four of them, each with a rule of its own; whoever is above is asked first."""
    prefixes = [
        place.policy(f"depth{depth}", rooms(name, f"**/{pattern}"))
        for depth, (name, pattern) in enumerate(
            (("EROFS", "a*"), ("ENOSPC", "[ab]*"), ("EDQUOT", "[abc]*"), ("EMLINK", "[abcd]*"))
        )
    ]
    script = "for name in a b c d e; do mkdir $name; done"
    for prefix in reversed(prefixes):
        script = sh(prefix, script)
    done = place.run(script)
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == [
        "Read-only file system", "No space left on device", "Disk quota exceeded", "Too many links",
    ], done.stdout  # fmt: skip
    assert (place.path / "e").is_dir()


def test_what_the_inner_one_performs_and_hands_over(place: Place) -> None:
    """In its own process: a path is pinned, a file is opened and its descriptor given on."""
    outer = place.policy("outer", 'default = "allow"\n')
    inner = place.policy("inner", """
default = "allow"
[[rule]]
name = "secrets"
calls = ["openat", "open"]
when = { path = "**/secret*" }
deny = "EACCES"
[[rule]]
name = "files"
calls = ["openat", "open"]
perform = true
[[rule]]
name = "rooms"
calls = ["mkdir", "mkdirat"]
perform = true
""")  # fmt: skip
    (place.path / "plain").write_text("read me\n")
    (place.path / "secret").write_text("no\n")
    script = sh(inner, "cat plain; cat secret; mkdir made && ls -d made")
    done = place.run(sh(f"{outer} --delegate open,openat,mkdir,mkdirat", script))
    assert "read me\n" in done.stdout and "made\n" in done.stdout, done.stdout
    assert "secret: Permission denied" in done.stdout and "no\n" not in done.stdout


@pytest.mark.root
def test_the_outermost_performs_if_nobody_below_refuses(place: Place) -> None:
    """A right that the outer one lends is not the inner one's to lend; to refuse is."""
    device = '[[rule]]\nname = "nodes"\ncalls = ["mknod", "mknodat"]\nperform = true\n'
    outer = place.policy("outer", device)
    inner = place.policy("inner", f"""
[[rule]]
name = "no zeros"
calls = ["mknod", "mknodat"]
when = {{ device = "1:5", type = "char" }}
deny = "ENOSPC"
{device}
""")  # fmt: skip
    words = "mknod null c 1 3 && stat -c %t:%T null; mknod zero c 1 5"
    done = place.run(sh(outer, sh(inner, words)))
    assert "1:3\n" in done.stdout, done.stdout
    assert "zero: No space left on device" in done.stdout
    third = place.policy("third", device)
    words = sh(third, sh(inner, "mknod null3 c 1 3 && stat -c %t:%T null3; mknod zero c 1 5"))
    done = place.run(sh(outer, words))
    assert "1:3\n" in done.stdout and "zero: No space left on device" in done.stdout, done.stdout


def test_who_performs_asks_those_below_first(place: Place) -> None:
    """The middle one performs what the innermost lets be performed."""
    outer = place.policy("outer", 'default = "allow"\n')
    middle = place.policy(
        "middle", '[[rule]]\nname = "all"\ncalls = ["mkdir", "mkdirat"]\nperform = true\n'
    )
    inner = place.policy("inner", rooms("ENOSPC", "**/inner*"))
    words = sh(middle, sh(inner, "mkdir inner1; mkdir free && ls -d free"))
    done = place.run(sh(f"{outer} --delegate mkdir,mkdirat", words))
    assert "inner1’: No space left on device" in done.stdout and "free\n" in done.stdout, (
        done.stdout
    )


def test_each_decides_for_its_own_subtree(place: Place) -> None:
    """Two at the same time, with opposite rules."""
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    one = sh(place.policy("one", rooms("ENOSPC", "**/one*")), "mkdir one1; mkdir two1; read x <go")
    two = sh(place.policy("two", rooms("EDQUOT", "**/two*")), "mkdir one2; mkdir two2; echo >go")
    done = place.run(sh(outer, f"mkfifo go; ({one}) & ({two}) & wait; mkdir one3 two3"))
    assert sorted(line.rpartition(": ")[2] for line in done.stdout.splitlines()) == [
        "Disk quota exceeded",
        "No space left on device",
    ], done.stdout
    found = sorted(each.name for each in place.path.iterdir() if each.is_dir())
    assert found == ["one2", "one3", "two1", "two3"]


def test_orphans_stay_in_their_subtree(place: Place) -> None:
    """A daemon, two forks and a session away, is decided for; and the inner one ends after it."""
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    inner = place.policy("inner", rooms("ENOSPC", "**/inner*"))
    late = "(setsid sh -c 'read x <go; mkdir inner1; echo late' & )"
    words = f"mkfifo go ended; (read x <ended; echo >go) & {sh(inner, late + '; echo >ended')}"
    done = place.run(sh(outer, f"{words}; echo over"))
    assert "inner1’: No space left on device" in done.stdout
    assert done.stdout.endswith("late\nover\n"), done.stdout


def test_death_of_the_inner_one_lets_nothing_through(place: Place) -> None:
    """Killed, with a daemon left: what it wanted is ENOSYS there, and all else goes on."""
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    inner = place.policy("inner", rooms("ENOSPC", "**/inner*"))
    daemon = "setsid sh -c 'echo >up; read x <go; mkdir free; echo late; rmdir x; echo >done' & echo $PPID >pid; exec sleep 1000"
    script = f"""
mkfifo up go done
({sh(inner, daemon)}) &
read x <up
while ! [ -s pid ]; do :; done
kill -9 $(cat pid)
wait
echo >go
read x <done
mkdir after && echo after
{sh(inner, "mkdir inner1; mkdir again && echo again")}
"""
    done = place.run(sh(outer, script))
    assert "‘free’: Function not implemented" in done.stdout, done.stdout
    assert "late\n" in done.stdout and "'x': No such file or directory" in done.stdout
    assert "after\n" in done.stdout
    assert "inner1’: No space left on device" in done.stdout and "again\n" in done.stdout
    assert not (place.path / "free").exists()


def test_calls_that_wait_are_answered_when_the_inner_one_dies(place: Place) -> None:
    """It was just deciding; what lives on hears ENOSYS."""
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    (place.path / "slow.py").write_text(
        "import os, signal, proctor\n"
        "@proctor.on('mkdir', 'mkdirat')\n"
        "def slow(call):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    inner = f"{PROCTOR} --handlers {place.path}/slow.py"
    child = "(setsid sh -c 'mkdir free; echo late; echo >done' &); exec sleep 1000"
    done = place.run(sh(outer, f"mkfifo done; ({sh(inner, child)}) & read x <done; wait"))
    assert "‘free’: Function not implemented" in done.stdout and "late\n" in done.stdout


def test_what_is_not_seen_above_is_said(place: Place) -> None:
    """And how to mend it."""
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    inner = place.policy(
        "inner",
        '[[rule]]\nname = "modes"\ncalls = ["chmod", "fchmodat", "fchmodat2"]\nwhen = { path = "**" }\ndeny = "ENOMEDIUM"\n'
        '[[rule]]\nname = "others"\ncalls = ["chmod", "fchmodat", "fchmodat2"]\nperform = true\n',
    )
    words = sh(inner, "chmod 700 .")
    done = place.run(sh(outer, f"{words}; echo $?"))
    assert "--delegate chmod,fchmodat,fchmodat2" in done.stdout and done.stdout.endswith("125\n")
    done = place.run(sh(f"{outer} --delegate chmod,fchmodat,fchmodat2", words))
    assert "No medium found" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("between", "says"),
    [
        ("env -u PROCTOR_ABOVE ", "PROCTOR_ABOVE is not set"),
        (f"{sys.executable} -c 'import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))' ",
         "was closed by a program in between"),
        ("env PROCTOR_ABOVE=0 ", "was closed by a program in between"),
        ("env PROCTOR_ABOVE=x ", "PROCTOR_ABOVE is not set"),
    ],
)  # fmt: skip
def test_no_way_up_is_said(place: Place, between: str, says: str) -> None:
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    inner = place.policy("inner", rooms("ENOSPC", "**/inner*"))
    done = place.run(sh(outer, f"{between}{sh(inner, 'true')}; echo $?"))
    assert "another seccomp listener" in done.stdout and says in done.stdout, done.stdout
    assert done.stdout.endswith("125\n")


def test_an_outer_one_need_not_take_others_in(place: Place) -> None:
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    done = place.run(
        sh(f"{outer} --no-delegate", sh(place.policy("inner", rooms("ENOSPC", "**")), "true")),
        env={key: value for key, value in os.environ.items() if key != asking.VARIABLE},
    )
    assert "PROCTOR_ABOVE is not set" in done.stdout and done.returncode == 125


def test_doctor_says_who_sits_above(place: Place, tmp_path: Path) -> None:
    """And what helps."""
    from proctor.process.neighbours import who_is_above

    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    done = place.run(sh(outer, f"{sys.executable} -m proctor doctor"))
    assert "which takes others in by descriptor" in done.stdout, done.stdout
    assert done.stdout.endswith(
        'by itself: a listener of our own; "who sits above" has what helps.\n'
    )
    assert "networkingMode=nat" in who_is_above(release="6.6.87.2-microsoft-standard-WSL2")
    assert "not known" in who_is_above(str(tmp_path), "6.18.0")
    (tmp_path / ".dockerenv").touch()
    assert "SCMP_ACT_NOTIFY" in who_is_above(str(tmp_path), "6.18.0")


@pytest.mark.root
def test_an_ordinary_user(place: Place) -> None:
    """Neither of them is root."""
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    inner = place.policy("inner", rooms("ENOSPC", "**/inner*"))
    os.chmod(place.path, 0o777)
    words = sh(outer, sh(inner, "mkdir outer1; mkdir inner1; mkdir free && echo free"))
    done = place.run(words, user=65534)
    assert "outer1’: Read-only file system" in done.stdout, done.stdout
    assert "inner1’: No space left on device" in done.stdout and "free\n" in done.stdout


@pytest.mark.root
def test_what_an_ordinary_users_inner_one_performs(place: Place) -> None:
    """Nobody but root may read its performers' memory: outer rules about paths refuse what is to be performed there, and
    perform it themselves."""
    everything = '[[rule]]\nname = "all"\ncalls = ["mkdir", "mkdirat"]\nperform = true\n'
    inner = sh(place.policy("inner", f'default = "allow"\n{everything}'), "mkdir made")
    looks = place.policy("looks", rooms("EROFS", "**/outer*"))
    done = place.run(sh(looks, inner), user=65534)
    assert "made’: Operation not permitted" in done.stdout, done.stdout
    performs = place.policy("performs", f'default = "allow"\n{everything}')
    done = place.run(sh(performs, inner), user=65534)
    assert (done.returncode, done.stdout) == (0, "")
    assert (place.path / "made").is_dir()


@pytest.mark.root
@pytest.mark.parametrize("user", [0, 65534])
@pytest.mark.parametrize("depth", [0, 1])
def test_across_pid_namespaces(place: Place, user: int, depth: int) -> None:
    """The inner one is in a pid namespace of its own, as its init or not, and its command in one more: each knows a
    caller by another number.  A user has them by user namespaces."""
    apart = f"unshare {'--user --map-root-user ' if user else ''}--pid --fork --mount-proc"
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    inner = place.policy("inner", rooms("ENOSPC", "**/inner*"))
    words = "mkdir outer1; mkdir inner1; mkdir free && echo free $$; exit 5"
    under = f"{inner} -- {sh(apart, words)}"
    under = f"{apart} {under}" if depth == 0 else sh(apart, f"{under}; exit $?")
    done = place.run(sh(outer, f"{under}; echo ended $?"), user=user)
    assert "outer1’: Read-only file system" in done.stdout, done.stdout
    assert "inner1’: No space left on device" in done.stdout
    assert "free 1\nended 5\n" in done.stdout


# Who registers, and is none --------------------------------------------------------------------

#: Registers as a supervisor below does, and does with its calls what its argument says.
HOSTILE = """
import json, os, socket, sys
from proctor.kernel import scm
from proctor.process import asking
way = socket.socket(fileno=int(os.environ[asking.VARIABLE]))
def register(data, *more):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    scm.send(way, data, [theirs.fileno(), *more])
    theirs.close()
    ours.settimeout(30)
    return ours, scm.receive(ours).data.decode()
"""


def hostile(place: Place, script: str) -> subprocess.CompletedProcess[str]:
    (place.path / "hostile.py").write_text(HOSTILE + script)
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    words = f"{sys.executable} hostile.py; mkdir outer1; mkdir free && echo free"
    return place.run(sh(outer, words))


def test_nonsense_on_the_way_up_hurts_nobody(place: Place) -> None:
    done = hostile(
        place,
        """
for data in (b"x", b"[]", b"{}", b'{"calls": 7}', b"[" * 5000, b'{"calls": null}'):
    print(json.loads(register(data)[1])["error"] != "")
null = os.open(os.devnull, os.O_RDWR)
scm.send(way, b"{}")                            # nobody to be told
scm.send(way, b"{}", [null])                    # no socket
scm.send(way, b'{"calls": []}', [null] * 8)
try:
    scm.send(way, b'{"calls": []}', [null] * 200)
except OSError:
    pass
pipe = os.pipe()
for _ in range(200):
    scm.send(way, b'{"calls": ["mkdir"]}', [pipe[1]])
held = [register(b'{"calls": ["mkdir", "no_such_call"]}') for _ in range(70)]
print(sum("served" in said for _, said in held))
""",
    )
    assert done.stdout.count("True\n") == 6, done.stdout
    assert "\n64\n" in done.stdout
    assert "outer1’: Read-only file system" in done.stdout and "free\n" in done.stdout


@pytest.mark.parametrize(
    ("reply", "gets"),
    [
        ("b''", "Function not implemented"),
        ("b'x' * 24", "Function not implemented"),
        ("b'x' * 4000", "Function not implemented"),
        ("asking.SAID.pack(9, 0, 0, 0)", "Function not implemented"),
        ("asking.SAID.pack(asking.ANSWER, 0, -99999, 0)", "Operation not permitted"),
        ("asking.SAID.pack(asking.ANSWER, 0, 5, 0)", "Operation not permitted"),
        ("asking.SAID.pack(asking.ANSWER, 0, -30, 0)", "Read-only file system"),
        ("asking.SAID.pack(asking.ADDFD, 0, 0, asking.SEND)", "Function not implemented"),
        ("asking.SAID.pack(asking.ANSWER, 0, 0, 1)", "made"),
    ],
)
def test_what_is_answered_is_looked_at(place: Place, reply: str, gets: str) -> None:
    """By a child that has the marks; and what is no answer is the end of it."""
    done = hostile(place, f"""
import proctor
from proctor.filter import actions
ours, said = register(b'{{"calls": ["mkdir", "mkdirat"]}}')
program = proctor.Filter([proctor.Rule(("reboot",), actions.errno(1))]).compile().code
with proctor.launch(["sh", "-c", "mkdir child && echo made"], program=program, listen=False, marks=asking.MARKS) as target:
    message = scm.receive(ours)
    with socket.socket(fileno=message.fds[0]) as sock:
        try:
            scm.send(sock, {reply})
            sock.recv(1)
        except OSError:
            pass
    target.wait(30)
""")  # fmt: skip
    assert gets in done.stdout, done.stdout
    assert "outer1’: Read-only file system" in done.stdout and "free\n" in done.stdout


def test_who_does_not_answer_holds_up_its_own_only(place: Place) -> None:
    """And gives up with its end: fifty calls wait, others go on meanwhile."""
    done = hostile(
        place,
        """
import proctor, subprocess
from proctor.filter import actions
ours, said = register(b'{"calls": ["mkdir", "mkdirat"]}')
program = proctor.Filter([proctor.Rule(("reboot",), actions.errno(1))]).compile().code
targets = [proctor.launch(["mkdir", f"child-{n}"], program=program, listen=False, marks=asking.MARKS) for n in range(50)]
asked = [scm.receive(ours) for _ in targets]
print(subprocess.run(["mkdir", "meanwhile"]).returncode, flush=True)
os._exit(0)
""",
    )
    assert done.stdout.startswith("0\n"), done.stdout
    assert done.stdout.count("Function not implemented") == 50
    assert "free\n" in done.stdout and not list(place.path.glob("child-*"))


def test_others_are_not_asked_about(place: Place) -> None:
    """Neither its own calls, nor those of children without the marks, nor of other processes."""
    done = hostile(
        place,
        """
import subprocess
ours, said = register(b'{"calls": ["mkdir", "mkdirat"]}')
os.mkdir("mine")
subprocess.run(["mkdir", "childs"], check=True)
ours.setblocking(False)
try:
    print("asked", ours.recv(100))
except BlockingIOError:
    print("never asked")
""",
    )
    assert "never asked\n" in done.stdout and "free\n" in done.stdout


def test_marks_that_nobody_gave_are_the_bearers_loss(place: Place) -> None:
    """Whoever has them and no supervisor above is asked nothing, as long as nobody died."""
    done = hostile(
        place,
        """
import proctor
from proctor.filter import actions
program = proctor.Filter([proctor.Rule(("reboot",), actions.errno(1))]).compile().code
with proctor.launch(["mkdir", "marked"], program=program, listen=False, marks=asking.MARKS) as target:
    print("status", target.wait(30))
""",
    )
    assert "status 0\n" in done.stdout and "free\n" in done.stdout


def test_descriptors_of_calls_do_not_pile_up(place: Place) -> None:
    """A thousand calls, and as many descriptors as before, but for what is known of one more caller."""
    outer = place.policy("outer", rooms("EROFS", "**/outer*"))
    inner = place.policy("inner", rooms("ENOSPC", "**/inner*"))
    loop = (
        "import os\n"
        "for n in range(1000):\n"
        "    try: os.mkdir('inner')\n"
        "    except OSError as problem: assert problem.errno == 28\n"
    )
    (place.path / "loop.py").write_text(loop)
    count = "ls /proc/$(cat outer-pid)/fd | wc -l"
    words = f"echo $PPID >outer-pid; {sh(inner, f'mkdir inner; {count}; {sys.executable} loop.py; {count}')}"
    done = place.run(sh(outer, words))
    before, after = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    assert after <= before + 5, done.stdout


def test_descriptors_that_are_no_sockets_do_not_pile_up(place: Place) -> None:
    """A target could have its monitor run out of them."""
    done = hostile(
        place,
        """
pipe = os.pipe()
for parent in open("/proc/self/status"):
    if parent.startswith("PPid:"):
        monitor = int(parent.split()[1])
while b"proctor" not in open(f"/proc/{monitor}/cmdline", "rb").read().split(b"\\0", 3)[2]:
    monitor = int(open(f"/proc/{monitor}/stat").read().rpartition(")")[2].split()[1])
before = len(os.listdir(f"/proc/{monitor}/fd"))
for _ in range(300):
    scm.send(way, b"x", [pipe[1]])
register(b"x")                                  # all were seen by then
print("more", len(os.listdir(f"/proc/{monitor}/fd")) - before)
""",
    )
    assert "more " in done.stdout, done
    assert int(done.stdout.partition("more ")[2].split()[0]) < 100, done.stdout


def seqpackets() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def test_a_connection_whose_last_close_waits_is_given_away() -> None:
    """Of somebody who is refused, and of somebody who is gone: a socket that lingers was sent by it, and never received."""
    up, down = seqpackets()
    refused, theirs = seqpackets()
    over, gone = seqpackets()
    child = os.fork()
    if not child:
        os._exit(0)
    inner = Inner(Rank(child, frozenset(), 99, 1, 0), over, os.pidfd_open(child))
    os.waitpid(child, 0)
    below = Below(lambda name: True, 1, inners=[inner])
    readers = []
    for each in (refused, gone):
        sent, reader = lingering()
        with sent:
            socket.send_fds(each, [b"x"], [sent.fileno()])
        readers.append(reader)
    with up, down, refused, gone:
        up.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            socket.send_fds(down, [b"nonsense"], [theirs.fileno()])
        left = [*(below.knocked(up) or ()), *below.close()]
        assert "error" in json.loads(refused.recv(4096).split(b"}")[0] + b"}")
        assert [os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))[:6] for fd in left] == [
            "socket"
        ] * 2
        for reader in readers:
            reader.close()
        done = threading.Event()
        closers.close(left, then=done.set)
        assert done.wait(60)


def test_what_an_answer_brings_is_not_closed_by_who_receives() -> None:
    """Nor is the socket of a question, in whose queue more of it is."""
    ours, theirs = seqpackets()
    inner = Inner(Rank(os.getpid(), frozenset(), 0, 1, 0), ours, os.pidfd_open(os.getpid()))
    note = Notification(1, os.getpid(), 0, 0, (0,) * 6)
    call: Any = SimpleNamespace(id=1, _notification=note, _listener=None)
    caller: Any = SimpleNamespace(numbers=(1,))
    verdict = deny(1)
    later = Question(call, caller, [inner], verdict, int, lambda: verdict).ask()
    assert isinstance(later, Later)
    _, (number,), _, _ = socket.recv_fds(theirs, 4096, 1)
    said = asking.SAID.pack(asking.ANSWER, 0, 0, 1)
    readers = []
    with theirs, socket.socket(fileno=number) as settled:
        for _ in range(2):
            sent, reader = lingering()
            with sent:
                socket.send_fds(settled, [said], [sent.fileno()])
            readers.append(reader)
    assert later.resume() is verdict
    assert closers.left(inner) == 2  # the first waits, and nobody for it
    for reader in readers:
        reader.close()
    closers.close([inner.let_go()])

"""Policies on the real kernel: what the filter decides is never seen, what we decide is right."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.policy import Policy, loads

pytestmark = pytest.mark.timeout(60)


class Ran:
    """How a Python program under a policy ended, and what the monitor saw."""

    def __init__(self, policy: Policy, program: str, *arguments: str, **options: Any) -> None:
        self.outcomes: list[tuple[str, str, str]] = []
        head = "import ctypes, errno, os, socket, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        self.done = proctor.run(
            [sys.executable, "-S", "-c", head + program, *arguments],
            policy.handlers(),
            filter=policy.filter(),
            observers=[proctor.outcomes(self._saw)],
            capture_output=True,
            timeout=30,
            text=True,
            **policy.supervisor_options(),
            **options,
        )

    def _saw(self, outcome: Any) -> None:
        self.outcomes.append((outcome.call.name, str(outcome.verdict), outcome.verdict.reason))

    @property
    def out(self) -> str:
        assert self.done.returncode == 0, self.done.stderr
        return str(self.done.stdout).strip()


def rule(body: str, name: str = "r") -> str:
    return f'[[rule]]\nname = "{name}"\n{body}\n'


TRY = """
def attempt(function, *arguments):
    try:
        print(function(*arguments))
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def test_what_registers_decide_is_never_notified() -> None:
    policy = loads(
        rule('calls = ["kill"]\nwhen = { sig = 0 }\nreturn = 0', "a")
        + rule('calls = ["kill"]\nwhen = { sig = "SIGUSR1" }\ndeny = "ENOTTY"', "b")
        + rule('calls = ["kill"]\nwhen = { sig = "SIGUSR2" }\nreturn = 7', "c")
    )
    ran = Ran(
        policy,
        "print(libc.kill(1, 0))\n"
        "print(libc.kill(os.getpid(), 10), errno.errorcode[ctypes.get_errno()])\n"
        "print(libc.kill(os.getpid(), 12))\n",
    )
    assert ran.out.split("\n") == ["0", "-1 ENOTTY", "7"]
    assert [(name, verdict) for name, verdict, _ in ran.outcomes] == [("kill", "answer 7")]
    assert ran.outcomes[0][2] == 'rule "c"'


def test_a_reported_refusal_carries_rule_and_tip(tmp_path: Path) -> None:
    policy = loads(
        rule('calls = ["mkdir", "mkdirat"]\nwhen = { mode = 0o700 }\ndeny = "EROFS"\nreport = true', "no rooms")
    )  # fmt: skip
    ran = Ran(policy, TRY + f"attempt(os.mkdir, {str(tmp_path / 'x')!r}, 0o700)\n")
    assert ran.out == "EROFS"
    ((name, verdict, reason),) = ran.outcomes
    assert (name, verdict) == ("mkdir", "deny EROFS")
    assert reason == (
        'rule "no rooms"; would be allowed by, before rule "no rooms": [[rule]] name = "allow mkdir" '
        'calls = ["mkdir"] when = { mode = 0o700 } perform = true'
    )
    assert (reason.rule, reason.change) == ("no rooms", "")  # type: ignore[attr-defined]


def test_kill_by_the_filter_and_by_the_monitor() -> None:
    program = "libc.mkdir(b'/nonexistent/x', 0o700)\nprint('alive')\n"
    by_filter = Ran(loads(rule('calls = ["mkdir"]\nkill = true')), program)
    assert by_filter.done.returncode == -signal.SIGSYS
    assert by_filter.outcomes == []
    by_monitor = Ran(loads(rule('calls = ["mkdir"]\nkill = true\nreport = true')), program)
    assert by_monitor.done.returncode == -signal.SIGKILL
    assert "alive" not in by_monitor.done.stdout


def test_the_callers_uid() -> None:
    uid = os.geteuid()
    policy = loads(
        rule(f'calls = ["mkdir"]\nwhen = {{ caller = {{ uid = {uid} }} }}\ndeny = "EDQUOT"', "us")
        + rule('calls = ["mkdir"]\ndeny = "ENOSPC"', "others")
    )
    ran = Ran(policy, TRY + "attempt(os.mkdir, '/nonexistent/x')\n")
    assert ran.out == "EDQUOT"


def test_letting_run_after_a_look_at_the_caller_is_no_race() -> None:
    policy = loads(
        rule(f'calls = ["getppid"]\nwhen = {{ caller = {{ uid = {os.geteuid()} }} }}\nallow = true')
    )
    ran = Ran(policy, "print(os.getppid())\n")
    assert ran.out == str(os.getpid())
    assert [verdict for _, verdict, _ in ran.outcomes] == ["let run"]


OPENS = (
    rule('calls = ["open", "openat"]\nwhen = { path = "%s/secret/**" }\ndeny = "ENOTNAM"', "no secrets")
    + rule('calls = ["open", "openat"]\nperform = true', "the rest")
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "secret" / "deep").mkdir(parents=True)
    (tmp_path / "open").mkdir()
    (tmp_path / "secret" / "deep" / "f").write_text("secret")
    (tmp_path / "open" / "f").write_text("public")
    (tmp_path / "open" / "link").symlink_to("../secret/deep/f")
    (tmp_path / "open" / "dir").symlink_to(tmp_path / "secret" / "deep")
    return tmp_path


def test_a_pattern_sees_what_a_path_leads_to(place: Path) -> None:
    ran = Ran(
        loads(OPENS % place),
        TRY + "os.chdir(sys.argv[1] + '/open')\n"
        "here = os.open('.', os.O_RDONLY)\n"
        "def read(path, **o):\n"
        "    fd = os.open(path, os.O_RDONLY, **o)\n"
        "    text = os.read(fd, 99).decode(); os.close(fd); return text\n"
        "for p in ('f', '../open/f', '../secret/deep/f', 'link', 'dir/f', '/proc/self/cwd/link',\n"
        "          '/proc/thread-self/root' + sys.argv[1] + '/secret/deep/f', 'none', 'none/f'):\n"
        "    attempt(read, p)\n"
        "attempt(lambda: read('link', dir_fd=here))\n"
        "attempt(lambda: read('f', dir_fd=here))\n"
        "attempt(lambda: os.open('../secret/new', os.O_CREAT | os.O_WRONLY))\n",
        str(place),
    )
    assert ran.out.split("\n") == [
        "public", "public", "ENOTNAM", "ENOTNAM", "ENOTNAM", "ENOTNAM", "ENOTNAM", "ENOENT", "ENOENT",
        "ENOTNAM", "public", "ENOTNAM",
    ]  # fmt: skip
    assert not (place / "secret" / "new").exists()
    refused = {
        reason.partition(";")[0] for _, verdict, reason in ran.outcomes if "ENOTNAM" in verdict
    }
    assert refused == {'rule "no secrets"'}


def test_a_path_that_is_not_utf8(place: Path) -> None:
    name = os.fsencode(place) + b"/secret/\xff\n"
    Path(os.fsdecode(name)).write_text("x")
    ran = Ran(
        loads(OPENS % place), TRY + "attempt(os.open, sys.argv[1].encode('utf-8', 'surrogateescape'), 0)\n",
        os.fsdecode(name),
    )  # fmt: skip
    assert ran.out == "ENOTNAM"
    (reason,) = [reason for _, verdict, reason in ran.outcomes if "ENOTNAM" in verdict]
    assert reason.isprintable()
    assert r"/secret/\\xff\\x0a" in reason.tip  # type: ignore[attr-defined]


@pytest.mark.root
def test_what_the_monitor_finds_is_not_told(place: Path) -> None:
    """A caller without rights asks about names below a directory that it may not search."""
    closed = Path(tempfile.mkdtemp(dir="/tmp"))
    (closed / "directory").mkdir(parents=True)
    (closed / "file").write_text("")
    ran = Ran(
        loads(OPENS % place),
        TRY + "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for name in ('file/x', 'directory/x', 'missing/x', 'missing', 'file'):\n"
        "    attempt(os.open, sys.argv[1] + '/' + name, 0)\n",
        str(closed),
    )
    shutil.rmtree(closed)
    assert ran.out.split("\n") == ["EACCES"] * 5


def test_a_bad_pointer_gets_what_the_kernel_says(place: Path) -> None:
    ran = Ran(
        loads(OPENS % place),
        "print(libc.open(ctypes.c_void_p(8), 0), errno.errorcode[ctypes.get_errno()])\n"
        "print(libc.open(b'x' * 5000, 0), errno.errorcode[ctypes.get_errno()])\n"
        "print(libc.open(b'', 0), errno.errorcode[ctypes.get_errno()])\n",
    )
    assert ran.out.split("\n") == ["-1 EFAULT", "-1 ENAMETOOLONG", "-1 ENOENT"]
    assert {reason for _, verdict, reason in ran.outcomes if "deny" in verdict} == {""}


def test_a_performed_open_cannot_be_raced(place: Path) -> None:
    """Another process swaps a directory for a link to the secrets, as fast as it can: no open gets
    there, whatever the path said when it was looked at."""
    (place / "a").mkdir()
    (place / "a" / "f").write_text("public")
    (place / "b").symlink_to("secret/deep")
    swapping = threading.Event()

    def swap() -> None:
        while not swapping.is_set():
            os.rename(place / "a", place / "t")
            os.rename(place / "b", place / "a")
            os.rename(place / "a", place / "b")
            os.rename(place / "t", place / "a")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        ran = Ran(
            loads(OPENS % place),
            "seen = {}\n"
            "for _ in range(400):\n"
            "    try:\n"
            "        fd = os.open(sys.argv[1] + '/a/f', 0)\n"
            "        said = os.read(fd, 99).decode(); os.close(fd)\n"
            "    except OSError as error:\n"
            "        said = errno.errorcode[error.errno]\n"
            "    seen[said] = seen.get(said, 0) + 1\n"
            "print(' '.join(sorted(seen)))\n",
            str(place),
        )
    finally:
        swapping.set()
        thread.join()
    seen = set(ran.out.split())
    assert seen <= {"public", "ENOENT", "ENOTNAM", "EACCES"}


def test_an_address_and_said_in_words_the_rest_runs(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    policy = loads(
        rule(f'calls = ["connect"]\nwhen = {{ address = ["unix:{tmp_path}/*", "unix:@hidden*", "inet:127.0.0.0/8:1-9"] }}\ndeny = "EHOSTDOWN"', "a")
        + rule('calls = ["connect"]\nallow = "unsafe: a test"', "b")
    )  # fmt: skip
    ran = Ran(
        policy,
        TRY + "os.chdir(sys.argv[1])\n"
        "unix = lambda where: socket.socket(socket.AF_UNIX).connect(where)\n"
        "for where in (sys.argv[1] + '/s', 's', '/proc/self/cwd/s', '\\0hidden one', '\\0other', '/none/s'):\n"
        "    attempt(unix, where)\n"
        "attempt(lambda: socket.socket().connect(('127.0.0.1', 9)))\n"
        "attempt(lambda: socket.socket(socket.AF_INET6).connect(('::ffff:127.0.0.1', 9)))\n"
        "print(libc.connect(socket.socket().detach(), b'\\2\\0', 2), errno.errorcode[ctypes.get_errno()])\n",
        str(tmp_path),
    )  # fmt: skip
    listener.close()
    assert ran.out.split("\n") == [
        *["EHOSTDOWN"] * 4, "ECONNREFUSED", "ENOENT", "EHOSTDOWN", "EHOSTDOWN", "-1 EINVAL",
    ]  # fmt: skip
    assert ("connect", "let run (unsafe)", 'rule "b": a test') in ran.outcomes


def test_handlers_beside_a_policy() -> None:
    """What the filter decides is decided; of the rest handlers are asked before the policy."""
    seen: list[str] = []

    @proctor.on("mkdir", "rmdir", "chdir")
    def mine(call: Any) -> Any:
        seen.append(call.name)
        return proctor.deny(errno.EXFULL) if call.name == "rmdir" else None

    policy = loads(
        rule('calls = ["mkdir"]\ndeny = "EROFS"', "a")
        + rule('calls = ["chdir"]\nwhen = { caller = { uid = 4242 } }\ndeny = 1', "b")
    )
    done = proctor.run(
        [sys.executable, "-S", "-c", "import os, errno\n" + TRY
         + "attempt(os.mkdir, '/x')\nattempt(os.rmdir, '/x')\nattempt(os.chdir, '/')\n"],
        [mine, *policy.handlers()], filter=policy.filter(extra_notify=[mine]), capture_output=True, text=True, timeout=30,
        **policy.supervisor_options(),
    )  # fmt: skip
    assert done.stdout.split() == ["EROFS", "EXFULL", "None"]
    assert seen == ["rmdir", "chdir"]
    extra = policy.filter(extra_notify=[mine, "%network"]).compile()
    assert extra.run(84, 0xC000003E) == 0x7FC00000


def test_default_deny_lets_through_what_is_named() -> None:
    policy = loads(
        'default = "EPERM"\n'
        + rule('calls = ["%memory", "%desc", "%file", "%signal", "%process", "%pure", "@basic-io", "futex", "getrandom", "arch_prctl", "rseq", "set_robust_list", "prlimit64"]\nallow = true')
    )  # fmt: skip
    ran = Ran(policy, TRY + "attempt(os.sched_yield)\nattempt(os.getpriority, 0, 0)\n")
    assert ran.out.split() == ["EPERM", "EPERM"]
    assert ran.outcomes == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="making device nodes takes root on the host")
def test_devices_for_container_root() -> None:
    from proctor.policy import load

    policy = load(Path(__file__).resolve().parents[2] / "examples" / "devices.toml")
    outcomes: list[tuple[str, str]] = []

    def saw(outcome: Any) -> None:
        outcomes.append((str(outcome.verdict), outcome.verdict.reason.partition(";")[0]))

    # Not below pytest's directory: container root has to get there.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        os.chown(place, 100000, 100000)
        done = proctor.run(
            ["sh", "-c", "for d in 'null c 1 3' 'console c 5 1' 'ptmx c 5 2' 'mem c 1 1' 'sda b 8 0' 'white c 0 0' 'f p'; do mknod -m 666 $d && echo ok; done; echo x > null && echo written"],
            policy.handlers(), filter=policy.filter(), observers=[proctor.outcomes(saw)], capture_output=True, text=True,
            timeout=30, cwd=place, userns=[(0, 100000, 1000)], **policy.supervisor_options(),
        )  # fmt: skip
        made = sorted(os.listdir(place))
    assert made == ["console", "f", "null", "ptmx", "white"], done.stderr
    assert done.stdout.split() == ["ok", "ok", "ok", "ok", "ok", "written"]
    assert done.stderr.count("Operation not permitted") == 2
    # each mknod is another process, and what came of it is told once it is answered
    assert sorted(verdict for verdict, _ in outcomes) == [
        *["answer 0"] * 3,
        "deny EPERM",
        "deny EPERM",
    ]
    refused = [reason for verdict, reason in outcomes if verdict == "deny EPERM"]
    assert sorted(refused) == ['rule "no block devices"', 'rule "no other devices"']


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="making device nodes takes root on the host")
def test_a_path_pattern_on_what_is_performed() -> None:
    policy = loads(
        rule('calls = ["mknod", "mknodat"]\nwhen = { path = "/**/dev/*", type = "char", device = "1:3" }\nperform = true', "a")
        + rule('calls = ["mknod", "mknodat"]\ndeny = "ENOTNAM"', "b")
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        for name in ("", "dev", "other"):
            os.makedirs(os.path.join(place, name), exist_ok=True)
            os.chown(os.path.join(place, name), 100000, 100000)
        os.symlink("other", os.path.join(place, "link"))
        os.symlink("dev", os.path.join(place, "way"))
        done = proctor.run(
            ["sh", "-c", "for p in dev/null other/null link/null way/zero dev/../other/x other/../dev/x; do mknod $p c 1 3 && echo $p; done"],
            policy.handlers(), filter=policy.filter(), capture_output=True, text=True, timeout=30,
            cwd=place, userns=[(0, 100000, 1000)], **policy.supervisor_options(),
        )  # fmt: skip
        made = sorted(os.listdir(os.path.join(place, "dev")))
        assert os.listdir(os.path.join(place, "other")) == []
    assert done.stdout.split() == ["dev/null", "way/zero", "other/../dev/x"]
    assert made == ["null", "x", "zero"]


@pytest.mark.parametrize("name", ["EOPNOTSUPP", "ENOTSUP", "EWOULDBLOCK", "EAGAIN", "EDEADLOCK"])
def test_second_names_of_an_errno(name: str) -> None:
    ran = Ran(
        loads(rule(f'calls = ["mkdir"]\ndeny = "{name}"')),
        "libc.mkdir(b'/x', 0)\nprint(ctypes.get_errno())\n",
    )
    assert ran.out == str(getattr(errno, name))


@pytest.mark.parametrize("leave", [False, True])
def test_o_path_as_the_manual_says(place: Path, leave: bool) -> None:
    """An O_PATH descriptor cannot be handed over: the call is let run if its path is allowed.  With a
    rule on numbers before that nobody is asked, and what is opened through it is refused."""
    pins = rule(
        'calls = ["open", "openat"]\nwhen = { flags = { all = ["O_PATH"] } }\nallow = true', "pins"
    )
    ran = Ran(
        loads((pins if leave else "") + OPENS % place),
        TRY + "attempt(lambda: os.open(sys.argv[1] + '/open/f', os.O_PATH) > 2)\n"
        "attempt(lambda: os.open(sys.argv[1] + '/secret/deep/f', os.O_PATH) > 2)\n"
        "fd = os.open(sys.argv[1] + '/secret/deep/f', os.O_PATH) if sys.argv[2] else -1\n"
        "attempt(lambda: os.open(f'/proc/self/fd/{fd}', os.O_RDONLY))\n",
        str(place), "yes" if leave else "",
    )  # fmt: skip
    assert ran.out.split("\n") == (
        ["True", "True", "ENOTNAM"] if leave else ["True", "ENOTNAM", "ENOENT"]
    )


UNSPEC = """
inet = b"\\2\\0" + (9).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
unspec = b"\\0\\0" + inet[2:]
any = bytes(16)
def said(result): print(errno.errorcode[ctypes.get_errno()] if result < 0 else "done")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()
said(libc.connect(s, inet, 16))
said(libc.connect(s, any, 16))
said(libc.connect(s, unspec, 16))
said(libc.sendto(s, b"x", 1, 0, unspec, 16))
said(libc.bind(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(), any, 16))
"""


ANY = """
def said(how, family, kind, host):
    sock = socket.socket(family, kind)
    if how == "bound":
        sock.bind(("127.0.0.2", 0))
    try:
        if how == "sent": sock.sendto(b"x", (host, port))
        else: sock.connect((host, port))
        print(host, "done", sock.getpeername()[0] if how != "sent" else "")
    except OSError as error:
        print(host, errno.errorcode[error.errno])
listening = socket.create_server(("127.0.0.1", 0))
port = listening.getsockname()[1]
for family, host in ((2, "0.0.0.0"), (10, "::ffff:0.0.0.0")):
    said("", family, socket.SOCK_STREAM, host)
    said("", family, socket.SOCK_DGRAM, host)
    said("sent", family, socket.SOCK_DGRAM, host)
said("bound", 2, socket.SOCK_DGRAM, "0.0.0.0")
said("", 10, socket.SOCK_DGRAM, "::")
said("", 2, socket.SOCK_DGRAM, "127.0.0.3")
socket.socket().bind(("0.0.0.0", 0))  # of which that is no other address
"""


@pytest.mark.parametrize("verdict", ["perform = true", 'allow = "unsafe: a test"'])
@pytest.mark.parametrize(
    "pattern", ["inet:127.0.0.1", "inet:0.0.0.0", "inet6:::1", "inet:127.0.0.3"]
)
def test_no_address_is_this_machine_s(pattern: str, verdict: str) -> None:
    """What connects or sends to 0.0.0.0 or :: goes to 127.0.0.1 and ::1: a rule on those was walked around."""
    calls = 'calls = ["connect", "sendto", "bind"]'
    policy = loads(
        rule(f'{calls}\nwhen = {{ address = "{pattern}" }}\ndeny = "ENONET"', "a").replace(', "bind"', "")
        + rule(f"{calls}\n{verdict}", "b")
    )  # fmt: skip
    lines = Ran(policy, ANY).out.split("\n")
    peers = ["127.0.0.1"] * 2 + [""] + ["::ffff:127.0.0.1"] * 2 + [""]
    hosts = ["0.0.0.0"] * 3 + ["::ffff:0.0.0.0"] * 3
    done = [f"{host} done {peer}" for host, peer in zip(hosts, peers, strict=True)]
    # a bound socket's own address is what the kernel takes for none; what is performed is what the rule saw
    done.append(f"0.0.0.0 done {'127.0.0.1' if 'perform' in verdict else '127.0.0.2'}")
    done += [":: done ::1", "127.0.0.3 done 127.0.0.3"]
    refused = {"inet:127.0.0.1": 7, "inet:0.0.0.0": 7}.get(pattern, 0)
    for at in range(refused) if refused else ((7,) if pattern == "inet6:::1" else (8,)):
        done[at] = f"{done[at].split()[0]} ENONET"
    assert [line.strip() for line in lines] == [line.strip() for line in done]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("inet", ["ENONET", "done", "done", "ENONET", "ENONET"]),
        ("unspec", ["done", "ENONET", "ENONET", "done", "done"]),
        ("inet:127.0.0.1", ["ENONET", "done", "done", "ENONET", "done"]),
    ],
)
def test_an_address_without_a_family_is_what_each_call_makes_of_it(
    pattern: str, expected: list[str]
) -> None:
    """connect() dissolves an association, sendto() and bind() take it for IPv4; nothing at all is
    refused natively, so each refusal is the rule's."""
    policy = loads(
        rule(f'calls = ["connect", "sendto", "bind"]\nwhen = {{ address = "{pattern}" }}\ndeny = "ENONET"', "a")
        + rule('calls = ["connect", "sendto", "bind"]\nallow = "unsafe: which addresses a pattern means"', "b")
    )  # fmt: skip
    assert Ran(policy, UNSPEC).out.split("\n") == expected
    natively = Ran(loads(""), UNSPEC)
    assert natively.out.split("\n") == ["done"] * 5


def test_the_text_of_a_path_alone(place: Path) -> None:
    """Each way to write the path is another text; links and the working directory are not looked at."""
    policy = loads(
        rule(f'calls = ["openat"]\nwhen = {{ path_text = ["secret/**", "{place}/../**"] }}\ndeny = "ENOTNAM"', "a")
        + rule('calls = ["openat"]\nallow = "unsafe: texts only"', "b")
    )  # fmt: skip
    ran = Ran(
        policy,
        TRY + "os.chdir(sys.argv[1])\n"
        "opens = lambda path: os.open(path, 0) > 2\n"
        "for p in ('secret/deep/f', './secret/deep/f', sys.argv[1] + '/open/link',\n"
        "          sys.argv[1] + '/../none', 'secret/none'):\n"
        "    attempt(opens, p)\n",
        str(place),
    )
    assert ran.out.split("\n") == ["ENOTNAM", "True", "True", "ENOTNAM", "ENOTNAM"]
    assert {verdict for _, verdict, _ in ran.outcomes} == {"deny ENOTNAM", "let run (unsafe)"}


SLEEPS = """
child = os.fork()
if not child:
    os._exit(ctypes.get_errno() if libc.usleep(300_000) else 0)
while open(f"/proc/{child}/stat").read().rpartition(")")[2].split()[0] != "S": pass
os.kill(child, signal.SIGSTOP)
assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
os.kill(child, signal.SIGCONT)
print(os.waitpid(child, 0)[1])
signal.signal(signal.SIGALRM, lambda *_: print("handled"))
signal.raise_signal(signal.SIGALRM)
thread = threading.Thread(target=print, args=("a thread",))
thread.start()
while len(os.listdir("/proc/self/task")) > 1: pass
"""


def test_an_allow_list_has_what_no_program_asks_for() -> None:
    """A sleep that is stopped goes on by restart_syscall, which the kernel makes; a signal's handler
    returns by rt_sigreturn, and a thread ends by exit, which libc tries again for ever."""
    from proctor.syscalls import tables
    from proctor.syscalls.architectures import native

    forgotten = {"restart_syscall", "rt_sigreturn", "exit_group", "exit"}
    names = sorted(tables.numbers(native()).keys() - forgotten)
    calls = ", ".join(f'"{name}"' for name in names)
    text = 'default = "ENOANO"\n' + rule(f"calls = [{calls}]\nallow = true")
    assert Ran(loads(text), "import signal, threading\n" + SLEEPS).out.split("\n") == [
        "0",
        "handled",
        "a thread",
    ]
    refused = text + rule('calls = ["restart_syscall"]\ndeny = "ENOANO"', "said otherwise")
    assert Ran(loads(refused), "import signal, threading\n" + SLEEPS).out.split()[0] == str(
        errno.ENOANO << 8
    )


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="making device nodes takes root on the host")
@pytest.mark.parametrize("nested", ["deny", "allow"])
def test_what_a_policy_says_of_nested_namespaces(nested: str) -> None:
    """CAP_MKNOD in a namespace of the caller's own making; the refusal names the key (and option)."""
    policy = loads(
        f'nested = "{nested}"\n'
        + rule('calls = ["mknod", "mknodat"]\nwhen = { type = "char" }\nperform = true')
    )
    reasons: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        os.chown(place, 100000, 100000)
        done = proctor.run(
            ["unshare", "-r", "mknod", "null", "c", "1", "3"], policy.handlers(),
            filter=policy.filter(), observers=[proctor.outcomes(lambda o: reasons.append(o.verdict.reason))],
            capture_output=True, text=True, timeout=30, cwd=place, userns=[(0, 100000, 1000)],
            **policy.supervisor_options(),
        )  # fmt: skip
        made = os.listdir(place)
    assert (done.returncode == 0, made) == ((True, ["null"]) if nested == "allow" else (False, []))
    if nested == "deny":
        assert 'nested = "allow"' in reasons[-1]
        assert not any("Performers" in reason for reason in reasons)


def test_what_a_policy_says_of_limits(tmp_path: Path) -> None:
    """One call is performed at a time, by one thread at a time."""
    os.mkfifo(tmp_path / "fifo")
    policy = loads(
        "limit = 1\nworkers = 2\ndeadline = 60\n" + rule('calls = ["openat"]\nperform = true')
    )
    program = (
        "import threading\n"
        "def wait():\n"
        "    while True:\n"
        "        try: os.open(sys.argv[1], os.O_RDONLY)\n"
        "        except OSError: pass\n"
        "threading.Thread(target=wait, daemon=True).start()\n"
        "while True:\n"
        "    try: os.close(os.open('/dev/null', os.O_RDONLY))\n"
        "    except OSError as error: print(errno.errorcode[error.errno], flush=True); os._exit(0)\n"
    )
    assert Ran(policy, program, str(tmp_path / "fifo")).out == "ENOMEM"

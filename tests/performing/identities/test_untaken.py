"""What an executor cannot take on is known, and said."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import proctor
from proctor import families
from proctor.performing.untaken import UNTAKEN
from proctor.policy import loads
from proctor.policy.check import warnings
from proctor.syscalls import tables
from tests.cli.conftest import COMMAND
from tests.performing.paths.test_exactly import natively
from tests.performing.paths.test_seeking import rules, run
from tests.performing.support.callers import AT_FDCWD, Performers, caller, content, open_directory

MANUAL = Path(__file__).parents[3] / "docs" / "policy.md"
PERFORMS = '[[rule]]\nname = "p"\ncalls = ["mknod"]\nperform = true\n'
RULES = (
    "import ctypes, errno\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "print(libc.syscall({number}, None, 0, 1), ctypes.get_errno())\n"
).format(number=tables.number("landlock_create_ruleset"))


@pytest.mark.parametrize("one", UNTAKEN, ids=lambda one: one.what)
def test_the_manual_has_it(one: object) -> None:
    (line,) = [
        each for each in MANUAL.read_text().splitlines() if each.startswith(f"| {one.what} | ")
    ]  # type: ignore[attr-defined]
    assert one.then in line  # type: ignore[attr-defined]
    for call in one.calls:  # type: ignore[attr-defined]
        assert f"`{call}`" in line


def test_a_policy_that_performs_has_no_landlock() -> None:
    policy = loads(PERFORMS)
    for call in UNTAKEN[0].calls:
        decision = policy.for_all("x86_64", call)
        assert decision is not None
        assert (decision.ruling.refuses, decision.ruling.value) == (True, errno.EOPNOTSUPP)
    assert not any("Landlock" in each for each in warnings(policy))
    # one that performs nothing leaves it alone, and an allow-list had to name it
    assert (
        loads('[[rule]]\nname = "d"\ncalls = ["kill"]\ndeny = 1')
        .for_all("x86_64", "landlock_restrict_self")
        .ruling.runs
    )  # type: ignore[union-attr]
    assert not loads('default = "EPERM"\n' + PERFORMS).chain("x86_64", "landlock_restrict_self")


def test_a_rule_that_lets_programs_have_it_is_warned_of() -> None:
    policy = loads(
        PERFORMS + '[[rule]]\nname = "boxes"\ncalls = ["landlock_restrict_self"]\nallow = true\n'
    )
    decision = policy.for_all("x86_64", "landlock_restrict_self")
    assert decision is not None
    assert decision.ruling.runs
    assert [each for each in warnings(policy) if "Landlock" in each] == [
        'rule "boxes" lets programs have landlock_restrict_self, and rule "p" performs: Landlock '
        "domains do not hold for what is performed"
    ]


def test_a_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(PERFORMS)
    python = ["python3", "-c", RULES]
    natively = subprocess.run(python, capture_output=True, text=True, check=True).stdout.split()
    if natively[1] in (str(errno.ENOSYS), str(errno.EOPNOTSUPP)):
        pytest.skip("this kernel has no Landlock")
    done = subprocess.run(
        [*COMMAND, "run", "--policy", "p.toml", "--", *python],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=os.environ,
    )  # fmt: skip
    assert done.stdout.split() == ["-1", str(errno.EOPNOTSUPP)]


@pytest.mark.root
def test_who_opened_a_file_is_another_one() -> None:
    """So the kernel says to who links it by its descriptor, after a performed open."""
    program = """
os.chdir(sys.argv[1])
become_user()
fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
libc = ctypes.CDLL(None, use_errno=True)
print(libc.linkat(fd, b"", -100, b"named", 0x1000), ctypes.get_errno())
"""
    with open_directory() as place:
        os.chmod(place, 0o777)
        if natively(program, os.fsdecode(place)) != ["0 0"]:
            pytest.skip("before Linux 6.10 it takes CAP_DAC_READ_SEARCH")
        os.unlink(place + b"/named")
        text = rules('calls = ["openat"]\nperform = true')
        assert run(text, program, os.fsdecode(place)) == [f"-1 {errno.ENOENT}"]


@pytest.mark.root
@pytest.mark.skipif(platform.machine() != "x86_64", reason="has numbers of x86-64")
def test_fanotify_names_the_executor() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    group = libc.syscall(300, 1, os.O_RDONLY)  # fanotify_init, FAN_CLOEXEC
    if group < 0:
        pytest.skip("no fanotify(7) here")
    try:
        with open_directory() as place, Performers() as performers:
            with open(place + b"/file", "wb") as file:
                file.write(b"x")
            mask = ctypes.c_uint64(0x20)  # FAN_MARK_ADD, FAN_OPEN
            assert libc.syscall(301, group, 1, mask, AT_FDCWD, place + b"/file") == 0
            with caller(lambda: os.setresuid(1000, 1000, 1000)) as one:
                file = place + b"/file"
                assert one.natively("openat", AT_FDCWD, file, 0, 0)[0] == "fd"
                assert content(performers.perform(one.call("openat", AT_FDCWD, file, 0, 0))) == b"x"
                seen = os.read(group, 4096)
                them = [struct.unpack_from("=IBBHQii", seen, at) for at in range(0, len(seen), 24)]
                for each in them:
                    os.close(each[5])
                assert [each[6] == one.pid for each in them] == [True, False]
    finally:
        os.close(group)


BOXED = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
reads_no_file = struct.pack("=Q", 4)  # LANDLOCK_ACCESS_FS_READ_FILE
fd = libc.syscall({create}, reads_no_file, 8, 0)
if fd < 0:
    print("none", ctypes.get_errno())
    sys.exit()
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
assert libc.syscall({restrict}, fd, 0) == 0
try:
    os.close(os.open(sys.argv[1], os.O_RDONLY))
    print("read")
except PermissionError:
    print("held")
""".format(
    create=tables.number("landlock_create_ruleset"),
    restrict=tables.number("landlock_restrict_self"),
)


def test_handlers_that_perform_have_no_landlock(tmp_path: Path) -> None:
    """What is performed would go past it: a program is told that there is none, unless a handler, or a rule, is about that."""
    secret = tmp_path / "secret"
    secret.write_text("secret")

    def ran(*handlers: proctor.Handler) -> list[str]:
        command = [sys.executable, "-c", BOXED, str(secret)]
        done = proctor.run(
            command, handlers, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.split()

    alone = ran()
    assert alone in (["held"], ["none", str(errno.ENOSYS)], ["none", str(errno.EOPNOTSUPP)])
    assert ran(families.open()) == ["none", str(errno.EOPNOTSUPP)]
    mine = proctor.Handler(["landlock_create_ruleset"], lambda call: proctor.deny(errno.EPERM))
    assert ran(families.open(), mine) == ["none", str(errno.EPERM)]
    lookers = proctor.Handler(["openat"], lambda call: proctor.let_run_unsafe("it is a test"))
    assert ran(lookers) == alone


def test_what_a_filter_says_of_landlock_stands() -> None:
    named = proctor.Rule(("landlock_restrict_self",), proctor.actions.ALLOW)
    base = proctor.Filter([named], proctor.actions.ALLOW)
    made = proctor.filter_for([families.open()], base)
    assert made is not None
    refused = [
        rule for rule in made.rules if rule.action == proctor.actions.errno(errno.EOPNOTSUPP)
    ]
    assert [rule.names for rule in refused] == [("landlock_create_ruleset", "landlock_add_rule")]

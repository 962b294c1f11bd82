"""Rules on programs: what is executed, and with which arguments, at any depth."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import proctor
from proctor.errors import PolicyError
from proctor.policy import loads
from proctor.testing import FakeCall

pytestmark = pytest.mark.timeout(60)

POLICY = """
[[rule]]
name = "no push"
calls = ["execve", "execveat"]
when = { path = "**/git", argv = "* ** push **" }
deny = "EACCES"

[[rule]]
name = "other programs"
calls = ["execve", "execveat"]
allow = "unsafe: a test"
"""


@pytest.fixture
def git(tmp_path: Path) -> Path:
    """A program that says what it was called with."""
    made = tmp_path / "git"
    shutil.copy(shutil.which("echo") or "/bin/echo", made)
    return made


def shell(script: str, where: Path) -> subprocess.CompletedProcess[str]:
    policy = loads(POLICY)
    return proctor.run(
        ["sh", "-c", script],
        policy.handlers(),
        filter=policy.filter(),
        cwd=where,
        capture_output=True,
        text=True,
        timeout=30,
        **policy.supervisor_options(),
    )


@pytest.mark.parametrize(
    ("script", "runs"),
    [
        ("./git status", True),
        ("./git push", False),
        ("./git -C elsewhere push origin", False),
        ("./git log --grep push", False),  # argv is words, not their meaning
        ("./git pushed", True),
        ("env ./git push", False),
        ("env -i ./git status", True),
        ("echo push | xargs ./git", False),
        ("ln -s git other && ./other push", False),  # the path is resolved, argv[0] is not
        ("cp git other && ./other push", True),  # another file is another program
        ("printf '#!./git\\n' > script && chmod +x script && ./script push", True),
    ],
)
def test_a_program_and_its_arguments(git: Path, script: str, runs: bool) -> None:
    done = shell(script, git.parent)
    assert (done.returncode == 0) == runs, done.stderr
    if not runs:
        assert done.stdout == ""
        assert "Permission denied" in done.stderr


def test_arguments_on_fakes() -> None:
    policy = loads(
        '[[rule]]\nname = "r"\ncalls = ["execve"]\nwhen = { argv = ["a \\\\*", "b ** c\\\\ d"] }\n'
        'deny = "EPERM"\n[[rule]]\nname = "s"\ncalls = ["execve"]\nallow = "unsafe: t"'
    )

    def decided(*argv: bytes) -> str:
        return str(policy.decide(FakeCall("execve", b"/x", argv, ())).ruling)

    assert decided(b"a", b"*") == "EPERM"
    assert decided(b"a", b"x") == "allow (unsafe)"
    assert decided(b"b", b"c d") == "EPERM"
    assert decided(b"b", b"1", b"2", b"c d") == "EPERM"
    assert decided(b"b", b"c", b"d") == "allow (unsafe)"
    assert decided() == "allow (unsafe)"


def test_a_tip_names_the_arguments() -> None:
    policy = loads(
        '[[rule]]\nname = "r"\ncalls = ["execve"]\nwhen = { argv = "git **" }\ndeny = "EPERM"\n'
        '[[rule]]\nname = "s"\ncalls = ["execve"]\nallow = "unsafe: t"'
    )
    call = FakeCall("execve", b"/x", (b"git", b"a b", b"*", b"\xff"), ())
    why = policy.explain(call)
    assert 'when = { argv = ["git a\\\\ b \\\\* \\\\xff"] }' in why.tip
    again = loads(
        why.tip
        + '[[rule]]\nname = "r"\ncalls = ["execve"]\nwhen = { argv = "git **" }\ndeny = "EPERM"'
        '\n[[rule]]\nname = "s"\ncalls = ["execve"]\nallow = "unsafe: t"'
    )
    assert str(again.decide(call).ruling) == "perform"


def test_what_is_let_run_after_a_look_at_arguments_says_unsafe() -> None:
    rule = '[[rule]]\nname = "r"\ncalls = ["execve"]\nwhen = { argv = "git push" }\ndeny = 1'
    with pytest.raises(PolicyError, match="looks at argv"):
        loads(rule)


@pytest.mark.parametrize("pattern", ["[]", "3", '["a", 1]', '"[a"', "'a\\'", '"a**"', '"a\\u0000"'])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(PolicyError, match="argv"):
        loads(
            f'[[rule]]\nname = "r"\ncalls = ["execve"]\nwhen = {{ argv = {pattern} }}\ndeny = 1\n'
        )

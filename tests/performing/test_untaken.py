"""What an executor cannot take on is known, and said."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from proctor.performing.untaken import UNTAKEN
from proctor.policy import loads
from proctor.policy.check import warnings
from proctor.syscalls import tables
from tests.cli.conftest import COMMAND

MANUAL = Path(__file__).parents[2] / "docs" / "policy.md"
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

"""proctor.families: rules with perform, written in Python."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

import proctor
from proctor import PolicyError, families
from proctor.performing import SUPPORTED
from proctor.policy import loads
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.signatures import signature
from proctor.testing import FakeTarget


def test_where_conditions_hold_it_performs_and_elsewhere_the_next_is_asked() -> None:
    target = FakeTarget({"/srv/a": b"", "/etc/b": b""})
    chain = [families.open(when={"path": "/srv/**"}), lambda call: proctor.deny(errno.EROFS)]

    def ask(path: str) -> tuple[bool, int]:
        call = target.call("openat", -100, path)
        said = next(filter(None, (each(call) for each in chain)))
        return isinstance(said, proctor.Perform), getattr(said, "errno", 0)

    assert ask("/srv/a") == (True, 0)
    assert ask("/etc/b") == (False, errno.EROFS)


def test_registers_alone_decide_too() -> None:
    handler = families.mknod(when={"type": "fifo"})
    target = FakeTarget()
    assert handler(target.call("mknod", "x", 0o010600, 0)) == proctor.Perform(
        None, 'rule "families.mknod"'
    )
    assert handler(target.call("mknod", "x", 0o100600, 0)) is None


@pytest.mark.parametrize(
    ("when", "what"),
    [
        ({"paht": "/x"}, 'families.open: when.paht: open on x86_64 has no argument "paht"'),
        ({"path": "x"}, "families.open: when.path: "),
    ],
)
def test_what_cannot_be_is_said_at_once(when: dict[str, str], what: str) -> None:
    with pytest.raises(PolicyError, match="^" + what.replace("(", r"\(")):
        families.open(when=when)


def test_they_perform_real_calls(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("seen")
    done = proctor.run(
        ["sh", "-c", "cat a; mknod b p; mknod c c 9 9; test -p b"],
        [
            families.open(),
            families.mknod(when={"type": "fifo"}),
            proctor.on("mknod", "mknodat")(_no),
        ],
        capture_output=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, b"seen"), done.stderr
    assert not (tmp_path / "c").exists()


def _no(call: proctor.Call) -> proctor.Verdict:
    return proctor.deny(errno.EPERM)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_can_be_performed_is_known_on_every_architecture(arch: str) -> None:
    """Each call of a family that an architecture has is described there, and a rule with it becomes a filter."""
    calls = sorted(SUPPORTED & set(tables.numbers(arch)))
    assert {"mkdirat", "openat", "bpf", "file_setattr", "quotactl"} <= set(calls)
    assert [call for call in calls if signature(call, arch) is None] == []
    rules = f'arches = ["{arch}"]\n[[rule]]\nname = "all"\ncalls = {json.dumps(calls)}\nperform = true\n'
    assert loads(rules).filter()

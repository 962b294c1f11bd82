"""The examples and the manual: every policy shown is one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from proctor.errors import PolicyError
from proctor.kernel import abi
from proctor.policy import load, loads, warnings
from tests.policy.calls import call

ROOT = Path(__file__).resolve().parents[2]
MANUAL = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```", MANUAL, re.DOTALL | re.MULTILINE)


def test_the_manual_has_examples() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("text", BLOCKS)
def test_policies_of_the_manual(text: str) -> None:
    if not text.startswith("# refused"):
        loads(text).filter().compile()
        return
    with pytest.raises(PolicyError) as caught:
        loads(text, "p.toml")
    shown = re.search(r"^proctor: (p\.toml:2: .*), …$", MANUAL, re.MULTILINE)
    assert shown is not None
    assert str(caught.value).startswith(shown[1])


def test_the_manual_names_every_key() -> None:
    from proctor.policy.document import POLICY_KEYS, RULE_KEYS, VERDICT_KEYS
    from proctor.policy.when import ACCESS, FILE_TYPES, WORDS

    for key in (*POLICY_KEYS, *RULE_KEYS):
        assert f"`{key}" in MANUAL, key
    for word in (*VERDICT_KEYS, *WORDS, *FILE_TYPES, *ACCESS):
        assert re.search(rf"[`\"]{word}\b", MANUAL), word


def test_the_manual_has_the_right_defaults() -> None:
    from proctor.policy.loader import VERSION
    from proctor.policy.policy import Settings
    from proctor.policy.rules import errno_name

    empty = Settings(())
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| `([^`]+)` \|", MANUAL, re.MULTILINE))
    assert rows == {
        "version": str(VERSION),
        "default": f'"{empty.default}"',
        "on_error": f'"{errno_name(empty.on_error)}"',
        "foreign_arch": f'"{empty.foreign_arch}"',
        "x32": f'"{empty.x32}"',
        "report": "false",
    }


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda p: p.name)
def test_examples_load_without_a_warning(path: Path) -> None:
    policy = load(path)
    assert warnings(policy) == []
    assert len(policy.filter().compile()) < 200


class TestDevices:
    """examples/devices.toml: what the demonstration shows."""

    policy = load(ROOT / "examples" / "devices.toml")

    def ruling(self, **arguments: object) -> str:
        return str(self.policy.decide(call("mknodat", dirfd=-100, **arguments)).ruling)

    # "Default Devices" of the OCI runtime specification (config-linux.md), which are also what
    # debootstrap makes (setup_devices_simple of its functions) and cannot do without.
    @pytest.mark.parametrize(
        ("name", "device"),
        [
            ("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"),
            ("tty", "5:0"), ("console", "5:1"), ("ptmx", "5:2"),
        ],
    )  # fmt: skip
    def test_those_of_a_minimal_dev_are_made(self, name: str, device: str) -> None:
        path = f"/dev/{name}".encode()
        assert self.ruling(path=path, mode=0o20666, dev=device) == "perform"
        assert self.ruling(path=path, mode=0o60666, dev=device) == "EPERM"

    @pytest.mark.parametrize(
        ("mode", "device"), [(0o60660, "8:0"), (0o60660, "1:3"), (0o20666, "1:1"), (0o20666, "4:0")]
    )
    def test_others_are_refused(self, mode: int, device: str) -> None:
        assert self.ruling(mode=mode, dev=device) == "EPERM"

    def test_what_the_kernel_allows_anyway_never_notifies(self) -> None:
        program = self.policy.filter().compile()
        for mode, dev in ((0o20000, 0), (0o10644, 0), (0o100644, 0), (0o140644, 7)):
            assert program.run(133, abi.AUDIT_ARCH_X86_64, (0, mode, dev, 0, 0, 0)) == 0x7FFF0000
        for number in (0, 1, 257):  # read, write, openat
            assert program.constant_allow(number, abi.AUDIT_ARCH_X86_64)

    def test_the_log_line_names_the_rule_and_the_remedy(self) -> None:
        refused = call("mknodat", dirfd=-100, path=b"sd\x1b\n\xff", mode=0o60660, dev="8:0")
        reason = self.policy.explain(refused)
        assert reason == (
            'rule "no block devices"; would be allowed by, before rule "no block devices": '
            '[[rule]] name = "allow mknodat block 8:0" calls = ["mknodat"] '
            'when = { type = "block", device = "8:0" } perform = true'
        )
        assert reason.rule == "no block devices"
        assert loads(reason.tip).decide(refused).ruling.kind == "perform"

    def test_a_rule_that_nearly_fits_is_named_too(self) -> None:
        reason = self.policy.explain(call("mknod", path=b"x", mode=0o20666, dev="10:200"))
        assert reason.change == 'add "10:200" to device of rule "harmless devices"'
        assert reason.endswith(f"; or: {reason.change}")


class TestOthers:
    def test_no_network(self) -> None:
        policy = load(ROOT / "examples" / "no-network.toml")
        program = policy.filter().compile()
        run = lambda number, *args: program.run(  # noqa: E731
            number, abi.AUDIT_ARCH_X86_64, (*args, *(0,) * (6 - len(args)))
        )
        assert run(41, 1, 1) == 0x7FFF0000  # AF_UNIX
        assert run(41, 2, 1) == 0x50000 | 13  # AF_INET: EACCES, by the filter alone
        assert run(41, 2 | 1 << 32, 1) == 0x50000 | 13
        assert run(425) == 0x50000 | 38
        # i386: socketcall(SYS_SOCKET) hides its arguments
        assert program.run(102, abi.AUDIT_ARCH_I386, (1, 0, 0, 0, 0, 0)) == 0x50000 | 38
        assert program.run(102, abi.AUDIT_ARCH_I386, (9, 0, 0, 0, 0, 0)) == 0x7FFF0000

    def test_private_files(self) -> None:
        policy = load(ROOT / "examples" / "private-files.toml")
        for path, ruling in (
            (b"/home/u/.ssh/id", "EACCES"),
            (b"/srv/app/.env", "EACCES"),
            (b"/etc/hosts", "perform"),
        ):
            opened = call("openat", dirfd=-100, path=path, flags=0, tree={os.fsdecode(path): b""})
            assert str(policy.decide(opened).ruling) == ruling

"""The examples and the manual: every policy shown is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proctor.errors import PolicyError
from proctor.kernel import abi
from proctor.policy import Facts, load, loads

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
    from proctor.policy.arguments import ACCESS, FILE_TYPES, WORDS
    from proctor.policy.schema import VERDICT_KEYS, PolicyTable, RuleTable

    for struct in (PolicyTable, RuleTable):
        for key in struct.__struct_encode_fields__:
            assert f"`{key}" in MANUAL, key
    for word in (*VERDICT_KEYS, *WORDS, *FILE_TYPES, *ACCESS):
        assert re.search(rf"[`\"]{word}\b", MANUAL), word


def test_the_manual_has_the_right_defaults() -> None:
    from proctor.policy.schema import PolicyTable

    empty = PolicyTable()
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| `([^`]+)` \|", MANUAL, re.MULTILINE))
    assert rows == {
        "version": str(empty.version),
        "default": f'"{empty.default}"',
        "on_error": f'"{empty.on_error}"',
        "foreign_arch": f'"{empty.foreign_arch}"',
        "x32": f'"{empty.x32}"',
        "report": str(empty.report).lower(),
    }


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda p: p.name)
def test_examples_load_without_a_warning(path: Path) -> None:
    policy = load(path)
    assert policy.warnings == ()
    assert len(policy.filter().compile()) < 200


class TestDevices:
    """examples/devices.toml: what the demonstration shows."""

    policy = load(ROOT / "examples" / "devices.toml")

    def ruling(self, **arguments: object) -> str:
        return str(self.policy.decide(Facts.of("mknodat", dirfd=-100, **arguments)).ruling)

    @pytest.mark.parametrize("device", ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"])
    def test_harmless_ones_are_made(self, device: str) -> None:
        assert self.ruling(mode=0o20666, dev=device) == "perform"

    @pytest.mark.parametrize(
        ("mode", "device"), [(0o60660, "8:0"), (0o60660, "1:3"), (0o20666, "1:1"), (0o20666, "5:1")]
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
        facts = Facts.of("mknodat", dirfd=-100, path=b"sd\x1b\n\xff", mode=0o60660, dev="8:0")
        explanation = self.policy.explain(facts)
        line = explanation.line()
        assert line == (
            'mknodat(path="sd\\x1b\\x0a\\xff", type=block, mode=0o660, device=8:0): refused with EPERM: '
            'rule "no block devices"; would be allowed by, before rule "no block devices": '
            '[[rule]] name = "allow mknodat block 8:0" calls = ["mknodat"] '
            'when = { type = "block", device = "8:0" } perform = true'
        )
        record = explanation.as_dict()
        assert record["rule"] == "no block devices"
        assert loads(record["tip"]).decide(facts).ruling.kind == "perform"

    def test_a_rule_that_nearly_fits_is_named_too(self) -> None:
        explanation = self.policy.explain(Facts.of("mknod", path=b"x", mode=0o20666, dev="10:200"))
        assert explanation.change == 'add "10:200" to device of rule "harmless devices"'
        assert explanation.line().endswith(explanation.change)


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
            facts = Facts.of("openat", dirfd=-100, path=path, flags=0)
            assert str(policy.decide(facts).ruling) == ruling

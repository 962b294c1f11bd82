"""The conformance list has 132 ids; each is the name of exactly one test somewhere."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parents[1]
NAMED = re.compile(r"test_(c\d{3})(?:_|$)")

#: The kernel's behaviour, tested in this directory.
KERNEL = [f"c{number:03}" for number in range(1, 119)]
#: What our own layers owe, tested where those layers are tested.
OURS = [f"c{number:03}" for number in range(119, 133)]


def test_functions() -> dict[str, list[str]]:
    """Where each id is tested: "file::name" by id."""
    found = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
                named := NAMED.match(node.name)
            ):
                found[named[1]].append(f"{path.relative_to(TESTS)}::{node.name}")
    return found


test_functions.__test__ = False  # type: ignore[attr-defined]


def test_every_kernel_behaviour_has_its_test_here() -> None:
    found = test_functions()
    missing = [ident for ident in KERNEL if not found[ident]]
    assert not missing, f"no test is named after {', '.join(missing)}"
    elsewhere = [
        where for ident in KERNEL for where in found[ident] if not where.startswith("conformance/")
    ]
    assert not elsewhere, f"the kernel's behaviour is tested in tests/conformance: {elsewhere}"


def test_every_requirement_on_our_layers_has_its_test() -> None:
    found = test_functions()
    missing = [ident for ident in OURS if not found[ident]]
    assert not missing, f"no test is named after {', '.join(missing)}"


def test_no_id_is_used_twice_or_unknown() -> None:
    found = test_functions()
    twice = {ident: where for ident, where in found.items() if len(where) > 1}
    assert not twice, f"one id, one test: {twice}"
    unknown = sorted(set(found) - {*KERNEL, *OURS})
    assert not unknown, f"no such id in the list: {unknown}"

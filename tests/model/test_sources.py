"""Every function of the model that changes something says where the kernel does so.

The rule, decided by looking at the source: a function or method in the modules of the kernel's side
that assigns to an attribute or an item, or calls a method that changes a container, has a docstring
with "Source:" or "Sources:" and after it a kernel file with a version, or a man page.
Methods may lean on their class's docstring; functions inside of functions belong to the outer one;
constructors are excused, and so are the few in :data:`BOOKKEEPING`, which have no counterpart in
the kernel.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctor.model
from proctor.model.kernel.features import FEATURES
from proctor.model.kernel.transitions import TABLE

HERE = Path(proctor.model.__file__).parent
#: Modules without a kernel's side: numbers, and the table and the list of features, whose rows have
#: sources of their own.
OTHERS = {"__init__", "errors", "features", "linux", "numbers", "transitions"}
#: Functions that only keep the model's own books.
BOOKKEEPING = {
    "machine.Kernel.at": "the model's clock",
    "machine.Kernel.advance": "the model's clock",
    "machine.Kernel.settle": "lets everybody run who was woken",
    "program.Program.recv": "remembers the buffer for received()",
    "programs.Code.run": "counts runs",
    "programs.Code.constant": "remembers what it worked out",
}
CHANGES = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popleft",
    "remove", "setdefault", "update",
}  # fmt: skip
KERNEL = re.compile(r"``[a-z0-9_/-]+\.[chS]``.*?\b[4-7]\.\d+", re.DOTALL)
MAN = re.compile(r"\b[a-z_0-9]+\([1-9]\)")


def modules() -> list[Path]:
    """The modules of the kernel's side."""
    return [
        path
        for room in ("kernel", "ptrace")
        for path in sorted((HERE / room).glob("*.py"))
        if path.stem not in OTHERS
    ]


def cites(docstring: str | None) -> bool:
    """Whether there is a source, and one of the kinds that count."""
    match = re.search(r"\bSources?: ?(.*)", docstring or "", re.DOTALL)
    if match is None:
        return False
    said = match.group(1)
    return bool(KERNEL.search(said) or MAN.search(said))


def changes(function: ast.FunctionDef) -> bool:
    """Whether it assigns to an attribute or an item, or changes a container."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
            targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
            for target in targets:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                if any(isinstance(part, ast.Attribute | ast.Subscript) for part in parts):
                    return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            local = isinstance(of, ast.Name)  # a list of its own
            if node.func.attr in CHANGES and not local:
                return True
    return False


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef, str | None]]:
    """(name, function, docstring of its class) of all that have to say where."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            yield f"{path.stem}.{node.name}", node, None
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name != "__init__":
                    name = f"{path.stem}.{node.name}.{inner.name}"
                    yield name, inner, ast.get_docstring(node)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_every_change_names_its_source(path: Path):
    silent = [
        name
        for name, function, outer in functions(path)
        if changes(function)
        and name not in BOOKKEEPING
        and not cites(ast.get_docstring(function))
        and not cites(outer)
    ]
    assert not silent, f"{len(silent)} say nothing: {', '.join(silent)}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_every_module_names_its_sources(path: Path):
    assert cites(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))


def test_rows_and_features_name_theirs():
    told = re.compile(r"[a-z_/]+\.c|selftest|\([2-7]\)")
    assert all(told.search(row.source) for row in TABLE)
    assert all(told.search(feature.source) for feature in FEATURES.values())


def test_the_excuses_are_of_functions_that_exist_and_need_them():
    every = {
        name: (function, outer) for path in modules() for name, function, outer in functions(path)
    }
    for name in BOOKKEEPING:
        function, outer = every[name]
        assert changes(function)
        assert not cites(ast.get_docstring(function)) and not cites(outer)


def test_the_rule_bites():
    assert cites("Does.\n\nSource: ``kernel/seccomp.c`` 6.12 ``do_seccomp``.")
    assert cites("Source: wait4(2).") and not cites("Source: the patch.")
    assert not cites("Source: ``kernel/seccomp.c``.") and not cites(
        "wait4(2) of ``kernel/exit.c`` 6.12"
    )
    changing = ast.parse("def f(task):\n    task.state = 'S'").body[0]
    looking = ast.parse(
        "def f(task):\n    rows = []\n    rows.append(1)\n    return task.state"
    ).body[0]
    assert isinstance(changing, ast.FunctionDef) and isinstance(looking, ast.FunctionDef)
    assert changes(changing) and not changes(looking)

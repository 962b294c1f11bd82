"""What is public: the list, and an example of each entry that does what it says."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import proctor
from proctor.syscalls import flags
from tests.support import examples

SOURCES = Path(proctor.__file__).parent

ERRORS = """
    AlreadyAnswered CallError CallGone CallOver CallerInvisible FilterError LaunchError MemoryUnreadable
    MemoryUnwritable NestedListener NotPermitted NotReceived NotResolved PolicyError ProctorError RacyVerdict
    TargetFdLimit Unsupported
"""
#: Of these the docstring is another's: a union, numbers, a module.
VALUES = "DEVNULL PIPE STDOUT Verdict __version__"
NAMES = """
    Amount Answer AsyncProcess Call Caller Condition Container Counters Deny Filter HandOver Handler Journal JsonLog Later
    LetRun Listener Memory Notification Outcome Perform Process Quotas Rule Supervisor Target actions answer
    deny families filter_for hand_over launch let_run let_run_unsafe on outcomes perform run run_async spawn spawn_async
"""

#: What is not exported from ``proctor`` itself, by the module that documents it.
ELSEWHERE = {
    "proctor.agent.control": "ask",
    "proctor.call.decode.layouts": "pack",
    "proctor.call.decode.sockaddr": (
        "Inet6Address InetAddress NetlinkAddress PacketAddress RawAddress UnixAddress VsockAddress decode encode"
    ),
    "proctor.families": "accept attributes bind bpf connect exec fsflags fsmount loop mknod modules mount names open perf quiet quota resources scheduling send served setsockopt socket stat streams userns xattr",
    "proctor.filter.profiles.lxc": "dump load",
    "proctor.filter.profiles.oci": "dump dumps load",
    "proctor.observe.events": "ContainerAdded ContainerEnded Dropped Outcome TakenOver Trouble outcomes",
    "proctor.observe.jsonlog": "JsonLog to_file",
    "proctor.performing": "Performers SUPPORTED",
    "proctor.policy": "Policy Reason load load_handlers loads warnings",
    "proctor.syscalls.flags": "decode family family_names fields members",
    "proctor.syscalls.groups": "members names",
    "proctor.syscalls.siblings": "families siblings why",
    "proctor.syscalls.signatures": "Arg Signature signature",
    "proctor.syscalls.tables": "all_names exists name number",
    "proctor.testing": (
        "ALL_CAPABILITIES AT_FDCWD INITIAL_NAMESPACES UNMAPPED FakeCall FakeMemory FakeOutcome "
        "FakePerformer FakeTarget Node Performed Tree"
    ),
}


def used(name: str, source: str) -> bool:
    return re.search(rf"\b{name}\b", source) is not None


def example(entry: object, name: str, module: ModuleType) -> str:
    """Run the examples of an entry's docstring, which know what their module exports."""
    known = {each: getattr(module, each) for each in module.__all__}
    return examples.run(entry.__doc__, name, known)


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_list() -> None:
    assert sorted(proctor.__all__) == sorted(f"{ERRORS} {NAMES} {VALUES}".split())
    raised = [getattr(proctor, name) for name in ERRORS.split()]
    assert all(issubclass(each, proctor.ProctorError) for each in raised)


@pytest.mark.parametrize("name", f"{ERRORS} {NAMES}".split())
def test_each_has_an_example(name: str) -> None:
    source = example(getattr(proctor, name), name, proctor)
    assert used(name, source), f"the example of {name} does not use it"
    assert len(source.splitlines()) <= 12


def test_values_are_used_in_the_example_of_what_they_are_for() -> None:
    shown = "".join(
        str(examples.sources(getattr(proctor, name).__doc__)) for name in ("run", "spawn", "on", "Process")
    )  # fmt: skip
    assert all(used(name, shown) for name in ("DEVNULL", "PIPE", "STDOUT"))


@pytest.mark.parametrize("module", ELSEWHERE)
def test_modules_have_examples_that_use_each_name(module: str) -> None:
    found = importlib.import_module(module)
    names = ELSEWHERE[module].split()
    assert sorted(found.__all__) == sorted(names)
    source = example(found, module, found)
    for name in names:
        entry = getattr(found, name)
        if callable(entry):
            assert entry.__doc__, name
            source += example(entry, f"{module}.{name}", found)
    assert not [name for name in names if not used(name, source)]


def written_for_users() -> list[Path]:
    """What users read, and copy from."""
    top = Path(__file__).parents[1]
    found = [top / "README.md", *(top / "docs").glob("*.md"), *(top / "examples").rglob("*.py")]
    return [*found, *(top / "deploy").rglob("*")]


def test_what_users_are_shown_is_public() -> None:
    """Imports in documentation and examples are of names that are on the list."""
    seen = 0
    for path in filter(Path.is_file, written_for_users()):
        text = path.read_text(encoding="utf-8")
        for module, names in re.findall(r"^ *from (proctor[\w.]*) import ([\w, ]+)", text, re.M):
            known = proctor.__all__ if module == "proctor" else ELSEWHERE.get(module, "").split()
            for name in names.replace(" ", "").split(","):
                seen += 1
                constants = module == "proctor.syscalls.flags" and name in flags.family_names()
                assert name in known or constants, f"{path.name}: {module}.{name}"
        for module in re.findall(r"^ *import (proctor\.[\w.]+)", text, re.M):
            assert module in ELSEWHERE, f"{path.name}: {module}"
    assert seen > 5


PROMPTED = sorted(
    ".".join(path.relative_to(SOURCES.parent).with_suffix("").parts)
    for path in SOURCES.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8") and path.name != "__init__.py"
)


@pytest.mark.parametrize("module", PROMPTED)
def test_every_line_with_a_prompt_is_true(module: str) -> None:
    """Of what is not public, too."""
    found = importlib.import_module(module)
    for each in doctest.DocTestFinder().find(found, module):
        _, lines = examples.sources(each.docstring)
        if lines:
            assert examples.run(each.docstring, each.name, vars(found))


def test_there_are_such_lines() -> None:
    policy = [name for name in PROMPTED if name.startswith("proctor.policy.")]
    assert len(policy) >= 6 and len(PROMPTED) > 15


def test_a_false_example_is_found() -> None:
    with pytest.raises(AssertionError, match="Got"):
        examples.run("One.\n\n    >>> 1 + 1\n    3\n", "false", {})
    with pytest.raises(AssertionError):
        examples.run("One.\n\n    ::\n\n        assert not 1\n", "false", {})
    assert examples.run("None.", "empty", {}) == ""


def test_every_error_is_in_one_tree() -> None:
    """Whatever a module of ours defines to be raised from what users call."""
    for module in ("globs", "addresses"):
        found = importlib.import_module(f"proctor.policy.{module}")
        for each in vars(found).values():
            if isinstance(each, type) and issubclass(each, Exception):
                assert issubclass(each, proctor.ProctorError), each

"""Handler files: loaded once, by themselves; a user's mistake is one sentence."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from proctor.errors import PolicyError
from proctor.policy import load_handlers

GOOD = """\
import errno
import proctor

SECRET = []

@proctor.on("mkdir", "mkdirat")
def no_directories(call):
    return proctor.deny(errno.EROFS)

@proctor.on("%file")
def other(call):
    return None

again = other
"""


@pytest.fixture(autouse=True)
def clean_path() -> object:
    before = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before[0]
    for name in set(sys.modules) - before[1]:
        if name.startswith("proctor handlers"):
            del sys.modules[name]


def write(tmp_path: Path, text: str, name: str = "h.py") -> Path:
    file = tmp_path / name
    file.write_text(text)
    return file


def test_handlers_in_the_order_of_the_file(tmp_path: Path) -> None:
    first, second = load_handlers(write(tmp_path, GOOD))
    assert first.names == ("mkdir", "mkdirat")
    assert second.names == ("%file",)


def test_each_load_is_a_module_of_its_own(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    one, other = load_handlers(file)[0], load_handlers(file)[0]
    assert one.function.__globals__ is not other.function.__globals__  # type: ignore[union-attr]
    assert "h" not in sys.modules


def test_a_helper_beside_it_can_be_imported(tmp_path: Path) -> None:
    write(tmp_path, "NUMBER = 30\n", "handler_helper_for_test.py")
    file = write(
        tmp_path,
        "import proctor\nfrom handler_helper_for_test import NUMBER\n"
        '@proctor.on("mkdir")\ndef f(call):\n    return proctor.deny(NUMBER)\n',
    )
    assert load_handlers(file)[0](None) == (30, "")
    del sys.modules["handler_helper_for_test"]


def test_handlers_in_a_list_count(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "import proctor\n_made = [proctor.on(n)(lambda call: None) for n in ('mkdir', 'rmdir')]\n",
    )
    assert [handler.names for handler in load_handlers(file)] == [("mkdir",), ("rmdir",)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", 'h.py: no handler in it; decorate a function with @proctor.on("openat")'),
        ("x = 1\ndef f(:\n", "h.py:2: not valid Python: "),
        ("\n\nimport no_such_module_here\n", "h.py:3: ModuleNotFoundError: No module named"),
        ("def f():\n    raise ValueError('a\\nb')\nf()\n", "h.py:2: ValueError: a b"),
        ("raise SystemExit(3)\n", "h.py:1: it ends the program (3)"),
        ("raise SystemExit('a\\nb\\033[2J')\n", "h.py:1: it ends the program (a b\\u001B[2J)"),
        ("class E(BaseException): pass\nraise E('z')\n", "h.py:2: E: z"),
        (
            "class E(Exception):\n    def __str__(self): return 1 / 0\nraise E\n",
            "h.py:3: E: no message",
        ),
        ("import proctor\n@proctor.on\ndef f(call): pass\n", "h.py:2: name the system calls"),
        (
            "import proctor\n@proctor.on()\ndef f(call): pass\n",
            "h.py:2: a handler wants at least one",
        ),
        (
            'import proctor\n\n@proctor.on("mkdirr")\ndef f(call): pass\n',
            'h.py:3: there is no system call "mkdirr"; did you mean "mkdir"?',
        ),
        (
            'import proctor\n@proctor.on("%fil")\ndef f(call): pass\n',
            "h.py:2: there is no group of system calls",
        ),
        ("x = '\\0'\n\0\n", "h.py"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(PolicyError) as caught:
        load_handlers(file)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path / "none.py", "No such file"),
        (tmp_path, "Is a directory"),
        ("/dev/zero", "larger than"),
    ):
        with pytest.raises(PolicyError, match=says):
            load_handlers(path)
    binary = tmp_path / "b.py"
    binary.write_bytes(b"\x7fELF\xff")
    with pytest.raises(PolicyError, match="not UTF-8"):
        load_handlers(binary)


def test_what_it_replaces_stays_catchable(tmp_path: Path) -> None:
    """The cause is kept for those who debug their file."""
    with pytest.raises(PolicyError) as caught:
        load_handlers(write(tmp_path, "1 / 0\n"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_current_directory_without_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """getcwd(2) fails in a directory outside of the root, where files are found all the same."""

    def getcwd() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    write(tmp_path, "NUMBER = 30\n", "handler_helper_for_test.py")
    write(tmp_path, "import handler_helper_for_test\n" + GOOD)
    write(tmp_path, "1 / 0\n", "bad.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "getcwd", getcwd)
    assert len(load_handlers("h.py")) == 2
    with pytest.raises(PolicyError, match=r"^bad\.py:1: ZeroDivisionError"):
        load_handlers("bad.py")
    del sys.modules["handler_helper_for_test"]


def test_ctrl_c_while_it_runs_is_no_mistake_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_handlers(write(tmp_path, "raise KeyboardInterrupt\n"))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert len(load_handlers(write(tmp_path, "\ufeff" + GOOD))) == 2

"""What run, spawn, their twins and launch take is known to type checkers, so to editors as well."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import proctor

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_uses_are_accepted_and_refused_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api")
    monkeypatch.chdir(ROOT)
    path = HERE / "uses.py"
    out, trouble, _ = api.run(["--no-error-summary", "--hide-error-context", str(path)])
    assert not trouble
    said: dict[int, str] = {}
    for line in out.splitlines():
        found = re.match(r"(.+?):(\d+): error: (.*)", line)
        if found is not None:
            assert Path(found[1]).resolve() == path, line
            said[int(found[2])] = found[3]
    wanted = {
        number: line.partition("# refused: ")[2]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "  # refused: " in line
    }
    assert len(wanted) == 11
    assert said.keys() == wanted.keys(), out
    assert not [number for number, part in wanted.items() if part not in said[number]], out


@pytest.mark.parametrize("name", ["run", "spawn", "run_async", "spawn_async", "launch"])
def test_no_option_is_anything(name: str) -> None:
    options = inspect.signature(getattr(proctor, name)).parameters["options"]
    assert str(options.annotation).startswith("Unpack[")

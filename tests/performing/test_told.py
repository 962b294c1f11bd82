"""What a log shows of a performed call is what was done, not what is there when the log looks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.observe.jsonlog import JsonLog, to_file

MAP = [(0, 100000, 65536)]


@pytest.fixture
def place() -> Iterator[Path]:
    """Where others come, too."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        top = Path(made)
        top.chmod(0o755)
        for name in ("one", "two"):
            (top / name).mkdir()
            (top / name / "file").write_text(name)
        (top / "link").symlink_to("one")
        yield top


def opened(place: Path, allow: Any, **options: Any) -> tuple[str, dict[str, Any]]:
    """What cat printed, and the line of its open."""
    path = os.fsencode(place / "link/file")

    @proctor.on("openat")
    def handler(call: proctor.Call) -> proctor.Verdict:
        return proctor.perform(allow) if call.path == path else proctor.let_run_unsafe("a test")

    lines = to_file(str(place / "log"), print)
    done = proctor.run(
        [shutil.which("cat") or "cat", path], [handler], capture_output=True, text=True,
        observers=[JsonLog(lines, containers=False)], **options,
    )  # fmt: skip
    assert lines.close(30)
    made = [json.loads(line) for line in (place / "log").read_text().splitlines()]
    (line,) = (each for each in made if each["verdict"] == "perform")
    return str(done.stdout), line


@pytest.mark.parametrize("another", [False, True])
@pytest.mark.parametrize("allowed", [True, False])
def test_the_path_is_that_of_the_pin(place: Path, another: bool, allowed: bool) -> None:
    """The link leads elsewhere before the answer is given."""
    if another and os.geteuid() != 0:
        pytest.skip("needs root")
    asked = []

    def allow(argument: str, path: bytes) -> bool:
        asked.append((argument, path))
        subprocess.run(["ln", "-sfn", "two", place / "link"], check=True)
        return allowed

    text, line = opened(place, allow, **({"userns": MAP} if another else {}))
    one = str(place / "one/file")
    assert asked == [("path", os.fsencode(one))]
    assert line["paths"] == {"path": one}
    assert line["args"]["path"] == str(place / "link/file")
    assert (text, line["result"]) == (("one", None) if allowed else ("", -13))
    assert os.readlink(place / "link") == "two"

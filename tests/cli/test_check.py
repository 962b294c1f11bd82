"""``proctor check``, and what ``proctor run`` says of a policy and takes from it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from .conftest import Run

DOUBTFUL = '[[rule]]\nname = "no nodes"\ncalls = ["mknodat"]\ndeny = "EPERM"\n'
SOUND = DOUBTFUL.replace('["mknodat"]', '["mknod", "mknodat"]')


def test_warnings_are_printed_and_the_status_tells(run: Run, tmp_path: Path) -> None:
    (tmp_path / "doubtful.toml").write_text(DOUBTFUL)
    (tmp_path / "sound.toml").write_text(SOUND)
    (tmp_path / "wrong.toml").write_text("rule = 3")
    done = run("check", "doubtful.toml")
    assert done.returncode == 1 and done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith('doubtful.toml: rule "no nodes" refuses mknodat') and "mknod," in line
    done = run("check", "sound.toml")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("check", "wrong.toml")
    assert done.returncode == 2 and done.stdout == ""
    assert "wrong.toml:1: rule: expected a list" in done.stderr
    names = ["wrong.toml", "doubtful.toml", "nowhere.toml", "sound.toml"]
    done = run("check", *names)  # the worst of them, and each is read
    assert done.returncode == 2 and done.stdout == f"{line}\n"
    assert [each.split(": ")[1] for each in done.stderr.splitlines()] == [
        "wrong.toml:1",
        "nowhere.toml",
    ]
    assert run("check", *names[1::2]).returncode == 1


def test_quiet_silences_them(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(DOUBTFUL)
    assert "refuses mknodat" in run("run", "--policy", "p.toml", "--", "true").stderr
    done = run("run", "--quiet", "--policy", "p.toml", "--", "true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="making device nodes takes root on the host")
@pytest.mark.parametrize(
    ("key", "options", "made"),
    [
        ("", (), False),
        ('nested = "allow"', (), True),
        ("", ("--nested", "allow"), True),
        ('nested = "allow"', ("--nested=deny",), False),
    ],
)
def test_options_go_before_the_keys_of_their_names(
    run: Run, tmp_path: Path, key: str, options: tuple[str, ...], made: bool
) -> None:
    rule = '[[rule]]\nname = "r"\ncalls = ["mknod", "mknodat"]\nwhen = { type = "char" }\nperform = true\n'
    (tmp_path / "p.toml").write_text(f"{key}\n{rule}")
    with (
        tempfile.TemporaryDirectory() as place
    ):  # not below pytest's: container root has to get there
        os.chown(place, 100000, 100000)
        command = ("unshare", "-r", "mknod", f"{place}/null", "c", "1", "3")
        run("run", "--userns=100000:65536", "--policy", "p.toml", *options, "--", *command)
        assert os.listdir(place) == (["null"] if made else [])

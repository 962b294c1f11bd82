"""proctor doctor, and the probes behind it."""

from __future__ import annotations

import errno
import json
import os

import pytest

import proctor
from proctor.kernel import abi
from proctor.kernel.probe import report, usable

from .conftest import Run


def test_c123_probe_reports_each_feature_as_yes_no_or_why() -> None:
    found = report()
    names = {line.feature for line in found}
    assert {f"filter flag {flag}" for flag in abi.FILTER_FLAGS} <= names
    assert {f"action {action.upper()}" for action in abi.ACTIONS} <= names
    for line in found:
        assert line.ok in (True, False, None)
        if line.ok is not True:
            assert line.detail, line
            assert line.consequence, line
    by_name = {line.feature: line for line in found}
    assert by_name["seccomp(2)"].ok is True
    assert by_name["GET_NOTIF_SIZES"].detail == "notif 80, resp 24, data 64 bytes"
    assert by_name["a listener of our own"].ok is True
    assert usable(found)


def test_probing_leaves_nothing_behind() -> None:
    report()
    before = sorted(os.listdir("/proc/self/fd"))
    report()
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_doctor_prints_a_table(run: Run) -> None:
    done = run("doctor")
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("Supervision works here.")
    assert "filter flag WAIT_KILLABLE_RECV" in done.stdout


def test_doctor_json(run: Run) -> None:
    done = run("doctor", "--json")
    report = json.loads(done.stdout)
    assert report["usable"] is True
    assert report["kernel"] == os.uname().release
    assert {"feature", "ok", "detail", "since", "consequence", "essential"} == set(
        report["features"][0]
    )


def test_where_no_listener_can_be_doctor_says_what_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from proctor.cli import doctor as module
    from proctor.cli import main

    monkeypatch.setattr(module, "native", lambda: "ppc64le")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "architecture" in shown and "ppc64le; without it: calls are decoded" in shown
    assert shown.endswith("Supervision cannot work here: architecture.\n")


def test_doctor_survives_a_closed_pipe(run: Run) -> None:
    import subprocess
    import sys

    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m proctor doctor | true"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_c124_ebusy_names_nesting(run: Run, tmp_path: object) -> None:
    """Under another supervisor: doctor says no, exits 1, and spawn raises an error that explains."""
    with open(os.path.join(str(tmp_path), "handlers.py"), "w") as file:
        file.write(
            "import errno, proctor\n"
            "@proctor.on('mkdir')\n"
            "def refuse(call):\n    return proctor.deny(errno.EPERM)\n"
        )
    import sys

    done = run("run", "--handlers", "handlers.py", "--", sys.executable, "-m", "proctor", "doctor")
    assert done.returncode == 1
    assert "a listener already sits above this process" in done.stdout
    script = (
        "import proctor, errno\n"
        "h = proctor.on('rmdir')(lambda call: None)\n"
        "try: proctor.run(['true'], [h])\n"
        "except proctor.NestedListener as e: print(e.errno, e)\n"
    )
    done = run("run", "--handlers", "handlers.py", "--", sys.executable, "-c", script)
    assert done.stdout.startswith(f"{errno.EBUSY} another seccomp listener already sits above")


def test_another_structure_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from proctor.kernel import seccomp

    monkeypatch.setattr(seccomp, "_checked", False)
    monkeypatch.setattr(seccomp.abi, "NOTIF_SIZES", (88, 24, 64))
    with pytest.raises(proctor.ProctorError, match="not the ones proctor knows"):
        proctor.Listener(0)

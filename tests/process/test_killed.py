"""A command that its own filter kills before it begins: an error that says so, not a bare status."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import proctor
from proctor.filter.actions import ALLOW, KILL_PROCESS, KILL_THREAD
from proctor.filter.rules import Filter, Rule
from proctor.policy import loads
from tests.cli.conftest import COMMAND

pytestmark = pytest.mark.timeout(60)

SAYS = (
    "cannot run 'true': SIGSYS, by which its own filter kills, ended it in execve, before it could "
    "begin: the filter has to let execve run, or notify it"
)


@pytest.mark.parametrize(
    "filter",
    [
        Filter([Rule(("execve",), KILL_PROCESS)], ALLOW),
        Filter([Rule(("execve",), KILL_THREAD)], ALLOW),
        Filter([Rule(("getpid",), ALLOW)], KILL_PROCESS),
    ],
    ids=["kill_process", "kill_thread", "default"],
)
@pytest.mark.parametrize("start", [proctor.run, proctor.spawn], ids=["run", "spawn"])
def test_killed_by_its_filter_in_execve(filter: Filter, start: Callable[..., object]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):  # it may still be dying when we look
        with pytest.raises(proctor.LaunchError) as caught:
            start(["true"], filter=filter)
        assert SAYS in str(caught.value)
        assert (caught.value.step, caught.value.errno) == ("execve", errno.ECANCELED)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG | 0x40000000)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_asyncio_twins_say_it_too() -> None:
    filter = Filter([Rule(("execve",), KILL_PROCESS)], ALLOW)
    for start in (proctor.run_async, proctor.spawn_async):
        with pytest.raises(proctor.LaunchError, match="SIGSYS"):
            asyncio.run(start(["true"], filter=filter))  # type: ignore[operator]


def test_killed_by_the_monitor_in_execve() -> None:
    """A rule that is reported is carried out by us, with SIGKILL."""
    rules = loads('[[rule]]\nname = "k"\ncalls = ["execve"]\nkill = true\nreport = true\n')
    with pytest.raises(proctor.LaunchError, match="SIGKILL ended it before it could begin"):
        proctor.run(["true"], rules.handlers(), filter=rules.filter())


def test_a_failed_execve_stays_what_it_was() -> None:
    filter = Filter([Rule(("exit_group",), KILL_PROCESS)], ALLOW)
    with pytest.raises(proctor.LaunchError) as caught:
        proctor.run(["/nonexistent/program"], filter=filter)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("number", [signal.SIGSYS, signal.SIGKILL, signal.SIGSEGV])
def test_a_command_that_ran_and_died_of_a_signal_is_no_error(number: int) -> None:
    program = f"import os; os.kill(os.getpid(), {int(number)})"
    plain = {"PATH": os.environ["PATH"]}  # no sanitizer, which has handlers of its own
    for _ in range(5):
        assert proctor.run([sys.executable, "-S", "-c", program], env=plain).returncode == -number
    # by its filter, as soon as the loader makes its first call
    filter = Filter([Rule(("execve",), ALLOW)], KILL_PROCESS)
    assert proctor.run(["true"], filter=filter).returncode == -signal.SIGSYS


def test_proctor_run_says_it_and_ends_with_126(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[[rule]]\nname = "k"\ncalls = ["execve"]\nkill = true\n')
    done = subprocess.run(
        [*COMMAND, "run", "--policy", "p.toml", "--", "true"],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 126
    (line,) = [each for each in done.stderr.splitlines() if "cannot run" in each]
    assert line == f'proctor: {SAYS}: Operation canceled (by the policy: rule "k": kill)'


def test_a_handler_that_refuses_the_commands_own_execve_is_named() -> None:
    @proctor.on("execve")
    def no(call: proctor.Call) -> proctor.Verdict:
        return proctor.deny(errno.EACCES)

    with pytest.raises(proctor.LaunchError) as caught:
        proctor.run(["/bin/true"], [no])
    assert str(caught.value).endswith(
        f"cannot run '/bin/true': Permission denied ({no.label} (test_killed.py:{no.function.__code__.co_firstlineno}) "
        "decides about execve, the command's own as well)"
    )
    assert (caught.value.step, caught.value.errno) == ("execve", errno.EACCES)
    with pytest.raises(proctor.LaunchError) as caught:
        proctor.run(["/nonexistent"], [proctor.Handler(["execve"], lambda call: None)])
    assert str(caught.value).endswith("No such file or directory")

"""The policy of docs/families/others.md: programs take its refusals as they are meant."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from proctor.policy import loads
from tests.performing.support import boxes
from tests.performing.support.callers import open_directory
from tests.performing.support.containers import PYTHON, inside

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make containers")
PAGE = Path(__file__).resolve().parents[3] / "docs/families/others.md"
(TEXT,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
#: Root of the container is this id of the host's, which is what the page says to write there.
POLICY = loads(TEXT.replace("uid = 0", "uid = 100000"))
REFUSED = "Operation not permitted"


def under(script: str, rules: bool = True, **options: Any) -> subprocess.CompletedProcess[Any]:
    """A script in a container, whose kernel's own answers are to be had without rules."""
    how = {"filter": POLICY.filter()} if rules else {}
    handlers = POLICY.handlers() if rules else []
    return inside(["sh", "-c", f"export LC_ALL=C\n{script}"], handlers, **how, **options)


def needs(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"no {program}")


RESTARTS = ("busybox reboot -f", "busybox poweroff -f", "busybox halt -f", "systemctl reboot -ff")


@pytest.mark.parametrize("program", RESTARTS)
def test_a_restart_ends_the_container(program: str) -> None:
    """All of it, at once; and nothing of the kind where the kernel refuses it."""
    needs(program.partition(" ")[0])
    done = under(f"setsid sleep 1000 &\n{program}; echo still")
    assert (done.returncode, done.stdout) == (-9, "")
    natively = under(f"{program}; echo still", rules=False)
    assert natively.stdout == "still\n" and REFUSED in natively.stderr


@pytest.mark.parametrize(("program", "by"), [("reboot", 1), ("poweroff", 2), ("halt", 2)])
def test_in_a_pid_namespace_the_kernel_ends_it(program: str, by: int) -> None:
    """By SIGHUP and SIGINT, as reboot(2) says."""
    needs("busybox")
    script = f"busybox {program} -f; sleep 100"
    assert under(script, rules=False, namespaces=("pid",)).returncode == -by


def test_what_is_no_restart_ends_nothing() -> None:
    """Who has no right to, and what the first process of a container does to begin with."""
    needs("busybox")
    done = under("setpriv --reuid=1 --clear-groups busybox reboot -f; echo $?")
    assert done.stdout == "1\n" and REFUSED in done.stderr
    code = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.reboot(0), ctypes.get_errno())"
    for rules in (False, True):  # RB_DISABLE_CAD
        assert under(f"{PYTHON} -ISc '{code}'", rules).stdout == "-1 1\n"
    with open_directory() as top:
        os.chown(top, 100000, 100000)
        init = f"""
cd {os.fsdecode(top)}; mkdir etc; printf '::sysinit:/bin/sh -c "echo up > {os.fsdecode(top)}/up; exec busybox poweroff -f"\n' > etc/inittab
mount --bind etc /etc; exec unshare --pid --fork busybox init
"""
        assert under(init).returncode == -9
        assert (Path(os.fsdecode(top)) / "up").read_text() == "up\n"


def test_the_clock_is_not_set() -> None:
    """In words; and read."""
    needs("busybox")
    done = under("date -s 2020-01-01; echo $?; hwclock --systz; echo $?; busybox adjtimex -t 10001")
    assert done.stdout.splitlines()[1:] == ["1", "1"]
    lines = done.stderr.splitlines()
    assert lines[0] == f"date: cannot set date: {REFUSED}"
    assert lines[1] == f"hwclock: settimeofday() failed: {REFUSED}"
    assert lines[2].startswith("adjtimex: ") and REFUSED in lines[2]
    read = "busybox adjtimex | grep -E 'tick|tolerance|constant'"
    assert under(read).stdout == under(read, rules=False).stdout != ""


def test_swap_is_the_hosts() -> None:
    needs("mkswap")
    script = """
cd $(mktemp -d); trap 'rm -r $PWD' EXIT; dd if=/dev/zero of=file bs=1M count=1 2>/dev/null; chmod 600 file; mkswap file >/dev/null
swapon file; echo $?; swapoff file; echo $?
"""
    natively, ruled = (under(script, rules) for rules in (False, True))
    assert ruled.stdout == natively.stdout == "255\n16\n"
    assert f"swapon failed: {REFUSED}" in ruled.stderr
    assert "swapoff: Not superuser." in ruled.stderr


def test_names_are_those_of_the_own_uts_namespace() -> None:
    script = "hostname inside && hostname"
    assert under(script, namespaces=("uts",)).stdout == "inside\n"
    assert under(script, namespaces=("mnt",)).returncode == 1


@pytest.mark.parametrize("runtime", boxes.RUNTIMES)
def test_runtimes_go_on_without_keyrings(runtime: str) -> None:
    """For ENOSYS, which is why the page says that: EPERM would be the end of it."""
    begun = []
    eperm = loads(TEXT.replace("ENOSYS", "EPERM"))
    for policy in (POLICY, eperm):
        with open_directory() as top:
            done = boxes.run(
                runtime,
                Path(os.fsdecode(top)),
                "echo in",
                policy.handlers(),
                filter=policy.filter(),
            )
            begun.append((done.returncode, done.stdout))
            assert not done.returncode or "keyring" in done.stderr
    assert begun == [(0, "in\n"), (1, "")], done.stderr


def test_programs_go_on_without_keyrings() -> None:
    needs("keyctl")
    done = under("keyctl new_session; echo $?; keyctl add user a b @s; echo $?")
    assert done.stdout.split() == ["1", "1"]
    assert done.stderr.count("Function not implemented") == 2

"""execve and execveat at random, natively and performed: what runs, with which words, or which errno is told.

PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctor
from proctor import families
from tests.performing.support.callers import open_directory
from tests.performing.support.containers import NAMESPACES, PYTHON

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0, reason="needs root to have callers with other identities"
    ),
    pytest.mark.timeout(3000),
]
HERE = Path(__file__).parent
TRIES = int(os.environ.get("PROCTOR_TRIES", "100"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
#: The id that calls, and whether it is of a container.
WHO = {
    "root": (0, False),
    "user": (1000, False),
    "container-root": (0, True),
    "container-user": (1000, True),
}


@pytest.fixture(scope="module")
def said() -> Iterator[bytes]:
    """A program that tells what it was given."""
    with open_directory() as top:
        made = top + b"/said"
        subprocess.run(["gcc", "-O1", "-static", "-o", made, HERE / "said.c"], check=True)
        yield made


def allow(call: proctor.Call) -> proctor.Verdict:
    return proctor.perform(lambda argument, path: True)


@pytest.mark.parametrize("bits", ["64", *(["32"] if platform.machine() == "x86_64" else [])])
@pytest.mark.parametrize("who", WHO)
def test_runs_what_the_kernel_runs(said: bytes, who: str, bits: str) -> None:
    user, contained = WHO[who]
    told = []
    for handlers in ([], [families.exec()], [proctor.Handler(("execve", "execveat"), allow)]):
        with open_directory() as top:
            os.link(said, top + b"/said")
            os.chown(top, *([100000] * 2 if contained else [0, 0]))
            command = [
                PYTHON,
                "-ISc",
                START,
                str(HERE),
                str(SEED),
                str(TRIES),
                bits,
                str(user),
                top,
            ]
            inside = {"userns": [(0, 100000, 65536)], "namespaces": NAMESPACES} if contained else {}
            done = proctor.run(command, handlers, capture_output=True, timeout=2900, **inside)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.replace(top, b"TOP").splitlines())
    assert len(told[0]) == TRIES
    for performed in told[1:]:
        wrong = [pair for pair in zip(told[0], performed, strict=True) if pair[0] != pair[1]]
        assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(
            f"{a!r}\n{b!r}\n" for a, b in wrong[:12]
        )


#: Begins the program with the modules beside it.
START = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.argv[1:2] = []
runpy.run_module("random_exec", run_name="__main__")
"""

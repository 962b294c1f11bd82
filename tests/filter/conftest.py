"""libseccomp as a witness."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from proctor.filter.rules import Filter

WORKER = Path(__file__).with_name("libseccomp_worker.py")
SYSTEM_PYTHON = "/usr/bin/python3"

Export = Callable[..., bytes]


@pytest.fixture(scope="module")
def libseccomp() -> Iterator[Export]:
    """Compiles a filter with libseccomp."""
    try:
        found = subprocess.run(
            [SYSTEM_PYTHON, "-c", "import seccomp"], capture_output=True, timeout=30, check=False
        )
    except OSError:
        pytest.skip(f"no {SYSTEM_PYTHON}")
    if found.returncode:
        pytest.skip("the python3-seccomp package is not installed")
    with subprocess.Popen(
        [SYSTEM_PYTHON, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        stdin, stdout = worker.stdin, worker.stdout

        def export(source: Filter | SimpleNamespace, optimize: int = 0) -> bytes:
            request = {
                "default": source.default.value,
                "bad_arch": source.foreign.value,
                "arches": source.arches,
                "optimize": optimize,
                "rules": [
                    (name, rule.action.value, rule.conditions)
                    for rule in source.rules
                    for name in rule.names
                ],
            }
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            answer = stdout.readline().strip()
            assert not answer.startswith("error"), answer
            return bytes.fromhex(answer)

        yield export
        stdin.close()
        worker.wait(timeout=30)

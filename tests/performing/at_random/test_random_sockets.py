"""Random calls on sockets, of 64 bits, of i386 and by its socketcall, natively and performed: what they say, what
arrives, what is written back.

PROCTOR_TRIES says how many of each (make test-races takes thousands); PROCTOR_SEED where they begin.
"""

from __future__ import annotations

import os
import platform
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from tests.performing.support.networks import Servers, in_new_network

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="an empty network needs root"),
    pytest.mark.timeout(3000),
]
TRIES = int(os.environ.get("PROCTOR_TRIES", "40"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
NARROW = (32, 102) if platform.machine() == "x86_64" else ()


def compare(width: int, user: bool, seed: int, count: int) -> list[Any]:
    """Lines in which programs say something else when their calls are performed."""
    handlers = [
        families.connect(), families.send(), families.bind(), families.accept(), families.setsockopt(),
    ]  # fmt: skip
    servers, wrong = Servers(), []
    top = Path(servers.top)
    if user:
        (top / "as-user").touch()
    before = set(top.rglob("*"))
    narrow = ("connect", "send", "bind") if width != 64 else ()  # others do that with 64 bits
    for which in ("messages", "accepts", "options", *narrow):
        command, found = servers.program(seed, count, which, width), []
        for performed in (False, True):
            run = partial(proctor.run, handlers=handlers) if performed else subprocess.run
            done: Any = run(command, capture_output=True, timeout=1400, check=True)
            found.append(done.stdout.decode().splitlines())
            for each in set(top.rglob("*")) - before:
                each.unlink()
        assert len(found[0]) == count
        wrong += [pair for pair in zip(*found, strict=True) if pair[0] != pair[1]]
    servers.close()
    return wrong


@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("width", [64, *NARROW])
def test_comes_out_as_in_the_kernel(width: int, user: bool) -> None:
    wrong = in_new_network(f"{__name__}:compare", width, user, SEED, TRIES)
    assert not wrong, "\n".join(f"{a}\n{b}" for a, b in wrong[:10])

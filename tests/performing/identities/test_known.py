"""Who calls is found out once: also where there are many who do, one after the other."""

from __future__ import annotations

import os
import resource
import sys

import pytest

import proctor
from proctor.call.ports import ContainerPort
from proctor.kernel.standing import Standing
from proctor.kernel.standings import FEW, MANY, room
from proctor.performing import Performers
from proctor.performing.identities.callers import Callers

_THREADS, _ROUNDS = 2 * FEW, 3
_SCRIPT = f"""
import os, threading
turns = [threading.Semaphore(0) for _ in range({_THREADS})]
def opens(me):
    for _ in range({_ROUNDS}):
        turns[me].acquire()
        os.close(os.open("/dev/null", os.O_RDONLY))
        turns[(me + 1) % {_THREADS}].release()
threads = [threading.Thread(target=opens, args=(me,)) for me in range({_THREADS})]
for each in threads: each.start()
turns[0].release()
for each in threads: each.join()
"""


def test_threads_that_take_turns_are_met_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 32 * MANY:
        pytest.skip("there is no room for many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 32 * MANY), hard))
    met: list[int] = []
    real = Callers.meet

    def meet(
        self: Callers,
        call: proctor.Call,
        container: ContainerPort | None,
        cgroup: str,
        devices: bool = True,
    ) -> Standing:
        met.append(call.tid)
        return real(self, call, container, cgroup, devices)

    monkeypatch.setattr(Callers, "meet", meet)
    handler = proctor.Handler(["openat"], lambda call: proctor.perform())
    try:
        with Performers(calls=["openat"]) as performers:
            done = proctor.run(
                [sys.executable, "-I", "-S", "-c", _SCRIPT], [handler], performer=performers
            )
        assert done.returncode == 0
        assert len(set(met)) > _THREADS
        assert len(met) < len(set(met)) + _THREADS // 4
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_how_many_are_known_is_a_part_of_what_there_is_room_for() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    pid = os.fork()
    if pid == 0:
        try:
            for limit, known in ((64, FEW), (1024, 64), (1 << 20, MANY)):
                if limit <= hard:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                    assert room(16) == known
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

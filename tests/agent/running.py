"""``proctor agent`` and what goes with it as people run it, for tests that talk to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from proctor.agent.control import ask
from proctor.process.standing import lineage

#: Seconds in which another process does what it is waited for: pytest ends a test that hangs, and says less of it.  Programs take
#: some tens of them to begin on a machine that is busy with other things.
PATIENCE: Final = 100.0


class Command:
    """A ``proctor`` command that goes on; its standard error is kept."""

    def __init__(self, *words: str, by: Sequence[str] = ()) -> None:
        """:param by: a command that becomes it."""
        self.said: list[str] = []
        self._heard = threading.Condition()
        self.process = subprocess.Popen(
            [*by, sys.executable, "-m", "proctor", *words], stderr=subprocess.PIPE, text=True
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._heard:
                self.said.append(line.rstrip("\n"))
                self._heard.notify_all()
        with self._heard:
            self.said.append("(ended)")
            self._heard.notify_all()

    def heard(self, text: str, times: int = 1) -> str:
        """Wait for a line that has the text, the ``times``-th one."""

        def found() -> list[str]:
            return [line for line in self.said if text in line]

        with self._heard:
            done = self._heard.wait_for(
                lambda: len(found()) >= times or self.said[-1:] == ["(ended)"],
                PATIENCE,
            )
            assert done, f"never heard {text!r} {times} times in {self.said[-20:]}"
            assert len(found()) >= times, f"ended without {text!r}: {self.said[-20:]}"
            return found()[times - 1]

    def stop(self) -> int:
        """End it as systemd does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self._listener.join(10)
            assert self.process.stderr is not None
            self.process.stderr.close()


class RunningAgent(Command):
    """``proctor agent``."""

    def __init__(
        self, place: Path, *options: str, spare: bool = False, by: Sequence[str] = ()
    ) -> None:
        self.place = place
        self.socket = str(place / "oci.sock")
        self.control = str(place / "control.sock")
        super().__init__(
            "agent", "--policy-dir", str(place / "policies"), "--oci", self.socket,
            "--control", self.control, "--verbose", *options, *([] if spare else ["--no-spare"]),
            by=by,
        )  # fmt: skip
        self.heard("proctor: ready")

    @property
    def monitors(self) -> list[int]:
        """Process ids of its monitors, the oldest first."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
            return [int(word) for word in file.read().split()]

    @property
    def open(self) -> dict[str, list[str]]:
        """What its keeper and its monitors have open."""
        pids = {"keeper": self.process.pid, **{f"monitor {pid}": pid for pid in self.monitors}}
        return {
            who: [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
            for who, pid in pids.items()
        }

    @property
    def descriptors(self) -> int:
        """How many it has open, keeper and monitors together."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (self.process.pid, *self.monitors))

    def has_only(self, before: dict[str, list[str]]) -> None:
        """Wait until it has no more open than that; otherwise the test says what."""
        try:
            eventually(lambda: self.descriptors <= sum(map(len, before.values())))
        except AssertionError:
            now = {who: Counter(what) for who, what in self.open.items()}
            more = {who: what - Counter(before.get(who, ())) for who, what in now.items()}
            raise AssertionError(f"open besides: {more}") from None

    @property
    def serving(self) -> int:
        """Process id of the monitor that answers."""
        return int(self.ask(do="ps")["monitor"])

    def ask(self, **request: str) -> dict[str, Any]:
        """Ask it by its control socket."""
        return ask(self.control, **request)


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition of another process holds, which nobody tells."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.01)


def opening() -> set[Path]:
    """Those of ours that perform, and open a FIFO whose other end is not there yet."""
    return set(filter(_waits_for_its_other_end, Path("/proc").glob("[0-9]*")))


def _waits_for_its_other_end(process: Path) -> bool:
    try:
        performs = (process / "comm").read_text().startswith("proctor-")
        waits = performs and (process / "wchan").read_text() == "wait_for_partner"
    except OSError:
        return False
    line = lineage(int(process.name)) if waits else None
    return any(each.tgid == os.getpid() for each in line or ())

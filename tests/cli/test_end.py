"""The end of the command: at once, but for what others have to do then."""

from __future__ import annotations

from pathlib import Path

from .conftest import Run

HANDLERS = """
import atexit, threading, time, proctor
atexit.register(print, "told of the end")
@proctor.on("mkdir", "mkdirat")
def rooms(call):
    threading.Thread(target=late, daemon=False).start()
    return proctor.deny(1)
def late():
    threading.main_thread().join()
    print("and waited for")
"""


def test_handlers_are_told_of_the_end_and_their_threads_waited_for(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "h.py").write_text(HANDLERS)
    done = run("run", "--quiet", "--handlers", "h.py", "--", "mkdir", "x")
    assert done.returncode == 1
    assert done.stdout.split("\n") == ["and waited for", "told of the end", ""]

"""Runs inside the machine: each part, its outcome and time, as a line of JSON on the second port."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as tree
from typing import Any

#: Named on the kernel's command line, and so in the environment.
PORT = os.environ["REPORTS"]


def say(**event: object) -> None:
    """One line for the one who waits outside."""
    line = json.dumps(event) + "\n"
    with open(PORT, "w", encoding="ascii") as port:
        port.write(line)


def run(name: str, command: list[str], limit: float) -> None:
    """One part."""
    say(part=name, begins=True)
    began = time.monotonic()
    print(f"== {name}: {' '.join(command)}", flush=True)
    process = subprocess.Popen(
        command, cwd="/proctor", stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    code, output = _follow(process, began + limit)
    text = output.decode(errors="replace")
    seconds = round(time.monotonic() - began, 1)
    say(
        part=name,
        code=code,
        seconds=seconds,
        text=text[-6000:] if code else "",
        **details(name, text),
    )


def _follow(process: subprocess.Popen[bytes], end: float) -> tuple[int | None, bytes]:
    """Exit code (None: it took too long and was killed) and output, which the console shows, too."""
    assert process.stdout is not None
    pipe, pidfd, kept = process.stdout.fileno(), os.pidfd_open(process.pid), b""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while True:
        ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1000))
        data = os.read(pipe, 65536) if pipe in ready else b""
        if pipe in ready and not data:  # all is said, and it may be ending still
            poll.unregister(pipe)
            ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1000))
        if not data:  # it ended, whoever of its children holds the pipe still; or its time is over
            os.killpg(process.pid, signal.SIGKILL)
            os.close(pidfd)
            code = process.wait()
            return code if ready else None, kept
        os.write(1, data)
        kept += data


def details(name: str, text: str) -> dict[str, object]:
    """What the outside counts: steps, tests, features."""
    if name == "doctor":
        try:
            return {"doctor": json.loads(text)}
        except ValueError:
            return {}
    if name == "compare":
        steps = re.search(r"^ *(\d+)  steps compared", text, re.M)
        return {"steps": int(steps[1]) if steps else 0}
    if name == "features":
        found = re.findall(r"^(has|lacks|unseen) +(\w+)( \(ported back\))?$", text, re.M)
        return {"features": {name: "ported" if ported else word for word, name, ported in found}}
    if name.startswith("tests"):
        try:
            suite = tree.parse("/run/junit.xml").getroot().find("testsuite")
        except (OSError, tree.ParseError):
            return {}
        assert suite is not None
        counts = {
            key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")
        }
        skipped: dict[str, int] = {}
        for found in suite.iter("skipped"):
            reason = found.get("message", "")
            skipped[reason] = skipped.get(reason, 0) + 1
        failed = [
            f"{case.get('classname')}::{case.get('name')}"
            for case in suite.iter("testcase")
            if case.find("failure") is not None or case.find("error") is not None
        ]
        os.unlink("/run/junit.xml")
        return {"counts": counts, "skips": skipped, "failed": failed}
    return {}


def main() -> None:
    """All parts that are asked for."""
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    os.environ |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PROCTOR_TEST_MACHINE": "1",  # nobody else's: its modules may come and go
        "PROCTOR_TEST_SLOWNESS": str(plan["slowness"]),
    }
    # the model knows what every release had when it was published
    chosen = plan["profile"] or ".".join(os.uname().release.split(".")[:2])
    say(up=os.uname().release, profile=chosen, seconds=round(time.monotonic(), 1))
    for number, line in enumerate(plan["run"], 1):
        run(f"command {number}", ["/bin/bash", "-c", line], plan["limit"])
    if not plan["only"]:
        parts(plan, chosen)
    say(down=True)


def parts(plan: dict[str, Any], chosen: str) -> None:
    """What is run on each kernel."""
    python, limit = sys.executable, plan["limit"]
    run("doctor", [python, "-m", "proctor", "doctor", "--json"], 600)
    if plan["steps"]:
        run("features", [python, "-m", "tests.model.probed", "--profile", chosen], 600)
        run("compare", [python, "-m", "tests.model.compare", "--steps", str(plan["steps"]), "--profile", chosen,
                        *plan["compare"]], limit)  # fmt: skip
    for place in plan["tests"]:
        run(place, [python, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--junitxml=/run/junit.xml",
                    "--timeout=600", *plan["pytest"], *place.split()], limit)  # fmt: skip


if __name__ == "__main__":
    main()

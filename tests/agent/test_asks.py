"""Rules that ask, under an agent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.agent.clients import hand_over
from tests.agent.running import RunningAgent, eventually
from tests.asking.test_programs import Listener

POLICY = """
[[rule]]
name = "rooms"
calls = ["mkdir", "mkdirat"]
ask = {{ how = "socket", at = "{place}/ask", remember = "container" }}

[[rule]]
name = "modes"
calls = ["chmod", "fchmodat", "fchmodat2"]
ask = {{ how = "terminal", default = "ENOMEDIUM" }}
"""


def test_answers_are_a_containers_own_and_end_with_it(
    agent: Callable[..., RunningAgent], place: Path
) -> None:
    (place / "policies/default.toml").write_text(POLICY.format(place=place))
    listener = Listener(f"{place}/ask", lambda line: b"allow\n")
    running = agent("--answers", str(place / "answers"))
    made = place / "made"
    script = f"mkdir {made} && rmdir {made} && mkdir {made}; chmod 700 {made}; exec sleep 1000"
    for id in ("one", "two"):
        with hand_over(running.socket, id, "sh", "-c", script) as target:
            running.heard("ENOMEDIUM", 1 if id == "one" else 2)
            assert made.is_dir()
            (kept,) = (place / "answers/containers").iterdir()
            assert kept.name.startswith("oci-") and kept.name.endswith(f"-{id}.toml")
            assert f'path = ["{made}"]' in kept.read_text()
            target.kill()
            target.wait(30)
        made.rmdir()
        eventually(lambda kept=kept: not kept.exists())
    running.heard('rule "modes" asks at a terminal, which an agent has not')
    assert [each["container"] for each in listener.asked] == ["one", "two"]
    listener.close()

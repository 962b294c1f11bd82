"""The NRI plugin and the agent, for pods of a real containerd (PROCTOR_CONTAINERD): 2.2.1 or newer takes profiles of
plugins, 2.0 and 2.1 do not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proctor.agent.nri.messages import UNCONFINED
from tests.agent.cri import Kubelet, Refused, lacking, version
from tests.agent.engines import tree
from tests.agent.running import Command, RunningAgent, eventually

pytestmark = pytest.mark.root
TABLE = """
[[container]]
policy = "default"
namespace = "ci"
[[container]]
policy = "strict"
annotations = { "proctor.dev/policy" = "strict" }
"""
STRICT = """
default = "allow"
[[rule]]
name = "no rooms"
calls = ["mkdir", "mkdirat"]
deny = "EDQUOT"
report = true
"""


@pytest.fixture
def kubelet(place: Path, request: pytest.FixtureRequest) -> Iterator[Kubelet]:
    pytest.importorskip("grpc", reason="needs grpcio")
    lacks = lacking(*getattr(request, "param", ()))
    if lacks:
        pytest.skip(f"needs {lacks}")
    tree(place, owner=0)
    (place / "policies/containers.toml").write_text(TABLE)
    (place / "policies/strict.toml").write_text(STRICT)
    made = Kubelet(place)
    yield made
    made.close()


@pytest.fixture
def running(agent: Callable[..., RunningAgent], kubelet: Kubelet) -> RunningAgent:
    return agent()


@pytest.fixture
def plugin(place: Path, running: RunningAgent, kubelet: Kubelet) -> Iterator[Command]:
    """Sends the agent containers."""
    words = ("nri", "--policy-dir", f"{place}/policies", "--listener", running.socket)
    made = Command(*words, "--socket", kubelet.nri)
    made.heard("registered with containerd")
    yield made
    made.stop()


@pytest.mark.usefixtures("plugin")
def test_pods_are_served_by_policy(kubelet: Kubelet, running: RunningAgent) -> None:
    """By namespace, label and annotation; others are as they were; what the runtime's default refuses stays
    refused; and what makes a device has the right to."""
    builds = kubelet.container(kubelet.pod("build-1", "ci"))
    webs = [
        kubelet.container(kubelet.pod("web-1", labels={"proctor.dev/policy": "strict"})),
        kubelet.container(kubelet.pod("web-2"), annotations={"proctor.dev/policy": "strict"}),
    ]
    free = kubelet.container(kubelet.pod("web-3"))
    says = {builds: "Read-only file system", **dict.fromkeys(webs, "Disk quota exceeded")}
    for container, why in says.items():
        status, said = kubelet.execute(container, "/bin/mkdir", "/tmp/forbidden-1")
        assert (status, why in said) == (1, True), said
    assert kubelet.execute(free, "/bin/mkdir", "/tmp/forbidden-1") == (0, "")
    assert kubelet.execute(builds, "/bin/mknod", "/tmp/null", "c", "1", "3") == (0, "")
    for container in (builds, free):
        status, said = kubelet.execute(container, "/bin/mount", "-t", "tmpfs", "none", "/tmp")
        assert (status, "denied" in said) == (1, True), said
    rows = running.ask(do="ps")["containers"]
    assert {row["labels"]["pod"]: row["labels"]["policy"] for row in rows} == {
        "build-1": "default",
        "web-1": "strict",
        "web-2": "strict",
    }
    assert {row["labels"]["namespace"] for row in rows} == {"ci", "default"}


@pytest.mark.usefixtures("plugin")
def test_a_monitor_that_is_killed_loses_no_pod(kubelet: Kubelet, running: RunningAgent) -> None:
    container = kubelet.container(kubelet.pod("build-1", "ci"))
    for deaths in range(1, 4):
        os.kill(running.serving, signal.SIGKILL)
        running.heard("took over", deaths)
        status, said = kubelet.execute(container, "/bin/storm", "20")
        assert (status, said) == (0, "")


def test_what_cannot_be_supervised_is_not_created(
    kubelet: Kubelet, plugin: Command, running: RunningAgent, place: Path
) -> None:
    """Where there is no policy, no agent, or no plugin (``required_plugins``); the pod's events say so."""

    def refusal() -> str:
        try:
            kubelet.container(pod, UNCONFINED)
        except Refused as refused:
            return str(refused)
        return ""

    pod = kubelet.pod("build-1", "ci")
    assert refusal() == ""
    (place / "policies/default.toml").unlink()
    eventually(lambda: "is not in" in refusal())
    (place / "policies/default.toml").write_text(STRICT)
    eventually(lambda: refusal() == "")
    running.stop()
    assert "oci.sock" in refusal()
    plugin.process.kill()
    plugin.heard("(ended)")
    eventually(lambda: "required plugin" in refusal())


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("kubelet", [((2, 0), (2, 2))], indirect=True)
def test_a_runtime_that_would_leave_the_profile_out_creates_none(kubelet: Kubelet) -> None:
    """It skips what it does not know, and its containers would run unsupervised; those without a policy are made."""
    with pytest.raises(Refused) as refused:
        kubelet.container(kubelet.pod("build-1", "ci"))
    number = ".".join(map(str, version()))
    assert f"containerd {number}" in str(refused.value)
    assert "takes no profile from a plugin; 2.2 does" in str(refused.value)
    assert kubelet.execute(kubelet.container(kubelet.pod("web-1")), "/bin/true") == (0, "")

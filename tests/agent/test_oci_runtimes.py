"""Real runtimes bring real containers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import proctor
from tests.agent.conftest import MODES
from tests.agent.running import RunningAgent, eventually
from tests.agent.runtimes import Runtime

Start = Callable[..., RunningAgent]


def test_a_container_is_answered_by_policy(agent: Start, runtime: Runtime) -> None:
    """A device is made, a mode is not changed, directories are a matter of their path."""
    running = agent()
    script = (
        "mknod /tmp/null c 1 3 && echo hello >/tmp/null && ls -l /tmp/null; "
        "mknod /tmp/disk b 8 0; chmod 700 /tmp/null; mkdir /tmp/forbidden-1; mkdir /tmp/room && echo made"
    )
    done = runtime.run(runtime.bundle(running.socket, "/bin/sh", "-c", script), "web-1")
    assert "1,   3" in done.stdout and "made" in done.stdout, done.stdout
    assert "mknod: /tmp/disk: Operation not permitted" in done.stdout
    assert "chmod: /tmp/null: No medium found" in done.stdout
    assert "can't create directory '/tmp/forbidden-1': Read-only file system" in done.stdout
    assert "modes are as they are" in running.heard("ENOMEDIUM")


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_an_exec_is_another_listener_of_the_same_container(
    agent: Start, runtime: Runtime, no_new_privileges: bool
) -> None:
    running = agent()
    bundle = runtime.bundle(
        running.socket, "/bin/sleep", "1000", no_new_privileges=no_new_privileges
    )
    # what the first call opens: the process that others come of who look as callers
    before = running.descriptors + 4
    for name, execs in (("web-0", 1), ("web-1", 3)):
        assert runtime.run(bundle, name, "--detach").returncode == 0
        for _ in range(execs):
            done = runtime.do("exec", name, "/bin/mkdir", "/tmp/forbidden-2")
            assert "Read-only file system" in done.stdout + done.stderr
        assert runtime.do("kill", name, "KILL").returncode == 0
        running.heard(f'ended: container "{name}"')
        eventually(lambda: running.descriptors <= before)  # noqa: B023 - asked at once
        before = running.descriptors


@pytest.mark.parametrize("userns", [True, False])
def test_an_exec_in_a_container_that_was_not_seen_before(
    agent: Start, runtime: Runtime, userns: bool
) -> None:
    """Whose rights count is known of it, too, although crun does not say which process it is: those that it was
    given with its container, and none by a user namespace that it makes itself."""
    first = agent()
    bundle = runtime.bundle(first.socket, "/bin/sleep", "1000", userns=userns)
    assert runtime.run(bundle, "web-1", "--detach").returncode == 0
    first.stop()
    # Whoever sends it for crun ends at once: on a busy machine he always would before anybody looks.
    os.sched_setscheduler(agent().serving, os.SCHED_FIFO, os.sched_param(1))
    mknod = ("/bin/mknod", "/tmp/null", "c", "1", "3")
    words = mknod if userns else ("/bin/unshare", "-U", "-r", *mknod)
    done = runtime.do("exec", "web-1", *words)
    for _ in range(
        30 if userns else 5
    ):  # whoever sends it for crun may be gone before anybody looks
        if done.returncode == 0:
            break
        done = runtime.do("exec", "web-1", *words)
    assert (done.returncode == 0) == userns, done
    assert userns or "/tmp/null: Operation not permitted" in done.stderr, done


def test_what_is_created_is_served_once_it_starts(agent: Start, runtime: Runtime) -> None:
    running = agent()
    bundle = runtime.bundle(running.socket, "/bin/mkdir", "/tmp/forbidden-3")
    assert runtime.run(bundle, "web-1", verb="create").returncode == 0
    assert runtime.do("start", "web-1").returncode == 0
    running.heard("mkdir")
    running.heard('ended: container "web-1"')


@pytest.mark.parametrize("runtime", ["crun"], indirect=True)
@pytest.mark.parametrize("how", ["annotation", "environment"])
def test_crun_is_told_of_the_agent_without_a_listener_path(
    agent: Start, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """By ``run.oci.seccomp.receiver``, for whoever writes profiles that cannot have one; crun(1)."""
    running = agent()
    bundle = runtime.bundle(running.socket, "/bin/mkdir", "/tmp/forbidden-1")
    config = json.loads((bundle / "config.json").read_text())
    del config["linux"]["seccomp"]["listenerPath"]
    if how == "annotation":
        config["annotations"] = {"run.oci.seccomp.receiver": running.socket}
    else:
        monkeypatch.setenv("RUN_OCI_SECCOMP_RECEIVER", running.socket)
    (bundle / "config.json").write_text(json.dumps(config))
    assert "Read-only file system" in runtime.run(bundle, "received").stdout
    running.heard('ended: container "received"')


def test_two_containers_have_two_policies(agent: Start, runtime: Runtime, place: Path) -> None:
    """By metadata and by annotation; and what nothing fits is denied, with the reason."""
    policies = place / "policies"
    (policies / "strict.toml").write_text(
        '[[rule]]\nname = "rooms"\ncalls = ["mkdir", "mkdirat"]\ndeny = "EACCES"\nreport = true\n'
    )
    (policies / "full.toml").write_text(
        '[[rule]]\nname = "rooms"\ncalls = ["mkdir", "mkdirat"]\ndeny = "ENOSPC"\nreport = true\n'
    )
    (policies / "containers.toml").write_text(
        '[[container]]\npolicy = "strict"\nmetadata = "tenant-*"\n'
        '[[container]]\npolicy = "full"\nannotations = { "io.kubernetes.cri.sandbox-namespace" = "prod" }\n'
    )
    running = agent()
    annotated = {"io.kubernetes.cri.sandbox-namespace": "prod"}
    mkdir = ("/bin/mkdir", "/tmp/x")
    for id, options, said in (
        ("a", {"metadata": "tenant-7"}, "Permission denied"),
        ("b", {"annotations": annotated}, "No space left"),
        ("c", {}, "Operation not permitted"),
    ):
        done = runtime.run(runtime.bundle(running.socket, *mkdir, **options), id)
        assert said in done.stdout, (id, done.stdout)
    running.heard("no [[container]] of containers.toml fits it")


def test_a_policy_changes_under_a_running_container(
    agent: Start, runtime: Runtime, place: Path
) -> None:
    """What is no policy is refused, and the old one stays; the next one holds at once."""
    running = agent()
    bundle = runtime.bundle(running.socket, "/bin/sleep", "1000")
    assert runtime.run(bundle, "web-1", "--detach").returncode == 0

    def mkdir() -> str:
        done = runtime.do("exec", "web-1", "/bin/mkdir", "/tmp/forbidden-4")
        return done.stdout + done.stderr

    file = place / "policies/default.toml"
    assert "Read-only file system" in mkdir()
    file.write_text('[[rule]]\nname = "rooms"\ncalls = ["mkdirr"]\ndeny = "EACCES"\n')
    assert "what held before still holds" in running.heard("mkdirr")
    assert "Read-only file system" in mkdir()
    file.write_text('[[rule]]\nname = "rooms"\ncalls = ["mkdir", "mkdirat"]\ndeny = "EACCES"\n')
    running.heard("policies changed")
    assert "Permission denied" in mkdir()


def test_without_an_agent_the_runtime_says_so(runtime: Runtime, place: Path) -> None:
    done = runtime.run(runtime.bundle(str(place / "nobody.sock"), "/bin/true"), "web-1")
    assert done.returncode != 0
    assert "nobody.sock" in done.stdout and "no such file" in done.stdout.lower()


def test_a_supervisor_in_a_container_says_what_helps(
    agent: Start, runtime: Runtime, place: Path
) -> None:
    """Below the agent's listener there is no other, and nobody hands a container a way up."""
    running = agent()
    source = Path(proctor.__file__).parent.parent
    (place / "rootfs/tmp/modes.toml").write_text(MODES + "report = true\n")
    script = (
        'proctor() { %s -m proctor "$@"; };'
        "proctor run --quiet --policy /tmp/modes.toml true; echo $?; proctor doctor"
    )
    bundle = runtime.bundle(
        running.socket, "/bin/sh", "-c", script % sys.executable, userns=False
    )  # fmt: skip
    config = json.loads((bundle / "config.json").read_text())
    needed = {"/usr", "/lib", "/lib64", sys.prefix, sys.base_prefix, str(source)}
    config["mounts"] += [
        {"destination": each, "source": each, "type": "bind", "options": ["rbind", "ro"]}
        for each in sorted(needed)
        if Path(each).exists()
    ]
    config["process"]["env"] += [f"PYTHONPATH={source}"]
    (bundle / "config.json").write_text(json.dumps(config))
    said = runtime.run(bundle, "nested").stdout
    assert said.startswith("proctor: another seccomp listener already sits above"), said
    assert "\n125\n" in said, said
    for helps in (
        "policy that proctor agent has",
        "without SCMP_ACT_NOTIFY",
        "proctor run --agent",
    ):
        assert said.count(helps) == 2, said  # the command and doctor

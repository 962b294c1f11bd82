"""What deploy/kubernetes has: valid as Kubernetes says, and as proctor does."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.agent.facts import Facts
from proctor.agent.policies import Book
from proctor.cli.arguments import parse
from proctor.policy import load
from proctor.policy.profile import profile, write
from tests.agent.runtimes import Runtime, make_rootfs, missing, place_cgroup

PLACE = Path(__file__).parents[2] / "deploy" / "kubernetes"
yaml = pytest.importorskip("yaml")
validate = pytest.importorskip("kubernetes_validate").validate


def objects(file: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((PLACE / file).read_text()) if each]


@pytest.mark.parametrize("file", ["namespace.yaml", "daemonset.yaml", "example-pod.yaml"])
@pytest.mark.parametrize("version", ["1.33", "1.36"])
def test_objects_are_valid(file: str, version: str) -> None:
    for each in objects(file):
        validate(each, version, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("directory", ["kubernetes", "kubernetes-spo"])
def test_what_is_applied_is_valid(directory: str) -> None:
    """As kustomize puts it together; volumes are those that are asked for, sockets are where others look for them."""
    command = ["kubectl", "kustomize", str(PLACE.parent / directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made = {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}
    assert made.keys() == {"Namespace", "ServiceAccount", "DaemonSet", "ConfigMap"}
    for each in made.values():
        validate(each, "1.36", strict=True)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "proctor"
    spec = made["DaemonSet"]["spec"]["template"]["spec"]
    asked = {each["name"] for one in spec["containers"] for each in one["volumeMounts"]}
    assert asked == {each["name"] for each in spec["volumes"]}
    containers = {
        each["name"]: parse([*each["command"][1:], *each["args"]]) for each in spec["containers"]
    }
    if directory == "kubernetes":
        assert containers["nri"].listener in containers["agent"].oci
    else:
        assert containers.keys() == {"agent"}
        policy, socket = profile(load(PLACE / "policies/nodes.toml")), containers["agent"].oci[-1]
        made_for = json.loads(write(policy, "spo", name="nodes", listener=socket))
        assert made_for["kind"] == "SeccompProfile" and made_for["spec"]["listenerPath"] == socket


def test_every_file_is_used() -> None:
    made = objects("kustomization.yaml")[0]
    used = set(made["resources"]) | {
        each.partition("=")[2] for one in made["configMapGenerator"] for each in one["files"]
    }
    there = {str(each.relative_to(PLACE)) for each in PLACE.rglob("*") if each.is_file()}
    assert there - used == {"kustomization.yaml", "example-pod.yaml", "Dockerfile"}


def test_commands_are_ours() -> None:
    (pod,) = [each for each in objects("daemonset.yaml") if each["kind"] == "DaemonSet"]
    for container in pod["spec"]["template"]["spec"]["containers"]:
        program, verb = container["command"]
        assert program == "proctor"
        options = parse([verb, *container["args"]])
        assert options.policy_dir == "/etc/proctor/policies"


def test_the_example_pod_has_a_policy() -> None:
    book = Book(str(PLACE / "policies"))
    book.load()
    (pod,) = [each for each in objects("example-pod.yaml") if each["kind"] == "Pod"]
    known = Facts(door="nri", socket="", uid=0, id="x", annotations=pod["metadata"]["annotations"])
    found = book.resolve(known)
    assert found.policy is not None
    assert profile(found.policy).entries
    assert book.named(Facts(door="nri", socket="", uid=0, id="x")) is None


#: What an image of proctor's would have, from here.
OURS = {sys.prefix, sys.base_prefix, str(Path(proctor.__file__).parent.parent)}
PYTHON = "/usr/bin/python3"


def bound(source: str | Path, to: str | Path | None = None) -> dict[str, object]:
    return {
        "destination": str(to or source),
        "source": str(source),
        "type": "bind",
        "options": ["rbind"],
    }


def capabilities() -> list[str]:
    """All that we have, by runc's names: a privileged container's."""
    (line,) = [
        each for each in Path("/proc/self/status").read_text().splitlines() if "CapPrm" in each
    ]
    mine = int(line.split()[1], 16)
    names = Path("/usr/include/linux/capability.h").read_text().splitlines()
    found = [each.split() for each in names if each.startswith("#define CAP_")]
    return [
        word[1]
        for word in found
        if len(word) == 3 and word[2].isdigit() and mine >> int(word[2]) & 1
    ]


class Pods:
    """Containers that runc makes as kubelet has them made for the objects of the directory."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._run = place / "run"
        self._run.mkdir()
        make_rootfs(place)
        self._runtime = Runtime("runc", place)
        self._agent: subprocess.Popen[str] | None = None

    def agent(self) -> None:
        """The container ``agent`` of the DaemonSet, which serves when this returns."""
        (daemons,) = [each for each in objects("daemonset.yaml") if each["kind"] == "DaemonSet"]
        spec = daemons["spec"]["template"]["spec"]
        (container,) = [each for each in spec["containers"] if each["name"] == "agent"]
        assert container["securityContext"]["privileged"] and spec["hostPID"]
        words = [sys.executable, "-m", *container["command"], *container["args"]]
        bundle = self._runtime.bundle("", *words, userns=False, no_new_privileges=False)
        config = json.loads((bundle / "config.json").read_text())
        rootfs = self._place / "agent-rootfs"
        shutil.copytree(self._place / "rootfs", rootfs, symlinks=True)
        config["root"]["path"] = str(rootfs)
        config["process"]["env"] = [
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH=" + os.pathsep.join(OURS),
        ]
        for each in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][each] = capabilities()
        linux = config["linux"]
        del linux["seccomp"]
        linux["namespaces"] = [{"type": each} for each in ("mount", "network", "ipc", "uts")]
        linux["maskedPaths"] = linux["readonlyPaths"] = []
        linux["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
        volumes = {each["name"]: each.get("hostPath", {}).get("path") for each in spec["volumes"]}
        volumes |= {"run": self._run, "policies": PLACE / "policies"}
        asked = [(volumes[each["name"]], each["mountPath"]) for each in container["volumeMounts"]]
        mine = [bound(source, to) for source, to in asked if os.path.exists(source)]
        taken = {each["destination"] for each in mine}
        config["mounts"] = [
            each | {"options": [word for word in each.get("options", ()) if word != "ro"]}
            for each in config["mounts"]
            if not any(each["destination"].startswith(to) for to in taken)
        ]
        image = {"/usr", "/lib", "/lib64"} | OURS
        config["mounts"] += [bound(each) for each in sorted(image) if os.path.exists(each)] + mine
        for each in ("passwd", "group", "ld.so.cache"):
            shutil.copy(f"/etc/{each}", rootfs / "etc")
        (bundle / "config.json").write_text(json.dumps(config))
        place_cgroup(bundle, "agent")
        command = self._runtime.command("run", "-b", str(bundle), "agent")
        self._agent = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._agent.stdout is not None
        said = []
        for line in self._agent.stdout:
            said.append(line)
            if "proctor: ready" in line:
                return
        raise AssertionError(said)

    def example(self) -> str:
        """What the example's container says."""
        config_map, pod = objects("example-pod.yaml")
        example = self._place / "example"
        example.mkdir()
        for name, text in config_map["data"].items():
            (example / name).write_text(text)
        for name, text in config_map["binaryData"].items():
            (example / name).write_bytes(base64.b64decode(text))
        (self._place / "rootfs/mnt").mkdir()
        (container,) = pod["spec"]["containers"]
        program, script = container["command"]
        assert program == "python" and not pod["spec"]["hostUsers"]
        book = Book(str(PLACE / "policies"))
        book.load()
        facts = Facts(
            door="nri", socket="", uid=0, id="x", annotations=pod["metadata"]["annotations"]
        )
        policy = book.resolve(facts).policy
        assert policy is not None
        file = self._place / "profile.json"
        words = ["profile", policy.name, "--listener", f"{self._run}/oci.sock"]
        with file.open("w") as out:
            subprocess.run([sys.executable, "-m", "proctor", *words], stdout=out, check=True)
        bundle = self._runtime.bundle(
            f"{self._run}/oci.sock", PYTHON, script,
            seccomp=json.loads(file.read_text()), annotations=pod["metadata"]["annotations"],
        )  # fmt: skip
        config = json.loads((bundle / "config.json").read_text())
        wanted = [f"CAP_{each}" for each in container["securityContext"]["capabilities"]["add"]]
        for each in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][each] += wanted
        config["mounts"] += [
            bound(each) for each in ("/usr", "/lib", "/lib64") if os.path.exists(each)
        ]
        config["mounts"].append(bound(example, "/example"))
        (bundle / "config.json").write_text(json.dumps(config))
        return self._runtime.run(bundle, "example").stdout

    def close(self) -> None:
        """Nothing is left."""
        self._runtime.do("kill", "agent", "TERM")
        if self._agent is not None:
            try:
                self._agent.wait(30)
            finally:
                self._agent.kill()
                self._agent.wait()
                assert self._agent.stdout is not None
                self._agent.stdout.close()
        self._runtime.do("delete", "--force", "agent")
        self._runtime.clean()


@pytest.fixture
def pods(place: Path) -> Iterator[Pods]:
    lacks = missing("runc", "busybox", PYTHON)
    if lacks:
        pytest.skip(f"needs {lacks}")
    if (
        "squashfs" not in Path("/proc/filesystems").read_text()
        or not Path("/dev/loop-control").exists()
    ):
        pytest.skip("needs squashfs and loop devices")
    made = Pods(place)
    yield made
    made.close()


@pytest.mark.root
def test_the_example_is_served_by_the_agents_pod(pods: Pods) -> None:
    """An agent in a container of its own, with what its DaemonSet gives it and no more, makes the example's device and
    mounts its image."""
    pods.agent()
    said = pods.example()
    assert said.startswith("device: True\nmount: done\n/mnt/README\n"), said

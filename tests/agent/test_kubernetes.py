"""What deploy/kubernetes has: valid as Kubernetes says, and as proctor does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proctor.agent.facts import Facts
from proctor.agent.policies import Book
from proctor.cli.arguments import parse
from proctor.policy.profile import profile

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
    (pod,) = objects("example-pod.yaml")
    known = Facts(door="nri", socket="", uid=0, id="x", annotations=pod["metadata"]["annotations"])
    found = book.resolve(known)
    assert found.policy is not None
    assert profile(found.policy).entries
    assert book.named(Facts(door="nri", socket="", uid=0, id="x")) is None

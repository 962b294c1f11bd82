"""Kubernetes' side of a containerd with NRI: pods and containers made by the Container Runtime Interface.

Nothing but a kubelet's requests makes containerd ask NRI; ``ctr`` does not.  Names, types and numbers of
fields are those of Kubernetes' ``cri-api/pkg/apis/runtime/v1/api.proto``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proctor.agent.nri.messages import RUNTIME_DEFAULT, made
from tests.agent.runtimes import missing

#: Where a containerd is that has NRI, with its ctr and shim; $PATH otherwise.
DIRECTORY = os.environ.get("PROCTOR_CONTAINERD", "")
IMAGE = "localhost/busybox:1"
#: NamespaceMode.
_NODE = 2
_numbers = itertools.count()
_FIELDS = {
    "SecurityProfile": "profile_type:int32:1 localhost_ref:string:2",
    "PodSandboxMetadata": "name:string:1 uid:string:2 namespace:string:3",
    "NamespaceOption": "network:int32:1 pid:int32:2 ipc:int32:3",
    "LinuxSandboxSecurityContext": "namespace_options:NamespaceOption:1 seccomp:SecurityProfile:9",
    "LinuxPodSandboxConfig": "cgroup_parent:string:1 security_context:LinuxSandboxSecurityContext:2",
    "PodSandboxConfig": "metadata:PodSandboxMetadata:1 hostname:string:2 labels:map:6 annotations:map:7 "
    "linux:LinuxPodSandboxConfig:8",
    "RunPodSandboxRequest": "config:PodSandboxConfig:1",
    "RunPodSandboxResponse": "pod_sandbox_id:string:1",
    "ContainerMetadata": "name:string:1",
    "ImageSpec": "image:string:1",
    "Capability": "add_capabilities:string*:1",
    "LinuxContainerSecurityContext": "capabilities:Capability:1 namespace_options:NamespaceOption:3 "
    "seccomp:SecurityProfile:15",
    "LinuxContainerConfig": "security_context:LinuxContainerSecurityContext:2",
    "ContainerConfig": "metadata:ContainerMetadata:1 image:ImageSpec:2 command:string*:3 labels:map:9 "
    "annotations:map:10 linux:LinuxContainerConfig:15",
    "CreateContainerRequest": "pod_sandbox_id:string:1 config:ContainerConfig:2 "
    "sandbox_config:PodSandboxConfig:3",
    "CreateContainerResponse": "container_id:string:1",
    "StartContainerRequest": "container_id:string:1",
    "StartContainerResponse": "",
    "ExecSyncRequest": "container_id:string:1 cmd:string*:2 timeout:int64:3",
    "ExecSyncResponse": "stdout:bytes:1 stderr:bytes:2 exit_code:int32:3",
    "StopPodSandboxRequest": "pod_sandbox_id:string:1",
    "StopPodSandboxResponse": "",
    "RemovePodSandboxRequest": "pod_sandbox_id:string:1",
    "RemovePodSandboxResponse": "",
}
_MADE = made("runtime.v1", _FIELDS)
_CONFIG = """\
version = 3
root = "{place}/containerd"
state = "{place}/state"
[grpc]
address = "{place}/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{image}"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "native"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.nri.v1.nri"]
disable = false
socket_path = "{place}/nri.sock"
plugin_path = "{place}/plugins"
plugin_config_path = "{place}/plugins.conf"
[plugins."io.containerd.nri.v1.nri".default_validator]
enable = true
required_plugins = ["proctor"]
"""


def version() -> tuple[int, ...]:
    """Of the containerd that there is; () if none is."""
    found = shutil.which("containerd", path=DIRECTORY or None)
    if found is None:
        return ()
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r" v?(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, number.groups())) if number else ()


def lacking(since: tuple[int, ...] = (2, 2, 1), until: tuple[int, ...] = (9,)) -> str:
    """What has to be there; "" if it is.

    :param since: containerd's version: 2.2.1 is the first that tells plugins a container's profile.
    """
    lacks = missing("busybox", "runc")
    if not since <= version() < until:
        lacks += f"{', ' if lacks else ''}containerd {'.'.join(map(str, since))}"
        lacks += f" and not {'.'.join(map(str, until))}" if until != (9,) else ""
    return lacks


class Refused(Exception):
    """The runtime does not do what it is asked to; its words."""


class Kubelet:
    """A containerd of its own, and what a kubelet asks of it."""

    def __init__(self, place: Path) -> None:
        import grpc

        self.nri = f"{place}/nri.sock"
        self._grpc = grpc
        self._pods: list[str] = []
        (place / "plugins").mkdir()
        (place / "plugins.conf").mkdir()
        (place / "containerd.toml").write_text(_CONFIG.format(place=place, image=IMAGE))
        path = f"{DIRECTORY}:{os.environ['PATH']}" if DIRECTORY else os.environ["PATH"]
        self._log = place / "containerd.log"
        with open(self._log, "w") as log:
            self._daemon = subprocess.Popen(
                [shutil.which("containerd", path=path) or "", "--config", f"{place}/containerd.toml"],
                stdout=log, stderr=log, env={**os.environ, "PATH": path},
            )  # fmt: skip
        self._channel = grpc.insecure_channel(f"unix:{place}/containerd.sock")
        grpc.channel_ready_future(self._channel).result(timeout=60)
        ctr = [shutil.which("ctr", path=path) or "", "--address", f"{place}/containerd.sock"]
        ctr += ["--namespace", "k8s.io", "images", "import", "--local", "--snapshotter", "native"]
        subprocess.run([*ctr, _image(place)], stdout=subprocess.DEVNULL, check=True)

    def _do(self, method: str, **fields: Any) -> Any:
        call = self._channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")
        try:
            answer = call(_MADE[f"{method}Request"](**fields).SerializeToString(), timeout=60)
        except self._grpc.RpcError as problem:
            raise Refused(problem.details()) from None
        return _MADE[f"{method}Response"].FromString(answer)

    def pod(self, name: str, namespace: str = "default", labels: Mapping[str, str] = {}) -> Any:
        """One whose network is the host's; what containers are made in."""
        security = {"namespace_options": {"network": _NODE}}
        config = _MADE["PodSandboxConfig"](
            metadata={"name": name, "uid": name, "namespace": namespace},
            labels=labels,
            linux={"cgroup_parent": f"/proctor-{os.getpid()}", "security_context": security},
        )
        id = self._do("RunPodSandbox", config=config).pod_sandbox_id
        self._pods.append(id)
        return id, config

    def container(
        self, pod: Any, profile: int = RUNTIME_DEFAULT, annotations: Mapping[str, str] = {}
    ) -> str:
        """The id of one that sleeps, with the right to make devices.

        :raises Refused: it is not created.
        """
        sandbox, config = pod
        security = {
            "capabilities": {"add_capabilities": ["MKNOD"]},
            "namespace_options": {"network": _NODE},
            "seccomp": {"profile_type": profile},
        }
        wanted = _MADE["ContainerConfig"](
            metadata={"name": f"app-{next(_numbers)}"}, image={"image": IMAGE}, command=["/bin/sleep", "1000000"],
            annotations=annotations, linux={"security_context": security},
        )  # fmt: skip
        asked = {"pod_sandbox_id": sandbox, "config": wanted, "sandbox_config": config}
        made = str(self._do("CreateContainer", **asked).container_id)
        self._do("StartContainer", container_id=made)
        return made

    def execute(self, container: str, *words: str) -> tuple[int, str]:
        """Exit status and output of a command in it."""
        done = self._do("ExecSync", container_id=container, cmd=words, timeout=60)
        return done.exit_code, (done.stdout + done.stderr).decode()

    def close(self) -> None:
        """Nothing is left."""
        for pod in self._pods:
            self._do("StopPodSandbox", pod_sandbox_id=pod)
            self._do("RemovePodSandbox", pod_sandbox_id=pod)
        self._channel.close()
        self._daemon.terminate()
        self._daemon.wait(60)
        for cgroup in Path("/sys/fs/cgroup").glob(f"**/proctor-{os.getpid()}"):
            cgroup.rmdir()


def _image(place: Path) -> str:
    """An archive with the tree of busybox as an image of one layer (OCI image-layout)."""
    blobs = place / "image/blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

    def document(kind: str, **what: Any) -> dict[str, Any]:
        return blob(json.dumps(what).encode(), kind)

    with tarfile.open(place / "layer.tar", "w") as tar:
        tar.add(place / "rootfs", ".")
    layer = blob((place / "layer.tar").read_bytes(), "layer.v1.tar")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = document(
        "config.v1+json", architecture=machine, os="linux",
        config={"Cmd": ["/bin/sleep", "1000000"], "Env": ["PATH=/bin"]},
        rootfs={"type": "layers", "diff_ids": [layer["digest"]]},
    )  # fmt: skip
    manifest = document("manifest.v1+json", schemaVersion=2, config=config, layers=[layer])
    manifest["annotations"] = {"io.containerd.image.name": IMAGE}
    index = {"schemaVersion": 2, "manifests": [manifest]}
    (place / "image/index.json").write_text(json.dumps(index))
    (place / "image/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    with tarfile.open(place / "image.tar", "w") as tar:
        tar.add(place / "image", ".")
    return str(place / "image.tar")

"""What a runtime says of a container: enough to choose its policy, and to name it in logs.

Nothing here is believed beyond that.  Who makes a call, and with which rights, is the kernel's to say.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: Annotations that runtimes of Kubernetes put on containers, the first that is there wins:
#: containerd's (pkg/cri/annotations), CRI-O's (pkg/annotations), Kubernetes' own labels.
_ANNOTATIONS: Final = {
    "namespace": (
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.cri-o.Namespace",
        "io.kubernetes.pod.namespace",
    ),
    "pod": (
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.cri-o.KubeName",
        "io.kubernetes.pod.name",
    ),
    "container": (
        "io.kubernetes.cri.container-name",
        "io.kubernetes.cri-o.ContainerName",
        "io.kubernetes.container.name",
    ),
    "image": (
        "io.kubernetes.cri.image-name",
        "io.kubernetes.cri-o.ImageName",
        "io.kubernetes.cri-o.Image",
    ),
}
#: Most characters of one of these in logs, each line of which has them: an image's name has some 500 (distribution/reference,
#: regexp.go), all others have fewer.
_SHOWN: Final = 512


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one container, as it was first told."""

    #: ``"oci"``, ``"lxc"`` or ``"run"``.
    door: str
    #: Path of the socket by which it came.
    socket: str
    #: User of the runtime: what the kernel says of whoever connected.
    uid: int
    #: As the runtime names it; nobody else knows whether that is so.
    id: str
    #: ``listenerMetadata`` of OCI.
    metadata: str = ""
    #: ``lxc.seccomp.notify.cookie``.
    cookie: str = ""
    annotations: dict[str, str] = {}
    #: First process, as the runtime sees it; 0 if it does not say.
    pid: int = 0
    bundle: str = ""

    def annotated(self, what: str) -> str:
        """``namespace``, ``pod``, ``container`` or ``image`` of Kubernetes; "" if not known."""
        for name in _ANNOTATIONS[what] if self.annotations else ():
            found = self.annotations.get(name)
            if found:
                return found
        return ""

    def labels(self) -> dict[str, str]:
        """What logs and metrics say of it, besides its name."""
        found = {"door": self.door, "uid": str(self.uid)}
        for what in _ANNOTATIONS if self.annotations else ():
            value = self.annotated(what)
            if value:
                found[what] = value[:_SHOWN]
        return found

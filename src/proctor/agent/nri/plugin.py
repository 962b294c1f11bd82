"""The plugin: registers with the runtime, and answers it as containers are created.

A container that a policy is for (:mod:`proctor.agent.policies`) gets that policy's profile
(:mod:`proctor.policy.profile`) on top of the one that it would have had; all others stay as they are.
Runtimes wait two seconds for an answer by default (``pkg/api/timeouts.go`` of NRI), so that everything is
answered from memory.  What cannot be said of a container is an error, by which it is not created:
without its policy it would run unsupervised, and nobody would know.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.agent.facts import Facts
from proctor.agent.nri.messages import CREATE_CONTAINER, LOCALHOST, UNCONFINED, message, parsed
from proctor.agent.nri.ttrpc import PLUGIN, UNIMPLEMENTED, UNKNOWN, Frame, Wire
from proctor.errors import FilterError, PolicyError, ProctorError
from proctor.filter.profiles import oci
from proctor.policy.profile import profile, write
from proctor.words import printable

if TYPE_CHECKING:
    from proctor.agent.policies import Book
    from proctor.filter.profiles.profile import Profile

SERVICE: Final = "nri.pkg.api.v1alpha1"
#: Seconds after which the runtime gives a registration up.
_REGISTRATION: Final = 5.0
#: Seconds between two looks at the policies.
_LOOK: Final = 1.0
_KEPT: Final = 256
#: The first versions that take a profile: before that it is skipped as an unknown field (NRI 0.10).
_SINCE: Final = {"containerd": (2, 2), "cri-o": (1, 34)}


class Plugin:
    """Answers one runtime.

    :param book: which policy a container has.
    :param listener: socket of the agent, as the runtime's host names it.
    :param base: what is built on where a runtime does not say what its own default is.
    :param killable: whether the runtimes take WAIT_KILLABLE_RECV.
    :param tell: told of each container that gets a profile.
    """

    def __init__(
        self,
        book: Book,
        listener: str,
        *,
        base: Profile | None = None,
        killable: bool = False,
        tell: Callable[[str], object] = str,
    ) -> None:
        self._book = book
        self._listener = listener
        self._base = base
        self._killable = killable
        self._tell = tell
        self._made: dict[tuple[int, str, bytes], Any] = {}
        #: Why the runtime would leave out what it is answered; "" if it does not.
        self._lacks = ""

    def serve(self, sock: socket.socket, *, index: str = "90") -> None:
        """Register, and answer until the runtime closes the connection.

        :param sock: connected to the runtime; the giver's to close.
        :param index: two digits: plugins are asked in that order.
        :raises ProctorError: it refuses us, or does not speak this protocol.
        """
        try:
            self._serve(sock, index)
        except (BrokenPipeError, ConnectionResetError):
            raise ProctorError("the runtime closed the connection") from None

    def _serve(self, sock: socket.socket, index: str) -> None:
        wire = Wire(sock)
        sock.settimeout(_REGISTRATION)
        registration = message("RegisterPluginRequest", plugin_name="proctor", plugin_idx=index)
        wire.request(1, f"{SERVICE}.Runtime", "RegisterPlugin", registration)
        registered = False
        while True:
            try:
                frame = wire.receive()
            except TimeoutError:
                if not registered:
                    raise ProctorError("the runtime does not answer a registration") from None
                self._book.refresh()
                continue
            except ValueError as problem:
                raise ProctorError(f"the runtime does not speak NRI: {problem}") from None
            if frame is None:
                if not registered:
                    raise ProctorError("the runtime closed the connection at registration")
                return
            if frame.is_request:
                self._answer(wire, frame)
            elif frame.message.HasField("status") and frame.message.status.code:
                why = printable(frame.message.status.message)
                raise ProctorError(f"the runtime refuses the plugin: {why}")
            else:
                registered = True
                sock.settimeout(_LOOK)

    def _answer(self, wire: Wire, frame: Frame) -> None:
        asked = frame.message
        method = self._METHODS.get(asked.method)
        if frame.connection != PLUGIN or method is None or asked.service != f"{SERVICE}.Plugin":
            wire.fail(
                frame.stream, UNIMPLEMENTED, f"{asked.service}.{asked.method} is unknown here"
            )
            return
        kind, function = method
        try:
            answer = function(self, parsed(kind, asked.payload))
        except (ProctorError, ValueError) as problem:
            self._tell(f"{asked.method}: {problem}")
            wire.fail(frame.stream, UNKNOWN, f"proctor: {problem}")
        else:
            wire.respond(frame.stream, answer)

    # What is asked --------------------------------------------------------------------------

    def _configure(self, asked: Any) -> Any:
        name, version = asked.runtime_name, printable(asked.runtime_version)
        self._tell(f"registered with {printable(name)} {version}")
        since = _SINCE.get(name)
        number = re.match(r"v?(\d+)\.(\d+)", version)
        if since and number and tuple(map(int, number.groups())) < since:
            self._lacks = (
                f"{name} {version} takes no profile from a plugin; {since[0]}.{since[1]} does"
            )
            self._tell(self._lacks)
        return message("ConfigureResponse", events=1 << CREATE_CONTAINER - 1)

    def _synchronize(self, asked: Any) -> Any:
        """Containers that are there already have their filters; nothing is to be changed."""
        return message("SynchronizeResponse", more=asked.more)

    def _create(self, asked: Any) -> Any:
        pod, container = asked.pod, asked.container
        self._book.refresh()
        facts = _facts(pod, container, self._listener)
        name, found = self._book.named(facts), self._book.resolve(facts)
        if name is None:
            return message("CreateContainerResponse")
        if found.policy is None:
            raise PolicyError(found.why)
        if self._lacks:
            raise FilterError(self._lacks)
        linux = container.linux
        policy = linux.seccomp_policy if linux.HasField("seccomp_policy") else None
        kind = linux.seccomp_profile.profile_type
        if policy is None and kind == LOCALHOST:
            raise FilterError(
                f"the runtime does not say what {linux.seccomp_profile.localhost_ref} is, so it cannot be built "
                "on: have the container use RuntimeDefault"
            )
        given = policy.SerializeToString() if policy is not None else b""
        key = (self._book.generation, name, given or b"%d" % kind)
        made = self._made.get(key)
        if made is None:
            base = self._built_on(policy, kind)
            text = write(
                profile(found.policy, base),
                "nri",
                name="",
                listener=self._listener,
                metadata=name,
                killable=self._killable,
            )
            if len(self._made) >= _KEPT:
                self._made.clear()
            made = self._made[key] = _seccomp(json.loads(text))
        self._tell(
            f"{printable(facts.annotated('namespace'))}/{printable(pod.name)}/{printable(container.name)}: "
            f"{name}"
        )
        adjustment = message(
            "ContainerAdjustment",
            linux=message("LinuxContainerAdjustment", seccomp_policy=made),
            # a runtime keeps labels and most annotations to itself: by these the agent finds the same policy
            annotations={
                key: facts.annotations[key]
                for key in self._book.annotations & facts.annotations.keys()
            },
        )
        return message("CreateContainerResponse", adjust=adjustment)

    def _built_on(self, policy: Any, kind: int) -> Profile | None:
        if policy is not None:
            return _profile(policy)
        if kind == UNCONFINED:
            return None
        if self._base is None:
            raise FilterError(
                "the runtime does not say what its default profile is, and a policy's in its place would "
                "allow what that refuses: name it with --base"
            )
        return self._base

    def _shut_down(self, asked: Any) -> Any:
        return asked

    _METHODS: Final[dict[str, tuple[str, Callable[[Plugin, Any], Any]]]] = {
        "Configure": ("ConfigureRequest", _configure),
        "Synchronize": ("SynchronizeRequest", _synchronize),
        "CreateContainer": ("CreateContainerRequest", _create),
        "Shutdown": ("Empty", _shut_down),
    }


def _facts(pod: Any, container: Any, listener: str) -> Facts:
    """What is said of a container, as the agent will be told it: by the runtime's own annotations, by root."""
    annotations = {**pod.labels, **pod.annotations, **container.labels, **container.annotations}
    annotations |= {
        "io.kubernetes.cri.sandbox-namespace": pod.namespace,
        "io.kubernetes.cri.sandbox-name": pod.name,
        "io.kubernetes.cri.container-name": container.name,
    }
    if container.image.name:
        annotations["io.kubernetes.cri.image-name"] = container.image.name
    return Facts(door="oci", socket=listener, uid=0, id=container.id, annotations=annotations)


def _profile(policy: Any) -> Profile:
    """A profile of NRI as one of ours."""
    data: dict[str, Any] = {
        "defaultAction": policy.default_action,
        "architectures": list(policy.architectures),
        "flags": list(policy.flags),
        "syscalls": [
            {
                "names": list(call.names),
                "action": call.action,
                **({"errnoRet": call.errno_ret.value} if call.HasField("errno_ret") else {}),
                "args": [
                    {"index": a.index, "value": a.value, "valueTwo": a.value_two, "op": a.op}
                    for a in call.args
                ],
            }
            for call in policy.syscalls
        ],
    }
    if policy.HasField("default_errno"):
        data["defaultErrnoRet"] = policy.default_errno.value
    if policy.listener_path:
        raise FilterError(
            f"the container's profile has a listener already ({policy.listener_path}), and a container has one"
        )
    return oci.load(data)


def _seccomp(data: dict[str, Any]) -> Any:
    """A profile of ours as one of NRI."""
    calls = [
        message(
            "LinuxSyscall",
            names=call["names"],
            action=call["action"],
            errno_ret=call.get("errno_ret"),
            args=[message("LinuxSeccompArg", **arg) for arg in call.get("args", ())],
        )
        for call in data.pop("syscalls")
    ]
    return message("LinuxSeccomp", **data, syscalls=calls)

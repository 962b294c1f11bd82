"""The NRI plugin against a runtime that is written down from NRI's and ttRPC's documentation."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proctor.agent.nri.messages import LOCALHOST, UNCONFINED, message, parsed
from proctor.agent.nri.plugin import Plugin
from proctor.agent.policies import Book
from proctor.errors import ProctorError
from proctor.filter.profiles import oci

pytestmark = pytest.mark.timeout(60)
POLICY = '[[rule]]\nname = "nodes"\ncalls = ["mknod", "mknodat"]\nwhen = { type = "char" }\nperform = true\n'
TABLE = '[[container]]\npolicy = "nodes"\nnamespace = "ci"\n[[container]]\npolicy = "nodes"\nannotations = { "proctor.dev/policy" = "nodes" }\n'
BASE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [
        {"names": ["read", "mknod"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30},
    ],
}


class Runtime:
    """The other side."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(20)
        self.streams = {1: b"", 2: b""}
        self.next = 1

    def send(self, connection: int, stream: int, kind: int, data: bytes, cut: int = 0) -> None:
        frame = struct.pack(">IIBB", len(data), stream, kind, 0) + data
        pieces = [frame[:cut], frame[cut:]] if cut else [frame]
        for piece in pieces:
            self.sock.sendall(struct.pack(">II", connection, len(piece)) + piece)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def read(self, connection: int, size: int) -> bytes:
        """So many bytes, as Go's bufio.Reader on NRI's multiplexed connections has them: it reads when its buffer is
        empty, and a piece that is longer than where it reads to is an error."""
        data = b""
        while len(data) < size:
            if not self.streams[connection]:
                number, length = struct.unpack(">II", self.exactly(8))
                assert number != connection or length <= max(4096, size - len(data))
                self.streams[number] += self.exactly(length)
            waiting = self.streams[connection]
            self.streams[connection] = waiting[size - len(data) :]
            data += waiting[: size - len(data)]
        return data

    def receive(self, connection: int) -> tuple[int, int, bytes]:
        length, stream, kind, _ = struct.unpack(">IIBB", self.read(connection, 10))
        return stream, kind, self.read(connection, length)

    def register(self, refuse: str = "") -> Any:
        stream, kind, data = self.receive(2)
        assert kind == 1
        asked = parsed("Request", data)
        assert (asked.service, asked.method) == ("nri.pkg.api.v1alpha1.Runtime", "RegisterPlugin")
        answer = message("Response", payload=b"")
        if refuse:
            answer = message("Response", status=message("Status", code=5, message=refuse))
        self.send(2, stream, 2, answer.SerializeToString())
        return parsed("RegisterPluginRequest", asked.payload)

    def ask(self, method: str, request: Any, answer: str = "", **how: Any) -> Any:
        """The answer; where none is expected the error's (code, text)."""
        service = how.pop("service", "nri.pkg.api.v1alpha1.Plugin")
        asked = message(
            "Request", service=service, method=method, payload=request.SerializeToString()
        )
        self.next += 2
        self.send(1, self.next, 1, asked.SerializeToString(), **how)
        stream, kind, data = self.receive(1)
        assert (stream, kind) == (self.next, 2)
        said = parsed("Response", data)
        if answer:
            assert not said.HasField("status"), said
            return parsed(answer, said.payload)
        return said.status.code, said.status.message

    def create(
        self, namespace: str = "ci", answer: str = "CreateContainerResponse", **linux: Any
    ) -> Any:
        pod = message("PodSandbox", id="p", name="build-1", namespace=namespace)
        annotations = linux.pop("annotations", {})
        how = linux.pop("how", {})
        container = message(
            "Container",
            id="c",
            name="app",
            annotations=annotations,
            linux=message("LinuxContainer", **linux),
        )
        asked = message("CreateContainerRequest", pod=pod, container=container)
        return self.ask("CreateContainer", asked, answer, **how)


class Served:
    """A plugin on its own thread, and the runtime that it serves."""

    def __init__(self, directory: Path, **options: Any) -> None:
        ours, theirs = socket.socketpair()
        self.told: list[str] = []
        self.problem: ProctorError | None = None
        book = Book(str(directory), self.told.append)
        book.load()
        plugin = Plugin(book, "/run/agent.sock", tell=self.told.append, **options)

        def serve() -> None:
            with theirs:
                try:
                    plugin.serve(theirs)
                except ProctorError as problem:
                    self.problem = problem

        self.thread = threading.Thread(target=serve)
        self.thread.start()
        self.runtime = Runtime(ours)

    def close(self) -> None:
        self.runtime.sock.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "nodes.toml").write_text(POLICY)
    (tmp_path / "containers.toml").write_text(TABLE)
    return tmp_path


@pytest.fixture
def served(directory: Path) -> Iterator[Served]:
    made = Served(directory, base=oci.load(BASE, arch="x86_64"))
    yield made
    made.close()


def calls(answer: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for call in answer.adjust.linux.seccomp_policy.syscalls:
        for name in call.names:
            found.setdefault(name, []).append(call)
    return found


def test_it_registers_and_asks_for_creations(served: Served) -> None:
    said = served.runtime.register()
    assert (said.plugin_name, said.plugin_idx) == ("proctor", "90")
    asked = message("ConfigureRequest", runtime_name="containerd", runtime_version="2.2.0")
    assert served.runtime.ask("Configure", asked, "ConfigureResponse").events == 8
    assert served.told == ["registered with containerd 2.2.0"]
    asked = message("SynchronizeRequest", more=True)
    assert served.runtime.ask("Synchronize", asked, "SynchronizeResponse").more


def test_a_container_with_a_policy_gets_its_profile(served: Served) -> None:
    served.runtime.register()
    answer = served.runtime.create(how={"cut": 7})
    policy = answer.adjust.linux.seccomp_policy
    assert (policy.listener_path, policy.listener_metadata) == ("/run/agent.sock", "nodes")
    assert (policy.default_action, policy.default_errno.value) == ("SCMP_ACT_ERRNO", 38)
    found = calls(answer)
    assert [each.action for each in found["mknod"]] == ["SCMP_ACT_NOTIFY"]
    assert [arg.value_two for each in found["mknodat"] for arg in each.args] == [0o020000]
    assert [each.action for each in found["read"]] == ["SCMP_ACT_ALLOW"]
    assert found["chmod"][0].errno_ret.value == 30
    assert served.told == ["ci/build-1/app: nodes"]


def test_a_long_answer_is_taken_by_runtimes(served: Served) -> None:
    """Profiles of runtimes are some 10 KiB; others are longer than any buffer."""
    served.runtime.register()
    for count in (300, 5000):
        deny = message("LinuxSyscall", names=["reboot"] * count, action="SCMP_ACT_ERRNO")
        theirs = message("LinuxSeccomp", default_action="SCMP_ACT_ALLOW", syscalls=[deny])
        args = [message("LinuxSeccompArg", index=0, value=n, op="SCMP_CMP_EQ") for n in range(1)]
        theirs.syscalls.append(
            message("LinuxSyscall", names=["read"], action="SCMP_ACT_ERRNO", args=args)
        )
        assert "reboot" in calls(served.runtime.create(seccomp_policy=theirs))


def test_numbers_of_fields_are_those_of_nri() -> None:
    """A message is encoded by hand as pkg/api/api.proto (v0.10) has it: what is elsewhere is skipped unseen."""

    def field(number: int, data: bytes) -> bytes:
        key = number << 3 | 2
        return (
            bytes([key] if key < 128 else [key & 127 | 128, key >> 7]) + bytes([len(data)]) + data
        )

    policy = message("LinuxSeccomp", listener_path="/a")
    adjust = message(
        "ContainerAdjustment",
        annotations={"k": "v"},
        linux=message("LinuxContainerAdjustment", seccomp_policy=policy),
    )
    by_hand = field(2, field(1, b"k") + field(2, b"v")) + field(6, field(6, field(5, b"/a")))
    answer = message("CreateContainerResponse", adjust=adjust)
    assert answer.SerializeToString() == field(1, by_hand)
    linux = field(7, b"\x08\x02" + field(2, b"x")) + field(8, field(1, b"ALLOW"))
    container = field(1, b"c") + field(3, b"app") + field(11, linux) + field(22, field(1, b"box"))
    pod = field(2, b"p") + field(4, b"ns") + field(5, field(1, b"l") + field(2, b"w"))
    asked = parsed("CreateContainerRequest", field(1, pod) + field(2, container))
    assert (asked.pod.name, asked.pod.namespace, dict(asked.pod.labels)) == ("p", "ns", {"l": "w"})
    assert (asked.container.name, asked.container.image.name) == ("app", "box")
    assert asked.container.linux.seccomp_profile.profile_type == LOCALHOST
    assert asked.container.linux.seccomp_policy.default_action == "ALLOW"


@pytest.mark.parametrize(
    ("name", "version", "takes"),
    [
        ("containerd", "v1.7.24", False),
        ("containerd", "2.1.4", False),
        ("containerd", "v2.2.0-rc.1", True),
        ("cri-o", "1.33.5", False),
        ("cri-o", "1.34.0", True),
        ("another", "0.1", True),
    ],
)
def test_a_runtime_that_would_leave_the_profile_out(
    served: Served, name: str, version: str, takes: bool
) -> None:
    """Its containers with a policy are not created; others are."""
    served.runtime.register()
    asked = message("ConfigureRequest", runtime_name=name, runtime_version=version)
    served.runtime.ask("Configure", asked, "ConfigureResponse")
    assert not served.runtime.create("prod").HasField("adjust")
    if takes:
        assert calls(served.runtime.create())
    else:
        code, why = served.runtime.create(answer="")
        assert (code, f"{name} {version} takes no profile" in why) == (2, True)


def test_the_agent_is_told_by_what_a_policy_was_chosen(served: Served) -> None:
    """Labels and annotations of Kubernetes stay with the runtime otherwise."""
    served.runtime.register()
    wanted = {"proctor.dev/policy": "nodes"}
    answer = served.runtime.create("prod", annotations={**wanted, "other": "secret"})
    assert dict(answer.adjust.annotations) == wanted


def test_others_stay_as_they_are(served: Served) -> None:
    served.runtime.register()
    assert not served.runtime.create("prod").HasField("adjust")
    assert calls(served.runtime.create("prod", annotations={"proctor.dev/policy": "nodes"}))


def test_what_the_runtime_says_is_built_on(served: Served) -> None:
    served.runtime.register()
    theirs = message(
        "LinuxSeccomp",
        default_action="SCMP_ACT_ALLOW",
        architectures=["SCMP_ARCH_X86_64"],
        syscalls=[message("LinuxSyscall", names=["reboot"], action="SCMP_ACT_ERRNO")],
    )
    answer = served.runtime.create(seccomp_policy=theirs)
    assert answer.adjust.linux.seccomp_policy.default_action == "SCMP_ACT_ALLOW"
    assert "reboot" in calls(answer)
    assert "chmod" not in calls(answer)
    unconfined = message("SecurityProfile", profile_type=UNCONFINED)
    answer = served.runtime.create(seccomp_profile=unconfined)
    assert answer.adjust.linux.seccomp_policy.default_action == "SCMP_ACT_ALLOW"
    assert "reboot" not in calls(answer)


def test_what_cannot_be_said_is_not_created(served: Served, directory: Path) -> None:
    served.runtime.register()
    theirs = message("LinuxSeccomp", default_action="SCMP_ACT_ALLOW", listener_path="/other")
    code, why = served.runtime.create(answer="", seccomp_policy=theirs)
    assert (code, "has a listener already" in why) == (2, True)
    code, why = served.runtime.create(answer="", seccomp_policy=message("LinuxSeccomp"))
    assert code == 2
    local = message("SecurityProfile", profile_type=LOCALHOST, localhost_ref="mine.json")
    code, why = served.runtime.create(answer="", seccomp_profile=local)
    assert (code, "mine.json" in why) == (2, True)
    assert calls(served.runtime.create())


def test_no_default_profile_is_taken_away(directory: Path) -> None:
    made = Served(directory)
    try:
        made.runtime.register()
        code, why = made.runtime.create(answer="")
        assert (code, "--base" in why) == (2, True)
    finally:
        made.close()


def test_policies_change(served: Served, directory: Path) -> None:
    served.runtime.register()
    assert "mkdir" not in calls(served.runtime.create())
    new = directory / "new"
    new.write_text(POLICY + '[[rule]]\nname = "m"\ncalls = ["mkdir"]\ndeny = 30\nreport = true\n')
    os.rename(new, directory / "nodes.toml")
    served.runtime.create()  # seen once
    assert "mkdir" in calls(served.runtime.create())


def test_what_is_unknown(served: Served) -> None:
    served.runtime.register()
    empty = message("Empty")
    assert served.runtime.ask("StopContainer", empty)[0] == 12
    assert served.runtime.ask("CreateContainer", empty, service="other.Plugin")[0] == 12
    junk = message("Request", service="s")
    assert served.runtime.ask("Configure", junk)[0] in (0, 2)  # a message of some other kind
    served.runtime.send(3, 1, 1, b"for nobody")
    served.runtime.ask("Shutdown", empty, "Empty")


@pytest.mark.parametrize(
    "junk",
    [
        struct.pack(">II", 1, 5 << 20),
        struct.pack(">II", 1, 10) + struct.pack(">IIBB", 5 << 20, 1, 1, 0),
        struct.pack(">II", 1, 10) + struct.pack(">IIBB", 0, 1, 9, 0),
        struct.pack(">II", 1, 12) + struct.pack(">IIBB", 2, 1, 1, 0) + b"\xff\xff",
    ],
)
def test_who_does_not_speak_the_protocol(served: Served, junk: bytes) -> None:
    served.runtime.register()
    served.runtime.sock.sendall(junk)
    served.thread.join(20)
    assert isinstance(served.problem, ProctorError)


def test_refused_and_left(directory: Path) -> None:
    made = Served(directory)
    made.runtime.register(refuse="no such plugins here")
    made.close()
    assert made.problem is not None
    assert "no such plugins here" in str(made.problem)
    made = Served(directory)
    made.close()
    assert "closed the connection" in str(made.problem)


def test_the_command(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("nri") / "nri.sock"
    argv = [
        sys.executable, "-m", "proctor", "nri", "--policy-dir", str(directory), "--listener", "/run/agent.sock",
        "--socket", str(path), "--index", "07",
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
            listening.settimeout(20)
            runtime = Runtime(listening.accept()[0])
            assert runtime.register().plugin_idx == "07"
            unconfined = message("SecurityProfile", profile_type=UNCONFINED)
            assert calls(runtime.create(seccomp_profile=unconfined))
            runtime.sock.close()
            assert process.wait(20) == 1
    profile = [
        sys.executable,
        "-m",
        "proctor",
        "profile",
        str(directory / "nodes.toml"),
        "--format",
        "nri",
    ]
    profile += ["--listener", "/run/agent.sock", "--metadata", "nodes"]
    written = json.loads(subprocess.run(profile, capture_output=True, check=True).stdout)
    assert written["listener_path"] == "/run/agent.sock"

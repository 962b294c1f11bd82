"""The OCI door: what it takes, and what hostile clients cannot do to others."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proctor.agent import dropping
from proctor.agent.doors import oci
from proctor.agent.doors.nesting import Nesting
from proctor.agent.sockets import Peer, peer_of
from proctor.errors import ProctorError
from proctor.kernel import scm
from tests.agent.clients import connect, filtered, gone, hand_over, state
from tests.agent.running import RunningAgent, eventually
from tests.support.lingering import lingering

Start = Callable[..., RunningAgent]

RUNC = (
    '{"ociVersion":"1.0.2-dev","fds":["seccompFd"],"pid":10122,"metadata":"my \\"x\\" é","state":{"ociVersion":'
    '"1.0.2-dev","id":"c1","status":"creating","pid":10122,"bundle":"/srv/b","annotations":{"a/k":"v"}}}'
)
CRUN_EXEC = json.dumps(
    {
        "ociVersion": "0.2.0",
        "fds": ["seccompFd"],
        "pid": 0,
        "state": {"ociVersion": "0.2.0", "id": "k2", "status": "running", "pid": 0, "bundle": "."},
    },
    indent=4,
)


#: Compact, with ``metadata`` always there; of an exec both pids are its own
#: (crates/libcontainer/src/process/seccomp_listener.rs and init/process.rs of youki).
YOUKI_EXEC = (
    '{"ociVersion":"v1.0.2","fds":["seccompFd"],"pid":4242,"metadata":"","state":{"ociVersion":"v1.0.2","id":"y1",'
    '"status":"running","pid":4242,"bundle":"/srv/y","annotations":{}}}'
)


@pytest.mark.parametrize("text", [RUNC, CRUN_EXEC + "\n", YOUKI_EXEC])
def test_what_runtimes_write_is_read_in_any_pieces(text: str) -> None:
    data = text.encode().rstrip()
    assert oci.parse(data).fds == ["seccompFd"]
    for cut in range(1, len(data)):
        nesting = Nesting()
        assert [nesting.ends_with(data[:cut]), nesting.ends_with(data[cut:])] == [False, True]


@pytest.mark.parametrize(
    "text",
    [r'{"a": "\\\"}\\", "[\\\\": [[], {"\"": "{"}]}', ' \n [{"}": "\\\\"}]', r'"a \"string\" {"'],
)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_where_a_text_ends_is_found_in_any_pieces(text: str, size: int) -> None:
    data = text.encode()
    json.loads(data)
    nesting = Nesting()
    found = [nesting.ends_with(data[at : at + size]) for at in range(0, len(data), size)]
    assert found == [False] * (len(found) - 1) + [True]


def test_what_is_no_text_ends_where_that_is_seen() -> None:
    assert [Nesting().ends_with(each) for each in (b"x", b"}", b"  ", b"", b"{" * 1000)] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_a_state_may_come_in_a_thousand_pieces() -> None:
    """Each of which is read before the next is there."""
    loop = asyncio.new_event_loop()
    told: list[str] = []
    names: list[str] = []

    def admit(facts: Any, listener: int, **more: Any) -> None:
        names.append(facts.id)
        os.close(listener)

    containers: Any = SimpleNamespace(admit=admit, forget=told.append)
    door = oci.OciDoor(loop, "/x", containers, told.append)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    data = state("slow", state={"id": "slow", "annotations": {"a": "{}" * 50_000}})
    with filtered("true") as target:
        listener = target.take_listener()
        scm.send(ours, data[:1], [listener])
        os.close(listener)
        door.connected(theirs, peer_of(theirs))
        arriving = next(iter(door._connections))
        room = select.poll()
        room.register(ours, select.POLLOUT)
        for at in range(1, len(data), 100):
            while arriving.length < at or not room.poll(0):
                loop._run_once()  # type: ignore[attr-defined]
            ours.sendall(data[at : at + 100])
        while not (names or told):
            loop._run_once()  # type: ignore[attr-defined]
    assert (names, told) == (["slow"], [])
    ours.close()
    door.close()
    loop.close()


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "{}", '{"state": {}}', '{"state": {"id": ""}}', '{"state": {"id": 7}}',
        '{"state": {"id": "%s"}}' % ("x" * 2000), '{"state": {"id": "a"}, "fds": "seccompFd"}',
        '{"state": {"id": "a"}} {"state": {"id": "b"}}', '{"state": {"id": "a", "annotations": {"a": 1}}}',
        '{"state": {"id": "\\ud800"}}', '{"state": {"id": "a", "pid": 99999999999}}', '{"pid": -7, "state": {"id": "a"}}',
        "[" * 100_000, '{"state": ' * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_state_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ProctorError, match=r"."):
        oci.parse(text.encode())


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(ProctorError):
        oci.parse(b'{"state": {"id": "\xff"}}')


def test_missing_parts_are_borne() -> None:
    found = oci.parse(b'{"state": {"id": "a", "annotations": null}, "metadata": null, "more": [1]}')
    assert found is not None and found.pid == 0 and not found.state.annotations


@pytest.mark.parametrize(
    ("names", "count"),
    [([], 1), (["other"], 1), (["seccompFd", "seccompFd"], 2), (["a", "seccompFd"], 1), (None, 0)],
)
def test_the_listener_goes_by_its_name(names: list[str] | None, count: int) -> None:
    found = oci.ContainerProcessState(oci.State("a"), names)
    with pytest.raises(ProctorError):
        oci.take_listener(found, tuple(range(count)))


def test_what_is_named_the_listener_must_be_one() -> None:
    found = oci.ContainerProcessState(oci.State("a"), ["other", "seccompFd"])
    with pytest.raises(ProctorError, match="is no listener"):
        oci.take_listener(found, (7, "what came is no listener"))
    assert oci.take_listener(found, ("what came is no listener", 7)) == 7


def served(running: RunningAgent, id: str) -> None:
    """A container is brought, answered, and over."""
    with hand_over(running.socket, id, "mkdir", "/tmp/forbidden-x") as target:
        assert target.wait(30) == 1
    running.heard(f'ended: container "{id}"')


def test_any_size_up_to_the_limit_in_any_pieces(agent: Start) -> None:
    running = agent()
    annotations = {f"key-{n}": "x" * 1000 for n in range(1000)}
    data = state("big", state={"id": "big", "annotations": annotations})
    with filtered("mkdir", "/tmp/forbidden-x") as target, connect(running.socket) as sock:
        listener = target.take_listener()
        scm.send(sock, data[:1], [listener])
        os.close(listener)
        sock.sendall(data[1:])
        assert target.wait(30) == 1
        assert gone(sock)  # it does not wait for us to close it, as old runcs never do


def test_descriptors_may_be_many_and_in_any_order(agent: Start) -> None:
    running = agent()
    before = running.descriptors
    with filtered("mkdir", "/tmp/forbidden-x") as target, connect(running.socket) as sock:
        listener = target.take_listener()
        other = os.open("/dev/null", os.O_RDONLY)
        scm.send(
            sock, state("many", fds=["a", "b", "seccompFd", "c"]), [other] * 2 + [listener, other]
        )
        os.close(listener)
        os.close(other)
        assert target.wait(30) == 1
    running.heard('ended: container "many"')
    eventually(lambda: running.descriptors <= before + 1)


def test_hostile_clients_do_not_hold_up_a_good_one(agent: Start) -> None:
    """1,000 are silent, others send too much, half of it, nonsense, or descriptors of other kinds."""
    running = agent()
    served(running, "first")  # what the first call opens for all that come
    before = running.descriptors
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    idle = [connect(running.socket) for _ in range(1000)]
    slow = [connect(running.socket) for _ in range(20)]
    null = os.open("/dev/null", os.O_RDONLY)
    for each in slow:
        scm.send(each, state("slow")[:-10], [null])
    served(running, "good-1")

    def refused(data: bytes, fds: list[int] | None = None, *, shut: bool = True) -> None:
        with connect(running.socket) as sock:
            try:
                scm.send(sock, data[:1], fds or [])
                sock.sendall(data[1:])
                if shut:
                    sock.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                return
            assert gone(sock)

    refused(state("x")[:-1], [null])  # truncated
    refused(b"x" * 100, [null])
    refused(b'{"state": {"id": "%s' % (b"x" * (oci.LONGEST + 10)), [null], shut=False)
    refused(state("x"), [null])  # no listener
    refused(state("x"))  # no descriptor at all
    refused(state("x", fds=[]), [null])
    refused(state("x") * 2, [null])
    refused(b"{}" * 1000, [null])
    with connect(running.socket):
        pass  # as crun's where a start fails: no mistake
    for each in slow[:10]:  # one more byte each, and never the end
        each.send(b" ")
    served(running, "good-2")
    for each in (*idle, *slow):
        each.close()
    os.close(null)
    served(running, "good-3")
    eventually(lambda: running.descriptors <= before + 1)
    said = [line for line in running.said if running.socket in line]
    assert any("is no listener" in line for line in said)
    assert any("Input data was truncated" in line for line in said)
    assert any("longer than" in line for line in said)


def door_alone(loop: asyncio.AbstractEventLoop, told: list[str], most: int) -> oci.OciDoor:
    """The door itself; nobody who comes by it gets anything."""

    containers: Any = SimpleNamespace()
    return oci.OciDoor(loop, "/x", containers, told.append, most=most)


def test_only_so_many_connections_of_one_user() -> None:
    """The door itself, with a small limit; who is refused is told, and who leaves makes room."""
    loop = asyncio.new_event_loop()
    told: list[str] = []
    door = door_alone(loop, told, 2)
    ours, theirs = zip(*[socket.socketpair() for _ in range(4)], strict=True)
    for each in theirs[:3]:
        each.setblocking(False)
        door.connected(each, Peer(1, 7, 7))
    assert gone(ours[2]) and "user 7 (process 1): this user has 2 connections" in told[0]
    theirs[3].setblocking(False)
    door.connected(theirs[3], Peer(1, 8, 8))  # another user has places of his own
    assert len(told) == 1
    ours[0].close()
    loop.run_until_complete(asyncio.sleep(0.01))
    again, other = socket.socketpair()
    other.setblocking(False)
    door.connected(other, Peer(1, 7, 7))
    assert len(told) == 1
    door.close()
    loop.close()
    for each in (*ours, again, *theirs):
        each.close()


@pytest.mark.parametrize("taken", [True, False], ids=["received", "never received"])
def test_what_cannot_be_closed_holds_up_only_its_user(taken: bool) -> None:
    """A socket that lingers, as a file whose FUSE server answers no flush, makes close(2) wait."""
    loop = asyncio.new_event_loop()
    told: list[str] = []
    door = door_alone(loop, told, 8)
    sent, reader = lingering()
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    theirs.setblocking(False)
    user = 70000 + taken
    if taken:
        scm.send(ours, b"nonsense", [sent.fileno()])
        ours.shutdown(socket.SHUT_WR)
        sent.close()
        door.connected(theirs, Peer(1, user, user))
        while not told:
            loop._run_once()  # type: ignore[attr-defined]
    else:  # and then its connection's close is that of what is in it
        door.connected(theirs, Peer(1, user, user))
        scm.send(ours, b"x", [sent.fileno()])
        sent.close()
    door.close()
    assert dropping.dropped.left(user) > 0  # somebody else waits, not we
    while reader.recv(1 << 20):
        pass
    eventually(lambda: not dropping.dropped.left(user))
    for each in (ours, theirs, reader):
        each.close()
    loop.close()


def test_descriptors_that_wait_for_the_rest_count_as_connections() -> None:
    """253 in each of 4,096 would be all that the agent can have."""
    loop = asyncio.new_event_loop()
    told: list[str] = []
    door = door_alone(loop, told, 8)
    pairs = [socket.socketpair() for _ in range(2)]
    null = os.open(os.devnull, os.O_RDONLY)
    for ours, theirs in pairs:
        scm.send(ours, b"{", [null] * 4)
        theirs.setblocking(False)
        connection = oci._Arriving(door, theirs, Peer(1, 70003, 70003), "")
        assert door.take(connection)
        connection.read()
    assert len(told) == 1 and "8 connections and descriptors" in told[0]
    assert gone(pairs[1][0])
    door.close()
    assert not door._by_user
    for each in (*pairs[0], *pairs[1]):
        each.close()
    os.close(null)
    loop.close()


def test_what_is_no_listener_is_closed_before_the_rest_comes() -> None:
    """It would be open while programs are started, whose exec waits for whoever serves it."""
    loop = asyncio.new_event_loop()
    told: list[str] = []
    door = door_alone(loop, told, 8)
    ours, theirs = socket.socketpair()
    null = os.open(os.devnull, os.O_RDONLY)
    data = state("x", fds=["more", "seccompFd"])
    scm.send(ours, data[:-1], [null, null])
    theirs.setblocking(False)
    connection = oci._Arriving(door, theirs, Peer(1, 0, 0), "")
    assert door.take(connection)
    gc.collect()  # what earlier tests left open is not ours to count
    before = len(os.listdir("/proc/self/fd"))
    connection.read()
    assert len(os.listdir("/proc/self/fd")) == before + 1  # the text's memory
    scm.send(ours, data[-1:])
    connection.read()
    assert len(told) == 1 and 'what came is no listener but "/dev/null"' in told[0]
    for each in (ours, theirs):
        each.close()
    os.close(null)
    loop.close()


@pytest.mark.root
def test_other_users_get_nothing_unless_they_are_named(place: Path, agent: Start) -> None:
    running = agent()
    os.chmod(running.socket, 0o666)
    script = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.settimeout(20); print(s.recv(1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, running.socket], capture_output=True, text=True, check=False
    )
    assert done.stdout == "b''\n", done.stderr
    running.heard("user 65534 may not connect here")


@pytest.mark.root
def test_a_user_may_not_bring_processes_of_others() -> None:
    from proctor.agent.owners import Named, owner_userns

    with subprocess.Popen(["sleep", "60"], user=65534) as mine:
        try:
            assert owner_userns(Named(mine.pid), 65534) == ()
            with pytest.raises(ProctorError, match="is not one of user 65533"):
                owner_userns(Named(mine.pid), 65533)
            with pytest.raises(ProctorError, match="is not one of user 65534"):
                owner_userns(Named(os.getpid()), 65534)
        finally:
            mine.kill()
    assert owner_userns(Named(mine.pid), 65533) == ()  # gone
    assert owner_userns(Named(0), 65533) == ()  # nobody says


@pytest.mark.root
def test_a_users_container_has_rights_in_the_namespace_that_he_made() -> None:
    from proctor.agent.owners import Named, owner_userns

    command = ["unshare", "-U", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, user=65534, stdout=subprocess.PIPE) as made:
        try:
            assert made.stdout is not None and made.stdout.read(1)
            inode = os.stat(f"/proc/{made.pid}/ns/user").st_ino
            assert owner_userns(Named(made.pid), 65534) == (inode,)
        finally:
            made.kill()


@pytest.mark.root
def test_a_namespace_that_a_container_of_roots_makes_is_its_own() -> None:
    """It has no user namespace, and is uid 0 with what rights it was left: those of a user namespace of its
    own making come for free, though root made that directly below ours."""
    from proctor.agent.owners import Named, owner_userns

    ours = (os.stat("/proc/self/ns/user").st_ino,)
    command = ["unshare", "-U", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as made:
        try:
            assert made.stdout is not None and made.stdout.read(1)
            inode = os.stat(f"/proc/{made.pid}/ns/user").st_ino
            given = Named(made.pid, own=True)
            assert owner_userns(given, 0) == (inode,)  # as a runtime makes it
            assert owner_userns(Named(made.pid), 0) == ours  # if nobody says so, it may be its own
        finally:
            made.kill()
    assert owner_userns(Named(os.getpid()), 0) == ours
    assert owner_userns(given, 0) == ours  # who is gone may have been anywhere
    assert owner_userns(Named(0), 0) == ours  # nobody says


@pytest.mark.root
def test_a_number_that_is_not_the_senders_any_more_names_nobody() -> None:
    """What has it now, in a pid namespace of a user namespace's, would be believed."""
    from proctor.agent.owners import Named, owner_userns

    ours = (os.stat("/proc/self/ns/user").st_ino,)
    command = ["unshare", "-U", "-r", "-p", "-f", "--kill-child", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as made:
        try:
            assert made.stdout is not None and made.stdout.read(1)
            with open(f"/proc/{made.pid}/task/{made.pid}/children") as file:
                other = int(file.read())
            sender = subprocess.Popen(["true"])
            pidfd = os.pidfd_open(sender.pid)
            try:
                sender.wait()
                theirs = os.stat(f"/proc/{other}/ns/user").st_ino
                assert owner_userns(Named(other), 0) == (theirs,)
                assert owner_userns(Named(other, pidfd), 0) == ours
                assert owner_userns(Named.by_pidfd(pidfd), 0) == ours
                assert owner_userns(Named.by_pidfd(-1), 0) == ours
            finally:
                os.close(pidfd)
            pidfd = os.pidfd_open(other)
            try:
                assert owner_userns(Named.by_pidfd(pidfd), 0) == (theirs,)
            finally:
                os.close(pidfd)
        finally:
            made.kill()


@pytest.mark.root
def test_a_container_in_our_pid_namespace_has_the_user_namespace_that_its_bundle_gives_it(
    tmp_path: Path,
) -> None:
    """The outermost below ours, and none if the bundle gives none, whatever its first process is quick to make."""
    from proctor.agent.agreeing import makes_userns
    from proctor.agent.owners import Named, owner_userns

    ours = (os.stat("/proc/self/ns/user").st_ino,)
    script = "readlink /proc/self/ns/user; exec unshare -U sh -c 'echo made; exec sleep 60'"
    command = ["unshare", "-U", "-r", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as made:
        try:
            assert made.stdout is not None
            given = made.stdout.readline().decode()
            assert made.stdout.readline() == b"made\n"
            for text, gives in (
                ('{"linux": {"namespaces": [{"type": "mount"}, {"type": "user"}]}}', True),
                ('{"linux": {"namespaces": [{"type": "mount"}]}}', False),
                ('{"linux": {}}', False),
                ("{}", False),
                ('{"linux": {"namespaces": "user"}}', False),
                ("[" * 100_000, False),
                ("", False),
            ):
                (tmp_path / "config.json").write_text(text)
                named = Named(made.pid, own=makes_userns(str(tmp_path)))
                found = owner_userns(named, 0)
                assert (found != ours, named.own) == (gives, gives), text
                assert not gives or [f"user:[{inode}]\n" for inode in found] == [given]
            assert not makes_userns(str(tmp_path / "nowhere"))
        finally:
            made.kill()


@pytest.mark.root
@pytest.mark.parametrize("given", [True, False])
def test_a_namespace_that_was_made_before_anybody_looked_gives_nothing(given: bool) -> None:
    """By a container's first process, which was quick; what the runtime gave it is known by its pid namespace."""
    from proctor.agent.owners import Named, owner_userns

    runtime = f"unshare {'-U -r ' if given else ''}-p -f --kill-child"
    script = "readlink /proc/self/ns/user; exec unshare -U sh -c 'echo made; exec sleep 60'"
    with subprocess.Popen([*runtime.split(), "sh", "-c", script], stdout=subprocess.PIPE) as made:
        try:
            assert made.stdout is not None
            owner = made.stdout.readline().decode()
            assert made.stdout.readline() == b"made\n"
            with open(f"/proc/{made.pid}/task/{made.pid}/children") as file:
                first = int(file.read())
            found = owner_userns(Named(first), 0)
            assert [f"user:[{inode}]\n" for inode in found] == [owner]
            assert os.stat(f"/proc/{first}/ns/user").st_ino not in found
        finally:
            made.kill()


def test_containers_come_and_go(agent: Start) -> None:
    """Nothing is kept for those that are over."""
    running = agent()
    served(running, "first")
    before = running.descriptors
    for _ in range(100):
        with hand_over(running.socket, "again", "true") as target:
            assert target.wait(30) == 0
    running.heard('ended: container "again"', 100)
    served(running, "last")
    eventually(lambda: running.descriptors <= before)

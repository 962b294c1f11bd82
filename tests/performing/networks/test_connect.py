"""connect, sendto, sendmsg, sendmmsg: as the kernel does it, in the caller's network and in another."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import proctor
from proctor import families
from proctor.call.verdict import Deny
from proctor.performing.networks import sending
from proctor.performing.trouble import Again, Interrupted, Moved, Refused, Trouble
from proctor.policy import loads
from tests.performing.support.networks import (
    Servers,
    an_executor_waits,
    connects_in_turns,
    in_new_network,
)
from tests.performing.support.trees import ONE_IN
from tests.support.constants import SLOWNESS
from tests.support.kernel import RELEASE
from tests.support.processes import eventually, status

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and their sockets need root")


# The kernel's own results, at random --------------------------------------------------------------


def compare(seed: int, count: int, which: str, elsewhere: bool, user: bool) -> list[Any]:
    """Lines in which a program says something else when its calls are performed."""
    servers = Servers()
    try:
        if user:
            Path(servers.top, "as-user").touch()
        program = servers.program(seed, count, which)
        natively = subprocess.run(program, capture_output=True, timeout=200, check=True)
        network = "host" if elsewhere else None
        handlers = [families.connect(network=network), families.send(network=network)]
        with connects_in_turns() if seed % 2 else nullcontext():
            performed = proctor.run(
                ["unshare", "--net", *program] if elsewhere else program,
                handlers,
                capture_output=True,
                timeout=200,
                check=True,
            )
        # a socket that was refused elsewhere has not been given a port at home
        seen = [
            done.stdout.decode().replace("'none'", "'port'" if elsewhere else "'none'").splitlines()
            for done in (natively, performed)
        ]
        return [pair for pair in zip(*seen, strict=True) if pair[0] != pair[1]]
    finally:
        servers.close()


@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize(
    ("which", "elsewhere"),
    [("connect", False), ("send", False), ("connect once", True), ("send", True)],
    ids=["connect", "send", "connect-elsewhere", "send-elsewhere"],
)
def test_comes_out_as_in_the_kernel(which: str, elsewhere: bool, user: bool) -> None:
    wrong = in_new_network(f"{__name__}:compare", 1, 400 // ONE_IN, which, elsewhere, user)
    assert not wrong, "\n".join(f"{a}\n{b}" for a, b in wrong[:10])


# Another network, another address -----------------------------------------------------------------


def python(code: str, *args: object) -> list[str]:
    return [sys.executable, "-I", "-c", textwrap.dedent(code), *map(str, args)]


def inside(command: list[str], *handlers: proctor.Handler, **options: Any) -> bytes:
    """What a command in an empty network says."""
    done = proctor.run(
        ["unshare", "--net", *command],
        handlers,
        capture_output=True,
        timeout=60 * SLOWNESS,
        **options,
    )
    assert done.returncode == 0, done.stderr.decode()
    out: bytes = done.stdout
    return out


@contextmanager
def server(
    family: int = socket.AF_INET, host: str = "127.0.0.1", says: bytes = b"hello"
) -> Iterator[tuple[int, list[Any]]]:
    """Its port; and who came."""
    peers: list[Any] = []
    with socket.create_server((host, 0), family=family, backlog=100) as sock:

        def serve() -> None:
            while True:
                try:
                    connection, peer = sock.accept()
                except OSError:
                    return
                peers.append(peer)
                if says.startswith(b"HTTP"):
                    connection.recv(65536)  # what is unread when it is closed resets it
                connection.sendall(says)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield sock.getsockname()[1], peers
        sock.shutdown(socket.SHUT_RDWR)


CLIENT = """
    import socket, sys
    sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
    sock.connect((sys.argv[1], int(sys.argv[2])))
    print(sock.recv(100).decode(), sock.getpeername()[:2])
"""


def test_the_socket_is_of_the_other_network_from_then_on() -> None:
    with server() as (port, _):
        said = inside(python(CLIENT, "127.0.0.1", port), families.connect(network="host"))
    assert said.decode() == f"hello ('127.0.0.1', {port})\n"


def test_a_named_network() -> None:
    with tempfile.NamedTemporaryFile() as name, server() as (port, peers):
        keep = subprocess.Popen(["unshare", "--net", "sleep", "60"])
        try:
            eventually(
                "a network",
                lambda: os.readlink(f"/proc/{keep.pid}/ns/net") != os.readlink("/proc/self/ns/net"),
            )
            made = f"/proc/{keep.pid}/ns/net"
            code = """
                import errno, socket, sys
                for port in sys.argv[1:]:
                    print(errno.errorcode.get(socket.socket().connect_ex(("127.0.0.1", int(port)))))
            """
            named = families.connect(network=made)
            assert inside(python(code, port), named) == b"ENETUNREACH\n"  # its loopback is down
            assert not peers
            wrong = families.connect(network=name.name)
            assert inside(python(code, port), wrong) == b"EPERM\n"
        finally:
            keep.kill()
            keep.wait()


@pytest.mark.parametrize(
    ("asked", "to", "peer"),
    [
        ("198.51.100.7", "inet:127.0.0.1:{}", "127.0.0.1"),
        ("2001:db8::1", "inet:127.0.0.1:{}", "::ffff:127.0.0.1"),
        ("198.51.100.7", "inet6:[::1]:{}", None),  # a name with no room for it
        ("127.0.0.1", "inet:*:{}", "127.0.0.1"),
    ],
)
def test_another_address(asked: str, to: str, peer: str) -> None:
    family, host = (socket.AF_INET6, "::1") if "inet6" in to else (socket.AF_INET, "127.0.0.1")
    with server(family, host) as (port, _):
        handler = families.connect(network="host", to=to.format(port))
        said = inside(python(CLIENT, asked, 9), handler).decode()
        assert said == f"hello ('{peer}', {port})\n" or (peer is None and "hello" in said)
        handler = families.connect(to=to.format(port))  # in the own network
        done = proctor.run(python(CLIENT, asked, 9), [handler], capture_output=True, timeout=60)
        same = done.stdout.decode() == said
        assert same or (peer is None and "hello" in done.stdout.decode()), done.stderr.decode()


def test_what_a_socket_was_given_is_carried() -> None:
    code = """
        import fcntl, os, socket, struct, sys
        options = [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.SOL_SOCKET, socket.SO_RCVBUF, 70000),
            (socket.SOL_SOCKET, socket.SO_PRIORITY, 5), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 33), (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4321),
            (socket.IPPROTO_IP, socket.IP_TOS, 16), (socket.IPPROTO_IP, socket.IP_TTL, 77),
        ]
        timeout = struct.pack("@ll", 7, 0)
        sock = socket.socket()
        for level, name, value in options:
            sock.setsockopt(level, name, value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        sock.bind(("0.0.0.0", int(sys.argv[2])))
        os.set_inheritable(sock.fileno(), True)
        before = [sock.getsockopt(level, name) for level, name, _ in options]
        sock.connect(("127.0.0.1", int(sys.argv[1])))
        assert before == [sock.getsockopt(level, name) for level, name, _ in options]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == timeout
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 3)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).startswith(b"reno")
        assert os.get_inheritable(sock.fileno()) and sock.getblocking()
        print(sock.getsockname()[1])
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        wanted = free.getsockname()[1]
    with server() as (port, peers):
        said = inside(python(code, port, wanted), families.connect(network="host"))
        eventually("the server to know", lambda: peers)
    assert int(said) == wanted == peers[0][1]


def test_datagrams_and_abstract_names() -> None:
    code = """
        import socket, sys
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        there = ("127.0.0.1", int(sys.argv[1]))
        sock.sendto(b"one", there)
        assert sock.recvfrom(10) == (b"one", there)
        sock.sendmsg([b"t", b"wo"], [], 0, there)
        assert sock.recvfrom(10) == (b"two", there)
        named = socket.socket(socket.AF_UNIX)
        named.connect(bytes(1) + sys.argv[2].encode())
        print(named.recv(10).decode())
    """
    name = f"proctor-{os.getpid()}"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        echo.bind(("127.0.0.1", 0))
        abstract.bind(b"\0" + name.encode())
        abstract.listen()

        def serve() -> None:
            for _ in range(2):
                data, peer = echo.recvfrom(10)
                echo.sendto(data, peer)
            connection, _ = abstract.accept()
            connection.sendall(b"three")
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        port = echo.getsockname()[1]
        both = families.connect(network="host"), families.send(network="host")
        assert inside(python(code, port, name), *both) == b"three\n"


# Waiting ------------------------------------------------------------------------------------------


@contextmanager
def full_server() -> Iterator[tuple[int, socket.socket]]:
    """A server whose queue is full, so that who connects waits."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        with socket.create_connection(sock.getsockname()):
            yield sock.getsockname()[1], sock


WAITING = """
    import errno, os, select, signal, socket, sys, threading
    port, how, met = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    if met:  # before it connects
        socket.socket().connect_ex(("127.0.0.1", 1))
    sock = socket.socket()
    def there():
        sock.settimeout(None)
        print(select.select([], [sock], [], 100)[1] != [], sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    if how == "nonblocking":
        sock.setblocking(False)
        print(errno.errorcode[sock.connect_ex(("127.0.0.1", port))], flush=True)
        there()
    else:
        def handler(*_):
            print("signal", flush=True)
            if how == "EINTR":
                raise InterruptedError
        signal.signal(signal.SIGUSR1, handler)
        signal.siginterrupt(signal.SIGUSR1, how == "EINTR")
        print("waits", flush=True)
        try:
            sock.connect(("127.0.0.1", port))
            print("connected")
        except InterruptedError:
            print("EINTR", flush=True)
            there()
"""


@pytest.mark.parametrize("elsewhere, met", [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("how", ["nonblocking", "EINTR", "restart"])
def test_waiting_is_the_kernels(how: str, elsewhere: bool, met: bool) -> None:
    """A nonblocking connect goes on in the background; a signal interrupts a blocking one, which does, too."""
    network = "host" if elsewhere else None
    with full_server() as (port, listening):
        command = ["unshare", "--net"] if elsewhere else []
        command += python(WAITING, port, how, "met" * met)
        handlers = [families.connect(network=network)]
        with proctor.spawn(command, handlers, stdout=proctor.PIPE) as process:
            first = process.stdout.readline()
            if how == "nonblocking":
                assert first == b"EINPROGRESS\n"
            else:
                assert first == b"waits\n"
                eventually("an executor in connect", lambda: an_executor_waits("connect"))
                os.kill(process.pid, signal.SIGUSR1)
                if how == "EINTR":
                    assert process.stdout.readline() == b"signal\n"
                    assert process.stdout.readline() == b"EINTR\n"
                else:
                    eventually("its handler", lambda: int(status(process.pid)["ShdPnd"], 16) == 0)
            connections = [listening.accept()[0], listening.accept()[0]]  # there is room again
            rest = process.stdout.read()
            assert process.wait() == 0
            for each in connections:
                each.close()
    assert rest == (b"signal\nconnected\n" if how == "restart" else b"True 0\n")


# Rules --------------------------------------------------------------------------------------------

ERRORS = """
    import errno, socket, sys
    for text in sys.argv[1:]:
        host, _, port = text.rpartition(":")
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET if host else socket.AF_UNIX)
        where = (host, int(port)) if host else text[1:].replace("@", chr(0))
        print(errno.errorcode.get(sock.connect_ex(where), 0))
"""


def test_a_policy_by_address_prefix_port_and_path(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with server() as (port, _), server() as (other, _), socket.socket(socket.AF_UNIX) as file:
        file.bind(str(tmp_path / "yes"))
        file.listen()
        (tmp_path / "link").symlink_to("yes")
        (tmp_path / "no").symlink_to("/etc/passwd")
        policy = loads(f"""
            default = "allow"
            [[rule]]
            name = "the one"
            calls = ["connect"]
            when = {{ address = ["inet:127.0.0.0/8:{port}", "unix:{tmp_path}/yes"] }}
            perform = true
            [[rule]]
            name = "no other"
            calls = ["connect"]
            deny = "ENETDOWN"
        """)
        targets = [
            f"127.0.0.1:{port}", f"127.1.2.3:{port}", f"::ffff:127.0.0.1:{port}", f"127.0.0.1:{other}",
            f":{tmp_path}/yes", f":{tmp_path}/link", ":./link", f":{tmp_path}/no", f":{tmp_path}/missing", ":@none",
        ]  # fmt: skip
        done = proctor.run(
            python(ERRORS, *targets), policy.handlers(), filter=policy.filter(), cwd=tmp_path,
            capture_output=True, timeout=60, **policy.supervisor_options(),
        )  # fmt: skip
    nobody = b"ECONNREFUSED"  # it is not bound to that address
    expected = [
        b"0",
        nobody,
        b"0",
        b"ENETDOWN",
        b"0",
        b"0",
        b"0",
        b"ENETDOWN",
        b"ENOENT",
        b"ENETDOWN",
    ]
    assert done.stdout.split() == expected, done.stderr


def test_addresses_of_messages_are_seen_by_rules() -> None:
    code = """
        import errno, socket, sys
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for port in map(int, sys.argv[1:]):
            for send in (lambda to: sock.sendto(b"x", to), lambda to: sock.sendmsg([b"x"], [], 0, to)):
                try:
                    print(send(("127.0.0.1", port)))
                except OSError as error:
                    print(errno.errorcode[error.errno])
        pair = socket.socketpair()
        print(pair[0].sendmsg([b"abc"]), pair[0].send(b"abcd"))
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        policy = loads(f"""
            [[rule]]
            name = "those without an address are the kernel's"
            calls = ["sendto"]
            when = {{ dest_addr = 0 }}
            allow = true
            [[rule]]
            name = "this one, or connected"
            calls = ["sendto", "sendmsg"]
            when = {{ address = ["inet:127.0.0.1:{port}", "none"] }}
            perform = true
            [[rule]]
            name = "no other"
            calls = ["sendto", "sendmsg"]
            deny = "ENETDOWN"
        """)
        done = proctor.run(
            python(code, port, port - 1), policy.handlers(), filter=policy.filter(), capture_output=True,
            timeout=60, **policy.supervisor_options(),
        )  # fmt: skip
    assert done.stdout.split() == [b"1", b"1", b"ENETDOWN", b"ENETDOWN", b"3", b"4"], done.stderr


UNREAD = """
    import ctypes, errno, os, socket, struct
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    def connects(sock, address, length):
        room = ctypes.create_string_buffer(address, 128)
        made = libc.connect(sock.fileno(), room, length)
        return errno.errorcode[ctypes.get_errno()] if made < 0 else made
    stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
    for domain, kind in (
        (socket.AF_INET, stream), (socket.AF_INET, datagram), (socket.AF_INET6, stream), (socket.AF_INET6, datagram),
        (socket.AF_UNIX, stream), (socket.AF_UNIX, datagram), (16, datagram), (None, stream), (None, datagram),
    ):
        for family in socket.AF_INET, socket.AF_INET6, socket.AF_UNIX:
            for length in (0, 1, 2, 3, 8, 15, 16, 23) if family != socket.AF_UNIX else (111, 128):
                if family == socket.AF_INET and length > 15:
                    continue  # such a one can be read
                for only in 0, 1:
                    sock = socket.socketpair(socket.AF_UNIX, kind)[0] if domain is None else socket.socket(domain, kind)
                    if domain == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
                    print(domain, int(kind), family, length, only, connects(sock, struct.pack("=H", family).ljust(128, b"a"), length))
    print(connects(open(os.devnull), struct.pack("=H", 10).ljust(128), 16))
"""


def test_an_address_of_no_length_is_none() -> None:
    code = """
        import ctypes, errno, socket
        libc = ctypes.CDLL(None, use_errno=True)
        room = ctypes.create_string_buffer(socket.inet_aton("127.0.0.1"), 128)
        def send(one):
            made = libc.sendto(one.fileno(), b"abc", 3, 0, room, 0)
            return errno.errorcode[ctypes.get_errno()] if made < 0 else made
        for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
            one, other = socket.socketpair(type=kind)
            print(send(one), other.recv(9))
        server, one = socket.create_server(("127.0.0.1", 0)), socket.socket()
        one.connect(server.getsockname())
        print(send(one), send(socket.socket(type=socket.SOCK_DGRAM)))
    """
    natively = subprocess.run(python(code), capture_output=True, check=True, timeout=60)
    handlers = [families.send(when={"address": ["none", "unix:/nowhere"]})]
    refused = proctor.on("sendto")(lambda call: proctor.deny(errno.ENETDOWN))
    done = proctor.run(python(code), [*handlers, refused], capture_output=True, timeout=60)
    assert done.stdout == natively.stdout, done.stderr
    assert natively.stdout.split() == [b"3", b"b'abc'"] * 2 + [b"3", b"EINVAL"]


def test_a_path_on_a_socket_of_the_internet_is_the_kernels_to_refuse(tmp_path: Path) -> None:
    code = """
        import ctypes, socket, struct, sys
        libc = ctypes.CDLL(None, use_errno=True)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for path in (b"/x", sys.argv[1].encode()):
                sock, address = socket.socket(type=kind), struct.pack("=H", socket.AF_UNIX) + path
                for call in (libc.connect, libc.bind):
                    call(sock.fileno(), address, len(address))
                    print(ctypes.get_errno())
    """
    command = python(code, f"{tmp_path}/{'long' * 5}")
    rule = {"address": "unix:/**"}
    handlers = [families.connect(when=rule), families.bind(when=rule)]
    natively = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert {b"%d" % errno.EINVAL, b"%d" % errno.EAFNOSUPPORT} <= set(natively.stdout.split())
    done = proctor.run(command, handlers, capture_output=True, timeout=60)
    assert done.stdout == natively.stdout, done.stderr


def test_a_message_of_too_many_parts_is_the_kernels_to_refuse_by_a_rule_on_addresses_too() -> None:
    code = """
        import socket
        one, other = socket.socketpair()
        try:
            one.sendmsg([b"a"] * 1025)
        except OSError as error:
            print(error.errno)
    """
    handlers = [families.send(when={"address": "inet"}), families.send()]
    done = proctor.run(python(code), handlers, capture_output=True, timeout=60)
    assert done.stdout.split() == [str(errno.EMSGSIZE).encode()], done.stderr


def test_what_no_rule_can_read_is_the_kernels_to_refuse() -> None:
    """Addresses that are too short or too long for their family, under rules about addresses."""
    policy = loads("""
        default = "allow"
        [[rule]]
        name = "one"
        calls = ["connect"]
        when = { address = ["inet:127.0.0.1:9", "unix:/run/none"] }
        perform = { network = "host" }
        [[rule]]
        name = "no other"
        calls = ["connect"]
        deny = "ENETDOWN"
    """)
    native = subprocess.run(python(UNREAD), check=True, capture_output=True, timeout=60)
    assert {b"EAFNOSUPPORT", b"EINVAL", b"ENOTSOCK"} <= set(native.stdout.split())
    done = proctor.run(
        python(UNREAD), policy.handlers(), filter=policy.filter(), capture_output=True, timeout=60,
        **policy.supervisor_options(),
    )  # fmt: skip
    said, expected = done.stdout.decode().splitlines(), native.stdout.decode().splitlines()
    assert [pair for pair in zip(said, expected, strict=True) if pair[0] != pair[1]] == []


@pytest.mark.parametrize("size", [10, 150_000])
def test_as_many_descriptors_go_along_as_one_message_takes(size: int) -> None:
    """Natively 253; with what the call is about, a request to an executor has room for four less."""
    code = """
        import array, errno, os, socket, sys
        kind = socket.SOCK_STREAM if int(sys.argv[1]) < 1000 else socket.SOCK_DGRAM
        left, right = socket.socketpair(socket.AF_UNIX, kind)
        made = [os.memfd_create(f"{number}") for number in range(254)]
        data = b"x" * int(sys.argv[1])
        for many in (0, 1, 249, 254):
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", made[:many]))
            try:
                assert left.sendmsg([data], [rights] if many else []) == len(data)
            except OSError as error:
                print(many, errno.errorcode[error.errno])
                continue
            got, control, flags, _ = right.recvmsg(len(data), 2000)
            assert got == data and not flags
            fds = array.array("i", control[0][2] if many else b"")
            names = [os.readlink(f"/proc/self/fd/{fd}").split(":")[1].split()[0] for fd in fds]
            assert names == [str(number) for number in range(many)], names
            print(many, "sent")
            for fd in fds:
                os.close(fd)
    """
    done = proctor.run(python(code, size), [families.send()], capture_output=True, timeout=60)
    said = done.stdout.decode().splitlines()
    assert said == ["0 sent", "1 sent", "249 sent", "254 EINVAL"], done.stderr.decode()


def test_descriptors_and_options_go_along_unchanged() -> None:
    code = """
        import array, os, socket
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        made = [os.memfd_create(name) for name in "ab"]
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", made))
        assert left.sendmsg([b"x" * 1000, b"y"], [rights]) == 1001
        data, control, flags, _ = right.recvmsg(2000, 200)
        assert data == b"x" * 1000 + b"y" and not flags
        got = {kind: value for _, kind, value in control}
        fds = array.array("i", got[socket.SCM_RIGHTS])
        names = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]
        assert names == ["/memfd:a (deleted)", "/memfd:b (deleted)"], names
        uid = int.from_bytes(got[socket.SCM_CREDENTIALS][4:8], "little")
        assert uid == os.getuid()
        print("all")
    """
    done = proctor.run(python(code), [families.send()], capture_output=True, timeout=60)
    assert done.stdout == b"all\n", done.stderr.decode()


def test_streams_are_sent_whole_and_broken_ones_say_so() -> None:
    code = """
        import signal, socket, threading
        left, right = socket.socketpair()
        got = []
        def read():
            while data := right.recv(1 << 16):
                got.append(data)
        reader = threading.Thread(target=read)
        reader.start()
        data = bytes(range(256)) * 2048
        assert left.send(data) == len(data)
        left.shutdown(socket.SHUT_WR)
        reader.join()
        assert b"".join(got) == data
        right.close()
        signal.signal(signal.SIGPIPE, lambda *_: print("SIGPIPE"))
        other, gone = socket.socketpair()
        gone.close()
        try:
            other.send(b"x")
        except BrokenPipeError:
            print("EPIPE")
    """
    done = proctor.run(python(code), [families.send()], capture_output=True, timeout=60)
    assert sorted(done.stdout.split()) == [b"EPIPE", b"SIGPIPE"], done.stderr.decode()


CONNECTS_AND_SENDS = """
    import errno, signal, socket, threading
    def heard(server, got):
        connection = server.accept()[0]
        while data := connection.recv(1 << 16):
            got.append(data)
        connection.close()
    def sends(how, blocks, size, send):
        server, got, one = socket.create_server(("127.0.0.1", 0)), [], socket.socket()
        reader = threading.Thread(target=heard, args=(server, got))
        reader.start()
        one.setblocking(blocks)
        for _ in range(2):
            try:
                said = send(one, b"x" * size, how, server.getsockname())
            except OSError as problem:
                said = errno.errorcode[problem.errno]
            print(how & socket.MSG_DONTWAIT, blocks, size, said)
        one.setblocking(True)
        one.shutdown(socket.SHUT_WR)
        reader.join()
        print(len(b"".join(got)))
    for send in (
        lambda one, data, how, where: one.sendto(data, how, where),
        lambda one, data, how, where: one.sendmsg([data], [], how, where),
    ):
        for how, blocks in ((0, True), (socket.MSG_DONTWAIT, True), (0, False)):
            for size in (1, 1 << 19):
                sends(socket.MSG_FASTOPEN | how, blocks, size, send)
    full, kept = socket.create_server(("127.0.0.1", 0), backlog=0), []
    for _ in range(2):
        kept.append(socket.socket())
        kept[-1].setblocking(False)
        kept[-1].connect_ex(full.getsockname())
    class Signal(Exception):
        pass
    def comes(*_):
        raise Signal
    signal.signal(signal.SIGALRM, comes)
    one = socket.socket()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        print(one.sendto(b"x", socket.MSG_FASTOPEN, full.getsockname()))
    except Signal:
        print("signal")
"""


def test_a_stream_that_connects_as_it_sends_waits_for_both() -> None:
    """MSG_FASTOPEN: who waits is never told that it goes on."""
    command = python(CONNECTS_AND_SENDS)
    natively = subprocess.run(command, capture_output=True, timeout=60, check=True)
    done = proctor.run(command, [families.send()], capture_output=True, timeout=60)
    assert done.stdout.splitlines() == natively.stdout.splitlines(), done.stderr.decode()


def test_streams_are_sent_up_to_what_cannot_be_read() -> None:
    """As far as the kernel gets, of what goes in one piece: the urgent byte, the last one, is copied by itself (``queue_oob`` of net/unix/af_unix.c)."""
    code = """
        import ctypes, mmap, socket
        libc = ctypes.CDLL(None, use_errno=True)
        size = 1 << 19
        held = mmap.mmap(-1, size + mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(held))
        held[:size] = bytes(range(256)) * (size >> 8)
        assert not libc.mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(mmap.PAGESIZE), 0)
        def pair(kind):
            if kind == "unix":
                return socket.socketpair()
            with socket.create_server(("127.0.0.1", 0)) as server:
                one = socket.create_connection(server.getsockname())
                return one, server.accept()[0]
        for kind in ("unix", "tcp"):
            for readable in (0, 1, 4, 5000, 70000, 120000):
                for behind in (0, 1, 5000):
                    for flags in (0, socket.MSG_OOB):
                        one, other = pair(kind)
                        other.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
                        for sock in (one, other):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
                            sock.setsockopt(socket.SOL_SOCKET, 32, 1 << 22)
                            sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)
                        ctypes.set_errno(0)
                        at = ctypes.c_void_p(start + size - readable)
                        sent = libc.send(one.fileno(), at, ctypes.c_size_t(readable + behind), flags)
                        number = ctypes.get_errno()
                        one.shutdown(socket.SHUT_WR)
                        got = b""
                        while data := other.recv(1 << 20):
                            got += data
                        whole = got == held[size - readable:size][:max(sent, 0)]
                        if kind == "tcp" and behind and readable > 1 << 16:  # in pieces, as what went before left room in one
                            sent = 0 < sent <= readable
                        print(kind, readable, behind, int(flags), sent, number, whole)
    """
    done = [
        proctor.run(python(code), handlers, capture_output=True, timeout=60)
        for handlers in ([], [families.send()])
    ]
    told = [each.stdout.splitlines() for each in done]
    assert told[0] == told[1], done[1].stderr.decode()
    assert b"unix 4 1 1 4 0 True" in told[0], done[0].stderr.decode()


def test_addresses_that_are_no_programs_are_found_first() -> None:
    """By ``import_ubuf`` and ``__import_iovec`` of lib/iov_iter.c: before the socket, or its state, is looked at."""
    code = """
        import ctypes, socket, struct, sys
        libc = ctypes.CDLL(None, use_errno=True)
        held, alone = ctypes.create_string_buffer(b"hello"), int(sys.argv[1])
        good, last = ctypes.addressof(held), (1 << 47) - 4096
        def said(result):
            print(result, ctypes.get_errno())
            ctypes.set_errno(0)
        def message(*parts):
            vector = ctypes.create_string_buffer(b"".join(struct.pack("=QQ", *each) for each in parts))
            made = struct.pack("=QI4xQQQQi4x", 0, 0, ctypes.addressof(vector), len(parts), 0, 0, 0)
            return libc.sendmsg(sock.fileno(), made, flags)
        with socket.socket(socket.AF_UNIX) as sock:
            for flags in (0, socket.MSG_OOB):
                for where in (good, 1, last - 2, last, last + 1, 1 << 60):
                    for size in (0, 1, 2, 3, 1 << 31, 1 << 45, 1 << 62, 1 << 63):
                        if alone or size < 1 << 31:
                            said(message((where, size)))
                        said(message((good, 1), (where, size)))
                        for number in (sock.fileno(), 999):
                            said(libc.sendto(number, ctypes.c_void_p(where), ctypes.c_size_t(size), flags, None, 0))
    """
    # before Linux 6.4 the length of one piece was not cut to what is taken at once (__import_iovec_ubuf)
    alone = int(RELEASE >= (6, 4))
    done = [
        proctor.run(python(code, alone), handlers, capture_output=True, timeout=60)
        for handlers in ([], [families.send()])
    ]
    assert done[0].stdout == done[1].stdout, done[1].stderr.decode()
    assert {b"-1 14", b"-1 9", b"-1 107", b"-1 22"} <= set(done[0].stdout.splitlines())


# Hostile ------------------------------------------------------------------------------------------


def test_a_swapped_address_wins_nothing(tries: int = 2000) -> None:
    """A thread changes the address between the allowed and the forbidden server all the time."""
    code = """
        import ctypes, socket, struct, sys, threading
        libc = ctypes.CDLL(None)
        good, bad = (struct.pack("=H", 2) + struct.pack(">H", int(p)) + bytes([127, 0, 0, 1]) + bytes(8) for p in sys.argv[1:3])
        buffer = ctypes.create_string_buffer(good, 16)
        over = False
        def swap():
            while not over:
                ctypes.memmove(buffer, bad, 16)
                ctypes.memmove(buffer, good, 16)
        threading.Thread(target=swap).start()
        done = 0
        for _ in range(int(sys.argv[3])):
            with socket.socket() as sock:
                done += not libc.connect(sock.fileno(), buffer, 16)
        over = True
        print(done)
    """
    with server() as (good, welcome), server() as (bad, uninvited):
        allowed = families.connect(when={"address": f"inet:127.0.0.1:{good}"}, network="host")
        refused = proctor.on("connect")(lambda call: proctor.deny(errno.EACCES))
        done = int(inside(python(code, good, bad, tries), allowed, refused))
        assert done > 0 and not uninvited
        eventually("all that connected", lambda: len(welcome) == done)


def test_a_number_that_became_something_else_is_left_alone() -> None:
    """While a connect waits, another thread puts a file under the socket's number."""
    code = """
        import os, socket, sys, threading
        sock = socket.socket()
        done = threading.Event()
        def connect():
            try:
                sock.connect(("127.0.0.1", int(sys.argv[1])))
            finally:
                done.set()
        threading.Thread(target=connect).start()
        sys.stdin.readline()
        os.dup2(os.memfd_create("mine"), sock.fileno())
        print("replaced", flush=True)
        done.wait()
        print(os.readlink(f"/proc/self/fd/{sock.fileno()}"))
    """
    with full_server() as (port, listening):
        command = ["unshare", "--net", *python(code, port)]
        with proctor.spawn(
            command, [families.connect(network="host")], stdin=proctor.PIPE, stdout=proctor.PIPE
        ) as process:
            eventually("an executor in connect", lambda: an_executor_waits("connect"))
            process.stdin.write(b"go\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"replaced\n"
            connections = [listening.accept()[0], listening.accept()[0]]
            assert process.stdout.read() == b"/memfd:mine (deleted)\n"
            for each in connections:
                each.close()


# Real programs ------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_from_an_empty_network() -> None:
    with server(says=b"HTTP/1.0 200 OK\r\n\r\npage") as (port, _):
        curl = ["curl", "-sS", "-m", "20", "--noproxy", "*"]
        allowed = families.connect(when={"address": f"inet:127.0.0.1:{port}"}, network="host")
        others = families.connect()
        page = inside([*curl, f"http://127.0.0.1:{port}/"], allowed, others)
        assert page == b"page"
        # happy eyeballs: the IPv6 address first, which goes nowhere
        both = ["--resolve", f"two.example:{port}:[::1],127.0.0.1", f"http://two.example:{port}/"]
        assert inside([*curl, *both], allowed, others) == b"page"
        refused = proctor.run(
            ["unshare", "--net", *curl, f"http://127.0.0.1:{port - 1}/"], [allowed, others],
            capture_output=True, timeout=60,
        )  # fmt: skip
        assert refused.returncode == 7, refused.stderr


@pytest.mark.skipif(not shutil.which("nc"), reason="nc is not installed")
def test_nc_from_an_empty_network() -> None:
    """A stream, which ends when it ends; and a datagram."""
    with server(says=b"page") as (port, _):
        allowed = families.connect(when={"address": f"inet:127.0.0.1:{port}"}, network="host")
        assert inside(["nc", "-N", "127.0.0.1", str(port)], allowed) == b"page"
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.settimeout(20)
        port = one.getsockname()[1]
        allowed = families.connect(when={"address": f"inet:127.0.0.1:{port}"}, network="host")
        inside(["sh", "-c", f"echo datagram | nc -u -q 0 -w 1 127.0.0.1 {port}"], allowed)
        assert one.recv(99) == b"datagram\n"


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_git_from_an_empty_network(tmp_path: Path) -> None:
    """A clone over a pipe, as ssh would carry it: what connects is another program than git."""
    source = tmp_path / "source"
    script = f"git init -q {source}; cd {source}; git -c user.name=a -c user.email=b commit -q --allow-empty -m one"
    subprocess.run(["sh", "-ec", script], check=True, capture_output=True)
    carrier = tmp_path / "carrier"
    carrier.write_text(f"#!{sys.executable} -ISu\n" + CARRIER)
    carrier.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve() -> None:
            one, _ = listening.accept()
            with one:
                subprocess.run(
                    ["git", "upload-pack", source], stdin=one, stdout=one, check=False,
                    env={**os.environ, "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory",
                         "GIT_CONFIG_VALUE_0": "*"},
                )  # fmt: skip

        thread = threading.Thread(target=serve)
        thread.start()
        allowed = families.connect(when={"address": f"inet:127.0.0.1:{port}"}, network="host")
        clone = ["git", "clone", "-q", f"ext::{carrier} {port}", str(tmp_path / "copy")]
        inside(["git", "-c", "protocol.ext.allow=always", *clone[1:]], allowed, families.connect())
        thread.join()
    log = subprocess.run(
        ["git", "-C", tmp_path / "copy", "log", "--format=%s"], capture_output=True, check=True
    )
    assert log.stdout == b"one\n"


#: Carries standard input and output to a port, as ssh does.
CARRIER = """
import os, socket, sys, threading
one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def there():
    while data := os.read(0, 65536):
        one.sendall(data)
    one.shutdown(socket.SHUT_WR)
threading.Thread(target=there, daemon=True).start()
while data := one.recv(65536):
    os.write(1, data)
"""


# What was sent is sent ----------------------------------------------------------------------------

SEVERAL = """
import ctypes, os, socket, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
kept = []
def at(data):
    kept.append(ctypes.create_string_buffer(data, len(data)))
    return ctypes.addressof(kept[-1])
def header(pieces, control=b"", to=b""):
    vector = b"".join(struct.pack("@PN", *piece) for piece in pieces)
    made = struct.pack("@PIPNPNi", at(to) if to else 0, len(to), at(vector), len(pieces), at(control), len(control), 0)
    return made.ljust(64, b"\\0")
def several(sock, *headers):
    array = ctypes.create_string_buffer(b"".join(headers), 64 * len(headers))
    made = libc.sendmmsg(sock.fileno(), array, len(headers), 0)
    lengths = [struct.unpack_from("=I", array, 64 * each + 56)[0] for each in range(len(headers))]
    print(made if made >= 0 else -ctypes.get_errno(), lengths, flush=True)
def piece(data):
    return at(data), len(data)
"""


def test_no_message_is_sent_behind_a_part_of_one_and_none_again() -> None:
    """What cannot be read, and descriptors that are none, and more than we take along."""
    program = (
        SEVERAL
        + """
one, other = socket.socketpair()
several(one, header([piece(b"a" * 150000), (1, 5)]), header([piece(b"b")]))
print(len(other.recv(1 << 20, socket.MSG_WAITALL | socket.MSG_DONTWAIT)))
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
bad = struct.pack("@Lii200i", 16 + 800, 1, 1, 0, *[999] * 199)
several(one, header([piece(b"one")]), header([piece(b"two")]), header([piece(b"three")], bad))
print(other.recv(9), other.recv(9))
"""
    )
    native, performed = (
        inside(python(program), each) for each in (families.connect(), families.send())
    )
    assert native == performed
    assert performed.startswith(b"1 [1") and b"\n2 [3, 3, 0]\nb'one' b'two'\n" in performed


@pytest.mark.parametrize("how", ["send", "sendmsg", "sendmmsg"])
def test_a_signal_ends_what_was_sent_in_part(how: str) -> None:
    """What is sent is the answer: of a stream so many bytes, of several datagrams so many."""
    program = """
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)  # what was done is never restarted
kind = socket.SOCK_DGRAM if HOW == "sendmmsg" else socket.SOCK_STREAM
one, other = socket.socketpair(socket.AF_UNIX, kind)
signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
if HOW == "sendmmsg":
    several(one, *[header([piece(b"x")]) for _ in range(1000)])  # net.unix.max_dgram_qlen is less
else:
    data = b"x" * (1 << 20)
    print(one.send(data) if HOW == "send" else one.sendmsg([data]))
"""
    words = python(SEVERAL + f"HOW = {how!r}\n" + program)
    native, performed = (inside(words, each) for each in (families.connect(), families.send()))
    assert native == performed
    assert int(native.split()[0]) > 0


@pytest.mark.parametrize("kind", ["datagrams", "a stream"])
@pytest.mark.parametrize("what", [Again, Interrupted, Refused, Trouble, Moved])
def test_whatever_comes_between_leaves_what_was_sent(kind: str, what: Any) -> None:
    """Executors that are killed, signals, rules: nobody sends again what has gone out."""
    program = {
        "datagrams": """
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
several(one, header([piece(b"one")]), header([piece(b"two")]))
other.setblocking(False)
print(other.recv(9))
try:
    print(other.recv(9))
except BlockingIOError:
    print("no more")
""",
        "a stream": """
one, other = socket.socketpair()
done = []
def read():
    got = 0
    while data := other.recv(1 << 20):
        got += len(data)
    done.append(got)
reader = threading.Thread(target=read)
reader.start()
sent = one.sendmsg([b"x" * 900000])
one.close()
reader.join()
print(0 < sent < 900000, done == [sent])
""",
    }[kind]
    real, asked = sending.once, []

    def once(*args: Any, **more: Any) -> Any:
        asked.append(args)
        if len(asked) == 2:
            raise what(Deny(errno.EACCES)) if what is Refused else what()
        return (yield from real(*args, **more))

    with mock.patch.object(sending, "once", once):
        said = inside(python(SEVERAL + program), families.send())
    assert said == {"datagrams": b"1 [3, 0]\nb'one'\nno more\n", "a stream": b"True True\n"}[kind]

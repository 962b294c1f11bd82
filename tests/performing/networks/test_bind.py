"""bind, listen, accept and socket: as the kernel does it, in the caller's network and in another."""

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
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from proctor.policy import loads
from tests.performing.support.networks import Servers, an_executor_waits, in_new_network
from tests.support.processes import eventually, status

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and low ports need root")


def compare(seed: int, count: int, elsewhere: bool, user: bool) -> list[Any]:
    """Lines in which a program says something else when its calls are performed, and what it left."""
    servers = Servers()
    top = Path(servers.top)
    try:
        if user:
            (top / "as-user").touch()
        program = servers.program(seed, count, "bind")
        seen = []
        for performed in (False, True):
            before = set(top.rglob("*"))
            if performed:
                command = ["unshare", "--net", *program] if elsewhere else program
                handlers = [families.bind(network="host" if elsewhere else None), families.accept()]
                done: Any = proctor.run(
                    command, handlers, capture_output=True, timeout=200, check=True
                )
            else:
                done = subprocess.run(program, capture_output=True, timeout=200, check=True)
            left = sorted(set(top.rglob("*")) - before)
            stats = [(each.name, each.lstat()) for each in left]
            seen.append(done.stdout.decode().splitlines())
            seen[-1] += [f"{name} {st.st_mode:o} {st.st_uid} {st.st_gid}" for name, st in stats]
            for each in left:
                each.unlink()
        return [pair for pair in zip(*seen, strict=True) if pair[0] != pair[1]]
    finally:
        servers.close()


@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_comes_out_as_in_the_kernel(elsewhere: bool, user: bool) -> None:
    wrong = in_new_network(f"{__name__}:compare", 1, 400, elsewhere, user)
    assert not wrong, "\n".join(f"{a}\n{b}" for a, b in wrong[:10])


# Serving from an empty network --------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def reach(port: int, host: str = "127.0.0.1") -> socket.socket:
    def attempt() -> socket.socket | None:
        try:
            return socket.create_connection((host, port), timeout=20)
        except ConnectionRefusedError:
            return None

    return eventually(f"somebody on port {port}", attempt)


SERVER = """
    import socket, sys
    sock = socket.create_server((sys.argv[1], int(sys.argv[2])))
    print(sock.getsockname()[1], flush=True)
    connection, peer = sock.accept()
    connection.sendall(peer[0].encode())
"""


def python(code: str, *args: object) -> list[str]:
    # The system's, where there is one: other users may not enter wherever ours is installed.
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    return [python, "-I", "-c", textwrap.dedent(code), *map(str, args)]


def test_it_is_reached_from_outside_and_accepts_natively() -> None:
    seen: list[str] = []
    handler = families.bind(when={"address": "inet:127.0.0.1"}, network="host")
    refused = proctor.on("bind")(lambda call: proctor.deny(errno.EACCES))
    counted = proctor.on("accept", "accept4", "listen")(
        lambda call: seen.append(call.name) or proctor.let_run()
    )
    with proctor.spawn(
        ["unshare", "--net", *python(SERVER, "127.0.0.1", 0)], [handler, refused, counted], stdout=proctor.PIPE
    ) as process:  # fmt: skip
        port = int(process.stdout.readline())
        with reach(port) as connection:
            assert connection.recv(100) == b"127.0.0.1"
        assert process.wait() == 0
    assert seen == ["listen", "accept4"]  # the kernel's own, on the new socket


def test_another_address_to_serve_on() -> None:
    port = free_port()
    handler = families.bind(network="host", to=f"inet:127.0.0.1:{port}")
    with proctor.spawn(
        ["unshare", "--net", *python(SERVER, "0.0.0.0", 80)], [handler], stdout=proctor.PIPE
    ) as process:
        assert int(process.stdout.readline()) == port
        with reach(port) as connection:
            assert connection.recv(100) == b"127.0.0.1"
        assert process.wait() == 0


LOW = """
    import errno, os, socket, sys
    sock = socket.socket()
    try:
        sock.bind(("127.0.0.1", int(sys.argv[1])))
        print("bound")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
CONTAINER = ["unshare", "--user", "--map-root-user", "--net"]
USER = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all", "--"]


@pytest.mark.parametrize(
    ("inside", "how", "said"),
    [
        (CONTAINER, {"network": "host"}, "bound"),
        ([*CONTAINER, "setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-all"],
         {"network": "host"}, "EACCES"),
        (USER, {}, "EACCES"),
        (USER, {"privileged": True}, "bound"),
    ],
    ids=["container root", "container root without it", "user", "user, by policy"],
)  # fmt: skip
def test_low_ports(inside: list[str], how: dict[str, Any], said: str) -> None:
    """CAP_NET_BIND_SERVICE is lent to who has it at home, and to whom the policy says."""
    done = proctor.run(
        [*inside, *python(LOW, 7)], [families.bind(**how)], capture_output=True, timeout=60
    )
    assert done.stdout.decode().split() == [said], done.stderr.decode()


def test_socket_files_under_a_rule(tmp_path: Path) -> None:
    policy = loads(f"""
        [[rule]]
        name = "here"
        calls = ["bind"]
        when = {{ address = ["unix:{tmp_path}/yes/*", "unix:"] }}
        perform = true
        [[rule]]
        name = "nowhere else"
        calls = ["bind"]
        deny = "ENETDOWN"
    """)
    for name in ("yes", "no"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("yes")
    (tmp_path / "yes/out").symlink_to("../no")
    code = """
        import errno, os, socket, sys
        os.umask(0o077)
        for path in sys.argv[1:]:
            try:
                socket.socket(socket.AF_UNIX).bind(path)
                print(oct(os.stat(path).st_mode))
            except OSError as error:
                print(errno.errorcode[error.errno])
    """
    paths = ["yes/a", "./link/b", "yes/../yes/c", "no/a", "yes/out/x", "yes/a", "yes/none/x", f"{tmp_path}/yes/d"]  # fmt: skip
    done = proctor.run(
        python(code, *paths), policy.handlers(), filter=policy.filter(), cwd=tmp_path,
        capture_output=True, timeout=60, **policy.supervisor_options(),
    )  # fmt: skip
    good = "0o140700"
    assert done.stdout.decode().split() == [
        good, good, good, "ENETDOWN", "ENETDOWN", "EADDRINUSE", "ENOENT", good,
    ], done.stderr  # fmt: skip
    assert sorted(each.name for each in tmp_path.rglob("*") if each.is_socket()) == list("abcd")


def test_a_socket_of_another_network_from_the_start() -> None:
    code = """
        import errno, os, socket, sys
        sock = socket.socket()
        print(sock.connect_ex(("127.0.0.1", int(sys.argv[1]))), os.get_inheritable(sock.fileno()))
        raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        print(raw.getblocking())
        for wrong in ((2, 99), (99, 1), (2, 1, 17)):
            try:
                socket.socket(*wrong)
            except OSError as error:
                print(errno.errorcode[error.errno])
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = proctor.run(
            ["unshare", "--net", *python(code, server.getsockname()[1])],
            [families.socket(network="host")], capture_output=True, timeout=60,
        )  # fmt: skip
    words = ["0", "False", "False", "EINVAL", "EAFNOSUPPORT", "EPROTONOSUPPORT"]
    assert done.stdout.decode().split() == words, done.stderr


OPTIONS = """
    import errno, socket, sys
    sock = socket.socket()
    for level, name, value in (
        (socket.SOL_SOCKET, socket.SO_MARK, 7), (socket.SOL_SOCKET, 33, 1 << 22), (socket.IPPROTO_IP, 19, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.SOL_SOCKET, socket.SO_PRIORITY, 7),
        (socket.SOL_SOCKET, socket.SO_MARK, b"x"),
    ):
        try:
            sock.setsockopt(level, name, value)
            print(sock.getsockopt(level, socket.SO_RCVBUF if name == 33 else name) & ~1 or 1)
        except OSError as error:
            print(errno.errorcode[error.errno])
"""


@pytest.mark.parametrize(
    ("inside", "how", "said"),
    [
        (CONTAINER, {}, ["6", str(1 << 23), "1", "1", "6", "EINVAL"]),
        (USER, {}, ["EPERM", "EPERM", "EPERM", "1", "EPERM", "EINVAL"]),
        (USER, {"privileged": True}, ["6", str(1 << 23), "1", "1", "6", "EINVAL"]),
    ],
    ids=["container root", "user", "user, by policy"],
)
def test_options_that_need_a_right(inside: list[str], how: dict[str, Any], said: list[str]) -> None:
    handlers = [families.socket(network="host"), families.setsockopt(**how)]
    done = proctor.run([*inside, *python(OPTIONS)], handlers, capture_output=True, timeout=60)
    assert done.stdout.decode().split() == said, done.stderr.decode()


@pytest.mark.parametrize("how", ["EINTR", "restart"])
def test_an_accept_that_waits_is_interrupted(how: str) -> None:
    code = """
        import signal, socket, sys
        def handler(*_):
            if sys.argv[1] == "EINTR":
                raise InterruptedError
        signal.signal(signal.SIGUSR1, handler)
        signal.siginterrupt(signal.SIGUSR1, sys.argv[1] == "EINTR")
        sock = socket.create_server(("127.0.0.1", 0))
        print(sock.getsockname()[1], flush=True)
        try:
            connection, peer = sock.accept()
            print("accepted", peer[0])
        except InterruptedError:
            print("EINTR", flush=True)
    """
    with proctor.spawn(python(code, how), [families.accept()], stdout=proctor.PIPE) as process:
        port = int(process.stdout.readline())
        eventually("an executor that waits", lambda: an_executor_waits("ppoll"))
        os.kill(process.pid, signal.SIGUSR1)
        if how == "restart":
            eventually("its handler", lambda: int(status(process.pid)["ShdPnd"], 16) == 0)
            with reach(port):
                assert process.stdout.read() == b"accepted 127.0.0.1\n"
        else:
            assert process.stdout.read() == b"EINTR\n"
        assert process.wait() == 0


def test_who_does_not_listen_accepts_nothing_at_once() -> None:
    code = """
        import socket, struct
        one, other = socket.socketpair()
        for sock in (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM), socket.socket(), one):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 1, 0))
            try:
                sock._accept()
            except OSError as error:
                print(error.errno)
    """
    done = proctor.run(python(code), [families.accept()], capture_output=True, timeout=60)
    told = [errno.EOPNOTSUPP, errno.EOPNOTSUPP, errno.EINVAL, errno.EINVAL]
    assert [int(each) for each in done.stdout.split()] == told, done.stderr


# Real programs ------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis is not installed")
def test_redis_in_an_empty_network(tmp_path: Path) -> None:
    port = free_port()
    server = ["redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    cli = ["redis-cli", "-p", str(port)]
    with proctor.spawn(
        [*CONTAINER, *server], [families.bind(network="host")], stdout=proctor.DEVNULL
    ) as process:
        reach(port).close()
        subprocess.run([*cli, "set", "a", "b"], check=True, capture_output=True, timeout=20)
        reached = proctor.run(
            [*CONTAINER, *cli, "get", "a"], [families.connect(network="host")], capture_output=True, timeout=60
        )  # fmt: skip
        assert reached.stdout == b"b\n", reached.stderr
        subprocess.run([*cli, "shutdown", "nosave"], check=False, capture_output=True, timeout=20)
        assert process.wait() == 0


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_nginx_in_an_empty_network(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "page").write_text("here")
    config = tmp_path / "nginx.conf"
    config.write_text(f"""
        daemon off; master_process on; worker_processes 1; error_log stderr; pid {tmp_path}/pid;
        user root;
        events {{ }}
        http {{
            access_log off; client_body_temp_path {tmp_path}; proxy_temp_path {tmp_path};
            fastcgi_temp_path {tmp_path}; uwsgi_temp_path {tmp_path}; scgi_temp_path {tmp_path};
            server {{ listen 127.0.0.1:{port}; root {tmp_path}; }}
        }}
    """)
    with proctor.spawn(
        ["unshare", "--net", "nginx", "-c", str(config), "-p", str(tmp_path)],
        [families.bind(network="host")], stderr=proctor.DEVNULL,
    ) as process:  # fmt: skip
        with reach(port) as connection:
            connection.sendall(b"GET /page HTTP/1.0\r\n\r\n")
            assert connection.makefile("rb").read().endswith(b"here")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGQUIT)
        assert process.wait() == 0


SOCKET_FILES = """
    import ctypes, errno, os, socket, sys
    def bound(path):
        one = socket.socket(socket.AF_UNIX)
        try:
            one.bind(path)
        except OSError as error:
            print(path.replace(top, "").replace(f"task/{os.getpid()}", "task"), errno.errorcode[error.errno])
        one.close()
    top = os.getcwd()
    os.mkdir("sub")
    sub = os.open("sub", os.O_PATH)
    high = os.dup2(sub, 400)
    task = f"/proc/self/task/{os.getpid()}"
    for path in (
        f"/proc/self/fd/{high}", "/proc/self/fd/401", f"{task}/comm", f"{task}/cwd/k", f"{task}/fd/{high}/l", f"{task}/../none/m",
        "a", f"{top}/b", "/proc/self/cwd/c", f"/proc/self/fd/{sub}/d", f"/proc/thread-self/root{top}/e", "/", "//",
        "sub/..", "sub/.", "none/f", "a", "/proc/self/cwd/a", f"/proc/self/fd/{sub}", "g/", "x" * 107,
    ):
        bound(path)
    os.mkdir("hidden")
    os.chdir("hidden")
    os.chmod(f"{top}/hidden", 0o600)
    bound(f"{top}/i")
    bound("j")
    os.chmod(f"{top}/hidden", 0o700)
    for place in ("", "/sub", "/hidden"):
        print(sorted(os.listdir(top + place)))
    libc = ctypes.CDLL(None, use_errno=True)
    nowhere = ctypes.c_void_p(1)
    for number in (sub, os.open("/", os.O_PATH)):  # no sockets, and nothing is asked of them
        for call in (libc.bind, libc.connect):
            print(call(number, nowhere, 16), errno.errorcode[ctypes.get_errno()])
"""


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("uid", [0, 4242])
def test_socket_files_are_made_where_the_caller_means(
    tmp_path: Path, asked: bool, uid: int
) -> None:
    """Links of procfs are the caller's, not an executor's; what may not be searched is only in the way of
    what is found from there."""
    seen = []
    for performed in (False, True):
        place = Path(tempfile.mkdtemp())
        place.chmod(0o777)
        handlers = [
            families.bind(when={"address": "unix:/**"} if asked else None),
            families.bind(),
            families.connect(),
        ]
        how: dict[str, Any] = {"uid": uid, "gid": uid, "groups": ()} if uid else {}
        try:
            done = proctor.run(
                ["/usr/bin/python3", "-I", "-c", textwrap.dedent(SOCKET_FILES)],
                handlers if performed else [proctor.Handler(["getcpu"], lambda call: proctor.let_run())],
                capture_output=True, timeout=60, cwd=str(place), **how,
            )  # fmt: skip
        finally:
            shutil.rmtree(place)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.decode().splitlines()
        # a rule about addresses reads them first
        seen.append([line for line in lines if not (asked and line.startswith("-1 "))])
    assert seen[0] == seen[1]

"""What a device made in a container of LXC's costs: through ``proctor agent``, which makes it or says that there is none,
and through a proxy in C that answers at once, since LXC's monitor and a socket are in the way of any; and in a container of
LXD's, which makes it by a process of its own, begun for each.

As root, where LXC is installed, and LXD if it is asked for.  Everything is measured in turns, so that whatever else the
machine does falls on all.

    python bench/lxc.py [--rounds N] [--calls N] [--lxd]
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

#: Seconds after which what does not come never will.
PATIENCE = 120.0
HERE = Path(__file__).resolve().parent
BUILT = HERE / "build/lxc"
CGROUP = f"proctor-bench-{os.getpid()}"
MADE = """
[[rule]]
name = "devices"
calls = ["mknod", "mknodat"]
perform = true
"""
REFUSED = """
[[rule]]
name = "no devices"
calls = ["mknod", "mknodat"]
deny = "EXDEV"
report = true
"""
CONFIG = """
lxc.include = /usr/share/lxc/config/common.conf
lxc.include = /usr/share/lxc/config/userns.conf
lxc.uts.name = {name}
lxc.rootfs.path = dir:{top}/rootfs
lxc.idmap = u 0 100000 65536
lxc.idmap = g 0 100000 65536
lxc.net.0.type = empty
lxc.apparmor.profile = unconfined
lxc.cgroup.dir = {cgroup}/{name}
lxc.init.cmd = /lxc wait
lxc.seccomp.profile = {top}/profile
lxc.seccomp.notify.proxy = unix:{top}/{name}.sock
"""
PRESEED = """
storage_pools: [{name: default, driver: dir}]
profiles: [{name: default, devices: {root: {path: /, pool: default, type: disk}}}]
"""
#: LXC calls newuidmap as root, too, which wants root's line in these files.
BIND = 'for file in /etc/subuid /etc/subgid; do mount --bind "$0" $file; done; exec "$@"'


def server(stack: ExitStack, top: Path, name: str, policy: str) -> None:
    """Who answers at a container's socket: an agent with a policy, or the proxy in C without one."""
    socket = str(top / f"{name}.sock")
    with open(top / f"{name}.said", "w") as said:
        if policy:
            policies = top / f"{name}.policies"
            policies.mkdir()
            (policies / "default.toml").write_text(f'default = "allow"\n{policy}')
            words = [sys.executable, "-m", "proctor", "agent", "--policy-dir", str(policies)]
            words += ["--lxc", socket, "--control", f"{socket}.control"]
            process = subprocess.Popen(words, stderr=said)
        else:
            process = subprocess.Popen([BUILT, "proxy", socket], stdout=said)
    stack.callback(process.wait, PATIENCE)
    stack.callback(process.send_signal, signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while "ready" not in (top / f"{name}.said").read_text():
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"{name}: {(top / f'{name}.said').read_text()}")
        time.sleep(0.05)


def start(stack: ExitStack, top: Path, name: str) -> None:
    config = top / f"{name}.conf"
    config.write_text(CONFIG.format(name=name, top=top, cgroup=CGROUP))
    ids = top / "ids"
    ids.write_text("root:100000:65536\n")
    words = ["lxc-start", "-P", str(top), "-d", "-n", name, "-f", str(config)]
    done = subprocess.run(["unshare", "--mount", "sh", "-c", BIND, str(ids), *words], check=False)
    if done.returncode:
        raise SystemExit(f"{name} does not start")
    stack.callback(subprocess.run, ["lxc-stop", "-P", str(top), "-k", "-n", name], check=False)


def start_lxd(stack: ExitStack, top: Path, name: str) -> None:
    """An LXD of our own, with a container whose devices it makes; the environment says to its programs which it is."""
    os.environ |= {"LXD_DIR": str(top / "lxd"), "HOME": str(top)}
    (top / "lxd").mkdir()
    (top / "templates").mkdir()
    (top / "metadata.yaml").write_text("architecture: x86_64\ncreation_date: 1700000000\n")
    (top / "rootfs/sbin").mkdir()
    (top / "rootfs/sbin/init").symlink_to("/lxc")  # LXD wants one, and it is not what is begun
    packed = ["--owner=0", "--group=0", "metadata.yaml", "rootfs", "templates"]
    subprocess.run(["tar", "-C", top, "-czf", top / "image.tar.gz", *packed], check=True)
    with open(top / "lxd.said", "w") as said:
        daemon = subprocess.Popen(
            ["unshare", "--mount", "--net", "lxd", "--group", "root"],
            stdout=said, stderr=said,
        )  # fmt: skip
    stack.callback(daemon.wait, PATIENCE)
    stack.callback(subprocess.run, ["lxd", "shutdown", "--timeout", "20"], check=False)
    stack.callback(subprocess.run, ["lxc", "delete", "--force", name], check=False)
    made = ["-c", "security.syscalls.intercept.mknod=true"]
    # without the capability itself LXD cannot become what has it
    made += ["-c", "raw.lxc=lxc.init.cmd = /lxc wait\nlxc.cap.drop = sys_resource"]
    for words, given in (
        (["lxd", "waitready", "--timeout", "60"], ""),
        (["lxd", "init", "--preseed"], PRESEED),
        (["lxc", "image", "import", str(top / "image.tar.gz"), "--alias", "bench"], ""),
        (["lxc", "init", "bench", name, *made], ""),
        (["lxc", "start", name], ""),
    ):
        subprocess.run(words, input=given, text=True, check=True, stdout=subprocess.DEVNULL)


def measure(top: Path, name: str, calls: int, fails: bool, lxd: bool = False) -> float:
    """Median of a mknod in it."""
    words = ["lxc-attach", "-P", str(top), "-n", name, "--clear-env", "--"]
    if lxd:
        words = ["lxc", "exec", name, "--"]
    words += ["/lxc", "mknod", str(calls), "/tmp/node"]
    for _ in range(
        10
    ):  # LXC loses the listener of what it attaches now and then: see docs/agent.md
        done = subprocess.run(words, check=False, capture_output=True)
        if done.returncode == 0:
            break
    else:
        raise SystemExit(f"{name}: {done.stderr.decode()}")
    median, failed, why = done.stdout.split()
    if [int(failed), int(why)] != ([calls, errno.EXDEV] if fails else [0, 0]):
        raise SystemExit(f"{name}: {failed.decode()} of {calls} failed, with {why.decode()}")
    return float(median)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--lxd", action="store_true", help="and LXD's own")
    options = parser.parse_args()
    BUILT.parent.mkdir(exist_ok=True)
    built = ["gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-static", "-o", str(BUILT)]
    subprocess.run([*built, str(HERE / "lxc.c")], check=True)
    ways = {"c": "", "refused": REFUSED, "made": MADE}
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proctor-bench-")))
        top.chmod(0o755)
        stack.callback(remove_cgroups)
        (top / "profile").write_text("2\ndenylist allow\n[all]\nmknod notify\nmknodat notify\n")
        for each in ("dev", "proc", "sys", "tmp", "etc", "run"):
            (top / "rootfs" / each).mkdir(parents=True)
        (top / "rootfs/lxc").write_bytes(BUILT.read_bytes())
        (top / "rootfs/lxc").chmod(0o755)
        subprocess.run(["chown", "-R", "100000:100000", str(top / "rootfs")], check=True)
        for name, policy in ways.items():
            server(stack, top, name, policy)
            start(stack, top, name)
        lxd = f"lxd-{os.getpid()}"
        if options.lxd:
            start_lxd(stack, top, lxd)
        names = [*ways, lxd] if options.lxd else [*ways]
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                fails = name in ("c", "refused")
                found[name].append(measure(top, name, options.calls, fails, name == lxd))
        least = statistics.median(found["c"])
        for name, times in found.items():
            median = statistics.median(times)
            print(f"{name:<10} {median:8.1f} us  {median / least:5.2f}x  best {min(times):8.1f} us")


def remove_cgroups() -> None:
    for place in sorted(Path("/sys/fs/cgroup").glob(f"**/{CGROUP}*/**/"), reverse=True):
        with contextlib.suppress(OSError):
            place.rmdir()
    for shared in Path("/sys/fs/cgroup").glob("**/lxc.pivot"):
        with contextlib.suppress(OSError):
            shared.rmdir()


if __name__ == "__main__":
    main()

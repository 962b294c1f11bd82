"""The second demonstration: unprivileged containers of real runtimes, served by one running agent.

runc, and crun where it is installed, start containers with the profile that ``examples/devices.toml``
needs.  A device is made and works, a refusal is explained, and the agent's monitor is killed while a
container makes devices.  Exit status: 0 if everything was shown, 77 if there is no root or no runtime, 1
if something did not work as it should.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from proctor.agent.control import ask

POLICY = Path(__file__).resolve().parent.parent / "devices.toml"
PROCTOR = [sys.executable, "-m", "proctor"]
#: Nodes that the last container makes while monitors are killed.
NODES = 600

problems: list[str] = []


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def check(what: str, good: bool) -> None:
    print(f"   {'ok ' if good else 'NOT'} {what}", flush=True)
    if not good:
        problems.append(what)


class Ground:
    """A file system with busybox in it, an agent, and what is to be cleaned up."""

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="proctor-demo-"))
        self.top.chmod(0o755)
        self.socket = self.top / "oci.sock"
        self.control = ["--control", str(self.top / "control.sock")]
        policies = self.top / "policies"
        policies.mkdir()
        shutil.copy(POLICY, policies / "default.toml")
        rootfs = self.top / "rootfs"
        for name in ("bin", "dev", "proc", "sys", "tmp"):
            (rootfs / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, rootfs / "bin/busybox")
        for name in ("sh", "mknod", "ls", "rm", "echo", "seq"):
            (rootfs / "bin" / name).symlink_to("busybox")
        for path in (rootfs, *rootfs.rglob("*")):
            os.lchown(path, 100000, 100000)
        self.containers: list[list[str]] = []
        self.agent = subprocess.Popen(
            [*PROCTOR, "agent", "--policy-dir", str(policies), "--oci", str(self.socket), *self.control],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.agent.stderr is not None
        line = self.agent.stderr.readline()
        print(f"   {line.rstrip()}", flush=True)
        if "ready" not in line:
            raise SystemExit(1)

    def proctor(self, *words: str) -> str:
        """Ask the agent."""
        return subprocess.run(
            [*PROCTOR, *words, *self.control],
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        ).stdout

    def bundle(self, name: str, script: str) -> Path:
        """A container for one script, under the profile that its policy needs."""
        made = self.top / name
        made.mkdir()
        subprocess.run(["runc", "spec", "-b", str(made)], check=True)
        config = json.loads((made / "config.json").read_text())
        config["process"].update(terminal=False, args=["/bin/sh", "-c", script], rlimits=[])
        config["process"]["env"] = ["PATH=/bin"]
        for each in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][each].append("CAP_MKNOD")
        config["root"] = {"path": str(self.top / "rootfs"), "readonly": False}
        config["linux"]["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = ids
        profile = [*PROCTOR, "profile", str(POLICY), "--listener", str(self.socket)]
        config["linux"]["seccomp"] = json.loads(
            subprocess.run(profile, check=True, capture_output=True).stdout
        )
        (made / "config.json").write_text(json.dumps(config))
        return made

    def command(self, runtime: str, *words: str) -> list[str]:
        """A runtime's command line."""
        command = [runtime, "--root", str(self.top / f"state-{runtime}"), *words]
        if runtime == "crun" and Path("/sys/fs/cgroup/unified").exists():
            # it refuses the controllers of both versions beside each other
            hide = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
            return ["unshare", "-m", "sh", "-c", hide, "sh", *command]
        return command

    def start(self, runtime: str, name: str, script: str) -> subprocess.Popen[str]:
        """Run a container."""
        command = self.command(runtime, "run", "-b", str(self.bundle(name, script)), name)
        self.containers.append(self.command(runtime, "delete", "--force", name))
        return subprocess.Popen(  # crun gives what it finds as standard input to the container, /dev/null too
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )  # fmt: skip

    def close(self) -> None:
        for command in self.containers:
            subprocess.run(command, capture_output=True, check=False)
        self.agent.send_signal(signal.SIGTERM)
        self.agent.wait()
        shutil.rmtree(self.top)


def shown(process: subprocess.Popen[str], script: str) -> str:
    for line in script.split("; "):
        print(f"   # {line}", flush=True)
    out, _ = process.communicate(timeout=60)
    for line in out.splitlines():
        print(f"     {line}", flush=True)
    return out


def main() -> int:
    lacks = [each for each in ("runc", "busybox", "unshare") if shutil.which(each) is None]
    if lacks or os.geteuid() != 0:
        what = ", ".join([*lacks, *(["root"] if os.geteuid() != 0 else [])])
        print(f"demo: this wants {what} (apt install runc crun busybox-static, and sudo)")
        return 77
    say("one agent for all containers of this machine")
    print("   $ proctor agent --policy-dir policies --oci oci.sock", flush=True)
    ground = Ground()
    try:
        show(ground)
    finally:
        ground.close()
    print()
    for problem in problems:
        print(f"did not work as it should: {problem}")
    return 1 if problems else 0


def show(ground: Ground) -> None:
    for runtime in filter(shutil.which, ("runc", "crun")):
        say(f"an unprivileged container of {runtime}: its root is user 100000 here")
        name = f"demo-{runtime}"
        script = (
            f"mknod /tmp/{runtime} c 1 3; echo gone > /tmp/{runtime}; ls -l /tmp/{runtime}; "
            f"mknod /tmp/{runtime}-disk b 8 0"
        )
        out = shown(ground.start(runtime, name, script), script)
        check("the device is made, and works", "1,   3" in out)
        check("the disk is refused", "Operation not permitted" in out)
        print(f"   $ proctor why {name}", flush=True)
        why = ground.proctor("why", name)
        for line in why.splitlines():
            print(f"     {line}", flush=True)
        check("why says which rule refuses, and which would allow it", "would be allowed by" in why)
    say("the agent is killed, and comes back, while a container works")
    script = (
        f"for n in $(seq {NODES}); do mknod /tmp/node-$n c 1 3 || echo failed; done; "
        "ls /tmp | busybox grep -c node-"
    )
    working = ground.start("runc", "demo-working", script)
    killed = 0
    while working.poll() is None and killed < 3:
        answer = ask(ground.control[1], do="ps")
        if any(each["container"] == "demo-working" for each in answer["containers"]):
            monitor = answer["monitor"]
            os.kill(monitor, signal.SIGKILL)
            killed += 1
            print(f"   killed monitor {monitor}", flush=True)
    out = shown(working, script)
    made = [int(line) for line in out.splitlines() if line.strip().isdigit()]
    # the call that was being performed when its monitor died says EINTR, and may have been done
    check(f"{killed} monitors died, and the container went on", bool(killed))
    check(
        f"of {NODES} devices {made} are there, {out.count('Interrupted')} calls were interrupted",
        bool(made)
        and made[0] >= NODES - out.count("Interrupted")
        and out.count("Interrupted") <= killed,
    )


if __name__ == "__main__":
    sys.exit(main())

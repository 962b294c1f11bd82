"""The second demonstration: unprivileged containers of real runtimes, served by one running agent.

runc, and crun and LXC where they are installed, start containers with the profile that ``examples/container.toml``
needs.  A device is made and works, an image is mounted, a refusal is explained, and the agent's monitor is killed
while a container makes devices.  Exit status: 0 if everything was shown, 77 if there is no root or no runtime, 1
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
from contextlib import suppress
from pathlib import Path

from proctor.agent.control import ask

POLICY = Path(__file__).resolve().parent.parent / "container.toml"
LXC = Path("/usr/share/lxc/config")
#: Mounts an image as it is; mount(8) would look for a loop device first.
MOUNT = """
#include <stdio.h>
#include <sys/mount.h>
int main(int count, char **words) {
    int failed = count != 4 || mount(words[1], words[2], words[3], MS_RDONLY, 0);
    if (failed) perror("mount");
    return failed;
}
"""
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
        for name in ("bin", "dev", "proc", "sys", "tmp", "mnt"):
            (rootfs / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, rootfs / "bin/busybox")
        for name in ("sh", "mknod", "ls", "rm", "echo", "seq"):
            (rootfs / "bin" / name).symlink_to("busybox")
        self.images = self._images(rootfs)
        (rootfs / "init").write_text("#!/bin/sh\nexec /bin/busybox sleep 1000\n")
        (rootfs / "init").chmod(0o755)
        for path in (rootfs, *rootfs.rglob("*")):
            os.lchown(path, 100000, 100000)
        self.containers: list[list[str]] = []
        self.agent = subprocess.Popen(
            [*PROCTOR, "agent", "--policy-dir", str(policies), "--oci", str(self.socket), *self.control,
             "--lxc", str(self.top / "lxc.sock")],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.agent.stderr is not None
        line = self.agent.stderr.readline()
        print(f"   {line.rstrip()}", flush=True)
        if "ready" not in line:
            raise SystemExit(1)

    @staticmethod
    def _images(rootfs: Path) -> bool:
        """Put an image there, and what mounts it; whether that can be had here."""
        lacks = [each for each in ("cc", "mksquashfs") if shutil.which(each) is None]
        if lacks or "squashfs" not in Path("/proc/filesystems").read_text():
            print(
                f"   no image is mounted: here is no {', '.join(lacks) or 'squashfs'}", flush=True
            )
            return False
        content = rootfs / "tmp/content"
        content.mkdir()
        (content / "hello").write_text("from the image\n")
        subprocess.run(
            ["mksquashfs", content, rootfs / "image", "-all-root", "-quiet", "-no-progress"],
            check=True,
        )
        compile = ["cc", "-static", "-x", "c", "-", "-o", str(rootfs / "bin/mount-image")]
        return subprocess.run(compile, input=MOUNT, text=True, check=False).returncode == 0

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
            config["process"]["capabilities"][each] += ["CAP_MKNOD", "CAP_SYS_ADMIN"]
        config["root"] = {"path": str(self.top / "rootfs"), "readonly": False}
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["cgroupsPath"] = f"/{self.top.name}/{name}"
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

    def lxc(self, name: str) -> list[str] | None:
        """Start a container of LXC's; what runs commands in it, or None if LXC starts none here."""
        profile = [
            *PROCTOR,
            "profile",
            str(POLICY),
            "--format",
            "lxc",
            "--base",
            f"{LXC}/common.seccomp",
        ]
        (self.top / "lxc.seccomp").write_bytes(
            subprocess.run(profile, check=True, capture_output=True).stdout
        )
        config = self.top / "lxc.conf"
        lines = {
            "lxc.include": f"{LXC}/common.conf\nlxc.include = {LXC}/userns.conf",
            "lxc.uts.name": name, "lxc.rootfs.path": f"dir:{self.top}/rootfs", "lxc.net.0.type": "empty",
            "lxc.idmap": "u 0 100000 65536\nlxc.idmap = g 0 100000 65536", "lxc.apparmor.profile": "unconfined",
            "lxc.init.cmd": "/init", "lxc.seccomp.profile": f"{self.top}/lxc.seccomp",
            "lxc.seccomp.notify.proxy": f"unix:{self.top}/lxc.sock",
        }  # fmt: skip
        config.write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
        # newuidmap wants root's line in these files: in a mount namespace of its own
        ids = self.top / "ids"
        ids.write_text("root:100000:65536\n")
        bind = f'for file in /etc/subuid /etc/subgid; do mount --bind {ids} $file; done; exec "$@"'
        where = ["-P", str(self.top), "-n", name]
        start = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            bind,
            "sh",
            "lxc-start",
            *where,
            "-d",
            "-f",
            str(config),
        ]
        self.containers.append(["lxc-stop", *where, "-k"])
        if subprocess.run(start, capture_output=True, timeout=60, check=False).returncode:
            return None
        return [
            "lxc-attach",
            *where,
            "--clear-env",
            "--set-var",
            "PATH=/bin",
            "--",
            "/bin/sh",
            "-c",
        ]

    def close(self) -> None:
        for command in self.containers:
            subprocess.run(command, capture_output=True, check=False)
        self.agent.send_signal(signal.SIGTERM)
        self.agent.wait()
        for left in (
            "lxc.*.demo-lxc",
            "lxc.pivot",
            self.top.name,
        ):  # left empty, by LXC and by runtimes
            for path in Path("/sys/fs/cgroup").glob(f"*/{left}"):
                with suppress(OSError):
                    path.rmdir()
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


def judge(ground: Ground, name: str, out: str) -> None:
    """Whether a container got what it was to get."""
    check("the device is made, and works", "1,   3" in out)
    check("the disk is refused", "Operation not permitted" in out)
    if ground.images:
        check("the image is mounted", "from the image" in out)
    print(f"   $ proctor why {name}", flush=True)
    why = ground.proctor("why", name)
    for line in why.splitlines():
        print(f"     {line}", flush=True)
    check("why says which rule refuses, and which would allow it", "would be allowed by" in why)


def show(ground: Ground) -> None:
    for runtime in filter(shutil.which, ("runc", "crun")):
        say(f"an unprivileged container of {runtime}: its root is user 100000 here")
        name = f"demo-{runtime}"
        script = (
            f"mknod /tmp/{runtime} c 1 3; echo gone > /tmp/{runtime}; ls -l /tmp/{runtime}; "
            f"mknod /tmp/{runtime}-disk b 8 0"
        )
        if ground.images:
            script += "; mount-image /image /mnt squashfs; busybox cat /mnt/hello"
        judge(ground, name, shown(ground.start(runtime, name, script), script))
    if LXC.is_dir() and shutil.which("lxc-start"):
        say("the same by LXC, whose monitor asks for its container")
        attach = ground.lxc("demo-lxc")
        script = "mknod /tmp/lxc c 1 3; ls -l /tmp/lxc; mknod /tmp/lxc-disk b 8 0"
        if attach is None:
            print("   it starts no container here", flush=True)
        else:
            if ground.images:
                script += "; mount-image /image /mnt squashfs; busybox cat /mnt/hello"
            pipe, same = subprocess.PIPE, subprocess.STDOUT
            inside = subprocess.Popen([*attach, script], stdout=pipe, stderr=same, text=True)
            judge(ground, "demo-lxc", shown(inside, script))
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
    check(f"{killed} monitors died, and the container went on", bool(killed))
    check(f"{NODES} devices are there, and no call failed", made == [NODES] and "failed" not in out)


if __name__ == "__main__":
    sys.exit(main())

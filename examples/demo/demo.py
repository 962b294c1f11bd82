"""The demonstration: an unprivileged container makes device nodes, and is refused others.

Runs real programs in a user namespace ("container root"), first without supervision, then with.
Ends with a table of what was intercepted, performed and refused.  Exit status: 0 if everything was
shown, 77 if parts need the host's root and were left out, 1 if something did not work as it should.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
POLICY = HERE.parent / "devices.toml"
CONTAINER = HERE.parent / "container.toml"
BENCH = HERE.parents[1] / "bench" / "families.py"
#: The command `proctor` of the interpreter that runs this.
PROCTOR = [sys.executable, "-m", "proctor"]
ROOT = os.geteuid() == 0
#: Container root: ids of the host that nobody uses, or, for an ordinary user, just that user.
USERNS = "--userns=100000:65536" if ROOT else "--userns"
OWNER = 100000 if ROOT else os.geteuid()

NODES = {
    "null": (tarfile.CHRTYPE, 1, 3),
    "zero": (tarfile.CHRTYPE, 1, 5),
    "random": (tarfile.CHRTYPE, 1, 8),
    "sda": (tarfile.BLKTYPE, 8, 0),
}

problems: list[str] = []
skipped: list[str] = []


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def check(what: str, good: bool) -> None:
    print(f"   {'ok ' if good else 'NOT'} {what}", flush=True)
    if not good:
        problems.append(what)


def needs_root(what: str) -> None:
    print(
        f"   left out: {what} needs root on the host (CAP_MKNOD); run `sudo make demo`", flush=True
    )
    skipped.append(what)


def shown(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    print(
        "   $",
        " ".join(command).replace(" ".join(PROCTOR), "proctor"),
        flush=True,
    )
    done = subprocess.run(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=120, **options  # type: ignore[call-overload]
    )  # fmt: skip
    for line in done.stdout.splitlines():
        print(f"     {line}", flush=True)
    return done  # type: ignore[no-any-return]


class Ground:
    """A directory tree that belongs to the container's root."""

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="proctor-demo-"))
        self.top.chmod(0o755)
        self.archive = self.top / "nodes.tar"
        self.logs: list[Path] = []
        with tarfile.open(self.archive, "w") as tar:
            for name, (kind, major, minor) in NODES.items():
                entry = tarfile.TarInfo(name)
                entry.type, entry.devmajor, entry.devminor, entry.mode = kind, major, minor, 0o666
                tar.addfile(entry, io.BytesIO())

    def place(self, name: str) -> Path:
        path = self.top / name
        path.mkdir()
        os.chown(path, OWNER, OWNER if ROOT else -1)
        return path

    def log(self, name: str) -> str:
        self.logs.append(self.top / f"{name}.log")
        return str(self.logs[-1])

    def records(self) -> list[dict[str, object]]:
        found = []
        for log in self.logs:
            if log.exists():
                found += [json.loads(line) for line in log.read_text().splitlines()]
        return [record for record in found if record["event"] == "call"]


def without(ground: Ground) -> None:
    say("1. Without supervision, container root cannot extract device nodes")
    place = ground.place("without")
    done = shown(
        [*PROCTOR, "run", USERNS, "--", "tar", "-xpf", str(ground.archive), "-C", str(place)]
    )
    check("tar fails", done.returncode != 0)
    check("it says: Operation not permitted (EPERM)", "Operation not permitted" in done.stdout)


def supervised(ground: Ground) -> None:
    say(
        "2. Under proctor run, with examples/devices.toml, the same tar extracts what the policy allows"
    )
    if not ROOT:
        needs_root("making device nodes for the container")
        return
    place = ground.place("with")
    done = shown(
        [*PROCTOR, "run", USERNS, "--policy", str(POLICY), "--log", ground.log("tar"), "--",
         "tar", "-xpf", str(ground.archive), "-C", str(place)]
    )  # fmt: skip
    check(
        "the block device is refused, and tar says so",
        "sda" in done.stdout and done.returncode != 0,
    )
    check("the refusal names its rule", "rule" in done.stdout)
    for name in ("null", "zero", "random"):
        _, major, minor = NODES[name]
        try:
            info = (place / name).stat()
            made = stat.S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(major, minor)
            made = made and info.st_uid == OWNER
        except FileNotFoundError:
            made = False
        check(f"{name} is character device {major}:{minor}, owned by container root", made)
    check("sda does not exist", not (place / "sda").exists())
    script = 'echo discarded > null && head -c 4 zero | od -An -tx1 && test "$(head -c 16 random | wc -c)" = 16 && echo works'
    done = shown([*PROCTOR, "run", USERNS, "--", "sh", "-c", script], cwd=str(place))
    check(
        "they can be written to and read from inside",
        "works" in done.stdout and "00 00 00 00" in done.stdout,
    )


def programs(ground: Ground) -> None:
    say("3. A dynamic, a static and a multi-threaded program are served alike")
    if not ROOT:
        needs_root("making device nodes for these programs")
        return
    place = ground.place("programs")
    dynamic, static = ground.top / "nodes-threads", ground.top / "nodes-static"
    source = str(HERE / "nodes.c")
    subprocess.run(["gcc", "-O2", "-pthread", "-o", str(dynamic), source], check=True)
    subprocess.run(["gcc", "-O2", "-pthread", "-static", "-o", str(static), source], check=True)
    start = [*PROCTOR, "run", USERNS, "--policy", str(POLICY)]
    for what, command in (
        ("dynamic (mknod of coreutils)", ["mknod", "dynamic", "c", "1", "3"]),
        ("static", [str(static), "static"]),
        ("multi-threaded", [str(dynamic), *(f"thread{n}" for n in range(8))]),
    ):
        done = shown([*start, "--log", ground.log(what.split()[0]), "--", *command], cwd=str(place))
        check(f"{what}: made", done.returncode == 0)
    busybox = shutil.which("busybox")
    if busybox:
        done = shown(
            [*start, "--log", ground.log("busybox"), "--", busybox, "mknod", "bb", "c", "1", "5"],
            cwd=str(place),
        )
        check("busybox: made", done.returncode == 0)


def synthetic(ground: Ground) -> None:
    say('4. Twenty lines of Python answer open("/etc/os-release") with content of their own')
    done = shown(
        [*PROCTOR, "run", "--handlers", str(HERE / "os_release.py"), "--log", ground.log("os-release"), "--",
         "cat", "/etc/os-release"]
    )  # fmt: skip
    check("the content is ours", "Proctor Demo Linux" in done.stdout)
    check("cat ended well", done.returncode == 0)


#: One that every user can run.
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


def container(ground: Ground) -> None:
    say(
        "5. A whole container: its own /dev, an ext4 image, marks of image layers (examples/container.toml)"
    )
    if not ROOT:
        needs_root("mounting and marking for the container")
        return
    missing = [each for each in ("mkfs.ext4", "unshare", "losetup") if not shutil.which(each)]
    if missing or not os.path.exists("/dev/loop-control"):
        what = f"mounting an image (here is no {', '.join(missing) or '/dev/loop-control'})"
        print(f"   left out: {what}", flush=True)
        skipped.append(what)
        return
    place, contents, image = (
        ground.place("container"),
        ground.top / "contents",
        ground.top / "disk.img",
    )
    contents.mkdir()
    (contents / "hello").write_text("hello from the image\n")
    image.touch()
    os.truncate(image, 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(contents), str(image)], check=True)
    os.chown(image, OWNER, OWNER)
    for name in ("dev", "disk"):
        (place / name).mkdir()
        os.chown(place / name, OWNER, OWNER)
    program = place / "inside.py"
    shutil.copy(HERE / "inside.py", program)
    done = shown(
        [*PROCTOR, "run", USERNS, "--policy", str(CONTAINER), "--log", ground.log("container"), "--",
         "unshare", "-m", PYTHON, str(program), str(image)], cwd=str(place)
    )  # fmt: skip
    for line in done.stdout.splitlines():
        what, _, good = line.rpartition(": ")
        if good in ("ok", "NOT"):
            check(what, good == "ok")
    check("the program inside ended well", done.returncode == 0)
    written = subprocess.run(
        ["debugfs", "-R", "cat new", str(image)], capture_output=True, text=True, check=False
    )
    check("what it wrote is in the image", written.stdout == "from the container")
    mark = os.getxattr(place / "layer", "trusted.overlay.opaque")
    check("its mark is the host's, too", mark == b"y")


def costs() -> None:
    say("What each call costs, performed and natively (bench/families.py)")
    if skipped or not BENCH.exists():
        print("   left out with the above", flush=True)
        return
    shown([sys.executable, str(BENCH), "--rounds", "1"])


def table(ground: Ground) -> None:
    say("What was intercepted")
    groups: dict[tuple[str, str], list[float]] = {}
    for record in ground.records():
        what = str(record["verdict"]).replace("perform", "performed")
        if "errno" in record:
            what = f"refused {record['errno']}"
        groups.setdefault((str(record["syscall"]), what), []).append(
            float(str(record["microseconds"]))
        )
    print(
        f"   {'call':<12} {'what was done':<18} {'calls':>6} {'median µs':>10} {'slowest µs':>11}"
    )
    for (name, what), times in sorted(groups.items()):
        times.sort()
        print(
            f"   {name:<12} {what:<18} {len(times):>6} {times[len(times) // 2]:>10.1f} {times[-1]:>11.1f}"
        )
    print(
        "   (each command's first performed call waits until what performs is started; usual costs are below)"
    )


def main() -> int:
    ground = Ground()
    try:
        without(ground)
        supervised(ground)
        programs(ground)
        synthetic(ground)
        container(ground)
        table(ground)
        costs()
    finally:
        shutil.rmtree(ground.top)
    if problems:
        say(f"{len(problems)} things did not work as they should: " + "; ".join(problems))
        return 1
    if skipped:
        say(
            f"Everything shown worked. {len(skipped)} parts need the host's root and were left out."
        )
        return 77
    say("Everything worked.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

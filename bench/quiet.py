"""A C build, dpkg-buildpackage and dpkg -i with nothing synchronised: what that saves, and that all else is equal.

    python bench/quiet.py [--rounds N] [--files N]

As root, on ext4 on a loop device over a file of the working directory's file system, in a mount namespace of its own.  In turns: natively; with the
``quiet`` family (all of ``proctor run``, its start too); with the same calls answered by the filter alone.  What each way
leaves behind is compared, contents, modes and owners.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CALLS = '["fsync", "fdatasync", "sync", "syncfs", "msync", "sync_file_range"]'
WAYS = {"natively": "", "quiet": "perform = true", "by the filter": "return = 0"}
CONTROL = (
    "Source: small\nSection: misc\nPriority: optional\nMaintainer: Nobody <n@example.org>\n"
    "Standards-Version: 4.6.2\n\nPackage: small\nArchitecture: all\nDescription: small\n"
)
CHANGES = "small (1.0) unstable; urgency=low\n\n  * One.\n\n -- Nobody <n@example.org>  Sat, 01 Jan 2022 00:00:00 +0000\n"
#: Each file of the package is written to disk, as build systems that cache their products do.
RULES = """#!/usr/bin/make -f
clean build build-arch build-indep binary-arch:
binary-indep:
\tmkdir -p debian/small/DEBIAN debian/small/usr/share/small
\tcp data/* debian/small/usr/share/small; for each in debian/small/usr/share/small/*; do sync $$each; done
\tdpkg-gencontrol -Pdebian/small
\tdpkg-deb --root-owner-group -b debian/small ..
binary: binary-indep
"""


def prepare(top: Path, files: int) -> None:
    """A C project, a source package, and a system to install into."""
    for name in (
        "c",
        "out/small-1.0/debian",
        "out/small-1.0/data",
        "root/var/lib/dpkg/updates",
        "root/var/lib/dpkg/info",
    ):
        (top / name).mkdir(parents=True)
    (top / "root/var/lib/dpkg/status").touch()
    parts = [f"part{number}" for number in range(30)]
    for part in parts:
        (top / f"c/{part}.c").write_text(
            f'#include <stdio.h>\nint {part}(void) {{ return puts({part!r}[0] ? "x" : ""); }}\n'.replace(
                "'", '"'
            )
        )
    objects = " ".join(f"{part}.o" for part in parts)
    (top / "c/Makefile").write_text(f"all.a: {objects}\n\tar rcD all.a {objects}; sync all.a\n")
    package = top / "out/small-1.0"
    for number in range(files):
        (package / f"data/{number}").write_text(f"{number}\n" * 100)
    (package / "debian/control").write_text(CONTROL)
    (package / "debian/changelog").write_text(CHANGES)
    (package / "debian/rules").write_text(RULES)
    (package / "debian/rules").chmod(0o755)


STEPS = {
    "C build": "cd c && make -s",
    "dpkg-buildpackage": "cd out/small-1.0 && dpkg-buildpackage -us -uc -b -d",
    "dpkg -i": "dpkg --root=root --force-all --log=/dev/null -i out/small_1.0_all.deb",
}


def left(top: Path) -> str:
    """What there is, but for times, what the build says of its machine, and of when it was."""
    found = hashlib.sha256()
    for place, directories, names in os.walk(top):
        directories.sort()
        for path in [Path(place), *(Path(place) / name for name in sorted(names))]:
            status = path.stat(follow_symlinks=False)
            found.update(
                f"{path.relative_to(top)} {status.st_mode} {status.st_uid} {status.st_gid}".encode()
            )
            if path.is_file() and path.suffix not in (".buildinfo", ".changes"):
                found.update(path.read_bytes())
    return found.hexdigest()


def measure(way: str, top: Path, policy: Path, files: int) -> tuple[dict[str, float], str]:
    prepare(top, files)
    took = {}
    for step, line in STEPS.items():
        command = ["sh", "-euc", line]
        if WAYS[way]:
            command = [
                sys.executable,
                "-m",
                "proctor",
                "run",
                "--quiet",
                "--policy",
                str(policy),
                "--",
                *command,
            ]
        os.sync()
        began = time.perf_counter()
        subprocess.run(
            command, cwd=top, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1640995200"},
        )  # fmt: skip
        took[step] = time.perf_counter() - began
    said = left(top)
    shutil.rmtree(top)
    return took, said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=300)
    options = parser.parse_args()
    if os.environ.get("PROCTOR_BENCH_NAMESPACE") is None:
        command = ["unshare", "-m", "--propagation", "private", sys.executable, *sys.argv]
        os.execvpe(command[0], command, {**os.environ, "PROCTOR_BENCH_NAMESPACE": "1"})
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        place = Path(scratch).resolve()
        image, files = place / "image", place / "files"
        files.mkdir()
        with open(image, "wb") as file:
            file.truncate(1 << 30)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, files], check=True)
        try:
            all_left = set()
            for _ in range(options.rounds):
                for way, verdict in WAYS.items():
                    policy = place / "policy.toml"
                    policy.write_text(f'[[rule]]\nname = "quiet"\ncalls = {CALLS}\n{verdict}\n')
                    took, said = measure(way, files / "work", policy, options.files)
                    all_left.add(said)
                    for step, seconds in took.items():
                        times.setdefault((step, way), []).append(seconds)
        finally:
            subprocess.run(["umount", files], check=True)
    for step in STEPS:
        print(
            f"{step:18}", *(f"{way}: {statistics.median(times[step, way]):.2f} s " for way in WAYS)
        )
    print("equal" if len(all_left) == 1 else "NOT EQUAL")
    return len(all_left) != 1


if __name__ == "__main__":
    raise SystemExit(main())

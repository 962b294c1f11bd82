"""Ten real programs, natively, traced, and supervised: what the ordinary path costs whole programs.

    python bench/programs.py [--rounds N] [--only NAME,...] [--install] [--json FILE]

Each program runs in turns: natively; under ``strace -f --seccomp-bpf`` of the calls that open; under
``proctor run`` with a path rule and a log of the same calls; and with those opens performed.  Medians of
whole runs.  ``--install`` gets missing programs from apt (root); without it they are left out and named.
Nothing leaves the machine: clones, packages and requests are local.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

OPENS = "open,openat,openat2,creat"
RULES = """
[[rule]]
name = "secrets stay closed"
calls = ["open", "openat", "openat2", "creat"]
when = {{ path = "/root/.secrets/**" }}
deny = "EACCES"

[[rule]]
name = "everything else"
calls = ["open", "openat", "openat2", "creat"]
{verdict}
"""
RUN = 'allow = "unsafe: a benchmark that nobody races"'
PERFORM = "perform = true"
HERE = Path(__file__).resolve().parent


class Program(NamedTuple):
    """One program: how its place is prepared (not timed), and what is timed."""

    name: str
    needs: dict[str, str]
    """Executable to the Debian package that has it."""
    prepare: Callable[[Path], None]
    command: Callable[[Path], list[str]]
    fresh: str = ""
    """A folder that each run makes anew."""


def sh(text: str, place: Path, **environment: str) -> None:
    """A step of the preparation."""
    subprocess.run(
        ["sh", "-euc", text], cwd=place, check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )  # fmt: skip


def shell(text: str) -> Callable[[Path], list[str]]:
    return lambda place: ["sh", "-euc", f"cd '{place}'\n{text}"]


def repository(place: Path) -> None:
    sh(
        """git init -q source; cd source
        for d in $(seq 60); do mkdir d$d; for f in $(seq 20); do echo "$d $f $(seq 50)" > d$d/f$f; done; done
        git add .; git -c user.name=x -c user.email=x@y commit -q -m one; git gc -q""",
        place,
    )


def sources(files: int) -> Callable[[Path], None]:
    """A C project: many small files with the usual headers."""

    def make(place: Path) -> None:
        heads = "".join(
            f"#include <{n}.h>\n" for n in ("stdio", "stdlib", "string", "unistd", "sys/stat")
        )
        names = [f"part{n}" for n in range(files)]
        for name in names:
            (place / f"{name}.c").write_text(
                f'{heads}int {name}(int x) {{ return x + printf("%d", x); }}\n'
            )
        calls = " + ".join(f"{name}(1)" for name in names)
        externs = "".join(f"int {name}(int);\n" for name in names)
        (place / "main.c").write_text(f"{externs}int main(void) {{ return ({calls}) == 0; }}\n")
        objects = " ".join(f"{name}.o" for name in [*names, "main"])
        (place / "Makefile").write_text(f"all: {objects}\n\tcc -o all {objects}\n")

    return make


def packages(place: Path) -> None:
    """npm packages that depend on one another, as files."""
    for number in range(30):
        home = place / f"package{number}"
        home.mkdir()
        (home / "package.json").write_text(
            json.dumps({"name": f"package{number}", "version": "1.0.0"})
        )
        for part in range(40):
            (home / f"part{part}.js").write_text(f"module.exports = {part}\n")
        sh("npm pack --silent", home)
    wanted = {f"package{n}": f"file:../package{n}/package{n}-1.0.0.tgz" for n in range(30)}
    (place / "app.json").write_text(
        json.dumps({"name": "app", "version": "1.0.0", "dependencies": wanted})
    )


def wheels(place: Path) -> None:
    """Python projects, to be built and installed."""
    for number in range(3):
        home = place / f"project{number}"
        code = home / f"project{number}"
        code.mkdir(parents=True)
        for part in range(100):
            (code / f"part{part}.py").write_text(f"VALUE = {part}\n")
        (code / "__init__.py").write_text("")
        (home / "setup.py").write_text(
            f"from setuptools import setup\nsetup(name='project{number}', version='1', packages=['project{number}'])\n"
        )
    sh(
        f"{sys.executable} -m venv --system-site-packages env; env/bin/pip install -q setuptools wheel 2>/dev/null",
        place,
    )


def postgres(place: Path) -> None:
    sh("chown -R nobody . && chmod 755 . && chmod 755 ..", place)


def pages(place: Path) -> None:
    for number in range(200):
        (place / f"{number}.html").write_text("<p>" + "x" * 4000)
    (place / "nginx.conf").write_text(
        f"""daemon off; pid {place}/pid; error_log {place}/error; worker_processes 1; user root;
        events {{}} http {{ access_log off; server {{ listen unix:{place}/socket; root {place}; }} }}"""
    )
    (place / "ask.py").write_text(
        f"""import socket, subprocess, sys, time
server = subprocess.Popen(["nginx", "-c", "{place}/nginx.conf"])
def ask(n):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("{place}/socket")
        s.sendall(b"GET /%d.html HTTP/1.0\\r\\n\\r\\n" % n)
        while s.recv(65536): pass
while True:
    try: ask(0); break
    except OSError: time.sleep(0.005)
for n in range(2000): ask(n % 200)
server.terminate(); server.wait()
"""
    )


def nothing(place: Path) -> None:
    """Nothing to prepare."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


PG = "/usr/lib/postgresql/*/bin"
PROGRAMS = (
    Program("git clone", {"git": "git"}, repository, shell("git clone -q --no-local source fresh/copy"), "fresh"),
    Program("C build, 40 files", {"make": "make", "cc": "gcc"}, sources(40),
            shell("cp *.c Makefile fresh; make -s -C fresh"), "fresh"),
    Program("C build, -j2, 80 files", {"make": "make", "cc": "gcc"}, sources(80),
            shell("cp *.c Makefile fresh; make -s -j2 -C fresh"), "fresh"),
    Program("npm install", {"npm": "npm"}, packages,
            shell("cp app.json fresh/package.json; cd fresh; npm install --silent --offline --no-audit --no-fund"),
            "fresh"),
    Program("pip install", {}, wheels,
            shell("env/bin/pip install -q --disable-pip-version-check --no-index --no-build-isolation --no-deps"
                  " --target fresh/to ./project0 ./project1 ./project2 2>/dev/null"), "fresh"),
    Program("PostgreSQL, initdb", {"pg_ctlcluster": "postgresql"}, postgres,
            shell("chown nobody fresh; setpriv --reuid nobody --clear-groups "
                  f"$(ls -d {PG} | tail -n 1)/initdb -D fresh/data --no-sync >/dev/null"), "fresh"),
    Program("redis, start and benchmark", {"redis-server": "redis-server"}, nothing,
            shell("cd fresh; redis-server --port 0 --unixsocket s --save '' --daemonize no >/dev/null & server=$!\n"
                  "while [ ! -S s ]; do sleep 0.01; done\n"
                  "redis-benchmark -s s -q -n 20000 -t set,get >/dev/null; kill $server; wait"), "fresh"),
    Program("nginx, 2,000 requests", {"nginx": "nginx-light"}, pages,
            lambda place: [sys.executable, str(place / "ask.py")]),
    Program("ffmpeg", {"ffmpeg": "ffmpeg"}, nothing,
            shell("ffmpeg -v error -f lavfi -i testsrc=duration=2:size=320x240:rate=25 -c:v mpeg4 -y fresh/out.mp4"),
            "fresh"),
    Program("chromium, a page", {"chromium": "chromium"},
            lambda place: (place / "page.html").write_text("<h1>page</h1>") and None,
            shell("chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
                  "--disable-background-networking --disable-component-update --disable-sync --user-data-dir=fresh/user "
                  "--dump-dom file://$PWD/page.html >/dev/null 2>&1"), "fresh"),
)  # fmt: skip


def ways(scratch: Path) -> dict[str, list[str]]:
    """Name to the command line that goes before the program's."""
    proctor = [sys.executable, "-m", "proctor", "run", "--quiet"]
    found = {}
    for name, verdict in (("rules", RUN), ("performed", PERFORM)):
        (scratch / f"{name}.toml").write_text("version = 1\n" + RULES.format(verdict=verdict))
    found["native"] = []
    if shutil.which("strace"):
        found["strace"] = [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-e",
            f"trace={OPENS}",
            "-o",
            f"{scratch}/strace",
        ]
    found["rules and log"] = [
        *proctor,
        "--policy",
        f"{scratch}/rules.toml",
        "--log",
        f"{scratch}/log",
        "--",
    ]
    found["performed"] = [*proctor, "--policy", f"{scratch}/performed.toml", "--"]
    return found


def timed(command: list[str], program: Program, place: Path) -> float:
    if program.fresh:
        shutil.rmtree(place / program.fresh, ignore_errors=True)
        (place / program.fresh).mkdir()
    before = time.perf_counter()
    done = subprocess.run(
        [*command, *program.command(place)],
        cwd=place,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=120,
        # as installed: with its modules compiled, which the round to warm up sees to
        env={key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
    )
    took = time.perf_counter() - before
    return took if not done.returncode else math.nan


def measure(program: Program, rounds: int, place: Path) -> dict[str, float]:
    """Medians by way, taken in turns after one round to warm up; NaN for what did not succeed."""
    program.prepare(place)
    taken: dict[str, list[float]] = {}
    every = ways(place.parent)
    for number in range(rounds + 1):
        for way, command in every.items():
            took = timed(command, program, place)
            if number or math.isnan(took):
                taken.setdefault(way, []).append(took)
    return {way: statistics.median(times) for way, times in taken.items()}


def missing(program: Program) -> dict[str, str]:
    return {name: package for name, package in program.needs.items() if shutil.which(name) is None}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each (%(default)s)")
    parser.add_argument("--only", default="", help="programs whose names begin so, by commas")
    parser.add_argument("--install", action="store_true", help="get what is missing from apt")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    chosen = [p for p in PROGRAMS if p.name.startswith(tuple(options.only.split(",")))]
    if options.install:
        wanted = sorted({package for program in chosen for package in missing(program).values()})
        if wanted:
            subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *wanted], check=True,
                           stdout=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})  # fmt: skip
    figures: dict[str, dict[str, float]] = {}
    print(
        f"{'program':28} {'native':>9} {'strace':>8} {'rules+log':>10} {'performed':>10}   rules add / strace adds"
    )
    for program in chosen:
        if lacks := missing(program):
            print(f"{program.name:28} left out: no {', '.join(lacks)}")
            continue
        with tempfile.TemporaryDirectory(prefix="proctor-bench-") as scratch:
            os.chmod(scratch, 0o755)
            place = Path(scratch) / "place"
            place.mkdir()
            found = figures[program.name] = measure(program, options.rounds, place)
        native = found["native"]
        row = f"{program.name:28} {native * 1e3:7.0f}ms"
        for way in ("strace", "rules and log", "performed"):
            ratio = found.get(way, math.nan) / native
            row += (
                f" {'failed' if way in found else '-':>9}"
                if math.isnan(ratio)
                else f" {ratio:8.2f}x"
            )
        if "strace" in found and found["strace"] > native:
            row += f"   {(found['rules and log'] - native) / (found['strace'] - native):6.2f}"
        print(row, flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""stat, access and readlink, natively and performed: what they fill is the same to the byte, also for calls of i386."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from tests.performing.support.callers import open_directory
from tests.performing.support.containers import NAMESPACES, PYTHON
from tests.performing.support.trees import PATHS, build

SOURCE = Path(__file__).with_name("looks.c")
USERS = {
    "root": {},
    "user": {"uid": 1000},
    "container": {"userns": [(0, 100000, 65536)], "namespaces": NAMESPACES},
}
ABOUT = [
    b"/proc/self/exe",
    b"/proc/self/cwd",
    b"/proc/self/fd/7",
    b"/dev/null",
    b"/proc/meminfo",
    b"@7",
    b"@8",
    b"@99",
]
#: Files by when they were changed, in seconds: of which programs of 32 bits see the lower half.
LATE = {b"early": -5, b"later": 1 << 31, b"late": (1 << 33) + 7}


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with open_directory() as top:
        made = os.fsdecode(top) + "/looks"
        subprocess.run(["gcc", "-O1", "-o", made, str(SOURCE)], check=True)
        yield made


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have callers with other identities")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has calls of i386")
@pytest.mark.parametrize("kind", USERS)
def test_what_is_told_is_what_the_kernel_tells(looks: str, kind: str) -> None:
    with open_directory() as place:
        top = place + b"/1/2/3/tree"
        os.makedirs(top)
        build(top, 0 if kind == "root" else 1000 if kind == "user" else 100000)
        for name, seconds in LATE.items():
            with open(top + b"/" + name, "wb") as file:
                file.truncate(seconds + 10)  # also more bytes than 32 bits tell
            os.utime(top + b"/" + name, (seconds, seconds))
        paths = [each.replace(b"TOP", top[1:]) for each in PATHS] + [*ABOUT, *LATE]
        script = 'exec 7<"$1/to-file" 8<"$1/dir"; cd "$1" && shift && exec "$@"'
        command = ["sh", "-c", script, "sh", top, looks, *paths]

        def told(*handlers: proctor.Handler) -> list[bytes]:
            how = dict(USERS[kind])
            done = proctor.run(
                command, list(handlers), capture_output=True, timeout=120, check=True, **how
            )
            out: bytes = done.stdout
            return [
                without_mount(line) if kind == "container" else line for line in out.splitlines()
            ]

        natively = told()
        asked: list[bytes] = []

        def ask(call: proctor.Call) -> proctor.Verdict:
            return proctor.perform(lambda argument, path: asked.append(path) or True)

        about = families.stat().names
        assert sum(b" 0 " in line for line in natively) > 500
        for handler in (families.stat(), proctor.Handler(about, ask)):
            assert_alike(natively, told(handler))
        assert len(asked) > 1000


def without_mount(line: bytes) -> bytes:
    """Each run of a container has mounts of its own, whose numbers are whatever is free."""
    head, _, data = line.rpartition(b" ")
    if b"statx" not in head or len(data) < 2 * 152:
        return line
    return head + b" " + data[: 2 * 144] + data[2 * 152 :]


def assert_alike(one: list[bytes], other: list[bytes]) -> None:
    path, wrong = b"", []
    for mine, theirs in zip(one, other, strict=True):
        path = mine if mine[:2] == b"--" else path
        theirs_too = path[3:].strip(b"/") in (b"", b"dev/null")  # and others' times
        its_own = b"/proc/" in path and (b"stat" in mine or path.endswith(b"self"))
        if its_own or theirs_too:
            lines = mine[: mine.rfind(b" ")], theirs[: theirs.rfind(b" ")]
            if b"readlink" in mine:  # a number, and its length
                lines = lines[0].rstrip(b"0123456789"), lines[1].rstrip(b"0123456789")
        else:
            lines = mine, theirs
        if lines[0] != lines[1]:
            wrong.append((path, *lines))
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(map(str, wrong[:9]))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have callers with other identities")
@pytest.mark.parametrize("kind", USERS)
def test_who_reads_self_reads_its_own_number(kind: str) -> None:
    """In whatever procfs, by whatever way, at any length: not the number of whoever reads for it."""
    code = """
import os
top, held = os.open("/proc", os.O_PATH), os.open("/proc/thread-self", os.O_PATH | os.O_NOFOLLOW)
mine, both = str(os.getpid()), f"{os.getpid()}/task/{os.getpid()}"
assert os.readlink("/proc/self") == os.readlink("/proc/../proc/./self") == mine
assert os.readlink("/proc/thread-self") == os.readlink("/proc/self/cwd/proc/thread-self") == both
assert os.readlink("self", dir_fd=top) == mine and os.readlink("", dir_fd=held) == both
os.chdir("/proc")
assert os.readlink("self") == mine and os.readlink("mounts") == "self/mounts"
print("right")
"""
    how = dict(USERS[kind])
    command = [PYTHON, "-c", code]
    done = proctor.run(command, [families.stat()], capture_output=True, timeout=60, cwd="/", **how)
    assert (done.stdout, done.stderr) == (b"right\n", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs ids of others")
@pytest.mark.parametrize("userns", [False, True])
def test_access_is_asked_with_the_rights_of_the_real_user(userns: bool) -> None:
    """As programs with set-user-ID ask for whoever started them: their own rights do not count."""
    code = """
import os
for ids in ((1000, 0, 0), (0, 1000, 0), (1000, 1000, 0), (0, 0, 0)):
    if os.fork() == 0:
        os.setresuid(*ids)
        for path in ("file", "place", "place/within"):
            for effective in (False, True):
                print(ids, path, [os.access(path, m, effective_ids=effective) for m in (0, 1, 2, 4)], flush=True)
        os._exit(0)
    os.wait()
"""
    with open_directory() as top:
        place = Path(os.fsdecode(top))
        (place / "place").mkdir(mode=0o700)
        for name in ("file", "place/within"):
            (place / name).write_text("")
            (place / name).chmod(0o600)
        how: Any = {"userns": ((0, 0, 65536),)} if userns else {}
        natively, performed = (
            proctor.run(
                ["/usr/bin/python3", "-I", "-c", code], handlers, capture_output=True, cwd=place, timeout=60, check=True, **how
            ).stdout.decode()
            for handlers in ([proctor.Handler(["getcpu"], lambda call: proctor.let_run())], [families.stat()])
        )  # fmt: skip
    assert performed == natively
    assert "(1000, 0, 0) file [True, False, False, False]" in natively

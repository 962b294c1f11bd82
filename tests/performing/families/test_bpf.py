"""Device programs of cgroups: a container's own, for its own cgroups, and nothing more.

PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import proctor
from proctor import families
from proctor.call.verdict import HandOver
from proctor.performing import attached
from tests.performing.support import boxes
from tests.performing.support.callers import Performers, caller, open_directory
from tests.performing.support.containers import PYTHON, inside, told
from tests.support.processes import eventually

PROGRAM = Path(__file__).parents[1] / "at_random" / "random_devices.py"
TRIES = int(os.environ.get("PROCTOR_TRIES", "400"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
CGROUPS = next(
    (
        each
        for each in map(Path, ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"))
        if (each / "cgroup.controllers").exists()
    ),
    None,
)
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make containers"),
    pytest.mark.skipif(CGROUPS is None, reason="no cgroups of version 2"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="has numbers of x86-64"),
]

CODE = r"""
own, hosts = sys.argv[1:]
def bpf(command, attr):
    made = libc.syscall(321, command, ctypes.create_string_buffer(attr, len(attr)), len(attr))
    if made < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return made
def insn(code, registers=0, offset=0, value=0):
    return struct.pack("=BBhi", code, registers, offset, value)
kept = []
def load(program, kind=15, expected=6, tail=b"", flags=0):
    buffers = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")
    kept.append(buffers)
    at, licence = map(ctypes.addressof, buffers)
    return bpf(5, struct.pack("=IIQQIIQII16sII", kind, len(program) // 8, at, licence, 0, 0, 0, 0, flags, b"device", 0, expected) + tail)
def attach(target, program, flags=2, kind=6, replace=0, command=8):
    return bpf(command, struct.pack("=IIIII", target, program, kind, flags, replace))
def opens(path):
    os.close(os.open(path, os.O_RDONLY))
    return "opened"
end = insn(0x95)
refuse, let = insn(0xb7) + end, insn(0xb7, value=1) + end
denies, lets = load(refuse), load(let)
results += [os.readlink(f"/proc/self/fd/{denies}"), bool(__import__("fcntl").fcntl(denies, 1) & 1)]
os.makedirs(own + "/sub/below"); sub = os.open(own + "/sub", os.O_RDONLY)
open(own + "/sub/cgroup.procs", "w").write("0")
tried(opens, "/dev/null")
tried(attach, sub, denies); tried(opens, "/dev/null")
tried(attach, sub, denies, 0, 6, 0, 9); tried(opens, "/dev/null")
tried(attach, sub, lets)
tried(attach, sub, denies, 6, 6, lets); tried(opens, "/dev/null")      # in its place
tried(attach, sub, denies, 0, 6, 0, 9); tried(opens, "/dev/null")
top = os.open(own, os.O_RDONLY)
tried(attach, top, lets); tried(attach, top, lets, 0, 6, 0, 9)
# what is refused
for flags in (0, 1):
    tried(attach, top, denies, flags)                                  # alone, to what was given to it
tried(attach, sub, lets, 8)
below = os.open(own + "/sub/below", os.O_RDONLY)
for flags in (0, 1):
    tried(attach, sub, denies, flags); tried(attach, below, denies, flags); tried(opens, "/dev/null"); tried(attach, sub, lets, 2)
    tried(attach, sub, lets, flags); tried(opens, "/dev/null"); tried(attach, sub, lets, 0, 6, 0, 9)   # in its place
    flags and tried(attach, below, lets, 0, 6, 0, 9)
tried(attach, sub, lets, 2, 0)                                         # another kind
tried(attach, os.open(hosts, os.O_RDONLY), lets)                       # not its cgroup
tried(attach, os.open(os.path.dirname(own), os.O_RDONLY), lets)        # nor above
tried(attach, os.open("/", os.O_RDONLY), lets); tried(attach, 999, lets); tried(attach, sub, 998); tried(attach, sub, sub)
tried(load, let, 1); tried(load, insn(0xbf, 0x10) + end, 8, 0)         # socket filters, packets of cgroups
packets = load(let, 8, 0)                                              # but one that says a number
tried(attach, sub, packets, 2, 0); tried(attach, sub, packets); tried(load, insn(0x79, 0x10) + end, 8, 0)
tried(load, b""); tried(load, let, 15, 6, b"\1"); tried(load, let, 15, 6, b"", 16)
tried(load, insn(0x85, value=15) + end)                                # calls a helper
tried(load, insn(0x18, 0x11, 0, 3) + insn(0) + insn(0xb7) + end)       # refers to a map
tried(load, insn(0x18, 0x01, 0, 3) + insn(0) + insn(0xb7) + end) > 0 and results.pop() and results.append("loaded")
tried(load, end)                                                       # the verifier's
tried(load, insn(0x79, 0x10) + end)
tried(bpf, 0, struct.pack("=IIII", 2, 4, 4, 1))                        # a map: the kernel's word
"""


ASKED = r"""
def number(fd):
    return next(int(line[8:]) for line in open(f"/proc/self/fdinfo/{fd}") if line.startswith("prog_id"))
def query(target, how=0, kind=6, room=64):
    ids = ctypes.create_string_buffer(4 * 64)
    attr = ctypes.create_string_buffer(struct.pack("=IIIIQI4xQQQQ", target, kind, how, 0, ctypes.addressof(ids), room, 0, 0, 0, 0), 64)
    if libc.syscall(321, 16, attr, 64) < 0:
        raise OSError(ctypes.get_errno(), "query")
    flags, count = struct.unpack_from("=I8xI", attr.raw, 12)
    return [flags, [names.get(each, each) for each in struct.unpack("=64I", ids.raw)[:min(count, room)]]]
def opened(number, tail=b""):
    return bpf(13, struct.pack("=I", number) + tail)
own, hosts, others = sys.argv[1:]
other = load(let)
names = {number(denies): "denies", number(lets): "lets", int(others): "the host's"}
tried(query, sub); attach(sub, denies); attach(sub, lets); tried(query, sub); tried(query, top); tried(query, sub, 0, 6, 0)
again = opened(number(denies))
results += [os.readlink(f"/proc/self/fd/{again}"), number(again) == number(denies), bool(__import__("fcntl").fcntl(again, 1) & 1)]
tried(attach, sub, again, 0, 6, 0, 9); tried(query, sub)
tried(opened, number(denies)); tried(opened, number(other)); tried(opened, int(others)); tried(opened, 0x7fffffff)   # not attached to its own
results.append(opened(number(lets), b"\0" * 8) > 0); tried(opened, number(lets), b"\1\0\0\0"); tried(opened, number(lets), b"\0" * 12 + b"\1")
tried(query, sub, 1); tried(query, sub, 2); tried(query, sub, 0, 0); tried(query, os.open(hosts, os.O_RDONLY)); tried(query, 999)
os.setresuid(1, 1, 1)
tried(query, sub); tried(opened, number(lets))
"""


@pytest.fixture
def groups() -> Iterator[tuple[Path, Path]]:
    """A cgroup that is given to the container, and one that is not."""
    assert CGROUPS is not None
    own, hosts = (CGROUPS / f"proctor-{os.getpid()}-{name}" for name in ("own", "hosts"))
    made = []
    try:
        for each in (own, own / "given", hosts):
            try:
                each.mkdir()
            except OSError as error:
                pytest.skip(f"no cgroup can be made: {error}")
            made.append(each)
        for name in ("", "cgroup.procs", "cgroup.subtree_control"):
            os.chown(own / "given" / name, 100000, 100000)
        yield own / "given", hosts
    finally:
        inner = sorted((*(own / "given").rglob("*/"), *hosts.rglob("*/")), reverse=True)
        for each in (*inner, *reversed(made)):
            eventually("its members gone", lambda each=each: removed(each))


def removed(group: Path) -> bool:
    """Executors that were members may be dying yet."""
    try:
        group.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


@contextmanager
def joined(own: Path, owner: int) -> Iterator[None]:
    """What is begun meanwhile is a member of a cgroup below this one."""
    first = own / "first"
    first.mkdir()
    for name in ("", "cgroup.procs"):
        os.chown(first / name, owner, owner)
    before = next(
        line
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if line.startswith("0::")
    )[3:]
    assert CGROUPS is not None
    (first / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (CGROUPS / before.strip("/") / "cgroup.procs").write_text(str(os.getpid()))


def run(own: Path, hosts: Path) -> list[object]:
    with joined(own, 100000):
        return told(CODE, own, hosts, handlers=[families.bpf()], namespaces=("mnt",))


def test_its_own_cgroups_and_nothing_else(groups: tuple[Path, Path]) -> None:
    assert run(*groups) == [
        "anon_inode:bpf-prog", True, "opened", 0, "EPERM", 0, "opened", 0, 0, "EPERM", 0, "opened", 0, 0,
        "EPERM", "EPERM", "EINVAL", 0, "EPERM", "EPERM", "EPERM", 0, "opened", 0, 0, 0, "EPERM", "EPERM", 0, "opened", 0, 0,
        "EPERM", "EPERM", "EPERM", "EBADF", "EBADF", "EBADF", "EINVAL",
        "EPERM", "EPERM", "EPERM", "EINVAL", "EPERM", "E2BIG", "EINVAL", "EINVAL", "EPERM", "EPERM", "loaded", "EACCES", "EACCES", "EPERM",
    ]  # fmt: skip


def test_what_is_attached_is_told_of_its_own_cgroups_and_had(groups: tuple[Path, Path]) -> None:
    own, hosts = groups
    with program_of_the_hosts(own) as others:
        begin = CODE[: CODE.index('tried(opens, "/dev/null")')].replace(
            "own, hosts =", "own, hosts, _ ="
        )
        begin += "top = os.open(own, os.O_RDONLY)\nresults.clear()\n"
        with joined(own, 100000):
            seen = told(
                begin + ASKED, own, hosts, others, handlers=[families.bpf()], namespaces=("mnt",)
            )
    assert seen == [
        [0, []], [2, ["denies", "lets"]], [2, ["the host's"]], [2, []], "anon_inode:bpf-prog", True, True, 0, [2, ["lets"]],
        "ENOENT", "ENOENT", "ENOENT", "ENOENT", True, "EINVAL", "EINVAL",
        "EPERM", "EINVAL", "EPERM", "EPERM", "EBADF", "EPERM", "EPERM",
    ]  # fmt: skip


def looked_at(base: Path) -> Iterator[str]:
    for place, _ in attached._Own(os.fsencode(base), [], SimpleNamespace()).opened():  # type: ignore[arg-type]
        yield os.fsdecode(place)[len(str(base)) :]


def test_another_cgroup_may_be_removed_meanwhile(tmp_path: Path) -> None:
    """As by who runs containers in a container, several at a time: it listed what was there, and one is not any more."""
    for name in ("a", "b", "c"):
        (tmp_path / name / "below").mkdir(parents=True)
    seen = []
    for place in looked_at(tmp_path):
        seen.append(place)
        if place in {"/a", "/b", "/c"}:
            for other in {"a", "b", "c"} - {each[1:] for each in seen}:
                shutil.rmtree(tmp_path / other, ignore_errors=True)
    first = seen[1]
    assert seen == ["", first, f"{first}/below"]
    gone = looked_at(tmp_path / first[1:])
    assert next(gone) == ""
    shutil.rmtree(tmp_path / first[1:])
    assert list(gone) == []  # it is held, and has nothing in it any more


def test_a_container_may_make_many_in_one_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (tmp_path / f"{number}/below").mkdir(parents=True)
    assert len(list(looked_at(tmp_path))) == 61
    monkeypatch.setattr(attached, "_MOST_CGROUPS", 20)
    seen = list(looked_at(tmp_path))
    assert len(seen) == 20 and not any("below" in each for each in seen)  # the highest first


@contextmanager
def program_of_the_hosts(place: Path) -> Iterator[int]:
    """The id of one that is attached to a cgroup of the host's."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    at = ctypes.addressof(program), ctypes.addressof(licence)
    attr = struct.pack("=IIQQIIQII16sII", 15, 2, *at, 0, 0, 0, 0, 0, b"hosts", 0, 6)
    loaded, group = libc.syscall(321, 5, attr, len(attr)), os.open(place, os.O_RDONLY)
    try:
        assert not libc.syscall(321, 8, struct.pack("=IIIII", group, loaded, 6, 2, 0), 20)
        lines = Path(f"/proc/self/fdinfo/{loaded}").read_text().splitlines()
        yield next(int(line[8:]) for line in lines if line.startswith("prog_id"))
        assert not libc.syscall(321, 9, struct.pack("=IIIII", group, loaded, 6, 0, 0), 20)
    finally:
        os.close(group)
        os.close(loaded)


def test_nothing_above_is_put_out_of_work(groups: tuple[Path, Path]) -> None:
    """A program of the host's that was attached so that others below may override it."""
    own, hosts = groups
    libc = ctypes.CDLL(None, use_errno=True)
    program = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    at = ctypes.addressof(program), ctypes.addressof(licence)
    loaded = libc.syscall(
        321, 5, struct.pack("=IIQQIIQII16sII", 15, 2, *at, 0, 0, 0, 0, 0, b"hosts", 0, 6), 72
    )
    assert loaded >= 0
    place = os.open(own.parent, os.O_RDONLY)
    try:
        assert not libc.syscall(321, 8, struct.pack("=IIIII", place, loaded, 6, 1, 0), 20)
        seen = run(own, hosts)
        assert seen[3:5] == ["EPERM", "opened"], seen
        assert not libc.syscall(321, 9, struct.pack("=IIIII", place, loaded, 6, 0, 0), 20)
    finally:
        os.close(place)
        os.close(loaded)


def test_at_random_it_is_as_natively(groups: tuple[Path, Path]) -> None:
    """With the rights that are lent, by the host's root: what each call says and writes, and which devices can be opened then."""
    own, hosts = groups
    said = []
    for natively, place, owner in (("1", hosts, 0), ("0", own, 100000)):
        command = [PYTHON, "-I", str(PROGRAM), str(SEED), str(TRIES), str(place), natively]
        with joined(place, owner):
            if natively == "1":
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=900
                )
            else:
                done = inside(command, [families.bpf()], namespaces=("mnt",), timeout=900)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.splitlines())
    assert len(said[0]) == len(said[1]) == TRIES
    wrong = [f"{one}\n{other}" for one, other in zip(*said, strict=True) if one != other]
    assert not wrong, done.stderr[-2000:] + f"{len(wrong)} differ:\n" + "\n".join(wrong[:30])


def test_who_lends_may_be_the_first_that_is_asked_for() -> None:
    """Before there was any executor, and before there was their mother."""
    program = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0)
    with caller(maps="0 100000 65536") as one:
        attr = struct.pack("=IIQQIIQII16sII", 15, 2, 4 << 20, 5 << 20, 0, 0, 0, 0, 0, b"", 0, 6)
        performers = Performers()  # nobody enters it, which would start the mother
        verdict = performers.perform(one.call("bpf", 5, attr, len(attr), program, b"GPL\0"))
        performers.close()
    assert isinstance(verdict, HandOver), verdict
    os.close(verdict.fd)


@proctor.on("prlimit64")
def LIMITS(call: proctor.Call) -> proctor.Verdict:
    """Those of locked memory are raised by who may not, since crun gives up otherwise; programs of Linux 5.11 need none."""
    _, kind, new, _ = call.registers[:4]
    return proctor.answer(0) if kind == resource.RLIMIT_MEMLOCK and new else proctor.let_run()


@pytest.mark.parametrize("performed", [True, False])
@pytest.mark.parametrize("runtime", boxes.RUNTIMES)
def test_runtimes_keep_devices_from_their_containers(
    groups: tuple[Path, Path], runtime: str, performed: bool
) -> None:
    """Which both ask what is attached first, and begin without their rules where the kernel does not tell."""
    rules = [{"allow": False, "access": "rwm"}]  # but for what they give to every container
    script = "for each in dev/null fuse; do : < /$each && /bin/busybox echo $each; done 2>/dev/null"
    with joined(groups[0], 100000), open_directory() as top:
        handlers = [LIMITS, *([families.bpf()] if performed else [])]
        place = Path(os.fsdecode(top))
        (place / "rootfs").mkdir()
        os.mknod(place / "rootfs/fuse", 0o20666, os.makedev(10, 229))
        os.chmod(place / "rootfs/fuse", 0o666)
        done = boxes.run(runtime, place, script, handlers, devices=rules)
    assert done.stdout.split() == ["dev/null", *(["fuse"] if not performed else [])], done.stderr

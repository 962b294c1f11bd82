"""Modules loaded and taken away at random, natively and performed: what each call says, and which there are then.

In a machine of their own (make test-kernels): on any other they are somebody's.  PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from proctor import families
from proctor.performing import module_name
from proctor.performing.families import modules
from tests.performing.support.containers import PYTHON, inside, told

PROGRAM = Path(__file__).with_name("random_modules.py")
TRIES = int(os.environ.get("PROCTOR_TRIES", "60"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
#: One alone, one that depends on others, one that stays for ever (no exit: EBUSY), one that finds no hardware.
NAMES = ("dummy", "8021q", "vrf", "kvm_intel")
pytestmark = [
    pytest.mark.skipif(
        "PROCTOR_TEST_MACHINE" not in os.environ or not shutil.which("modprobe"),
        reason="modules come and go in a machine of the tests' own only",
    ),
    pytest.mark.timeout(3000),
]


def depends(name: str) -> list[str]:
    """What modprobe(8) would load, in order."""
    done = subprocess.run(
        ["modprobe", "--show-depends", name], capture_output=True, text=True, check=False
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    if done.returncode or any(line[0] != "insmod" for line in lines):
        pytest.skip(f"this kernel has no module {name}")
    return [line[1] for line in lines]


def unload(known: set[str]) -> None:
    """All that may be, whatever depends on what."""
    for name in [*known] * len(known):
        subprocess.run(["rmmod", name], check=False, capture_output=True)


def test_at_random_they_are_as_natively(
    place: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # such a machine is slow, and counts as the processor's time what it was kept waiting
    source, hurried = Path(module_name.__file__).read_text(), "PATIENCE: Final = 5"
    assert hurried in source
    patient = tmp_path / "module_name.py"
    patient.write_text(source.replace(hurried, "PATIENCE: Final = 300"))
    monkeypatch.setattr(module_name, "__file__", str(patient))
    monkeypatch.setattr(module_name, "PATIENCE", 300)
    monkeypatch.setattr(modules, "_PATIENCE", 300)
    paths = {name: depends(name) for name in NAMES}
    if any(not each.endswith(".ko") for some in paths.values() for each in some):
        pytest.skip("modules are compressed, which this kernel may not know of")
    known = {Path(each).stem.replace("-", "_") for some in paths.values() for each in some}
    said = []
    subprocess.run(["modprobe", "vrf"], check=True)
    for how in ("native", "performed"):
        unload(known)
        top = Path(os.fsdecode(place), how)
        top.mkdir()
        for name, some in paths.items():
            (top / name).write_bytes(Path(some[-1]).read_bytes())
        good = (top / "dummy").read_bytes()
        for name, data in (
            ("text", b"text" * 99), ("empty", b""), ("short", good[:63]), ("head", good[:64]), ("half", good[: len(good) // 2]),
        ):  # fmt: skip
            (top / name).write_bytes(data)
        for each in (top, *top.iterdir()):
            os.chown(each, *((0, 0) if how == "native" else (100000, 100000)))
        command = [PYTHON, "-I", PROGRAM, str(SEED), str(TRIES), str(top), how, json.dumps(paths)]
        if how == "native":
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        else:
            parameters = [f"{name}.nonsense" for name in NAMES] + ["dummy.numdummies"]
            handlers = [
                families.modules(modules=[*known, "nosuch"], parameters=parameters, unload=True)
            ]
            done = inside([str(each) for each in command], handlers, timeout=2000)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.splitlines())
    unload(known)
    wrong = [f"{one}\n{other}" for one, other in zip(*said, strict=True) if one != other]
    assert not wrong, f"{len(wrong)} of {TRIES} differ:\n" + "\n".join(wrong[:20])
    everything = "\n".join(said[0])
    for word in ("EEXIST", "ENOENT", "EBUSY", "EAGAIN", "ETXTBSY", "ENOEXEC", "EBADF", "EINVAL"):
        assert f" {word} " in everything or TRIES < 60 or SEED != 1, word


def test_nothing_is_forced_out(place: bytes) -> None:
    """What is in use would take the kernel with it."""
    depends("vrf")
    subprocess.run(["modprobe", "vrf"], check=True)
    program = f"""
def delete():
    if libc.syscall({176 if os.uname().machine == "x86_64" else 106}, b"vrf", os.O_NONBLOCK | os.O_TRUNC):
        raise OSError(ctypes.get_errno(), "delete")
tried(delete)
"""
    handlers = [families.modules(modules=["vrf"], unload=True)]
    assert told(program, handlers=handlers) == ["EBUSY"]
    assert os.path.exists("/sys/module/vrf")

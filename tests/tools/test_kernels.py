"""The parts of tools/kernels that need no machine: names, archives, the table."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tools.kernels import architectures, cpio, foreign, image, packages, report

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("6.1", ("6.1", "", False)),
        ("5.10@bullseye", ("5.10", "bullseye", False)),
        ("?@sid", ("", "sid", True)),
        ("linux-image-6.1.0-50-amd64", ("linux-image-6.1.0-50-amd64", "", False)),
        ("5.4@/some/where.list", ("5.4", "/some/where.list", False)),
    ],
)
def test_names_of_kernels(text: str, wanted: tuple[str, str, bool]) -> None:
    assert tuple(packages.parse(text)) == wanted


@pytest.mark.parametrize("text", ["?", "", "@", "6.1@", "abc", "6.x@sid"])
def test_a_name_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no kernel"):
        packages.parse(text)


def test_the_command_says_so_in_a_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.kernels", "abc"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    said = "error: 'abc' names no kernel, as 6.1 and 5.10@bullseye do"
    assert done.stderr.splitlines()[-1].endswith(said)


@pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox to unpack with")
def test_an_archive_unpacks(tmp_path: Path) -> None:
    """Two archives in one file, as a kernel gets them: directories are made, modes and links kept."""
    one, two = tmp_path / "one", tmp_path / "two"
    cpio.write(
        one, "top",
        [
            cpio.Entry("/bin/tool", stat.S_IFREG | 0o755, b"#!tool"),
            cpio.Entry("/sbin", stat.S_IFLNK | 0o777, b"bin"),
            cpio.Entry("/empty", stat.S_IFDIR | 0o700, b""),
        ],
    )  # fmt: skip
    cpio.write(two, "top", [cpio.Entry("/bin/odd", stat.S_IFREG | 0o644, b"12345")])
    assert one.stat().st_size % 512 == 0  # so that the next one may follow
    place = tmp_path / "place"
    place.mkdir()
    for archive in (one, two):
        with open(archive, "rb") as file:
            subprocess.run(
                ["busybox", "cpio", "-idu", "--quiet"], stdin=file, cwd=place, check=True
            )
    top = place / "top"
    assert (top / "bin/tool").read_bytes() == b"#!tool"
    assert os.stat(top / "bin/tool").st_mode & 0o777 == 0o755
    assert os.readlink(top / "sbin") == "bin"
    assert (top / "sbin/odd").read_bytes() == b"12345"
    assert os.stat(top / "empty").st_mode & 0o777 == 0o700


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb to make a package with")
def test_a_package_of_before_the_merged_usr_goes_by_the_links(tmp_path: Path) -> None:
    made, place = tmp_path / "made", tmp_path / "place"
    (made / "DEBIAN").mkdir(parents=True)
    (made / "DEBIAN/control").write_text(
        "Package: p\nVersion: 1\nArchitecture: arm64\nMaintainer: m <m@m>\nDescription: d\n"
    )
    (made / "lib").mkdir()
    (made / "lib/ld.so").write_bytes(b"old")
    archive = tmp_path / "p_1_arm64.deb"
    subprocess.run(["dpkg-deb", "--build", made, archive], check=True, capture_output=True)
    (place / "usr/lib").mkdir(parents=True)
    (place / "lib").symlink_to("usr/lib")
    foreign.unpack(archive, place)
    assert (place / "usr/lib/ld.so").read_bytes() == b"old" and (place / "lib").is_symlink()


@pytest.mark.parametrize(("python", "compiled"), [(image.THIS, True), ("python3.1", False)])
def test_byte_code_is_put_in_for_this_version_only(
    tmp_path: Path, python: str, compiled: bool
) -> None:
    module = tmp_path / "module.py"
    module.write_text("x = 1\n")
    system = image.System(
        {"/lib/module.py": module}, {"/lib": "/usr/lib"}, f"/usr/bin/{python}", "/p"
    )
    found = system.archive(tmp_path / "kept").read_bytes()
    assert b"system/usr/lib/module.py\0" in found and b"system/lib/module.py\0" not in found
    assert (b".pyc\0" in found) is compiled
    assert system.archive(tmp_path / "kept").read_bytes() == found


def test_each_machine_has_a_port_for_what_the_kernel_says_and_one_for_reports() -> None:
    for architecture in architectures.ALL.values():
        words = " ".join(architecture.machine)
        assert "chardev:console" in words and words.count("reports") == 1
        assert architecture.console != architecture.port and all(
            map(packages.parse, architecture.kernels)
        )


def _outcome(*events: dict[str, object]) -> report.Outcome:
    image = packages.KernelImage("6.1", "linux-image-6.1.0-1-cloud-amd64", "6.1.0-1", Path("/none"))
    outcome = report.Outcome(image)
    for event in events:
        outcome.take(event)
    outcome.finish()
    return outcome


_UP = {"up": "6.1.0-1", "profile": "6.1", "seconds": 1}
_COMPARE = {"part": "compare", "code": 0, "steps": 1234, "seconds": 1}


def test_a_good_run_has_no_problem_and_a_row() -> None:
    tests = {"tests": 10, "failures": 0, "errors": 0, "skipped": 3}
    suite = {"part": "tests/kernel", "code": 0, "counts": tests, "seconds": 1}
    features = {"part": "features", "code": 0, "features": {"fifo": "ported"}, "seconds": 1}
    outcome = _outcome(_UP, _COMPARE, suite, features, {"down": True})
    assert outcome.problems == []
    row = report.table([outcome.as_dict({})]).splitlines()[-1]
    assert row == "| 6.1.0-1 | 1,234 | 0 | 7 | 3 | 0 | fifo |"


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([_UP, _COMPARE | {"code": 1}, {"down": True}], "compare: exit code 1"),
        ([_UP, _COMPARE | {"code": None}, {"down": True}], "compare: took too long"),
        ([_UP, _COMPARE], "went down early"),
        ([_UP | {"up": "6.1.0-2"}, {"down": True}], "booted 6.1.0-2"),
        ([{"problem": "no QEMU"}], "no QEMU"),
    ],
)
def test_what_went_wrong_is_a_problem(events: list[dict[str, object]], problem: str) -> None:
    (said,) = _outcome(*events).problems
    assert problem in said


@pytest.mark.parametrize(("release", "code", "good"), [("5.4.0-1", 1, True), ("5.8.0-1", 0, False),
                                                       ("5.9.0-1", 0, True), ("6.1.0-1", 1, False)])  # fmt: skip
def test_doctor_has_to_refuse_before_5_9(release: str, code: int, good: bool) -> None:
    image = packages.KernelImage("", "linux-image", release, Path("/none"))
    outcome = report.Outcome(image)
    outcome.take({"up": release, "profile": "", "seconds": 1})
    outcome.take({"part": "doctor", "code": code, "seconds": 1})
    assert (outcome.problems == []) is good


@pytest.mark.skipif(
    not shutil.which("gcc") or not shutil.which("depmod"),
    reason="no gcc and kmod to make modules with",
)
def test_modules_are_kept_with_those_they_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, place = tmp_path / "all", tmp_path / "kept"
    for name, depends in (
        ("net/one", "two-more"),
        ("lib/two-more", "three"),
        ("three", ""),
        ("other", ""),
    ):
        made = top / "lib/modules/9.9" / f"{name}.ko"
        made.parent.mkdir(parents=True, exist_ok=True)
        text = f'#define I __attribute__((section(".modinfo"), used))\nI static const char a[] = "depends={depends}";'
        subprocess.run(["gcc", "-x", "c", "-c", "-o", made, "-"], input=text, text=True, check=True)
    monkeypatch.setattr(packages, "MODULES", ("one", "nowhere"))
    packages._keep_modules(top, "9.9", place)
    image = packages.KernelImage("", "linux-image", "9.9", Path("/none"), place)
    names = {name for name in image.files() if name.endswith(".ko")}
    assert names == {f"/lib/modules/9.9/{each}.ko" for each in ("net/one", "lib/two-more", "three")}
    assert "/lib/modules/9.9/modules.dep" in image.files()


def test_what_ends_behind_its_output_is_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPORTS", os.devnull)
    from tools.kernels import inside

    os.mkfifo(tmp_path / "go")
    said = f"echo said; exec >&- 2>&-; read word < {tmp_path}/go; exit 7"
    process = subprocess.Popen(
        ["sh", "-c", said], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    go = threading.Thread(target=(tmp_path / "go").write_text, args=("\n",), daemon=True)
    go.start()
    assert inside._follow(process, time.monotonic() + 60) == (7, b"said\n")
    go.join()

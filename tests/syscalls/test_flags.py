"""Flag and number families: their values against the headers, their text, their memory."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proctor.syscalls import flags

HEADERS = """stdio.h fcntl.h unistd.h sched.h signal.h sys/mman.h sys/mount.h sys/socket.h sys/stat.h
sys/wait.h sys/epoll.h sys/eventfd.h sys/signalfd.h sys/timerfd.h sys/inotify.h sys/fanotify.h
sys/ipc.h sys/sem.h sys/msg.h sys/shm.h sys/resource.h sys/ptrace.h sys/prctl.h sys/xattr.h
sys/swap.h sys/ioctl.h sys/file.h time.h sys/time.h sys/random.h linux/seccomp.h linux/landlock.h
linux/bpf.h linux/keyctl.h linux/futex.h linux/openat2.h linux/kexec.h linux/module.h linux/reboot.h
linux/membarrier.h linux/userfaultfd.h linux/perf_event.h linux/io_uring.h linux/mempolicy.h
linux/net.h linux/fs.h linux/loop.h linux/sockios.h linux/if_tun.h linux/kvm.h linux/memfd.h
linux/close_range.h linux/sched.h linux/prctl.h asm/prctl.h asm/mman.h linux/falloc.h
netinet/in.h linux/mount.h""".split()  # noqa: SIM905
# libc's value is not the kernel's: glibc hides O_LARGEFILE and the 64-bit lock commands.
LIBC_DIFFERS = {"O_LARGEFILE", "F_GETLK64", "F_SETLK64", "F_SETLKW64"}


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux's headers")
def test_values_are_those_of_the_headers(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    import platform

    if platform.machine() != "x86_64":
        pytest.skip("the values are x86's; other headers differ where flags.py says so")

    def accepts(headers: list[str]) -> bool:
        text = "#define _GNU_SOURCE\n" + "".join(f"#include <{each}>\n" for each in headers)
        return (
            subprocess.run(
                [compiler, "-w", "-fsyntax-only", "-xc", "-"],
                input=text,
                text=True,
                capture_output=True,
                timeout=60,
                check=False,
            ).returncode
            == 0
        )

    usable: list[str] = HEADERS
    if not accepts(usable):  # an older machine lacks some, or some clash
        usable = []
        for header in HEADERS:
            if accepts([*usable, header]):
                usable.append(header)
    lines = ["#define _GNU_SOURCE", *(f"#include <{each}>" for each in usable), "int main(void) {"]
    for family in flags.family_names():
        # Of a number that stands further up, the header has it as it is: in its own family.
        fields = flags.fields(family)
        moved = [flags.members(each.family) for each in fields if each.shift and each.family]
        for name, value in flags.members(family).items():
            if name in LIBC_DIFFERS or any(name in each for each in moved):
                continue
            lines += [
                f"#ifdef {name}",
                f'printf("{family} {name} %d\\n", (unsigned long)({name}) == {value}ul'
                f" || (unsigned)({name}) == {value & 0xFFFFFFFF}u);",
                "#endif",
            ]
    lines += ["return 0; }"]
    source = tmp_path / "values.c"
    source.write_text("\n".join(lines))
    subprocess.run(
        [compiler, "-w", "-o", str(tmp_path / "values"), str(source)], check=True, timeout=120
    )
    text = subprocess.run(
        [str(tmp_path / "values")], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    compared = text.splitlines()
    assert len(compared) > 500
    assert [line for line in compared if not line.endswith(" 1")] == []


def test_members_and_classes() -> None:
    assert flags.OpenFlag.O_CREAT == 0o100
    assert flags.AddressFamily.AF_INET6 == 10
    assert flags.OpenFlag is flags.family("OpenFlag")
    assert "OpenFlag" in flags.family_names()
    assert all(flags.family(name).__members__ for name in flags.family_names())
    with pytest.raises(AttributeError):
        _ = flags.NoSuchFamily
    with pytest.raises(KeyError):
        flags.family("NoSuchFamily")


def test_architectures_with_other_numbers() -> None:
    assert flags.members("OpenFlag", "x86_64")["O_DIRECTORY"] == 0o200000
    assert flags.members("OpenFlag", "aarch64")["O_DIRECTORY"] == 0o40000
    assert flags.members("OpenFlag", "ppc64le")["O_DIRECT"] == 0o400000
    assert str(flags.decode("OpenFlag", 0o40000, "aarch64")) == "O_RDONLY|O_DIRECTORY"
    assert str(flags.decode("OpenFlag", 0o40000, "x86_64")) == "O_RDONLY|O_DIRECT"
    assert str(flags.decode("SockOpt", 20, "ppc64le")) == "SO_PASSCRED"
    assert str(flags.decode("SockOpt", 16)) == "SO_PASSCRED"
    assert flags.family("OpenFlag", "riscv64") is flags.family("OpenFlag")
    assert flags.family("MountFlag", "mips64") is flags.family("MountFlag")
    for abi in ("mips", "mipsel64n32"):
        assert flags.members("OpenFlag", abi)["O_CREAT"] == 0x100
        assert str(flags.decode("OpenFlag", 0x182, abi)) == "O_RDWR|O_NONBLOCK|O_CREAT"
        assert str(flags.decode("SockType", 0x81, abi)) == "SOCK_DGRAM|SOCK_NONBLOCK"
        assert str(flags.decode("Signal", 18, abi)) == "SIGCHLD"
        assert "MAP_32BIT" not in flags.members("MapFlag", abi)
    assert str(flags.decode("DescriptorFlag", 0o200000, "aarch64")) == "O_DIRECT"
    assert flags.members("MlockallFlag", "ppc")["MCL_CURRENT"] == 0x2000


@pytest.mark.parametrize(
    ("family", "value", "text"),
    [
        ("OpenFlag", 0, "O_RDONLY"),
        ("OpenFlag", 3, "O_ACCMODE"),
        ("MapFlag", 21 << 26 | 0x40022, "MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|21<<MAP_HUGE_SHIFT"),
        ("MapFlag", 0x4000002, "MAP_PRIVATE|MAP_UNINITIALIZED"),
        ("IpcFlag", 0o1600, "IPC_CREAT|0600"),
        ("SwapFlag", 0x18005, "SWAP_FLAG_PREFER|SWAP_FLAG_DISCARD|5"),
        ("SwapFlag", 5, "0x5"),
        ("OpenFlag", 0o2000102, "O_RDWR|O_CREAT|O_CLOEXEC"),
        ("OpenFlag", 0o4010000, "O_RDONLY|O_SYNC"),
        ("OpenFlag", 0o10000, "O_RDONLY|O_DSYNC"),
        ("OpenFlag", 0o20200001, "O_WRONLY|O_TMPFILE"),
        ("OpenFlag", 0x40000000, "O_RDONLY|0x40000000"),
        ("SockType", 0o2000002, "SOCK_DGRAM|SOCK_CLOEXEC"),
        ("SockType", 3, "SOCK_RAW"),
        ("MapFlag", 0x22, "MAP_PRIVATE|MAP_ANONYMOUS"),
        ("MapFlag", 3, "MAP_SHARED_VALIDATE"),
        ("Prot", 0, "PROT_NONE"),
        ("Prot", 5, "PROT_READ|PROT_EXEC"),
        ("MountFlag", 0, "0"),
        ("MountFlag", 4096 | 1 << 50, "MS_BIND|0x4000000000000"),
        ("UmountFlag", 2, "MNT_DETACH"),
    ],
)
def test_text(family: str, value: int, text: str) -> None:
    assert str(flags.decode(family, value)) == text


def test_unknown_bits_and_numbers_are_kept() -> None:
    value = flags.decode("OpenFlag", 0xFFFFFFFF)
    assert int(value) == 0xFFFFFFFF
    unknown = flags.decode("AddressFamily", 4711)
    assert unknown == 4711 and type(unknown) is int
    known = flags.decode("AddressFamily", 1)
    assert str(known) == "AF_UNIX" and f"{known}" == "AF_UNIX" and f"{known:d}" == "1"


def test_hostile_combinations_are_not_remembered_for_ever() -> None:
    family = flags.family("CloneFlag")
    for number in range(1, 200_000, 37):
        assert int(flags.decode("CloneFlag", number << 8)) == number << 8
    assert len(family._value2member_map_) < 2000


def test_flags_combine_and_travel() -> None:
    value = flags.decode("OpenFlag", 0o2000102)
    assert value & flags.OpenFlag.O_CREAT
    assert flags.OpenFlag.O_CLOEXEC in value
    assert pickle.loads(pickle.dumps(value)) == value


def test_importing_makes_no_family() -> None:
    script = "from proctor.syscalls import flags; assert not flags._made; flags.OpenFlag; assert len(flags._made) == 1"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_numbers_among_the_bits_are_told_by_their_masks() -> None:
    """What a condition on a part of an argument compares: the part, and what its values are."""
    masks = {name: [each.mask for each in flags.fields(name)] for name in flags.FIELDS}
    assert masks["FileMode"] == [0o170000] and masks["OpenFlag"] == [3]
    assert masks["SockType"] == [0xF] and masks["MapFlag"][0] == 0xF
    assert flags.fields("MountFlag") == ()
    for name, found in flags.FIELDS.items():
        every = flags.members(name)
        for field in found:
            if field.only_with:
                continue  # MAP_UNINITIALIZED, where there are no huge pages
            own = flags.members(field.family) if field.family else {}
            numbers = {constant: number << field.shift for constant, number in own.items()}
            assert all(number & ~field.mask == 0 for number in numbers.values()), name
            assert numbers.items() <= every.items()
            inside = [n for n, number in every.items() if number & field.mask and n not in numbers]
            assert inside == [], name  # no bit is in two places
    assert flags.members("FileMode")["S_IFCHR"] == 0o020000
    assert str(flags.decode("FileMode", 0o104755)).startswith("S_IFREG|")

"""Numbers, names and groups."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proctor.errors import FilterError
from proctor.kernel import abi
from proctor.syscalls import architectures, groups, multiplex, tables, variants
from proctor.syscalls.architectures import ARCHITECTURES, canonical
from proctor.syscalls.signatures import signature

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arch", "name", "number"),
    [
        ("x86_64", "openat", 257),
        ("x86_64", "mknodat", 259),
        ("i386", "openat", 295),
        ("i386", "socketcall", 102),
        ("x32", "openat", 0x40000000 | 257),
        ("x32", "ioctl", 0x40000000 | 514),
        ("aarch64", "openat", 56),
        ("arm", "openat", 322),
        ("arm", "set_tls", 0xF0005),
        ("riscv64", "riscv_flush_icache", 259),
        ("ppc64le", "openat", 286),
        ("ppc64", "openat", 286),
        ("ppc", "openat", 286),
        ("ppc", "mmap2", 192),
        ("s390x", "openat", 288),
        ("s390x", "chown", 212),
        ("s390", "chown", 182),
        ("s390", "chown32", 212),
        ("loongarch64", "openat", 56),
        ("mips64", "openat", 5247),
        ("mipsel64", "openat", 5247),
        ("mips64n32", "openat", 6251),
        ("mips", "openat", 4288),
        ("mips", "socketcall", 4102),
    ],
)
def test_numbers(arch: str, name: str, number: int) -> None:
    assert tables.number(name, arch) == number
    assert tables.name(number, arch) == name


def test_names_of_numbers_that_have_none() -> None:
    assert tables.name(1000) is None
    assert tables.name(-1) is None
    assert tables.name(0x40000000) is None
    assert tables.name(0, "0xc0000032") is None


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(FilterError, match='did you mean "openat"'):
        tables.number("opneat")
    with pytest.raises(FilterError, match='riscv64 has no system call "open"'):
        tables.number("open", "riscv64")
    assert tables.did_you_mean("mknoda") in ('; did you mean "mknod"?', '; did you mean "mknodat"?')
    assert tables.did_you_mean("xyzzyplugh") == ""


@pytest.mark.parametrize(
    ("word", "arch"),
    [
        *(("SCMP_ARCH_X86", "i386"), ("SCMP_ARCH_AARCH64", "aarch64"), ("amd64", "x86_64")),
        *(("i686", "i386"), ("arm64", "aarch64"), ("armv7l", "arm"), ("X32", "x32")),
        *(("loong64", "loongarch64"), ("mipsle", "mipsel"), ("SCMP_ARCH_PPC", "ppc")),
    ],
)
def test_other_peoples_words_for_architectures(word: str, arch: str) -> None:
    assert canonical(word) == arch
    assert tables.numbers(word) is tables.numbers(arch)


def test_architectures_of_calls() -> None:
    assert architectures.arch_of(abi.AUDIT_ARCH_X86_64, 0) == "x86_64"
    assert architectures.arch_of(abi.AUDIT_ARCH_X86_64, 0x40000000) == "x32"
    assert architectures.arch_of(abi.AUDIT_ARCH_X86_64, -1) == "x86_64"
    assert architectures.arch_of(abi.AUDIT_ARCH_I386, 0x40000000) == "i386"
    assert architectures.arch_of(0x1234) == "0x1234"
    assert architectures.native() in ARCHITECTURES


def test_every_architecture_is_told_by_its_number() -> None:
    for name, each in ARCHITECTURES.items():
        assert each.name == name
        assert name == "x32" or architectures.arch_of(each.audit) == name
        assert (each.bits == 64) == bool(each.audit & 0x80000000)
        assert each.word in (each.bits // 8, 4)
        assert set(each.family) <= set(ARCHITECTURES)
        assert name in each.family
        assert tables.numbers(name)["read"] is not None


def test_byte_orders() -> None:
    big = {name for name, each in ARCHITECTURES.items() if each.big_endian}
    assert big == {"ppc64", "ppc", "s390x", "s390", "mips64", "mips64n32", "mips"}


def test_every_number_agrees_with_libseccomp() -> None:
    """Its tables are made by other people from the same source."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not installed")
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    compared = 0
    for each in ARCHITECTURES.values():
        token = library.seccomp_arch_resolve_name(each.scmp.lower().encode())
        if token == 0:
            assert each.name == "loongarch64", each  # libseccomp 2.6 has it
            continue
        assert token == each.audit or each.name == "x32"
        for name, number in tables.numbers(each.name).items():
            known = library.seccomp_syscall_resolve_name_arch(token, name.encode())
            if known >= 0:  # below are its own numbers, for calls that are not there
                assert known == number, (each.name, name)
                compared += 1
    assert compared > 5000


@pytest.mark.parametrize(
    ("call", "arch", "others"),
    [
        ("chown", "i386", {"chown32"}),
        ("chown", "s390", {"chown32"}),
        ("chown", "ppc", set()),
        ("mmap", "arm", {"mmap2"}),
        ("mmap", "aarch64", set()),
        ("fcntl", "mips", {"fcntl64"}),
        ("fcntl", "mips64n32", {"fcntl64"}),
        ("umount2", "s390x", {"umount"}),
        ("newfstatat", "i386", {"fstatat64"}),
        ("statfs", "ppc64le", {"statfs64"}),
        ("futex", "mipsel", {"futex_time64"}),
        ("fadvise64", "arm", {"arm_fadvise64_64"}),
        *((call, "x86_64", set()) for call in ("mmap", "stat", "fcntl", "umount2")),
    ],
)
def test_other_names_of_the_same_call(call: str, arch: str, others: set[str]) -> None:
    assert set(variants.variants(call, arch)) == others


@pytest.mark.parametrize(
    ("call", "arch", "through"),
    [
        *(
            ("connect", arch, ("socketcall", 3))
            for arch in ("i386", "s390x", "s390", "ppc", "mips")
        ),
        ("semop", "ppc64", ("ipc", 1)),
        *(("connect", arch, None) for arch in ("x86_64", "aarch64", "mips64", "mips64n32")),
        ("read", "i386", None),
    ],
)
def test_multiplexed_calls(call: str, arch: str, through: tuple[str, int] | None) -> None:
    found = multiplex.member(call, arch)
    assert (found[:2] if found is not None else None) == through
    assert [each.number for each in multiplex.members("sendto", "i386")] == [11, 9]


def test_starting_parses_no_column_but_those_asked_for() -> None:
    code = (
        "import sys; from proctor.syscalls import tables; assert not tables._numbers;"
        "tables.number('read', 'x86_64'); assert set(tables._numbers) == {'x86_64'};"
        "assert 'proctor.syscalls.groups' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_the_tables_are_what_the_generator_writes() -> None:
    pytest.importorskip("system_calls", reason="the system-calls package is not installed")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "gen-tables", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_native_table_agrees_with_the_kernels_headers() -> None:
    """Every number the installed headers know is ours too."""
    for path in ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"):
        if Path(path).exists():
            break
    else:
        pytest.skip("no x86-64 kernel headers are installed")
    found = re.findall(r"#define __NR_(\w+) (\d+)", Path(path).read_text())
    assert len(found) > 300
    for name, number in found:
        assert tables.numbers("x86_64").get(name, int(number)) == int(number)
        assert tables.name(int(number), "x86_64") is not None or int(number) < 335, name


def _calls() -> set[str]:
    return set().union(*(tables.numbers(arch) for arch in ARCHITECTURES))


@pytest.mark.parametrize("name", groups.names())
def test_groups_hold_calls_that_exist(name: str) -> None:
    members = groups.members(name)
    assert members
    assert members <= _calls()
    assert groups.members(name) == members


def test_file_and_desc_are_what_the_argument_roles_say() -> None:
    for call in _calls():
        roles: set[str] = set()
        for arch in ARCHITECTURES:
            known = signature(call, arch)
            if known is not None:
                roles.update(arg.role for arg in known.args)
        if "path" in roles:
            assert call in groups.members("%file"), call
        if roles & {"fd", "dirfd"}:
            assert call in groups.members("%desc"), call


def test_an_unknown_group_comes_with_the_nearest() -> None:
    with pytest.raises(FilterError, match='did you mean "%network"'):
        groups.members("%networks")

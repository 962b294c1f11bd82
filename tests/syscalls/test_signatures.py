"""The table of signatures against the kernel's numbers and the kernel's own description."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.signatures import POINTER_ROLES, signature

# The kernel's name of a call where it is not the table's.
RENAMED = {
    "newfstat": "fstat",
    "newstat": "stat",
    "newlstat": "lstat",
    "newuname": "uname",
    "sendfile64": "sendfile",
    "umount": "umount2",
}


@pytest.mark.parametrize("abi", ARCHITECTURES)
def test_every_call_of_every_table_has_a_signature(abi: str) -> None:
    missing = [name for name in tables.numbers(abi) if signature(name, abi) is None]
    assert missing == []


def test_covers_the_system_calls_package_completely() -> None:
    system_calls = pytest.importorskip("system_calls", reason="dev dependency system-calls")
    known = system_calls.syscalls()
    known.load_arch_table("x86_64")
    listed = [name for name in known.names() if _has(known, name)]
    assert len(listed) > 370
    assert [name for name in listed if signature(name) is None] == []


def _has(known: object, name: str) -> bool:
    try:
        known.get(name, "x86_64")  # type: ignore[attr-defined]
    except Exception:
        return False
    return True


@pytest.mark.parametrize("abi", ARCHITECTURES)
def test_arguments_fit_into_six_registers_without_overlap(abi: str) -> None:
    for name in tables.numbers(abi):
        known = signature(name, abi)
        assert known is not None
        used: list[int] = []
        for arg in known.args:
            used += [arg.reg] if arg.reg_high < 0 else [arg.reg, arg.reg_high]
            assert arg.bits in (16, 32, 64)
        assert len(set(used)) == len(used), (abi, name)
        assert all(register < 6 for register in used), (abi, name)
        assert len({arg.name for arg in known.args}) == len(known.args), (abi, name)


def test_families_and_lengths_that_are_named_exist() -> None:
    from proctor.call.decode import argument as decode
    from proctor.syscalls import flags

    known_families = set(flags.family_names())
    for abi in ARCHITECTURES:
        for name in tables.numbers(abi):
            known = signature(name, abi)
            if known is None:
                continue
            for arg in known.args:
                if arg.role in ("flags", "cmd", "clock", "signal"):
                    assert arg.family in known_families, (name, arg)
                if arg.role == "sockaddr":
                    length = known.arg(arg.counted_by or "")
                    assert length is not None and length.role == "socklen", (name, arg)
                if arg.role == "iovec":
                    count = known.arg(arg.counted_by or "")
                    assert count is not None and count.role == "iovcnt", (name, arg)
                if arg.role == "string":
                    assert arg.family in decode.STRING_LIMITS, (name, arg)
                if arg.role == "dirfd":
                    after = known.args[known.args.index(arg) + 1]
                    assert after.role in ("path", "struct", "string"), (name, arg)


def test_pointers_are_as_wide_as_the_architecture() -> None:
    for abi, width in (("x86_64", 64), ("i386", 32), ("arm", 32), ("aarch64", 64)):
        for name in tables.numbers(abi):
            known = signature(name, abi)
            if known is not None:
                for arg in known.args:
                    if arg.role in POINTER_ROLES:
                        assert arg.bits == width, (abi, name, arg)


def test_sixty_four_bit_values_in_two_registers() -> None:
    def registers(name: str, abi: str) -> tuple[int, int]:
        known = signature(name, abi)
        assert known is not None
        arg = next(a for a in known.args if a.reg_high >= 0)
        return arg.reg, arg.reg_high

    for name in ("pread64", "pwrite64"):
        assert registers(name, "i386") == (3, 4)
        assert registers(name, "arm") == (4, 5)  # starts at an even register
    for name in ("truncate64", "ftruncate64"):
        assert registers(name, "i386") == (1, 2)
        assert registers(name, "arm") == (2, 3)
    assert registers("fallocate", "i386") == registers("fallocate", "arm") == (2, 3)
    assert registers("readahead", "i386") == (1, 2)
    assert registers("sync_file_range", "i386") == (1, 2)
    assert registers("sync_file_range2", "arm") == (2, 3)
    assert registers("fadvise64_64", "i386") == (1, 2)
    assert registers("fanotify_mark", "i386") == (2, 3)


def test_architectures_that_differ() -> None:
    def order(name: str, abi: str) -> list[str]:
        known = signature(name, abi)
        assert known is not None
        return [arg.name for arg in known.args]

    assert order("clone", "x86_64")[3:] == ["child_tid", "tls"]
    assert order("clone", "i386")[3:] == ["tls", "child_tid"]
    assert order("clone", "aarch64")[3:] == ["tls", "child_tid"]
    assert order("clone", "s390x")[:2] == ["stack", "flags"]
    assert order("mmap", "i386") == ["arg"]
    assert order("mmap2", "i386")[5] == "pgoffset"
    assert order("select", "i386") == ["arg"]
    chown = signature("chown", "i386")
    assert chown is not None and [arg.bits for arg in chown.args] == [32, 16, 16]
    chown32 = signature("chown32", "i386")
    assert chown32 is not None and [arg.bits for arg in chown32.args] == [32, 32, 32]
    x32 = signature("readv", "x32")
    assert x32 is not None and x32.word == 4 and x32.args[1].bits == 32
    plain = signature("openat", "x32")
    assert plain is not None and plain.word == 8 and plain.args[1].bits == 64


def test_unknown_names_and_architectures() -> None:
    assert signature("no_such_call") is None
    assert signature("chown32", "x86_64") is None
    with pytest.raises(ValueError, match="pdp11"):
        signature("open", "pdp11")


FORMAT = re.compile(r"field:(.*?);")
SCRIPT = """
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
cd /sys/kernel/tracing/events/syscalls || exit 1
for d in sys_enter_*; do
    echo "## ${d#sys_enter_}"
    grep 'field:' "$d/format" | grep -v 'common_\\|__syscall_nr'
done
"""


@pytest.fixture(scope="module")
def kernel_fields() -> dict[str, list[str]]:
    """The running kernel's argument declarations, by call."""
    text = ""
    if os.path.isdir(
        "/sys/kernel/tracing/events/syscalls"
    ):  # false of what may not be looked at, too
        command = ["sh", "-c", SCRIPT.replace("mount ", ": ", 1)]
    else:
        # In a mount namespace of its own: nothing is left mounted.
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        text = done.stdout if done.returncode == 0 else ""
    except OSError:
        pass
    if not text:
        pytest.skip("tracefs is not readable here (needs root and CONFIG_FTRACE_SYSCALLS)")
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("## "):
            current = found.setdefault(RENAMED.get(line[3:], line[3:]), [])
        elif (match := FORMAT.search(line)) and "unsigned long pos_h" not in match.group(1):
            # preadv's position is told in two longs, and is one number.
            current.append(match.group(1).strip().replace("unsigned long pos_l", "loff_t pos"))
    return found


def test_argument_counts_are_the_running_kernels(kernel_fields: dict[str, list[str]]) -> None:
    assert len(kernel_fields) > 300
    wrong = {}
    for name, fields in kernel_fields.items():
        known = signature(name)
        if known is None or len(known.args) != len(fields):
            wrong[name] = fields
    assert wrong == {}


WIDE = re.compile(
    r"\*|unsigned long|\blong\b|size_t|loff_t|off_t|__u64|cap_user_(header|data)_t|aio_context_t"
)
# The kernel declares a long, but looks at 32 bits of it only.
NARROWED = {
    ("clone", "flags"),
    ("mbind", "mode"),
    ("ptrace", "pid"),
    ("mmap", "fd"),
    ("readv", "fd"),
    ("writev", "fd"),
    ("preadv", "fd"),
    ("pwritev", "fd"),
    ("preadv2", "fd"),
    ("pwritev2", "fd"),
}


def test_argument_widths_are_the_running_kernels(kernel_fields: dict[str, list[str]]) -> None:
    wrong = []
    for name, fields in kernel_fields.items():
        known = signature(name)
        assert known is not None
        for arg, field in zip(known.args, fields, strict=True):
            bits = 64 if WIDE.search(field) else 16 if "umode_t" in field else 32
            if arg.bits != bits and (name, arg.name) not in NARROWED:
                wrong.append((name, field, arg.bits))
    assert wrong == []


SIGNED = re.compile(
    r"^(const )?(int|long|loff_t|off_t|pid_t|clockid_t|key_t|mqd_t|timer_t|key_serial_t|rwf_t|__s32)\b"
)


def test_signedness_is_the_running_kernels(kernel_fields: dict[str, list[str]]) -> None:
    # Descriptors are shown as ints whether the kernel writes int or unsigned; bits have no sign.
    wrong = []
    for name, fields in kernel_fields.items():
        known = signature(name)
        assert known is not None
        for arg, field in zip(known.args, fields, strict=True):
            if "*" in field or arg.role in ("fd", "dirfd", "flags", "mode", "cmd"):
                continue
            if arg.signed != bool(SIGNED.match(field)):
                wrong.append((name, field, arg.signed))
    assert wrong == []

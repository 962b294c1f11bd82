"""Calls that do the same by another name, and calls that are special."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proctor.syscalls import siblings as siblings_module
from proctor.syscalls import tables
from proctor.syscalls.siblings import families, siblings, why
from proctor.syscalls.special import FRAGILE, IO_URING, UNASKED, by_io_uring


@pytest.mark.parametrize(
    ("call", "others"),
    [
        ("openat", "open openat2 creat"),
        ("creat", "open openat openat2 open_by_handle_at"),
        ("fchmodat", "chmod fchmod fchmodat2"),
        ("mknodat", "mknod"),
        ("renameat2", "rename renameat"),
        ("unlinkat", "unlink rmdir"),
        ("fchownat", "chown lchown fchown chown32 lchown32 fchown32"),
        ("execveat", "execve"),
        ("finit_module", "init_module"),
        ("tgkill", "kill tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal"),
        ("clone", "fork vfork clone3 unshare"),
        ("setxattr", "lsetxattr fsetxattr setxattrat"),
        ("removexattrat", "removexattr lremovexattr fremovexattr"),
        ("statx", "stat lstat fstat newfstatat stat64 lstat64 fstat64 oldstat oldlstat oldfstat"),
        ("access", "faccessat faccessat2"),
        ("utimensat", "utime utimes futimesat utimensat_time64"),
        ("setuid", "setreuid setresuid setfsuid setuid32 setresuid32"),
        ("setresgid", "setgid setregid setfsgid setgid32"),
        ("move_mount", "mount fsopen fsmount open_tree mount_setattr"),
        ("umount2", "umount"),
        ("kexec_load", "kexec_file_load reboot"),
        ("sendto", "send sendmsg sendmmsg connect write"),
        ("recv", "recvfrom recvmsg recvmmsg recvmmsg_time64 read"),
        ("prlimit64", "setrlimit getrlimit ugetrlimit"),
        ("fsync", "fdatasync sync syncfs"),
        ("syncfs", "sync"),
        ("splice", "sendfile tee copy_file_range"),
        ("write", "writev pwrite64 vmsplice"),
        ("mbind", "set_mempolicy set_mempolicy_home_node move_pages migrate_pages"),
        ("alarm", "setitimer timer_settime"),
        ("setpgid", "setsid"),
    ],
)
def test_every_member_knows_the_others(call: str, others: str) -> None:
    assert set(others.split()) <= set(siblings(call))
    for other in others.split():
        assert why(call, other)


@pytest.mark.parametrize(
    ("call", "other"),
    [
        *(("unlink", "rmdir"), ("sync", "fsync"), ("times", "utimes"), ("time", "utime")),
        *(("mount", "umount"), ("mount", "umount2"), ("open", "truncate"), ("stat", "ustat")),
        *(("lock", "flock"), ("ork", "fork"), ("link", "unlink"), ("getuid", "setuid")),
        *(("fork", "unshare"), ("link", "symlink"), ("fsopen", "open"), ("chmod", "chown")),
    ],
)
def test_what_only_looks_alike(call: str, other: str) -> None:
    assert other not in siblings(call)
    assert call != "open" or why(other, call)  # one way only
    assert not why(call, other)


def test_families_are_symmetric_and_name_calls_that_exist() -> None:
    for family in families():
        for call in family.calls:
            assert tables.exists(call), call
            assert set(family.calls) - {call} <= set(siblings(call))
    for _, calls, ways in siblings_module._WAYS:
        for call in f"{calls} {ways}".split():
            assert tables.exists(call.removeprefix("=")), call


@pytest.mark.parametrize("prefix", ["l", "f"])
def test_l_and_f_variants_are_all_known(prefix: str) -> None:
    """Whatever a later table brings: a name that is another's with l or f before it is its sibling."""
    different = {"fsync"}
    for name in tables.all_names():
        for base in (name.removeprefix(prefix), name.removeprefix(prefix) + "at"):
            if name.startswith(prefix) and base in tables.all_names() and name not in different:
                assert base in siblings(name), (name, base)


@pytest.mark.parametrize("suffix", ["at", "at2", "2", "32", "64", "_time64"])
def test_suffixed_variants_are_all_known(suffix: str) -> None:
    for name in tables.all_names():
        if name.endswith(suffix) and name.removesuffix(suffix) in tables.all_names():
            assert name.removesuffix(suffix) in siblings(name), name


def test_a_reason_is_not_the_same_as_none() -> None:
    assert siblings("getrandom") == ()
    assert siblings("no such call") == ()
    assert why("getrandom", "read") == ""


def test_special_calls_exist_and_say_why() -> None:
    for table in (UNASKED, FRAGILE, IO_URING):
        for call, reason in table.items():
            assert tables.exists(call) and reason, call


def test_what_io_uring_does() -> None:
    assert by_io_uring("openat2") == "openat2"
    assert by_io_uring("creat") == "openat"
    assert by_io_uring("mkdir") == "mkdirat"
    assert by_io_uring("rmdir") == "unlinkat"
    assert by_io_uring("lstat") == "statx"
    assert by_io_uring("mount") == by_io_uring("ptrace") == by_io_uring("chmod") == ""


def test_io_uring_operations_of_the_installed_header_are_known() -> None:
    """Every operation that is named after a call is in the table."""
    header = Path("/usr/include/linux/io_uring.h")
    if not header.exists():
        pytest.skip("no kernel headers are installed")
    operations = re.findall(r"\bIORING_OP_(\w+),", header.read_text())
    assert len(operations) > 30
    named = {word.lower() for word in operations} & tables.all_names()
    assert named <= IO_URING.keys()

"""Structures of the table: their layouts are the running kernel's, their values and refusals ours."""

from __future__ import annotations

import errno
import struct

import pytest

from proctor.call.decode import layouts
from proctor.call.decode.structures import Capabilities, FileHandle
from proctor.call.decode.values import NO_LIMIT, Limits
from proctor.errors import MemoryUnreadable
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.signatures import Signature, signature
from tests.call.fakes import FakeMemory, call
from tests.support.kernel_types import SOURCE, KernelTypes

# Ours -> the kernel's, for 64-bit callers and for i386.
NATIVE = {
    "timex": "__kernel_timex", "sigaction": "sigaction", "stack_t": "sigaltstack",
    "flock": "flock", "flock64": "flock64", "f_owner_ex": "f_owner_ex",
    "cap_user_header": "__user_cap_header_struct", "mq_attr": "mq_attr",
    "sched_attr": "sched_attr", "perf_event_attr": "perf_event_attr",
    "io_uring_params": "io_uring_params", "landlock_ruleset_attr": "landlock_ruleset_attr",
    "landlock_path_beneath_attr": "landlock_path_beneath_attr",
    "landlock_net_port_attr": "landlock_net_port_attr", "sock_fprog": "sock_fprog",
    "linger": "linger", "winsize": "winsize", "pollfd": "pollfd", "sembuf": "sembuf",
    "futex_waitv": "futex_waitv", "mnt_id_req": "mnt_id_req", "xattr_args": "xattr_args",
    "file_attr": "file_attr", "cachestat_range": "cachestat_range", "utimbuf": "utimbuf",
    "itimerval": "__kernel_old_itimerval", "itimerspec": "__kernel_itimerspec",
    "timezone": "timezone", "timex64": "__kernel_timex",
    "open_how": "open_how", "clone_args": "clone_args", "mount_attr": "mount_attr",
    "rlimit": "rlimit", "rlimit64": "rlimit64", "epoll_event": "epoll_event",
    "sigevent": "sigevent", "siginfo": "siginfo", "iovec": "iovec", "msghdr": "user_msghdr",
    "mmsghdr": "mmsghdr", "ucred": "ucred", "new_utsname": "new_utsname",
    "old_utsname": "old_utsname", "oldold_utsname": "oldold_utsname", "sysinfo": "sysinfo",
    "rusage": "rusage", "tms": "tms", "cachestat": "cachestat", "statx": "statx", "stat": "stat",
    "statfs": "statfs", "cap_user_data": "__user_cap_data_struct",
    "timespec": "__kernel_timespec", "statx_timestamp": "statx_timestamp",
}  # fmt: skip
COMPAT = {
    "timex": "old_timex32", "sigaction": "compat_sigaction",
    "old_sigaction": "compat_old_sigaction", "stack_t": "compat_sigaltstack",
    "flock": "compat_flock", "flock64": "compat_flock64", "mq_attr": "compat_mq_attr",
    "sock_fprog": "compat_sock_fprog", "utimbuf": "old_utimbuf32",
    "itimerval": "old_itimerval32", "itimerspec": "old_itimerspec32",
    "itimerspec64": "__kernel_itimerspec", "sched_attr": "sched_attr",
    "perf_event_attr": "perf_event_attr", "landlock_path_beneath_attr": "landlock_path_beneath_attr",
    "io_uring_params": "io_uring_params",
    "rlimit": "compat_rlimit", "rlimit64": "rlimit64", "epoll_event": "epoll_event",
    "sigevent": "compat_sigevent", "siginfo": "compat_siginfo", "iovec": "compat_iovec",
    "msghdr": "compat_msghdr", "mmsghdr": "compat_mmsghdr", "sysinfo": "compat_sysinfo",
    "rusage": "compat_rusage", "tms": "compat_tms", "statx": "statx", "stat": "compat_stat",
    "stat64": "stat64", "statfs": "compat_statfs", "statfs64": "compat_statfs64",
    "old_stat": "__old_kernel_stat", "timespec": "old_timespec32",
    "timespec64": "__kernel_timespec",
}  # fmt: skip
# Fields with another name in the kernel, or newer than many kernels.
RENAMED = {"bits": "disabled", "config3": "", "mnt_ns_fd": "", "mnt_ns_id": "",
           "sigev_notify_thread_id": "_sigev_un", "si_pid": "_sifields", "si_uid": "", "si_value": ""}  # fmt: skip


@pytest.fixture(scope="module")
def kernel() -> KernelTypes:
    try:
        return KernelTypes(SOURCE.read_bytes())
    except OSError as problem:
        pytest.skip(f"this kernel does not describe its types: {problem}")


@pytest.mark.parametrize(
    ("abi", "ours", "theirs"),
    [("x86_64", *pair) for pair in NATIVE.items()] + [("i386", *pair) for pair in COMPAT.items()],
)
def test_layouts_are_the_running_kernels(
    kernel: KernelTypes, abi: str, ours: str, theirs: str
) -> None:
    import platform

    if platform.machine() != "x86_64":
        pytest.skip("compares with an x86-64 kernel")
    size = kernel.size(theirs)
    if size is None:
        pytest.skip(f"this kernel has no struct {theirs}")
    made = layouts.layout(ours, abi)
    if ours not in ("mnt_id_req", "perf_event_attr", "landlock_ruleset_attr"):  # these grow
        assert made.size == size
    offsets = kernel.offsets(theirs)
    for field in made.shown:
        name = RENAMED.get(field.name, field.name)
        if name and (name in offsets or made.size == size):
            assert field.offset in offsets[name], field.name


def test_the_union_of_bpf_is_the_running_kernels(kernel: KernelTypes) -> None:
    offsets = kernel.offsets("bpf_attr")
    compared = 0
    for name in (
        "map_create",
        "map_elem",
        "prog_load",
        "obj",
        "prog_attach",
        "next_id",
        "map_get_fd_by_id",
    ):
        for field in layouts.layout(f"bpf_{name}", "x86_64").shown:
            if field.name in offsets:
                assert field.offset in offsets[field.name], (name, field.name)
                compared += 1
    assert compared > 50


@pytest.mark.parametrize("abi", ARCHITECTURES)
def test_every_structure_that_a_call_names_is_taken_apart(abi: str) -> None:
    from proctor.call.decode.structures import _SPECIAL
    from proctor.call.strace.memory import _SHAPES

    filled = {"data", "sockaddr", "msgbuf", "iovec"}
    compared = 0
    for name in tables.numbers(abi):
        known = signature(name, abi)
        assert known is not None
        for each in every_signature_of(known):
            for arg in each.args:
                family = arg.family or ""
                if arg.role == "pointer":
                    assert family in ("", *_SHAPES), (name, arg)
                elif arg.role in ("struct", "array", "inout", "out"):
                    number = layouts.number(family, each)
                    assert (
                        number
                        or family in _SPECIAL
                        or layouts.exists(family)
                        or (arg.role == "out" and family in filled)
                    ), (name, arg)
                    compared += 1
                if number_of := arg.counted_by:
                    assert number_of.isdigit() or each.arg(number_of) is not None, (name, arg)
    assert compared > 100


def every_signature_of(known: Signature) -> list[Signature]:
    """The signature of a call's name, and those of all its commands."""
    found = [known]
    if known.choice is not None:
        registers = [0] * 6
        for number in list(known.choice.made):
            registers[known.choice.arg.reg] = number
            found += every_signature_of(known.of(registers)) if number in known.choice.made else []
    return found


def test_every_layout_packs_what_it_takes_apart() -> None:
    for abi in ARCHITECTURES:
        for name in layouts.names():
            if name in ("bpf_obj", "bpf_prog_load", "bpf_raw_tracepoint_open"):
                continue  # strings behind pointers
            made = layouts.layout(name, abi)
            zero = made.value(b"")
            assert made.pack(made.named(zero)) == bytes(made.size)
            data = bytes(range(1, 1 + made.size)) if made.size < 255 else b""
            value = made.value(data)
            again = made.value(made.pack(made.named(value)))
            assert again == value and str(again) == str(value)


def test_what_the_running_kernel_fills_is_taken_apart_and_made_again() -> None:
    import ctypes
    import os
    import sys

    if sys.platform != "linux" or os.uname().machine not in ARCHITECTURES:
        pytest.skip("a machine without a table")
    abi, libc = os.uname().machine, ctypes.CDLL(None, use_errno=True)
    made = {name: layouts.layout(name, abi) for name in ("new_utsname", "sysinfo", "statfs")}
    filled = {name: ctypes.create_string_buffer(each.size) for name, each in made.items()}
    assert libc.uname(filled["new_utsname"]) == 0 and libc.sysinfo(filled["sysinfo"]) == 0
    assert libc.statfs(b"/", filled["statfs"]) == 0
    found = {name: each.value(filled[name].raw) for name, each in made.items()}
    assert found["new_utsname"].release.decode() == os.uname().release
    assert found["sysinfo"].totalram * found["sysinfo"].mem_unit > 1 << 20
    assert len(found["sysinfo"].loads) == 3 and found["statfs"].f_bsize == os.statvfs("/").f_bsize
    for name, value in found.items():
        again = layouts.pack(name, abi, **dict(zip(value._fields, value, strict=True)))
        assert made[name].value(again) == value


def test_what_a_call_fills_is_packed_for_each_machine() -> None:
    name = layouts.pack("new_utsname", "aarch64", sysname="Linux", nodename=b"box")
    assert len(name) == 390 and name[:6] == b"Linux\0" and name[65:69] == b"box\0"
    big = layouts.pack("timespec", "s390x", tv_sec=1, tv_nsec=2)
    assert big == struct.pack(">qq", 1, 2)
    assert layouts.pack("timespec", "i386", tv_sec=1) == struct.pack("<ii", 1, 0)
    assert layouts.pack("itimerval", "arm", it_value=(1, 2)) == struct.pack("<4i", 0, 0, 1, 2)
    nested = layouts.pack("itimerval", "arm", it_value={"tv_usec": 2})
    assert nested == struct.pack("<4i", 0, 0, 0, 2)
    assert layouts.pack("sysinfo", "x86_64", loads=(1, 2, 3))[8:32] == struct.pack("<3Q", 1, 2, 3)
    assert layouts.pack("rlimit", "i386", rlim_cur=NO_LIMIT)[:4] == b"\377" * 4
    assert layouts.pack("ucred", "x86_64", uid=-1)[4:8] == b"\377" * 4
    compat = signature("recvmsg", "x32")
    assert compat is not None  # 32-bit structures there, whatever else x32 does
    assert len(layouts.pack("msghdr", compat)) == 28 and len(layouts.pack("msghdr", "x32")) == 56
    sizes = {"x86_64": 144, "i386": 64, "aarch64": 128, "arm": 64, "s390": 64, "s390x": 144}
    assert {abi: layouts.layout("stat", abi).size for abi in sizes} == sizes
    assert (
        layouts.layout("stat64", "arm").size == 104 and layouts.layout("stat64", "i386").size == 96
    )
    with pytest.raises(KeyError):
        layouts.pack("sysinfo", "x86_64", no_such=1)
    with pytest.raises(KeyError):
        layouts.pack("no_such", "x86_64")
    wrong: list[tuple[str, dict[str, object]]] = [
        ("new_utsname", {"sysname": "x" * 66}),
        ("ucred", {"pid": 1 << 31}),
        ("ucred", {"uid": -1 << 32}),
        ("sysinfo", {"loads": (1, 2)}),
        ("sysinfo", {"uptime": "soon"}),
        ("sysinfo", {"uptime": None}),
        ("itimerval", {"it_value": (1, 2, 3)}),
    ]
    for structure, values in wrong:
        with pytest.raises(ValueError):
            layouts.pack(structure, "x86_64", **values)


# Values -----------------------------------------------------------------------------------------


def refused(number: int, name: str, argument: str, *registers: int, **options: object) -> None:
    made = call(name, *registers, **options)  # type: ignore[arg-type]
    with pytest.raises(MemoryUnreadable) as caught:
        _ = made.args[argument]
    assert caught.value.errno == number
    assert f"({errno.errorcode[number]})" in made.describe()


def test_signal_sets() -> None:
    memory = {0x2000: struct.pack("<Q", 1 << 8 | 1 << 63)}
    found = call("rt_sigprocmask", 0, 0x2000, 0, 8, memory=memory).args.set
    assert list(found) == [9, 64] and 9 in found and 0 not in found and 65 not in found
    assert str(found) == "[KILL RT_32]"
    assert call("rt_sigprocmask", 0, 0, 0, 8).args.set is None
    for size in (4, 0, 16, 2**64 - 1):
        refused(errno.EINVAL, "rt_sigprocmask", "set", 0, 0x2000, 0, size, memory=memory)
    refused(errno.EFAULT, "rt_sigprocmask", "set", 0, 0x2001, 0, 8, memory=memory)
    refused(errno.EFAULT, "rt_sigsuspend", "mask", 0, 8)
    old = call("sigprocmask", 0, 0x2000, 0, abi="i386", memory={0x2000: b"\2\0\0\0"}).args.set
    assert list(old) == [2]
    big = call("rt_sigprocmask", 0, 0x2000, 0, 8, abi="s390x", memory={0x2000: bytes(7) + b"\2"})
    assert list(big.args.set) == [2]


def test_signal_actions_and_what_pselect_takes() -> None:
    memory = {0x2000: struct.pack("<4Q", 0x401000, 0x10000000, 0, 2)}
    act = call("rt_sigaction", 2, 0x2000, 0, 8, memory=memory).act
    assert act.sa_handler == 0x401000 and list(act.sa_mask) == [2]
    assert str(act.sa_flags) == "SA_RESTART"
    memory = {0x2000: struct.pack("<3Q", 0x401000, 0x10000000, 2)}  # no restorer there
    for abi in ("riscv64", "loongarch64"):
        act = call("rt_sigaction", 2, 0x2000, 0, 8, abi=abi, memory=memory).act
        assert list(act.sa_mask) == [2] and "sa_restorer" not in act._fields
    for abi in ("x32", "arm", "i386"):
        memory = {0x2000: struct.pack("<IIIQ", 0x401000, 0x14000000, 0x402000, 2)}
        act = call("rt_sigaction", 2, 0x2000, 0, 8, abi=abi, memory=memory).act
        assert list(act.sa_mask) == [2] and act.layout.size == 20
    memory = {0x2000: struct.pack("<QQ", 0x3000, 8), 0x3000: struct.pack("<Q", 0x4000)}
    mask = call("pselect6", 0, 0, 0, 0, 0, 0x2000, memory=memory).sigmask
    assert list(mask.sigmask) == [15] and mask.sigsetsize == 8
    memory[0x2000] = struct.pack("<QQ", 0x3000, 4)
    refused(errno.EINVAL, "pselect6", "sigmask", 0, 0, 0, 0, 0, 0x2000, memory=memory)


def test_capabilities() -> None:
    wide = {0x2000: struct.pack("<Ii", 0x20080522, 7), 0x3000: struct.pack("<6I", 1, 2, 4, 1, 0, 8)}
    memory = FakeMemory(wide)
    made = call("capset", 0x2000, 0x3000, memory=memory)
    assert made.datap == Capabilities(1 | 1 << 32, 2, 4 | 8 << 32)  # type: ignore[arg-type]
    assert made.hdrp.pid == 7 and memory.reads == 2  # the header that counts was read once
    assert 32 in made.datap.effective and 21 not in made.datap.effective
    memory.regions[0x2000] = struct.pack("<Ii", 0x19980330, 0)
    assert made.datap.inheritable == 4 | 8 << 32
    narrow = {0x2000: struct.pack("<Ii", 0x19980330, 0), 0x3000: struct.pack("<3I", 1, 2, 4)}
    assert call("capset", 0x2000, 0x3000, memory=narrow).datap == (1, 2, 4)
    bad = {**wide, 0x2000: struct.pack("<Ii", 5, 0)}
    refused(errno.EINVAL, "capset", "datap", 0x2000, 0x3000, memory=bad)


def test_limits_of_32_bit_callers() -> None:
    memory = {0x2000: struct.pack("<II", 5, 0xFFFFFFFF)}
    found = call("setrlimit", 7, 0x2000, abi="i386", memory=memory).rlim
    assert found == Limits(5, NO_LIMIT)


@pytest.mark.parametrize(
    ("size", "number"),
    [(0, 0), (48, 0), (56, 0), (60, 0), (47, errno.E2BIG), (4097, errno.E2BIG)],
)
def test_structures_that_hold_their_size(size: int, number: int) -> None:
    data = struct.pack("<IIQiIQQQII", size, 6, 1, -5, 0, 1, 2, 3, 4, 5) + bytes(64)
    if number:
        refused(number, "sched_setattr", "attr", 0, 0x2000, 0, memory={0x2000: data})
        return
    found = call("sched_setattr", 0, 0x2000, 0, memory={0x2000: data}).attr
    assert str(found.sched_policy) == "SCHED_DEADLINE" and found.sched_nice == -5
    assert found.sched_util_max == (5 if size >= 56 else 0)


def test_structures_with_fields_that_nobody_knows() -> None:
    data = struct.pack("<IIQiIQQQII", 64, 6, 1, -5, 0, 1, 2, 3, 4, 5)
    refused(errno.E2BIG, "sched_setattr", "attr", 0, 0x2000, 0, memory={0x2000: data + b"\1" * 8})
    refused(errno.EFAULT, "sched_setattr", "attr", 0, 0x2000, 0, memory={0x2000: data + b"\0"})
    refused(errno.EFAULT, "sched_setattr", "attr", 0, 0x2000, 0, memory={0x2000: data[:50]})
    refused(errno.EFAULT, "sched_setattr", "attr", 0, 0x2000, 0, memory={0x2000: b"\1\0"})
    ruleset = {0x2000: struct.pack("<4Q", 1, 2, 3, 4)}
    name, argument = "landlock_create_ruleset", "attr"
    refused(errno.E2BIG, name, argument, 0x2000, 32, 0, memory=ruleset)
    refused(errno.EINVAL, name, argument, 0x2000, 7, 0, memory=ruleset)
    found = call(name, 0x2000, 16, 0, memory=ruleset).attr
    assert found.handled_access_net == 2 and found.scoped == 0
    refused(errno.EINVAL, "statmount", "req", 0x2000, memory={0x2000: bytes(32)})


def test_bpf_by_its_command() -> None:
    memory = {0x2000: struct.pack("<QII", 0x3000, 3, 0), 0x3000: b"/sys/fs/bpf/x\0"}
    made = call("bpf", 6, 0x2000, 16, memory=memory)
    assert made.attr.pathname == b"/sys/fs/bpf/x" and made.attr.bpf_fd == 3
    memory[0x3000] = b"/elsewhere\0"
    assert 'pathname="/sys/fs/bpf/x"' in made.describe()
    found = call("bpf", 0, 0x2000, 8, memory={0x2000: struct.pack("<II", 1, 4)}).attr
    assert str(found.map_type) == "BPF_MAP_TYPE_HASH" and found.max_entries == 0
    assert str(found) == "{map_type=BPF_MAP_TYPE_HASH, key_size=4}"
    assert call("bpf", 999, 0x2000, 8).attr == 0x2000
    refused(errno.E2BIG, "bpf", "attr", 0, 0x2000, 4097, memory=memory)
    refused(errno.EFAULT, "bpf", "attr", 0, 0x2000, 64, memory=memory)


def test_events_handles_and_times() -> None:
    memory = {0x2000: struct.pack("<QiiiI", 7, 12, 4, 77, 0) + bytes(40)}
    found = call("timer_create", 1, 0x2000, 0x3000, memory=memory).sevp
    assert found == (7, 12, 4, 77) and str(found.sigev_notify) == "SIGEV_THREAD_ID"
    handle = {0x2000: struct.pack("<Ii", 4, 1) + b"abcd"}
    assert call("open_by_handle_at", 3, 0x2000, memory=handle).handle == FileHandle(1, b"abcd")
    for size in (0, 129, 0xFFFFFFFF):
        bad = {0x2000: struct.pack("<Ii", size, 1) + bytes(200)}
        refused(errno.EINVAL, "open_by_handle_at", "handle", 3, 0x2000, memory=bad)
    memory = {0x2000: struct.pack("<4q", 1, 2, 0, 0x3FFFFFFE)}
    times = call("utimensat", 3, 0, 0x2000, 0, memory=memory).times
    assert times == ((1, 2), (0, 0x3FFFFFFE)) and str(times[1]) == "UTIME_OMIT"
    assert call("utimensat", 3, 0, 0, 0).times is None


def test_landlock_rules_by_their_type() -> None:
    memory = {0x2000: struct.pack("<Qi", 4, 5) + bytes(4)}
    found = call("landlock_add_rule", 3, 1, 0x2000, 0, memory=memory).rule_attr
    assert found.parent_fd == 5 and found.layout.size == 12
    found = call("landlock_add_rule", 3, 2, 0x2000, 0, memory=memory).rule_attr
    assert str(found) == "{allowed_access=0x4, port=5}"
    assert call("landlock_add_rule", 3, 9, 0x2000, 0).rule_attr == 0x2000

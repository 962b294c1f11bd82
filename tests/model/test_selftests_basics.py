"""The kernel's own seccomp tests, on the model: modes, limits, actions, flags.

Names are those of ``tools/testing/selftests/seccomp/seccomp_bpf.c``.
"""

from __future__ import annotations

import itertools

import pytest

from proctor.kernel import abi
from proctor.model.kernel.linux import (
    E2BIG,
    EACCES,
    EFAULT,
    EINVAL,
    ENOMEM,
    ENOSYS,
    EOPNOTSUPP,
    PR_SET_SECCOMP,
    SIGKILL,
    SIGSYS,
)
from proctor.model.kernel.program import Program
from tests.model.support import ALLOW, LD_NR, always, assemble, exited, on, ret, start, unprivileged

KILL_THREAD, KILL_PROCESS = abi.SECCOMP_RET_KILL_THREAD, abi.SECCOMP_RET_KILL_PROCESS
ERRNO, TRAP, TRACE = abi.SECCOMP_RET_ERRNO, abi.SECCOMP_RET_TRAP, abi.SECCOMP_RET_TRACE
LOG = abi.SECCOMP_RET_LOG


def test_mode_strict_support():
    program = start()
    assert program.prctl(PR_SET_SECCOMP, 1) == 0
    program.call("exit", 0)
    assert program.status == exited(0)


def test_mode_strict_cannot_call_prctl():
    program = start()
    assert program.prctl(PR_SET_SECCOMP, 1) == 0
    program.mode()
    assert program.status == SIGKILL


def test_no_new_privs_support():
    assert start().no_new_privs() == 0


def test_mode_filter_support():
    program = start()
    program.no_new_privs()
    assert program.prctl(PR_SET_SECCOMP, 2, None) == -EFAULT


def test_mode_filter_without_nnp():
    assert unprivileged(start()).prctl(PR_SET_SECCOMP, 2, ALLOW) == -EACCES
    assert start().prctl(PR_SET_SECCOMP, 2, ALLOW) == 0


def test_filter_size_limits():
    program = start()
    assert program.install(ALLOW * 4097) == -EINVAL
    assert program.install(ALLOW * 4096) == 0


def test_filter_chain_limits():
    program = start()
    assert program.install(ALLOW) == 0
    values = [program.install(ALLOW * 4096) for _ in range(4)]
    assert values == [0, 0, 0, -ENOMEM]


def test_mode_filter_cannot_move_to_strict():
    program = start()
    assert program.prctl(PR_SET_SECCOMP, 2, ALLOW) == 0
    assert program.prctl(PR_SET_SECCOMP, 1) == -EINVAL


def test_mode_filter_get_seccomp():
    program = start()
    assert program.mode() == 0
    program.install(ALLOW)
    assert program.mode() == 2


def test_ALLOW_all():
    assert start().install(ALLOW) == 0


def test_empty_prog():
    assert start().install(b"") == -EINVAL


def test_arg_out_of_range():
    assert start().install(assemble((0x20, 0, 0, 64), ret(abi.SECCOMP_RET_ALLOW))) == -EINVAL


def test_seccomp_syscall():
    program = start()
    assert program.seccomp(-1, 0, ALLOW) == -EINVAL
    assert program.seccomp(abi.SECCOMP_SET_MODE_STRICT, 0xFFFFFFFF, None) == -EINVAL
    assert program.seccomp(abi.SECCOMP_SET_MODE_STRICT, 0, ALLOW) == -EINVAL
    assert program.seccomp(abi.SECCOMP_SET_MODE_FILTER, 0xFFFFFFFF, ALLOW) == -EINVAL
    assert program.seccomp(abi.SECCOMP_SET_MODE_FILTER, 0, None) == -EFAULT
    assert program.seccomp(abi.SECCOMP_SET_MODE_FILTER, 0, ALLOW) == 0


def test_seccomp_syscall_mode_lock():
    program = start()
    assert program.seccomp(abi.SECCOMP_SET_MODE_FILTER, 0, ALLOW) == 0
    assert program.seccomp(abi.SECCOMP_SET_MODE_STRICT, 0, None) == -EINVAL
    assert program.prctl(PR_SET_SECCOMP, 1) == -EINVAL


def test_log_all():
    program = start()
    assert program.install(on("getppid", LOG)) == 0
    assert program.call("getppid") == program.kernel.init.tid
    assert program.kernel.log == [(110, LOG)]


@pytest.mark.parametrize(
    "verdict",
    [0x10000000, 0x90000000, 0x7FC10000, 0x7FFE0000],
    ids=[
        "unknown_ret_is_kill_inside",
        "unknown_ret_is_kill_above_allow",
        "above notify",
        "log + 2",
    ],
)
def test_unknown_ret_is_kill(verdict: int):
    """C027."""
    program = start()
    assert program.install(always(verdict)) == 0
    program.call("getpid")
    assert program.status == SIGSYS


def test_KILL_all():
    program = start()
    assert program.install(always(KILL_THREAD)) == 0
    program.call("getpid")
    assert program.status == SIGSYS


def test_KILL_one():
    program = start()
    assert program.install(on("getpid", KILL_THREAD)) == 0
    assert program.call("gettid") == program.tid
    program.call("getpid")
    assert program.status == SIGSYS


def _kill_on_argument(at: int, value: int) -> bytes:
    """KILL of getpid when the low word of one argument is ``value``."""
    return assemble(
        LD_NR,
        (0x15, 1, 0, 39),
        ret(abi.SECCOMP_RET_ALLOW),
        (0x20, 0, 0, 16 + 8 * at),
        (0x15, 0, 1, value),
        ret(KILL_THREAD),
        ret(abi.SECCOMP_RET_ALLOW),
    )


@pytest.mark.parametrize("at", [0, 5], ids=["KILL_one_arg_one", "KILL_one_arg_six"])
def test_KILL_one_arg(at: int):
    program = start()
    assert program.install(_kill_on_argument(at, 0x0C0FFEE)) == 0
    pid = program.pid
    assert program.call("getpid") == pid
    assert program.call("getpid", *[1, 2, 3, 4, 5, 6]) == pid
    args = [0x0C0FFEE] * 6
    program.call("getpid", *args[: at + 1])
    assert program.status == SIGSYS


def test_KILL_thread():
    program = start()
    assert program.install(on("getpid", KILL_THREAD)) == 0
    other = program.thread()
    other.call("getpid")
    assert other.state == "X"
    assert program.status is None
    program.exit(42)
    assert program.status == exited(42)


def test_KILL_process():
    program = start()
    assert program.install(on("getpid", KILL_PROCESS)) == 0
    assert program.install(on("getpid", KILL_THREAD)) == 0
    other = program.thread()
    other.call("getpid")
    assert program.status == SIGSYS


def test_KILL_unknown():
    program = start()
    assert program.install(on("getpid", 0xAAAAAAAA)) == 0
    other = program.thread()
    other.call("getpid")
    assert program.status == SIGSYS


@pytest.mark.parametrize(
    ("data", "value"),
    [(E2BIG, -E2BIG), (0, 0), (4096, -4095), (4095, -4095), (0xFFFF, -4095)],
    ids=["ERRNO_valid", "ERRNO_zero", "ERRNO_capped", "at the cap", "all ones"],
)
def test_ERRNO(data: int, value: int):
    program = start()
    assert program.install(on("read", ERRNO | data)) == 0
    assert program.call("getppid") == program.kernel.init.tid
    assert program.call("read", 0, 0, 0) == value


def test_ERRNO_order():
    program = start()
    for number in (11, 13, 12):
        assert program.install(on("read", ERRNO | number)) == 0
    assert program.call("read") == -12


def test_TRAP_dfl():
    program = start()
    program.install(on("getpid", TRAP))
    program.call("getpid")
    assert program.status == SIGSYS


def test_TRAP_ign():
    program = start()
    program.ignore(SIGSYS)
    program.install(on("getpid", TRAP))
    program.call("getpid")
    assert program.status == SIGSYS


def test_TRAP_blocked():
    """C031's neighbour: a blocked SIGSYS kills as well (force_sig)."""
    program = start()
    program.handle(SIGSYS)
    program.block(SIGSYS)
    program.install(on("getpid", TRAP))
    program.call("getpid")
    assert program.status == SIGSYS


def test_TRAP_handler():
    program = start()
    program.handle(SIGSYS)
    program.install(on("getpid", TRAP))
    program.call("getpid")
    assert program.status is None
    assert program.task.handled == [SIGSYS]


_ORDER = ["kill", "trap", "errno", "trace", "log", "allow"]
_ACTIONS = {
    "kill": KILL_THREAD,
    "trap": TRAP,
    "errno": ERRNO,
    "trace": TRACE,
    "log": LOG,
    "allow": abi.SECCOMP_RET_ALLOW,
}


@pytest.mark.parametrize(
    ("strongest", "backwards"),
    [(5, False), *((n, any_order) for n in range(5) for any_order in (False, True))],
    ids=[
        "allow_ok",
        "kill_is_highest",
        "kill_is_highest_in_any_order",
        "trap_is_second",
        "trap_is_second_in_any_order",
        "errno_is_third",
        "errno_is_third_in_any_order",
        "trace_is_fourth",
        "trace_is_fourth_in_any_order",
        "log_is_fifth",
        "log_is_fifth_in_any_order",
    ],
)
def test_precedence(strongest: int, backwards: bool):
    """precedence.*: kill > trap > errno > trace > log > allow whatever was installed first."""
    names = _ORDER[strongest:]
    for order in (
        [names[::-1]] if not backwards else itertools.islice(itertools.permutations(names), 24)
    ):
        program = start()
        parent = program.kernel.init.tid
        for name in order:
            assert program.install(on("getpid", _ACTIONS[name])) == 0
        assert program.call("getppid") == parent
        pid = program.pid
        value = program.call("getpid")
        name = names[0]
        if name in ("kill", "trap"):
            assert program.status == SIGSYS
        else:
            assert value == {"errno": 0, "trace": -ENOSYS, "log": pid, "allow": pid}[name]


@pytest.mark.parametrize("number", [-1, -101])
def test_negative_ENOSYS(number: int):
    assert start().call(number) == -ENOSYS


def test_detect_seccomp_filter_flags():
    for profile, flags in (("5.0", 0b1111), ("5.9", 0b11111), ("5.19", 0b111111)):
        program = start(profile)
        known = [1 << bit for bit in range(6) if flags & 1 << bit]
        for flag in known:
            needs = abi.SECCOMP_FILTER_FLAG_NEW_LISTENER if flag == 32 else 0
            assert program.install(None, flag | needs) == -EFAULT  # type: ignore[arg-type]
        both = abi.SECCOMP_FILTER_FLAG_TSYNC | abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
        exclusive = sum(known) & ~(abi.SECCOMP_FILTER_FLAG_TSYNC if profile == "5.0" else 0)
        assert program.install(None, exclusive) == -EFAULT  # type: ignore[arg-type]
        assert program.install(None, both) == -EINVAL  # type: ignore[arg-type]
        assert program.install(None, 0xFFFFFFFF) == -EINVAL  # type: ignore[arg-type]
        assert program.install(None, flags + 1) == -EINVAL  # type: ignore[arg-type]


def test_filter_flag_log():
    program = start()
    assert (
        program.seccomp(abi.SECCOMP_SET_MODE_STRICT, abi.SECCOMP_FILTER_FLAG_LOG, None) == -EINVAL
    )
    assert program.install(ALLOW, abi.SECCOMP_FILTER_FLAG_LOG) == 0
    assert program.install(on("getpid", KILL_THREAD), abi.SECCOMP_FILTER_FLAG_LOG) == 0
    assert program.call("getppid") == program.kernel.init.tid
    program.call("getpid")
    assert program.status == SIGSYS
    assert program.kernel.log == [(39, KILL_THREAD)]


def test_get_action_avail():
    program = start()
    for action in abi.ACTIONS.values():
        assert program.seccomp(abi.SECCOMP_GET_ACTION_AVAIL, 0, action) == 0
    for unknown in (0x10000000, abi.SECCOMP_RET_USER_NOTIF | 1):
        assert program.seccomp(abi.SECCOMP_GET_ACTION_AVAIL, 0, unknown) == -EOPNOTSUPP


def test_seccomp_get_notif_sizes():
    program = start()
    assert program.seccomp(abi.SECCOMP_GET_NOTIF_SIZES, 0, bytes(6)) == 0
    assert program.seccomp(abi.SECCOMP_GET_NOTIF_SIZES, 0, None) == -EFAULT
    assert program.seccomp(abi.SECCOMP_GET_NOTIF_SIZES, 1, bytes(6)) == -EINVAL
    assert abi.NOTIF_SIZES == (80, 24, 64)


_PROBES = {"not_attached": (), "uprobe_attached": (336,), "uretprobe_attached": (335,)}
_WITH_UPROBES = [0, 1, 60, 231, 336, 335]


def _run_probed(attached: str, filter: bytes, profile: str = "6.18") -> Program:
    """A program calls a function that may have a probe: its trampoline makes a call of its own.

    The second hit of an optimised probe is what makes it.
    """
    program = start(profile)
    program.no_new_privs()
    assert program.install(filter) == 0
    for _ in range(2):
        for number in _PROBES[attached]:
            if program.status is None:
                program.call(number, perform=lambda: 0)
    if program.status is None:
        program.exit(0)
    return program


def _allow_only(numbers: list[int]) -> bytes:
    """ALLOW for some numbers, KILL for all others."""
    rows = [LD_NR]
    for number in numbers:
        rows += [(0x15, 0, 1, number), ret(abi.SECCOMP_RET_ALLOW)]
    return assemble(*rows, ret(KILL_THREAD))


@pytest.mark.parametrize("attached", _PROBES)
def test_UPROBE_uprobe_default_allow(attached: str):
    assert _run_probed(attached, ALLOW).status == exited(0)


@pytest.mark.parametrize("attached", _PROBES)
def test_UPROBE_uprobe_default_block(attached: str):
    """The filter allows exit and kills all else: kernels that exempt probes never ask it."""
    block = _allow_only([231])
    assert _run_probed(attached, block).status == exited(0)
    older = _run_probed(attached, block, "6.6")
    assert older.status == (exited(0) if attached == "not_attached" else SIGSYS)


@pytest.mark.parametrize("attached", _PROBES)
def test_UPROBE_uprobe_block_syscall(attached: str):
    rows = [LD_NR, (0x15, 1, 0, 336), (0x15, 0, 1, 335), ret(KILL_THREAD)]
    block = assemble(*rows, ret(abi.SECCOMP_RET_ALLOW))
    assert _run_probed(attached, block).status == exited(0)


@pytest.mark.parametrize("attached", _PROBES)
def test_UPROBE_uprobe_default_block_with_syscall(attached: str):
    assert _run_probed(attached, _allow_only(_WITH_UPROBES)).status == exited(0)
    assert _run_probed(attached, _allow_only(_WITH_UPROBES), "6.6").status == exited(0)


@pytest.mark.parametrize(("profile", "dies"), [("6.18", False), ("6.6", True)])
def test_strict_mode_and_probes(profile: str, dies: bool):
    """Strict mode exempts them, too (``mode1_syscalls``)."""
    program = start(profile)
    program.prctl(PR_SET_SECCOMP, 1)
    program.call(335, perform=lambda: 0)
    assert (program.status == SIGKILL) is dies

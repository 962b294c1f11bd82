"""Every test of the kernel's seccomp_bpf.c (6.18) is there under its name.

A test of the kernel counts as played if a function ``test_<name>`` (with or without its fixture's
name in front) or a parameter's id ``<name>`` is in one of the modules beside this one.
"""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent
DIFFERENCES = HERE.parents[1] / "docs" / "model-differences.md"

#: The tests of ``tools/testing/selftests/seccomp/seccomp_bpf.c``: fixture to names; "" has none.
#: 6.12.117's 99, UPROBE (6.14, 6.18) and user_notification_wait_killable_after_reply (6.18).
SELFTESTS = {
    "": """
        kcmp mode_strict_support mode_strict_cannot_call_prctl no_new_privs_support
        mode_filter_support mode_filter_without_nnp filter_size_limits filter_chain_limits
        mode_filter_cannot_move_to_strict mode_filter_get_seccomp ALLOW_all empty_prog log_all
        unknown_ret_is_kill_inside unknown_ret_is_kill_above_allow KILL_all KILL_one
        KILL_one_arg_one KILL_one_arg_six KILL_thread KILL_process KILL_unknown arg_out_of_range
        ERRNO_valid ERRNO_zero ERRNO_capped ERRNO_order negative_ENOSYS seccomp_syscall
        seccomp_syscall_mode_lock detect_seccomp_filter_flags TSYNC_first syscall_restart
        filter_flag_log get_action_avail get_metadata user_notification_basic
        user_notification_with_tsync user_notification_kill_in_middle user_notification_signal
        user_notification_closed_listener user_notification_child_pid_ns
        user_notification_sibling_pid_ns user_notification_fault_recv seccomp_get_notif_sizes
        user_notification_continue user_notification_filter_empty
        user_ioctl_notification_filter_empty user_notification_filter_empty_threaded
        user_notification_addfd user_notification_addfd_rlimit
        user_notification_addfd_send_interrupted user_notification_sync user_notification_fifo
        user_notification_wait_killable_pre_notification user_notification_wait_killable
        user_notification_wait_killable_fatal user_notification_wait_killable_after_reply
        tsync_vs_dead_thread_leader
    """,
    "TRAP": "dfl ign handler",
    "precedence": """
        allow_ok kill_is_highest kill_is_highest_in_any_order trap_is_second
        trap_is_second_in_any_order errno_is_third errno_is_third_in_any_order trace_is_fourth
        trace_is_fourth_in_any_order log_is_fifth log_is_fifth_in_any_order
    """,
    "TRACE_poke": "read_has_side_effects getpid_runs_normally",
    "TRACE_syscall": """
        negative_ENOSYS syscall_allowed syscall_redirected syscall_errno syscall_faked
        kill_immediate skip_after kill_after
    """,
    "TSYNC": """
        siblings_fail_prctl two_siblings_with_ancestor two_sibling_want_nnp
        two_siblings_with_no_filter two_siblings_with_one_divergence
        two_siblings_with_one_divergence_no_tid_in_err two_siblings_not_under_filter
    """,
    "O_SUSPEND_SECCOMP": "setoptions seize",
    "UPROBE": """
        uprobe_default_allow uprobe_default_block uprobe_block_syscall
        uprobe_default_block_with_syscall
    """,
}
#: Fixtures whose tests are played once for each variant.
VARIANTS = {
    "TRACE_syscall": {"ptrace", "seccomp"},
    "UPROBE": {"not_attached", "uprobe_attached", "uretprobe_attached"},
}


def _played() -> tuple[set[str], set[str]]:
    """Names of test functions, and every string that could be an id, in the selftests' modules."""
    functions: set[str] = set()
    strings: set[str] = set()
    for module in sorted(HERE.glob("test_selftests_*.py")):
        if module.name == Path(__file__).name:
            continue
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                functions.add(node.name.removeprefix("test_"))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node.value)
    return functions, strings


def test_every_selftest_is_played():
    functions, strings = _played()
    excused = DIFFERENCES.read_text(encoding="utf-8")
    missing = []
    for fixture, names in SELFTESTS.items():
        for name in names.split():
            full = f"{fixture}_{name}" if fixture else name
            if {full, name} & functions or name in strings:
                continue
            if f"`{fixture}.{name}`" not in excused:
                missing.append(full)
    assert not missing


def test_every_variant_is_played():
    _, strings = _played()
    for variants in VARIANTS.values():
        assert variants <= strings


def test_the_list_is_whole():
    """6.12.117 has 99 tests with their variants; 6.18 has one more, and UPROBE's four thrice."""
    count = sum(
        len(names.split()) * len(VARIANTS.get(fixture, "x")) for fixture, names in SELFTESTS.items()
    )
    assert count == 99 + 1 + 4 * 3

"""seccomp(2) by hand, each try in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from proctor.kernel import abi, seccomp

_HEAD = """
import ctypes, os
from proctor.kernel import abi, seccomp
from proctor.errors import *
from proctor.filter.rules import Filter, Rule
from proctor.filter import actions
prctl = ctypes.CDLL(None).prctl
nnp = lambda: prctl(38, 1, 0, 0, 0)
allow = Filter([], actions.ALLOW).compile().code
"""


def in_child(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _HEAD + textwrap.dedent(body)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_installing_filters_and_listeners() -> None:
    done = in_child("""
        nnp()
        print(seccomp.install(allow), seccomp.install(allow, ["LOG"]), seccomp.install(allow, ["SPEC_ALLOW", "TSYNC"]))
        flags = ["NEW_LISTENER", "TSYNC", "TSYNC_ESRCH"]
        try: fd = seccomp.install(allow, [*flags, "WAIT_KILLABLE_RECV"])
        except Unsupported as problem:
            assert not seccomp.flag_available("WAIT_KILLABLE_RECV") and "Linux 5.19 has it" in str(problem)
            fd = seccomp.install(allow, flags)
        print(os.readlink(f"/proc/self/fd/{fd}"), os.get_inheritable(fd))
        try: seccomp.install(allow, ["NEW_LISTENER"])
        except NestedListener as problem: print(problem.errno)
    """)
    assert done.stdout == "0 0 0\nanon_inode:seccomp notify False\n16\n", done.stderr


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("seccomp.install(allow, ['NEW_LISTNER'])", "FilterError: unknown filter flag"),
        ("seccomp.install(allow, ['WAIT_KILLABLE_RECV'])", "FilterError: WAIT_KILLABLE_RECV"),
        (
            "seccomp.install(allow, ['TSYNC', 'NEW_LISTENER'])",
            "FilterError: TSYNC and NEW_LISTENER",
        ),
        ("nnp(); seccomp.install(bytes(8))", "FilterError: the kernel refuses"),
        (
            "os.setgid(65534) if os.geteuid() == 0 else 0; os.setuid(65534) if os.geteuid() == 0 else 0\n"
            "seccomp.install(allow)",
            "NotPermitted: installing a filter takes no_new_privs",
        ),
        ("nnp(); seccomp.install(allow); seccomp.strict_mode()", "Invalid argument"),
    ],
)
def test_refusals_are_sentences(body: str, said: str) -> None:
    done = in_child(body)
    assert said in done.stderr
    assert done.returncode == 1


def test_strict_mode_kills() -> None:
    assert in_child("seccomp.strict_mode(); os.getppid()").returncode == -9


def test_tsync_names_the_thread_that_stands_in_the_way() -> None:
    done = in_child("""
        import threading
        nnp()
        ready, leave = threading.Event(), threading.Event()
        tid = []
        def own():
            seccomp.install(allow); tid.append(threading.get_native_id()); ready.set(); leave.wait()
        thread = threading.Thread(target=own); thread.start(); ready.wait()
        try: seccomp.install(allow, ["TSYNC"])
        except ProcessLookupError as problem: print(f"thread {tid[0]} " in str(problem))
        try: seccomp.install(allow, ["TSYNC", "TSYNC_ESRCH"])
        except ProcessLookupError as problem: print(problem.errno)
        leave.set(); thread.join()
    """)
    assert done.stdout == "True\n3\n", done.stderr


def test_what_the_kernel_offers() -> None:
    assert seccomp.notif_sizes() == abi.NOTIF_SIZES
    assert all(seccomp.flag_available(name) for name in ("TSYNC", "LOG", "NEW_LISTENER"))
    assert all(seccomp.action_available(value) for value in abi.ACTIONS.values())
    assert not seccomp.action_available(0x10000000)
    assert set(seccomp.actions_avail()) >= set(abi.ACTIONS)
    assert "allow" not in seccomp.actions_logged()


def test_actions_logged_refuses_nonsense() -> None:
    with pytest.raises(seccomp.FilterError):
        seccomp.set_actions_logged(["allow"])
    with pytest.raises(seccomp.FilterError):
        seccomp.set_actions_logged(["everything"])

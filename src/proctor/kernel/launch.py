"""Starting a target: from a command to a process under a filter whose listener we hold.

:mod:`proctor.kernel.plan` says what there is to do, :mod:`proctor.kernel.start` does it,
:mod:`proctor.kernel.target` is what is started.
"""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Sequence
from typing import Unpack

from proctor.kernel import abi
from proctor.kernel.listener import check_listener
from proctor.kernel.plan import StrOrBytes, TargetOptions, plan
from proctor.kernel.start import Throwaway, start
from proctor.kernel.target import Target, launch_error


def launch(argv: Sequence[StrOrBytes], **options: Unpack[TargetOptions]) -> Target:
    """Start ``argv``.

    It returns *before* the target's execve has happened: execve itself may be notified, and then it
    waits for whoever serves the listener.  :meth:`Target.executed` has the last word.

    :param argv: the command and its arguments.  A command without a slash is looked for on the
        target's PATH, before there is a filter.
    :param options: see :class:`~proctor.kernel.plan.TargetOptions`.
    :raises LaunchError: with ``step`` and ``errno``, for what fails before the hand-over.
    :raises NestedListener: if a listener already sits above us.
    :raises Unsupported: with a program, on a kernel before 5.9.
    :raises ValueError: options that cannot be.

    ::

        with proctor.launch(["sh", "-c", "exit $code"], env={"code": "3"}, cwd="/") as target:
            assert target.executed() and target.wait(None) == 3
    """
    wanted = plan(argv, **options)
    if wanted.program is not None:
        _refuse_old_kernels()
    file = options.get("executable")
    command = os.fsdecode(argv[0] if file is None else file)
    tried = len(wanted.candidates)
    while True:
        killable = bool(wanted.filter_flags & abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        try:
            started = start(wanted)
        except OSError as problem:
            step, number = str(problem.filename), problem.errno or 0
            if step == "seccomp" and number == _errno.EINVAL and killable:  # before Linux 5.19
                wanted = wanted._replace(
                    filter_flags=wanted.filter_flags & ~abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
                )
                continue
            raise launch_error(
                step, number, command, tried, os.fsdecode(wanted.cwd or b"")
            ) from None
        return Target(started, command, tried, killable)


_young_enough = False


def _refuse_old_kernels() -> None:
    """Before anything is started; asked once per process.

    /proc says how many filters a thread has since the release that is needed, 5.9.  Where it does
    not (or /proc is not there) a listener of a process that never runs anything is asked.
    """
    global _young_enough  # noqa: PLW0603 - once per process is the point
    if _young_enough or _filters_are_counted():
        _young_enough = True
        return
    try:
        throwaway = Throwaway()
    except OSError:
        return  # what fails here fails again with the target, and is said there
    with throwaway as listener:
        check_listener(listener)
    _young_enough = True


def _filters_are_counted() -> bool:
    try:
        with open("/proc/self/status", "rb") as file:
            return b"\nSeccomp_filters:" in file.read()
    except OSError:
        return False

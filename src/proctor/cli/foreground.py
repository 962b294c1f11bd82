"""Standing between a terminal and a command without being noticed.

The command stays in our process group, so the terminal treats both alike: Ctrl-C, Ctrl-\\ and Ctrl-Z
reach it directly.  What is left to do here:

* not to die of what was meant for the command: the terminal's signals are swallowed, since the
  command got its own;
* to pass on what somebody sent to *us* (``kill PID``): those come with a sender;
* to stop when a terminal's stop signal stopped the command, so that the shell sees a stopped job, and
  to wake it when we are woken (it may have left our group, as an interactive shell does).  Any other
  stop of a process of the tree, as by a debugger, is nobody else's business, until somebody wants his
  terminal back: by Ctrl-Z, which the stopped command does not hear; or at once where that has it to
  itself, as a shell in which somebody says ``suspend``, and nobody else would hear a key;
* to end as it ended: the same status, or death by the same signal.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from proctor.cli import front

if TYPE_CHECKING:
    from proctor.process.child import Process

_PAUSE = 0.05  # seconds

_TERMINAL = {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_PASSED_ON = {
    signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH,
    signal.SIGCONT, signal.SIGIO, signal.SIGPWR, signal.SIGVTALRM, signal.SIGPROF, signal.SIGXCPU,
    signal.SIGURG, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
}  # fmt: skip


_WATCHED = _TERMINAL | _PASSED_ON | {signal.SIGCHLD}

#: To the process that stops in the place of this one, if we are two.
_link: front.Link | None = None

#: Whether the command is stopped and we did not stop along.
_alone = False

#: The command's process group, if it had the terminal when we stopped along with it.
_had_terminal: int | None = None


def divide(passed: Iterable[int]) -> None:
    """Have another process of ours stop when a shell asks for it, if one may: see
    :mod:`proctor.cli.front`.  Before there are threads, and after :func:`take_back_sigchld`.

    :param passed: descriptors of the command's, which that process closes."""
    global _link  # noqa: PLW0603 - once per process
    if front.has_terminal():
        _link = front.divide(_WATCHED, end_like, passed)


def hold_signals() -> None:
    """Hold back what :func:`wait` will look at.  To be called before the command is started, which
    starts with what was blocked before: a signal that comes in between is then not lost, and not ours."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)


def take_back_sigchld() -> list[int] | None:
    """Where somebody started us with SIGCHLD ignored, the kernel would tell nobody how the command
    ended.  Then we take the signal's default action, and what is returned are the signals that the
    command is to ignore as it would have without us; None leaves that to the launch."""
    if signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN:
        return None
    ignored = [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pythons = (signal.SIGPIPE, signal.SIGXFSZ)  # ignored by Python itself
    return [n for n in ignored if n not in pythons]


def wait(process: Process, *, all_of_them: bool) -> int:
    """Wait for the command (and, if asked, for everything under its filter); its return code,
    ``-n`` for signal n.  On the main thread, after :func:`hold_signals`."""
    main = threading.get_ident()
    idle = threading.Event()
    pause: float | None = None

    def tell() -> None:
        process.wait_all()
        idle.set()
        signal.pthread_kill(main, signal.SIGCHLD)

    if all_of_them and not process.wait_all(0):
        from proctor.kernel.threads import quiet_thread

        try:
            quiet_thread(tell, "proctor-idle")
        except RuntimeError:
            pause = _PAUSE  # no more threads for us: nobody tells, so look again and again
    else:
        idle.set()
    code: int | None = None
    while True:
        if code is None:
            code = _reap(process)
        if _link is not None:
            for number in _link.told():
                _pass_on(process, number)
        if code is not None and (idle.is_set() or (pause is not None and process.wait_all(0))):
            return code
        info = _next_signal(pause)
        if info is None:
            continue
        number = info.si_signo
        if number == signal.SIGCHLD:
            continue
        if code is not None and number in (
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGHUP,
            signal.SIGQUIT,
        ):
            return code  # the command is gone; whoever waits for its descendants has had enough
        # nor what is ours: who draws a screen anew is told by proctor.asking.terminal, with all of its group
        by_terminal = front.from_terminal(info)
        if code is None and (_alone if by_terminal else info.si_pid != os.getpid()):
            _pass_on(process, number)


def _next_signal(pause: float | None) -> signal.struct_siginfo | None:
    if pause is None:
        return signal.sigwaitinfo(_WATCHED)
    return signal.sigtimedwait(_WATCHED, pause)


def _reap(process: Process) -> int | None:
    """The return code if the command ended; stops along with it if job control stopped it."""
    global _alone, _had_terminal  # noqa: PLW0603 - as the command's, of which there is one
    while (code := process.poll()) is None:
        try:
            changed = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
        except ChildProcessError:
            return None  # it ended in this moment; the next SIGCHLD is pending already
        if changed is None:
            return None
        if changed.si_code == os.CLD_CONTINUED:
            _alone = False
            _go_on_along()
        elif changed.si_status in front.STOPS:
            _stop_along(process, changed.si_status)
        elif _is_held(process.pid):
            pass  # by us, and not for long
        elif (group := os.getpgid(process.pid)) != os.getpgrp() and front.foreground() == group:
            _had_terminal = group
            _stop_along(process, signal.SIGTSTP)
        else:
            _alone = True
    _alone = False
    _go_on_along()  # it may have been killed while it was stopped
    return code


def _is_held(pid: int) -> bool:
    from proctor.asking.holding import is_held  # few are stopped, and who begins need not know

    return is_held(pid)


def _pass_on(process: Process, number: int) -> None:
    """What somebody sent to us is for the command; but one that is stopped is not stopped once more."""
    if _alone and number in front.STOPS:
        _stop_along(process, number)
        return
    if number == signal.SIGCONT:
        _give_back()
    process.send_signal(number)


def _stop_along(process: Process, number: int) -> None:
    if not front.has_terminal():
        return  # nobody would continue us
    if _link is not None:
        _link.stop(number)
    elif front.stop(number):
        _give_back()
        process.send_signal(signal.SIGCONT)


def _give_back() -> None:
    """The terminal to the command, if that had it and a shell has just given it to us."""
    global _had_terminal  # noqa: PLW0603 - as the command's, of which there is one
    if _had_terminal is not None:
        front.foreground(_had_terminal)
        _had_terminal = None


def _go_on_along() -> None:
    if _link is not None:
        _link.go_on()


def end_like(code: int) -> int:
    """The exit status for ``code``; for a death by signal, dies of that signal and does not return."""
    if code >= 0:
        return code
    number = -code
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (OSError, ValueError):
        pass  # at worst a second core file, of ours
    try:
        signal.signal(number, signal.SIG_DFL)
    except OSError:
        pass  # SIGKILL: cannot be, need not be reset
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return (
        128 + number
    )  # only if the signal does not kill us (SIGSTOP-like): what a shell would say

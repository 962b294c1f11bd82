"""Standing between a terminal and a command without being noticed.

The command stays in our process group, so the terminal treats both alike: Ctrl-C, Ctrl-\\ and Ctrl-Z
reach it directly.  What is left to do here:

* not to die of what was meant for the command: the terminal's signals are swallowed, since the
  command got its own;
* to pass on what somebody sent to *us* (``kill PID``): those come with a sender;
* to stop when the command stops, so that the shell sees a stopped job, and to wake it when we are
  woken (it may have left our group, as an interactive shell does);
* to end as it ended: the same status, or death by the same signal.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proctor.process.run import Process

_PAUSE = 0.05  # seconds
_SI_KERNEL = 0x80  # asm-generic/siginfo.h: sent by the kernel itself, here: by the terminal

_TERMINAL = {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_PASSED_ON = {
    signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH,
    signal.SIGCONT, signal.SIGIO, signal.SIGPWR, signal.SIGVTALRM, signal.SIGPROF, signal.SIGXCPU,
    signal.SIGURG, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
}  # fmt: skip


_WATCHED = _TERMINAL | _PASSED_ON | {signal.SIGCHLD}


def hold_signals() -> None:
    """Hold back what :func:`wait` will look at.  To be called before the command is started, which
    starts with nothing blocked: a signal that comes in between is then not lost, and not ours."""
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
        if info.si_code == _SI_KERNEL and number in _TERMINAL:
            continue
        if code is None and not (
            info.si_code == _SI_KERNEL and number in (signal.SIGWINCH, signal.SIGHUP)
        ):
            process.send_signal(number)


def _next_signal(pause: float | None) -> signal.struct_siginfo | None:
    if pause is None:
        return signal.sigwaitinfo(_WATCHED)
    return signal.sigtimedwait(_WATCHED, pause)


def _reap(process: Process) -> int | None:
    """The return code if the command ended; stops along with it if it stopped."""
    code = process.poll()
    if code is None:
        try:
            stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return None  # it ended in this moment; the next SIGCHLD is pending already
        if stopped is not None:
            os.kill(os.getpid(), signal.SIGSTOP)
            # Woken: by the shell's SIGCONT to our group, which the command heard if it is in it.
            process.send_signal(signal.SIGCONT)
    return code


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

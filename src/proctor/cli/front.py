"""Two processes where a shell may ask us to stop: the one that it started, and the monitor.

What stops is a process with all its threads.  But whoever answers calls must not stop: others of the
tree, in sessions of their own, do not either.  So the process that the shell knows, the *front*, stops
and goes on and ends as the command does; its child, the monitor, does all the rest.

What each has to tell the other of stopping goes through a pipe, in order, and with a signal behind it
that has it read: of the kernel's, a stop signal takes a SIGCONT that waits with it, and the other way
round.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

from proctor.cli import inherited
from proctor.kernel import raw

#: By which job control stops: SIGSTOP is nobody's but its sender's.
STOPS = frozenset((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
_SI_KERNEL = 0x80  # asm-generic/siginfo.h: sent by the kernel itself, here: by the terminal
_BY_TERMINAL = {
    signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
    signal.SIGWINCH, signal.SIGHUP,
}  # fmt: skip
_KILLED = 128 + signal.SIGKILL


class Link:
    """One process's end of what joins the two.

    :ivar other: the other's process id.
    """

    def __init__(self, other: int, reader: int, writer: int) -> None:
        self.other = other
        self._reader = reader
        self._writer = writer
        self._stopped = False

    def stop(self, number: int) -> None:
        """Have the front stop by a signal."""
        self._stopped = True
        self.tell(number)

    def go_on(self) -> None:
        """Have the front go on, if it was we that stopped it, and nobody woke it since: a SIGCONT
        takes away what somebody else wants to stop it by."""
        if self._stopped:
            self._stopped = False
            self.tell(signal.SIGCONT, by=signal.SIGCONT)

    def tell(self, number: int, by: int = signal.SIGCHLD) -> None:
        """Tell of a signal, and have it read."""
        try:
            os.write(self._writer, bytes([number]))
            os.kill(self.other, by)
        except (BlockingIOError, BrokenPipeError, ProcessLookupError):
            pass  # it has enough to do, or is about to end, and we with it

    def told(self) -> bytes:
        """The signals that were told of since the last time."""
        try:
            told = os.read(self._reader, 1024)
        except BlockingIOError:
            return b""
        if signal.SIGCONT in told:
            self._stopped = False
        return told


def divide(
    watched: Iterable[int], end_like: Callable[[int], int], passed: Iterable[int] = ()
) -> Link | None:
    """Become two processes.  In the monitor this returns; the front ends in here.  Before there are
    threads.

    :param watched: signals that the front passes on.
    :param end_like: ends as a return code says, or gives the exit status for it.
    :param passed: descriptors that the front closes: they are the command's.
    :returns: None if there can be no second process: then all of us stops.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    monitors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    fronts = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    front = os.getpid()
    try:
        monitor: int | None = os.fork()
    except OSError:
        monitor = None
    if monitor:
        os.close(monitors[0])
        os.close(fronts[1])
        inherited.give_up(passed)
        os._exit(end_like(_stand_in(Link(monitor, fronts[0], monitors[1]), watched)))
    os.close(fronts[0])
    os.close(monitors[1])
    if monitor is None:
        os.close(fronts[1])
        os.close(monitors[0])
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    raw.die_with_parent(signal.SIGKILL)
    if os.getppid() != front:
        os._exit(_KILLED)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Link(front, monitors[0], fronts[1])


def _stand_in(link: Link, watched: Iterable[int]) -> int:
    """The front: pass signals on, stop when the monitor says so; the return code that it ended with."""
    while True:
        told = link.told()
        if told and told[-1] in STOPS and stop(told[-1], link):
            link.tell(signal.SIGCONT)
        found = os.waitid(os.P_PID, link.other, os.WEXITED | os.WSTOPPED | os.WNOHANG)
        if found is not None and found.si_code != os.CLD_STOPPED:
            return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        if found is not None:  # before there is a command, by the terminal
            if found.si_status in STOPS:
                stop(found.si_status, link)
                os.kill(link.other, signal.SIGCONT)
            continue
        info = signal.sigwaitinfo(watched)
        number = info.si_signo
        if number == signal.SIGCHLD or from_terminal(info) or info.si_pid == link.other:
            continue
        if number in STOPS or number == signal.SIGCONT:
            link.tell(number)
        else:
            os.kill(link.other, number)  # it is not reaped yet: the number is its own


def stop(number: int, link: Link | None = None) -> bool:
    """Stop by the signal as any process does by default: not in an orphaned process group, which the
    kernel sees to.  Whether the command is to be told to go on, since it was not the monitor that
    woke us."""
    before = signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)  # while it is blocked: from now on a SIGCONT takes it away
    if link is not None and link.told()[-1:] == bytes([signal.SIGCONT]):
        os.kill(os.getpid(), signal.SIGCONT)  # the command went on before we could stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    signal.signal(number, before)
    woken = signal.sigtimedwait({signal.SIGCONT}, 0)
    return link is None or woken is None or woken.si_pid not in (link.other, os.getpid())


def from_terminal(info: signal.struct_siginfo) -> bool:
    """Whether the terminal sent it, to the command as well."""
    return info.si_code == _SI_KERNEL and info.si_signo in _BY_TERMINAL


def foreground(give_to: int | None = None) -> int | None:
    """The foreground process group of our terminal, None if there is no telling; where that is ours
    it is given to another one, if one is named.  SIGTTOU is to be blocked."""
    try:
        with open("/dev/tty", "rb", buffering=0, opener=_at_once) as terminal:
            group = os.tcgetpgrp(terminal.fileno())
            if give_to is not None and group == os.getpgrp():
                os.tcsetpgrp(terminal.fileno(), give_to)
            return group
    except OSError:
        return None  # none, one that hung up, or a group that is gone


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOCTTY | os.O_NONBLOCK)


def has_terminal() -> bool:
    """Whether there is a controlling terminal: proc_pid_stat(5), field 7."""
    try:
        with open("/proc/self/stat", "rb", buffering=0) as file:
            text = file.read(4096)
        return text[text.rindex(b")") + 2 :].split()[4] != b"0"
    except (OSError, ValueError, IndexError):
        return False

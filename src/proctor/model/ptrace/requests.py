"""ptrace(2): attaching, letting go on, looking, writing; and a tracee's filters read back.

Every request is refused in the kernel's order.  Those that need a stopped thread give ESRCH for
any other, and for whoever is not traced by the calling *thread*.

Sources: ``kernel/ptrace.c`` (``ptrace_attach``, ``ptrace_check_attach``, ``ptrace_request``),
``kernel/seccomp.c`` (``seccomp_get_filter``, ``seccomp_get_metadata``),
``arch/x86/kernel/ptrace.c`` (``arch_ptrace``), ``security/commoncap.c``, Linux 6.12; ptrace(2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.kernel.abi import SECCOMP_FILTER_FLAG_LOG, SOCK_FILTER
from proctor.model.kernel import ending, signals
from proctor.model.kernel.linux import (
    EACCES,
    EFAULT,
    EINVAL,
    EIO,
    ENOENT,
    EPERM,
    ESRCH,
    SIGKILL,
    SIGSTOP,
    SIGTRAP,
)
from proctor.model.kernel.pidfds import may_look
from proctor.model.kernel.tasks import MODE_DISABLED, MODE_FILTER, STOPPED, TRACED, ZOMBIE
from proctor.model.ptrace import numbers, registers, tracing

if TYPE_CHECKING:
    from proctor.model.kernel.filters import Filter
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.tasks import Task
    from proctor.model.ptrace.tracing import Stop, Tracing

#: What the last argument is: a number, or memory of the caller; None is NULL.
Data = int | bytearray | None
_RESUMES = frozenset((numbers.PTRACE_CONT, numbers.PTRACE_SYSCALL))
_SIGNALS = 64
_METADATA_SIZE = 16


def ptrace(
    kernel: Kernel, task: Task, request: int, pid: int, addr: int = 0, data: Data = 0
) -> int:
    """ptrace(2).

    :param data: a number (signal, options, word to write), or the caller's memory that the request
        reads or fills.
    :returns: 0, a size, or a negative errno.

    Source: ``kernel/ptrace.c`` 6.12 ``SYSCALL_DEFINE4(ptrace)``.
    """
    if request == numbers.PTRACE_TRACEME:
        return traceme(task)
    child = task.process.namespace.tasks.get(pid)
    if child is None:
        return -ESRCH
    if request in (numbers.PTRACE_ATTACH, numbers.PTRACE_SEIZE):
        seize = request == numbers.PTRACE_SEIZE
        return attach(kernel, task, child, seize, addr, data if isinstance(data, int) else 0)
    relation = child.tracing
    if relation is None or relation.tracer is not task:
        return -ESRCH
    if request == numbers.PTRACE_KILL:
        signals.send(kernel, SIGKILL, child, False, _from_above(task, child))
        return 0
    if request == numbers.PTRACE_INTERRUPT:
        return _interrupt(kernel, child, relation)
    at = child.stop
    if child.state != TRACED or at is None or at.listening or child.killed:
        return -ESRCH
    if "changed_number_is_told" in kernel.features and _spurious(task, child, at):
        return -ESRCH
    if request in _RESUMES:
        return _resume(kernel, child, relation, at, request, _number(data))
    if request == numbers.PTRACE_DETACH:
        return _detach(kernel, child, at, _number(data))
    if request == numbers.PTRACE_LISTEN:
        return _listen(kernel, child, relation, at)
    if request == numbers.PTRACE_SETOPTIONS:
        return _set_options(task, relation, _number(data))
    return _look(kernel, task, child, at, request, addr, data)


def _number(data: Data) -> int:
    return data if isinstance(data, int) else 0


def _spurious(task: Task, child: Task, at: Stop) -> bool:
    """``looks_like_a_spurious_pid``: it took a leader's number over, and wait4(2) has not said so.

    Source: ``kernel/ptrace.c`` 5.13.
    """
    execed = numbers.PTRACE_EVENT_EXEC << 8 | SIGTRAP
    return at.code == execed and child.seen_from(task.process.namespace) != at.message


def _from_above(task: Task, child: Task) -> bool:
    return task.process.namespace is not child.process.namespace


# Attaching ------------------------------------------------------------------------------------
def traceme(task: Task) -> int:
    """PTRACE_TRACEME: the thread that made this process traces it; EPERM if anybody does.

    Source: ``kernel/ptrace.c`` 6.12 ``ptrace_traceme``; ``security/commoncap.c`` 6.12
    ``cap_ptrace_traceme``.
    """
    parent = tracing.real_parent(task.process)
    if task.tracing is not None or parent is None:
        return -EPERM
    if task.cap_sys_admin and not parent.cap_sys_admin:
        return -EPERM
    if not parent.exiting:
        tracing.link(task, parent, False, 0, task.cap_sys_admin)
    return 0


def _check_options(task: Task, options: int) -> int:
    """``check_ptrace_options``: SUSPEND_SECCOMP is for who has CAP_SYS_ADMIN and no filter.

    Source: ``kernel/ptrace.c`` 6.12; selftests O_SUSPEND_SECCOMP.*.
    """
    if options & ~numbers.PTRACE_O_MASK:
        return -EINVAL
    if options & numbers.PTRACE_O_SUSPEND_SECCOMP:
        if not task.cap_sys_admin:
            return -EPERM
        if task.mode != MODE_DISABLED or tracing.suspends_seccomp(task):
            return -EPERM
    return 0


def attach(kernel: Kernel, task: Task, child: Task, seize: bool, addr: int, options: int) -> int:
    """PTRACE_ATTACH, which sends SIGSTOP, and PTRACE_SEIZE, which does not.

    A notification the thread waits for is cancelled by that SIGSTOP as by any signal: not if it was
    received under WAIT_KILLABLE_RECV (C112, C113).  A thread whose process is stopped is in a
    ptrace-stop from now on.

    Source: ``kernel/ptrace.c`` 6.12 ``ptrace_attach``, ``ptrace_set_stopped``.
    """
    if seize:
        if addr or options & ~numbers.PTRACE_O_MASK:
            return -EIO
        refused = _check_options(task, options)
        if refused:
            return refused
    if child.process is task.process or not may_look(task, child):
        return -EPERM
    if child.exiting or child.tracing is not None:
        return -EPERM
    tracing.link(child, task, seize, options if seize else 0, task.cap_sys_admin)
    if not seize:
        signals.send(kernel, SIGSTOP, child, False, from_above=True)
    if child.state == STOPPED and not child.killed and child.held:
        child.trap_stop = True
        signals.wake_up(kernel, child, False)
        child.held = False
        kernel.run(child)  # the tracer waits until it got there (JOBCTL_TRAPPING)
    return 0


def _interrupt(kernel: Kernel, child: Task, relation: Tracing) -> int:
    """PTRACE_INTERRUPT: a seized thread stops, without any signal; EIO for one that was attached.

    Source: ``kernel/ptrace.c`` 6.12 ``ptrace_request``.
    """
    if not relation.seized:
        return -EIO
    if not child.killed and not child.exiting:
        child.trap_stop = True
        signals.wake_up(kernel, child, False)
        if child.stop is not None and child.stop.listening:
            tracing.resume(kernel, child)
    return 0


def _listen(kernel: Kernel, child: Task, relation: Tracing, at: Stop) -> int:
    """PTRACE_LISTEN: stay in PTRACE_EVENT_STOP until there is news.

    Source: ``kernel/ptrace.c`` 6.12 ``ptrace_request``.
    """
    if not relation.seized or at.info is None or at.info >> 8 != numbers.PTRACE_EVENT_STOP:
        return -EIO
    at.listening = True
    if child.trap_notify:
        tracing.resume(kernel, child)
    return 0


# Going on -------------------------------------------------------------------------------------
def _resume(
    kernel: Kernel, child: Task, relation: Tracing, at: Stop, request: int, data: int
) -> int:
    """PTRACE_CONT and PTRACE_SYSCALL, with a signal or 0.

    Source: ``kernel/ptrace.c`` 6.12 ``ptrace_resume``.
    """
    if not 0 <= data <= _SIGNALS:
        return -EIO
    relation.syscalls = request == numbers.PTRACE_SYSCALL
    at.code = data
    tracing.resume(kernel, child)
    return 0


def _detach(kernel: Kernel, child: Task, at: Stop, data: int) -> int:
    """PTRACE_DETACH, with a signal or 0.

    Source: ``kernel/ptrace.c`` 6.12 ``ptrace_detach``.
    """
    if not 0 <= data <= _SIGNALS:
        return -EIO
    at.code = data
    tracing.unlink(kernel, child)
    if child.state == ZOMBIE:
        ending.untraced(kernel, child)
    return 0


def _set_options(task: Task, relation: Tracing, options: int) -> int:
    """PTRACE_SETOPTIONS.  Source: ``kernel/ptrace.c`` 6.12 ``ptrace_setoptions``."""
    refused = _check_options(task, options)
    if not refused:
        relation.options = options
    return refused


# Looking and writing --------------------------------------------------------------------------
def _fill(data: Data, content: bytes, value: int = 0) -> int:
    """Write ``content`` to the caller's memory: ``value``, or -EFAULT.

    Source: ``include/linux/uaccess.h`` 6.12 ``copy_to_user``.
    """
    if not isinstance(data, bytearray) or len(data) < len(content):
        return -EFAULT
    data[: len(content)] = content
    return value


def _word(value: int) -> bytes:
    return (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")


def _look(
    kernel: Kernel, task: Task, child: Task, at: Stop, request: int, addr: int, data: Data
) -> int:
    """Requests that read or write a stopped thread.

    Source: ``arch/x86/kernel/ptrace.c`` 6.12 ``arch_ptrace``; ``kernel/ptrace.c`` 6.12
    ``ptrace_request``.
    """
    if request == numbers.PTRACE_GETREGS:
        every = b"".join(_word(registers.read(child, n)) for n in range(registers.WORDS))
        return _fill(data, every)
    if request == numbers.PTRACE_SETREGS:
        if not isinstance(data, bytearray) or len(data) < registers.SIZE:
            return -EFAULT
        for n in range(registers.WORDS):
            registers.write(child, n, int.from_bytes(data[n * 8 : n * 8 + 8], "little"))
        return 0
    if request in (numbers.PTRACE_PEEKUSER, numbers.PTRACE_POKEUSER):
        if addr & 7 or not 0 <= addr < registers.USER_SIZE:
            return -EIO
        if request == numbers.PTRACE_PEEKUSER:
            return _fill(data, _word(registers.read(child, addr // 8)))
        registers.write(child, addr // 8, _number(data))
        return 0
    if request in (numbers.PTRACE_PEEKDATA, numbers.PTRACE_PEEKTEXT):
        word = child.process.memory.read(addr, 8) if _may_touch(child) else None
        return -EIO if word is None else _fill(data, word)
    if request in (numbers.PTRACE_POKEDATA, numbers.PTRACE_POKETEXT):
        fits = _may_touch(child) and child.process.memory.write(addr, _word(_number(data)))
        return 0 if fits else -EIO
    if request == numbers.PTRACE_GETEVENTMSG:
        return _fill(data, _word(at.message))
    if request == numbers.PTRACE_GETSIGINFO:
        return _siginfo(child, at, data)
    if request == numbers.PTRACE_GET_SYSCALL_INFO and "syscall_info" in kernel.features:
        info = registers.get_info(child, at)
        return _fill(data, info[: max(0, addr)], len(info))
    if request == numbers.PTRACE_SET_SYSCALL_INFO and "set_syscall_info" in kernel.features:
        if addr < registers.INFO_SIZE:
            return -EINVAL
        if not isinstance(data, bytearray) or len(data) < registers.INFO_SIZE:
            return -EFAULT
        return registers.set_info(child, at, bytes(data))
    if request == numbers.PTRACE_SECCOMP_GET_FILTER:
        return get_filter(task, child, addr, data)
    if request == numbers.PTRACE_SECCOMP_GET_METADATA:
        return get_metadata(task, child, addr, data)
    return -EIO


def _may_touch(child: Task) -> bool:
    """``ptrace_access_vm``: memory that is not dumpable is for who attached with CAP_SYS_PTRACE.

    Source: ``kernel/ptrace.c`` 6.12 ``ptrace_access_vm``, ``ptracer_capable``.
    """
    return child.process.dumpable or (child.tracing is not None and child.tracing.capable)


def _siginfo(child: Task, at: Stop, data: Data) -> int:
    """PTRACE_GETSIGINFO, as far as it is modelled: number and code; EINVAL in a group-stop.

    Source: ``kernel/ptrace.c`` 6.12 ``ptrace_getsiginfo``.
    """
    if at.info is None:
        return -EINVAL
    number = at.info & 0x7F if at.info else at.number
    return _fill(data, number.to_bytes(4, "little") + bytes(4) + at.info.to_bytes(4, "little"))


# A tracee's filters ---------------------------------------------------------------------------
def _nth_filter(child: Task, offset: int) -> Filter | int:
    """``get_nth_filter``: counted from the oldest; EINVAL without filters, ENOENT beyond them.

    Source: ``kernel/seccomp.c`` 6.12.
    """
    if child.mode != MODE_FILTER:
        return -EINVAL
    path = []
    filter = child.filter
    while filter is not None:
        path.append(filter)
        filter = filter.prev
    return path[-1 - offset] if offset < len(path) else -ENOENT


def _may_read_filters(task: Task) -> bool:
    """CAP_SYS_ADMIN, and no filter or strict mode of one's own.

    Source: ``kernel/seccomp.c`` 6.12 ``seccomp_get_filter``.
    """
    return task.cap_sys_admin and task.mode == MODE_DISABLED


def get_filter(task: Task, child: Task, offset: int, data: Data) -> int:
    """PTRACE_SECCOMP_GET_FILTER: the program's length; it is written unless ``data`` is NULL.

    Source: ``kernel/seccomp.c`` 6.12 ``seccomp_get_filter``.
    """
    if not _may_read_filters(task):
        return -EACCES
    found = _nth_filter(child, offset & 0xFFFFFFFFFFFFFFFF)
    if isinstance(found, int):
        return found
    program = b"".join(SOCK_FILTER.pack(*row) for row in found.code.instructions)
    length = len(found.code.instructions)
    return length if data is None or data == 0 else _fill(data, program, length)


def get_metadata(task: Task, child: Task, size: int, data: Data) -> int:
    """PTRACE_SECCOMP_GET_METADATA: filter_off in, flags out (LOG or nothing); the size.

    Source: ``kernel/seccomp.c`` 6.12 ``seccomp_get_metadata``; selftest get_metadata.
    """
    if not _may_read_filters(task):
        return -EACCES
    size = min(size & 0xFFFFFFFFFFFFFFFF, _METADATA_SIZE)
    if size < 8:
        return -EINVAL
    if not isinstance(data, bytearray) or len(data) < size:
        return -EFAULT
    found = _nth_filter(child, int.from_bytes(data[:8], "little"))
    if isinstance(found, int):
        return found
    flags = SECCOMP_FILTER_FLAG_LOG if found.log else 0
    return _fill(data, (bytes(data[:8]) + _word(flags))[:size], size)

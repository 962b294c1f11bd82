"""What becomes of a whole container: it is killed, or frozen.

A container is the cgroup (version 2) of the caller, unless we are in there ourselves: then it is the
caller's tree below us, which can be killed and not frozen.  Of a tree whoever was given to another parent
is not found: a daemon of a command without a cgroup of its own.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from proctor.asking.holding import descendants, process_of
from proctor.call.identity import parse_cgroups
from proctor.errors import ProctorError

if TYPE_CHECKING:
    from proctor.call.call import Call

#: By container and thread, with when that began: which call was refused, and how.
_interrupted: WeakKeyDictionary[Any, dict[tuple[int, str], tuple[Any, int]]] = WeakKeyDictionary()
#: Most of one container.
_MOST: Final = 256


def cgroup_of(call: Call) -> str | None:
    """The directory of the caller's cgroup; None if it is ours as well, or not in sight.

    :raises CallGone: the caller is gone.
    """
    from proctor.performing.identities.cgroups import (
        directories,
        within,
    )  # Linux's own; policies are read elsewhere

    with open("/proc/self/cgroup", "rb") as file:
        own = parse_cgroups(file.read()).get("")
    path = call.caller.cgroups.get("")
    if path is None or (own is not None and within(own, path)):
        return None
    found = directories(b"0::" + path, b"")
    return os.fsdecode(found[0]) if found else None


def interrupted(call: Call) -> int:
    """The errno of a call that was refused while its container was frozen, and never heard of it; 0 of any other.

    Whoever freezes interrupts who waits interruptibly (all but WAIT_KILLABLE_RECV): the kernel makes its call once more
    when it goes on, with the same registers (ERESTARTSYS of kernel/seccomp.c), which is no reason to freeze it again.
    """
    of = _interrupted.get(call.container)
    if not of:
        return 0
    thread = process_of(call.tid)
    same, error = of.pop((call.tid, "" if thread is None else thread.began), (None, 0))
    return error if same == _same(call) else 0


def _same(call: Call) -> tuple[int, int, tuple[int, ...]]:
    return call.arch, call.nr, tuple(call.registers)


def freeze(call: Call, error: int) -> None:
    """Freeze the caller's container (cgroup.freeze, Linux 5.2); it goes on when somebody writes 0 there.
    What waits killably for an answer freezes once it has one; for others, see :func:`interrupted`.

    :param error: with which the call is refused.
    :raises ProctorError: it has no cgroup of its own.
    :raises OSError: it may not be frozen.
    :raises CallGone: the caller is gone.
    """
    place = cgroup_of(call)
    if place is None:
        raise ProctorError("cannot be frozen: its cgroup is ours as well, or not in sight")
    thread = process_of(call.tid)
    # A killable sleep is D; whoever is about to fall into one was woken by the reception, and is R.
    of, key = _interrupted.setdefault(call.container, {}), None
    if thread is not None and thread.state == "S":
        key = call.tid, thread.began
        of[key] = _same(call), error
        if len(of) > _MOST:
            del of[next(iter(of))]
    try:
        with open(f"{place}/cgroup.freeze", "w") as file:
            file.write("1")
    except OSError:
        if key is not None:
            of.pop(key, None)  # nothing was interrupted: its next call is one
        raise


def kill(call: Call) -> None:
    """Kill the caller's container: all of its cgroup (cgroup.kill, Linux 5.14), else its tree below us.

    :raises CallGone: the caller is gone.
    """
    place = cgroup_of(call)
    if place is not None:
        try:
            with open(f"{place}/cgroup.kill", "w") as file:
                file.write("1")
            return
        except OSError:
            pass  # an old kernel, or not ours to write: by hand
    _kill_tree(call)


def _kill_tree(call: Call) -> None:
    top = call.caller.tgid
    below = descendants()
    while top in below and below[top].parent in below:
        top = below[top].parent
    if top not in below:  # not of ours: the caller alone is known to be meant
        _end(call.caller.anchor())
        return
    seen: set[tuple[int, str]] = set()
    while True:  # until nobody is left who could have made another one
        tree = [top]  # parents first: none is to go on for the death of a child
        below = descendants()
        for pid in tree:
            tree += [each.pid for each in below.values() if each.parent == pid]
        fresh = [below[pid] for pid in tree if pid in below and below[pid].state not in "ZX"]
        fresh = [each for each in fresh if (each.pid, each.began) not in seen]
        if not fresh:
            return
        for each in fresh:
            seen.add((each.pid, each.began))
            try:
                pidfd = os.pidfd_open(each.pid)
            except OSError:
                continue
            try:
                again = process_of(each.pid)
                if again is not None and again.began == each.began:
                    _end(pidfd)
            finally:
                os.close(pidfd)


def _end(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it is dead

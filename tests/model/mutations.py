"""Does the comparison bite?  Deliberate mistakes in the model, each of which it has to notice.

``python -m tests.model.mutations`` tries them all, each in a process of its own, and says
after how many steps each was caught.  A mutation that survives fails.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parents[2]
STEPS = 60_000


class Mutation(NamedTuple):
    """One wrong line: in ``module``, ``right`` becomes ``wrong``."""

    name: str
    module: str
    right: str
    wrong: str
    stage: bool = False
    """Whether :mod:`tests.model.stage` has to notice it: it is about tracers."""


MUTATIONS = (
    Mutation("RECV: wrong errno when nobody waits any more", "kernel.listener",
             "    if knotif is None:\n        return -ENOENT\n    knotif.move(\"receive\")",
             "    if knotif is None:\n        return -EINVAL\n    knotif.move(\"receive\")"),
    Mutation("RECV: newest first", "kernel.listener",
             'if "fifo" in self.kernel.features else reversed(every)',
             'if "fifo" not in self.kernel.features else reversed(every)'),
    Mutation("RECV: the buffer need not be zero", "kernel.ioctl", "        if any(raw):\n", "        if False:\n"),
    Mutation("RECV: a cancelled notification takes its request along", "kernel.notify",
             "            notif.notifications.pop(self.id, None)\n",
             "            notif.notifications.pop(self.id, None)\n"
             '            notif.requests -= event == "cancel" and self.id >= 0\n'),
    Mutation("RECV: the process's number instead of the thread's", "kernel.listener",
             "pid = knotif.task.numbers.get(namespace, 0)",
             "pid = knotif.task.process.leader.numbers.get(namespace, 0)"),
    Mutation("ids grow by two", "kernel.listener", "(taken + 1) & 0xFFFF", "(taken + 2) & 0xFFFF"),
    Mutation("SEND: before RECV is ENOENT", "kernel.listener",
             "    if knotif.state != SENT:\n        return -EINPROGRESS\n    knotif.move(\"answer\")",
             "    if knotif.state != SENT:\n        return -ENOENT\n    knotif.move(\"answer\")"),
    Mutation("SEND: the value wins over the error", "kernel.notify",
             'self._end(kernel, task, "finish", self.error or self.val)',
             'self._end(kernel, task, "finish", self.val or self.error)'),
    Mutation("SEND: unknown flags are let through", "kernel.listener",
             "    if flags & ~known:\n        return -EINVAL\n    if flags & SECCOMP",
             "    if flags & SECCOMP"),
    Mutation("SEND: CONTINUE may have a value", "kernel.listener", "and (error or val):", "and error:"),
    Mutation("ID_VALID: also before RECV", "kernel.listener",
             "return 0 if knotif is not None and knotif.state == SENT else -ENOENT",
             "return 0 if knotif is not None else -ENOENT"),
    Mutation("ADDFD: O_PATH files are taken", "kernel.listener",
             "file = task.files.get(srcfd)", "file = task.files.get(srcfd, path_too=True)"),
    Mutation("ADDFD: the id is looked at before the descriptor", "kernel.listener",
             "    if file is None:\n        return -EBADF\n    knotif = notif.notifications.get(id)\n"
             "    if knotif is None:\n        return -ENOENT\n",
             "    knotif = notif.notifications.get(id)\n"
             "    if knotif is None:\n        return -ENOENT\n    if file is None:\n        return -EBADF\n"),
    Mutation("ADDFD: beyond the limit is EMFILE", "kernel.files",
             "        if fd >= limit:\n            return -EBADF\n", "        if fd >= limit:\n            return -EMFILE\n"),
    Mutation("ADDFD: a longer struct is refused", "kernel.ioctl", "size < known or size >= _PAGE", "size != known"),
    Mutation("ADDFD|SEND does not answer", "kernel.notify",
             "self.flags, self.error, self.val = 0, 0, fd", "self.flags, self.error, self.val = 0, 0, 0"),
    Mutation("SET_FLAGS takes any word", "kernel.listener",
             "if flags & ~SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP:", "if flags < 0:"),
    Mutation("poll: no OUT", "kernel.listener", "bits |= WRITABLE", "bits |= 0"),
    Mutation("poll: no HUP", "kernel.listener",
             'if self.filter.users == 0 and "hangup" in self.kernel.features:', "if False:"),
    Mutation("users: fork counts twice", "kernel.filters",
             "        task.filter.refs += 1\n        task.filter.users += 1\n",
             "        task.filter.refs += 1\n        task.filter.users += 2\n"),
    Mutation("users: filters are let go when reaped", "kernel.ending",
             'if "release_at_exit" in kernel.features:', "if False:"),
    Mutation("close: waiting callers are not woken", "kernel.listener",
             "            knotif.complete(self.kernel)\n        self.filter.notif = None",
             "        self.filter.notif = None"),
    Mutation("close: every copy answers ENOSYS", "kernel.files",
             "        if self.refs == 0 and self.inside is not None:", "        if self.inside is not None:"),
    Mutation("wake-up lost: a new notification wakes nobody", "kernel.transitions",
             'NEW, "enqueue", INIT, "caller", READABLE,', 'NEW, "enqueue", INIT, "caller", 0,'),
    Mutation("install: a second listener is fine", "kernel.install",
             "if wants_listener and filters.listener_above(task.filter):", "if False:"),
    Mutation("install: an old listener stands in the way for ever", "kernel.filters",
             "        if filter.notif is not None:\n            return True",
             "        if filter.refs > filter.users:\n            return True"),
    Mutation("install: privilege is not needed", "kernel.install",
             "if not task.no_new_privs and not task.cap_sys_admin:", "if False:"),
    Mutation("install: the listener survives execve", "kernel.install", "cloexec=True)", "cloexec=False)"),
    Mutation("verdicts: the oldest filter wins a tie", "kernel.filters", "if action < best:", "if action <= best:"),
    Mutation("verdicts: errnos are not capped", "kernel.machine", "return -min(data, MAX_ERRNO)", "return -data"),
    Mutation("TSYNC: nobody stands in the way", "kernel.filters",
             "        if thread.mode == 2 and is_ancestor(thread.filter, caller.filter):\n            continue\n        return thread",
             "        continue"),
    Mutation("signals: SA_RESTART is not looked at", "kernel.delivery",
             "if value == -ERESTARTSYS and not does.restart:", "if value == -ERESTARTSYS:"),
    Mutation("signals: ignored ones interrupt", "kernel.signals",
             "    if ignored(target, number, from_above):\n        return\n", ""),
    Mutation("WAIT_KILLABLE: also before RECV", "kernel.notify",
             "return self.state in (SENT, REPLIED)", "return True"),
    Mutation("WAIT_KILLABLE: never", "kernel.notify",
             "        if not self.filter.wait_killable:\n            return False\n", "        return False\n"),
    Mutation("stop: a stopped call is not made again", "kernel.delivery",
             "    if value in (-ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND):\n        return \"again\", 0\n    if value == -ERESTART_RESTARTBLOCK:",
             "    if value in (-ERESTARTNOINTR, -ERESTARTNOHAND):\n        return \"again\", 0\n    if value == -ERESTART_RESTARTBLOCK:"),
    Mutation("epoll: edge-triggered items report on and on", "kernel.poll",
             "elif not item.events & EPOLLET:", "else:"),
    Mutation("ptrace: the filters are asked before the tracer", "kernel.machine",
             "        if task.tracing is not None and tracing.at_call(\n"
             "            self, task, True, lambda: self._entered(task, frame)\n        ):\n"
             "            return BLOCKED\n        return self._filtered(task, frame)",
             "        return self._filtered(task, frame)", True),
    Mutation("ptrace: a tracer's death leaves its tracees stopped", "kernel.ending",
             "    _let_tracees_go(kernel, task)\n    if process", "    if process", True),
    Mutation("ptrace: a skipped call is ENOSYS whatever the register says", "kernel.machine",
             "            value = frame.ax\n        elif frame.perform", "            value = -ENOSYS\n        elif frame.perform", True),
    Mutation("ptrace: two may trace one", "ptrace.requests",
             "if child.exiting or child.tracing is not None:", "if child.exiting:", True),
    Mutation("ptrace: SEIZE stops", "ptrace.requests",
             "    if not seize:\n        signals.send(", "    if True:\n        signals.send(", True),
    Mutation("ptrace: seccomp is suspended for anybody", "ptrace.requests",
             "        if not task.cap_sys_admin:\n            return -EPERM\n        if task.mode", "        if task.mode", True),
    Mutation("ptrace: filters are counted from the newest", "ptrace.requests",
             "path[-1 - offset]", "path[offset]", True),
    Mutation("ptrace: metadata never says LOG", "ptrace.requests",
             "SECCOMP_FILTER_FLAG_LOG if found.log else 0", "0", True),
    Mutation("ptrace: wait4 says a stop again and again", "kernel.reaping",
             "task.wait_status, at.code = at.code << 8 | 0x7F, 0", "task.wait_status = at.code << 8 | 0x7F", True),
    Mutation("ptrace: ignored signals are not shown to a tracer", "kernel.signals",
             "if task.blocked & bit(number) or (task.tracing is not None and number != SIGKILL):",
             "if task.blocked & bit(number):", True),
    Mutation("ptrace: a signal the tracer takes away is delivered", "kernel.delivery",
             "        way.chosen = data\n", "        way.chosen = data or number\n", True),
    Mutation("ptrace: a stop ends the sleep of WAIT_KILLABLE", "kernel.notify",
             "        if not self.filter.wait_killable:\n            return False\n        if",
             "        if not self.filter.wait_killable or self.task.tracing is not None:\n            return False\n        if", True),
    Mutation("ptrace: EXITKILL is forgotten", "kernel.ending",
             "relation.options & PTRACE_O_EXITKILL", "False", True),
    Mutation("ptrace: a thread detached from a stopped process runs", "ptrace.tracing",
             "if not task.exiting and (task.process.stopped or task.process.stop_count):", "if False:", True),
)  # fmt: skip


def apply(mutation: Mutation) -> None:
    """Load the mutated module in the place of the right one; before anybody imported it.

    :raises ValueError: if the right text is not there exactly once.
    """
    name = f"proctor.model.{mutation.module}"
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    if source.count(mutation.right) != 1:
        raise ValueError(f"{mutation.name}: its text is there {source.count(mutation.right)} times")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    changed = source.replace(mutation.right, mutation.wrong)
    exec(compile(changed, spec.origin, "exec"), module.__dict__)
    package, _, last = name.rpartition(".")
    setattr(importlib.import_module(package), last, module)


def alone(number: int, steps: int, seed: int, lacks: tuple[str, ...]) -> int:
    """In a process of its own: 0 and the number of steps on standard output if it was caught.

    :param lacks: what the right model found the kernel to lack; a wrong one would find something
        that excuses it.
    """
    apply(MUTATIONS[number])
    from tests.model.compare import run
    from tests.model.stage import drawing

    counts: Counter[str] = Counter()
    try:
        if MUTATIONS[number].stage:
            problem = drawing.run(steps, seed, counts, shrinking=False, lacks=lacks)
        else:
            problem = run(steps, seed, counts=counts, shrinking=False, lacks=lacks)
    except Exception as raised:  # the model's own books do not balance: that is noticing, too
        problem = repr(raised)
    print(counts.total(), problem.splitlines()[0] if problem else "")
    return 0 if problem else 1


def caught(number: int, steps: int = STEPS, seed: int = 0) -> tuple[bool, str]:
    """Try one mutation; whether it was noticed, and how."""
    from tests.model.probed import missing
    from tests.model.stage import probing

    lacks = probing.missing() if MUTATIONS[number].stage else missing()
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.mutations", "--one", str(number), "--steps", str(steps),
         "--seed", str(seed), "--lacks", ",".join(lacks)],
        cwd=TOP, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    said = (done.stdout or done.stderr).strip().splitlines()
    return done.returncode == 0, said[-1] if said else ""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", type=int, help="only the one of this number, in this process")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lacks", default="", help="features the kernel lacks, for --one")
    options = parser.parse_args()
    if options.one is not None:
        lacks = tuple(name for name in options.lacks.split(",") if name)
        return alone(options.one, options.steps, options.seed, lacks)
    survivors = 0
    for number, mutation in enumerate(MUTATIONS):
        ok, how = caught(number, options.steps, options.seed)
        survivors += not ok
        print(f"{'caught' if ok else 'SURVIVED':8}  {mutation.name}: {how[:110]}", flush=True)
    print(f"{len(MUTATIONS) - survivors} of {len(MUTATIONS)} mutations of the model were caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

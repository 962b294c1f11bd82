"""What a monitor holds to have calls performed: :class:`Performers`."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from proctor.call import verdict as verdicts
from proctor.call.verdict import Deny, Verdict, deny
from proctor.emulate import scarce, wire
from proctor.emulate.identity import CallerUnreadable, CallerVanished, Identity, Own
from proctor.emulate.pool import (
    NONSENSE,
    Allow,
    CallerLeft,
    Idle,
    Performer,
    PerformerTrouble,
    Pool,
    TooMany,
    text_of,
)
from proctor.emulate.supported import SUPPORTED
from proctor.errors import CallerInvisible, CallGone, CallOver, MemoryUnreadable

if TYPE_CHECKING:
    from types import TracebackType

    from proctor.call.call import Call
    from proctor.call.verdict import Perform

_TRIES: Final = 5
#: Replies by which a performer gives something that the caller has not got.
_GIVEN: Final = (wire.OPENED, wire.NEEDS_RIGHT)
_GONE: Final = "the caller is gone"


class Performers:
    """Performs calls on their callers' behalf, in processes of their own; thread-safe.

    ::

        with Performers() as performers:
            verdict = performers.perform(call)

    or ``Supervisor(..., performer=performers)``: then whoever made it closes it.

    A performer has the caller's namespaces, root, working directory, umask, ids, groups and
    capabilities; ``open`` happens there and nowhere else, so it can never do more than the caller
    could.  A device node is checked there by the kernel and made, as the last step, with CAP_MKNOD,
    which the monitor must have over the host.

    :param nested: whether CAP_MKNOD in a user namespace that the target made for itself is enough to
        make a device node.  "deny" (default) wants the caller in a user namespace that was given by
        :meth:`adopt` (or, if none was: in the monitor's own or one that the monitor's user made
        directly below it).
    :param owner_userns: inode numbers of ``/proc/PID/ns/user`` of targets, as :meth:`adopt` takes.
    :param o_path: O_PATH descriptors cannot be handed over (C064).  "deny": EOPNOTSUPP, for what
        would have succeeded.  "run": the kernel runs the call itself, by the caller's own rights; a
        path rule can then be raced, but an O_PATH descriptor neither reads nor writes.  Better than
        both is a filter condition that keeps such calls from being notified.
    :param cgroup: "join": devices are opened and made by a member of the caller's cgroups, so that
        their device rules hold; where that is impossible, devices are denied (EPERM).  "ignore".
    :param limit: how many calls are performed at the same time; more are denied with ENOMEM.  A
        target can have that many opens blocked in FIFOs.
    :param idle: seconds of silence after which a performer ends.
    :param deadline: seconds that performing may take; None: as long as the caller waits, as the
        kernel would.  Then EPERM.
    :param on_trouble: is told, in a sentence, when a performer failed (not: when a call did).
    :param python: the interpreter for performers; this one by default.

    Not as in the kernel: no terminal becomes the caller's controlling terminal by being opened;
    opening ``/dev/tty`` works if one of descriptors 0, 1, 2 is that terminal; a 32-bit caller gets
    O_LARGEFILE; a caller that made itself undumpable is refused (EACCES) what its own
    ``/proc/self/fd``, ``cwd``, ``root`` and ``mem`` lead to; with ``allow``, an automount point is
    opened without mounting.
    """

    def __init__(
        self,
        *,
        nested: Literal["deny", "allow"] = "deny",
        owner_userns: Iterable[int] = (),
        o_path: Literal["deny", "run"] = "deny",
        cgroup: Literal["join", "ignore"] = "join",
        limit: int = 64,
        idle: float = 3.0,
        deadline: float | None = None,
        on_trouble: Callable[[str], object] | None = None,
        python: str | None = None,
    ) -> None:
        for name, value, words in (
            ("nested", nested, ("deny", "allow")),
            ("o_path", o_path, ("deny", "run")),
            ("cgroup", cgroup, ("join", "ignore")),
        ):
            if value not in words:
                raise ValueError(f"{name}={value!r}: it is one of {', '.join(map(repr, words))}")
        if limit < 1 or idle <= 0 or (deadline is not None and deadline <= 0):
            raise ValueError("limit, idle and deadline are more than 0")
        self.nested = nested
        self.o_path = o_path
        self.cgroup = cgroup
        self.deadline = deadline
        self.owners: set[int] = set(owner_userns)
        self.pool = Pool(idle=idle, most=limit, python=python)
        self._on_trouble = on_trouble
        self._own: Own | None = None
        self._lock = threading.Lock()

    def start(self) -> Performers:
        """Start the performers' parent now rather than at the first call; returns self.

        :raises PerformerTrouble: it cannot be started.
        """
        self.pool.start()
        return self

    def close(self) -> None:
        """End every performer; what is being performed is denied.  Idempotent."""
        self.pool.close()

    def __enter__(self) -> Performers:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def adopt(self, pid: int) -> None:
        """Take the user namespace of ``pid`` (a target's first process) for a target's own: CAP_MKNOD
        there is enough (see ``nested``).

        :raises OSError: there is no such process.
        """
        with self._lock:
            self.owners = self.owners | {os.stat(f"/proc/{pid}/ns/user").st_ino}

    def __call__(self, call: Call, verdict: Perform) -> Verdict:
        """What ``performer=`` of a supervisor takes: carry ``perform(allow=...)`` out."""
        return self.perform(call, allow=verdict.allow)

    def perform(self, call: Call, allow: verdicts.Allow | None = None) -> Verdict:
        """Perform a call; what the kernel says is the verdict.

        :param allow: is asked as :func:`proctor.perform` says, before anything is opened, truncated
            or made.  What has no path (pipes, deleted or covered files, files outside of the root)
            is shown as text that does not begin with ``/``.
        :returns: ``hand_over``, ``answer(0)`` or ``deny``.  Trouble of our own is ``deny(EPERM)``
            with the reason; nothing is raised but what ``allow`` raises.
        """
        said: list[Deny] = []

        def asked(path: bytes) -> bool:
            file = looks["path"].file if "path" in looks else None  # the same path will do
            refused = call.contradiction("path", path, file)
            if refused is None:
                refused = verdicts.Perform(allow).refusal("path", path)
            if refused is not None:
                said.append(refused)
            return refused is None

        try:
            looks = call.looks
            ask = asked if allow is not None or looks else None
            if not call.tid:
                return self.trouble(call, "the caller is in a pid namespace that is not to be seen")
            if call.name in ("mknod", "mknodat"):
                from proctor.emulate.mknod import perform_mknod

                made = perform_mknod(self, call, ask)
                return said[0] if said else made
            if call.name in SUPPORTED:
                from proctor.emulate.open import perform_open

                made = perform_open(self, call, ask)
                return said[0] if said else made
            return deny(errno.ENOSYS, f"nothing here performs {call.name}")
        except (CallerVanished, CallerLeft, CallGone, CallOver):
            return deny(errno.EINTR, _GONE)
        except MemoryUnreadable as error:
            return deny(error.errno or errno.EFAULT, str(error))
        except CallerInvisible as error:
            return self.trouble(call, str(error))
        except CallerUnreadable as error:
            return self.trouble(call, str(error))
        except TooMany as error:
            self.trouble(call, str(error))
            return deny(errno.ENOMEM, str(error))
        except PerformerTrouble as error:
            return self.trouble(call, str(error))
        except OSError as error:  # out of descriptors, of processes...
            return self.trouble(call, scarce.why(error))
        except ImportError as error:  # modules are loaded when first used, which takes a descriptor
            return self.trouble(call, f"the monitor cannot load its own code: {error}")

    # For the modules of the families -----------------------------------------------------------
    def own(self) -> Own:
        """What the monitor has itself; taken once."""
        own = self._own
        if own is None:
            own = self._own = Own()
        return own

    def trouble(self, call: Call, why: str) -> Deny:
        """Our own failure: EPERM, and whoever watches is told."""
        if self._on_trouble is not None:
            self._on_trouble(f"{call.name} of thread {call.tid} was not performed: {why}")
        return deny(errno.EPERM, f"not performed: {why}")

    def options(self, caller: Identity, allow: Allow | None) -> int:
        """The request's options that depend on the caller and on the policy."""
        options = wire.ASK_FIRST if allow is not None else 0
        if self.cgroup == "join" and caller.other_cgroup:
            options |= wire.OTHER_CGROUP
        return options

    def converse(
        self, call: Call, caller: Identity, request: bytes, fds: list[int], allow: Allow | None
    ) -> tuple[wire.Packet, bool]:
        """Send a request to a performer of this identity; its last reply, and whether ``allow``
        refused."""
        key = caller.key
        tries = 0
        while True:
            performer = self.pool.borrow(key)
            fresh = performer is None
            if performer is None:
                performer = self._make(caller, key)
            try:
                if not call.valid():  # all that was taken before is of a live caller only if so
                    raise CallerLeft
                performer.begin(request, fds)
                outcome = self._dialogue(call, performer, allow)
            except Idle:
                self.pool.discard(performer)
                tries += fresh  # on a busy machine we may be slower than its patience
                if tries >= _TRIES:
                    raise PerformerTrouble("performers die as soon as they are made") from None
                continue
            except CallerLeft:
                self.pool.discard(performer)
                raise
            except BaseException:
                self.pool.discard(performer)
                raise
            self.pool.give_back(performer)
            packet = outcome[0]
            if len(packet.fds) != (packet.data[0] in _GIVEN):
                packet.drop()
                raise PerformerTrouble(scarce.lost() if packet.cut else NONSENSE)
            if packet.data[0] == wire.TROUBLE:
                raise PerformerTrouble(text_of(packet))
            return outcome

    def _make(self, caller: Identity, key: Any) -> Performer:
        spec, fds = caller.spec(self.cgroup == "join")
        try:
            return self.pool.make(key, {**spec, "job": "perform"}, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _dialogue(
        self, call: Call, performer: Performer, allow: Allow | None
    ) -> tuple[wire.Packet, bool]:
        due = None if self.deadline is None else time.monotonic() + self.deadline
        asked = refused = False
        while True:
            packet = performer.reply(call, due)
            if packet.data[0] != wire.ASK or allow is None:
                break
            packet.drop()
            asked = True
            refused = not allow(packet.data[wire.REPLY.size :])
            performer.answer(wire.REFUSE if refused else wire.ALLOW)
        if allow is not None and packet.data[0] in _GIVEN and (refused or not asked):
            packet.drop()
            raise PerformerTrouble("the performer did what the policy's path rule did not allow")
        return packet, refused

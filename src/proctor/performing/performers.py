"""What a monitor holds to have calls performed: :class:`Performers`."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from proctor.call.credentials import USER
from proctor.call.verdict import Deny, Perform, Verdict, deny
from proctor.given import one, seconds, several
from proctor.kernel.standing import Standing
from proctor.performing import newer, noting, registry
from proctor.performing.conversation import Conversation
from proctor.performing.executing.executors import Executors
from proctor.performing.identities.callers import Callers
from proctor.performing.identities.who import Who
from proctor.performing.logs import Logs
from proctor.performing.paths.seeking import Lookout, seek, seek_shortly
from proctor.performing.short_ways.here import Here
from proctor.performing.trouble import Moved, verdict_for
from proctor.performing.working import begun, later
from proctor.supervisor.container import owners as container_owners
from proctor.supervisor.container import performing_options

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.path.following import Sought
    from proctor.call.ports import ContainerPort
    from proctor.call.verdict import Allow
    from proctor.performing.short_ways.short import Ordinary
    from proctor.supervisor.ports import Later

_UNSEEN: Final = "the caller is in a pid namespace that is not to be seen"
_NO_WISH: Final = Perform()
#: Seconds that what is being closed has at the end.
_LAST_MOMENTS: Final = 0.1


class Kept(Protocol):
    """What a family keeps from one call to the next."""

    def forget(self, container: object) -> None:
        """A container is over."""

    def close(self) -> None:
        """All are."""


class Performers:
    """Performs calls on their callers' behalf, in processes of their own; thread-safe.

    ::

        from proctor.performing import SUPPORTED, Performers

        handler = proctor.Handler(["openat"], lambda call: proctor.perform())
        with Performers(o_path="deny", limit=16) as performers:
            proctor.run(["cat", "/dev/null"], [handler], performer=performers, check=True)
        assert "mknodat" in SUPPORTED

    Whoever made it closes it.

    A caller that is what the monitor is has its files opened by the monitor itself
    (:mod:`proctor.performing.short_ways.here`), all others, and all that may wait, by an executor.
    An executor has the caller's namespaces, root, ids, groups, capabilities, umask, cgroups and label;
    ``open`` happens there, so it can never do more than the caller could.  A device
    node is checked there by the kernel and made, as the last step, with CAP_MKNOD, which the monitor
    must have over the host.

    :param nested: whether CAP_MKNOD in a user namespace that the target made for itself is enough to
        make a device node.  "deny" (default) wants the caller in a user namespace that was given by
        :meth:`adopt` or by its container (``owner_userns``); if none was: in the monitor's own or one
        that the monitor's user made directly below it.
    :param owner_userns: inode numbers of ``/proc/PID/ns/user`` of targets, as :meth:`adopt` takes.
    :param o_path: O_PATH descriptors cannot be handed over (C064).  "run" (default): the kernel runs
        the call itself, by the caller's own rights, once ``allow`` was asked about what it leads to.
        That can be raced, and what is won neither reads nor writes: whatever is opened through it is
        another call.  "deny": EOPNOTSUPP, for what would have succeeded.
    :param cgroup: "join": executors are members of their caller's cgroups, so that its device rules
        hold and its limits count; where that is impossible, devices are denied (EPERM).  "ignore".
    :param limit: how many calls of one container are performed at the same time; more are denied with
        ENOMEM.  A target can have that many opens blocked in FIFOs.
    :param idle: seconds without work after which an executor ends.
    :param deadline: seconds that performing may take; None: as long as the caller waits, as the
        kernel would.  Then EPERM.
    :param on_trouble: is told, in a sentence, when an executor failed (not: when a call did).
    :param calls: what performs these is loaded now, all by default; another call's when the first comes, for which a
        descriptor has to be free then.

    Each of ``nested``, ``o_path``, ``cgroup`` and ``limit`` can be given for one container, too, in its
    ``performing`` options.

    Not as in the kernel: see docs/policy.md, and :data:`proctor.performing.untaken.UNTAKEN` for what of a
    caller an executor cannot take on.
    """

    def __init__(
        self,
        *,
        nested: Literal["deny", "allow"] = "deny",
        owner_userns: Iterable[int] = (),
        o_path: Literal["deny", "run"] = "run",
        cgroup: Literal["join", "ignore"] = "join",
        limit: int = 64,
        idle: float = 3.0,
        deadline: float | None = None,
        on_trouble: Callable[[str], object] | None = None,
        calls: Iterable[str] | None = None,
    ) -> None:
        registry.load(
            registry.SUPPORTED
            if calls is None
            else several("calls", calls, "names of system calls")
        )
        self._options = performing_options(
            {"nested": nested, "o_path": o_path, "cgroup": cgroup, "limit": limit}
        )
        self.deadline = seconds("deadline", deadline)
        self.owners: frozenset[int] = container_owners(owner_userns)
        if on_trouble is not None and not callable(on_trouble):
            raise TypeError(f"on_trouble={on_trouble!r}: it is called with a sentence")
        seconds("idle", one("idle", idle, (int, float), "seconds, more than 0,"))
        self.executors = Executors(idle=idle)
        #: What takes the place of standard streams.
        self.logs = Logs()
        #: How often something was done, by callers of no container.
        self._counts: dict[object, int] = {}
        #: What families keep from one call to the next, by family; closed with the performers.
        self.kept: dict[str, Kept] = {}
        self._on_trouble = on_trouble
        self.callers = Callers()
        self.standings = self.callers.standings
        self.lookout = Lookout(self)
        #: For ``seeker=`` of a supervisor: see :class:`proctor.supervisor.ports.Seeker`.
        self.lend, self.took_back = self.lookout.lend, self.lookout.took_back
        self.here: Here | None = None
        self._closed = False
        self._lock = threading.Lock()

    def start(self) -> Performers:
        """Start the executors' mother now rather than at the first call; returns self.

        :raises Trouble: it cannot be started.
        """
        import proctor.performing.task  # noqa: F401 - what only executors are used by

        self.executors.mother.start()
        return self

    def close(self) -> None:
        """End every executor; what is being performed is denied.  What does not end, since a file
        system holds it, is told.  Idempotent."""
        left = self.executors.close()
        self._closed = True
        self.callers.close()
        self.logs.close()
        for each in self.kept.values():
            each.close()
        if self.here is not None:
            self.here.close()
        if left:
            self.tell(
                f"{left} executors wait for a file system that does not answer, and end when it does"
            )
        if unclosed := self.executors.closers.end(_LAST_MOMENTS):
            self.tell(
                f"{unclosed} files wait for a file system that does not answer to be closed, and proctor's end waits "
                "for that"
            )

    def forget(self, container: object) -> None:
        """A container is over: nothing that works for it stays in its cgroup."""
        self.executors.forget(container)
        self.standings.forget(lambda each: each.kept.key.container is container)
        for each in self.kept.values():
            each.forget(container)

    def __enter__(self) -> Performers:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def adopt(self, pid: int) -> None:
        """Take the user namespace of ``pid`` (a target's first process) for a target's own: CAP_MKNOD
        there is enough (see ``nested``).

        :raises OSError: there is no such process.
        """
        with self._lock:
            self.owners = self.owners | {os.stat(f"/proc/{pid}/ns/user").st_ino}

    def __call__(self, call: Call, verdict: Perform) -> Verdict | Later:
        """What ``performer=`` of a supervisor takes: carry ``perform(allow=...)`` out."""
        said: Verdict | Later = later(self.begin(call, verdict))
        return said

    def is_harmless_again(self, call: Call) -> bool:
        """For supervisors: whether a call that an earlier monitor had begun to perform, and perhaps did, can be performed
        again: it only looks, or opens what is there."""
        return registry.is_harmless_again(call)

    def ordinary(
        self, name: str, listener: object = None, begins: Callable[[Call], object] | None = None
    ) -> Ordinary | None:
        """For supervisors: what there is for ordinary calls of a name, in the place of :meth:`__call__`;
        None is said where that is to be called, and nothing has happened.

        :param listener: where they come from; what comes from the kernel may be answered at once.
        :param begins: is called before something happens that must not happen twice."""
        family = registry.ordinary(name)
        if family is None or newer.lacks(name):
            return None
        if name in getattr(family, "DEEDS", ()):
            from proctor.performing.short_ways.deeds import DeedWay

            sketch = getattr(family, "SKETCHES", {}).get(name)
            return DeedWay(self, family, family.DEEDS[name], begins, sketch)
        if name in getattr(family, "SEEN", ()):
            from proctor.performing.short_ways.seen import SeenWay

            return SeenWay(self, family, name)
        way: Ordinary | None = family.short_way(self, name, listener, begins)
        return way

    def own_place(self) -> Here:
        here = self.here
        if here is None:
            here = self.here = Here(self.callers.own().rights)
        return here

    def seek(self, call: Call, what: Sought) -> bytes | int | Deny | Later:
        """For ``seeker=`` of a supervisor: where something of a call leads for its caller, as the kernel
        and the caller's root name it, or the errno that the caller gets on the way; or that it takes a while."""
        if not call.tid:
            return self.trouble(call, _UNSEEN)
        quick = seek_shortly(self, call, what)
        if quick is not None:
            return quick
        standing = self.standings.take(call.tid)
        if standing is not None and standing.kept.key.container is not getattr(
            call, "container", None
        ):
            standing.close()
            standing = None
        found: bytes | int | Deny | Later = later(
            begun(self, call, _NO_WISH, standing, False, act=partial(seek, what))
        )
        return found

    def perform(self, call: Call, allow: Allow | None = None, *, options: object = None) -> Verdict:
        """Perform a call; what the kernel says is the verdict.

        :param allow: is asked as :func:`proctor.perform` says, before anything is opened, truncated
            or made.  What has no path that the caller's root shows (pipes, deleted or covered files,
            files outside of the root) is shown as text that does not begin with ``/``.
        :param options: of the call's family.
        :returns: ``hand_over``, ``answer(0)`` or ``deny``.  Trouble of our own is ``deny(EPERM)``
            with the reason; nothing is raised but what ``allow`` raises.
        """
        said = self.begin(call, Perform(allow, options=options))
        return said.wait() if isinstance(said, Conversation) else said

    def begin(self, call: Call, wish: Perform) -> Verdict | Conversation:
        """Carry ``perform(allow=...)`` out as far as executors answer at once: the verdict, or a
        conversation to go on with."""

        if not call.tid:
            return self.trouble(call, _UNSEEN)
        if newer.lacks(call.name):
            return deny(errno.ENOSYS, f"the kernel has no {call.name}")
        standing = None
        try:
            if call.name == "socketcall":
                from proctor.performing.unfolded import unfolded

                call = unfolded(call)
            act = None if self._closed else registry.at_once(call.name, wish.options)
            standing, met = self.standings.take(call.tid), False
            container = getattr(call, "container", None)
            if standing is not None and standing.kept.key.container is not container:
                standing.close()
                standing = None
            if standing is None and act is not None:
                cgroup = self.option(container, "cgroup")
                standing, met = self.callers.meet(call, container, cgroup), True
            if standing is not None and standing.kept.here and act is not None:
                verdict: Verdict | None = self._at_once(act, call, wish, standing)
                if verdict is not None:
                    return verdict
        except BaseException as failed:
            if standing is not None:
                standing.close()
            return self.translate(call, failed)
        said: Verdict | Conversation = begun(self, call, wish, standing, met)
        return said

    def _at_once(self, act: Any, call: Call, wish: Perform, standing: Standing) -> Verdict | None:
        """What the monitor does itself for those who are what it is; None if that is nothing."""
        try:
            own = self.callers.own().rights
            verdict: Verdict | None = act(call, wish, standing, self.own_place(), own)
        except Moved:
            return None
        if verdict is not None:
            self.standings.give_back(standing)
        return verdict

    def option(self, container: ContainerPort | None, name: str) -> Any:
        own = self._options[name]
        return own if container is None else container.performing.get(name, own)

    def counted(self, call: Call, what: Hashable, most: int | None = None) -> int:
        """For families: how often a call's container has done something before; it does it once more now,
        unless that was ``most`` times."""
        container = getattr(call, "container", None)
        counts = self._counts if container is None else container.state
        key = "proctor.performing.counted", what
        with self._lock:
            number: int = counts.get(key, 0)
            if number != most:
                counts[key] = number + 1
        return number

    def owned(self, call: Call, one: Who, standing: Standing) -> bool:
        """For families: whether a caller's user namespace is the target's own (see ``nested``)."""
        container = getattr(call, "container", None)
        found = self.known_owned(container, one, standing)
        if found is None:
            standing.origin = (call.caller.userns_origin(),)
            found = self.known_owned(container, one, standing)
        return found is True

    def known_owned(
        self, container: ContainerPort | None, one: Who, standing: Standing
    ) -> bool | None:
        """The same as far as that is known; None: where its user namespace comes from is to be asked."""
        namespace, given = one.namespaces[USER], self.owners
        theirs = given if container is None else container.owner_userns
        if namespace in given or namespace in theirs or self.option(container, "nested") == "allow":
            return True
        if given or theirs:
            return False
        if standing.origin is None:
            return None
        (above,) = standing.origin
        return above is not None and above == (
            self.callers.own().who.namespaces[USER],
            os.geteuid(),
        )

    def tell(self, what: str) -> None:
        """Tell whoever watches of something that went wrong."""
        if self._on_trouble is not None:
            self._on_trouble(what)

    def trouble(self, call: Call, why: str) -> Deny:
        """Our own failure: EPERM, and whoever watches is told, but for calls that the end has answered by now."""
        if not self.executors.over:
            self.tell(f"{call.name} of thread {call.tid} was not performed: {why}")
        return deny(errno.EPERM, f"not performed: {why}")

    def translate(self, call: Call, failed: BaseException) -> Verdict:
        """What is answered for what was raised on the way."""
        return verdict_for(
            failed,
            lambda why: self.trouble(call, why),
            lambda why: self._died(call, why),
        )

    def _died(self, call: Call, why: str) -> Verdict:
        verdict, come_to = noting.died(call, self.executors.progress, why)
        if not self.executors.over:
            self.tell(f"{call.name} of thread {call.tid} was {come_to}: {why}")
        return verdict

"""The real kernel's half of the comparison: actors of a victim, and when they are quiet.

A step is over when nobody runs any more: every actor waits for a command, sleeps in its call, is
stopped or is dead.  One look at all of them takes time, in which one may wake another; so they are
looked at twice, and nobody may have run in between.  Then there was a moment, between the looks, in
which all slept; and whoever wakes somebody does so before he himself sleeps, so that nothing is on
its way but what the kernel does on its own (:meth:`Real.news`).

Nobody is slept for: actors go before us where that is allowed (:mod:`tests.model.turns`), so that the
first two looks are mostly the last; where it is not we give the processor away between looks.
"""

from __future__ import annotations

import os
import signal
import time

from tests.model.turns import Turns
from tests.support.pipes import FIRST_SLOT_FD, SLOTS, Pipes
from tests.support.processes import PATIENCE

REGION = 1 << 16
#: Calls that filters here notify: getppid, dup, nanosleep, execve, restart_syscall and invented.
NOTIFIED = frozenset({-1, 32, 35, 59, 110, 219, *range(5000, 5008)})

#: Seconds after which one looks although nothing was announced.
GLANCE = 0.1


class NeverQuiet(AssertionError):
    """Actors kept running: somebody is in a loop, or a look is wrong."""


class Actor:
    """One thread of the victim: its real numbers, and the command it is busy with."""

    def __init__(self, real: Real, slot: int, gpid: int, gtid: int) -> None:
        self.real = real
        self.slot = slot
        self.gpid = gpid
        self.gtid = gtid
        #: The words of the reply to the last command; None while it is awaited.
        self.reply: list[str] | None = ["r", "0", "0"]
        #: Another thread took its number over (execve).
        self.gone = False
        self._stat = self._syscall = self._schedstat = -1
        self._seen = ("", b"")
        self.reopen()

    @property
    def region(self) -> int:
        """The address of its own 64 KiB of scratch memory."""
        return self.real.scratch + self.slot * REGION

    def reopen(self) -> None:
        """Open its files in /proc (again, after exec changed its number)."""
        self.close()
        base = f"/proc/{self.gpid}/task/{self.gtid}"
        try:
            self._stat = os.open(f"{base}/stat", os.O_RDONLY | os.O_CLOEXEC)
            self._syscall = os.open(f"{base}/syscall", os.O_RDONLY | os.O_CLOEXEC)
            self._schedstat = os.open(f"{base}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            pass

    def close(self) -> None:
        for fd in (self._stat, self._syscall, self._schedstat):
            if fd >= 0:
                os.close(fd)
        self._stat = self._syscall = self._schedstat = -1

    def letter(self) -> str:
        """Its state as /proc shows it; "X" if it is no more."""
        try:
            line = os.pread(self._stat, 512, 0)
        except OSError:
            return "X"
        return chr(line[line.rindex(b")") + 2])

    def _runs(self) -> bytes:
        """How long and how often it ran; where the kernel does not count, always the same."""
        try:
            return os.pread(self._schedstat, 64, 0)
        except OSError:
            return b""

    def look(self) -> str:
        """ "idle", "blocked S", "blocked D", "stopped", "dead", or "" while it runs."""
        runs = self._runs()  # before the state, so that :meth:`rested` compares all that came after
        letter = self.letter()
        self._seen = letter, runs
        if letter in "ZX" or self.gone:
            return "dead"
        if letter in "Tt":
            return "stopped"
        if letter == "I":  # how the ending init of a pid namespace waits, after 6.18
            letter = "S"
        if letter not in "SD":
            return ""
        try:
            words = os.pread(self._syscall, 256, 0).split(b" ")
        except OSError:
            return ""
        listening = words[0] == b"0" and words[1:2] == [hex(FIRST_SLOT_FD + self.slot).encode()]
        if listening:
            return "idle" if self.reply is not None else ""
        if self.reply is not None or words[0] == b"running\n":
            return ""
        # Uninterruptible for good is only who waits for an answer; others are on their way.
        if letter == "D" and int(words[0]) not in NOTIFIED:
            return ""
        return f"blocked {letter}"

    def alive(self) -> bool:
        """Whether :meth:`look` saw it alive."""
        return self._seen[0] not in "ZX" and not self.gone

    def waits(self) -> bool:
        """Whether :meth:`look` saw it wait for something that no actor does, as the kernel's disk."""
        return self._seen[0] == "D"

    def rested(self) -> bool:
        """Whether it has not run since :meth:`look`, and is not about to."""
        return (self.letter(), self._runs()) == self._seen


class Real:
    """A victim for one episode."""

    def __init__(self) -> None:
        self.pipes = Pipes({2: 2}, None)
        self.actors: dict[int, Actor] = {}
        self._waiting: dict[int, Actor] = {}
        self.free_slots = list(range(SLOTS - 1, 0, -1))
        pid = self.pipes.pid
        greeting = self.pipes.reply(0, pid, PATIENCE)
        #: Where scratch memory lies, in every victim: the program is linked statically.
        self.scratch = int(greeting[3])
        self.main = self.meet(0, pid, pid)
        self._turns = Turns(pid)

    def meet(self, slot: int, gpid: int, gtid: int) -> Actor:
        """Take note of a new actor."""
        actor = Actor(self, slot, gpid, gtid)
        self.actors[slot] = actor
        return actor

    def tell(self, actor: Actor, verb: str, *words: object, pokes: list[tuple[int, bytes]]) -> None:
        """Write bytes into the actor's memory, then give it a command; nothing is awaited."""
        for address, data in pokes:
            if data:
                self.pipes.write(actor.slot, "poke", f"{address:#x} {data.hex()}")
        seq = self.pipes.write(actor.slot, verb, " ".join(str(word) for word in words))
        actor.reply = None
        self._waiting[seq] = actor

    def ask(self, actor: Actor, verb: str, *words: object) -> list[str]:
        """Give an idle actor a command that returns soon; the words of its reply."""
        self.tell(actor, verb, *words, pokes=[])
        give_up = time.monotonic() + PATIENCE
        while actor.reply is None:
            self.pipes.pump(1.0)
            self.collect()
            if time.monotonic() > give_up:
                raise NeverQuiet(f"no answer to {verb}: {actor.look()!r}")
        return actor.reply

    def peek(self, actor: Actor, address: int, size: int) -> bytes:
        """Bytes of an idle actor's memory."""
        kept = actor.reply
        raw = bytes.fromhex(self.ask(actor, "peek", hex(address), size)[1])
        actor.reply = kept
        return raw

    def collect(self) -> None:
        """Hand what arrived on the pipe to whom it is for."""
        finished = self.pipes.finished
        for seq in list(finished):
            words = finished.pop(seq)
            actor = self._waiting.pop(seq, None)
            if words[0] == "e":
                raise AssertionError(f"the victim does not understand: {words}")
            if actor is not None:
                actor.reply = words
                if words[0] == "h":
                    self._became_leader(actor)
        self.pipes.started.clear()

    def _became_leader(self, actor: Actor) -> None:
        """It execed: it has its leader's number now, and the old leader has none."""
        if actor.gtid == actor.gpid:
            return
        for other in self.actors.values():
            if other.gtid == actor.gpid:
                other.gone = True
        actor.gtid = actor.gpid
        actor.reopen()

    def settle(self) -> dict[int, str]:
        """Wait until everybody is quiet; what each slot's actor does.

        :raises NeverQuiet: somebody still ran after ``PATIENCE`` seconds.
        """
        give_up = time.monotonic() + PATIENCE
        while True:
            self.pipes.pump()
            self.collect()
            looks = {slot: actor.look() for slot, actor in self.actors.items()}
            reaped = self._reap_orphans(looks)
            if "dead" in looks.values():
                # Who dies is seen to be dead before he tells his parent, but he does so before he
                # lets go of the kernel's list of tasks, which waitid(2) has to read.
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if reaped:
                continue  # its end may be somebody's news
            busy = [actor for slot, actor in self.actors.items() if not looks[slot]]
            if not busy and all(actor.rested() for actor in self.actors.values()):
                return looks
            if busy and all(actor.waits() for actor in busy):
                self.news()
            else:
                os.sched_yield()
            if time.monotonic() > give_up:
                raise NeverQuiet(f"actors never got quiet: {looks}")

    def news(self) -> None:
        """Wait for what the kernel is about to do on its own, as after a grace period of RCU.

        It shows as a reply or as an end.  Two things show in no way, and are rare: the end of a
        thread before Linux 6.9 (no ``PIDFD_THREAD``), and a sleep in D (a page from a disk) that
        turns into another sleep; for their sake this returns after ``GLANCE`` seconds.
        """
        ends: list[int] = []
        try:
            for actor in self.actors.values():
                if actor.alive():
                    try:
                        flags = 0 if actor.gtid == actor.gpid else os.O_EXCL  # PIDFD_THREAD
                        ends.append(os.pidfd_open(actor.gtid, flags))
                    except OSError:
                        pass  # it ended just now, or such a kernel cannot tell
            self.pipes.news(ends, GLANCE)
        finally:
            for fd in ends:
                os.close(fd)

    def _reap_orphans(self, looks: dict[int, str]) -> bool:
        """We are the subreaper: what lost its parent is ours, and somebody may wait for it to go.

        :returns: whether there was one.
        """
        found = False
        for slot, actor in self.actors.items():
            if looks[slot] == "dead" and actor.gtid == actor.gpid and actor is not self.main:
                try:
                    if os.waitpid(actor.gpid, os.WNOHANG)[0]:
                        found = actor.gone = True
                except ChildProcessError:
                    pass
        return found

    def forget(self, slot: int) -> None:
        """The actor is dead and gone."""
        self.actors.pop(slot).close()

    def close(self) -> None:
        """End everybody of this episode."""
        self._turns.close()
        for actor in self.actors.values():
            actor.close()
        os.kill(self.pipes.pid, signal.SIGKILL)
        os.waitpid(self.pipes.pid, 0)
        self.pipes.close()

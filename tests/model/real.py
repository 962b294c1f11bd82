"""The real kernel's half of the comparison: actors of a victim, and when they are quiet.

A step is over when nobody runs any more: every actor waits for a command, sleeps in its call, is
stopped or is dead, and has been so in two looks in a row.  Whoever wakes somebody does so before
his own call returns, so that two quiet looks mean that nothing is on its way.
"""

from __future__ import annotations

import os
import signal
import time

from victim.pipes import FIRST_SLOT_FD, SLOTS, Pipes
from victim.processes import PATIENCE

REGION = 1 << 16
#: Calls that filters here notify: getppid, dup, nanosleep, execve, restart_syscall and invented.
NOTIFIED = frozenset({-1, 32, 35, 59, 110, 219, *range(5000, 5008)})


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
        self._stat = self._syscall = -1
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
        except (FileNotFoundError, ProcessLookupError):
            pass

    def close(self) -> None:
        for fd in (self._stat, self._syscall):
            if fd >= 0:
                os.close(fd)
        self._stat = self._syscall = -1

    def letter(self) -> str:
        """Its state as /proc shows it; "X" if it is no more."""
        try:
            line = os.pread(self._stat, 512, 0)
        except OSError:
            return "X"
        return chr(line[line.rindex(b")") + 2])

    def look(self) -> str:
        """ "idle", "blocked S", "blocked D", "stopped", "dead", or "" while it runs."""
        letter = self.letter()
        if letter in "ZX" or self.gone:
            return "dead"
        if letter in "Tt":
            return "stopped"
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


class Real:
    """A victim for one episode."""

    def __init__(self) -> None:
        self.pipes = Pipes({2: 2}, None)
        self.actors: dict[int, Actor] = {}
        self._waiting: dict[int, Actor] = {}
        self._late: set[int] = set()
        self.free_slots = list(range(SLOTS - 1, 0, -1))
        pid = self.pipes.pid
        greeting = self.pipes.reply(0, pid, PATIENCE)
        #: Where scratch memory lies, in every victim: the program is linked statically.
        self.scratch = int(greeting[3])
        self.main = self.meet(0, pid, pid)

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
        """Wait until everybody is quiet; what each slot's actor does."""
        give_up = time.monotonic() + PATIENCE
        before: dict[int, str] = {}
        rounds = 0
        while True:
            self.pipes.pump()
            self.collect()
            now = {slot: actor.look() for slot, actor in self.actors.items()}
            self._reap_orphans(now)
            if all(now.values()) and now == before:
                # Look again at who is new in D (a moment in the page cache is that, too) or among
                # the dead, who are seen to be dead before they tell their parents.
                late = {slot for slot, does in now.items() if does in ("blocked D", "dead")}
                if late <= self._late:
                    self._late = late
                    return now
                self._late |= late
                time.sleep(0.001)
            before = now
            rounds += 1
            if rounds > 4:
                os.sched_yield()
            if rounds > 400:
                self.pipes.pump(0.001)
            if rounds % 256 == 0 and time.monotonic() > give_up:
                raise NeverQuiet(f"actors never got quiet: {now}")

    def _reap_orphans(self, now: dict[int, str]) -> None:
        """We are the subreaper: what lost its parent is ours, and somebody may wait for it to go."""
        for slot, actor in self.actors.items():
            if now[slot] == "dead" and actor.gtid == actor.gpid and actor is not self.main:
                try:
                    if os.waitpid(actor.gpid, os.WNOHANG)[0]:
                        now[slot] = ""  # look again: its end may be somebody's news
                        actor.gone = True
                except ChildProcessError:
                    pass

    def forget(self, slot: int) -> None:
        """The actor is dead and gone."""
        self.actors.pop(slot).close()

    def close(self) -> None:
        """End everybody of this episode."""
        for actor in self.actors.values():
            actor.close()
        os.kill(self.pipes.pid, signal.SIGKILL)
        os.waitpid(self.pipes.pid, 0)
        self.pipes.close()

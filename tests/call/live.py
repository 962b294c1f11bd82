"""Real calls of a victim, received and made into Calls, answered at the end."""

from __future__ import annotations

import pytest

from proctor.call.call import Call
from proctor.kernel.listener import Listener
from proctor.syscalls import tables
from proctor.syscalls.architectures import native
from tests.support import bpf
from tests.support.harness import Actor, Pending, Victim
from tests.support.lab import Lab


def nr(name: str | int) -> int:
    """The number that a call has on this machine; a number stays as it is."""
    return tables.number(name, native()) if isinstance(name, str) else name


def chroot(actor: Actor, path: bytes) -> None:
    """chroot, in a user namespace of its own where that needs one; skips where nothing helps."""
    place = actor.string(path)
    if actor.call(nr("chroot"), place).value == 0:
        return
    clone_newuser = 0x10000000
    allowed = actor.call(nr("unshare"), clone_newuser).value == 0
    if not allowed or actor.call(nr("chroot"), place).value != 0:
        pytest.skip("chroot is not allowed here, nor is a user namespace to do it in")


class Watch:
    """One victim whose calls (by name or number) come here.

    ``with_call(actor, name, *registers)`` makes the call and gives what was received."""

    def __init__(self, lab: Lab, calls: tuple[str | int, ...]) -> None:
        self.lab = lab
        self.victim: Victim = lab.victim()
        self.calls = tuple(nr(each) for each in calls)
        self.listener: Listener | None = None
        self.pending: list[tuple[Call, Pending]] = []

    def listen(self, actor: Actor | None = None, program: bytes | None = None) -> Listener:
        """Install the filter for one actor (the main thread if None)."""
        filter_ = program if program is not None else bpf.notify(*self.calls)
        self.listener = Listener((actor or self.victim).listen(filter_))
        return self.listener

    def call(self, name: str | int, *registers: int, actor: Actor | None = None) -> Call:
        """Let an actor call, and receive that call."""
        return self.receive((actor or self.victim).begin(nr(name), *registers))

    def receive(self, pending: Pending) -> Call:
        """Receive what an actor began."""
        assert self.listener is not None
        notification = self.listener.recv()
        assert notification is not None
        call = Call(notification, self.listener)
        self.pending.append((call, pending))
        return call

    def answer(self, call: Call, value: int = 0, error: int = 0) -> tuple[int, int]:
        """Answer one; what the actor got."""
        assert self.listener is not None
        call.expire()
        assert self.listener.send(call.id, value, -error, 0)
        for index, (each, pending) in enumerate(self.pending):
            if each is call:
                del self.pending[index]
                return pending.result()
        raise AssertionError("not one of ours")

    def close(self) -> None:
        """Answer what is left, close the listener."""
        if self.listener is not None:
            for call, _ in self.pending:
                call.expire()
                self.listener.send(call.id, 0, -1, 0)
            self.listener.close()

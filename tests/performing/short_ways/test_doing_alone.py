"""Calls that the core does, on one thread and without a supervisor: what it asks for, and that nothing is lost where memory runs out
before anybody in Python goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import proctor
from proctor.call.call import Call
from proctor.call.verdict import HandOver
from proctor.kernel import _core
from proctor.kernel.launch import launch
from proctor.performing import Performers
from proctor.performing.executing.workers import Pace
from proctor.performing.short_ways.short import OpenWay
from proctor.supervisor.ports import Later
from tests.performing.support.containers import PYTHON

_testcapi: Any = pytest.importorskip("_testcapi")  # CPython's own, which some leave out
pytestmark = [pytest.mark.timeout(120), pytest.mark.root]
MOST = 200
TARGET = """
import os, stat, sys
os.chdir(sys.argv[1])
for number in range(int(sys.argv[3])):
    try:
        if sys.argv[2] == "openat": os.close(os.open(".", os.O_SYNC))
        elif sys.argv[2] == "mkdir": os.mkdir(sys.argv[4] + f"d{number}")
        else: os.mknod(f"d{number}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except (PermissionError, FileNotFoundError): # what is said where memory is short
        pass
"""


class Stage:
    """A target's calls, decided by one thread, one after another."""

    def __init__(
        self, place: Path, name: str, below: str = "", namespaces: tuple[str, ...] = ("user",)
    ) -> None:
        os.chmod(place, 0o777)
        program = proctor.Filter([proctor.Rule((name,), proctor.actions.NOTIFY)]).compile().code
        self.target = launch(
            [PYTHON, "-ISc", TARGET, str(place), name, str(2 * MOST + 1), below],
            program=program, namespaces=namespaces,
        )  # fmt: skip
        self.listener = proctor.Listener(self.target.take_listener())
        self.performers = Performers(nested="allow")
        self.way: Any = self.performers.ordinary(name, self.listener, lambda call: None)
        self.time, self.looks = 0, 0
        self.leaves = False
        self.went_on = self.at_once = False

        def goes_on(
            notification: Any, standing: Any, executor: Any, which: int, found: Any,
            lends: Any = None, pin: int = -1, closed: int = 0,
        ) -> None:  # fmt: skip
            _testcapi.remove_mem_hooks()
            self.went_on, self.at_once = standing is not None, standing is None
            call = Call(notification, self.listener)
            rest = () if lends is None else (lends, pin, closed)
            wish = proctor.perform()
            said = self.way.goes_on(call, wish, standing, executor, which, found, *rest)
            self.listener.send(notification.id, *settled(said).wire)
            call.expire()  # or a collector closes what it has of its caller

        share: Any = SimpleNamespace(watchful=False, slow=set())
        self.route = _core.Doing(
            share, {}, lambda _: None, lambda: self.way, None, self.listener, self, goes_on, lambda _: None, None, 0,
        )  # fmt: skip

    @property
    def leaving(self) -> bool:
        """Looked at before somebody is asked."""
        self.looks += 1
        if not self.leaves:
            self.run_short()
        return self.leaves

    def run_short(self) -> None:
        """From now on there is no memory for something."""
        # as many as are kept for tuples to come: those want memory then
        self.drained: list[object] = []
        self.drained += [tuple([None] * size) for size in range(1, 10) for _ in range(2001)]
        _testcapi.set_nomemory(self.time, self.time + 1)

    def perform(self) -> None:
        """The next call, in the way of those whose caller is not known."""
        notification = self.listener.recv()
        assert notification is not None
        call = Call(notification, self.listener)
        said: Any = settled(self.performers(call, proctor.perform()))
        assert self.listener.send(notification.id, *said.wire)
        call.expire()

    def go(self) -> None:
        """The next one by the core, with no memory for something that is asked for then."""
        notification = self.listener.recv()
        assert notification is not None
        self.went_on = self.at_once = False
        try:
            denied = self.route(notification)  # type: ignore[operator]
        finally:
            _testcapi.remove_mem_hooks()
        assert (denied is None) == (self.went_on or self.at_once)
        if denied is not None:
            assert self.listener.send(notification.id, *denied)

    def close(self) -> None:
        """All goes."""
        self.target.kill()
        self.target.close()
        self.listener.close()
        self.performers.close()


def settled(said: Any) -> Any:
    """What it comes to in the end."""
    while isinstance(said, Later):
        poll = select.poll()
        for fd in said.fds:
            poll.register(fd, select.POLLIN)
        poll.poll(None if said.wait is None else said.wait * 1000)
        said = said.resume()
    return said


class Box:
    """A container without options."""

    performing: ClassVar[dict[str, object]] = {}


class Opens(Stage):
    """The same of opens, which have another way."""

    box: Any = Box()

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        goes_on = OpenWay._goes_on

        def with_memory(way: OpenWay, told: Any) -> Any:
            _testcapi.remove_mem_hooks()
            self.went_on = True
            return goes_on(way, told)

        monkeypatch.setattr(OpenWay, "_goes_on", with_memory)
        super().__init__(place, "openat")

    def open(self, wish: Any, runs_short: bool) -> None:
        """The next one: those before are of an interpreter that begins."""
        while True:
            notification = self.listener.recv()
            assert notification is not None
            call = Call(notification, self.listener, container=self.box)
            mine = call.registers[2] & os.O_SYNC
            said: Any = None
            self.failed = False
            try:
                if runs_short and mine:
                    self.run_short()
                    said = self.way(call, wish)
                else:
                    said = self.performers(call, wish)
            except MemoryError:
                said, self.failed = proctor.deny(errno.ENOENT), True
            finally:
                _testcapi.remove_mem_hooks()
            if isinstance(said := settled(said), HandOver):
                assert self.listener.give(notification.id, said.fd, notification.pid)
            else:
                assert self.listener.send(notification.id, *said.wire)
            call.expire()
            if mine:
                break


@pytest.mark.parametrize("patient", [False, True])
@pytest.mark.parametrize("ruled", [False, True])
def test_nobody_who_was_asked_to_open_is_lost(
    tmp_path: Path, ruled: bool, patient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor what was opened, where the answer comes at once."""
    for each in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(each, 0o755)
    if not patient:
        monkeypatch.setattr(Pace, "patience", property(lambda self: 0, lambda self, _: None))
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: None)
    wish: Any = proctor.perform(allow=lambda argument, path: True) if ruled else proctor.perform()
    before = open_now()
    with contextlib.closing(Opens(tmp_path, monkeypatch)) as at:
        books: Any = at.performers.executors
        at.open(wish, False)
        at.time = 1 << 30
        at.open(wish, True)  # what it is asked is composed once
        failed = 0
        for at.time in range(60):
            at.open(wish, True)
            assert not books._busy
            failed += at.failed
            at.open(wish, False)
        assert failed and not at.failed and (at.went_on or patient)
    assert open_now() == before


@pytest.mark.parametrize("name", ["mkdir", "mknodat"])
def test_nobody_who_was_asked_is_lost(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the answer takes longer: of the caller's executor, or of who lends."""
    for each in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(each, 0o755)
    monkeypatch.setattr(Pace, "patience", property(lambda self: 0, lambda self, _: None))
    short: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: short.append(hook.exc_type))
    before = open_now()
    with contextlib.closing(Stage(tmp_path, name)) as at:
        books: Any = at.performers.executors
        at.perform()
        for _ in range(MOST):
            at.looks = 0
            at.go()
            assert at.looks == 1
            assert not books._busy
            if at.went_on:
                break
            at.time += not at.at_once  # else it was answered before anybody had to go on
            at.perform()  # by others, if those are gone
        assert at.went_on and set(short) == {MemoryError}
    assert open_now() == before


@pytest.mark.parametrize("namespaces", [(), ("user",)])
def test_who_leaves_begins_nothing(tmp_path: Path, namespaces: tuple[str, ...]) -> None:
    """Neither by itself nor by an executor; a longer way is to say so."""
    with contextlib.closing(Stage(tmp_path, "mkdir", "", namespaces)) as at:
        at.time = 1 << 30
        at.perform()
        for at.leaves in (False, True, False):
            at.looks = 0
            notification = at.listener.recv()
            assert notification is not None
            before = os.listdir(tmp_path)
            said: Any = at.route(notification)  # type: ignore[operator]
            _testcapi.remove_mem_hooks()
            assert at.looks >= 1
            if at.leaves:
                assert said is None and os.listdir(tmp_path) == before
                assert at.listener.send(notification.id, 0, -errno.ENOENT, 0)
            elif said is not None:
                assert at.listener.send(notification.id, *said)


def open_now() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(found)

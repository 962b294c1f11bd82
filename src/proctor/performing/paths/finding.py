"""What the paths of one call lead to: pinned, and known."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from typing import TYPE_CHECKING

from proctor.call.caller import Caller
from proctor.call.path.located import file_id
from proctor.kernel.raw import openat2
from proctor.performing import scarce
from proctor.performing.executing.requests import Reply
from proctor.performing.executing.steps import Result
from proctor.performing.executing.workers import Wait
from proctor.performing.paths import pinning, pins
from proctor.performing.paths.own_links import enter
from proctor.performing.paths.walk import Walk
from proctor.performing.paths.whereabouts import Itself
from proctor.performing.session import Session
from proctor.performing.trouble import Again, Moved, Said, Trouble
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.kernel.standing import Standing


class Pin(NamedTuple):
    """Something pinned, and known."""

    #: An O_PATH descriptor; the task closes it.
    fd: int
    named: pins.Named
    #: The directory in which it has its name, where it was found there: likewise; -1 elsewhere.
    inside: int = -1


class Entry(NamedTuple):
    """A name in a directory."""

    parent: Pin
    #: What has the name; None if nothing does.
    found: Pin | None
    #: Its text, if it is a symbolic link.
    text: bytes


class Finding:
    """One call, and what was found for it.

    :param session: the executor that walks.
    :param standing: the caller, as far as every call asks after it.
    """

    __slots__ = (
        "_fds", "_slow", "_taken", "call", "flushes", "session", "standing", "stepped", "strict",
    )  # fmt: skip

    def __init__(self, call: Call, session: Session, standing: Standing) -> None:
        self.call = call
        self.session = session
        self.standing = standing
        #: Whether a path was walked step by step: then an errno may be ours, and no word of the kernel's.
        self.stepped = False
        #: Whether such a walk is made of all that fails where procfs shows a process more of its own than others.
        self.strict = False
        #: Whether closing what is held may wait for a server: then that is not for us.
        self.flushes = False
        self._fds: list[int] = []
        #: Of those, duplicates that may be flushed when they are closed.
        self._slow: set[int] = set()
        self._taken: dict[int, int | None] = {}

    @property
    def caller(self) -> Caller:
        """Who is calling."""
        return self.call.caller

    def elsewhere(self) -> bool:
        """Whether the caller is in other namespaces or cgroups than its executor, of those that mean
        something to procfs, cgroups and devices only.  Then all is to be begun anew."""
        return not self.standing.still_there()

    def hold(self, fd: int) -> int:
        """Close a descriptor with the task."""
        self._fds.append(fd)
        return fd

    def keep(self, reply: Reply, step: Result) -> int:
        """Take a descriptor of a reply, to be closed with the task."""
        return self.hold(reply.take(step))

    def start(self, dirfd: int, path: bytes, resolve: int = 0) -> int | None:
        """Where a path starts: an O_PATH descriptor of the caller's, -1 if it has none there; None for an absolute path, which starts at the executor's root."""
        if path.startswith(b"/") and not resolve & pins.SCOPED:
            return None
        looked = self.call.looked_at
        seen = None if looked is None else looked.shown(dirfd)
        if seen is not None:
            return seen
        pin = self.standing.place(dirfd)
        return -1 if pin is None else self.hold(pin)

    def take_fd(self, number: int) -> int:
        """A duplicate of the caller's descriptor as it is now, the asker's to close.

        :raises OSError: EBADF if nothing is open there."""
        try:
            fd = self.standing.take_fd(number)
        except PermissionError:
            fd = None  # which the other one has words for
        return self.caller.take_fd(number) if fd is None else fd

    def taken(self, number: int) -> int | None:
        """A duplicate of the caller's descriptor, the same one whenever it is asked for, and the one that was looked at if
        somebody did; held to the end and no longer: who is answered is to find nobody else there.  None if nothing is
        open there."""
        if number not in self._taken:
            looked = self.call.looked_at
            seen = None if looked is None else looked.shown(number, copy=True)
            try:
                self._taken[number] = self.hold_copy(self.take_fd(number)) if seen is None else seen
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                self._taken[number] = None
        return self._taken[number]

    def hold_copy(self, fd: int) -> int:
        """As :meth:`hold`, of a duplicate of a caller's descriptor."""
        self.hold(fd)
        self._slow.add(fd)  # unless it is seen to be none of those
        if not pins.flushes(fd):
            self._slow.discard(fd)
        return fd

    def led(
        self, start: int | None, link: Entry, head: bytes, resolve: int
    ) -> tuple[int | None, bytes]:
        """(start, path) of what a link leads to that was found at the end of a path.

        :param start: of that path.
        :param head: of that path, without the link's name."""
        if (
            resolve & pins.SCOPED
        ):  # where it starts is where it ends, too; that may be longer than any path
            return start, link.text if link.text.startswith(b"/") else head + b"/" + link.text
        return None if link.text.startswith(b"/") else link.parent.fd, link.text

    def stands(self, failed: int, reply: Reply, probe: pins.Probe | None, resolve: int) -> bool:
        """Whether an errno is the kernel's last word; if not, the path is to be walked step by step."""
        self.strict |= probe is not None and probe.may_be_own(failed, reply)
        return pins.stands(failed, reply, probe, resolve, self.strict)

    def descriptor(self, number: int) -> Generator[Wait, Reply, Pin]:
        """One of the caller's own descriptors, and what it leads to.

        :raises Said: it has none there (EBADF)."""
        fd = self.taken(number)
        if fd is None:
            raise Said(errno.EBADF)
        flushed = self.flushes
        self.flushes = True  # unless it is seen to be where nobody waits for that
        pin = yield from self.held(fd)
        self.flushes = flushed or pin.named.slow
        return pin

    def itself(self, number: int) -> Generator[Wait, Reply, Pin]:
        """What an empty path means (AT_EMPTY_PATH): a descriptor of the caller's, or its working directory, which it
        need not be allowed to search.

        :raises Said: there is no such descriptor (EBADF)."""
        if number != pins.AT_FDCWD:
            return (yield from self.descriptor(number))
        start = self.start(number, b"")
        assert start is not None
        return (yield from self.held(start))

    def held(self, fd: int) -> Generator[Wait, Reply, Pin]:
        """What is held of the caller's: what it leads to."""
        known = pinning.name_of()
        reply = yield from self.session.ask(known.request, fds=(fd,), table=True)
        reply.close()
        return Pin(fd, self.named(known.name, reply, fd))

    def pin(
        self, start: int | None, path: bytes, flags: int, resolve: int, later: bytes = b""
    ) -> Generator[Wait, Reply, Pin]:
        """Pin what a path means for the caller.

        :param flags: O_NOFOLLOW, O_DIRECTORY or neither.
        :param later: how it will be opened; refused at once if the kernel refuses that.
        :raises Said: what the kernel says.
        """
        if len(path) > pins.LONGEST:
            return (yield from self.walk(start, path, flags, resolve, 0))
        look = pinning.look(pins.has(start), pins.room(len(path)))
        reply = yield from self.session.ask(
            look.request,
            *pins.directory(start),
            later or pins.HOW.pack(pins.PIN, 0, 0),
            pins.HOW.pack(pins.PIN | flags, 0, resolve | pins.NO_MAGICLINKS),
            pins.probing(flags, resolve),
            path,
            fds=pins.along(start),
            table=True,
        )
        try:
            pins.refuse(reply, look.valid, errno.EBADF)
            if reply.made(look.pin) and not look.name.on_proc(reply):
                return self._kept(reply, look.pin, look.name)
            failed = reply.error(look.pin)
            if failed and self.stands(failed, reply, look.probe, resolve):
                raise Said(failed)
        finally:
            reply.close()
        return (yield from self.walk(start, path, flags, resolve, failed))

    def named(self, name: pins.Name, reply: Reply, fd: int) -> pins.Named:
        """What is pinned, known.  Where the caller may not search all the way from its root to what it has got at
        (its working directory is below), the name is gone after with the monitor's rights: the caller can ask the
        kernel for it (getcwd(2)), and is told nothing else.  Where the monitor may not either, it is taken as it is:
        by shutting a directory nobody gets rid of rules on what is below.

        :raises Trouble: there was no room to see where it leads."""
        if name.lost(reply):
            raise Trouble("the executor is out of descriptors or memory")
        named = name.read(reply)
        for hidden in name.hidden(reply):
            try:
                again = openat2(
                    self.caller.root(),
                    hidden,
                    pins.PIN | pins.O_NOFOLLOW,
                    pins.IN_ROOT | pins.NO_SYMLINKS,
                )
            except OSError as error:
                scarce.pass_on(error)
                if error.errno == errno.EACCES:
                    named = named._replace(path=hidden)
                continue
            try:
                if file_id(again) == file_id(fd):
                    return named._replace(path=hidden)
            finally:
                os.close(again)
        return named

    def _kept(self, reply: Reply, step: Result, name: pins.Name, inside: int = -1) -> Pin:
        fd = self.keep(reply, step)
        return self._known(fd, self.named(name, reply, fd), inside)

    def _known(self, fd: int, named: pins.Named, inside: int = -1) -> Pin:
        """A pin, of which it is kept in mind whether what is opened of it is closed at once."""
        self.session.foreign |= named.slow
        return Pin(fd, named, inside)

    def walk(
        self, start: int | None, path: bytes, flags: int, resolve: int, failed: int
    ) -> Generator[Wait, Reply, Pin]:
        """Pin what a path means, step by step, since it may meet links of procfs.

        :param failed: the errno of the kernel's own walk, which stands if it does not.
        """
        follow = not flags & pins.O_NOFOLLOW
        if failed and pins.stands_alone(failed, resolve, self.strict):
            raise Said(failed)
        if self.elsewhere():  # procfs has files about each of these namespaces
            raise Moved
        walk = Walk(
            self.session.ask,
            self.caller,
            start if start != -1 else None,
            path,
            resolve,
            follow=follow,
            strictly=self.strict,
        )
        try:
            walked = yield from walk.run()
        except Itself:
            self.session.renew()
            raise Again from None
        except Said as said:
            raise (said if walk.met or not failed else Said(failed)) from None
        finally:
            self.stepped |= walk.procfs or walk.met or not self.strict
            walk.close()
        self.hold(walked.fd)
        inside = walked.inside if walked.inside < 0 else self.hold(walked.inside)
        if failed and not walked.met:
            raise Said(failed)
        known = pinning.name_of()
        reply = yield from self.session.ask(known.request, fds=(walked.fd,), table=True)
        reply.close()
        named = self.named(known.name, reply, walked.fd)
        if flags & pins.O_DIRECTORY and not named.status.is_directory:
            raise Said(errno.ENOTDIR)
        return self._known(walked.fd, named, inside)

    def entry(
        self, start: int | None, head: bytes, last: bytes, resolve: int, later: bytes = b""
    ) -> Generator[Wait, Reply, Entry]:
        """Pin a directory and, without following it, what has a name there.

        :param later: how it will be opened; refused at once if the kernel refuses that.
        :raises Said: what the kernel says.
        """
        later = later or pins.HOW.pack(pins.PIN, 0, 0)
        if len(head) > pins.LONGEST:
            return (yield from self._entry_below(start, head, last, resolve, later, 0))
        by = pinning.RELATIVE if pins.has(start) else pinning.ABSOLUTE
        entry = pinning.entry(by, pins.room(max(len(head), len(last))))
        reply = yield from self.session.ask(
            entry.request,
            *pins.directory(start),
            later,
            pins.HOW.pack(pins.PIN | pins.O_DIRECTORY, 0, resolve | pins.NO_MAGICLINKS),
            pins.probing(0, resolve),
            head,
            last,
            fds=pins.along(start),
            table=True,
        )
        try:
            pins.refuse(reply, entry.valid, errno.EBADF)
            failed = reply.error(entry.parent)
            if not failed and not entry.parent_name.on_proc(reply):
                return self._entry(reply, entry)
            if failed and self.stands(failed, reply, entry.probe, resolve):
                raise Said(failed)
        finally:
            reply.close()
        return (yield from self._entry_below(start, head, last, resolve, later, failed))

    def _entry_below(
        self, start: int | None, head: bytes, last: bytes, resolve: int, later: bytes, failed: int
    ) -> Generator[Wait, Reply, Entry]:
        """The same, with the directory's path walked step by step."""
        parent = yield from self.walk(start, head, pins.O_DIRECTORY, resolve, failed)
        entry = pinning.entry(pinning.PINNED, pins.room(len(last)))
        reply = yield from self.session.ask(
            entry.request, later, last, fds=(parent.fd,), table=True
        )
        own = None
        try:
            if reply.error(entry.found) == errno.EACCES:
                own = enter(parent.fd, last, self.caller)
            if own is None:
                return self._entry(reply, entry)
        finally:
            reply.close()
        found = yield from self.held(self.hold(own))
        # its links lead to objects, and have no text that counts
        return Entry(parent, found._replace(inside=parent.fd), b"")

    def _entry(self, reply: Reply, entry: pinning.Entry) -> Entry:
        parent = self._kept(reply, entry.parent, entry.parent_name)
        missing = reply.error(entry.found)
        if missing == errno.ENOENT:
            return Entry(parent, None, b"")
        if missing:
            raise Said(missing)
        found = self._kept(reply, entry.found, entry.found_name, parent.fd)
        return Entry(parent, found, reply.parts[entry.link])

"""A performer at work: one call after the other, in one caller's identity.

``open`` without conditions is one openat2(2), by the caller's own path, flags, mode and resolve
bits.  Where something must be known *before* anything is opened or made (a policy wants to see the
path; devices are subject to the caller's cgroups, in which the performer is not), the object is
*pinned* first (O_PATH: no right needed, nothing happens) and then the pinned object is used.

Security of the process itself: no descriptor of worth is in it while the kernel follows a magic link
on the caller's word (:mod:`proctor.emulate.apart`), and nothing on procfs is ever opened by a process that
lives on, since what it opened might be its own ``mem``.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Final

from proctor.emulate import raw, wire
from proctor.emulate.apart import apart
from proctor.emulate.become import Trouble
from proctor.emulate.paths import may_create_in_sticky, split
from proctor.emulate.walk import Pids, meets_proc_link, open_for_caller

_PIN: Final = os.O_PATH | os.O_CLOEXEC
_NO_MAGIC: Final = raw.RESOLVE_NO_MAGICLINKS
_TTY: Final = os.makedev(5, 0)
_TRIES: Final = 64  # more than the 40 links that the kernel follows, plus some lost races


class Pinned(Exception):
    """Not an error: the outcome is something else than a descriptor or an errno."""

    def __init__(self, kind: int, number: int = 0, fd: int | None = None) -> None:
        super().__init__(kind)
        self.kind = kind
        self.number = number
        self.fd = fd


class Refused(Exception):
    """The monitor said no."""


class Worker:
    """The performer's loop and everything it does."""

    def __init__(
        self, sock: socket.socket, own_fds: int, proc: int, cgroups: list[int] | None
    ) -> None:
        self.sock = sock
        self.own_fds = own_fds  # /proc/self/fd and /proc of the host, as O_PATH descriptors
        self.proc = proc
        self.cgroups = cgroups
        self.pids = b""
        self.options = 0

    def serve(self) -> None:
        """Answer until the monitor closes its end, or is silent for long (SO_RCVTIMEO)."""
        while True:
            try:
                packet = wire.receive(self.sock)
            except BlockingIOError:
                # Idle.  First make the monitor's next packet fail, then see whether one came before.
                self.sock.shutdown(socket.SHUT_RD)
                packet = wire.receive(self.sock, flags=socket.MSG_DONTWAIT)
            if not packet.data:
                return
            kind, number, fd, text = self.one(packet)
            try:
                wire.send(
                    self.sock, wire.REPLY.pack(kind, number) + text, () if fd is None else [fd]
                )
            finally:
                if fd is not None:
                    os.close(fd)
                for given in packet.fds:
                    os.close(given)

    def one(self, packet: wire.Packet) -> tuple[int, int, int | None, bytes]:
        """(kind, errno, descriptor, text) of one call."""
        op, options, umask, length, flags, mode, resolve = wire.REQUEST.unpack_from(packet.data)
        start = wire.REQUEST.size
        self.pids = packet.data[start : start + length]
        path = packet.data[start + length :]
        self.options = options
        os.umask(umask)
        dirfd = raw.AT_FDCWD
        if options & wire.HAS_DIR:
            dirfd = packet.fds[0]
        elif options & wire.BAD_DIR:
            dirfd = -1
        try:
            if op == wire.OP_OPEN:
                pinned = options & (wire.ASK_FIRST | wire.OTHER_CGROUP)
                perform = self.open_pinned if pinned else self.open_direct
                return wire.OPENED, 0, perform(dirfd, path, flags, mode, resolve), b""
            if op == wire.OP_REOPEN:
                return wire.OPENED, 0, self.reopen(packet.fds[0], flags), b""
            if op == wire.OP_MKNOD:
                self.mknod(dirfd, path, flags, mode)
                return wire.DONE, 0, None, b""
            return wire.TROUBLE, 0, None, b"unknown request"
        except Pinned as outcome:
            return outcome.kind, outcome.number, outcome.fd, b""
        except Refused:
            return wire.DONE, errno.EACCES, None, b""
        except Trouble as trouble:
            return wire.TROUBLE, 0, None, str(trouble).encode(errors="replace")
        except OSError as error:
            return wire.DONE, error.errno or errno.EIO, None, b""

    # open ---------------------------------------------------------------------------------------
    def open_direct(self, dirfd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
        """The kernel does it all; only what meets procfs goes the long way."""
        try:
            fd = raw.openat2(dirfd, path, flags | os.O_CLOEXEC, mode, resolve | _NO_MAGIC)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise
            follow = not flags & os.O_NOFOLLOW
            if meets_proc_link(dirfd, path, resolve, follow):
                return self.open_pinned(dirfd, path, flags, mode, resolve)
            if error.errno == errno.ENXIO:
                self._look_for_tty(self.pin(dirfd, path, _PIN, resolve))
            raise
        if raw.filesystem(fd) != raw.PROC_SUPER_MAGIC:
            return fd
        os.close(fd)
        return self.open_pinned(dirfd, path, flags, mode, resolve)

    def open_pinned(self, dirfd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
        """Pin, ask, use."""
        self._check_flags(flags, mode, resolve)
        if resolve & raw.RESOLVE_CACHED:
            raise raw.error(errno.EAGAIN)  # more than one walk; whoever sets it must expect this
        if flags & os.O_CREAT:
            return self._open_or_create(dirfd, path, flags, mode, resolve)
        pin = self.pin(dirfd, path, _PIN | flags & (os.O_NOFOLLOW | os.O_DIRECTORY), resolve)
        if flags & raw.O_TMPFILE_BIT:
            try:
                self.ask(pin)
                return raw.openat2(pin, b".", flags | os.O_CLOEXEC, mode, _NO_MAGIC)
            finally:
                os.close(pin)
        if flags & os.O_PATH:
            self.ask(pin)
            return pin
        return self._use(pin, flags)

    def _check_flags(self, flags: int, mode: int, resolve: int) -> None:
        """What the kernel says about these flags, before it looks at any path."""
        try:
            os.close(raw.openat2(-1, b".", flags | os.O_CLOEXEC, mode, resolve))
        except OSError as error:
            if error.errno != errno.EBADF:
                raise

    def _use(self, pin: int, flags: int) -> int:
        """Open what is pinned (and give the pin up)."""
        try:
            if stat.S_ISLNK(os.fstat(pin).st_mode):  # only under O_NOFOLLOW
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            self.ask(pin)
            return self.reopen(pin, flags)
        finally:
            os.close(pin)

    def reopen(self, pin: int, flags: int) -> int:
        """Open the object that ``pin`` is, by its magic link, with the caller's flags."""
        if flags & os.O_CREAT:
            flags &= ~(os.O_CREAT | os.O_EXCL)
        flags = flags & ~os.O_NOFOLLOW | os.O_CLOEXEC
        kind = os.fstat(pin).st_mode
        device = stat.S_ISCHR(kind) or stat.S_ISBLK(kind)
        moved = device and bool(self.options & wire.OTHER_CGROUP)
        try:
            if moved or raw.filesystem(pin) == raw.PROC_SUPER_MAGIC:
                return apart(
                    lambda: raw.openat2(self.proc, b"self/fd/%d" % pin, flags, 0, 0),
                    keep=(pin, self.proc),
                    join=moved,
                    cgroups=self.cgroups,
                )
            return raw.openat2(self.own_fds, b"%d" % pin, flags, 0, 0)
        except OSError as error:
            if error.errno == errno.ENXIO:
                self._look_for_tty(os.dup(pin))
            raise

    def _look_for_tty(self, pin: int) -> None:
        try:
            found = os.fstat(pin)
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == _TTY:
                raise Pinned(wire.CONTROLLING_TTY)
        finally:
            os.close(pin)

    def _open_or_create(self, dirfd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
        """O_CREAT: the directory is pinned, then the last component decides (fs/namei.c)."""
        for _ in range(_TRIES):
            head, last, slashes = split(path)
            if last in (b"", b".", b".."):
                os.close(self.pin(dirfd, path, _PIN, resolve))
                raise raw.error(errno.EEXIST if flags & os.O_EXCL else errno.EISDIR)
            parent = self.pin(dirfd, head, _PIN | os.O_DIRECTORY, resolve)
            try:
                if slashes:
                    raise raw.error(errno.EISDIR)
                try:
                    found = os.open(last, _PIN | os.O_NOFOLLOW, dir_fd=parent)
                except FileNotFoundError:
                    made = self._create(parent, last, flags, mode)
                    if made is not None:
                        return made
                    continue  # somebody else made it meanwhile
                try:
                    if flags & os.O_EXCL:
                        raise raw.error(errno.EEXIST)
                    state = os.fstat(found)
                    if stat.S_ISLNK(state.st_mode):
                        if flags & os.O_NOFOLLOW:
                            raise raw.error(errno.ELOOP)
                        if raw.filesystem(found) != raw.PROC_SUPER_MAGIC:
                            self._may_follow(dirfd, path, resolve)
                            target = os.readlink(b"", dir_fd=found)
                            path = target if target.startswith(b"/") else head + b"/" + target
                            continue
                        return self._use_existing(self.pin(dirfd, path, _PIN, resolve), flags)
                    may_create_in_sticky(os.fstat(parent), state)
                    return self._use_existing(os.dup(found), flags)
                finally:
                    os.close(found)
            finally:
                os.close(parent)
        raise raw.error(errno.ELOOP)

    def _use_existing(self, pin: int, flags: int) -> int:
        if stat.S_ISDIR(os.fstat(pin).st_mode):
            os.close(pin)
            raise raw.error(errno.EISDIR)
        return self._use(pin, flags)

    def _may_follow(self, dirfd: int, path: bytes, resolve: int) -> None:
        """The kernel's word on following the last component; that it dangles is fine here."""
        try:
            os.close(self.pin(dirfd, path, _PIN, resolve))
        except FileNotFoundError:
            pass

    def _create(self, parent: int, last: bytes, flags: int, mode: int) -> int | None:
        self.ask(parent, last)
        flags |= os.O_EXCL | os.O_CLOEXEC  # a link there is not followed then
        try:
            return raw.openat2(parent, last, flags, mode, _NO_MAGIC)
        except FileExistsError:
            return None

    # mknod --------------------------------------------------------------------------------------
    def mknod(self, dirfd: int, path: bytes, mode: int, device: int) -> None:
        """mknodat(2) as the caller; what only lacks CAP_MKNOD comes back with its directory."""
        if not path:
            raise raw.error(errno.ENOENT)
        head, last, slashes = split(path)
        parent = self.pin(dirfd, head, _PIN | os.O_DIRECTORY, 0)
        try:
            if not last:
                raise raw.error(errno.EEXIST)
            self.ask(parent, last)
            kind = stat.S_IFMT(mode)
            node = kind in (stat.S_IFCHR, stat.S_IFBLK)
            name = last + slashes

            def make() -> None:
                os.mknod(name, mode, device, dir_fd=parent)

            try:
                if node and self.options & wire.OTHER_CGROUP:
                    apart(make, keep=(parent,), join=True, cgroups=self.cgroups)
                else:
                    make()
            except PermissionError as error:
                # The kernel checks the path, the name, the file system and the directory's rights
                # before CAP_MKNOD: EPERM for a device means that only that is missing, or that
                # nobody may, which the next attempt will find.
                if error.errno != errno.EPERM or not node:
                    raise
                nodev = os.fstatvfs(parent).f_flag & os.ST_NODEV
                raise Pinned(
                    wire.NEEDS_RIGHT, wire.ON_NODEV if nodev else 0, os.dup(parent)
                ) from None
        finally:
            os.close(parent)

    # Pinning ------------------------------------------------------------------------------------
    def pin(self, dirfd: int, path: bytes, flags: int, resolve: int) -> int:
        """An O_PATH descriptor of what ``path`` means for the caller."""
        try:
            fd = raw.openat2(dirfd, path, flags, 0, resolve | _NO_MAGIC)
        except OSError:
            if not meets_proc_link(dirfd, path, resolve, not flags & os.O_NOFOLLOW):
                raise
        else:
            if raw.filesystem(fd) != raw.PROC_SUPER_MAGIC:
                return fd
            os.close(fd)
        pids = Pids(self.pids)
        return apart(
            lambda: open_for_caller(dirfd, path, flags, resolve, pids),
            keep=(dirfd,) if dirfd >= 0 else (),
        )

    def ask(self, pin: int, last: bytes = b"") -> None:
        """Show the monitor what is pinned (or would be made in it), if it wants to see that."""
        if not self.options & wire.ASK_FIRST:
            return
        path = self.seen(pin)
        if last:
            path = path.rstrip(b"/") + b"/" + last
        wire.send(self.sock, wire.REPLY.pack(wire.ASK, 0) + path)
        while True:
            try:
                said = wire.receive(self.sock).data
            except BlockingIOError:
                continue  # SO_RCVTIMEO is for idling
            if not said:
                os._exit(0)
            if said != wire.ALLOW:
                raise Refused
            return

    def seen(self, pin: int) -> bytes:
        """The path by which the caller's root shows this very object; text that no absolute path
        equals if there is none (deleted, covered, outside of the root, in another mount)."""
        try:
            text = os.readlink(b"%d" % pin, dir_fd=self.own_fds)
        except OSError:
            return b"(unreachable)"
        if not text.startswith(b"/"):
            return text  # pipe:[1], anon_inode:...
        try:
            again = raw.openat2(
                raw.AT_FDCWD, text, _PIN | os.O_NOFOLLOW, 0, raw.RESOLVE_NO_SYMLINKS
            )
        except OSError:
            return b"(unreachable)" + text
        try:
            return text if raw.place(again) == raw.place(pin) else b"(unreachable)" + text
        finally:
            os.close(again)

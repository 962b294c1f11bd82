"""What the threads of a fake target share: memory, tree, places, descriptors, time."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING, Final, NoReturn

from proctor.call.path.files import joined
from proctor.errors import TargetFdLimit
from proctor.testing.space import FakeMemory
from proctor.testing.tree import Node, Tree, name_of

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.supervisor.driver import Driver
    from proctor.testing.loop import VirtualLoop

#: Above what Linux gives out (PID_MAX_LIMIT): a handler that acts on such a number hits nobody.
FIRST_TID: Final = (1 << 22) + 1
_O_PATH: Final = 0o10000000


class OpenFile:
    """One open file description of the target.

    :ivar node: what of the tree it is; None for a descriptor that was handed in from outside.
    """

    __slots__ = ("_fd", "node")

    def __init__(self, node: Node | None, fd: int = -1) -> None:
        self.node = node
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor of ours behind it; a regular file's content is written out when first
        asked for, other nodes have a placeholder."""
        if self._fd < 0:
            node = self.node
            self._fd = content(node.content if node is not None and _regular(node) else b"")
        return self._fd

    def close(self) -> None:
        """Give the descriptor behind it up."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _regular(node: Node) -> bool:
    return node.mode & 0o170000 == 0o100000


def content(data: bytes) -> int:
    """A descriptor of ours with this content, at its beginning; on any platform."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        file.seek(0)
        return os.dup(file.fileno())


class Process:
    """What the threads of one fake target share."""

    def __init__(self, tree: Tree, nofile: int) -> None:
        self._loop: VirtualLoop | None = None
        self.memory = FakeMemory()
        self.tree = tree
        self.root = tree.root
        self.cwd = tree.root
        self.nofile = nofile
        self.dead = False
        #: Seconds of virtual time that have passed.
        self.clock = 0.0
        self.open: dict[int, OpenFile] = {}
        #: Descriptor of ours → the node it is a placeholder of.
        self.pins: dict[int, Node] = {}
        self.supervisors: list[Driver] = []
        self._ids = 0x5EED
        self._tids = FIRST_TID
        self.calls: list[Call] = []
        self._null = Node.device("c", 1, 3)
        for number in range(min(3, nofile)):
            self.open[number] = OpenFile(self._null)

    # Numbers ----------------------------------------------------------------------------------

    def next_id(self) -> int:
        """An id for one more notification."""
        self._ids += 1
        return self._ids

    def next_tid(self) -> int:
        """A number for one more thread."""
        self._tids += 1
        return self._tids - 1

    # Descriptors ------------------------------------------------------------------------------

    def install(self, file: OpenFile, at: int | None = None) -> int:
        """Put an open file into the table, at the lowest free number or at ``at``.

        :raises TargetFdLimit: as the kernel: EMFILE, or EBADF beyond the limit.
        """
        if at is None:
            at = next(number for number in range(len(self.open) + 1) if number not in self.open)
            if at >= self.nofile:
                raise TargetFdLimit(errno.EMFILE, "the target's descriptor table is full")
        elif at >= self.nofile:
            raise TargetFdLimit(errno.EBADF, f"{at} is beyond the target's RLIMIT_NOFILE")
        before = self.open.get(at)
        self.open[at] = file
        if before is not None:
            before.close()
        return at

    def file(self, number: int) -> OpenFile:
        """What is open as ``number``.

        :raises OSError: EBADF."""
        file = self.open.get(number)
        return file if file is not None else _fail(errno.EBADF)

    def name_of(self, pin: int) -> bytes:
        """How the kernel would name what a descriptor of ours stands for."""
        node = self.pins.get(pin)
        if node is None:
            return b"anon_inode:[outside]"
        if node is self._null:
            return b"/dev/null"
        names, _ = name_of(node, self.tree.root)
        return joined(b"", names)

    def close_fd(self, number: int) -> None:
        """close(2) in the target."""
        self.file(number).close()
        del self.open[number]

    def pin(self, node: Node | None) -> int:
        """A descriptor of ours that stands for a node (for nothing nameable, if None)."""
        fd = os.open(os.devnull, os.O_RDONLY)
        if node is not None:
            self.pins[fd] = node
        else:
            self.pins.pop(fd, None)
        return fd

    # Time -------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let virtual time pass; deadlines that are due on the way are kept."""
        goal = self.clock + seconds
        for supervisor in list(self.supervisors):
            due = supervisor.next_due()
            while due is not None and due <= goal:
                self.clock = max(self.clock, due)
                supervisor.expire()
                due = supervisor.next_due()
        self.clock = max(self.clock, goal)

    def loop(self) -> VirtualLoop:
        """The event loop of ``async def`` handlers; one for all calls of the target."""
        if self._loop is None:
            from proctor.testing.loop import VirtualLoop

            self._loop = VirtualLoop(self)
        return self._loop

    def close(self) -> None:
        """Give everything up; idempotent."""
        self.dead = True
        while self.calls:
            self.calls.pop().expire()
        while self.open:
            self.open.popitem()[1].close()
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

    def __del__(self) -> None:
        if hasattr(self, "calls"):
            self.close()


def is_path_descriptor(fd: int) -> bool:
    """Whether a descriptor of ours was opened with ``O_PATH``, where there is such a thing."""
    try:
        from fcntl import F_GETFL, fcntl
    except ImportError:
        return False
    return bool(fcntl(fd, F_GETFL) & _O_PATH)


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))

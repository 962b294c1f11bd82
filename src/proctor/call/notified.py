"""What a notification says of itself: numbers, names, registers.  Nothing is looked at for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from proctor.syscalls import architectures, tables
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.signatures import Signature, signature

if TYPE_CHECKING:
    from proctor.kernel.notification import NotificationLike


class Notified:
    """See :class:`proctor.call.call.Call`, which has the rest."""

    _notification: NotificationLike
    #: What is known of its number, once somebody asked.
    _kind: _Kind | None = None

    @property
    def id(self) -> int:
        """The notification's id."""
        return self._notification.id

    @property
    def tid(self) -> int:
        """Thread id of the caller as we see it; 0 if it has none in our pid namespace."""
        return self._notification.pid

    @property
    def nr(self) -> int:
        """System call number, signed."""
        return self._notification.nr

    @property
    def arch(self) -> int:
        """AUDIT_ARCH_* number."""
        return self._notification.arch

    @property
    def registers(self) -> tuple[int, int, int, int, int, int]:
        """The six registers, all 64 bits of them."""
        return self._notification.args

    @property
    def words(self) -> Sequence[int]:
        """The same as the kernel reads them: of a call of 32 bits the lower halves.  A program of 64 bits that makes one
        (``int $0x80``) leaves in the upper ones what it likes (SC_IA32_REGS_TO_ARGS of
        arch/x86/include/asm/syscall_wrapper.h)."""
        known = ARCHITECTURES.get(self.abi)
        registers = self._notification.args
        if known is None or known.bits == 64:
            return registers
        return [each & 0xFFFFFFFF for each in registers]

    @property
    def abi(self) -> str:
        """Architecture by name ("x86_64", "i386", "x32"...)."""
        return (self._kind or self._look_up())[0]

    @property
    def name(self) -> str:
        """The call's name, or ``syscall_0x1f4`` for a number that has none."""
        return (self._kind or self._look_up())[1]

    @property
    def signature(self) -> Signature | None:
        """The names and roles of its arguments, as the call's name has them; None if they are unknown.
        :attr:`frame` has those that its registers make."""
        return (self._kind or self._look_up())[2]

    def _look_up(self) -> _Kind:
        kind = self._kind = kind_of(self._notification)
        return kind


# What is known about a (architecture, number) pair; hostile numbers are not remembered for ever.
# The last items are where the first path is, and the second: register and width.
_Where = tuple[int, int, str]
_Kind = tuple[str, str, "Signature | None", "_Where | None", "_Where | None"]
_kinds: dict[tuple[int, int], _Kind] = {}
_KINDS_KEPT: Final = 4096


def kind_of(notification: NotificationLike) -> _Kind:
    """(architecture, name, signature, where the first path and the second are) of a notification."""
    key = (notification.arch, notification.nr)
    found = _kinds.get(key)
    if found is None:
        arch, nr = key
        abi = architectures.arch_of(arch, nr)
        name = tables.name(nr, abi)
        known = signature(name, abi) if name is not None and abi in ARCHITECTURES else None
        paths = known.with_role("path") if known is not None else ()
        where = [*((path.reg, path.mask, path.name) for path in paths), None, None]
        if known is None or known.choice is not None:
            where[1] = None  # which that may be is to be seen
        found = (abi, name or f"syscall_{nr & 0xFFFFFFFF:#x}", known, where[0], where[1])
        if len(_kinds) < _KINDS_KEPT:
            _kinds[key] = found
    return found

"""The short way of attributes of ``trusted.*`` by path: see :mod:`proctor.performing.families.xattr`."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import deny, let_run_unsafe
from proctor.errors import MemoryUnreadable
from proctor.performing import lender, pins
from proctor.performing.entitled import numbers_of
from proctor.performing.lending import Lending, LendingWay, Loan, Terms
from proctor.performing.plans import Deed, Plan, Planning, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.families.xattr import Wanted
    from proctor.performing.performers import Performers
    from proctor.performing.steps import Reply

_RIGHT: Final = 1 << 21  # CAP_SYS_ADMIN
_F_GETFD: Final = 1
_LONGEST_PATH: Final = 4096  # PATH_MAX of include/uapi/linux/limits.h
_MOST: Final = 65536  # XATTR_LIST_MAX
#: The calls that name a path.
BY_PATH: Final = frozenset(
    link + verb + "xattr" for link in ("", "l") for verb in ("get", "set", "list", "remove")
)


class MarkWay(LendingWay):
    """That of one of these calls."""

    def __init__(
        self,
        performers: Performers,
        family: Any,
        name: str,
        begins: Callable[[Call], object] | None,
    ) -> None:
        """
        :param family: the module, which this one does not import."""
        super().__init__(performers, family, begins)
        self._xattr = family
        nofollow, self._verb = name[0] == "l" and name != "listxattr", _verb(name)
        plan = _listing if self._verb == "list" else _plan
        self._pins = partial(plan, pins.O_NOFOLLOW if nofollow else 0)

    def lending(self, call: Call, wish: Perform, standing: Standing) -> Lending | Verdict | None:
        """One that is performed, for whoever may be lent the right; what is the kernel's is left to it at once."""
        performers, known = self._performers, standing.kept
        who, own = known.key.who, performers.callers.own()
        options: Any = wish.options or self._xattr.DEFAULT
        if options.apart:
            return None
        wanted = self._plainly(call) or self._xattr.decoded(call, self._verb, 0)
        lists = self._verb == "list"
        stored = b"" if lists else options.stored(wanted.name, b"")
        if stored is None or who.namespace("user") == own.who.namespace("user"):
            return let_run_unsafe(self._xattr.KERNELS)
        path = call.args["path"]
        may = who.effective & own.who.permitted & _RIGHT and performers.owned(call, who, standing)
        if not (path and may) or len(stored) > self._xattr.LONGEST_NAME:
            return None
        whom = lender.whose(known.key, _RIGHT)
        pinning = Deed(self._pins, (), ((pins.AT_FDCWD, (path,)),))
        owned = True, *numbers_of(standing)

        def terms(plan: Plan) -> Terms:
            return Terms(plan.made.step - lists, 0, -1, b"", *owned)  # that a list was made

        def loan(_: object) -> Loan:
            if lists:
                made: Loan = self._xattr.listing(wanted, options, _RIGHT)
            else:
                made = self._xattr.loan(wanted, _RIGHT)
            return made

        return Lending(whom, pinning, loan, terms, partial(_then, self._pins))

    def _plainly(self, call: Call) -> Wanted | None:
        """As :func:`proctor.performing.families.xattr.decoded`, of a call of 64 bits with nothing wrong; None of others."""
        known, verb = call.signature, self._verb
        path, name, value, size, flags, _ = call.registers
        if verb == "list":
            value, size = name, value
            if known is None or known.word != 8 or not path:
                return None
            try:
                call.texts((("path", path, _LONGEST_PATH),), 0, 0)
            except MemoryUnreadable:
                return None
            listed: Wanted = self._xattr.Wanted(verb, b"", b"", size, value, 0)
            return listed
        size, flags = (0, 0) if verb == "remove" else (size, flags & 0xFFFFFFFF)
        if known is None or known.word != 8 or not (path and name) or size > self._xattr.MOST:
            return None
        if verb == "set" and flags & ~self._xattr.FLAGS:
            return None
        longest = self._xattr.LONGEST_NAME
        try:
            attribute, _, data = call.texts(
                (("name", name, longest), ("path", path, _LONGEST_PATH)),
                value,
                size if verb == "set" else 0,
            )
        except MemoryUnreadable:
            return None  # what is wrong first, and how much of a name is read, is seen there
        if not 0 < len(attribute) <= longest:
            return None
        made: Wanted = self._xattr.Wanted(
            verb, attribute, data, size, value, flags if verb == "set" else 0
        )
        return made


def _verb(name: str) -> str:
    return next(verb for verb in ("get", "set", "list", "remove") if verb in name)


def _then(plan: Callable[[tuple[bool, ...]], Plan], reply: Reply) -> Verdict | None:
    """Nothing was lent: since it leads nowhere, or to what the right is not lent upon."""
    failed = plan((True,)).errno(reply)  # what is absolute differs in where it starts alone
    return deny(failed) if failed else None


@cache
def _plan(bits: int, relative: tuple[bool, ...]) -> Plan:
    """Pin."""
    planning = Planning(Way(bits), relative=relative)
    ((pin, _),) = planning.walk()
    planning.steps.give(pin)
    return planning.freeze(planning.steps.call("fcntl", pin, _F_GETFD))  # it came so far


@cache
def _listing(bits: int, relative: tuple[bool, ...]) -> Plan:
    """Pin, and list what the caller sees, by the executor's own link to it."""
    planning = Planning(Way(bits), relative=relative)
    steps = planning.steps
    root = steps.bytes(b"/")
    ((pin, _),) = planning.walk()
    room, digits = steps.scratch(_MOST), steps.scratch(16)
    steps.give(pin)
    steps.put_text(digits, pin)
    steps.call("fchdir", planning.table)
    seen = steps.call("listxattr", digits, room, _MOST, bad=0)
    steps.want(room, seen)
    return planning.freeze(steps.call("chdir", root))  # the step after that

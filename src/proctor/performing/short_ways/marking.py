"""The short way of attributes of ``trusted.*`` by path: see :mod:`proctor.performing.families.xattr`."""

from __future__ import annotations

from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from proctor.call.credentials import USER
from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.errors import MemoryUnreadable
from proctor.performing.entitled import numbers_of
from proctor.performing.identities.lender import whose
from proctor.performing.paths import pins
from proctor.performing.short_ways.lending import Lending, LendingWay, Loan, Terms
from proctor.performing.short_ways.plans import ROOM, Plan, Planning, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.requests import Reply
    from proctor.performing.families.xattr import Wanted
    from proctor.performing.performers import Performers

_RIGHT: Final = 1 << 21  # CAP_SYS_ADMIN
_F_GETFD: Final = 1
_CWD: Final = (pins.AT_FDCWD,)
_DONE: Final = answer(0)
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
        self._then = partial(_then, self._pins)

    def lending(self, call: Call, wish: Perform, standing: Standing) -> Lending | Verdict | None:
        """One that is performed, for whoever may be lent the right; what is the kernel's is left to it at once."""
        performers, key = self._performers, standing.kept.key
        who, own = key.who, performers.callers.own().who
        xattr: Any = self._xattr
        options: Any = wish.options or xattr.DEFAULT
        if options.apart:
            return None
        plainly = self._plainly(call)
        wanted, path = plainly or (xattr.decoded(call, self._verb, 0), None)
        lists = self._verb == "list"
        stored = b"" if lists else options.stored(wanted.name, b"")
        if stored is None or who.namespaces[USER] == own.namespaces[USER]:
            return let_run_unsafe(xattr.KERNELS)
        if path is None:
            path = call.args["path"]
        if not (
            path
            and len(path) <= ROOM
            and who.effective & own.permitted & _RIGHT
            and len(stored) <= xattr.LONGEST_NAME
            and performers.owned(call, who, standing)
        ):
            return None
        relative = path[:1] != b"/"
        plan = self._pins((relative,))
        terms = _terms(plan.made.step - lists, *numbers_of(standing))  # that a list was made
        loan = self._listing(wanted, options) if lists else self._loan(wanted)
        return Lending(
            whose(key, _RIGHT), plan.request, plan.request.fill(path), _CWD if relative else (),
            1 + standing.kept.groups, loan, terms, self._then,
        )  # fmt: skip

    def _loan(self, wanted: Wanted) -> Loan:
        """What a lender is asked about what is pinned."""
        xattr = self._xattr
        acting, values = xattr.asking(wanted, False, _RIGHT)
        made = acting.made.step

        def told(reply: Reply, _first: bytes) -> Verdict:
            if not reply.results[made]:
                return _DONE
            said: Verdict = xattr.verdict_of(wanted, *xattr.result_of(acting, reply))
            return said

        return Loan(acting.request, acting.left, acting.request.fill(*values), True, told)

    def _listing(self, wanted: Wanted, options: Any) -> Loan:
        """The same, for a list; the caller's executor says first what the caller sees by itself."""
        xattr = self._xattr
        whole = wanted._replace(size=xattr.MOST)
        acting, values = xattr.asking(whole, False, _RIGHT)

        def told(reply: Reply, own: bytes) -> Verdict:
            found = xattr.result_of(acting, reply)
            said: Verdict = xattr.list_verdict(wanted, options, xattr.APART, own, *found)
            return said

        return Loan(acting.request, acting.left, acting.request.fill(*values), True, told)

    def _plainly(self, call: Call) -> tuple[Wanted, bytes] | None:
        """As :func:`proctor.performing.families.xattr.decoded`, of a call of 64 bits with nothing wrong, and its path; None
        of others."""
        known, verb = call.signature, self._verb
        path, name, value, size, flags, _ = call.registers
        if verb == "list":
            value, size = name, value
            if known is None or known.word != 8 or not path:
                return None
            try:
                named, _ = call.texts((("path", path, _LONGEST_PATH),), 0, 0)
            except MemoryUnreadable:
                return None
            listed: Wanted = self._xattr.Wanted(verb, b"", b"", size, value, 0)
            return listed, named
        size, flags = (0, 0) if verb == "remove" else (size, flags & 0xFFFFFFFF)
        if known is None or known.word != 8 or not (path and name) or size > self._xattr.MOST:
            return None
        if verb == "set" and flags & ~self._xattr.FLAGS:
            return None
        longest = self._xattr.LONGEST_NAME
        try:
            attribute, named, data = call.texts(
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
        return made, named


@lru_cache(64)
def _terms(step: int, users: bytes, groups: bytes) -> Terms:
    return Terms(step, 0, -1, b"", True, users, groups)


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

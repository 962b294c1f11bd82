"""A policy's rules after checking, and what they look at: one form that filter, handlers and
explanations share.

For each system call (and each architecture, where arguments stand elsewhere) a :class:`Rule` has its
conditions on registers, then those on the caller and on what the call's memory holds, then a ruling.
There is no other description of the policy that could drift away from this one.

A :class:`Look` is one call as rules see it.  Each thing is looked at once and kept, so that the rule
that decides, the reason it gives and the tip speak of the same.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from proctor.call.decode import sockaddr
from proctor.errors import CallerInvisible, CallGone, NotPermitted, NotResolved, Unsupported
from proctor.filter.conditions import ALWAYS, Alternatives, hold
from proctor.policy.addresses import Address
from proctor.policy.globs import Glob

if TYPE_CHECKING:
    from proctor.call.call import Call

#: What can be looked at behind an argument: the path it resolves to in the caller's view, the text
#: as it was passed, the socket address, or strings (argv), with a NUL between them.
What = Literal["path", "text", "address", "words"]

#: What reading memory fails with for reasons that the kernel would find as well.
_KERNELS_OWN: Final = frozenset((errno.EFAULT, errno.ENAMETOOLONG, errno.EINVAL, errno.E2BIG))


class Unknowable(Exception):
    """A condition cannot be decided.

    ``errno`` is what the kernel itself would answer for the same reason (EFAULT for a bad pointer),
    0 if the reason is ours: then the policy's ``on_error`` holds.
    """

    def __init__(self, errno: int, why: str) -> None:
        super().__init__(why)
        self.errno = errno
        self.why = why


class Unresolved(Unknowable):
    """A path cannot be followed by the monitor.  What it met is not for the caller, whose own way may
    end elsewhere: where a rule would have the call made, the making finds out."""


_UNSEEN: Final = object()


class Look:
    """One call as rules see it.

    :param call: real or fake (:mod:`proctor.testing`).
    :param pinned: paths by argument, of what is held already and will be acted on: they stand in the
        place of what the arguments resolve to.
    """

    __slots__ = ("_pinned", "_seen", "call")

    def __init__(self, call: Call, pinned: Mapping[str, bytes] | None = None) -> None:
        self.call = call
        self._pinned = pinned or {}
        self._seen: dict[tuple[str, str], Any] = {}

    def with_pinned(self, pinned: Mapping[str, bytes]) -> Look:
        """The same call, and what was seen of it, but with these paths."""
        other = Look(self.call, pinned)
        other._seen = self._seen
        return other

    def seen(self, argument: str, name: bytes | int | None) -> Look:
        """Itself, if where a path leads was found out already.

        :param name: what it leads to, an errno if it cannot be followed, None if nobody asked."""
        if isinstance(name, bytes):
            self._seen["path", argument] = name
        elif name is not None:
            self._seen["path", argument] = Unresolved(
                0, f"{argument} of {self.call.name}: {os.strerror(name)}"
            )
        return self

    def blind(self, kind: type[Look]) -> Look:
        """The same call, and what was seen of it, for whoever sees less."""
        other = kind(self.call)
        other._seen = self._seen
        return other

    def at(self, what: What, argument: str) -> Any:
        """What stands behind an argument: bytes, or an :class:`~proctor.policy.addresses.Address`;
        None for a NULL pointer that means nothing.

        :raises Unknowable: it cannot be told.
        :raises CallGone: the caller is gone.
        """
        if self._pinned and argument in self._pinned:
            if what == "path":
                return self._pinned[argument]
            if what == "address":
                return Address(sockaddr.AF_UNIX, path=self._pinned[argument])
        return self._once(what, argument)

    def named(self, argument: str) -> Any:
        """The socket address in an argument, wherever it leads.

        :raises Unknowable: it cannot be read."""
        return self._once("sockaddr", argument)

    def identity(self, which: str) -> int:
        """``uid`` or ``gid``: the caller's effective one, as the monitor's user namespace counts.

        :raises Unknowable: it cannot be told.
        """
        found: int = self._once("identity", which)
        return found

    def ancestors(self) -> tuple[bytes, ...]:
        """What the caller and those that it comes of run.

        :raises Unknowable: it cannot be told."""
        found: tuple[bytes, ...] = self._once("ancestors", "caller")
        return found

    def _once(self, what: str, argument: str) -> Any:
        key = (what, argument)
        found = self._seen.get(key, _UNSEEN)
        if found is _UNSEEN:
            try:
                found = self._seen[key] = _look(self.call, what, argument)
                return found
            except CallGone:
                raise
            except (CallerInvisible, NotPermitted, Unsupported) as error:
                found = Unknowable(0, str(error))
            except NotResolved as error:
                found = Unresolved(0, f"{argument} of {self.call.name}: {error.strerror}")
            except OSError as error:
                number = error.errno or 0
                why = f"{argument} of {self.call.name}: {error.strerror or error}"
                found = Unknowable(number if number in _KERNELS_OWN else 0, why)
            self._seen[key] = found
        if isinstance(found, Unknowable):
            raise found
        return found


def _look(call: Call, what: str, argument: str) -> Any:
    if what == "identity":
        return (call.caller.uids if argument == "uid" else call.caller.gids).effective
    if what == "ancestors":
        from proctor.call.ancestry import programs

        return programs(call.caller)
    if what == "path":
        return call.where(
            argument
        )  # binds nothing: what is pinned is judged anew (perform's allow)
    value = call.args[argument]
    if what in ("address", "sockaddr"):
        value = _of_messages(value) if _meant(call) in ("sendmsg", "sendmmsg") else value
        return value if value is None or what == "sockaddr" else _address(call, value)
    if what == "words":  # no vector, or an empty one, is one empty string (do_execveat_common)
        return b"\0".join(value or ())
    return value


def _meant(call: Call) -> str:
    """The name of a call, or of the one that socketcall stands for."""
    frame = call.frame if call.name == "socketcall" else None
    return call.name if frame is None else frame.signature.name


def _of_messages(value: Any) -> sockaddr.SocketAddress | None:
    """The address that sendmsg(2) and sendmmsg(2) have in the headers of messages.

    :raises Unknowable: messages go to several."""
    headers = value if not hasattr(value, "namelen") else (value,)
    addresses = {each.address for each in headers}
    if len(addresses) > 1:
        raise Unknowable(0, "messages to several addresses in one call")
    return addresses.pop() if addresses else None


def _address(call: Call, value: sockaddr.SocketAddress) -> Address:
    """A decoded address as patterns see it.

    The path of a socket file is resolved in the caller's view, so that a relative path or a symbolic
    link is no other name for it.
    """
    if isinstance(value, sockaddr.UnixAddress):
        if value.kind == "pathname":
            # bind(2) makes the name and does not follow a link there; the others follow.
            with call.caller.locate(value.path, follow=_meant(call) != "bind") as located:
                return Address(sockaddr.AF_UNIX, path=located.path)
        if value.kind == "abstract":
            return Address(sockaddr.AF_UNIX, abstract=value.path)
    if isinstance(value, (sockaddr.InetAddress, sockaddr.Inet6Address)):
        from ipaddress import ip_address

        return Address(value.family, ip_address(value.host).packed, value.port)
    if isinstance(value, sockaddr.RawAddress):
        # What it means that no family is given is for each call to say: connect(2) dissolves an
        # association (inet_dgram_connect and __inet_stream_connect of net/ipv4/af_inet.c, likewise
        # net/unix/af_unix.c and net/netlink/af_netlink.c), while bind(2) and sendto(2) of IPv4 take
        # the rest for an IPv4 address (__inet_bind of net/ipv4/af_inet.c, udp_sendmsg of
        # net/ipv4/udp.c; Linux 6.18), so rules on inet must see it.
        if value.family == 0 and _meant(call) != "connect" and len(value.data) >= 6:
            port = int.from_bytes(value.data[:2], "big")
            return Address(sockaddr.AF_INET, value.data[2:6], port)
        short = (sockaddr.AF_INET, sockaddr.AF_INET6, sockaddr.AF_UNIX)
        if value.family < 0 or value.family in short:
            raise Unknowable(
                errno.EINVAL, "the socket address is too short or too long for its family"
            )
    return Address(int(value.family))


# Conditions ---------------------------------------------------------------------------------------


class Pattern(Protocol):
    """A :class:`~proctor.policy.globs.Glob` or an
    :class:`~proctor.policy.addresses.AddressPattern`."""

    text: str

    def matches(self, seen: Any, /) -> bool: ...


class Memory:
    """What an argument leads to is matched by one of the patterns; NULL by no pattern but ``none``.

    :param key: as it was written in ``when``.
    :param argument: its name in the call's signature.
    """

    __slots__ = ("argument", "key", "patterns", "what")
    #: It looks at what the caller can still change (C110).
    reads_memory: Final = True

    def __init__(self, key: str, what: What, argument: str, patterns: tuple[Pattern, ...]) -> None:
        self.key = key
        self.what: What = what
        self.argument = argument
        self.patterns = patterns

    @property
    def looks_at_path(self) -> bool:
        """Whether where a path leads may decide."""
        named = any(getattr(each, "looks_at_path", False) for each in self.patterns)
        return self.what == "path" or (self.what == "address" and named)

    def programs(self) -> tuple[bytes, ...] | None:
        """The patterns for the native core (:meth:`proctor.policy.globs.Glob.program`); None where it
        is not a path that they are about, or it does not know them."""
        if self.what not in ("path", "text"):
            return None
        found = [each.program() if isinstance(each, Glob) else None for each in self.patterns]
        known = tuple(each for each in found if each is not None)
        return known if len(known) == len(found) else None

    def says_as_much_as(self, other: Memory) -> bool:
        """Whether the other one, perhaps under another key, holds where this one does."""
        mine, theirs = ({each.text for each in one.patterns} for one in (self, other))
        return (self.what, self.argument) == (other.what, other.argument) and mine <= theirs

    def holds(self, look: Look) -> bool:
        """:raises Unknowable: it cannot be decided."""
        seen = look.at(self.what, self.argument)
        if seen is not None:
            for pattern in self.patterns:
                if pattern.matches(seen):
                    return True
        return seen is None and any(getattr(each, "none", False) for each in self.patterns)


class Identity:
    """The caller's effective user and group are among those listed.

    A thread's credentials cannot change while it waits for our answer, so this is not a race.

    :param wanted: (``uid`` or ``gid``, numbers): all must hold.
    """

    __slots__ = ("key", "wanted")
    #: See :class:`Memory`.
    reads_memory: Final = False

    def __init__(self, key: str, wanted: tuple[tuple[str, frozenset[int]], ...]) -> None:
        self.key = key
        self.wanted = wanted

    def holds(self, look: Look) -> bool:
        """:raises Unknowable: it cannot be decided."""
        return all(look.identity(which) in numbers for which, numbers in self.wanted)


class Ancestry:
    """The caller runs one of these programs, or comes of a process that does.

    :param patterns: of the programs' paths as the kernel names them.
    """

    __slots__ = ("key", "patterns")
    #: Programs are executed, and processes die, also while one of them waits.
    reads_memory: Final = True

    def __init__(self, key: str, patterns: tuple[Pattern, ...]) -> None:
        self.key = key
        self.patterns = patterns

    def holds(self, look: Look) -> bool:
        """:raises Unknowable: it cannot be decided."""
        return any(pattern.matches(each) for each in look.ancestors() for pattern in self.patterns)


Condition = Memory | Identity | Ancestry


# Rules --------------------------------------------------------------------------------------------

DENY: Final = "deny"
RETURN: Final = "return"
PERFORM: Final = "perform"
ALLOW: Final = "allow"
KILL: Final = "kill"
KILL_CONTAINER: Final = "kill container"
FREEZE: Final = "freeze"
LOG: Final = "log"
ASK: Final = "ask"


def errno_name(number: int) -> str:
    """``EPERM`` for 1; the number itself where it has no name."""
    return errno.errorcode.get(number, str(number))


class Ruling(NamedTuple):
    """What happens to a call: ``kind`` is a verdict key of a policy file.

    ``value`` is the errno of ``deny`` or the value of ``return``; ``unsafe`` the reason given for
    letting the call run after looking at its memory (of ``ask``: if somebody says yes), empty if none
    was given.
    """

    kind: str
    value: int = 0
    unsafe: str = ""
    #: Of ``perform``: the family's, checked.  Of ``ask``: an :class:`~proctor.asking.question.Asking`.
    options: object = None

    @property
    def in_filter(self) -> bool:
        """Whether the kernel can carry it out alone, once registers have decided."""
        # SECCOMP_RET_ERRNO with data 0 makes the call return 0; no other value can be returned.
        return self.kind in (DENY, ALLOW, KILL, LOG) or (self.kind == RETURN and self.value == 0)

    @property
    def runs(self) -> bool:
        """Whether the kernel goes on to run the call with the caller's registers and memory."""
        return self.kind in (ALLOW, LOG)

    def may_run(self, call: str) -> bool:
        """:attr:`runs`, also for those that somebody is asked about: what cannot be performed runs
        after a yes."""
        if self.kind != ASK:
            return self.runs
        from proctor.performing import SUPPORTED

        return call not in SUPPORTED

    @property
    def refuses(self) -> bool:
        """Whether the call does not go through."""
        return self.kind in (DENY, KILL, KILL_CONTAINER, FREEZE)

    def __str__(self) -> str:
        if self.kind == DENY:
            return errno_name(self.value)
        if self.kind == RETURN:
            return f"return {self.value}"
        return f"{self.kind} (unsafe)" if self.unsafe else self.kind


class Clause(NamedTuple):
    """A rule's conditions for one system call of one architecture.

    ``registers`` come first; ``further`` are looked at in order only if those hold: conditions on
    the caller before those on memory, so that memory is read only where it matters.
    """

    registers: Alternatives
    further: tuple[Condition, ...] = ()

    @property
    def reads_memory(self) -> bool:
        """Whether deciding may need the caller's memory (or a path in it)."""
        return any(condition.reads_memory for condition in self.further)

    def holds(self, look: Look) -> bool:
        """Whether all conditions hold.

        :raises Unknowable: one cannot be decided.
        :raises Unresolved: one is about a path that cannot be followed, and all others hold."""
        if self.registers != ALWAYS and not hold(self.registers, look.call.registers):
            return False
        unresolved: Unresolved | None = None
        for condition in self.further:
            try:
                if not condition.holds(look):
                    return False
            except Unresolved as problem:
                unresolved = problem
        if unresolved is not None:
            raise unresolved
        return True


class Rule(NamedTuple):
    """One rule.  ``clauses`` is by (architecture, system call); ``position`` counts from 0."""

    position: int
    name: str
    clauses: Mapping[tuple[str, str], Clause]
    ruling: Ruling
    report: bool = False
    #: The conditions as they were written, by key. For explanations.
    when: Mapping[str, Any] = {}
    #: Not written but implied: by the rule of that position, or by the policy (at its end).
    implied: bool = False
    #: Seconds that deciding and performing may take; None: as the policy says at its top.
    deadline: float | None = None
    #: Seconds that its calls wait before it is carried out.
    delay: float = 0.0

    @property
    def performs(self) -> bool:
        """Whether the monitor makes its calls on the callers' behalf, perhaps after asking."""
        if self.ruling.kind == ASK:
            from proctor.performing import SUPPORTED

            return any(call in SUPPORTED for _, call in self.clauses)
        return self.ruling.kind == PERFORM

    def in_filter(self, clause: Clause) -> bool:
        """Whether the kernel decides this rule for calls of ``clause`` alone."""
        return not (clause.further or self.report or self.delay) and self.ruling.in_filter


class Reason(str):
    """Why a policy decided as it did, in one line, as its verdicts carry it: a string that knows its
    parts, for logs that want them.  Everything in it that comes from the target is escaped.

    >>> reason = Reason('rule "no rooms"', "no rooms").with_tip("[[rule]]\\nname = ...")
    >>> print(reason)
    rule "no rooms"; would be allowed by, before rule "no rooms": [[rule]] name = ...
    >>> reason.rule, reason.tip
    ('no rooms', '[[rule]]\\nname = ...')
    """

    __slots__ = ("change", "rule", "tip")

    #: Name of the rule that decided; empty for the default.
    rule: str
    #: For what was refused: a rule, as TOML, that before the one that decided (at the end, for the
    #: default) would let this very call through.
    tip: str
    #: The addition to an existing rule that would do as well, as a sentence; empty if there is none.
    change: str

    def __new__(cls, text: str, rule: str = "", tip: str = "", change: str = "") -> Reason:
        made = super().__new__(cls, text)
        made.rule, made.tip, made.change = rule, tip, change
        return made

    def with_tip(self, tip: str, change: str = "") -> Reason:
        """The same, followed by what would let the call through."""
        place = f'before rule "{self.rule}"' if self.rule else "as last rule"
        text = f"{self}; would be allowed by, {place}: {' '.join(tip.splitlines())}"
        return Reason(f"{text}; or: {change}" if change else text, self.rule, tip, change)


class Decision(NamedTuple):
    """What the rules say about one call.  ``rule`` is None where no rule took it."""

    rule: Rule | None
    ruling: Ruling
    #: Why, for logs: ``rule "NAME"``, ``no rule; default`` …
    because: Reason

    @classmethod
    def by(cls, rule: Rule) -> Decision:
        """What a rule decides."""
        unsafe = f": {rule.ruling.unsafe}" if rule.ruling.unsafe else ""
        return cls(rule, rule.ruling, Reason(f'rule "{rule.name}"{unsafe}', rule.name))

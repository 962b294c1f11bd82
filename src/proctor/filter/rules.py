"""What a user writes: rules, and the filter made of them.

Rules are tried in the order given, **the first that matches decides**; a call that no rule
matches gets the default.  Within a rule all conditions must hold; for "or", write two rules.

Architectures.  A filter is for one or several ABIs, by default the native one and its compat ABI
(x86_64 and i386; aarch64 and arm), and a rule's names apply to each by its own numbers.  Two
verdicts are always explicit: ``foreign`` for any architecture not listed, and ``x32`` for x32
calls unless ``"x32"`` is listed.  Number -1, which a tracer uses to skip a call, is never x32:
it gets the default like any number without a rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from proctor.errors import FilterError
from proctor.filter.actions import ALLOW, KILL_PROCESS, Action, checked, errno
from proctor.filter.conditions import Condition, Test, conditions_of, lower, possible
from proctor.given import one, several
from proctor.kernel import abi
from proctor.records import NamedTuple
from proctor.syscalls import architectures, multiplex, tables
from proctor.syscalls.architectures import ARCHITECTURES, canonical
from proctor.words import quoted

if TYPE_CHECKING:
    from proctor.filter.program import Program

#: ENOSYS, spelled out: x32 is not there, which is what a kernel without it says.
NO_X32 = errno(38)


class Rule(NamedTuple):
    """When a call named here fulfils every condition, the filter says ``action``.

    >>> str(proctor.Rule(("mknod", "mknodat"), proctor.actions.NOTIFY))
    'mknod, mknodat -> notify'

    :param names: calls (``"mknodat"``), groups (``"%file"``, ``"@mount"``) and raw numbers, which are
        of the filter's first architecture (or of each in ``arches``).  A name that only some of the
        filter's architectures have is used on those.
    :param action: one of :data:`proctor.actions`.
    :param conditions: on registers; all must hold.
    :param label: names the rule to people.
    :param arches: restricts it to some of the filter's ABIs.

    What cannot be (an unknown name, a condition that never holds) is said by the :class:`Filter`.
    """

    names: Sequence[str | int]
    action: Action
    conditions: Sequence[Condition] = ()
    label: str = ""
    arches: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{', '.join(str(name) for name in self.names)} -> {self.action}"
        if self.conditions:
            text += " if " + " and ".join(str(condition) for condition in self.conditions)
        return text


class Clause(NamedTuple):
    """If every test holds, ``action``; ``rule`` is the index of the rule it came from."""

    tests: tuple[Test, ...]
    action: Action
    rule: int


class Decision(NamedTuple):
    """What a filter says of one call, and which rule made it say so."""

    action: Action
    #: Index into ``Filter.rules``; None when a default decided.
    rule_index: int | None
    rule: Rule | None
    #: One sentence for people.
    reason: str

    @property
    def label(self) -> str:
        """The deciding rule's label; empty when a default decided."""
        return self.rule.label if self.rule is not None else ""


class Filter:
    """Rules, a default, and what happens to other ABIs.  Immutable.

    ::

        rule = proctor.Rule(("mkdir", "mkdirat"), proctor.actions.errno(errno.EROFS))
        program = proctor.Filter([rule]).compile().code
        with proctor.launch(["mkdir", "x"], program=program, fds={0: 0}) as target:
            assert target.wait(None) == 1

    :param rules: tried in order, the first match decides.
    :param default: for calls no rule matches.
    :param arches: ABIs the rules are for (any name :func:`canonical` takes); the first
        is the one raw numbers belong to.  None: the native ABI and its compat ABI.
    :param foreign: for calls of every other architecture.
    :param x32: for x32 calls, unless ``"x32"`` is among ``arches``.
    :param strict: refuse a rule that can never decide because earlier ones always do, and
        differently.  (One that could only repeat an earlier action is harmless.)
    :raises FilterError: an unknown name, an impossible condition, a rule that can never decide.
    """

    __slots__ = ("_bodies", "arches", "default", "foreign", "rules", "strict", "x32")

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        default: Action = ALLOW,
        arches: Sequence[str] | None = None,
        foreign: Action = KILL_PROCESS,
        x32: Action = NO_X32,
        *,
        strict: bool = True,
    ) -> None:
        self.rules: tuple[Rule, ...] = several("rules", rules, "rules")
        self.default = checked(default)
        self.foreign = checked(foreign)
        self.x32 = checked(x32)
        self.strict = strict
        family = ARCHITECTURES[architectures.native()].family
        wanted = family if arches is None else several("arches", arches, "names of architectures")
        self.arches: tuple[str, ...] = tuple(dict.fromkeys(map(canonical, wanted)))
        if not self.arches:
            raise FilterError("a filter is for at least one architecture; none was given")
        self._bodies = _Resolver(self).bodies()

    def bodies(self) -> dict[str, dict[int, list[Clause]]]:
        """For each ABI, number to the clauses that judge it, in order.  Do not change it."""
        return self._bodies

    def compile(self) -> Program:
        """The filter as a program for the kernel.

        :raises FilterError: more than 4096 instructions.
        """
        from proctor.filter.compile import assemble
        from proctor.filter.program import Program

        return Program(assemble(self), self)

    def decide(self, nr: int, arch: int, args: Sequence[int] = (0,) * 6) -> Decision:
        """What the rules say of one call, read straight from them.

        ``arch`` is the audit number; ``nr`` and ``args`` are registers.  This is the plain
        meaning of a filter: it shares no step with the compiler but the names' numbers.
        """
        abi_name = architectures.arch_of(arch, nr)
        if abi_name not in self.arches:
            if abi_name == "x32" and "x86_64" in self.arches:
                return Decision(self.x32, None, None, f"x32 calls get {self.x32}")
            return Decision(
                self.foreign, None, None, f"calls of {abi_name}, a foreign ABI, get {self.foreign}"
            )
        name = tables.name(nr, abi_name)
        shown = name or f"call {nr}"
        for index, rule in enumerate(self.rules):
            if self._matches(rule, name, nr & 0xFFFFFFFF, abi_name, args):
                title = f" ({rule.label})" if rule.label else ""
                return Decision(rule.action, index, rule, f"rule {index}{title}: {rule}")
        return Decision(self.default, None, None, f"no rule matches {shown}: {self.default}")

    def _matches(
        self, rule: Rule, name: str | None, nr: int, arch: str, args: Sequence[int]
    ) -> bool:
        if rule.arches and arch not in map(canonical, rule.arches):
            return False
        named = {call for call, _ in expand(rule.names) if isinstance(call, str)}
        raw = {call & 0xFFFFFFFF for call in rule.names if isinstance(call, int)}
        if name in named or (nr in raw and (rule.arches or _abi_of_raw(nr, self.arches) == arch)):
            for condition in rule.conditions:
                try:
                    index, bits = locate(condition.arg, name, arch)
                except FilterError:
                    return False  # a member of a group, without that argument
                if not condition.holds(args[index], bits):
                    return False
            return True
        if rule.conditions:
            return False
        inner = [multiplex.member(call, arch) for call in named if name in multiplex.MASKS]
        return any(m and m.through == name and args[0] & m.mask == m.number for m in inner)

    def before(self, rules: Iterable[Rule]) -> Filter:
        """A filter with ``rules`` tried before this one's: a profile as a base."""
        return Filter(
            (*rules, *self.rules),
            self.default,
            self.arches,
            self.foreign,
            self.x32,
            strict=self.strict,
        )

    def __repr__(self) -> str:
        return (
            f"Filter({len(self.rules)} rules, default={self.default}, "
            f"arches={'/'.join(self.arches)}, foreign={self.foreign}, x32={self.x32})"
        )


def expand(names: Iterable[str | int]) -> list[tuple[str | int, bool]]:
    """Names with groups replaced by their members; True marks a member of a group."""
    if isinstance(names, str):
        raise FilterError(f"a rule's names are a tuple: write ({names!r},)")
    from proctor.syscalls import groups

    result: list[tuple[str | int, bool]] = []
    for name in several("names", names, "names of system calls"):
        if isinstance(name, str) and name[:1] in ("%", "@"):
            result += [(member, True) for member in sorted(groups.members(name))]
        else:
            result.append((name, False))
    return result


def locate(arg: int | str, call: str | None, arch: str) -> tuple[int, int]:
    """The register of an argument, and how many of its bits the kernel uses.

    :raises FilterError: ``call`` has no argument of that name.
    """
    if isinstance(arg, int):
        return arg, ARCHITECTURES[arch].bits
    from proctor.syscalls import registers as arguments

    return arguments.locate(arg, call, arch)


def multiplexed(inner: multiplex.Member) -> Test:
    """The test that picks a call out of those made through another one."""
    return Test(0, False, inner.number, inner.mask, False)


def narrow_tests(rule: Rule) -> tuple[Test, ...] | None:
    """The tests of conditions by index where registers have 32 bits: the kernel ignores the upper
    half that a 64-bit process making a 32-bit call can fill at will.  None: never true.

    What does not fit in 32 bits is decided here, since the same rule may make sense in 64.
    """
    tests = []
    for condition in rule.conditions:
        assert isinstance(condition.arg, int)
        mask = condition.mask & 0xFFFFFFFF
        try:
            tests.append(lower(condition._replace(mask=mask), condition.arg, 32))
        except FilterError:
            if not condition.holds(0, 32):
                return None
    found = tuple(dict.fromkeys(tests))
    return found if possible(found) else None


def _abi_of_raw(nr: int, arches: tuple[str, ...]) -> str:
    """The ABI a raw number in a rule belongs to."""
    first = arches[0]
    if first in ("x86_64", "x32"):
        return architectures.arch_of(abi.AUDIT_ARCH_X86_64, nr)
    return first


class _Resolver:
    """Turns rules by name into clauses by number."""

    def __init__(self, source: Filter) -> None:
        self._filter = source
        self._bodies: dict[str, dict[int, list[Clause]]] = {arch: {} for arch in source.arches}

    def bodies(self) -> dict[str, dict[int, list[Clause]]]:
        """Resolve every rule, in order."""
        for index, rule in enumerate(self._filter.rules):
            try:
                self._add(index, rule)
            except FilterError as error:
                title = f" ({rule.label})" if rule.label else ""
                raise FilterError(f"rule {index}{title}: {error}") from None
        return self._bodies

    def _add(self, index: int, rule: Rule) -> None:
        one("a rule", rule, Rule, "proctor.Rule()")
        checked(rule.action)
        conditions_of(rule.conditions)
        arches = self._filter.arches
        if rule.arches:
            wanted = {canonical(arch) for arch in rule.arches}
            arches = tuple(arch for arch in arches if arch in wanted)
        names = expand(rule.names)
        if not names:
            raise FilterError("names no system call")
        if not arches:
            return  # made for other machines
        raw = all(not isinstance(condition.arg, str) for condition in rule.conditions)
        tests: tuple[Test, ...] | None = self._tests(rule, None, arches[0]) if raw else ()
        placed = found = 0
        overruled: Clause | None = None
        unknown: list[str] = []
        unusable: FilterError | None = None
        for name, from_group in names:
            exists = False
            for arch, nr in self._numbers(name, arches, bool(rule.arches)):
                exists = True
                found += 1
                if raw and ARCHITECTURES[arch].bits == 32 and rule.conditions:
                    tests = narrow_tests(rule)
                elif raw:
                    tests = self._tests(rule, None, arch) if rule.conditions else ()
                else:
                    try:
                        tests = self._tests(rule, name, arch)
                    except FilterError as error:
                        if not from_group:
                            raise
                        unusable = error
                        continue
                if tests is None:
                    continue  # cannot be true in 32 bits
                clause = Clause(tests, rule.action, index)
                earlier = self._place(self._bodies[arch].setdefault(nr, []), clause)
                if earlier is None:
                    placed += 1
                elif overruled is None and earlier.action != rule.action:
                    overruled = earlier
            for arch in () if rule.conditions else arches:
                inner = multiplex.member(name, arch)
                if inner is not None:
                    # Some of the members have no number of their own there.
                    exists = True
                    found += 1
                    body = self._bodies[arch].setdefault(tables.numbers(arch)[inner.through], [])
                    clause = Clause((multiplexed(inner),), rule.action, index)
                    placed += self._place(body, clause) is None
            if not exists and not from_group:
                unknown.append(str(name))
        for name_ in unknown:
            self._check_known(name_, arches, found)
        if unusable is not None and not placed and overruled is None:
            raise unusable
        if self._filter.strict and not placed and overruled is not None:
            raise FilterError(
                f"{rule} can never decide: rule {overruled.rule} comes first and says "
                f"{overruled.action}; put the more particular rule first or remove one"
            )

    def _numbers(
        self, name: str | int, arches: tuple[str, ...], everywhere: bool
    ) -> list[tuple[str, int]]:
        """Where a name exists: (ABI, number) pairs."""
        if isinstance(name, str):
            return [
                (arch, table[name]) for arch in arches if name in (table := tables.numbers(arch))
            ]
        one("a name of a system call", name, int, "a text or a number")
        if not -(1 << 31) <= name < 1 << 32:
            raise FilterError(f"call number {name} does not fit in 32 bits")
        nr = name & 0xFFFFFFFF
        if everywhere:
            return [(arch, nr) for arch in arches]
        arch = _abi_of_raw(nr, arches)
        if arch not in arches:
            raise FilterError(f"{name} is a number of {arch}, which this filter is not for")
        return [(arch, nr)]

    @staticmethod
    def _check_known(name: str, arches: tuple[str, ...], found: int) -> None:
        """Refuse a name that exists nowhere, or a rule that has nothing else here."""
        if not name:
            raise FilterError("an empty system call name")
        if not tables.exists(name):
            raise FilterError(f"there is no system call {quoted(name)}{tables.did_you_mean(name)}")
        if not found:
            raise FilterError(f"{name!r} exists, but not on {', '.join(arches)}")

    @staticmethod
    def _tests(rule: Rule, call: str | int | None, arch: str) -> tuple[Test, ...]:
        if not rule.conditions:
            return ()
        name = call if isinstance(call, str) else None
        tests = tuple(
            dict.fromkeys(
                lower(condition, *locate(condition.arg, name, arch))
                for condition in rule.conditions
            )
        )
        if not possible(tests):
            raise FilterError(
                "conditions that exclude each other: "
                + " and ".join(str(condition) for condition in rule.conditions)
            )
        return tests

    @staticmethod
    def _place(body: list[Clause], clause: Clause) -> Clause | None:
        """Add a clause; returns the earlier one that leaves nothing for it to decide, if any."""
        for earlier in body:
            if not earlier.tests or earlier.tests == clause.tests:
                return earlier
        body.append(clause)
        return None

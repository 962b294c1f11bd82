"""A program: what the kernel gets, and what people ask about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proctor.filter.actions import Action, decoded
from proctor.kernel import abi
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.filter.interpreter import Machine
    from proctor.filter.rules import Filter, Rule

_NO_ARGS = (0, 0, 0, 0, 0, 0)


class Explanation(NamedTuple):
    """Which rule decided one call."""

    #: What the program returns for it.
    action: Action
    #: Index of the rule in the filter's rules; None when a default decided, or when the program
    #: was not compiled from rules.
    rule_index: int | None
    rule: Rule | None
    #: One sentence for people.
    reason: str
    #: Index of the instruction that returned.
    instruction: int

    @property
    def label(self) -> str:
        """The deciding rule's label; empty if it has none or a default decided."""
        return self.rule.label if self.rule is not None else ""


class Program:
    """Packed ``struct sock_filter`` instructions, and the filter they were compiled from.

    :param code: in this machine's byte order, as seccomp(2) takes it.
    :param source: the filter, if there is one; :meth:`explain` then names rules.
    """

    __slots__ = ("_machine", "code", "source")

    def __init__(self, code: bytes, source: Filter | None = None) -> None:
        self.code = bytes(code)
        self.source = source
        self._machine: Machine | None = None

    @classmethod
    def parse(cls, text: str) -> Program:
        """The program written in ``text``, in :meth:`disassemble`'s language.

        :raises FilterError: a line that is no instruction; the message has its number.
        """
        from proctor.filter import text as language

        return cls(language.parse(text))

    def disassemble(self, *, comments: bool = True) -> str:
        """One line per instruction; :meth:`parse` gives exactly this program back.

        With ``comments``, system call, architecture and errno names stand behind a ``#``.
        """
        from proctor.filter import text as language

        return language.disassemble(self.code, comments=comments)

    def check(self) -> None:
        """Pass if the kernel would take the program.

        :raises FilterError: it would not, and why.
        """
        from proctor.filter.check import check

        check(self.code)

    def run(self, nr: int, arch: int, args: Sequence[int] = _NO_ARGS, ip: int = 0) -> int:
        """The 32 bits the program returns for one call, by the interpreter.

        ``arch`` is the audit number; ``nr`` may be signed; ``args`` are registers.

        :raises FilterError: the kernel would refuse the program.
        """
        return self.machine.run(nr, arch, args, ip)

    @property
    def machine(self) -> Machine:
        """The interpreter's decoded form, made once."""
        if self._machine is None:
            from proctor.filter.interpreter import Machine

            self._machine = Machine(self.code)
        return self._machine

    def explain(self, nr: int, arch: int, args: Sequence[int] = _NO_ARGS) -> Explanation:
        """Which rule decides a call, read from the rules and checked against the program.

        :raises AssertionError: rules and program disagree, which is a bug of the compiler.
        """
        from proctor.filter.interpreter import words

        value, instruction = self.machine.trace(words(nr, arch, args))
        action = decoded(value)
        if self.source is None:
            return Explanation(
                action, None, None, f"instruction {instruction} returns {action}", instruction
            )
        decision = self.source.decide(nr, arch, args)
        if decision.action != action:
            raise AssertionError(
                f"the rules say {decision.action} for call {nr} of {arch:#x} with {tuple(args)} "
                f"({decision.reason}) but the program returns {action} at instruction "
                f"{instruction}: please report this bug with the rules"
            )
        return Explanation(action, decision.rule_index, decision.rule, decision.reason, instruction)

    def constant_allow(self, nr: int, arch: int) -> bool:
        """Whether the kernel can see that ``nr`` is always allowed, and so never run this."""
        from proctor.filter.check import constant_allow

        return constant_allow(self.code, arch, nr)

    def __len__(self) -> int:
        """Instructions."""
        return len(self.code) // abi.SOCK_FILTER.size

    def __eq__(self, other: object) -> bool:
        return self.code == other.code if isinstance(other, Program) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.code)

    def __repr__(self) -> str:
        return f"Program({len(self)} instructions)"

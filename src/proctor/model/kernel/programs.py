"""cBPF programs as the kernel holds them: checked, run, measured, and proven constant.

Running and checking is :mod:`proctor.filter`'s; what is here is the rest of what the kernel does
with a program: how long it becomes when translated to eBPF (which is what the chain limit
counts, C013) and for which call numbers number and architecture alone decide.

Sources: ``net/core/filter.c`` 6.12 ``bpf_convert_filter``; ``kernel/seccomp.c`` 6.12
``seccomp_is_const_allow``.
"""

from __future__ import annotations

from functools import lru_cache

from proctor.errors import FilterError
from proctor.filter.interpreter import Machine
from proctor.kernel.abi import SOCK_FILTER

Instruction = tuple[int, int, int, int]
"""(code, jt, jf, k)."""
Arguments = tuple[int, int, int, int, int, int]

_LD_W_ABS = 0x20
_RET_K = 0x06
_JA = 0x05
_AND_K = 0x54
_JEQ_K, _JGT_K, _JGE_K, _JSET_K = 0x15, 0x25, 0x35, 0x45
_MASK32 = 0xFFFFFFFF


class Code:
    """One program (``struct bpf_prog`` with its ``orig_prog``)."""

    __slots__ = ("_constant", "_machine", "instructions", "runs", "translated")

    def __init__(self, code: bytes) -> None:
        self._machine = Machine(code)
        self.instructions: tuple[Instruction, ...] = tuple(SOCK_FILTER.iter_unpack(code))
        #: Length after translation to eBPF.
        self.translated = translated_length(self.instructions)
        #: How often it was run: calls that the allow bitmap decides do not count.
        self.runs = 0
        #: arch << 32 | nr to the verdict that holds whatever the arguments are; None: none does.
        self._constant: dict[int, int | None] = {}

    def constant(self, nr: int, arch: int) -> int | None:
        """The verdict for ``nr`` and ``arch`` whatever the arguments; None if they matter."""
        key = arch << 32 | (nr & _MASK32)
        try:
            return self._constant[key]
        except KeyError:
            verdict = None
            if is_constant(self.instructions, nr, arch):
                verdict = self._machine.run(nr, arch)
            if len(self._constant) < 4096:
                self._constant[key] = verdict
            return verdict

    def run(self, nr: int, arch: int, args: Arguments, ip: int) -> int:
        """The program's 32-bit verdict."""
        self.runs += 1
        verdict = self.constant(nr, arch)
        if verdict is None:
            verdict = self._machine.run(nr, arch, args, ip)
        return verdict


@lru_cache(maxsize=1024)
def load(code: bytes) -> Code | None:
    """The program, or None if the kernel would refuse it (EINVAL)."""
    try:
        return Code(code)
    except FilterError:
        return None


def translated_length(instructions: tuple[Instruction, ...]) -> int:
    """Instructions of the eBPF program that ``bpf_convert_filter`` makes (x86-64).

    Source: ``net/core/filter.c`` 6.12; held against C013: one RET is 5, 4096 RETs fit 3 times.
    """
    length = 3  # A = 0; X = 0; CTX = ARG1
    for code, jt, jf, k in instructions:
        kind, operation, source = code & 0x07, code & 0xF0, code & 0x08
        if kind == 0x05 and operation != 0x00:
            negative = source == 0 and k >= 1 << 31
            inverts = jt == 0 and operation in (0x10, 0x20, 0x30)
            length += (1 if negative else 0) + (1 if jf == 0 or inverts else 2)
        elif kind == 0x06:
            length += 2 if code == _RET_K else 1
        elif kind == 0x04 and operation == 0x30 and source:
            length += 5  # X == 0 returns 0
        else:
            length += 1
    return length


def is_constant(instructions: tuple[Instruction, ...], nr: int, arch: int) -> bool:
    """Whether number and architecture alone lead to a constant RET.

    Source: ``kernel/seccomp.c`` 6.12 ``seccomp_is_const_allow``, which then asks whether that
    constant is ALLOW.
    """
    accumulator = 0
    at = 0
    while at < len(instructions):
        code, jt, jf, k = instructions[at]
        at += 1
        if code == _LD_W_ABS and k in (0, 4):
            accumulator = nr & _MASK32 if k == 0 else arch
        elif code == _RET_K:
            return True
        elif code == _JA:
            at += k
        elif code == _JEQ_K:
            at += jt if accumulator == k else jf
        elif code == _JGE_K:
            at += jt if accumulator >= k else jf
        elif code == _JGT_K:
            at += jt if accumulator > k else jf
        elif code == _JSET_K:
            at += jt if accumulator & k else jf
        elif code == _AND_K:
            accumulator &= k
        else:
            return False
    return False

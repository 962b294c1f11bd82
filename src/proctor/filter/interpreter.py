"""A classic BPF interpreter that does what the kernel does with a seccomp filter.

It is the compiler's oracle, the model's filter engine and what "which rule hit" is checked
against.  The facts it follows (``bpf_convert_filter`` in net/core/filter.c,
``seccomp_check_filter`` in kernel/seccomp.c):

* A and X are 32 bits, unsigned, and zero at the start; scratch memory is 16 words, which the
  checker proves written before they are read.
* There are no 64-bit loads and no backward jumps, so a program ends after at most as many steps
  as it has instructions.
* LEN is the constant 64, the size of ``struct seccomp_data``.
* Division by an X of zero ends the program with 0, which is KILL_THREAD (C026).
* Shifts by X use its low five bits; shifts by a constant of 32 or more are refused beforehand.
* 64-bit fields are in the byte order of the architecture in the ``arch`` word.
"""

from __future__ import annotations

from collections.abc import Sequence

from proctor.filter import check as _check
from proctor.filter import opcodes as op
from proctor.kernel import abi

_M32 = 0xFFFFFFFF
#: __AUDIT_ARCH_LE: the architecture is little-endian.
_LITTLE_ENDIAN = 0x40000000

NO_ARGS = (0, 0, 0, 0, 0, 0)


class Machine:
    """A program, decoded once, to be run often.

    :param code: packed ``struct sock_filter`` in this machine's byte order.
    :raises FilterError: the kernel would refuse the program.
    """

    __slots__ = ("_code",)

    def __init__(self, code: bytes) -> None:
        _check.check(code)
        self._code = list(abi.SOCK_FILTER.iter_unpack(code))

    def run(self, nr: int, arch: int, args: Sequence[int] = NO_ARGS, ip: int = 0) -> int:
        """The program's 32-bit result for one call.

        ``nr`` may be signed; ``args`` are up to six unsigned (or negative) 64-bit registers.
        """
        return self.trace(words(nr, arch, args, ip))[0]

    def trace(self, data: Sequence[int]) -> tuple[int, int]:
        """Run on the sixteen words of a ``struct seccomp_data``.

        Returns the result and the index of the instruction that ended the program.
        """
        code = self._code
        a = x = pc = 0
        memory = [0] * 16
        while True:
            opcode, jt, jf, k = code[pc]
            pc += 1
            # The order is that of frequency in real filters.
            if opcode == op.JEQ_K:
                pc += jt if a == k else jf
            elif opcode == op.JGE_K:
                pc += jt if a >= k else jf
            elif opcode == op.LD_ABS:
                a = data[k >> 2]
            elif opcode == op.RET_K:
                return k, pc - 1
            elif opcode == op.JA:
                pc += k
            elif opcode == op.JGT_K:
                pc += jt if a > k else jf
            elif opcode == op.JSET_K:
                pc += jt if a & k else jf
            elif opcode == op.AND_K:
                a &= k
            elif opcode == op.RET_A:
                return a, pc - 1
            elif opcode == op.JEQ_X:
                pc += jt if a == x else jf
            elif opcode == op.JGE_X:
                pc += jt if a >= x else jf
            elif opcode == op.JGT_X:
                pc += jt if a > x else jf
            elif opcode == op.JSET_X:
                pc += jt if a & x else jf
            elif opcode == op.LD_IMM:
                a = k
            elif opcode == op.LDX_IMM:
                x = k
            elif opcode == op.LD_LEN:
                a = 64
            elif opcode == op.LDX_LEN:
                x = 64
            elif opcode == op.LD_MEM:
                a = memory[k]
            elif opcode == op.LDX_MEM:
                x = memory[k]
            elif opcode == op.ST:
                memory[k] = a
            elif opcode == op.STX:
                memory[k] = x
            elif opcode == op.TAX:
                x = a
            elif opcode == op.TXA:
                a = x
            elif opcode == op.NEG:
                a = -a & _M32
            elif opcode & op.SRC_X and not x and opcode & 0xF0 == op.DIV:
                return 0, pc - 1
            else:
                a = _alu(opcode & 0xF0, a, x if opcode & op.SRC_X else k)


def _alu(operation: int, a: int, b: int) -> int:
    if operation == op.AND:
        return a & b
    if operation == op.OR:
        return a | b
    if operation == op.XOR:
        return a ^ b
    if operation == op.ADD:
        return (a + b) & _M32
    if operation == op.SUB:
        return (a - b) & _M32
    if operation == op.MUL:
        return (a * b) & _M32
    if operation == op.DIV:
        return a // b
    if operation == op.LSH:
        return (a << (b & 31)) & _M32
    return a >> (b & 31)


def words(nr: int, arch: int, args: Sequence[int] = NO_ARGS, ip: int = 0) -> list[int]:
    """The sixteen 32-bit words a program can load, for one call."""
    result = [nr & _M32, arch & _M32]
    little = arch & _LITTLE_ENDIAN
    for value in (ip, *args):
        low, high = value & _M32, value >> 32 & _M32
        result += (low, high) if little else (high, low)
    result += (0,) * (16 - len(result))
    return result


def run(code: bytes, nr: int, arch: int, ip: int = 0, args: Sequence[int] = NO_ARGS) -> int:
    """The 32-bit result of ``code`` for one call.  To run one program often, keep a
    :class:`Machine`.

    :raises FilterError: the kernel would refuse the program.
    """
    return Machine(code).run(nr, arch, args, ip)

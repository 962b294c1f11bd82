"""The classic BPF instructions seccomp accepts, and those it is asked about.

Sources: include/uapi/linux/bpf_common.h, include/uapi/linux/filter.h.
"""

from __future__ import annotations

from typing import Final

# Loads: the accumulator A, the index register X.
LD_ABS: Final = 0x20  # A = word at k of struct seccomp_data
LD_LEN: Final = 0x80
LD_IMM: Final = 0x00
LD_MEM: Final = 0x60
LDX_LEN: Final = 0x81
LDX_IMM: Final = 0x01
LDX_MEM: Final = 0x61
ST: Final = 0x02
STX: Final = 0x03
TAX: Final = 0x07
TXA: Final = 0x87

# Jumps; pc += 1 + jt or jf, never backward.
JA: Final = 0x05
JEQ_K: Final = 0x15
JGT_K: Final = 0x25
JGE_K: Final = 0x35
JSET_K: Final = 0x45
JEQ_X: Final = 0x1D
JGT_X: Final = 0x2D
JGE_X: Final = 0x3D
JSET_X: Final = 0x4D

RET_K: Final = 0x06
RET_A: Final = 0x16

# Arithmetic: class 4, operation in the high nibble, bit 3 says X instead of k.
ALU: Final = 0x04
SRC_X: Final = 0x08
ADD: Final = 0x00
SUB: Final = 0x10
MUL: Final = 0x20
DIV: Final = 0x30
OR: Final = 0x40
AND: Final = 0x50
LSH: Final = 0x60
RSH: Final = 0x70
NEG: Final = 0x84
MOD: Final = 0x90
XOR: Final = 0xA0
AND_K: Final = ALU | AND

CONDITIONAL: Final = frozenset({JEQ_K, JGT_K, JGE_K, JSET_K, JEQ_X, JGT_X, JGE_X, JSET_X})

_BINARY: Final = (ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, XOR)

#: What seccomp_check_filter() lets through (kernel/seccomp.c).
SECCOMP: Final = (
    frozenset(
        {LD_ABS, LD_LEN, LD_IMM, LD_MEM, LDX_LEN, LDX_IMM, LDX_MEM, ST, STX, TAX, TXA}
        | {JA, RET_K, RET_A, NEG}
        | {ALU | operation | source for operation in _BINARY for source in (0, SRC_X)}
    )
    | CONDITIONAL
)

#: What bpf_check_classic() lets through (net/core/filter.c) beyond that: MOD, byte and half
#: word loads, packet-relative loads.
CLASSIC_ONLY: Final = frozenset(
    {ALU | MOD, ALU | MOD | SRC_X}
    | {0x28, 0x30}  # LDH, LDB absolute
    | {0x40, 0x48, 0x50}  # LD, LDH, LDB indirect
    | {0xB1}  # LDX MSH
)

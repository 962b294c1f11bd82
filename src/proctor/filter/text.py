"""Programs as text, for people: disassembler and assembler.

One instruction a line, after its number::

      0: A = arch
      1: if A == 0xc000003e goto 2 else 9    # x86_64
      2: A = nr
      3: if A == 0x85 goto 4 else 8          # mknod
      4: A = args[1].low
      5: A &= 0xf000
      6: if A == 0x2000 goto 7 else 8
      7: return 0x7fc00000                   # notify
      8: return 0x7fff0000                   # allow

``low`` and ``high`` are the halves at offsets +0 and +4: that is what they mean on little-endian
machines.  Other words of the instruction set: ``X = A``, ``M[3] = A``, ``A += X``, ``A = -A``,
``A = len``, ``goto 7``, ``return A``.  Whatever has no such form (a reserved field that is not
zero, an instruction the kernel does not know) is written ``raw CODE JT JF K``, so that any
sequence of instructions survives the round trip.  Numbers are decimal or hexadecimal; ``#``
starts a comment; empty lines are skipped; line numbers must count up from 0.
"""

from __future__ import annotations

import errno as _errno
import re
import struct
from typing import Final

from proctor.errors import FilterError
from proctor.filter import opcodes as op
from proctor.filter.actions import decoded
from proctor.kernel import abi
from proctor.syscalls import architectures, tables

_FIELDS: Final[dict[str, int]] = {
    "nr": 0,
    "arch": 4,
    "ip.low": 8,
    "ip.high": 12,
    **{
        f"args[{i}].{half}": 16 + 8 * i + 4 * h
        for i in range(6)
        for h, half in enumerate(("low", "high"))
    },
}
_FIELD_AT: Final = {offset: field for field, offset in _FIELDS.items()}

_ALU: Final[dict[str, int]] = {
    "+": op.ADD,
    "-": op.SUB,
    "*": op.MUL,
    "/": op.DIV,
    "%": op.MOD,
    "&": op.AND,
    "|": op.OR,
    "^": op.XOR,
    "<<": op.LSH,
    ">>": op.RSH,
}
_ALU_SIGN: Final = {operation: sign for sign, operation in _ALU.items()}

_JUMP: Final[dict[str, int]] = {"==": op.JEQ_K, ">": op.JGT_K, ">=": op.JGE_K, "&": op.JSET_K}
_JUMP_SIGN: Final = {jump: sign for sign, jump in _JUMP.items()}

_PLAIN: Final[dict[str, int]] = {
    "A = len": op.LD_LEN,
    "X = len": op.LDX_LEN,
    "X = A": op.TAX,
    "A = X": op.TXA,
    "A = -A": op.NEG,
    "return A": op.RET_A,
}
_PLAIN_TEXT: Final = {opcode: text for text, opcode in _PLAIN.items()}

_Instruction = tuple[int, int, int, int]


def disassemble(code: bytes, *, comments: bool = True) -> str:
    """The text of a program; it need not be one the kernel would take."""
    if len(code) % abi.SOCK_FILTER.size:
        raise FilterError(f"{len(code)} bytes are not a whole number of instructions")
    program: list[_Instruction] = list(abi.SOCK_FILTER.iter_unpack(code))
    notes = _notes(program) if comments else [""] * len(program)
    lines = []
    for pc, instruction in enumerate(program):
        line = f"{pc:4}: {_render(pc, instruction)}"
        lines.append(f"{line:<44}# {notes[pc]}" if notes[pc] else line)
    return "\n".join(lines) + "\n" if lines else ""


def _render(pc: int, instruction: _Instruction) -> str:
    opcode, jt, jf, k = instruction
    text = None
    if opcode in op.CONDITIONAL:
        value = "X" if opcode & op.SRC_X else f"{k:#x}"
        if not (opcode & op.SRC_X and k):
            sign = _JUMP_SIGN[opcode & ~op.SRC_X]
            return f"if A {sign} {value} goto {pc + 1 + jt} else {pc + 1 + jf}"
    elif not jt and not jf:
        text = _render_plain(pc, opcode, k)
    return text if text is not None else f"raw {opcode:#06x} {jt} {jf} {k:#x}"


def _render_plain(pc: int, opcode: int, k: int) -> str | None:
    """Instructions without branches; None where there is no form for the operand."""
    if opcode in _PLAIN_TEXT:
        return None if k else _PLAIN_TEXT[opcode]
    if opcode == op.LD_ABS:
        return f"A = {_FIELD_AT[k]}" if k in _FIELD_AT else None
    if opcode == op.RET_K:
        return f"return {k:#x}"
    if opcode == op.JA:
        return f"goto {pc + 1 + k}"
    if opcode in (op.LD_IMM, op.LDX_IMM):
        return f"{'X' if opcode & 1 else 'A'} = {k:#x}"
    if opcode in (op.LD_MEM, op.LDX_MEM):
        return f"{'X' if opcode & 1 else 'A'} = M[{k}]"
    if opcode in (op.ST, op.STX):
        return f"M[{k}] = {'X' if opcode & 1 else 'A'}"
    operation = opcode & 0xF0
    if opcode in (op.ALU | operation, op.ALU | operation | op.SRC_X) and operation in _ALU_SIGN:
        sign = _ALU_SIGN[operation]
        if opcode & op.SRC_X:
            return None if k else f"A {sign}= X"
        return f"A {sign}= {k:#x}"
    return None


def _notes(program: list[_Instruction]) -> list[str]:
    """A comment for each instruction: what its constant is called, as far as the way there tells.

    Walks forward with what is known at each instruction: the word in A and the architecture.
    """
    unknown = ("", 0)
    known: list[tuple[str, int] | None] = [None] * len(program)
    notes = [""] * len(program)

    def arrive(pc: int, state: tuple[str, int]) -> None:
        if pc < len(program):
            have = known[pc]
            if have is None:
                known[pc] = state
            elif have != state:
                word = state[0] if state[0] == have[0] else ""
                known[pc] = (word, state[1] if state[1] == have[1] else 0)

    arrive(0, unknown)
    for pc, (opcode, jt, jf, k) in enumerate(program):
        word, arch = known[pc] or unknown
        if opcode == op.LD_ABS:
            arrive(pc + 1, (_FIELD_AT.get(k, ""), arch))
        elif opcode in op.CONDITIONAL:
            is_arch = word == "arch" and opcode == op.JEQ_K
            if is_arch:
                notes[pc] = (
                    architectures.arch_of(k)
                    if not architectures.arch_of(k).startswith("0x")
                    else ""
                )
            elif word == "nr" and opcode in (op.JEQ_K, op.JGE_K, op.JGT_K) and arch:
                notes[pc] = tables.name(k, architectures.arch_of(arch, k)) or ""
            arrive(pc + 1 + jt, (word, k if is_arch else arch))
            arrive(pc + 1 + jf, (word, arch))
        elif opcode == op.JA:
            arrive(pc + 1 + k, (word, arch))
        elif opcode == op.RET_K:
            notes[pc] = _return_note(k)
        elif opcode != op.RET_A:
            writes_a = opcode in (op.LD_LEN, op.LD_IMM, op.LD_MEM, op.TXA) or opcode & 7 == op.ALU
            arrive(pc + 1, ("" if writes_a else word, arch))
    return notes


def _return_note(value: int) -> str:
    action = decoded(value)
    if action.kind == abi.SECCOMP_RET_ERRNO and action.data not in _errno.errorcode:
        return f"errno({action.data})"
    return str(action)


_NUMBER: Final = r"(0x[0-9a-f]{1,16}|0|[1-9][0-9]{0,19})"
_LINE: Final = re.compile(rf"^{_NUMBER}\s*:\s*(.*)$", re.IGNORECASE)
_IF: Final = re.compile(rf"^if A (==|>=|>|&) (X|{_NUMBER}) goto {_NUMBER} else {_NUMBER}$")
_ARITHMETIC: Final = re.compile(rf"^A ([-+*/%&|^]|<<|>>)= (X|{_NUMBER})$")
_ASSIGN: Final = re.compile(rf"^(A|X) = (?:M\[{_NUMBER}\]|{_NUMBER}|(\S+))$")
_STORE: Final = re.compile(rf"^M\[{_NUMBER}\] = (A|X)$")
_RAW: Final = re.compile(rf"^raw {_NUMBER} {_NUMBER} {_NUMBER} {_NUMBER}$")
_RETURN: Final = re.compile(rf"^return {_NUMBER}$")
_GOTO: Final = re.compile(rf"^goto {_NUMBER}$")


def parse(text: str) -> bytes:
    """The packed program written in ``text``.

    :raises FilterError: with the number of the line at fault.
    """
    out: list[bytes] = []
    for number, line in enumerate(text.splitlines(), 1):
        body = line.partition("#")[0].strip()
        if not body:
            continue
        numbered = _LINE.match(body)
        if numbered is None or int(numbered[1], 0) != len(out):
            raise FilterError(f"line {number}: instruction {len(out)} should stand here: {body!r}")
        words = " ".join(numbered[2].split())
        try:
            opcode, jt, jf, k = _instruction(words, len(out))
            out.append(abi.SOCK_FILTER.pack(opcode, jt, jf, k))
        except (KeyError, ValueError, struct.error) as error:
            why = str(error) if isinstance(error, FilterError) else "not an instruction"
            raise FilterError(f"line {number}: {why}: {words!r}") from None
    return b"".join(out)


def _instruction(words: str, pc: int) -> _Instruction:
    """One instruction; KeyError or ValueError if it is none."""
    if words in _PLAIN:
        return _PLAIN[words], 0, 0, 0
    if found := _IF.match(words):
        sign, operand, constant, true, false = found.groups()
        jump = _JUMP[sign] | (op.SRC_X if operand == "X" else 0)
        return jump, _ahead(true, pc, 255), _ahead(false, pc, 255), int(constant or "0", 0)
    if found := _RETURN.match(words):
        return op.RET_K, 0, 0, int(found[1], 0)
    if found := _GOTO.match(words):
        return op.JA, 0, 0, _ahead(found[1], pc, 0xFFFFFFFF)
    if found := _ARITHMETIC.match(words):
        sign, operand, constant = found.groups()
        source = op.SRC_X if operand == "X" else 0
        return op.ALU | _ALU[sign] | source, 0, 0, int(constant or "0", 0)
    if found := _ASSIGN.match(words):
        register, slot, constant, field = found.groups()
        index = 1 if register == "X" else 0
        if slot is not None:
            return op.LD_MEM | index, 0, 0, int(slot, 0)
        if constant is not None:
            return op.LD_IMM | index, 0, 0, int(constant, 0)
        if index:
            raise FilterError("only A loads from the call's data")
        return op.LD_ABS, 0, 0, _FIELDS[field]
    if found := _STORE.match(words):
        return (op.STX if found[2] == "X" else op.ST), 0, 0, int(found[1], 0)
    if found := _RAW.match(words):
        opcode, jt, jf, k = (int(part, 0) for part in found.groups())
        return opcode, jt, jf, k
    raise FilterError("not an instruction")


def _ahead(target: str, pc: int, most: int) -> int:
    """The distance of a jump; jumps go forward, conditional ones up to 255."""
    distance = int(target, 0) - pc - 1
    if not 0 <= distance <= most:
        raise FilterError(f"a jump from {pc} to {target}: they go forward, at most {most + 1}")
    return distance

"""The kernel's own refusals of a program, and its own reckoning of which calls cost nothing.

:func:`check` repeats, in the kernel's order, ``seccomp_prepare_filter`` (length),
``bpf_check_classic`` with ``check_load_and_stores`` (net/core/filter.c) and
``seccomp_check_filter`` (kernel/seccomp.c).  Each of these answers EINVAL and nothing else; here
the refusal says which instruction and why.

:func:`constant_allow` repeats ``seccomp_is_const_allow`` (Linux 5.11): when every filter of a
task provably allows a number whatever the arguments, a bitmap answers and no program runs.
"""

from __future__ import annotations

from proctor.errors import FilterError
from proctor.filter import opcodes as op
from proctor.kernel import abi

_SCRATCH_WORDS = 16

#: uretprobe (6.11) and uprobe (6.18): recent kernels never filter them on x86-64.
UPROBES = frozenset({335, 336})


def check(code: bytes) -> None:
    """Pass if the kernel would take ``code`` (packed ``struct sock_filter``) as a filter.

    :raises FilterError: it would not; the message names the first instruction at fault.
    """
    if len(code) % abi.SOCK_FILTER.size:
        raise FilterError(
            f"a program is a whole number of {abi.SOCK_FILTER.size}-byte instructions, "
            f"not {len(code)} bytes"
        )
    length = len(code) // abi.SOCK_FILTER.size
    if not length:
        raise FilterError("an empty program: the kernel refuses it (EINVAL)")
    if length > abi.MAX_INSTRUCTIONS:
        raise FilterError(
            f"{length} instructions: the kernel takes at most {abi.MAX_INSTRUCTIONS} (EINVAL); "
            "use fewer conditions or split the filter in two"
        )
    instructions = list(abi.SOCK_FILTER.iter_unpack(code))
    for pc, (opcode, jt, jf, k) in enumerate(instructions):
        fault = _fault(opcode, jt, jf, k, length - pc - 1)
        if fault:
            raise FilterError(f"instruction {pc} (code {opcode:#06x}, k {k:#x}): {fault} (EINVAL)")
    if instructions[-1][0] not in (op.RET_K, op.RET_A):
        raise FilterError(f"instruction {length - 1}, the last, does not return (EINVAL)")
    _check_scratch(instructions)


def _fault(opcode: int, jt: int, jf: int, k: int, behind: int) -> str | None:
    """What is wrong with one instruction that has ``behind`` instructions behind it."""
    if opcode not in op.SECCOMP:
        if opcode in op.CLASSIC_ONLY:
            return "classic BPF, but seccomp does not allow it"
        return "not a classic BPF instruction"
    if opcode == op.LD_ABS:
        if k >= abi.SECCOMP_DATA.size or k & 3:
            return "loads are of aligned words within the 64 bytes of struct seccomp_data"
    elif opcode in op.CONDITIONAL:
        if jt >= behind or jf >= behind:
            return "jumps past the end"
    elif opcode == op.JA:
        if k >= behind:
            return "jumps past the end"
    elif opcode in (op.LD_MEM, op.LDX_MEM, op.ST, op.STX):
        if k >= _SCRATCH_WORDS:
            return f"there are {_SCRATCH_WORDS} words of scratch memory"
    elif opcode == op.ALU | op.DIV:
        if not k:
            return "divides by the constant 0"
    elif opcode in (op.ALU | op.LSH, op.ALU | op.RSH) and k >= 32:
        return "shifts a 32-bit word by 32 or more"
    return None


def _check_scratch(instructions: list[tuple[int, int, int, int]]) -> None:
    """Refuse loads of scratch words that were not written on every way there.

    As in the kernel, a RET does not end what is known to be written: what comes after it is
    judged as if it were reached through it.
    """
    every = (1 << _SCRATCH_WORDS) - 1
    at_entry = [every] * len(instructions)
    written = 0
    for pc, (opcode, jt, jf, k) in enumerate(instructions):
        written &= at_entry[pc]
        if opcode in (op.ST, op.STX):
            written |= 1 << k
        elif opcode in (op.LD_MEM, op.LDX_MEM):
            if not written >> k & 1:
                raise FilterError(f"instruction {pc} reads M[{k}], never written (EINVAL)")
        elif opcode == op.JA:
            at_entry[pc + 1 + k] &= written
            written = every
        elif opcode in op.CONDITIONAL:
            at_entry[pc + 1 + jt] &= written
            at_entry[pc + 1 + jf] &= written
            written = every


def constant_allow(code: bytes, arch: int, nr: int, *, uprobes_exempt: bool = False) -> bool:
    """Whether the kernel can prove that ``code`` allows call ``nr`` of ``arch`` (audit number).

    If every filter of a task says so, its bitmap has the bit set and the call runs no program.
    The bitmap itself covers the native and the compat table only: x32 numbers are never in it,
    whatever this says.

    :param uprobes_exempt: answer as the kernels that exempt uretprobe and uprobe do.
    """
    if uprobes_exempt and arch == abi.AUDIT_ARCH_X86_64 and nr in UPROBES:
        return True
    instructions = list(abi.SOCK_FILTER.iter_unpack(code))
    register = pc = 0
    while pc < len(instructions):
        opcode, jt, jf, k = instructions[pc]
        pc += 1
        if opcode == op.LD_ABS and k == 0:
            register = nr & 0xFFFFFFFF
        elif opcode == op.LD_ABS and k == 4:
            register = arch
        elif opcode == op.RET_K:
            return bool(k == abi.SECCOMP_RET_ALLOW)
        elif opcode == op.JA:
            pc += k
        elif opcode == op.JEQ_K:
            pc += jt if register == k else jf
        elif opcode == op.JGE_K:
            pc += jt if register >= k else jf
        elif opcode == op.JGT_K:
            pc += jt if register > k else jf
        elif opcode == op.JSET_K:
            pc += jt if register & k else jf
        elif opcode == op.AND_K:
            register &= k
        else:
            return False  # an argument, the instruction pointer, X or scratch: not constant
    return False

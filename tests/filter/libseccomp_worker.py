"""Compiles rule sets with libseccomp: run by the system's Python, which has the binding.

Reads one JSON object a line (default, bad_arch, arches, rules), writes the exported BPF in
hexadecimal, or ``error: ...``.
"""

import json
import sys
import tempfile

import seccomp

OPERATORS = {
    "==": seccomp.EQ,
    "!=": seccomp.NE,
    "<": seccomp.LT,
    "<=": seccomp.LE,
    ">": seccomp.GT,
    ">=": seccomp.GE,
}
ARCHES = {"x86_64": "X86_64", "i386": "X86", "x32": "X32", "aarch64": "AARCH64", "arm": "ARM"}


def action(value):
    """libseccomp's word for a SECCOMP_RET_* value."""
    simple = {
        0x80000000: seccomp.KILL_PROCESS,
        0: seccomp.KILL,
        0x30000: seccomp.TRAP,
        0x7FC00000: seccomp.NOTIFY,
        0x7FFC0000: seccomp.LOG,
        0x7FFF0000: seccomp.ALLOW,
    }
    if value in simple:
        return simple[value]
    make = {0x50000: seccomp.ERRNO, 0x7FF00000: seccomp.TRACE}[value & 0xFFFF0000]
    return make(value & 0xFFFF)


def compile_rules(request):
    """The BPF of one rule set."""
    made = seccomp.SyscallFilter(defaction=action(request["default"]))
    made.set_attr(seccomp.Attr.ACT_BADARCH, action(request["bad_arch"]))
    if request.get("optimize"):
        made.set_attr(seccomp.Attr.CTL_OPTIMIZE, request["optimize"])
    wanted = [getattr(seccomp.Arch, ARCHES[arch]) for arch in request["arches"]]
    for arch in wanted:
        if not made.exist_arch(arch):
            made.add_arch(arch)
    if int(seccomp.Arch()) not in wanted:
        made.remove_arch(seccomp.Arch())
    for name, verdict, conditions in request["rules"]:
        args = []
        for index, operator, value, mask in conditions:
            if operator == "&=":
                args.append(seccomp.Arg(index, seccomp.MASKED_EQ, mask, value))
            else:
                args.append(seccomp.Arg(index, OPERATORS[operator], value))
        made.add_rule(action(verdict), name, *args)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read().hex()


for line in sys.stdin:
    try:
        answer = compile_rules(json.loads(line))
    except Exception as error:
        answer = f"error: {type(error).__name__}: {error}"
    print(answer, flush=True)

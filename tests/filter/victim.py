"""Installs programs on the real kernel and reports what its calls then gave: run as a process.

One JSON object a line in, one out; each request is served in a forked child of its own.

``{"code": HEX, "calls": [[how, nr, args...], ...]}``
    installs the program and makes the calls; ``how`` is "native" or "int80".  The answer is a list
    of [value, errno], shorter and ending in ["died", signal] if a call killed the child.
``{"judge": [HEX, ...]}``
    asks the kernel about each program without attaching one: true if it takes it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import sys
from collections.abc import Callable

from proctor.kernel import abi, seccomp

PR_SET_NO_NEW_PRIVS = 38
RET_ALLOW = abi.SOCK_FILTER.pack(6, 0, 0, abi.SECCOMP_RET_ALLOW)

#: push rbx; mov eax, edi; mov ebx, esi; mov ecx, edx; xor edx, edx; int 0x80; pop rbx; ret
INT80 = bytes.fromhex("5389f889f389d131d2cd805bc3")

libc = ctypes.CDLL(None, use_errno=True)


def native(nr: int, *args: int) -> tuple[int, int]:
    """syscall(2)."""
    ctypes.set_errno(0)
    value = libc.syscall(ctypes.c_long(nr), *(ctypes.c_uint64(arg) for arg in args))
    return value, ctypes.get_errno() if value == -1 else 0


def int80() -> Callable[..., tuple[int, int]]:
    """The i386 way into an x86-64 kernel."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(INT80)
    start = ctypes.c_char.from_buffer(page)
    address = ctypes.addressof(start)
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)(address)

    def call(nr: int, *args: int) -> tuple[int, int]:
        assert start is not None  # the mapping lives as long as something refers to it
        first, second, *_ = (*args, 0, 0)
        value = function(nr, first, second)
        return (-1, -value) if -4096 < value < 0 else (value, 0)

    return call


def calls(request: dict[str, list[list[object]]], code: bytes, out: int) -> None:
    """In the child: install, call, write one line for each result."""
    ways = {"native": native}
    if any(call[0] == "int80" for call in request["calls"]):
        ways["int80"] = int80()
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    seccomp.load(code, 0)
    for how, nr, *args in request["calls"]:
        os.write(out, (json.dumps(ways[str(how)](nr, *args)) + "\n").encode())


def judge(programs: list[str], out: int) -> None:
    """In the child: with a listener above, a good program fails with EBUSY, attaching nothing."""
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    flag = abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
    try:
        seccomp.load(RET_ALLOW, flag)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    verdicts = []
    for program in programs:
        try:
            seccomp.load(bytes.fromhex(program), flag)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EINVAL):
                raise
            verdicts.append(error.errno == errno.EBUSY)
    os.write(out, (json.dumps(verdicts) + "\n").encode())


def serve(request: dict[str, list[list[object]]]) -> list[object]:
    """One request, in a child."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(read)
            if "judge" in request:
                judge(request["judge"], write)  # type: ignore[arg-type]
            else:
                calls(request, bytes.fromhex(str(request["code"])), write)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        answers: list[object] = [json.loads(line) for line in pipe]
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        answers.append(["died", os.WTERMSIG(status)])
    elif status:
        raise SystemExit("the child failed; its traceback is above")
    return answers


for line in sys.stdin:
    print(json.dumps(serve(json.loads(line))), flush=True)

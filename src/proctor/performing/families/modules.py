"""finit_module, init_module, delete_module: the *host's* module of the name that was asked for.

What a container loads is code of the kernel's, so its image never reaches the kernel: a process without
rights (:mod:`proctor.performing.module_name`) reads the name in it, and if that is on the allow-list the
host's own module of this name is loaded by the host's modprobe(8), with what it depends on, and with
parameters that are on the list.  Modules are taken away by delete_module(2) with CAP_SYS_MODULE lent, if the
rule says so.

Checks are in the order of ``finit_module`` and ``init_module`` of kernel/module/main.c.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.performing import module_name
from proctor.performing.executing.single import NUMBER, Hole, Shape
from proctor.performing.given import Given, would
from proctor.performing.paths import pins
from proctor.performing.trouble import Powerless, Said
from proctor.words import listed

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work

_CAP_SYS_MODULE: Final = 16
_IGNORE, _COMPRESSED = 1 | 2, 4
#: O_TRUNC of delete_module(2), whatever is in use: a kernel without CONFIG_MODULE_FORCE_UNLOAD ignores it, too.
_FORCED: Final = os.O_TRUNC
_ELF_HEADER: Final = 64
#: By which the kernel takes parameters apart in other places than here (``next_arg`` of lib/cmdline.c): quotes, and a byte that
#: is white space there (lib/ctype.c), wherever it stands in a character.
_SPLITTING: Final = b'"', b"\xa0"
#: What the host loads modules with.
MODPROBE: Final = "modprobe"
#: Seconds that loading may take.
_PATIENCE: Final = 30
#: Where those are that are loaded, and what only a kernel with modules has.
LOADED: Final = "/sys/module"
LIST: Final = "/proc/modules"
_CAPLESS: Final = "the caller has no CAP_SYS_MODULE in its user namespace"
_NESTED: Final = (
    "the caller is in a user namespace of its own making, where CAP_SYS_MODULE comes for free "
    '(nested = "allow" would let it)'
)


class Options(Given):
    """What may be loaded.

    :param modules: names of modules; ``-`` and ``_`` are the same.
    :param parameters: ``"MODULE.PARAMETER"`` that a caller may set.
    :param unload: whether these modules may be taken away again, by whoever may load them.
    """

    modules: Sequence[str] = ()
    parameters: Sequence[str] = ()
    unload: bool = False

    def check(self) -> None:
        for option, words in (("modules", self.modules), ("parameters", self.parameters)):
            listed(option, words)
        if not isinstance(self.unload, bool):
            raise ValueError("unload is true or false")
        for each in self.modules:
            if not each.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"modules has {each!r}, which is no name of a module")
        names = [_plain(each) for each in self.modules]
        for each in self.parameters:
            module, _, parameter = each.partition(".")
            if _plain(module) not in names or not parameter:
                raise ValueError(
                    f'parameters has {each!r}: it is "MODULE.PARAMETER", of one of the modules'
                )

    def allows(self, name: str) -> bool:
        """Whether a module may be loaded."""
        return _plain(name) in map(_plain, self.modules)

    def refused(self, name: str, parameters: Sequence[str]) -> str:
        """The first parameter that may not be set; empty if all may."""
        known = {_plain(each) for each in self.parameters}
        for each in parameters:
            if _plain(f"{name}.{each.partition('=')[0]}") not in known:
                return each
        return ""


def _plain(name: str) -> str:
    return name.replace("-", "_")


def perform(task: Task) -> Work:
    """Load or unload the host's module."""
    options = task.options(Options)
    if task.who.namespace("user") == task.own.who.namespace("user"):
        return let_run_unsafe("the kernel decides, by the caller's own right to load modules")
    why = _CAPLESS if not task.who.effective >> _CAP_SYS_MODULE & 1 else ""
    if why or not task.owned():
        return deny(errno.EPERM, why or _NESTED)
    if task.call.name == "delete_module":
        return (yield from _unload(task, options))
    return (yield from _load(task, options))


# Loading --------------------------------------------------------------------------------------------


def _load(task: Task, options: Options) -> Work:
    call = task.call
    if not os.path.exists(LIST):
        return deny(errno.ENOSYS, "the host's kernel has no modules")
    name = yield from _asked_for(task)
    if not options.allows(name):
        return deny(
            errno.EPERM,
            f"the module {name} is not among the rule's modules {would(modules=[name])}",
        )
    if os.path.exists(f"{LOADED}/{name}"):  # before its parameters are looked at
        return deny(errno.EEXIST)
    given = call.args["param_values"]
    text = given.decode("utf-8", "surrogateescape")
    parameters = text.split()
    odd = any(each in given for each in _SPLITTING)
    refused = (odd and text) or options.refused(name, parameters)
    if refused:
        allowed = "" if odd else " " + would(parameters=[f"{name}.{refused.partition('=')[0]}"])
        why = f"the module {name} may not be given the parameter {refused!r}{allowed}"
        return deny(errno.EPERM, why)
    failed, said = yield from _modprobe(task, name, parameters)
    return deny(failed, f"modprobe {name}: {said}") if failed else answer(0)


def _asked_for(task: Task) -> Generator[Any, Any, str]:
    """
    :raises Said: what the kernel says to such a call, or that the image is none."""
    call = task.call
    if call.name == "finit_module":
        flags = call.registers[2] & 0xFFFFFFFF
        if flags & ~(_IGNORE | _COMPRESSED):
            raise Said(errno.EINVAL)
        if flags & _IGNORE:
            raise Said(errno.EPERM, "a module is not forced into the host's kernel")
        import fcntl

        pin = yield from task.descriptor(pins.signed(call.registers[0]))
        opened = fcntl.fcntl(pin.fd, fcntl.F_GETFL)
        if opened & os.O_ACCMODE == os.O_WRONLY or opened & os.O_PATH:
            raise Said(errno.EBADF)
        if not stat.S_ISREG(pin.named.status.mode):
            raise Said(errno.EINVAL)
        how = ["file", "compressed"] if flags & _COMPRESSED else ["file"]
        return (yield from _named(task, pin.fd, *how))
    length = call.args["len"]
    if length < _ELF_HEADER:
        raise Said(errno.ENOEXEC)
    if length > module_name.LARGEST:
        raise Said(errno.ENOMEM, f"an image of {length} bytes is longer than is looked at")
    fd = os.memfd_create("module")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(call.copied(call.args["module_image"], length))
        return (yield from _named(task, fd))
    finally:
        os.close(fd)


def _named(task: Task, fd: int, *how: str) -> Generator[Any, Any, str]:
    """The name of an image.

    :param how: what is said of it: see :mod:`proctor.performing.module_name`.
    :raises Said: it is none.
    :raises Trouble: it could not be found out."""
    from proctor.performing.executing import programs

    command = [sys.executable, "-ISB", module_name.__file__, *how]
    done = yield from programs.run(task, command, fd, patience=module_name.PATIENCE)
    said = done.said.decode("ascii", "replace").rstrip("\n")
    if said.startswith(module_name.INVALID):
        raise Said(errno.EINVAL, said[1:])
    if said.startswith(module_name.BUSY):
        raise Said(errno.ETXTBSY, said[1:])
    if not said or said.startswith(" "):
        raise Said(errno.ENOEXEC, said.strip() or "reading it takes more than is given for that")
    return said


def _modprobe(
    task: Task, name: str, parameters: Sequence[str]
) -> Generator[Any, Any, tuple[int, str]]:
    """(errno, what was said) of the host's modprobe, which a caller's signals do not end: the kernel's own
    loading is not ended by them either."""
    from proctor.performing.executing import programs

    done = yield from programs.run(
        task, [MODPROBE, "--", name, *parameters], error=True, patience=_PATIENCE, interruptible=False
    )  # fmt: skip
    said = done.said.decode("utf-8", "replace").strip()
    if not done.code:
        return 0, said
    if "not found" in said:
        return errno.ENOENT, said
    words = {os.strerror(number): number for number in errno.errorcode}
    return words.get(said.rpartition(": ")[2], errno.EPERM), said


# Unloading ------------------------------------------------------------------------------------------


_UNLOADING: Final = Shape("delete_module", Hole(64), NUMBER, right=1 << _CAP_SYS_MODULE)


def _unload(task: Task, options: Options) -> Work:
    name = task.call.args["module"]
    text = name.decode("ascii", "replace")
    if not text:
        return deny(errno.ENOENT)  # no module has that name, and no rule can
    if not options.allows(text):
        return deny(
            errno.EPERM,
            f"the module {text!r} is not among the rule's modules {would(modules=[text])}",
        )
    if not options.unload:
        return deny(errno.EPERM, f"the rule lets modules be loaded only {would(unload=True)}")
    from proctor.performing.identities.lender import Lender

    try:
        lender = Lender(task, 1 << _CAP_SYS_MODULE)
    except Powerless:
        return deny(errno.EPERM, "that needs the host's root, which the monitor is not")
    with lender:
        flags = task.call.registers[1] & 0xFFFFFFFF & ~_FORCED
        failed = yield from lender.made(_UNLOADING(lender.permitted), name, flags)
    return deny(failed) if failed else answer(0)

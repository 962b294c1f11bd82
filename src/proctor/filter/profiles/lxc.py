"""LXC seccomp profiles (``lxc.seccomp.profile``), version 2 read and written, version 1 read.

    >>> from proctor.filter.profiles import lxc
    >>> print(lxc.dump(lxc.load("2\\ndenylist allow\\nmknod notify\\n", arch="x86_64")), end="")
    2
    denylist allow
    mknod notify

A longer one, in full:

.. code-block:: text

    2
    denylist allow
    # a comment
    reject_force_umount
    mknod notify [1,8192,SCMP_CMP_MASKED_EQ,61440]
    [x86]
    socketcall errno 38

Line 1 is the version; line 2 the style and, optionally, what happens to calls without a rule
(allow in a denylist, kill in an allowlist); then rules: ``call [action [conditions]]``, the action
being kill in a denylist and allow in an allowlist unless given.  Facts (lxc/lxc src/lxc/seccomp.c,
lxc.container.conf(5)):

* ``kill`` is KILL_THREAD.  ``errno N`` is a decimal number.
* A condition is ``[index,value,op]`` or ``[index,value,op,mask]``, without blanks; all of a rule
  must hold.  The mask counts for SCMP_CMP_MASKED_EQ alone: ``(arg & mask) == value``.
* On x86_64 a profile is for x86_64, x86 and x32, on arm64 for arm64 and arm.  ``[arch]`` restricts
  what follows to that ABI and skips it on other machines; ``[all]`` ends that.  (LXC 4 and later
  apply such rules to the whole family; the manual means the restriction.)
* Calls LXC does not know are skipped; an unknown heading or action is an error.
* About rules' order see :mod:`proctor.filter.profiles.order`.

Version 1: the word ``allowlist``, then numbers of the native architecture that are allowed; the
rest is killed.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from proctor.errors import FilterError
from proctor.filter.actions import ALLOW, KILL_THREAD, NOTIFY, TRAP, Action, errno
from proctor.filter.conditions import FULL, Condition
from proctor.filter.profiles import exchange
from proctor.filter.profiles.order import ordered
from proctor.filter.rules import Filter, Rule
from proctor.kernel import abi
from proctor.syscalls import multiplex
from proctor.syscalls.architectures import ARCHITECTURES, canonical

__all__ = ["dump", "load"]

_ACTIONS: Final[dict[str, Action]] = {
    "kill": KILL_THREAD,
    "allow": ALLOW,
    "trap": TRAP,
    "notify": NOTIFY,
}
_ACTION_WORDS: Final = {action: word for word, action in _ACTIONS.items()}

#: LXC's headings to our names.
_HEADINGS: Final = {each.lxc: each.name for each in ARCHITECTURES.values() if each.lxc}

#: What LXC makes profiles for beside what the kernel's family is.
_FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "x86_64": ("x86_64", "i386", "x32"),
    "s390x": ("s390x",),
}

_M32: Final = 0xFFFFFFFF
_DENY: Final = ("denylist", "blacklist")
_ALLOW: Final = ("allowlist", "whitelist")

#: umount2(MNT_FORCE) fails with EACCES.
_FORCE_UMOUNT: Final = "reject_force_umount"
_NO_FORCED_UMOUNT: Final = Rule(("umount2",), errno(13), (Condition(1, "&=", 1, 1),), _FORCE_UMOUNT)


def load(source: str | bytes | os.PathLike[str], *, arch: str | None = None) -> Filter:
    """Read a profile.

    :param source: a path, or the text itself (anything with a newline in it).
    :param arch: the machine; None is this one.
    :raises FilterError: it cannot be read; the message has the line's number.
    """
    text = _text(source)
    native = canonical(arch)
    lines = [line.rstrip("\r") for line in text.split("\n")]
    version = lines[0].strip()
    style = lines[1].strip() if len(lines) > 1 else ""
    if version == "1":
        return _load_v1(lines, style, native)
    if version != "2":
        raise FilterError(f"line 1: the version is 1 or 2, not {version!r}")
    return _load_v2(lines, style, native)


def _load_v1(lines: list[str], style: str, native: str) -> Filter:
    if not any(word in style for word in _ALLOW):
        raise FilterError("line 2: version 1 knows allowlist only")
    numbers = []
    for position, line in enumerate(lines[2:], 3):
        word = line.split("#")[0].strip()
        if word:
            if not word.isdigit():
                raise FilterError(f"line {position}: version 1 has system call numbers: {word!r}")
            numbers.append(_number(word.lstrip("0") or "0", _M32, position))
    rules = [Rule(tuple(numbers), ALLOW, (), "allowlist")] if numbers else []
    return Filter(rules, KILL_THREAD, (native,), KILL_THREAD, KILL_THREAD, strict=False)


def _load_v2(lines: list[str], style: str, native: str) -> Filter:
    word, _, default_text = style.partition(" ")
    if word in _DENY:
        default, rule_action = ALLOW, KILL_THREAD
    elif word in _ALLOW:
        default, rule_action = KILL_THREAD, ALLOW
    else:
        raise FilterError(f"line 2: allowlist or denylist is needed, not {style!r}")
    if default_text.strip():
        default = _action(default_text.split(), 2)
    arches = _FAMILIES.get(native, ARCHITECTURES[native].family)
    rules: list[Rule] = []
    heading: tuple[str, ...] | None = ()  # None: for other machines
    for position, line in enumerate(lines[2:], 3):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            heading = _heading(line.strip(), arches, position)
        elif heading is not None:
            rule = _rule(line, rule_action, position)
            names, _ = exchange.known(str(name) for name in rule.names)
            usable = any(
                multiplex.callable_on(name, arch) for name in names for arch in heading or arches
            )
            if usable:
                rules.append(rule._replace(arches=heading))
    rules_in_order = ordered(rules, default, arches)
    return Filter(rules_in_order, default, arches, KILL_THREAD, KILL_THREAD, strict=False)


def _heading(line: str, arches: tuple[str, ...], position: int) -> tuple[str, ...] | None:
    """The ABIs of the rules that follow: none for all, None to skip them."""
    word = line.strip("[]").lower()
    if word == "all":
        return ()
    if word not in _HEADINGS:
        raise FilterError(f"line {position}: unknown architecture {line!r}")
    arch = _HEADINGS[word]
    return (arch,) if arch in arches else None


def _rule(line: str, action: Action, position: int) -> Rule:
    """``call [action [conditions]]``."""
    words, bracket, rest = line.partition("[")
    conditions = tuple(
        _condition(part, position) for part in (bracket + rest).split("]") if part.strip()
    )
    name, *more = words.partition("#")[0].split() or [""]
    if not name:
        raise FilterError(f"line {position}: a rule begins with a system call")
    if name == _FORCE_UMOUNT:
        return _NO_FORCED_UMOUNT
    if more:
        action = _action(more, position)
    return Rule((name,), action, conditions, f"line {position}")


def _action(words: list[str], position: int) -> Action:
    word = words[0]
    if word == "errno":
        number = words[1].lstrip("0") or "0" if len(words) > 1 else ""
        if not (
            number.isascii()
            and number.isdigit()
            and len(number) < 5
            and int(number) <= abi.MAX_ERRNO
        ):
            raise FilterError(f"line {position}: errno needs a number up to {abi.MAX_ERRNO}")
        return errno(int(number))
    if word not in _ACTIONS:
        raise FilterError(
            f"line {position}: unknown action {word!r}; there are errno N, {', '.join(_ACTIONS)}"
        )
    return _ACTIONS[word]


def _condition(text: str, position: int) -> Condition:
    """``[index,value,op`` or ``[index,value,op,mask``."""
    start, bracket, body = text.partition("[")
    fields = body.split(",")
    if start.strip() or not bracket or len(fields) not in (3, 4):
        raise FilterError(
            f"line {position}: a condition is [index,value,op] or [index,value,op,mask]"
        )
    op = exchange.OPERATORS.get(fields[2], fields[2])
    if op not in exchange.OPERATOR_WORDS:
        raise FilterError(f"line {position}: unknown operator {fields[2]!r}")
    index, value = _number(fields[0], 5, position), _number(fields[1], FULL, position)
    mask = _number(fields[3], FULL, position) if len(fields) > 3 else 0
    if op == "&=":
        return Condition(index, op, value & mask, mask)
    return Condition(index, op, value)


def _number(text: str, most: int, position: int) -> int:
    """Decimal, 0x hexadecimal or 0 octal, as strtoull(3) reads it."""
    number = -1
    if text.isascii() and text.isalnum():  # int() would also take blanks, signs, and underscores
        with contextlib.suppress(ValueError):
            number = int(text, 8 if len(text) > 1 and text.isdigit() and text[0] == "0" else 0)
    if not 0 <= number <= most:
        raise FilterError(f"line {position}: {text!r} is no number from 0 to {most}")
    return number


def dump(source: Filter) -> str:
    """The filter as a version 2 profile.

    ``foreign`` and ``x32`` have no place in it: LXC's filters are for the machine's whole family,
    and kill the thread otherwise.

    :raises FilterError: the filter says something such a profile cannot; see
        :mod:`proctor.filter.profiles.exchange`.
    """
    what = "an LXC profile"
    denies = source.default == ALLOW
    lines = ["2", f"{_DENY[0] if denies else _ALLOW[0]} {_written(source.default)}"]
    heading: tuple[str, ...] = ()
    for rule in _unrestricted_first(exchange.unordered(source, what)):
        exchange.no_repeated_argument(rule, what)
        for arch in rule.arches or ("",):
            if arch and heading != (arch,):
                if not ARCHITECTURES[arch].lxc:
                    raise FilterError(f"LXC has no heading for {arch}")
                lines.append(f"[{ARCHITECTURES[arch].lxc}]")
                heading = (arch,)
            lines += [_line(str(name), rule) for name in rule.names]
    return "\n".join(lines) + "\n"


def _unrestricted_first(rules: list[Rule]) -> list[Rule]:
    """Rules for every ABI before those under a heading, which otherwise would cover them too."""
    return sorted(rules, key=_restriction)


def _restriction(rule: Rule) -> tuple[str, ...]:
    return rule.arches


def _line(name: str, rule: Rule) -> str:
    words = [name, _written(rule.action)]
    conditions = []
    for arg, op, value, mask in rule.conditions:
        fields = [str(arg), f"{value:#x}", exchange.OPERATOR_WORDS[op]]
        conditions.append(f"[{','.join([*fields, f'{mask:#x}'] if op == '&=' else fields)}]")
    if conditions:
        words.append("".join(conditions))
    return " ".join(words)


def _written(action: Action) -> str:
    if action.kind == abi.SECCOMP_RET_ERRNO:
        return f"errno {action.data}"
    if action not in _ACTION_WORDS:
        raise FilterError(
            f"an LXC profile has no action {action}; there are errno, {', '.join(_ACTIONS)} "
            "(where kill is kill_thread)"
        )
    return _ACTION_WORDS[action]


def _text(source: str | bytes | os.PathLike[str]) -> str:
    try:
        if isinstance(source, bytes):
            return source.decode("utf-8")
        if isinstance(source, str) and "\n" in source:
            return source.encode("utf-8").decode("utf-8")  # refuses lone surrogates
        return exchange.read(source).decode("utf-8")
    except UnicodeError as error:
        raise FilterError(f"an LXC profile is text: {error}") from None

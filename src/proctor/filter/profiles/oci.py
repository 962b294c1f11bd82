"""OCI seccomp profiles: ``linux.seccomp`` of config.json, read and written.

Also read: the *profile* dialect of Docker and of containers/common, which is expanded for a
machine and a container first (:mod:`proctor.filter.profiles.dialect`).  The rules of such a file, Docker's
default profile for one, serve as a base::

    from proctor.filter.profiles import oci

    base = oci.load('{"defaultAction": "SCMP_ACT_ALLOW"}', caps=["CAP_MKNOD"]).filter()
    mine = base.before([proctor.Rule(("mknod", "mknodat"), proctor.actions.NOTIFY)])
    assert oci.load(oci.dumps(mine)).filter().rules == oci.load(oci.dump(mine)).filter().rules

Where the specification leaves room we do what runc does (libcontainer/seccomp/seccomp_linux.go):

* Several conditions on one argument: every condition of the entry becomes a rule of its own, so
  they are alternatives (crun and youki do the same).
* Unknown call names are ignored; :attr:`Profile.unknown` has them.
* SCMP_ACT_ERRNO and SCMP_ACT_TRACE without a number mean EPERM.  A number for an action that has
  none is an error, as the specification wants.
* SCMP_CMP_MASKED_EQ: ``value`` is the mask, ``valueTwo`` what remains (libseccomp's order); bits
  of ``valueTwo`` outside the mask are ignored.
* The native architecture is always included; listed ones we have no table for are foreign, and
  foreign and unlisted x32 calls kill the thread.
* About rules' order see :mod:`proctor.filter.profiles.order`.

Not done: runc also appends rules that give ENOSYS for calls newer than any the profile names.

Sources: opencontainers/runtime-spec config-linux.md and its JSON schema (1.0 to 1.2).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from proctor.errors import FilterError
from proctor.filter.actions import (
    ALLOW,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    NOTIFY,
    TRAP,
    Action,
)
from proctor.filter.conditions import FULL, Condition
from proctor.filter.profiles import exchange
from proctor.filter.profiles.profile import ARCH_WORDS, Profile, unknown_word
from proctor.filter.rules import Filter, Rule
from proctor.kernel import abi
from proctor.syscalls.architectures import canonical

__all__ = ["dump", "dumps", "load"]

_EPERM: Final = 1

_ACTIONS: Final[dict[str, Action]] = {
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_ERRNO": Action(abi.SECCOMP_RET_ERRNO, _EPERM),
    "SCMP_ACT_TRACE": Action(abi.SECCOMP_RET_TRACE, _EPERM),
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_NOTIFY": NOTIFY,
}
_ACTION_WORDS: Final = {action.kind: word for word, action in _ACTIONS.items()}
_WITH_NUMBER: Final = frozenset({abi.SECCOMP_RET_ERRNO, abi.SECCOMP_RET_TRACE})

Source = str | bytes | os.PathLike[str] | Mapping[str, Any]


def load(
    source: Source,
    *,
    arch: str | None = None,
    caps: Iterable[str] = (),
    kernel: str | None = None,
) -> Profile:
    """Read a profile: OCI, the profile dialect, or a whole config.json.

    :param source: a path, JSON text (anything that begins with a brace), or decoded JSON.
    :param arch: the machine's architecture; None is this one.
    :param caps: the container's bounding capabilities (``CAP_SYS_ADMIN``), for the dialect's
        ``includes`` and ``excludes``.
    :param kernel: the machine's kernel release, for ``minKernel``; None is this one's.
    :raises FilterError: it cannot be read or is no profile; the message names the key at fault.
    """
    data, where = _decoded(source)
    try:
        return _load(data, arch, frozenset(caps), kernel)
    except RecursionError:
        raise FilterError(f"{where}the profile is nested too deep") from None
    except FilterError as problem:
        raise FilterError(f"{where}{problem}") from None


def _load(
    data: Mapping[str, Any], arch: str | None, caps: frozenset[str], kernel: str | None
) -> Profile:
    if "defaultAction" not in data and isinstance(data.get("linux"), dict):
        data = data["linux"].get("seccomp")
        if not isinstance(data, dict):
            raise FilterError("this config.json has no linux.seccomp")
    native = canonical(arch)
    from proctor.filter.profiles import dialect  # an OCI file is its trivial case

    architectures, calls = dialect.expand(data, native, caps, kernel)
    default = _action(data, "defaultAction", "defaultErrnoRet", "defaultErrno", "")
    return Profile(
        [_entry(call, f"syscalls[{index}]") for index, call in calls],
        default,
        architectures=architectures,
        flags=_words(data, "flags", ""),
        listener_path=_text(data, "listenerPath"),
        listener_metadata=_text(data, "listenerMetadata"),
        native=native,
    )


def dump(
    source: Profile | Filter,
    *,
    flags: Iterable[str] = (),
    listener_path: str = "",
    listener_metadata: str = "",
) -> dict[str, Any]:
    """The profile as decoded JSON for ``linux.seccomp``.

    The keyword arguments are for a :class:`Filter`; a :class:`Profile` has its own.  A filter's
    ``foreign`` and ``x32`` have no place there, and a runtime kills the thread in both cases.

    :raises FilterError: the filter says something these files cannot; see
        :mod:`proctor.filter.profiles.exchange`.
    """
    if isinstance(source, Filter):
        source = Profile(
            exchange.unordered(source, "an OCI profile"),
            source.default,
            architectures=[ARCH_WORDS[arch] for arch in source.arches],
            flags=flags,
            listener_path=listener_path,
            listener_metadata=listener_metadata,
            native=source.arches[0],
        )
        for rule in source.entries:
            exchange.no_repeated_argument(rule, "an OCI profile")
            if rule.arches:
                raise FilterError(
                    f"{rule}: an OCI profile has no rules for some architectures only; "
                    "write one profile for each"
                )
    result: dict[str, Any] = {"defaultAction": _ACTION_WORDS[source.default.kind]}
    if source.default.kind in _WITH_NUMBER:
        result["defaultErrnoRet"] = source.default.data
    if source.architectures:
        result["architectures"] = list(source.architectures)
    if source.flags:
        result["flags"] = list(source.flags)
    if source.listener_path:
        result["listenerPath"] = source.listener_path
    if source.listener_metadata:
        result["listenerMetadata"] = source.listener_metadata
    result["syscalls"] = [_written(entry) for entry in source.entries]
    return result


def dumps(source: Profile | Filter, **options: Any) -> str:
    """:func:`dump` as JSON text."""
    return json.dumps(dump(source, **options), indent=2) + "\n"


def _written(entry: Rule) -> dict[str, Any]:
    call: dict[str, Any] = {
        "names": list(entry.names),
        "action": _ACTION_WORDS[entry.action.kind],
    }
    if entry.action.kind in _WITH_NUMBER:
        call["errnoRet"] = entry.action.data
    elif entry.action.data:
        raise FilterError(f"{entry.action}: only errno and trace have a number in an OCI profile")
    if entry.conditions:
        call["args"] = [
            {"index": arg, "value": mask, "valueTwo": value, "op": exchange.OPERATOR_WORDS[op]}
            if op == "&="
            else {"index": arg, "value": value, "op": exchange.OPERATOR_WORDS[op]}
            for arg, op, value, mask in entry.conditions
        ]
    return call


def _decoded(source: Source) -> tuple[Mapping[str, Any], str]:
    """JSON from wherever it is, and that, as the beginning of a message."""
    if isinstance(source, Mapping):
        return source, ""
    text: str | bytes
    where, named = "the profile", ""
    if isinstance(source, bytes) or (isinstance(source, str) and source.lstrip()[:1] == "{"):
        text = source
    else:
        text = exchange.read(source)
        where = os.fspath(source)
        named = f"{where}: "
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FilterError(f"{where} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise FilterError(f"{where} is no seccomp profile: it holds no JSON object")
    return data, named


def _entry(call: Mapping[str, Any], where: str) -> Rule:
    """One element of ``syscalls``."""
    names = _words(call, "names", where)
    if not names or not all(names):
        raise FilterError(f"{where}.names: at least one system call, none of them empty")
    args = [] if call.get("args") is None else call["args"]
    if not isinstance(args, list):
        raise FilterError(f"{where}.args: a list is needed")
    conditions = tuple(_condition(arg, f"{where}.args[{i}]") for i, arg in enumerate(args))
    return Rule(names, _action(call, "action", "errnoRet", "errno", where), conditions, where)


def _condition(arg: Any, where: str) -> Condition:
    """One element of ``args``."""
    if not isinstance(arg, Mapping):
        raise FilterError(f"{where}: an object is needed")
    index = _number(arg, "index", 5, where)
    value = _number(arg, "value", FULL, where)
    second = _number(arg, "valueTwo", FULL, where, default=0)
    word = arg.get("op")
    if not isinstance(word, str) or word not in exchange.OPERATORS:
        raise FilterError(f"{where}.op: {unknown_word('operator', word, exchange.OPERATORS)}")
    op = exchange.OPERATORS[word]
    if op == "&=":
        return Condition(index, op, second & value, value)
    return Condition(index, op, value)


def _action(holder: Mapping[str, Any], key: str, number: str, name: str, where: str) -> Action:
    """The action under ``key``, with its number (or the dialect's errno name) if it has one."""
    dot = f"{where}." if where else ""
    word = holder.get(key)
    if word is None:
        raise FilterError(f"{dot}{key} is missing")
    if not isinstance(word, str) or word not in _ACTIONS:
        raise FilterError(f"{dot}{key}: {unknown_word('action', word, _ACTIONS)}")
    action = _ACTIONS[word]
    data = None
    if holder.get(name):
        import errno as numbers

        data = getattr(numbers, str(holder[name]), None)
        if not isinstance(data, int) or not str(holder[name]).startswith("E"):
            raise FilterError(f"{dot}{name}: unknown errno {holder[name]!r}")
        number = name
    elif holder.get(number) is not None:
        most = abi.MAX_ERRNO if word == "SCMP_ACT_ERRNO" else abi.SECCOMP_RET_DATA
        data = _number(holder, number, most, where)
    if data is None:
        return action
    if action.kind not in _WITH_NUMBER:
        raise FilterError(f"{dot}{number}: {word} takes no number")
    return Action(action.kind, data)


def _words(holder: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    words = [] if holder.get(key) is None else holder[key]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise FilterError(f"{where}{'.' if where else ''}{key}: a list of strings is needed")
    return tuple(words)


def _text(holder: Mapping[str, Any], key: str) -> str:
    text = "" if holder.get(key) is None else holder[key]
    if not isinstance(text, str):
        raise FilterError(f"{key}: a string is needed")
    return text


def _number(
    holder: Mapping[str, Any], key: str, most: int, where: str, default: int | None = None
) -> int:
    number = holder.get(key, default)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
        raise FilterError(
            f"{where}{'.' if where else ''}{key}: a number from 0 to {most} is needed"
        )
    return number

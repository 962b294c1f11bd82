"""A policy as a seccomp profile for a container runtime: it notifies what the policy needs, so that
whoever serves the listener by the same policy decides the rest.

A policy's rules are tried in order; the rules of such a file have no order
(:mod:`proctor.filter.profiles.exchange`).  Call by call what the policy says is written as it is where the
runtime makes the same of it, and otherwise the whole call is notified: the policy, which is asked then,
decides as it would have.  A base profile says what a policy is silent about, as its last rules would.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import FilterError, PolicyError
from proctor.filter.actions import NOTIFY
from proctor.filter.profiles import exchange, lxc, oci
from proctor.filter.profiles.profile import ARCH_WORDS, Profile
from proctor.filter.rules import Filter, Rule
from proctor.syscalls import multiplex

if TYPE_CHECKING:
    from proctor.filter.actions import Action
    from proctor.policy.policy import Policy

#: What runtimes make while the listener is on its way to whoever is to answer: notified, the call would
#: wait for itself.  runc refuses write (libcontainer/specconv), crun and LXC hand over by sendmsg.
_HAND_OVER: Final = ("write", "sendmsg")
#: Where distributions put the profile that podman and CRI-O use.
_DEFAULTS: Final = ("/etc/containers/seccomp.json", "/usr/share/containers/seccomp.json")
#: security-profiles-operator takes no other listenerPath.
_SPO_PATHS: Final = re.compile(r"/var/run/security-profiles-operator/[a-zA-Z0-9_.-]+")


def base_profile(which: str) -> Profile:
    """A profile to build on: a file of OCI's, Docker's or LXC's kind, or ``docker-default``, which
    containers-common installs.

    :raises FilterError: there is none, or it cannot be read.
    """
    if which != "docker-default":
        text = exchange.read(which)  # once: it may be a pipe
        try:
            if text[:2] not in (b"1\n", b"2\n"):
                return oci.load(text)
            found = lxc.load(text)
        except FilterError as problem:
            raise FilterError(f"{which}: {problem}") from None
        words = [ARCH_WORDS[arch] for arch in found.arches]
        return Profile(found.rules, found.default, architectures=words, native=found.arches[0])
    for path in _DEFAULTS:
        if os.path.exists(path):
            return oci.load(path)
    raise FilterError(
        f"docker-default is not here ({' or '.join(_DEFAULTS)}, of the package containers-common): "
        "name a file"
    )


def profile(policy: Policy, base: Profile | None = None) -> Profile:
    """What a runtime is to install for a policy.

    ::

        from proctor.policy import loads
        from proctor.policy.profile import profile

        policy = loads('[[rule]]\nname = "nodes"\ncalls = ["mknod", "mknodat"]\nperform = true')
        assert profile(policy).entries[0].action == proctor.actions.NOTIFY

    :param base: what holds where no rule of the policy does.  Of its architectures those stay that the
        policy is for; runtimes kill threads of others.
    :raises PolicyError: it would notify a call that the runtime itself has to make first; it is an
        allow-list, and there is a base.
    """
    own = policy.filter()
    default, arches = own.default, own.arches
    flags: tuple[str, ...] = ()
    beside: tuple[Rule, ...] = ()
    if base is not None:
        if not policy.settings.default.runs:
            raise PolicyError(
                f"{policy.name}: it says itself what is allowed (default), so a base would have no say"
            )
        default, flags, beside = base.default, base.flags, base.filter().rules
        arches = tuple(arch for arch in base.arches if arch in own.arches)
    made: dict[tuple[tuple[Action, Any], ...], list[str]] = {}
    for call in policy.calls:
        rules = _rules(call, own, beside, default, arches)
        if any(action == NOTIFY for action, _ in rules) and call in _HAND_OVER:
            raise PolicyError(
                f"{policy.name}: {call} cannot be notified for a container runtime, which makes it itself "
                "to hand the listener over, and would wait for its own answer"
            )
        if rules:
            made.setdefault(rules, []).append(call)
    entries = [
        Rule(tuple(calls), action, conditions)
        for rules, calls in made.items()
        for action, conditions in rules
    ]
    for entry in base.entries if base is not None else ():
        if names := tuple(name for name in entry.names if name not in policy.calls):
            entries.append(entry._replace(names=names))
    return Profile(
        entries,
        default,
        architectures=[ARCH_WORDS[arch] for arch in arches],
        flags=flags,
        native=arches[0],
    )


def _rules(
    call: str, own: Filter, base: tuple[Rule, ...], default: Action, arches: tuple[str, ...]
) -> tuple[tuple[Action, Any], ...]:
    """(action, conditions) for one call, which mean without an order what they mean with one."""
    have = tuple(arch for arch in arches if multiplex.callable_on(call, arch))
    beside = [(rule.action, rule.conditions) for rule in base if call in rule.names]
    said = [[*_said(call, own, arch), *beside] for arch in have]
    if not any(said):
        return ()
    rules = said[0]
    if any(each != rules for each in said):
        return ((NOTIFY, ()),)
    kept = _writable(call, rules, default, have)
    if kept is None and not beside:
        kept = _writable(call, _widened(call, rules, default, have), default, have)
    return ((NOTIFY, ()),) if kept is None else kept


def _writable(
    call: str, rules: Iterable[tuple[Action, Any]], default: Action, arches: tuple[str, ...]
) -> tuple[tuple[Action, Any], ...] | None:
    """The rules as such a file has them; None if it cannot have them."""
    try:
        made = [Rule((call,), action, conditions) for action, conditions in rules]
        kept = exchange.unordered(Filter(made, default, arches, strict=False), "a profile")
        for rule in kept:
            exchange.no_repeated_argument(rule, "a profile")
    except FilterError:
        return None
    return tuple((rule.action, rule.conditions) for rule in kept)


def _widened(
    call: str, rules: Iterable[tuple[Action, Any]], default: Action, arches: tuple[str, ...]
) -> list[tuple[Action, Any]]:
    """Notify wherever one of the rules decides, by those of its conditions that can be written."""
    wide: list[dict[Any, Any]] = []
    for action, conditions in rules:
        if action == default:
            continue
        some: dict[Any, Any] = {}
        for each in conditions:
            if _writable(call, [(NOTIFY, (each,))], default, arches) is not None:
                some.setdefault(each.arg, each)
        wide.append(some)
    least = [
        one
        for at, one in enumerate(wide)
        if not any(
            other.items() <= one.items() and (other != one or before < at)
            for before, other in enumerate(wide)
        )
    ]
    return [(NOTIFY, tuple(some.values())) for some in least]


def _said(call: str, own: Filter, arch: str) -> Iterator[tuple[Action, Any]]:
    for rule in own.rules:
        if call in rule.names and (not rule.arches or arch in rule.arches):
            yield rule.action, rule.conditions


def write(
    made: Profile,
    form: str,
    *,
    name: str,
    listener: str = "",
    metadata: str = "",
    killable: bool = False,
) -> str:
    """A profile as the text of a file.

    :param form: ``oci``, ``lxc``, ``spo``, ``nri`` or ``oci-artifact``; or ``podman`` and ``docker``, which nerdctl and CRI-O take too.
    :param name: of the object, where the format has one.
    :param listener: the socket that the listener is sent to.
    :param killable: WAIT_KILLABLE_RECV (Linux 5.19; runc 1.5, crun 1.6).
    :raises FilterError: the format cannot say that.
    """
    notifies = [name for entry in made.entries if entry.action == NOTIFY for name in entry.names]
    if form == "lxc":
        if killable or metadata or listener:
            raise FilterError(
                "LXC has no place for these in a profile: lxc.seccomp.notify.proxy names the socket, "
                "lxc.seccomp.notify.cookie is the metadata, and WAIT_KILLABLE_RECV it does not take"
            )
        return lxc.dump(made.filter())
    if form == "oci-artifact" and notifies:
        raise FilterError(
            "a profile in an OCI artifact may not notify (KEP-6061: runtimes refuse NOTIFY and "
            "listenerPath in it); use localhostProfile, or NRI"
        )
    if notifies and not listener:
        raise FilterError(
            f"the profile notifies {_listed(notifies)}: say with --listener where the runtime finds "
            "the agent"
        )
    data = oci.dump(made)
    syscalls = data.pop("syscalls")
    if notifies:
        if killable:
            data["flags"] = [*data.get("flags", ()), "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
        data["listenerPath"] = listener
        if metadata:
            data["listenerMetadata"] = metadata
    data["syscalls"] = syscalls
    if form == "spo":
        data = _spo(data, name)
    elif form == "nri":
        data = _nri(data)
    return json.dumps(data, indent=2) + "\n"


def _listed(names: list[str | int]) -> str:
    once = list(dict.fromkeys(map(str, names)))
    return ", ".join(once[:4]) + (f" and {len(once) - 4} more" if len(once) > 4 else "")


def _spo(data: dict[str, Any], name: str) -> dict[str, Any]:
    path = data.get("listenerPath", "")
    if path and not _SPO_PATHS.fullmatch(path):
        raise FilterError(
            "security-profiles-operator takes listener sockets in /var/run/security-profiles-operator/ only "
            f"(letters, digits, _ . -), not {path}"
        )
    return {
        "apiVersion": "security-profiles-operator.x-k8s.io/v1",
        "kind": "SeccompProfile",
        "metadata": {"name": name},
        "spec": data,
    }


def _nri(data: dict[str, Any]) -> dict[str, Any]:
    """LinuxSeccomp of NRI's api.proto."""
    out: dict[str, Any] = {"default_action": data["defaultAction"]}
    if "defaultErrnoRet" in data:
        out["default_errno"] = {"value": data["defaultErrnoRet"]}
    for theirs, ours in (
        ("architectures", "architectures"), ("flags", "flags"),
        ("listener_path", "listenerPath"), ("listener_metadata", "listenerMetadata"),
    ):  # fmt: skip
        if data.get(ours):
            out[theirs] = data[ours]
    out["syscalls"] = [_nri_call(call) for call in data["syscalls"]]
    return out


def _nri_call(call: dict[str, Any]) -> dict[str, Any]:
    out = {"names": call["names"], "action": call["action"]}
    if "errnoRet" in call:
        out["errno_ret"] = {"value": call["errnoRet"]}
    if "args" in call:
        out["args"] = [
            {"value_two" if key == "valueTwo" else key: value for key, value in arg.items()}
            for arg in call["args"]
        ]
    return out
